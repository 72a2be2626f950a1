"""Figures of a run, as ``matplotlib.figure.Figure`` values in a style of their own: no window, no global state."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import Any

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import SubFigure
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator
from torch import Tensor

from bfn_toolkit.data.codec import Codec
from bfn_toolkit.data.column_codecs import IdentityCodec
from bfn_toolkit.data.dataset import Batch
from bfn_toolkit.data.parts_codec import codec_of_part
from bfn_toolkit.errors import DataError
from bfn_toolkit.families import ExampleKind, Family, Part
from bfn_toolkit.model import Condition, Model, dtype_of_beliefs
from bfn_toolkit.randomness import seeded
from bfn_toolkit.reports.by_steps import SCORES
from bfn_toolkit.reports.panels import (
    BLUE,
    GREY,
    LINES,
    ORANGE,
    WIDE,
    View,
    class_colours,
    draw_images,
    draw_sets,
    draw_texts,
    draw_view,
    flattened,
    one_line,
    printed,
    views,
    with_breaks,
)
from bfn_toolkit.reports.style import StyledFigure, style
from bfn_toolkit.reports.table_figures import columns_figure, pairs_figure
from bfn_toolkit.reports.tables import Sides
from bfn_toolkit.runs.sampling import ResolvedPlan
from bfn_toolkit.sampling.default import default_sampler
from bfn_toolkit.sampling.masked import MaskedModel
from bfn_toolkit.sampling.sampler import Sampler, SamplerStep, watched
from bfn_toolkit.sampling.trajectory import beliefs_of
from bfn_toolkit.shapes import Data, Mask, batch_size, map_data

PATHS, DOTS, STRIPS = 60, 200, 6  # samples that are drawn as paths, as dots, and as images, sets or texts
TIMES, CLOUDS = 8, 4  # pictures from the prior to the samples, and of points
WIDEST = 60  # largest number of classes side by side
LEGEND = 20  # largest number of classes with a name in the legend


def _figure(width: float = 7.0, height: float = 3.2, axes: int = 1) -> tuple[StyledFigure, list[Axes]]:
    figure = StyledFigure(width, height)
    return figure, [figure.add_subplot(1, axes, i + 1) for i in range(axes)]


@style()
def data_figure(family: Family[Any], x: Data | Batch, codec: Codec | None = None) -> StyledFigure:
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


@style()
def samples_figure(
    family: Family[Any], samples: Data | Batch, data: Data | Batch, n_steps: int, codec: Codec | None = None
) -> StyledFigure:
    """Samples beside the data, part by part, in the same bins and limits; the title counts what lies outside.

    Batches also have masks, and labels of images.
    """
    pairs = list(zip(views(family, samples, codec), views(family, data, codec), strict=True))
    rows = [(drawn, view, panel) for drawn, view in pairs for panel in view.panels]
    figure = StyledFigure(7.0, 3.2 * len(rows))
    for row, (drawn, view, panel) in enumerate(rows):
        axes = [figure.add_subplot(len(rows), 2, 2 * row + column + 1) for column in (0, 1)]
        draw_view(axes[0], view, view, BLUE, panel)
        draw_view(axes[1], drawn, view, ORANGE, panel)
        if panel == view.panels[0]:
            axes[0].set_title(f"{view.name or 'data'} ({len(view.values):,} examples)")
            title, outside = f"{len(drawn.values):,} samples, {n_steps} steps", _outside(drawn.values, view.values)
            axes[1].set_title(f"{title}\n{outside:,} beyond the data" if outside else title)
        if panel == "data" and view.kind not in (ExampleKind.IMAGE, ExampleKind.SET):
            share_limits(axes, heights=view.kind is not ExampleKind.POINTS)
    return figure


def _outside(samples: Tensor, data: Tensor) -> int:
    """Number of samples of one number or two that lie beyond the data; of more numbers, most have one that does."""
    points, reference = flattened(samples), flattened(data)
    if points.shape[1] > 2:
        return 0
    low = reference.nan_to_num(torch.inf, torch.inf, -torch.inf).amin(0)
    high = reference.nan_to_num(-torch.inf, torch.inf, -torch.inf).amax(0)
    return int(((points < low) | (points > high)).any(1).sum())


def share_limits(axes: Sequence[Axes], heights: bool) -> None:
    """Gives the second axis the limits of the first; if y is a height, both reach the higher one."""
    if heights:
        axes[0].set_ylim(0.0, max(axis.get_ylim()[1] for axis in axes))
    axes[1].set(xlim=axes[0].get_xlim(), ylim=axes[0].get_ylim())


@style()
def schedule_figure(family: Family[Any], n_steps: int = 200) -> StyledFigure:
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
        axes[1].legend()
    axes[0].set(xlabel="t", title=r"accuracy rate $\alpha(t)$")
    axes[1].set(xlabel="t", title=r"posterior precision $1 + \beta(t)$")
    return figure


@style()
def training_figure(metrics: Sequence[Mapping[str, float]]) -> StyledFigure:
    """Loss and norm of the gradient against the step."""
    figure, axes = _figure(axes=2)
    for axis, key, title in zip(axes, ("loss", "grad_norm"), ("loss", "gradient norm before clipping"), strict=True):
        line = _series(metrics, key)
        axis.plot(*line, color=BLUE, lw=1, marker="." if line.shape[1] == 1 else None, label="training")
        axis.set(xlabel="step", title=title)
    points = _series(metrics, "valid_loss")
    if points.size:
        axes[0].plot(*points, color=ORANGE, marker="o", ms=3, label="validation")
        axes[0].legend()
    for axis in axes:
        low, high = axis.get_ylim()
        if low > 0.0 and high > 10.0 * low:
            axis.set_yscale("log")
    return figure


def _series(metrics: Sequence[Mapping[str, float]], key: str) -> np.ndarray[Any, Any]:
    """Steps and values of one measurement, NaN where they are not finite: (2, N).  The lines may be a million."""
    numbers = (line[name] for line in metrics if key in line for name in ("step", key))
    pairs = np.fromiter((np.nan if number is None else number for number in numbers), dtype=np.float64)
    return pairs.reshape(-1, 2).T


def flow_paths(family: Family[Any], codec: Codec | None = None) -> int:
    """Number of samples whose way a figure shows: few where each takes much room, and many where it is a dot."""
    zeros = {
        part.name: torch.zeros(
            1, *part.family.network_io.site_shape, dtype=torch.int64 if part.family.is_discrete else torch.float32
        )
        for part in family.walk()
    }
    shown = views(family, family.join(zeros), codec)
    if any(_is_pictured(view) or view.kind is ExampleKind.SEQUENCE for view in shown):
        return STRIPS
    return DOTS if any(view.kind is ExampleKind.POINTS for view in shown) else PATHS


def _is_pictured(view: View) -> bool:
    return view.kind in (ExampleKind.IMAGE, ExampleKind.SET) or bool(view.texts)


@style()
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
) -> StyledFigure:
    """The way from the prior to the samples, part by part; the sampler as in ``BFN.sample``.

    One number has a path, the mean of its beliefs.  Everything else is shown at a few times: for points the means of
    the beliefs and what the network expects under them; for images, sets and texts what it expects; for classes its
    first guess, paler the less sure it is.

    Arguments:
        model: The model.
        n_steps: Number of steps.
        sampler: The sampler; by default the choice of :func:`~bfn_toolkit.default_sampler`.
        paths: Number of samples; by default 200 of points, 60 of one number or class, and 6 of what takes more room.
        codec: Codec of the data, by which texts and the names of classes are known.
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
    tracks: dict[str, list[Tensor]] = {part.name: [] for part in family.walk() if _is_number(part.family)}
    for state in sampler.trajectory(
        model, paths, n_steps=n_steps, condition=condition, device=weight.device, dtype=dtype_of_beliefs(model)
    ):
        for part in family.walk(state.params):
            if part.name in tracks:
                tracks[part.name].append(flattened(beliefs_of(part.family, *part.values)[0])[:PATHS, 0])
    times = sampler.times(model, n_steps)
    state.output(model, times[-1], condition)
    strips, at = _strips(family, steps, mask, codec), [float(step.t) for step in steps]
    ways = [list(way) for way in zip(*(family.walk(step.params, step.output) for step in steps), strict=True)]
    heights = [_height(strips[name], paths) if (name := way[0].name) in strips else 2.6 for way in ways]
    figure = StyledFigure(7.0, sum(heights) + 0.3)
    figure.suptitle(f"{paths} samples, from the prior at t = 0 to the data at t = 1, in {n_steps} steps", fontsize=10)
    for way, piece in zip(
        ways, figure.subfigures(len(ways), 1, height_ratios=heights, squeeze=False)[:, 0], strict=True
    ):
        name, own = way[0].name, way[0].family
        if name in tracks:
            what = "mean of the beliefs"
            _draw_paths(piece.add_subplot(), times, torch.stack(tracks[name]), own)
        elif name in strips:
            what = "what the network expects"
            _draw_strip(piece.add_subplot(), strips[name], at, paths)
        elif own.is_discrete:
            what = "most probable class by the network, paler the less sure it is"
            _draw_guesses(piece, at, way, codec_of_part(codec or IdentityCodec(), name).class_names)
        else:
            what = "mean of the beliefs, and what the network expects under them"
            _draw_clouds(piece, at, way)
        piece.suptitle(f"{name}: {what}" if name else what, fontsize=9)
    return figure


def _at(t: float) -> str:
    """A time in few characters."""
    return f"t = {t:.2g}" if t >= 1e-3 else "t < 0.001"


def _is_number(family: Family[Any]) -> bool:
    return family.example_kind is ExampleKind.NUMBER


def _draw_paths(axis: Axes, times: Tensor, means: Tensor, family: Family[Any]) -> None:
    """Draws the means (n + 1, samples) against time."""
    axis.plot(times.tolist(), with_breaks(means, family).tolist(), color=BLUE, lw=0.6, alpha=0.6)
    axis.set(xlabel="t", ylabel=r"$\mu$", xlim=(0.0, 1.0))
    axis.locator_params(axis="y", nbins=6)  # the layout is made before the ticks whose number follows from it


def _draw_clouds(figure: SubFigure, times: Sequence[float], way: Sequence[Part]) -> None:
    """Draws the first two numbers of each sample at four times, with a line from its beliefs to the expectation.

    Angles are drawn around the whole circle, without the lines that would cross its ends.
    """
    few = [round(i * (len(times) - 1) / (CLOUDS - 1)) for i in range(CLOUDS)]
    clouds = []
    for part in (way[i] for i in few):
        params, output = part.values
        clouds.append([flattened(x)[:, :2] for x in (beliefs_of(part.family, params)[0], output.mean)])
    last = clouds[-1][1]
    middle = last.mean(0).tolist()
    reach = 1.3 * float((last - last.mean(0)).abs().max()) or 1.0
    if way[0].family.network_io.parts[""].kind == "direction":
        middle, reach = [0.0, 0.0], math.pi
    axes = figure.subplots(1, CLOUDS, sharex=True, sharey=True)
    for axis, i, cloud in zip(axes, few, clouds, strict=True):
        lines = with_breaks(torch.stack(cloud), way[0].family)
        axis.plot(*lines.permute(2, 0, 1).tolist(), color=GREY, lw=0.4, alpha=0.5)
        for points, colour, label in zip(cloud, (BLUE, ORANGE), ("beliefs", "expected"), strict=True):
            axis.scatter(*points.T.tolist(), s=5, color=colour, linewidths=0, label=label)
        axis.set_title(_at(times[i]), fontsize=8)
        limits = [(m - reach, m + reach) for m in middle]
        axis.set(aspect="equal", xlim=limits[0], ylim=limits[1], xlabel="$x_1$")
    axes[0].set_ylabel("$x_2$")
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=2, fontsize=7)


def _draw_guesses(figure: SubFigure, times: Sequence[float], way: Sequence[Part], names: Sequence[str]) -> None:
    """Draws the most probable class by time and sample; where samples have several sites, by time and site of some."""
    guesses, chances = [], []
    for part in way:
        _, output = part.values
        guess = output.mode
        chance = output.expect(lambda value, guess=guess: (value == guess).to(torch.get_default_dtype()))
        guesses.append(guess.flatten(1).cpu())
        chances.append(chance.flatten(1).cpu())
    guess, chance = torch.stack(guesses), torch.stack(chances)  # (times, samples, sites)
    classes = way[0].family.network_io.parts[""].classes or int(guess.max()) + 1
    colours = class_colours(classes)
    paleness = ((1.0 - chance) * classes / max(1, classes - 1)).clamp(0.0, 1.0).unsqueeze(-1)
    cells = (1.0 - paleness) * colours[guess] + paleness
    if cells.shape[2] == 1:  # one site: the samples side by side, in the order of their last classes
        sheets, label = [cells[:, guess[-1, :WIDEST, 0].argsort(stable=True), 0]], "sample"
    else:
        few = min(STRIPS, cells.shape[1], max(1, WIDEST // cells.shape[2]))
        sheets, label = [cells[:, i, :WIDEST] for i in range(few)], "site"
    axes = figure.subplots(1, len(sheets), sharey=True, squeeze=False)[0]
    for i, (axis, sheet) in enumerate(zip(axes, sheets, strict=True)):
        axis.imshow(sheet.tolist(), aspect="auto", interpolation="nearest")
        axis.set_xlabel(label, fontsize=8)
        if label == "site":
            axis.set_title(f"sample {i + 1}", fontsize=8)
        axis.xaxis.set_major_locator(MaxNLocator(4, integer=True))
    axes[0].set_yticks(range(len(times)), [_at(t) for t in times], fontsize=6)
    if classes <= LEGEND:
        shown = names or [str(k) for k in range(classes)]
        handles = [
            Patch(color=colour, label=printed(name)) for colour, name in zip(colours.tolist(), shown, strict=False)
        ]
        figure.legend(handles=handles, loc="outside right center", fontsize=6, title="class", title_fontsize=6)


def _strips(
    family: Family[Any], steps: Sequence[SamplerStep], mask: Mask | None, codec: Codec | None
) -> dict[str, View]:
    """Expectations of the network at some steps, for parts that are images, sets or texts: a row for each sample.

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


def _height(view: View, paths: int) -> float:
    """Height in inches of a strip that is 7 inches wide."""
    if view.texts:
        return 0.1 * TIMES * min(paths, LINES // TIMES) + 0.4
    height, width = view.values.shape[1:3] if view.kind is ExampleKind.IMAGE else (1, 1)
    return min(10.0, 6.8 / TIMES * paths * height / width + 0.5)


def _draw_strip(axis: Axes, view: View, times: Sequence[float], paths: int) -> None:
    """Draws the estimates of each sample, in a row for images and sets, and one below the other for texts."""
    columns, captions = len(times), [_at(t) for t in times]
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


def figures(
    plan: ResolvedPlan, samples: Data | None = None, paths: int | None = None
) -> Mapping[str, Callable[[], StyledFigure]]:
    """The figures of a run by name, each drawn when called.

    Arguments:
        plan: Plan of the samples.
        samples: The first samples of the plan.
        paths: Largest number of samples whose way "flows" shows.
    """
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

    def flows() -> StyledFigure:
        rows = range(min(flow_paths(family, run.codec), paths or DOTS))
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

    return {
        "data": lambda: data_figure(family, data(), run.codec),
        "schedule": lambda: schedule_figure(experiment.family, wanted.steps),
        **training,
        "samples": lambda: samples_figure(family, drawn(), data(), wanted.steps, run.codec),
        "flows": flows,
    }


@style()
def by_steps_figure(scores: Mapping[str, Any]) -> StyledFigure:
    """The score of samples against the number of steps, beside its floor.

    Arguments:
        scores: The scores "samples" of an evaluation, with "by_steps".
    """
    lines = scores["by_steps"]
    figure, (axis,) = _figure(3.5, 2.6)
    steps = [line["steps"] for line in lines]
    axis.plot(steps, [line["score"] for line in lines], color=ORANGE, marker="o", ms=4, label="samples")
    axis.axhline(lines[0]["floor"], color=BLUE, ls="--", lw=1, label="real rows in their place")
    axis.set(xscale="log", xlabel="steps", ylabel=SCORES[lines[0]["name"]], ylim=(0.0, None))
    axis.set_xticks(steps, [str(n) for n in steps])
    axis.minorticks_off()
    axis.legend(fontsize=8)
    return figure


@style()
def memorisation_figure(scores: Mapping[str, Any]) -> StyledFigure:
    """Distances of samples and of held-out rows to their nearest training rows, as cumulative shares.

    A model that copies has its curve on the left of the other.

    Arguments:
        scores: The scores "samples" of an evaluation, with "memorisation".
    """
    found = scores["memorisation"]
    figure, (axis,) = _figure(3.5, 2.6)
    for who, label, colour in (("real", "held-out rows", BLUE), ("samples", "samples", ORANGE)):
        values = found["quantiles"][who]
        axis.plot(values, np.linspace(0.0, 100.0, len(values)), color=colour, label=label)
    axis.set(xlabel="distance to the nearest training row", ylabel="% of rows", ylim=(0.0, 100.0))
    axis.set_xlim(left=0.0)
    axis.legend(fontsize=8)
    return figure
