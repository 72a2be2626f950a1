"""Samples of a run: a plan, resolved once, then drawn in batches, in memory or into a file.

The same plan gives the same bytes, in one batch or several, by one process or several.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from functools import cache
from pathlib import Path
from typing import Any

import attrs
import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file as load_tensors
from torch import Tensor

from bfn_toolkit.data.conditions import SizeSpec, seen_in
from bfn_toolkit.data.dataset import Batch
from bfn_toolkit.errors import ConfigError, DataError
from bfn_toolkit.families import Family
from bfn_toolkit.guidance.classifier_free import Guided
from bfn_toolkit.model import Condition
from bfn_toolkit.parallel import processes
from bfn_toolkit.parallel.chunks import deal_chunks
from bfn_toolkit.parallel.signals import Interrupted
from bfn_toolkit.randomness import draw_key, seeded
from bfn_toolkit.registry.registry import default_registry
from bfn_toolkit.runs.conditions import check_conditions, unread
from bfn_toolkit.runs.directory import SAMPLES
from bfn_toolkit.runs.provenance import environment
from bfn_toolkit.runs.run import Run
from bfn_toolkit.runs.sample_files import sample_file
from bfn_toolkit.sampling.chunks import MAX_ROWS, chunk_rows
from bfn_toolkit.sampling.default import default_reason, default_sampler
from bfn_toolkit.sampling.draws import Draws
from bfn_toolkit.sampling.inpainting import Observed
from bfn_toolkit.sampling.masked import mask_of_sizes
from bfn_toolkit.sampling.sampler import OnStep, Sampler, SamplerStep
from bfn_toolkit.sampling.trajectory import ROWS, Trajectory
from bfn_toolkit.shapes import Data, Mask, batch_size, named_parts

STEPS = 100  # default number of messages, unless the family has a fixed number
BATCH_NUMBERS = 2**22  # largest batch in numbers, unless one chunk has more
BATCH_CHUNKS = 16  # largest batch in chunks: a kill loses one batch
CHECKED_ROWS = 2**14  # rows of known values that are checked together


@attrs.frozen
class SamplePlan:
    """Number of samples, and settings for drawing them.

    Arguments:
        n: Number of samples.
        steps: Number of messages.
        sampler: Name of the sampler; None for the choice of :func:`~bfn_toolkit.default_sampler`.
        seed: Seed of the draws.
        condition: Values of conditions by name, one for all samples; None means without the condition.
        guidance: Weight of :class:`~bfn_toolkit.Guided`.
        known: File of known values (:func:`read_known`).
        size: Number of sites of each sample, for data whose rows have sizes; None for those of the training rows.
    """

    n: int = 1000
    steps: int = STEPS
    sampler: str | None = None
    seed: int = 0
    condition: Mapping[str, float | None] = attrs.field(factory=dict)
    guidance: float = 0.0
    known: Path | None = None
    size: int | None = None

    def choose(self, family: Family[Any]) -> tuple[str, Sampler[Any]]:
        """Name of the sampler for a family, and the sampler."""
        registry = default_registry()
        if self.sampler is not None:
            return self.sampler, registry.get("sampler", self.sampler).entry.build()
        sampler = default_sampler(family, self.steps)
        return registry.name_of("sampler", type(sampler)), sampler

    def reason(self, family: Family[Any]) -> str:
        """Reason for the sampler, as words that follow its name."""
        return "because it was requested" if self.sampler is not None else default_reason(family, self.steps)


@attrs.frozen(eq=False)
class ResolvedPlan:
    """A plan for one run: names looked up, files read, everything checked, once for all batches.

    Arguments:
        run: The run.
        plan: The plan.
        sampler: Name of the sampler.
        draws: The samples, of which any rows can be drawn.
    """

    run: Run
    plan: SamplePlan
    sampler: str
    draws: Draws

    @classmethod
    def of(cls, run: Run, plan: SamplePlan) -> ResolvedPlan:
        """Resolves a plan.

        Raises:
            ConfigError: If the data set lacks a condition of the plan or its value, the network does not read it, or
                known values have the wrong form.
            DataError: If a known value is outside the family's domain, or data that are needed cannot be read.
        """
        family, device = run.model.family, next(run.model.parameters()).device
        name, sampler = plan.choose(family)
        rows = run.split("train") if run.seen is None else None  # of a run in memory, nothing is recorded
        conditions, mask = _conditions(run, plan, rows), _masks(run, plan, rows)
        known = None if plan.known is None else KnownValues.of(family, read_known(plan.known), plan.n)
        with seeded(plan.seed, "samples", device=device):
            key = (draw_key(),)
        model = Guided(run.model, plan.guidance) if plan.guidance else run.model
        return cls(run, plan, name, Draws(model, plan.n, plan.steps, sampler, key, conditions, known, mask))

    def mask(self, rows: range) -> Mask | None:
        """True where the samples with these numbers have data; None if nothing is missing."""
        return self.draws.mask(torch.arange(rows.start, rows.stop))

    def draw(self, rows: range | None = None, on_step: OnStep | None = None) -> Data:
        """Draws samples, with shape (rows, *site); processes of a job share the work, and all return the result.

        Arguments:
            rows: Consecutive numbers of samples; by default all.
            on_step: Called with each evaluation of the network.
        Raises:
            Interrupted: If a signal asked to stop.
        """

        def checked(step: SamplerStep) -> object:
            processes.check_signals()
            return on_step and on_step(step)

        return self.draws.draw(range(self.plan.n) if rows is None else rows, deal=deal_chunks, on_step=checked)


def _conditions(run: Run, plan: SamplePlan, rows: Batch | None) -> Callable[[Tensor], Condition | None]:
    """Conditions of samples by number: those of the plan, and for all others those of random training rows."""
    network, device = run.experiment.network, next(run.model.parameters()).device
    specs = seen_in(rows.condition) if rows is not None else run.seen or {}
    read = {name: spec for name, spec in specs.items() if not unread(network, [name])}
    check_conditions(network, plan.condition or (specs if plan.guidance and not read else ()), specs)
    stated = {name: read[name].constant(name, value, 1) for name, value in plan.condition.items() if value is not None}
    left = [name for name in read if name not in plan.condition]

    @cache  # read when rows are drawn: figures of the flows do not need the data
    def training_values() -> Mapping[str, Tensor]:
        return _of_training_rows(run, left)

    def conditions(index: Tensor) -> Condition | None:
        values = {name: value.expand(len(index)) for name, value in stated.items()}
        if left:
            rows = len(training_values()[left[0]])
            chosen = _in_groups(plan.seed, "conditions", index, lambda n: torch.randint(rows, (n,)))
            values |= {name: value[chosen] for name, value in training_values().items()}
        run.model.check_condition(values, len(index))
        return {name: value.to(device) for name, value in values.items()} or None

    return conditions


def _masks(run: Run, plan: SamplePlan, rows: Batch | None) -> Callable[[Tensor], Mask | None]:
    """Masks of samples by number: of the size of the plan, else of sizes drawn as often as in the training rows."""
    family = run.model.family
    if plan.size is not None:
        size = torch.tensor([plan.size])
        mask_of_sizes(family, size)
        return lambda index: mask_of_sizes(family, size.expand(len(index)))
    sizes = SizeSpec.of(rows.mask) if rows is not None else run.sizes
    if sizes is None:
        return lambda index: None
    return lambda index: mask_of_sizes(family, _in_groups(plan.seed, "sizes", index, sizes.draw))


def _of_training_rows(run: Run, names: list[str]) -> dict[str, Tensor]:
    """Conditions of all training rows."""
    try:
        condition = run.split("train").condition
    except DataError as error:
        options = " ".join(f"--condition {name}=none" for name in names)
        raise DataError(f"conditions without a value are drawn from the data; add: {options}. {error}") from error
    return {name: condition[name] for name in names}


def _in_groups(seed: int, what: str, index: Tensor, draw: Callable[[int], Tensor]) -> Tensor:
    """Draws for samples with these increasing numbers, made for each group of MAX_ROWS numbers under its own key."""
    drawn = []
    for group in range(int(index[0]) // MAX_ROWS, int(index[-1]) // MAX_ROWS + 1):
        with seeded(seed, what, group):
            drawn.append(draw(MAX_ROWS))
    return torch.cat(drawn)[index - int(index[0]) // MAX_ROWS * MAX_ROWS]


@attrs.frozen(eq=False)
class KnownValues:
    """Known values in a file; rows are read when they are needed.

    Arguments:
        parts: Values by part (under "" for data without parts), each with shape (n, *site), or (1, *site) for all
            samples.
    """

    parts: Mapping[str, Tensor]

    @classmethod
    def of(cls, family: Family[Any], parts: Mapping[str, Tensor], n: int) -> KnownValues:
        """Checks names, shapes and values, some rows at a time.

        Raises:
            ConfigError: If the values have the wrong form or number of rows.
            DataError: If one is outside the family's domain.
        """
        sites = {name: part.network_io.site_shape for name, part in family.parts.items()}
        rows = {name: v.unsqueeze(0) if tuple(v.shape) == sites.get(name) else v for name, v in parts.items()}
        longest = max((len(values) for values in rows.values() if values.ndim), default=1)
        known = cls(rows)
        if longest not in (1, n):
            raise ConfigError(f"the file of known values has {longest} rows, expected {n}, one for each sample, or one")
        for start in range(0, longest, CHECKED_ROWS):
            index = torch.arange(start, min(start + CHECKED_ROWS, longest))
            pairs = {name: _with_mask(part) for name, part in known.taken(index).items()}
            Observed.of(family, pairs.get("", pairs), len(index))
        return known

    def taken(self, index: Tensor) -> dict[str, Tensor]:
        """Values of the samples with these numbers, among them the marks for unknown values."""
        return {
            name: part.expand(len(index), *part.shape[1:]) if len(part) == 1 else part[index]
            for name, part in self.parts.items()
        }

    def rows(self, index: Tensor) -> Observed:
        """Values of the samples with these numbers, on the device of the numbers."""
        pairs = {name: _with_mask(part.to(index.device)) for name, part in self.taken(index.cpu()).items()}
        values = {name: torch.where(mask, part, 0) for name, (part, mask) in pairs.items()}
        masks = {name: mask for name, (_, mask) in pairs.items()}
        return Observed(values.get("", values), masks.get("", masks))


def read_known(path: Path) -> dict[str, Tensor]:
    """Known values: an array (.npy), or tensors named by part (.safetensors), mapped into memory.

    NaN marks an unknown number, a negative value an unknown class.

    Raises:
        ConfigError: If it is not such a file.
    """
    try:
        if path.suffix == ".npy":
            return {"": torch.from_numpy(np.load(path, mmap_mode="c", allow_pickle=False))}
        if path.suffix == ".safetensors":
            parts = load_tensors(path)
            return {"": parts["samples"]} if "samples" in parts else parts  # as samples without parts are written
    except (OSError, ValueError, TypeError, SafetensorError) as error:
        raise ConfigError(f"cannot read known values from {path}: {error}") from error
    raise ConfigError(f"known values are read from .npy or .safetensors, found '{path.name}'")


def _with_mask(values: Tensor) -> tuple[Tensor, Tensor]:
    if values.is_floating_point():
        return values, ~values.isnan()
    return values.long(), values >= 0


def draw_trajectory(plan: ResolvedPlan) -> Trajectory:
    """Beliefs and outputs on the way to the first samples of a plan, and those samples.

    Raises:
        ConfigError: If several processes share the samples.
    """
    if processes.world_size() > 1:
        raise ConfigError("a trajectory is drawn by one process; start the command without torchrun")
    trajectory = Trajectory(plan.run.model.family, min(plan.plan.n, ROWS))
    samples = plan.draw(range(trajectory.rows), trajectory)
    for name, part in named_parts(samples):
        trajectory.arrays[f"{name}.samples" if name else "samples"] = part.cpu()
    return trajectory


def batch_rows(run: Run) -> int:
    """Number of samples to draw and write together: full chunks, limited by memory and by the loss after a kill."""
    numbers = run.model.family.network_io.flat().in_numbers
    chunk = chunk_rows(numbers, next(run.model.parameters()).device)
    return chunk * processes.world_size() * max(1, min(BATCH_CHUNKS, BATCH_NUMBERS // (chunk * numbers)))


def stream_samples(
    plan: ResolvedPlan,
    path: Path,
    *,
    batch: int | None = None,
    say: Callable[[str], None] = lambda line: None,
    show: Callable[[int], object] = lambda rows: None,
) -> None:
    """Draws the samples of a plan into a file, in memory that does not grow with their number.

    The bytes are those of :func:`write_samples`, whatever the batch.  If the process ends early, the same call
    continues after the last batch that it wrote.

    Arguments:
        plan: The samples.
        path: The file.
        batch: Number of samples in a batch; by default :func:`batch_rows`.
        say: Called with a line about an unfinished file.
        show: Called with the number of samples written so far.
    Raises:
        ConfigError: If the ending of the name is not in :data:`~bfn_toolkit.runs.sample_files.FORMATS`, or its format
            cannot hold such samples.
        ResourceError: If the file cannot be written, or will not fit on the disk.
    """
    n, device = plan.plan.n, next(plan.run.model.parameters()).device
    batch = batch or batch_rows(plan.run)
    facts = _facts(plan)
    with sample_file(path, n, facts) if processes.is_main_process() else nullcontext() as file:
        done = processes.all_reduce_max(file.rows if file is not None else 0, device)
        if file is not None and file.other:
            say(f"{path}: replacing an unfinished file of other samples")
        if done:
            say(f"{path}: continuing after {done:,} of {n:,} samples")
        show(done)
        try:
            while done < n:
                rows = range(done, min(done + batch, n))
                samples = plan.draw(rows)
                if file is not None:
                    file.append(samples)
                done = rows.stop
                show(done)
        except Interrupted as stop:
            kept = f"{done:,} of {n:,} samples are kept; the same command continues" if done else ""
            raise Interrupted(stop.number, kept) from None


def _facts(plan: ResolvedPlan) -> dict[str, Any]:
    """Everything that determines the samples."""
    run, known = plan.run, plan.plan.known
    weights = hashlib.sha256()
    for name, tensor in run.model.state_dict().items():
        weights.update(f"{name}{tuple(tensor.shape)}{tensor.dtype}".encode())
        weights.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    machine = environment(next(run.model.parameters()).device)
    del machine["processes"]  # their number does not change the samples
    return {
        "plan": repr(plan.plan),
        "sampler": repr(plan.draws.sampler),
        "weights": weights.hexdigest(),
        "dataset": repr(run.experiment.dataset),  # conditions are drawn from its rows
        "family": repr(run.experiment.family),
        "network": repr(run.experiment.network),  # two with the same weights may differ, for example in a bandwidth
        "known": None if known is None else _digest(known),
        "environment": machine,
    }


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def samples_name(run: Run) -> str:
    """Name of the file of a run's samples: an array, or tensors by name where the data have parts."""
    return SAMPLES if not run.model.family.has_parts else f"{Path(SAMPLES).stem}.safetensors"


def write_samples(path: Path, samples: Data) -> None:
    """Writes samples: an array (.npy), tensors by name (.safetensors) or, if they are flat, a table (.csv).

    The tensor of samples without parts is named "samples".

    Raises:
        ConfigError: If the ending is not one of these, or its format cannot hold such samples.
        ResourceError: If the file cannot be written.
    """
    with sample_file(path, batch_size(samples)) as file:
        file.append(samples)
