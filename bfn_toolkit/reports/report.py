"""Scores and figures of a trained run, and its samples, written into its directory."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import attrs
import torch

from bfn_toolkit.data.dataset import Batch, Rows, Split
from bfn_toolkit.evaluation.density import log_density
from bfn_toolkit.evaluation.distances import distances
from bfn_toolkit.evaluation.importance import affordable_examples, importance_bound
from bfn_toolkit.evaluation.likelihood import CodeLength, Estimate, likelihood_bound
from bfn_toolkit.model import readable
from bfn_toolkit.parallel import processes
from bfn_toolkit.parallel.chunks import deal_chunks
from bfn_toolkit.randomness import seeded
from bfn_toolkit.reports.animation import film
from bfn_toolkit.reports.figures import figures
from bfn_toolkit.runs.directory import EVALUATION, FIGURES
from bfn_toolkit.runs.run import Run
from bfn_toolkit.runs.sampling import ResolvedPlan, samples_name, write_samples
from bfn_toolkit.sampling.trajectory import Trajectory
from bfn_toolkit.shapes import Data, device_of
from bfn_toolkit.storage.files import to_json, write_atomically

FILM_ROWS = 500  # largest number of samples in a film


def sample_scores(run: Run, samples: Data) -> dict[str, Any]:
    """Distances of samples to all data of the run, and the shares of the modes where the data set has modes."""
    dataset = run.experiment.dataset
    scores = distances(samples, run.split("all").x)
    shares = dataset.mode_shares(samples)
    return scores if shares is None else {**scores, "mode_shares": dict(shares)}


def _code_length(cost: CodeLength) -> dict[str, float]:
    """The numbers of a bound, or of a part of it."""
    figures = {"loss": cost.messages, "reconstruction": cost.reconstruction, "total": cost.total}
    return {
        key: number
        for name, estimate in figures.items()
        for key, number in ((f"{name}_nats", estimate.value), (f"{name}_nats_stderr", estimate.stderr))
    }


def evaluate(
    plan: ResolvedPlan,
    *,
    n_steps: int | None = None,
    split: Split = "test",
    draws: int | None = None,
    samples: Data | None = None,
    density: int = 0,
    particles: int = 0,
    examples: int | None = None,
) -> dict[str, Any]:
    """The likelihood bound on a split and the quality of samples, as one JSON object.

    Arguments:
        plan: The samples to score, of a run.
        n_steps: Number of messages of the bound; None for continuous time.
        split: Rows for the likelihood.
        draws: Number of draws of the time per example.
        samples: The samples of the plan, if they are already drawn.
        density: Number of examples for the exact log-density (:func:`~bfn_toolkit.log_density`).
        particles: Number of particles for the importance-weighted bound (:func:`~bfn_toolkit.importance_bound`), of
            ``n_steps`` messages, or for None those of the plan.
        examples: Number of examples for that bound; by default as many as take about a million evaluations.
    """
    run, wanted = plan.run, plan.plan
    device = next(run.model.parameters()).device
    data = run.rows(split, device)
    bound = likelihood_bound(run.model, data, n_steps=n_steps, draws=draws, seed=wanted.seed, deal=deal_chunks)
    samples = plan.draw() if samples is None else samples
    return {
        "weights": attrs.asdict(run.weights),
        "steps": "inf" if n_steps is None else n_steps,
        "split": split,
        "examples": bound.examples,
        "draws": bound.draws,
        **_code_length(bound),
        "bits_per_dimension": bound.bits_per_dimension.value,
        "bits_per_dimension_stderr": bound.bits_per_dimension.stderr,
        "unit": run.experiment.dataset.unit,
        **(_density(run, data, density, wanted.seed) if density else {}),
        **({"importance": _importance(plan, data, n_steps or wanted.steps, particles, examples)} if particles else {}),
        "parts": {name: _code_length(part) for name, part in bound.parts.items()},
        "samples": {
            "n": wanted.n,
            "steps": wanted.steps,
            "sampler": plan.sampler,
            "evaluations": plan.draws.sampler.nfe(wanted.steps),
            "seed": wanted.seed,
            **sample_scores(run, samples),
        },
    }


def _first_rows(data: Rows, examples: int, seed: int) -> Batch:
    with seeded(seed, "first rows"):
        return data[torch.arange(min(examples, len(data)))]


def _importance(plan: ResolvedPlan, data: Rows, n_steps: int, particles: int, examples: int | None) -> dict[str, float]:
    rows = _first_rows(data, examples or affordable_examples(n_steps, particles), plan.plan.seed)
    bound = importance_bound(
        plan.run.model, rows, n_steps=n_steps, particles=particles, seed=plan.plan.seed, deal=deal_chunks
    )
    return {
        "steps": bound.n_steps,
        "particles": bound.particles,
        "effective_particles": bound.effective_particles,
        "examples": bound.examples,
        "total_nats": bound.total.value,
        "total_nats_stderr": bound.total.stderr,
        "gain_nats": bound.gain.value,
        "gain_nats_stderr": bound.gain.stderr,
        "bits_per_dimension": bound.bits_per_dimension.value,
        "bits_per_dimension_stderr": bound.bits_per_dimension.stderr,
    }


def _density(run: Run, data: Rows, examples: int, seed: int) -> dict[str, float]:
    rows = _first_rows(data, examples, seed)
    probes = 0 if rows.x[0].numel() <= 64 else 16
    with seeded(seed, "density", device=device_of(rows.x)):
        found = log_density(run.model, rows.x, probes=probes, condition=readable(run.model, rows.condition))
    mean = Estimate.of(found.value)
    return {
        "log_density_nats": mean.value,
        "log_density_nats_stderr": mean.stderr,
        "log_density_solver_error": float(found.error.mean()),
        "log_density_examples": len(rows),
    }


def write_figures(
    plan: ResolvedPlan, folder: Path, samples: Data | None = None, only: Sequence[str] | None = None
) -> list[Path]:
    """Draws the figures of a run into a folder, as PNG.

    Arguments:
        plan: Plan of the samples.
        folder: The folder.
        samples: The samples; needed only for the figure "samples".
        only: Names of the figures to draw; by default all.
    """
    paths = []
    wanted, sampler = plan.plan, plan.draws.sampler
    for name, draw in figures(plan.run, samples, wanted.steps, wanted.seed, sampler).items():
        if only is not None and name not in only:
            continue
        buffer = io.BytesIO()
        draw().savefig(buffer, format="png")
        path = folder / f"{name}.png"
        write_atomically(path, buffer.getvalue())
        paths.append(path)
    return paths


def write_film(plan: ResolvedPlan, folder: Path) -> Path:
    """Draws the samples' way from the prior to the data, as a GIF in a folder; returns its path."""
    trajectory = Trajectory(plan.run.model.family, min(plan.plan.n, FILM_ROWS))
    plan.draw(range(trajectory.rows), trajectory)
    path = folder / "flows.gif"
    title = f"{plan.sampler}, {plan.plan.steps} steps"
    write_atomically(path, film(trajectory, plan.run.split("all").x, title))
    return path


def complete_run(plan: ResolvedPlan, say: Callable[[str], None]) -> dict[str, Any]:
    """Writes samples, scores and figures of a trained run into its directory; returns the scores."""
    run = plan.run
    if run.path is None:
        raise ValueError("the run was kept in memory: train it with a run directory")
    samples = plan.draw()
    scores = evaluate(plan, n_steps=run.model.family.n_steps, samples=samples)
    if not processes.is_main_process():
        return scores
    path = run.path / samples_name(run)
    write_samples(path, samples)
    say(f"{plan.plan.n:,} samples in {plan.plan.steps} steps: {path}")
    write_atomically(run.path / EVALUATION, to_json(scores) + "\n")
    for path in write_figures(plan, run.path / FIGURES, samples):
        say(f"figure: {path}")
    return scores
