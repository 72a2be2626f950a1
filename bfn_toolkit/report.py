"""What one wants to know of a trained run: samples, scores and figures."""

from __future__ import annotations

import io
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import attrs
import numpy as np
from safetensors.torch import save as save_tensors
from torch import Tensor

from bfn_toolkit.checkpoint import write_atomically
from bfn_toolkit.datasets import Split
from bfn_toolkit.errors import ConfigError
from bfn_toolkit.evaluation import likelihood_bound, mmd, sliced_w1, w1
from bfn_toolkit.plots import figures
from bfn_toolkit.randomness import seeded
from bfn_toolkit.registry import default_registry
from bfn_toolkit.runs import EVALUATION, FIGURES, SAMPLES, Run
from bfn_toolkit.samplers import Sampler

FORMATS = (".npy", ".safetensors", ".csv")


@attrs.frozen
class SamplePlan:
    """How many samples to draw, and how.

    Arguments:
        n: Number of samples.
        steps: Number of messages.
        sampler: Name of the sampler.
        seed: Of the draws.
    """

    n: int = 1000
    steps: int = 100
    sampler: str = "ancestral"
    seed: int = 0

    def make_sampler(self) -> Sampler[Any]:
        """The sampler of that name."""
        sampler: Sampler[Any] = default_registry().get("sampler", self.sampler).entry.build()
        return sampler


def draw_samples(run: Run, plan: SamplePlan) -> Tensor:
    """Draws samples of a run's model, with shape (n, *site); the same plan gives the same bytes."""
    device = next(run.model.parameters()).device
    with seeded(plan.seed, "samples", device=device):
        return run.model.sample(plan.n, n_steps=plan.steps, sampler=plan.make_sampler())


def check_format(path: Path) -> None:
    """Checks that samples can be written under this name.

    Raises:
        ConfigError: If the ending is none of .npy, .safetensors and .csv.
    """
    if path.suffix not in FORMATS:
        raise ConfigError(f"cannot tell the format of '{path.name}'; end its name in {', '.join(FORMATS)}")


def write_samples(path: Path, samples: Tensor) -> None:
    """Writes samples as an array (.npy), a tensor named "samples" (.safetensors) or, if they are flat, a table (.csv).

    Raises:
        ConfigError: If the ending is none of these, or the samples are not flat and it is .csv.
        ResourceError: If the file cannot be written.
    """
    check_format(path)
    samples = samples.detach().cpu().contiguous()
    if path.suffix == ".npy":
        buffer = io.BytesIO()
        np.save(buffer, samples.numpy(), allow_pickle=False)
        content = buffer.getvalue()
    elif path.suffix == ".safetensors":
        content = save_tensors({"samples": samples})
    else:
        if samples.ndim != 2:
            raise ConfigError(f"samples of shape {tuple(samples.shape[1:])} are not flat; write .npy or .safetensors")
        lines = [",".join(f"x{i + 1}" for i in range(samples.shape[1]))]
        lines += [",".join(map(repr, row)) for row in samples.tolist()]
        content = ("\n".join(lines) + "\n").encode()
    write_atomically(path, content)


def sample_scores(run: Run, samples: Tensor) -> dict[str, Any]:
    """Distances of samples to all data of the run, and the shares of the modes where the data set knows them."""
    dataset = run.experiment.dataset
    data = dataset.split("all").x
    if data[0].numel() == 1:
        scores: dict[str, Any] = {"w1": w1(samples, data)}
    else:
        scores = {"sliced_w1": sliced_w1(samples, data), "mmd": mmd(samples, data)}
    shares = dataset.mode_shares(samples)
    if shares is not None:
        scores["mode_shares"] = dict(shares)
    return scores


def evaluate(
    run: Run,
    plan: SamplePlan,
    *,
    n_steps: int | None = None,
    split: Split = "test",
    draws: int | None = None,
    samples: Tensor | None = None,
) -> dict[str, Any]:
    """The likelihood bound on a split and the quality of samples, as one JSON object.

    Arguments:
        run: The run.
        plan: The samples to score.
        n_steps: Number of messages of the bound; None for continuous time.
        split: Whose likelihood.
        draws: Draws of the time for each example.
        samples: The samples of the plan, where they have been drawn already.
    """
    device = next(run.model.parameters()).device
    data = run.experiment.dataset.split(split).to(device)
    bound = likelihood_bound(run.model, data, n_steps=n_steps, draws=draws, seed=plan.seed)
    samples = draw_samples(run, plan) if samples is None else samples
    return {
        "steps": "inf" if n_steps is None else n_steps,
        "split": split,
        "examples": bound.examples,
        "draws": bound.draws,
        "loss_nats": bound.messages.value,
        "loss_nats_stderr": bound.messages.stderr,
        "reconstruction_nats": bound.reconstruction.value,
        "reconstruction_nats_stderr": bound.reconstruction.stderr,
        "total_nats": bound.total.value,
        "total_nats_stderr": bound.total.stderr,
        "bits_per_dimension": bound.bits_per_dimension.value,
        "bits_per_dimension_stderr": bound.bits_per_dimension.stderr,
        "parts": {},
        "samples": {
            "n": plan.n,
            "steps": plan.steps,
            "sampler": plan.sampler,
            "seed": plan.seed,
            **sample_scores(run, samples),
        },
    }


def write_figures(run: Run, folder: Path, samples: Tensor, plan: SamplePlan) -> list[Path]:
    """Draws the figures of a run into a folder, as PNG."""
    paths = []
    for name, draw in figures(run, samples, plan.steps, plan.seed).items():
        buffer = io.BytesIO()
        draw().savefig(buffer, format="png")
        path = folder / f"{name}.png"
        write_atomically(path, buffer.getvalue())
        paths.append(path)
    return paths


def to_json(value: Any) -> str:
    """JSON text in which what is not finite is null."""

    def plain(item: Any) -> Any:
        if isinstance(item, dict):
            return {key: plain(part) for key, part in item.items()}
        return None if isinstance(item, float) and not math.isfinite(item) else item

    return json.dumps(plain(value), indent=2)


def complete_run(run: Run, plan: SamplePlan, say: Callable[[str], None]) -> dict[str, Any]:
    """Samples, scores and figures of a run that has just been trained, written into its directory."""
    if run.path is None:
        raise ValueError("the run was kept in memory: train it with a run directory")
    samples = draw_samples(run, plan)
    write_samples(run.path / SAMPLES, samples)
    say(f"{plan.n:,} samples in {plan.steps} steps: {run.path / SAMPLES}")
    scores = evaluate(run, plan, samples=samples)
    write_atomically(run.path / EVALUATION, to_json(scores) + "\n")
    for path in write_figures(run, run.path / FIGURES, samples, plan):
        say(f"figure: {path}")
    return scores
