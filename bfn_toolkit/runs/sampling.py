"""Plans of samples: how many, by which sampler, and under which conditions and known values."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import attrs
import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file as load_tensors
from torch import Tensor

from bfn_toolkit.data.conditions import seen_in
from bfn_toolkit.errors import ConfigError, DataError
from bfn_toolkit.families import Family
from bfn_toolkit.guidance.classifier_free import Guided
from bfn_toolkit.parallel import processes
from bfn_toolkit.parallel.signals import Interrupted
from bfn_toolkit.randomness import seeded
from bfn_toolkit.registry.registry import default_registry
from bfn_toolkit.runs.conditions import check_conditions, unread
from bfn_toolkit.runs.directory import SAMPLES
from bfn_toolkit.runs.provenance import environment
from bfn_toolkit.runs.run import Run
from bfn_toolkit.runs.sample_files import sample_file
from bfn_toolkit.sampling.chunks import MAX_ROWS, chunk_rows
from bfn_toolkit.sampling.default import default_sampler
from bfn_toolkit.sampling.inpainting import Given, Observed
from bfn_toolkit.sampling.sampler import OnStep, Sampler
from bfn_toolkit.sampling.trajectory import ROWS, Trajectory
from bfn_toolkit.shapes import Data, batch_size, named_parts

STEPS = 100  # of a sample, unless the family is tied to a number


@attrs.frozen
class SamplePlan:
    """How many samples to draw, and how.

    Arguments:
        n: Number of samples.
        steps: Number of messages.
        sampler: Name of the sampler; None for what :func:`~bfn_toolkit.default_sampler` chooses.
        seed: Of the draws.
        condition: Values of conditions by name, one for all samples; None for going without the condition.
        guidance: Weight of :class:`~bfn_toolkit.Guided`.
        known: File of known values (:func:`read_known`).
    """

    n: int = 1000
    steps: int = STEPS
    sampler: str | None = None
    seed: int = 0
    condition: Mapping[str, float | None] = attrs.field(factory=dict)
    guidance: float = 0.0
    known: Path | None = None

    def choose(self, family: Family[Any]) -> tuple[str, Sampler[Any], str]:
        """Name of the sampler for a family, the sampler, and why it is this one."""
        registry = default_registry()
        if self.sampler is not None:
            return self.sampler, registry.get("sampler", self.sampler).entry.build(), "because it was asked for"
        sampler, reason = default_sampler(family, self.steps)
        return registry.name_of("sampler", type(sampler)), sampler, reason


def conditions_of(run: Run, plan: SamplePlan, rows: range) -> dict[str, Tensor]:
    """Conditions that the plan states, and of training rows those that it leaves open, block by block."""
    network = run.experiment.network
    seen = seen_in(run.split("train").condition) if run.seen is None else run.seen
    heard = {name: facts for name, facts in seen.items() if not unread(network, [name])}
    check_conditions(network, plan.condition or (seen if plan.guidance and not heard else ()), seen)
    left = [name for name in heard if name not in plan.condition]
    conditions = {}
    if left:
        try:
            told = run.split("train").condition
        except DataError as error:
            options = " ".join(f"--condition {name}=none" for name in left)
            raise DataError(f"conditions without a value are drawn from the data; add: {options}. {error}") from error
        index = _training_rows(len(told[left[0]]), plan.seed, rows)
        conditions = {name: told[name][index] for name in left}
    for name, value in plan.condition.items():
        if value is not None:
            conditions[name] = heard[name].constant(name, value, len(rows))
    return conditions


def _training_rows(n: int, seed: int, rows: range) -> Tensor:
    """Numbers of training rows, drawn in blocks of their own, so that a batch has what all of the samples have."""
    drawn = []
    for block in range(rows.start // MAX_ROWS, (rows.stop - 1) // MAX_ROWS + 1):
        with seeded(seed, "conditions", block):
            drawn.append(torch.randint(n, (MAX_ROWS,)))
    return torch.cat(drawn)[rows.start % MAX_ROWS :][: len(rows)]


def read_known(path: Path) -> Given:
    """Known values from an array (.npy), or from tensors by the names of the parts (.safetensors).

    A number is unknown where it is NaN, a class where it is negative.

    Raises:
        ConfigError: If it is no such file.
    """
    try:
        if path.suffix == ".npy":
            return _with_mask(torch.from_numpy(np.load(path, allow_pickle=False)))
        if path.suffix == ".safetensors":
            parts = {name: _with_mask(part) for name, part in load_tensors(path).items()}
            return parts.get("samples", parts)  # as samples without parts are written
    except (OSError, ValueError, TypeError, SafetensorError) as error:
        raise ConfigError(f"cannot read known values from {path}: {error}") from error
    raise ConfigError(f"known values are read from .npy or .safetensors, found '{path.name}'")


def _with_mask(values: Tensor) -> tuple[Tensor, Tensor]:
    if values.is_floating_point():
        return values, ~values.isnan()
    return values.long(), values >= 0


BATCH_NUMBERS = 2**22  # in a batch of samples, at most, unless one block has more
BATCH_BLOCKS = 16  # of a batch, at most: what a kill may cost


def draw_samples(run: Run, plan: SamplePlan, rows: range | None = None, on_step: OnStep | None = None) -> Data:
    """Draws samples of a run's model, with shape (n, *site); the same plan gives the same bytes.

    Where the data set has conditions, those that the plan leaves open are drawn from its training rows.

    Arguments:
        run: The run.
        plan: The samples.
        rows: Which of them, one after the other; by default all.
        on_step: Called with each evaluation of the network.
    Raises:
        ConfigError: If the data set does not have a condition of the plan, or no such value of it, or the network does
            not read it.
    """
    rows = range(plan.n) if rows is None else rows
    device = next(run.model.parameters()).device
    given: dict[str, Any] = {name: value.to(device) for name, value in conditions_of(run, plan, rows).items()}
    _, sampler, _ = plan.choose(run.model.family)
    model = Guided(run.model, plan.guidance) if plan.guidance else run.model
    known = None
    if plan.known is not None:
        whole = Observed.of(run.model.family, read_known(plan.known), plan.n)
        known = whole.rows(torch.arange(rows.start, rows.stop))
    with seeded(plan.seed, "samples", device=device):
        return model.sample(
            len(rows), n_steps=plan.steps, sampler=sampler, first=rows.start, on_step=on_step, known=known, **given
        )


def draw_trajectory(run: Run, plan: SamplePlan) -> Trajectory:
    """What the sampler believes and expects on the way to the first samples of a plan, and those samples.

    Raises:
        ConfigError: If several processes share the samples.
    """
    if processes.world_size() > 1:
        raise ConfigError("a trajectory is drawn by one process; start the command without torchrun")
    trajectory = Trajectory(run.model.family, min(plan.n, ROWS))
    samples = draw_samples(run, plan, range(trajectory.rows), trajectory)
    for name, part in named_parts(samples):
        trajectory.arrays[f"{name}.samples" if name else "samples"] = part.cpu()
    return trajectory


def batch_rows(run: Run) -> int:
    """Samples to draw and write at once: whole blocks, as many as memory takes, and no more than one would lose."""
    numbers = math.prod(run.model.family.network_io.site_shape)
    block = chunk_rows(numbers)
    return block * processes.world_size() * max(1, min(BATCH_BLOCKS, BATCH_NUMBERS // (block * numbers)))


def stream_samples(
    run: Run,
    plan: SamplePlan,
    path: Path,
    *,
    batch: int | None = None,
    say: Callable[[str], None] = lambda line: None,
    show: Callable[[int], object] = lambda rows: None,
) -> None:
    """Draws the samples of a plan into a file, in memory that does not grow with their number.

    The bytes are those of :func:`write_samples`, whatever the batch.  If the process ends before, the same call goes on
    after the last batch that it wrote.

    Arguments:
        run: The run.
        plan: The samples.
        path: The file.
        batch: Samples of a batch; by default :func:`batch_rows`.
        say: Called with a line on what was found of the file.
        show: Called with the number of samples that are written.
    Raises:
        ConfigError: If the ending of the name is none of those in :data:`~bfn_toolkit.runs.sample_files.FORMATS`, or
            not for such samples.
        ResourceError: If the file cannot be written, or will not fit on the disk.
    """
    batch = batch or batch_rows(run)
    facts = _facts(run, plan)
    with sample_file(path, plan.n, facts) if processes.is_main_process() else nullcontext() as file:
        done = processes.all_reduce_max(file.rows if file is not None else 0, next(run.model.parameters()).device)
        if file is not None and file.other:
            say(f"{path}: what was left of other samples is replaced")
        if done:
            say(f"{path}: going on after {done:,} of {plan.n:,} samples")
        show(done)
        try:
            while done < plan.n:
                rows = range(done, min(done + batch, plan.n))
                samples = draw_samples(run, plan, rows)
                if file is not None:
                    file.append(samples)
                done = rows.stop
                show(done)
        except Interrupted as stop:
            kept = f"{done:,} of {plan.n:,} samples are kept; the same command goes on" if done else ""
            raise Interrupted(stop.number, kept) from None


def _facts(run: Run, plan: SamplePlan) -> dict[str, Any]:
    """All that samples are a function of."""
    weights = hashlib.sha256()
    for name, tensor in run.model.state_dict().items():
        weights.update(f"{name}{tuple(tensor.shape)}{tensor.dtype}".encode())
        weights.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    _, sampler, _ = plan.choose(run.model.family)
    machine = environment(next(run.model.parameters()).device)
    del machine["processes"]  # however many, they draw the same
    return {
        "plan": repr(plan),
        "sampler": repr(sampler),
        "weights": weights.hexdigest(),
        "dataset": repr(run.experiment.dataset),  # from whose rows conditions are drawn
        "family": repr(run.experiment.family),
        "network": repr(run.experiment.network),  # two with the same weights may differ, such as in a bandwidth
        "known": hashlib.sha256(plan.known.read_bytes()).hexdigest() if plan.known and plan.known.is_file() else None,
        "environment": machine,
    }


def samples_name(run: Run) -> str:
    """Name of the file of a run's samples: an array, or tensors by name where the data have parts."""
    return SAMPLES if "" in run.model.family.parts else f"{Path(SAMPLES).stem}.safetensors"


def write_samples(path: Path, samples: Data) -> None:
    """Writes samples: an array (.npy), tensors by name (.safetensors) or, if they are flat, a table (.csv).

    The tensor of samples that have no parts is named "samples".

    Raises:
        ConfigError: If the ending is none of these, or is not for samples such as these.
        ResourceError: If the file cannot be written.
    """
    with sample_file(path, batch_size(samples)) as file:
        file.append(samples)
