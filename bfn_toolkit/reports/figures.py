"""Figures of a run, as ``matplotlib.figure.Figure`` values: no window, no global state."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from bfn_toolkit.bfn import BFN
from bfn_toolkit.data.codec import Codec, IdentityCodec, codec_of_part, raw_like
from bfn_toolkit.families import ExampleKind, Family
from bfn_toolkit.masks import present
from bfn_toolkit.network_io import NetworkIO
from bfn_toolkit.networks import NetworkBuilder
from bfn_toolkit.randomness import seeded
from bfn_toolkit.reports.panels import BLUE, GREY, ORANGE, draw_data, flattened
from bfn_toolkit.runs.run import Run
from bfn_toolkit.sampling.default import default_sampler
from bfn_toolkit.sampling.sampler import Sampler
from bfn_toolkit.sampling.trajectory import beliefs_of
from bfn_toolkit.shapes import Data


def _figure(width: float = 7.0, height: float = 3.2, axes: int = 1) -> tuple[Figure, list[Axes]]:
    figure = Figure(figsize=(width, height), dpi=150, layout="constrained")
    parts = [figure.add_subplot(1, axes, i + 1) for i in range(axes)]
    for part in parts:
        part.spines[["top", "right"]].set_visible(False)
    return figure, parts


def present_data(run: Run) -> Data:
    """All data of a run, with 0 where they are missing, as in samples."""
    rows = run.split("all")
    return present(rows.x, rows.mask)


def data_figure(family: Family[Any], x: Data, codec: Codec | None = None) -> Figure:
    """The data, part by part, in the units of the codec."""
    codec = codec or IdentityCodec()
    parts = list(family.walk(raw_like(x, codec)))
    is_image = parts[0].family.example_kind is ExampleKind.IMAGE
    figure, axes = _figure(7.0, 7.0 if is_image else 3.2, axes=len(parts))
    for axis, part in zip(axes, parts, strict=True):
        (values,) = part.values
        draw_data(axis, values, values, part.family.example_kind, BLUE, codec_of_part(codec, part.name))
        axis.set_title(part.name or f"data ({len(values):,} examples)")
    return figure


def samples_figure(family: Family[Any], samples: Data, data: Data, n_steps: int, codec: Codec | None = None) -> Figure:
    """Samples beside the data, part by part, in the same bins and limits; the title counts what lies outside."""
    codec = codec or IdentityCodec()
    parts = list(family.walk(raw_like(samples, codec), raw_like(data, codec)))
    figure = Figure(figsize=(7.0, 3.2 * len(parts)), dpi=150, layout="constrained")
    for row, part in enumerate(parts):
        (drawn, values), kind = part.values, part.family.example_kind
        axes = [figure.add_subplot(len(parts), 2, 2 * row + column + 1) for column in (0, 1)]
        own = codec_of_part(codec, part.name)
        draw_data(axes[0], values, values, kind, BLUE, own)
        draw_data(axes[1], drawn, values, kind, ORANGE, own)
        reference, points = flattened(values), flattened(drawn)
        outside = int(((points < reference.amin(0)) | (points > reference.amax(0))).any(1).sum())
        title = f"{len(drawn):,} samples, {n_steps} steps"
        axes[0].set_title(f"{part.name or 'data'} ({len(values):,} examples)")
        few = points.shape[1] <= 2  # with many numbers, most examples have one beyond the data
        axes[1].set_title(f"{title}\n{outside:,} beyond the data" if outside and few else title)
        for axis in axes:
            axis.spines[["top", "right"]].set_visible(False)
        if kind is not ExampleKind.IMAGE:
            _share_limits(axes, heights=kind is not ExampleKind.POINTS)
    return figure


def _share_limits(axes: Sequence[Axes], heights: bool) -> None:
    """Gives the second axis the limits of the first; if y is a height, both reach the higher one."""
    if heights:
        axes[0].set_ylim(0.0, max(axis.get_ylim()[1] for axis in axes))
    axes[1].set(xlim=axes[0].get_xlim(), ylim=axes[0].get_ylim())


def smoke_figure(network: NetworkBuilder, steps: int = 60) -> Figure:
    """Fit of sin(30u) cos(20u) at t = 0 in a few steps of Adam: can the network represent wiggles at all?"""
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
    axis.plot(u.flatten().tolist(), target.flatten().tolist(), color=GREY, lw=1, label="sin(30u) cos(20u)")
    fit = module(u, t).detach().flatten().tolist()
    axis.plot(u.flatten().tolist(), fit, color=ORANGE, lw=1, label=f"after {steps} steps")
    axis.set(xlabel="u", title=f"network smoke test: mean squared error {loss.item():.4f}")
    axis.legend(frameon=False, loc="upper left", bbox_to_anchor=(1.0, 1.0))
    return figure


def schedule_figure(family: Family[Any], n_steps: int = 200) -> Figure:
    """Accuracy rate, and the precision of beliefs that start at 1, against time."""
    times = family.times(n_steps)
    middle = (0.5 * (times[1:] + times[:-1])).tolist()
    figure, axes = _figure(axes=2)
    for i, part in enumerate(family.walk()):
        colour = f"C{i}" if family.has_parts else BLUE
        accuracy = part.family.accuracy(times[:-1], times[1:])
        axes[0].semilogy(middle, (accuracy / (times[1:] - times[:-1])).tolist(), color=colour)
        axes[1].semilogy(times[1:].tolist(), (1.0 + accuracy.cumsum(0)).tolist(), color=colour, label=part.name)
    if family.has_parts:
        axes[1].legend(frameon=False)
    axes[0].set(xlabel="t", title=r"accuracy rate $\alpha(t)$")
    axes[1].set(xlabel="t", title=r"posterior precision $1 + \beta(t)$")
    return figure


def training_figure(metrics: Sequence[Mapping[str, float]]) -> Figure:
    """Loss and norm of the gradient against the step."""
    figure, axes = _figure(axes=2)
    for axis, key, title in zip(axes, ("loss", "grad_norm"), ("loss", "gradient norm before clipping"), strict=True):
        lines = [line for line in metrics if key in line]
        axis.plot([line["step"] for line in lines], [line[key] for line in lines], color=BLUE, lw=1, label="training")
        axis.set(xlabel="step", title=title)
    valid = [line for line in metrics if "valid_loss" in line]
    if valid:
        points = [line["step"] for line in valid], [line["valid_loss"] for line in valid]
        axes[0].plot(*points, color=ORANGE, marker="o", ms=3, label="validation")
        axes[0].legend(frameon=False)
    for axis in axes:
        low, high = axis.get_ylim()
        if low > 0.0 and high > 10.0 * low:
            axis.set_yscale("log")
    return figure


@torch.inference_mode()
def flows_figure(model: BFN, n_steps: int, sampler: Sampler[Any] | None = None, paths: int = 60) -> Figure:
    """Paths of the beliefs from the prior to the samples, part by part; the sampler as in ``BFN.sample``."""
    family = model.family
    weight = next(model.parameters())
    tracks: dict[str, list[Tensor]] = {part.name: [] for part in family.walk()}
    labels: dict[str, str] = {}
    sampler = sampler or default_sampler(family, n_steps)
    for state in sampler.trajectory(model, paths, n_steps=n_steps, device=weight.device, dtype=weight.dtype):
        for part in family.walk(state.params):
            beliefs, is_mean = beliefs_of(part.family, *part.values)
            labels[part.name] = r"mean $\mu$" if is_mean else "first feature of the beliefs"
            beliefs = beliefs.reshape(len(beliefs), -1)
            tracks[part.name].append(flattened(beliefs[:, : 2 if beliefs.shape[1] == 2 else 1]))  # what is drawn
    figure, axes = _figure(7.0, 4.0, axes=len(tracks))
    for axis, (name, track) in zip(axes, tracks.items(), strict=True):
        means = torch.stack(track)  # (n + 1, paths, 1 or 2)
        if means.shape[2] == 2:
            for i in range(paths):
                axis.plot(means[:, i, 0].tolist(), means[:, i, 1].tolist(), color=BLUE, lw=0.6, alpha=0.6)
            axis.set(xlabel=r"$\mu_1$", ylabel=r"$\mu_2$", aspect="equal")
        else:
            axis.plot(sampler.times(model, n_steps).tolist(), means[..., 0].tolist(), color=BLUE, lw=0.6, alpha=0.6)
            axis.set(xlabel="t", ylabel=labels[name])
        axis.set_title(name or f"sample flows: {paths} paths of {n_steps} steps")
    return figure


def figures(
    run: Run, samples: Data, n_steps: int, seed: int = 0, sampler: Sampler[Any] | None = None
) -> Mapping[str, Callable[[], Figure]]:
    """The figures of a run by name, each drawn when called."""
    experiment = run.experiment

    def data() -> Data:  # read only here: the other figures do not need the file
        return present_data(run)

    def flows() -> Figure:
        with seeded(seed, "flows"):
            return flows_figure(run.model, n_steps, sampler)

    # Networks of images, of sequences and of sets are no functions of one number.
    family = run.model.family
    plain = len(family.network_io.site_shape) < 2 and family.example_kind is not ExampleKind.SEQUENCE
    return {
        "data": lambda: data_figure(run.model.family, data(), run.codec),
        **({"smoke_test": lambda: smoke_figure(experiment.network)} if plain else {}),
        "schedule": lambda: schedule_figure(experiment.family, n_steps),
        "training": lambda: training_figure(run.metrics),
        "samples": lambda: samples_figure(run.model.family, samples, data(), n_steps, run.codec),
        "flows": flows,
    }
