"""Figures of a run, as ``matplotlib.figure.Figure`` values: no window, no global state."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import Any

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from bfn_toolkit.data.codec import Codec
from bfn_toolkit.data.dataset import Batch
from bfn_toolkit.errors import DataError
from bfn_toolkit.families import ExampleKind, Family
from bfn_toolkit.model import Condition, Model
from bfn_toolkit.network_io import NetworkIO
from bfn_toolkit.networks import NetworkBuilder
from bfn_toolkit.randomness import seeded
from bfn_toolkit.reports.panels import (
    BLUE,
    GREY,
    LINES,
    ORANGE,
    WIDE,
    View,
    draw_images,
    draw_sets,
    draw_texts,
    draw_view,
    flattened,
    one_line,
    views,
)
from bfn_toolkit.reports.table_figures import columns_figure, pairs_figure
from bfn_toolkit.reports.tables import Sides
from bfn_toolkit.runs.sampling import ResolvedPlan
from bfn_toolkit.sampling.default import default_sampler
from bfn_toolkit.sampling.masked import MaskedModel
from bfn_toolkit.sampling.sampler import Sampler, SamplerStep, watched
from bfn_toolkit.sampling.trajectory import beliefs_of
from bfn_toolkit.shapes import Data, Mask, batch_size, map_data

PATHS, STRIPS = 60, 6  # samples whose paths are drawn; those whose images, sets or texts are
TIMES = 8  # pictures of each, from the prior to the sample


def _figure(width: float = 7.0, height: float = 3.2, axes: int = 1) -> tuple[Figure, list[Axes]]:
    figure = Figure(figsize=(width, height), dpi=150, layout="constrained")
    parts = [figure.add_subplot(1, axes, i + 1) for i in range(axes)]
    for part in parts:
        part.spines[["top", "right"]].set_visible(False)
    return figure, parts


def data_figure(family: Family[Any], x: Data | Batch, codec: Codec | None = None) -> Figure:
    """The data, part by part, in the units of the codec; a batch also has masks, and labels of images."""
    parts = views(family, x, codec)
    panels = [(view, panel) for view in parts for panel in view.panels]
    square = parts[0].kind in (ExampleKind.IMAGE, ExampleKind.SET) and len(panels) == 1
    figure, axes = _figure(7.0, 7.0 if square else 3.2, axes=len(panels))
    for axis, (view, panel) in zip(axes, panels, strict=True):
        draw_view(axis, view, view, BLUE, panel)
        if panel == view.panels[0]:
            axis.set_title(view.name or f"data ({len(view.values):,} examples)")
    return figure


def samples_figure(
    family: Family[Any], samples: Data | Batch, data: Data | Batch, n_steps: int, codec: Codec | None = None
) -> Figure:
    """Samples beside the data, part by part, in the same bins and limits; the title counts what lies outside.

    Batches also have masks, and labels of images.
    """
    pairs = list(zip(views(family, samples, codec), views(family, data, codec), strict=True))
    rows = [(drawn, view, panel) for drawn, view in pairs for panel in view.panels]
    figure = Figure(figsize=(7.0, 3.2 * len(rows)), dpi=150, layout="constrained")
    for row, (drawn, view, panel) in enumerate(rows):
        axes = [figure.add_subplot(len(rows), 2, 2 * row + column + 1) for column in (0, 1)]
        draw_view(axes[0], view, view, BLUE, panel)
        draw_view(axes[1], drawn, view, ORANGE, panel)
        if panel == view.panels[0]:
            axes[0].set_title(f"{view.name or 'data'} ({len(view.values):,} examples)")
            title, outside = f"{len(drawn.values):,} samples, {n_steps} steps", _outside(drawn.values, view.values)
            axes[1].set_title(f"{title}\n{outside:,} beyond the data" if outside else title)
        for axis in axes:
            axis.spines[["top", "right"]].set_visible(False)
        if panel == "data" and view.kind not in (ExampleKind.IMAGE, ExampleKind.SET):
            _share_limits(axes, heights=view.kind is not ExampleKind.POINTS)
    return figure


def _outside(samples: Tensor, data: Tensor) -> int:
    """Number of samples of one number or two that lie beyond the data; of more numbers, most have one that does."""
    points, reference = flattened(samples), flattened(data)
    if points.shape[1] > 2:
        return 0
    low = reference.nan_to_num(torch.inf, torch.inf, -torch.inf).amin(0)
    high = reference.nan_to_num(-torch.inf, torch.inf, -torch.inf).amax(0)
    return int(((points < low) | (points > high)).any(1).sum())


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


def flow_paths(family: Family[Any], codec: Codec | None = None) -> int:
    """Number of samples whose way a figure shows: few where each is a picture or a text."""
    zeros = {
        part.name: torch.zeros(
            1, *part.family.network_io.site_shape, dtype=torch.int64 if part.family.is_discrete else torch.float32
        )
        for part in family.walk()
    }
    x = family.join(zeros)
    return STRIPS if any(map(_is_pictured, views(family, x, codec))) else PATHS


def _is_pictured(view: View) -> bool:
    return view.kind in (ExampleKind.IMAGE, ExampleKind.SET) or bool(view.texts)


@torch.inference_mode()
def flows_figure(
    model: Model,
    n_steps: int,
    sampler: Sampler[Any] | None = None,
    paths: int | None = None,
    *,
    codec: Codec | None = None,
    condition: Condition | None = None,
    mask: Mask | None = None,
) -> Figure:
    """The way from the prior to the samples, part by part; the sampler as in ``BFN.sample``.

    For numbers and classes it shows paths of the beliefs; for images, sets and texts what the network expects.

    Arguments:
        model: The model.
        n_steps: Number of steps.
        sampler: The sampler; by default the choice of :func:`~bfn_toolkit.default_sampler`.
        paths: Number of samples; by default 60 of numbers, and 6 of images, sets and texts.
        codec: Codec of the data, by which texts are known.
        condition: Conditions of the samples by name.
        mask: True where the samples have data.
    """
    family = model.family
    paths = paths or flow_paths(family, codec)
    weight = next(model.parameters())
    sampler = sampler or default_sampler(family, n_steps)
    count = sampler.nfe(n_steps)
    chosen = {1 + round(i * (count - 1) / (TIMES - 1)) for i in range(TIMES)}
    steps: list[SamplerStep] = []
    if mask is not None:
        model = MaskedModel(model, map_data(lambda part: part.to(weight.device), mask))
    model = watched(
        model,
        count,
        lambda step: steps.append(step) if step.number in chosen else None,
    )
    tracks: dict[str, list[Tensor]] = {part.name: [] for part in family.walk()}
    labels: dict[str, str] = {}
    for state in sampler.trajectory(
        model, paths, n_steps=n_steps, condition=condition, device=weight.device, dtype=weight.dtype
    ):
        for part in family.walk(state.params):
            beliefs, is_mean = beliefs_of(part.family, *part.values)
            labels[part.name] = r"mean $\mu$" if is_mean else "first feature of the beliefs"
            beliefs = beliefs.reshape(len(beliefs), -1)
            tracks[part.name].append(flattened(beliefs[:, : 2 if beliefs.shape[1] == 2 else 1]))  # what is drawn
    times = sampler.times(model, n_steps)
    state.output(model, times[-1], condition)
    strips = _strips(family, steps, mask, codec)
    figure, axes = _figure(7.0, 4.0, axes=len(tracks))
    for axis, (name, track) in zip(axes, tracks.items(), strict=True):
        if name in strips:
            _draw_strip(axis, strips[name], [float(step.t) for step in steps], paths)
            axis.set_title(name or f"what the network expects, from t = 0 to t = 1, in {n_steps} steps", fontsize=10)
            continue
        means = torch.stack(track)  # (n + 1, paths, 1 or 2)
        if means.shape[2] == 2:
            for i in range(paths):
                axis.plot(means[:, i, 0].tolist(), means[:, i, 1].tolist(), color=BLUE, lw=0.6, alpha=0.6)
            axis.set(xlabel=r"$\mu_1$", ylabel=r"$\mu_2$", aspect="equal")
        else:
            axis.plot(times.tolist(), means[..., 0].tolist(), color=BLUE, lw=0.6, alpha=0.6)
            axis.set(xlabel="t", ylabel=labels[name])
        axis.set_title(name or f"sample flows: {paths} paths of {n_steps} steps")
    return figure


def _strips(
    family: Family[Any], steps: Sequence[SamplerStep], mask: Mask | None, codec: Codec | None
) -> dict[str, View]:
    """What the network expected at some steps, of those parts that are images, sets or texts: a row for each sample.

    Images and points are expectations, classes the most probable ones.
    """
    estimates: dict[str, list[Tensor]] = {part.name: [] for part in family.walk()}
    for step in steps:
        for part in family.walk(step.output):
            (output,) = part.values
            exact = part.family.is_discrete and part.family.example_kind is not ExampleKind.IMAGE
            estimates[part.name].append((output.mode if exact else output.mean).cpu())

    def by_sample(values: Sequence[Tensor]) -> Tensor:
        return torch.stack(list(values), 1).flatten(0, 1)

    x = family.join({name: by_sample(values) for name, values in estimates.items()})
    masks = None if mask is None else map_data(lambda part: by_sample([part.cpu()] * len(steps)), mask)
    found = views(family, Batch(x, mask=masks), codec, texts=STRIPS * TIMES, decoded=False)
    return {view.name: view for view in found if _is_pictured(view)}


def _draw_strip(axis: Axes, view: View, times: Sequence[float], paths: int) -> None:
    """Draws the estimates of each sample, in a row for images and sets, and one below the other for texts."""
    columns, captions = len(times), [f"t = {t:.2g}" for t in times]
    if view.texts:
        lines = []
        for row in range(min(paths, LINES // columns)):
            texts = view.texts[row * columns : (row + 1) * columns]
            lines += [f"{t:.2f}  {one_line(text, WIDE - 6)}" for t, text in zip(times, texts, strict=True)]
        draw_texts(axis, lines, WIDE)
    elif view.kind is ExampleKind.IMAGE:
        last = view.values[columns - 1 :: columns]
        draw_images(axis, view.values, columns, last, captions)
    else:
        last = view.values[columns - 1 :: columns]
        draw_sets(axis, view.values, columns, last, view.types, view.type_names, captions)


def figures(plan: ResolvedPlan, samples: Data | None = None) -> Mapping[str, Callable[[], Figure]]:
    """The figures of a run by name, each drawn when called; ``samples`` are the first ones of the plan."""
    run, wanted = plan.run, plan.plan
    experiment, family = run.experiment, run.model.family
    training = {"training": lambda: training_figure(run.metrics)}
    if run.codec.is_table:
        typed = cache(lambda: Sides.of(plan, plan.draw() if samples is None else samples).typed)
        pairs = {"pairs": lambda: pairs_figure(*typed())} if len(run.codec.names) > 1 else {}
        return {"columns": lambda: columns_figure(*typed()), **pairs, **training}

    def data() -> Batch:  # read only here: the other figures do not need the file
        return run.split("all")

    def drawn() -> Batch:
        rows = range(batch_size(samples))
        return Batch(samples, plan.draws.condition(torch.arange(len(rows))) or {}, plan.mask(rows))

    def flows() -> Figure:
        rows = range(flow_paths(family, run.codec))
        try:
            condition = plan.draws.condition(torch.arange(len(rows)))
        except DataError:  # conditions of training rows whose file is gone
            condition = None
        with seeded(wanted.seed, "flows"):
            return flows_figure(
                plan.draws.model,
                wanted.steps,
                plan.draws.sampler,
                len(rows),
                codec=run.codec,
                condition=condition,
                mask=plan.mask(rows),
            )

    # Networks of images, of sequences and of sets are no functions of one number.
    plain = len(family.network_io.site_shape) < 2 and family.example_kind is not ExampleKind.SEQUENCE
    return {
        "data": lambda: data_figure(family, data(), run.codec),
        **({"smoke_test": lambda: smoke_figure(experiment.network)} if plain else {}),
        "schedule": lambda: schedule_figure(experiment.family, wanted.steps),
        **training,
        "samples": lambda: samples_figure(family, drawn(), data(), wanted.steps, run.codec),
        "flows": flows,
    }
