"""What one wants to know of a trained run: samples, scores and figures."""

from __future__ import annotations

import hashlib
import io
import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import attrs
import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file as load_tensors
from torch import Tensor

from bfn_toolkit import processes
from bfn_toolkit.blocks import MOST, block_rows
from bfn_toolkit.conditions import check_conditions, seen_in, unread
from bfn_toolkit.datasets import Batch, Split
from bfn_toolkit.density import log_density
from bfn_toolkit.errors import ConfigError, DataError
from bfn_toolkit.evaluation import CodeLength, Estimate, distances, likelihood_bound
from bfn_toolkit.families import Family
from bfn_toolkit.films import film
from bfn_toolkit.guidance import Guided
from bfn_toolkit.interrupts import Interrupted
from bfn_toolkit.known import Given, Known
from bfn_toolkit.plots import figures
from bfn_toolkit.provenance import environment
from bfn_toolkit.randomness import seeded
from bfn_toolkit.registry import default_registry
from bfn_toolkit.runs import EVALUATION, FIGURES, SAMPLES, Run
from bfn_toolkit.sample_files import sample_file
from bfn_toolkit.samplers import OnStep, Sampler
from bfn_toolkit.shapes import Data, batch_size, device_of
from bfn_toolkit.solvers import default_sampler
from bfn_toolkit.storage import to_json, write_atomically
from bfn_toolkit.trajectories import ROWS, Trajectory

STEPS = 100  # of a sample, unless the family is tied to a number
FILM_ROWS = 500  # in a film, at most
BATCH_NUMBERS = 2**22  # in a batch of samples, at most, unless one block has more
BATCH_BLOCKS = 16  # of a batch, at most: what a kill may cost


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
    given: dict[str, Any] = {name: value.to(device) for name, value in _conditions(run, plan, rows).items()}
    _, sampler, _ = plan.choose(run.model.family)
    model = Guided(run.model, plan.guidance) if plan.guidance else run.model
    known = None
    if plan.known is not None:
        whole = Known.of(run.model.family, read_known(plan.known), plan.n)
        known = whole.rows(torch.arange(rows.start, rows.stop))
    with seeded(plan.seed, "samples", device=device):
        return model.sample(
            len(rows), n_steps=plan.steps, sampler=sampler, first=rows.start, on_step=on_step, known=known, **given
        )


def _conditions(run: Run, plan: SamplePlan, rows: range) -> dict[str, Tensor]:
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
    for block in range(rows.start // MOST, (rows.stop - 1) // MOST + 1):
        with seeded(seed, "conditions", block):
            drawn.append(torch.randint(n, (MOST,)))
    return torch.cat(drawn)[rows.start % MOST :][: len(rows)]


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


def draw_trajectory(run: Run, plan: SamplePlan) -> Trajectory:
    """What the sampler believes and expects on the way to the first samples of a plan, and those samples.

    Raises:
        ConfigError: If several processes share the samples.
    """
    if processes.count() > 1:
        raise ConfigError("a trajectory is drawn by one process; start the command without torchrun")
    trajectory = Trajectory(run.model.family, min(plan.n, ROWS))
    samples = draw_samples(run, plan, range(trajectory.rows), trajectory)
    for name, part in samples.items() if isinstance(samples, Mapping) else {"": samples}.items():
        trajectory.arrays[f"{name}.samples" if name else "samples"] = part.cpu()
    return trajectory


def batch_rows(run: Run) -> int:
    """Samples to draw and write at once: whole blocks, as many as memory takes, and no more than one would lose."""
    numbers = math.prod(run.model.family.network_io.site_shape)
    block = block_rows(numbers)
    return block * processes.count() * max(1, min(BATCH_BLOCKS, BATCH_NUMBERS // (block * numbers)))


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
        ConfigError: If the ending of the name is none of those in :data:`~bfn_toolkit.sample_files.FORMATS`, or not
            for such samples.
        ResourceError: If the file cannot be written, or will not fit on the disk.
    """
    batch = batch or batch_rows(run)
    facts = _facts(run, plan)
    with sample_file(path, plan.n, facts) if processes.first() else nullcontext() as file:
        done = processes.most(file.rows if file is not None else 0, next(run.model.parameters()).device)
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


def sample_scores(run: Run, samples: Data) -> dict[str, Any]:
    """Distances of samples to all data of the run, and the shares of the modes where the data set knows its modes."""
    dataset = run.experiment.dataset
    scores = distances(samples, run.split("all").x)
    shares = dataset.mode_shares(samples)
    return scores if shares is None else {**scores, "mode_shares": dict(shares)}


def _code_length(cost: CodeLength) -> dict[str, float]:
    """The figures of a bound, or of a part of it."""
    figures = {"loss": cost.messages, "reconstruction": cost.reconstruction, "total": cost.total}
    return {
        key: number
        for name, estimate in figures.items()
        for key, number in ((f"{name}_nats", estimate.value), (f"{name}_nats_stderr", estimate.stderr))
    }


def evaluate(
    run: Run,
    plan: SamplePlan,
    *,
    n_steps: int | None = None,
    split: Split = "test",
    draws: int | None = None,
    samples: Data | None = None,
    density: int = 0,
) -> dict[str, Any]:
    """The likelihood bound on a split and the quality of samples, as one JSON object.

    Arguments:
        run: The run.
        plan: The samples to score.
        n_steps: Number of messages of the bound; None for continuous time.
        split: Whose likelihood.
        draws: Draws of the time for each example.
        samples: The samples of the plan, where they have been drawn already.
        density: Number of examples whose density the probability flow is to tell (:func:`~bfn_toolkit.log_density`).
    """
    device = next(run.model.parameters()).device
    data = run.split(split).to(device)
    bound = likelihood_bound(run.model, data, n_steps=n_steps, draws=draws, seed=plan.seed)
    samples = draw_samples(run, plan) if samples is None else samples
    name, sampler, _ = plan.choose(run.model.family)
    return {
        "weights": attrs.asdict(run.weights),
        "steps": "inf" if n_steps is None else n_steps,
        "split": split,
        "examples": bound.examples,
        "draws": bound.draws,
        **_code_length(bound),
        "bits_per_dimension": bound.bits_per_dimension.value,
        "bits_per_dimension_stderr": bound.bits_per_dimension.stderr,
        **(_density(run, data, density, plan.seed) if density else {}),
        "parts": {name: _code_length(part) for name, part in bound.parts.items()},
        "samples": {
            "n": plan.n,
            "steps": plan.steps,
            "sampler": name,
            "evaluations": sampler.evaluations(plan.steps),
            "seed": plan.seed,
            **sample_scores(run, samples),
        },
    }


def _density(run: Run, data: Batch, examples: int, seed: int) -> dict[str, float]:
    rows = data.rows(torch.arange(min(examples, len(data)), device=device_of(data.x)))
    probes = 0 if rows.x[0].numel() <= 64 else 16
    with seeded(seed, "density", device=device_of(rows.x)):
        found = log_density(run.model, rows.x, probes=probes, condition=rows.condition)
    mean = Estimate.of(found.value)
    return {
        "log_density_nats": mean.value,
        "log_density_nats_stderr": mean.stderr,
        "log_density_solver_error": float(found.error.mean()),
        "log_density_examples": len(rows),
    }


def write_figures(
    run: Run, folder: Path, samples: Data, plan: SamplePlan, only: Sequence[str] | None = None
) -> list[Path]:
    """Draws the figures of a run into a folder, as PNG.

    Arguments:
        run: The run.
        folder: Where to draw them.
        samples: Samples of the plan; not needed where the figure "samples" is not drawn.
        plan: Their plan.
        only: Names of the figures to draw; by default all.
    """
    paths = []
    _, sampler, _ = plan.choose(run.model.family)
    for name, draw in figures(run, samples, plan.steps, plan.seed, sampler).items():
        if only is not None and name not in only:
            continue
        buffer = io.BytesIO()
        draw().savefig(buffer, format="png")
        path = folder / f"{name}.png"
        write_atomically(path, buffer.getvalue())
        paths.append(path)
    return paths


def write_film(run: Run, folder: Path, plan: SamplePlan) -> Path:
    """Draws the way of samples from the prior to the data into a folder, as GIF; returns its name."""
    trajectory = Trajectory(run.model.family, min(plan.n, FILM_ROWS))
    draw_samples(run, plan, range(trajectory.rows), trajectory)
    name, _, _ = plan.choose(run.model.family)
    path = folder / "flows.gif"
    write_atomically(path, film(trajectory, run.split("all").x, f"{name}, {plan.steps} steps"))
    return path


def complete_run(run: Run, plan: SamplePlan, say: Callable[[str], None]) -> dict[str, Any]:
    """Samples, scores and figures of a run that has just been trained, written into its directory."""
    if run.path is None:
        raise ValueError("the run was kept in memory: train it with a run directory")
    samples = draw_samples(run, plan)
    scores = evaluate(run, plan, n_steps=run.model.family.n_steps, samples=samples)
    if not processes.first():
        return scores
    path = run.path / samples_name(run)
    write_samples(path, samples)
    say(f"{plan.n:,} samples in {plan.steps} steps: {path}")
    write_atomically(run.path / EVALUATION, to_json(scores) + "\n")
    for path in write_figures(run, run.path / FIGURES, samples, plan):
        say(f"figure: {path}")
    return scores
