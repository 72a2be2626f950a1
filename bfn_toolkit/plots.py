"""Figures of a run, as ``matplotlib.figure.Figure`` values: no window, no global state.

One number per example is drawn as a histogram, two as points in the plane; of more, the first two.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from bfn_toolkit.families import Family
from bfn_toolkit.model import BFN
from bfn_toolkit.networks import NetworkBuilder, NetworkIO
from bfn_toolkit.randomness import seeded
from bfn_toolkit.runs import Run
from bfn_toolkit.samplers import AncestralSampler, Sampler

_BLUE, _ORANGE, _GREY = "#4269d0", "#ff725c", "#8a8a8a"


def _figure(width: float = 7.0, height: float = 3.2, axes: int = 1) -> tuple[Figure, list[Axes]]:
    figure = Figure(figsize=(width, height), dpi=150, layout="constrained")
    parts = [figure.add_subplot(1, axes, i + 1) for i in range(axes)]
    for part in parts:
        part.spines[["top", "right"]].set_visible(False)
    return figure, parts


def _columns(x: Tensor) -> Tensor:
    return x.detach().flatten(1).double().cpu()


def _draw(axis: Axes, x: Tensor, colour: str, label: str, bins: Sequence[float] | int = 100) -> None:
    points = _columns(x)
    if points.shape[1] == 1:
        axis.hist(points[:, 0].tolist(), bins=bins, color=colour, alpha=0.7, density=True, label=label)
        axis.set(xlabel="x", ylabel="density")
    else:
        axis.scatter(points[:, 0].tolist(), points[:, 1].tolist(), s=3, alpha=0.4, color=colour, label=label)
        axis.set(xlabel="$x_1$", ylabel="$x_2$", aspect="equal")


def data_figure(x: Tensor) -> Figure:
    """The data."""
    figure, (axis,) = _figure()
    _draw(axis, x, _BLUE, "data")
    axis.set_title(f"data ({len(x):,} examples)")
    return figure


def samples_figure(samples: Tensor, data: Tensor, n_steps: int) -> Figure:
    """Samples beside the data, in the same bins or between the same limits; the title counts what lies outside."""
    figure, axes = _figure(7.0, 3.2, axes=2)
    points = _columns(data)
    low, high = points.amin(0), points.amax(0)
    edges = torch.linspace(float(low[0]), float(high[0]), 101).tolist()
    _draw(axes[0], data, _BLUE, "data", edges)
    _draw(axes[1], samples, _ORANGE, "samples", edges)
    sampled = _columns(samples)
    outside = int(((sampled < low) | (sampled > high)).any(1).sum())
    title = f"{len(samples):,} samples, {n_steps} steps"
    axes[0].set_title(f"data ({len(data):,} examples)")
    axes[1].set_title(f"{title}\n{outside:,} beyond the data" if outside else title)
    for axis in axes if points.shape[1] == 1 else ():
        axis.set_ylim(0.0, max(part.get_ylim()[1] for part in axes))
    axes[1].set(xlim=axes[0].get_xlim(), ylim=axes[0].get_ylim())
    return figure


def smoke_figure(network: NetworkBuilder, steps: int = 60) -> Figure:
    """The network fits sin(30u) cos(20u) at t = 0 in a few steps of Adam: can it make wiggles at all?"""
    u = torch.linspace(-1.0, 1.0, 1000).reshape(-1, 1, 1)
    target, t = torch.sin(30.0 * u) * torch.cos(20.0 * u), torch.zeros(1000)
    with seeded(0, "smoke test"):
        module = network.build(NetworkIO((1,)))
        optimizer = torch.optim.Adam(module.parameters(), lr=1e-3)
        for _ in range(steps):
            loss = (module(u, t) - target).square().mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    figure, (axis,) = _figure()
    axis.plot(u.flatten().tolist(), target.flatten().tolist(), color=_GREY, lw=1, label="sin(30u) cos(20u)")
    fit = module(u, t).detach().flatten().tolist()
    axis.plot(u.flatten().tolist(), fit, color=_ORANGE, lw=1, label=f"after {steps} steps")
    axis.set(xlabel="u", title=f"network smoke test: mean squared error {loss.item():.4f}")
    axis.legend(frameon=False, loc="upper left", bbox_to_anchor=(1.0, 1.0))
    return figure


def schedule_figure(family: Family[Any], n_steps: int = 200) -> Figure:
    """Accuracy rate, and the precision of the beliefs that start at 1, against time."""
    times = family.times(n_steps)
    accuracy = family.accuracy(times[:-1], times[1:])
    middle = (0.5 * (times[1:] + times[:-1])).tolist()
    figure, axes = _figure(axes=2)
    axes[0].semilogy(middle, (accuracy / (times[1:] - times[:-1])).tolist(), color=_BLUE)
    axes[0].set(xlabel="t", title=r"accuracy rate $\alpha(t)$")
    axes[1].semilogy(times[1:].tolist(), (1.0 + accuracy.cumsum(0)).tolist(), color=_BLUE)
    axes[1].set(xlabel="t", title=r"posterior precision $1 + \beta(t)$")
    return figure


def training_figure(metrics: Sequence[Mapping[str, float]]) -> Figure:
    """Loss and norm of the gradient against the step."""
    figure, axes = _figure(axes=2)
    for axis, key, title in zip(axes, ("loss", "grad_norm"), ("loss", "gradient norm before clipping"), strict=True):
        lines = [line for line in metrics if key in line]
        axis.plot([line["step"] for line in lines], [line[key] for line in lines], color=_BLUE, lw=1, label="training")
        axis.set(xlabel="step", title=title)
    valid = [line for line in metrics if "valid_loss" in line]
    if valid:
        points = [line["step"] for line in valid], [line["valid_loss"] for line in valid]
        axes[0].plot(*points, color=_ORANGE, marker="o", ms=3, label="validation")
        axes[0].legend(frameon=False)
    for axis in axes:
        low, high = axis.get_ylim()
        if low > 0.0 and high > 10.0 * low:
            axis.set_yscale("log")
    return figure


@torch.inference_mode()
def flows_figure(model: BFN, n_steps: int, sampler: Sampler[Any] | None = None, paths: int = 60) -> Figure:
    """How the means of the beliefs travel from the prior to the samples."""
    family = model.family
    weight = next(model.parameters())
    states = (sampler or AncestralSampler()).trajectory(
        model, paths, n_steps=n_steps, device=weight.device, dtype=weight.dtype
    )
    means = torch.stack([_columns(family.input(state.params).mean) for state in states])  # (n + 1, paths, D)
    figure, (axis,) = _figure(7.0, 4.0)
    if means.shape[2] == 1:
        axis.plot(family.times(n_steps).tolist(), means[..., 0].tolist(), color=_BLUE, lw=0.6, alpha=0.6)
        axis.set(xlabel="t", ylabel=r"mean $\mu$")
    else:
        for i in range(paths):
            axis.plot(means[:, i, 0].tolist(), means[:, i, 1].tolist(), color=_BLUE, lw=0.6, alpha=0.6)
        axis.set(xlabel=r"$\mu_1$", ylabel=r"$\mu_2$", aspect="equal")
    axis.set_title(f"sample flows: {paths} paths of {n_steps} steps")
    return figure


def figures(run: Run, samples: Tensor, n_steps: int, seed: int = 0) -> Mapping[str, Callable[[], Figure]]:
    """The figures of a run by name, each drawn when called."""
    experiment = run.experiment
    data = experiment.dataset.split("all").x

    def flows() -> Figure:
        with seeded(seed, "flows"):
            return flows_figure(run.model, n_steps)

    return {
        "data": lambda: data_figure(data),
        "smoke_test": lambda: smoke_figure(experiment.network),
        "schedule": lambda: schedule_figure(experiment.family, n_steps),
        "training": lambda: training_figure(run.metrics),
        "samples": lambda: samples_figure(samples, data, n_steps),
        "flows": flows,
    }
