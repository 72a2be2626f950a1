"""Samples of a run: a plan, resolved once, then drawn in batches, in memory or into a file.

The same plan gives the same bytes, in one batch or several, by one process or several.
"""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext, suppress
from functools import cache
from pathlib import Path
from typing import Any, BinaryIO

import attrs
import torch
from torch import Tensor

from bfn_toolkit.bfn import BFN
from bfn_toolkit.data.codec import Codec, comparison, raw_rows, raw_size
from bfn_toolkit.data.conditions import SizeSpec, seen_in
from bfn_toolkit.data.dataset import Batch
from bfn_toolkit.data.formats import Raw, readable
from bfn_toolkit.errors import BFNWarning, ConfigError, DataError
from bfn_toolkit.evaluation.likelihood import Estimate
from bfn_toolkit.families import Family
from bfn_toolkit.guidance.classifier_free import Guided
from bfn_toolkit.guidance.regions import CellConditions, RegionSampler
from bfn_toolkit.model import Condition, Model, dtype_of_beliefs
from bfn_toolkit.parallel import processes
from bfn_toolkit.parallel.chunks import deal_chunks
from bfn_toolkit.parallel.signals import Interrupted
from bfn_toolkit.randomness import draw_key, seeded
from bfn_toolkit.registry.registry import default_registry
from bfn_toolkit.runs.conditions import check_conditions, unread
from bfn_toolkit.runs.directory import SAMPLES
from bfn_toolkit.runs.provenance import environment
from bfn_toolkit.runs.run import Run
from bfn_toolkit.runs.sample_files import SampleFile, SampleStream, sample_file
from bfn_toolkit.sampling.chunks import MAX_ROWS, chunk_rows, row_numbers
from bfn_toolkit.sampling.default import STEPS, default_reason, default_sampler
from bfn_toolkit.sampling.draws import Draws
from bfn_toolkit.sampling.inpainting import InpaintedModel, Observed
from bfn_toolkit.sampling.masked import mask_of_sizes
from bfn_toolkit.sampling.sampler import OnStep, Sampler, SamplerStep
from bfn_toolkit.sampling.trajectory import ROWS, Trajectory
from bfn_toolkit.shapes import Data, Mask, map_data, named_parts
from bfn_toolkit.untrusted import open_regular

N = 1000  # default number of samples
MOST_ROWS = 10_000  # largest number of samples of a table that a report judges
BATCH_NUMBERS = 2**22  # largest batch in numbers, unless one chunk has more
BATCH_CHUNKS = 16  # largest batch in chunks: a kill loses one batch
CHECKED_ROWS = 2**14  # rows of known values that are checked together
PROBED = 64  # samples in the estimate of the probability of conditions


@attrs.frozen
class SamplePlan:
    """Number of samples, and settings for drawing them.

    Arguments:
        n: Number of samples.
        steps: Number of messages.
        sampler: Name of the sampler; None for the choice of :func:`~bfn_toolkit.default_sampler`.
        seed: Seed of the draws.
        condition: Values of conditions by name, one for all samples: a number, the name of a class, or None for samples
            without the condition.
        guidance: Weight of :class:`~bfn_toolkit.Guided`.
        where: Conditions on the columns of a table, such as "species=Adelie" and "body_mass_g>4000".
        known: File of known values in the user's units and names, of a format that the codec reads; gaps are unknown.
            Sample i has the values of row i, and the rows repeat as often as needed.
        size: Number of sites of each sample, for data whose rows have sizes; None for those of the training rows.
    """

    n: int = N
    steps: int = STEPS
    sampler: str | None = None
    seed: int = 0
    condition: Mapping[str, float | str | Sequence[Any] | None] = attrs.field(factory=dict)
    guidance: float = 0.0
    where: Sequence[str] = ()
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
        known: The values of the file of known values, or None.
        cells: The conditions on columns.
    """

    run: Run
    plan: SamplePlan
    sampler: str
    draws: Draws
    known: KnownValues | None = None
    cells: CellConditions = attrs.field(factory=CellConditions)

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
        known = None if plan.known is None else KnownValues.of(run.model, read_known(plan.known, run.codec), plan.n)
        cells = CellConditions.of(run.codec, plan.where)
        if known is not None:
            known.check(cells)
        observed = known
        if cells.known:
            rows_of_cells = KnownValues(cells.raw(run.codec), run.codec, family)
            observed = rows_of_cells if known is None else attrs.evolve(known, also=rows_of_cells)
        if cells.regions:
            sampler = RegionSampler(cells.regions, sampler=sampler)
        conditions, mask = _conditions(run, plan, rows), _masks(run, plan, rows, known)
        with seeded(plan.seed, "samples", device=device):
            key = (draw_key(),)
        model: Model = Guided(run.model, plan.guidance) if plan.guidance else run.model
        if plan.known is not None:
            model = run.codec.filling(model)
        draws = Draws(model, plan.n, plan.steps, sampler, key, conditions, observed, mask)
        return cls(run, plan, name, draws, known, cells)

    def with_steps(self, n_steps: int) -> ResolvedPlan:
        """The same samples in another number of steps, from the same noise, by the sampler that the plan has for it."""
        plan = attrs.evolve(self.plan, steps=n_steps)
        name, sampler = plan.choose(self.run.model.family)
        if self.cells.regions:
            sampler = RegionSampler(self.cells.regions, sampler=sampler)
        return attrs.evolve(
            self, plan=plan, sampler=name, draws=attrs.evolve(self.draws, n_steps=n_steps, sampler=sampler)
        )

    def probability(self) -> Estimate | None:
        """Probability of the conditions on columns under the model, given what else is known of the first samples.

        None without such conditions, and where a number is asked for that has no probability of its own.
        """
        asked = self.cells.asked
        if not asked:
            return None
        weight, index = next(self.run.model.parameters()), torch.arange(min(self.plan.n, PROBED))
        model, condition = self.draws.model, self.draws.condition(index)
        if self.draws.observed is not None:
            observed = self.draws.observed.rows(index.to(weight.device))
            observed.mask[:, [region.site for region in asked]] = False
            model = InpaintedModel(model, observed)
        dtype = dtype_of_beliefs(model) or torch.get_default_dtype()
        with seeded(self.plan.seed, "probability", device=weight.device):
            dtype = dtype_of_beliefs(model) or weight.dtype
            probed = RegionSampler(asked).draw(
                model, len(index), condition=condition, device=weight.device, dtype=dtype
            )
        return Estimate.of(probed[1].exp())

    def mask(self, rows: range) -> Mask | None:
        """True where the samples with these numbers have data; None if nothing is missing."""
        return self.draws.mask(torch.arange(rows.start, rows.stop))

    def raw(self, samples: Data, rows: range | None = None) -> Raw:
        """Samples with these numbers in the user's form, known numbers among them as they were given."""
        rows = range(self.plan.n) if rows is None else rows
        raw = self.run.codec.decode(samples, self.mask(rows))
        if self.cells.known:  # whose texts come back as they were given
            raw = {**raw, **{name: [text] * len(rows) for name, text in self.cells.known.items()}}
        if self.known is None:
            return raw
        return self.run.codec.with_known(raw, self.known.raw_rows(torch.arange(rows.start, rows.stop)))

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
    """Conditions of samples by number: those of the plan, and for all others those of random training rows.

    A saved model has no rows: it draws each condition by itself, as often as it was in the training.
    """
    network, device = run.experiment.network, next(run.model.parameters()).device
    specs = seen_in(rows.condition) if rows is not None else run.seen or {}
    read = {name: spec for name, spec in specs.items() if not unread(network, [name])}
    check_conditions(network, plan.condition or (specs if plan.guidance and not read else ()), specs)
    values = {name: _value(run, name, value) for name, value in plan.condition.items() if value is not None}
    stated = {name: read[name].constant(name, value, 1) for name, value in values.items()}
    left = [name for name in read if name not in plan.condition]

    @cache  # read when rows are drawn: figures of the flows do not need the data
    def training_values() -> Mapping[str, Tensor]:
        return _of_training_rows(run, left)

    def conditions(index: Tensor) -> Condition | None:
        values = {name: value.expand(len(index), *value.shape[1:]) for name, value in stated.items()}
        if left and run.experiment.dataset is None and all(read[name].counts for name in left):
            for name in left:
                values[name] = _in_groups(plan.seed, f"conditions.{name}", index, read[name].draw)
        elif left:
            rows = len(training_values()[left[0]])
            chosen = _in_groups(plan.seed, "conditions", index, lambda n: torch.randint(rows, (n,)))
            values |= {name: value[chosen] for name, value in training_values().items()}
        run.model.check_condition(values, len(index))
        return {name: value.to(device) for name, value in values.items()} or None

    return conditions


def _value(run: Run, name: str, value: float | str | Sequence[Any]) -> float | Sequence[Any]:
    """Value of a condition, whose class may have a name."""
    if not isinstance(value, str):
        return value
    if value not in run.codec.categories.get(name, ()):
        with suppress(ValueError):
            return float(value)
    return run.codec.condition(name, value)


def _masks(
    run: Run, plan: SamplePlan, rows: Batch | None, known: KnownValues | None
) -> Callable[[Tensor], Mask | None]:
    """Masks of samples by number: of the size of the plan, else of known rows, else as often as in the training."""
    family = run.model.family
    sizes = SizeSpec.of(rows.mask) if rows is not None else run.sizes
    stated = None if known is None or sizes is None else run.codec.row_sizes(known.raw)
    if plan.size is not None:
        size = torch.tensor([plan.size])
        mask_of_sizes(family, size)
        if stated is not None and bool((stated > plan.size).any()):
            row = int((stated > plan.size).long().argmax())
            raise ConfigError(f"known row {row + 1} has {int(stated[row])} sites, more than the size {plan.size}")
        return lambda index: mask_of_sizes(family, size.expand(len(index)))
    if sizes is None:
        return lambda index: None
    if stated is not None:
        mask_of_sizes(family, stated)
        return lambda index: mask_of_sizes(family, stated[index % len(stated)])
    return lambda index: mask_of_sizes(family, _in_groups(plan.seed, "sizes", index, sizes.draw))


def _of_training_rows(run: Run, names: list[str]) -> dict[str, Tensor]:
    """Conditions of all training rows."""
    try:
        condition = run.split_as_now("train").condition
        if changes := run.source_changes():
            words = "conditions without a value are drawn from data that have changed since the training"
            warnings.warn(f"{words}: {'; '.join(changes)}", BFNWarning, stacklevel=2)
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
    """Known values in a file; rows are read and encoded when they are needed.

    Arguments:
        raw: Values in the user's form, whose rows repeat as often as needed.
        codec: The codec that encodes them.
        family: The family of the data.
        also: Values for the gaps of these.
    """

    raw: Raw
    codec: Codec
    family: Family[Any]
    also: KnownValues | None = None

    @classmethod
    def of(cls, model: BFN, raw: Raw, n: int | None) -> KnownValues:
        """Checks names, shapes and values, some rows at a time; nothing for n = None.

        Raises:
            ConfigError: If the values have the wrong form or number of rows.
            DataError: If one cannot be encoded, or is outside the family's domain.
        """
        family = model.family
        sites = {name: part.network_io.site_shape for name, part in family.parts.items()}
        if isinstance(raw, Mapping):
            raw = {name: _with_rows(part, sites.get(name)) for name, part in raw.items()}
        else:
            raw = _with_rows(raw, sites.get(""))
        known = cls(raw, model.codec, family)
        if not known.size:
            raise ConfigError("the file of known values has no rows")
        if n is None:
            return known
        if n % known.size:
            raise ConfigError(
                f"the file of known values has {known.size} rows, expected {n} or a divisor of it; leave out -n, or "
                f"write a multiple of {known.size}"
            )
        for start in range(0, known.size, CHECKED_ROWS):
            index = torch.arange(start, min(start + CHECKED_ROWS, known.size))
            pairs = known._pairs(index)
            Observed.of(family, pairs.get("", pairs), len(index))
        return known

    @property
    def size(self) -> int:
        """Number of rows."""
        return max(map(raw_size, self.raw.values() if isinstance(self.raw, Mapping) else [self.raw]), default=1)

    def raw_rows(self, index: Tensor) -> Raw:
        """Values of the samples with these numbers, in the user's form."""

        def chosen(raw: Raw) -> Raw:
            return raw_rows(raw, index % raw_size(raw))

        return (
            {name: chosen(part) for name, part in self.raw.items()}
            if isinstance(self.raw, Mapping)
            else chosen(self.raw)
        )

    def check(self, cells: CellConditions) -> None:
        """Raises DataError if a known value does not satisfy conditions on its column."""
        if not cells.texts:
            return
        for start in range(0, self.size, CHECKED_ROWS):
            observed = self.rows(torch.arange(start, min(start + CHECKED_ROWS, self.size)))
            wrong = cells.excluded(self.codec, observed.values) & observed.mask
            if bool(wrong.any()):
                row, site = wrong.nonzero()[0].tolist()
                name = self.codec.names[site]
                asked = [text for text in cells.texts if comparison(text, self.codec.names)[0] == name]
                raise DataError(
                    f"known row {start + row + 1}: its '{name}' is {self.raw[name][start + row]!r}, which "
                    f"{' and '.join(map(repr, asked))} excludes; make the cell empty, or leave the condition out"
                )

    def _pairs(self, index: Tensor) -> dict[str, tuple[Tensor, Tensor]]:
        """Encoded values and masks by part, under "" for data without parts."""
        x = dict(named_parts(self.codec.encode(self.raw_rows(index))))
        return {name: _with_mask(part, self.family.parts.get(name)) for name, part in x.items()}

    def rows(self, index: Tensor) -> Observed:
        """Values of the samples with these numbers, on the device of the numbers."""
        pairs = {
            name: (part.to(index.device), mask.to(index.device))
            for name, (part, mask) in self._pairs(index.cpu()).items()
        }
        values = {name: torch.where(mask, part, 0) for name, (part, mask) in pairs.items()}
        masks = {name: mask for name, (_, mask) in pairs.items()}
        observed = Observed(values.get("", values), masks.get("", masks))
        if self.also is None:
            return observed
        other = self.also.rows(index)
        return Observed(torch.where(observed.mask, observed.values, other.values), observed.mask | other.mask)


def _with_rows(raw: Raw, site: tuple[int, ...] | None) -> Raw:
    """One example without an axis of rows becomes a row."""
    if isinstance(raw, Tensor) and raw.ndim == 0 and site != ():
        raise ConfigError("the file of known values has a single number, expected a row of them")
    return raw.unsqueeze(0) if isinstance(raw, Tensor) and site is not None and raw.ndim == len(site) else raw


def read_known(path: Path, codec: Codec) -> Raw:
    """Known values in the user's form: a file of a format that the codec reads, with gaps where they are unknown.

    Raises:
        ConfigError: If it is not such a file.
        DataError: If a value in it is not as expected.
    """
    if path.suffix not in codec.formats:
        raise ConfigError(f"known values are read from {', '.join(readable(codec))}, found '{path.name}'")
    return codec.formats[path.suffix].read(path)


def known_rows(run: Run, path: Path) -> int:
    """Number of rows of a file of known values.

    Raises:
        ConfigError: If it is not such a file.
        DataError: If a value in it is not as expected.
    """
    return KnownValues.of(run.model, read_known(path, run.codec), None).size


def _with_mask(values: Tensor, family: Family[Any] | None) -> tuple[Tensor, Tensor]:
    if not values.is_floating_point():
        return values.long(), values >= 0
    mask = ~values.isnan()
    if family is not None and family.is_discrete and bool((values[mask] == values[mask].floor()).all()):
        return torch.where(mask, values, -1).long(), mask & (values >= 0)  # classes that were read as numbers
    return values, mask


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
    numbers, _ = row_numbers(run.model.family)
    chunk = chunk_rows(numbers, next(run.model.parameters()).device)
    return chunk * processes.world_size() * max(1, min(BATCH_CHUNKS, BATCH_NUMBERS // (chunk * numbers)))


def stream_samples(
    plan: ResolvedPlan,
    out: Path | BinaryIO,
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
        out: The file, or a stream for the first format of the codec that is text.
        batch: Number of samples in a batch; by default :func:`batch_rows`.
        say: Called with a line about an unfinished file.
        show: Called with the number of samples written so far.
    Raises:
        ConfigError: If the codec has no such format, or it cannot hold such samples.
        ResourceError: If the file cannot be written, or will not fit on the disk.
    """
    n, device = plan.plan.n, next(plan.run.model.parameters()).device
    batch = batch or batch_rows(plan.run)
    scope: AbstractContextManager[SampleFile | SampleStream | None] = nullcontext()
    if not isinstance(out, Path):
        scope = nullcontext(SampleStream(out, n, plan.run.codec) if processes.is_main_process() else None)
    elif processes.is_main_process():
        scope = sample_file(out, n, _facts(plan), plan.run.codec)
    with scope as file:
        done = processes.all_reduce_max(file.rows if file is not None else 0, device)
        if file is not None and file.other:
            say(f"{out}: replacing an unfinished file of other samples")
        if done:
            say(f"{out}: continuing after {done:,} of {n:,} samples")
        show(done)
        try:
            while done < n:
                rows = range(done, min(done + batch, n))
                samples = plan.draw(rows)
                if file is not None:
                    file.append(plan.raw(samples, rows))
                done = rows.stop
                show(done)
        except Interrupted as stop:
            kept = f"{done:,} of {n:,} samples are kept; the same command continues"
            kept = kept if done and isinstance(out, Path) else ""
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
        "codec": repr(run.codec),
        "known": None if known is None else _digest(known),
        "environment": machine,
    }


def _digest(path: Path) -> str:
    if path.is_dir():
        return " ".join(f"{inner.name} {_digest(inner)}" for inner in sorted(path.iterdir()) if inner.is_file())
    with open_regular(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def report_size(run: Run) -> int:
    """Number of samples that a report judges: of a table as many as it has rows, but at most 10,000."""
    if not run.codec.is_table:
        return N
    try:
        return min(MOST_ROWS, len(run.rows("all")) + len(run.rows("test")))
    except DataError:  # the file is gone; samples need none
        return N


def samples_name(run: Run) -> str:
    """Name of the file of a run's samples, in the first format of its codec that can hold them."""
    endings = [ending for ending in run.codec.formats if ending != ".npy" or not run.model.family.has_parts]
    return f"{SAMPLES}{endings[0]}"


def write_samples(path: Path, raw: Raw, codec: Codec | None = None) -> None:
    """Writes samples in the user's form, in the format of the codec that has the ending of the path.

    Without a codec, an array (.npy), tensors by name (.safetensors) or, if they are flat, a table (.csv).

    Raises:
        ConfigError: If there is no format with the ending, or it cannot hold such samples.
        ResourceError: If the file cannot be written.
    """
    raw = map_data(lambda part: part.detach().cpu(), raw) if codec is None else raw
    with sample_file(path, raw_size(raw), codec=codec) as file:
        file.append(raw)
