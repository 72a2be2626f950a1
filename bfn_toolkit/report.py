"""What one wants to know of a trained run: samples, scores and figures."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import attrs
import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file as load_tensors
from safetensors.torch import save as save_tensors
from torch import Tensor

from bfn_toolkit import processes
from bfn_toolkit.datasets import Batch, Split
from bfn_toolkit.density import log_density
from bfn_toolkit.errors import ConfigError, did_you_mean
from bfn_toolkit.evaluation import CodeLength, Estimate, distances, likelihood_bound
from bfn_toolkit.families import Family
from bfn_toolkit.guidance import Guided
from bfn_toolkit.known import Given
from bfn_toolkit.plots import figures
from bfn_toolkit.randomness import seeded
from bfn_toolkit.registry import default_registry
from bfn_toolkit.runs import EVALUATION, FIGURES, SAMPLES, Run
from bfn_toolkit.samplers import Sampler
from bfn_toolkit.shapes import Data, device_of
from bfn_toolkit.solvers import default_sampler
from bfn_toolkit.storage import to_json, write_atomically

FORMATS = (".npy", ".safetensors", ".csv")
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


def draw_samples(run: Run, plan: SamplePlan) -> Data:
    """Draws samples of a run's model, with shape (n, *site); the same plan gives the same bytes.

    Where the data set has conditions, those that the plan leaves open are drawn from its training rows.

    Raises:
        ConfigError: If the data set does not have a condition of the plan, or no such value of it.
    """
    device = next(run.model.parameters()).device
    with seeded(plan.seed, "conditions"):
        condition = _conditions(run, plan)
    model = Guided(run.model, plan.guidance) if plan.guidance else run.model
    with seeded(plan.seed, "samples", device=device):
        given: dict[str, Any] = {name: value.to(device) for name, value in condition.items()}
        _, sampler, _ = plan.choose(run.model.family)
        known = None if plan.known is None else read_known(plan.known)
        return model.sample(plan.n, n_steps=plan.steps, sampler=sampler, known=known, **given)


def _conditions(run: Run, plan: SamplePlan) -> dict[str, Tensor]:
    seen = run.experiment.dataset.split("train").condition
    for name in plan.condition:
        if name not in seen:
            has = f"has {', '.join(seen)}" if seen else "has none"
            raise ConfigError(f"no condition is named '{name}'; the data set {has}.{did_you_mean(name, seen)}")
    drawn = {name: value[torch.randint(len(value), (plan.n,))] for name, value in seen.items()}
    set_ = {
        name: _constant(name, value, seen[name], plan.n) for name, value in plan.condition.items() if value is not None
    }
    return {name: value for name, value in (drawn | set_).items() if plan.condition.get(name, 0.0) is not None}


def _constant(name: str, value: float, seen: Tensor, n: int) -> Tensor:
    """One value of a condition for n samples, within what the network has seen of it."""
    if seen.ndim > 1:
        raise ConfigError(f"the condition '{name}' has shape {tuple(seen.shape[1:])} and cannot be set to one number")
    low, high = seen.min().item(), seen.max().item()
    integers = not seen.is_floating_point()
    if not low <= value <= high or (integers and value != int(value)):
        kind = "an integer" if integers else "a number"
        raise ConfigError(f"{name} must be {kind} from {low:g} to {high:g}, as in the training rows, got {value:g}")
    return torch.full((n,), value).to(seen.dtype)


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


def samples_name(run: Run) -> str:
    """Name of the file of a run's samples: an array, or tensors by name where the data have parts."""
    return SAMPLES if isinstance(run.experiment.dataset.site_shape, tuple) else f"{Path(SAMPLES).stem}.safetensors"


def check_format(path: Path) -> None:
    """Checks that samples can be written under this name.

    Raises:
        ConfigError: If the ending is none of .npy, .safetensors and .csv.
    """
    if path.suffix not in FORMATS:
        raise ConfigError(f"cannot tell the format of '{path.name}'; end its name in {', '.join(FORMATS)}")


def write_samples(path: Path, samples: Data) -> None:
    """Writes samples: an array (.npy), tensors by name (.safetensors) or, if they are flat, a table (.csv).

    The tensor of samples that have no parts is named "samples".

    Raises:
        ConfigError: If the ending is none of these, or is not for samples such as these.
        ResourceError: If the file cannot be written.
    """
    check_format(path)
    parts = samples if isinstance(samples, Mapping) else {"samples": samples}
    parts = {name: part.detach().cpu().contiguous() for name, part in parts.items()}
    if path.suffix == ".npy":
        if len(parts) > 1:
            raise ConfigError(f"samples of the parts {', '.join(parts)} are no single array; write .safetensors")
        buffer = io.BytesIO()
        np.save(buffer, next(iter(parts.values())).numpy(), allow_pickle=False)
        content = buffer.getvalue()
    elif path.suffix == ".safetensors":
        content = save_tensors(parts)
    else:
        content = _table(samples if isinstance(samples, Mapping) else {"x": samples})
    write_atomically(path, content)


def _table(parts: Mapping[str, Tensor]) -> bytes:
    """Flat samples as a table with a column for each number."""
    for part in parts.values():
        if part.ndim != 2:
            raise ConfigError(f"samples of shape {tuple(part.shape[1:])} are not flat; write .npy or .safetensors")
    header = [f"{name}{i + 1}" for name, part in parts.items() for i in range(part.shape[1])]
    rows = zip(*(part.tolist() for part in parts.values()), strict=True)
    lines = [",".join(header), *(",".join(repr(number) for part in row for number in part) for row in rows)]
    return ("\n".join(lines) + "\n").encode()


def sample_scores(run: Run, samples: Data) -> dict[str, Any]:
    """Distances of samples to all data of the run, and the shares of the modes where the data set knows its modes."""
    dataset = run.experiment.dataset
    scores = distances(samples, dataset.split("all").x)
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
    data = run.experiment.dataset.split(split).to(device)
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


def write_figures(run: Run, folder: Path, samples: Data, plan: SamplePlan) -> list[Path]:
    """Draws the figures of a run into a folder, as PNG."""
    paths = []
    _, sampler, _ = plan.choose(run.model.family)
    for name, draw in figures(run, samples, plan.steps, plan.seed, sampler).items():
        buffer = io.BytesIO()
        draw().savefig(buffer, format="png")
        path = folder / f"{name}.png"
        write_atomically(path, buffer.getvalue())
        paths.append(path)
    return paths


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
