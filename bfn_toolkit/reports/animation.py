"""Films: beliefs and outputs from the prior to the samples, as an animated GIF.

Each part of the data has a row: its beliefs on the left, and the expectations of the network on the right, in front of
the data.  The last picture shows the samples.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import attrs
import torch
from matplotlib.animation import PillowWriter
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from torch import Tensor

from bfn_toolkit.data.dataset import Batch
from bfn_toolkit.families import ExampleKind, Family, Part
from bfn_toolkit.masks import mask_of, present
from bfn_toolkit.reports.panels import (
    BLUE,
    GREY,
    ORANGE,
    POINTS,
    SETS,
    draw_images,
    draw_sets,
    flattened,
    pictures,
    with_gaps,
)
from bfn_toolkit.sampling.trajectory import Trajectory
from bfn_toolkit.shapes import Data, Mask

FRAMES = 40  # largest number of pictures
SECONDS, HOLD = 4.0, 1.0  # duration of all pictures, and additional time of the last
PATHS, IMAGES = 60, 36  # largest numbers of paths (of one number) and of images

Picture = Callable[[int], None]  # draws the state at an evaluation, given its number from 0


def film(trajectory: Trajectory, data: Data | Batch, title: str, mask: Mask | None = None) -> bytes:
    """Returns a GIF of a trajectory.

    Arguments:
        trajectory: Beliefs and outputs of the samples.
        data: Data for comparison.
        title: Heading, before the time.
        mask: True where the samples have data.
    """
    batch = data if isinstance(data, Batch) else Batch(data)
    gaps = mask_of(batch.x, batch.mask)
    shown = trajectory.family.walk(present(batch.x, batch.mask), gaps, mask)
    parts = [attrs.evolve(part, values=(part.values[0].cpu(), *part.values[1:])) for part in shown]
    figure = Figure(figsize=(7.0, 3.6 * len(parts)), dpi=100, layout="constrained")
    heading = figure.suptitle("", family="monospace", fontsize=10)
    t = trajectory.arrays["t"]
    pictures = []
    for row, part in enumerate(parts):
        axes = [figure.add_subplot(len(parts), 2, 2 * row + column + 1) for column in (0, 1)]
        pictures.append(_picture(axes, trajectory, part))
    last = len(t) - 1
    frames = sorted({round(i * last / (FRAMES - 1)) for i in range(FRAMES)})
    writer = PillowWriter(fps=max(1, round(len(frames) / SECONDS)))
    with TemporaryDirectory() as folder:
        path = Path(folder, "film.gif")
        with writer.saving(figure, str(path), dpi=figure.dpi):
            for i in frames + [last] * round(HOLD * writer.fps):  # equal frames become a long one
                for picture in pictures:
                    picture(i)
                heading.set_text(f"{title}: t = {float(t[i]):.2f}")
                writer.grab_frame()
                figure.set_layout_engine("none")  # all pictures keep the layout of the first
        return path.read_bytes()


def _picture(axes: list[Axes], trajectory: Trajectory, part: Part) -> Picture:
    """Returns a function that draws a part, by the kind of its data."""
    t = trajectory.arrays["t"]
    beliefs, means, entropy = (
        trajectory.arrays[part.prefix + name] for name in ("beliefs", "output_mean", "output_entropy")
    )
    (data, gaps, mask), kind = part.values, part.family.example_kind
    if kind is ExampleKind.IMAGE:
        draw = _images(axes, part.family, beliefs, means, data)
    elif kind is ExampleKind.SET:
        draw = _sets(axes, beliefs, means, with_gaps(data, gaps), mask)
    elif kind in (ExampleKind.CLASS, ExampleKind.SEQUENCE):
        draw = _classes(axes, t, beliefs, entropy)
    elif kind is ExampleKind.NUMBER:
        draw = _line(axes, t, beliefs, means, data)
    else:
        draw = _plane(axes, beliefs, means, data)

    def picture(i: int) -> None:
        for axis in axes:
            for artist in (*axis.lines, *axis.collections, *axis.patches, *axis.images, *axis.texts):
                artist.remove()  # not clear(), because new ticks take most of the time
        draw(i)
        for axis, what in zip(axes, ("beliefs", "what the network expects"), strict=True):
            axis.spines[["top", "right"]].set_visible(False)
            axis.set_title(f"{part.name}: {what}" if part.name else what, fontsize=10)

    return picture


def _limits(*values: Tensor) -> tuple[float, float]:
    """Limits of an axis for all values, with a margin."""
    low, high = min(float(v.min()) for v in values), max(float(v.max()) for v in values)
    margin = 0.06 * (high - low) or 1.0
    return low - margin, high + margin


def _line(axes: list[Axes], t: Tensor, beliefs: Tensor, means: Tensor, data: Tensor) -> Picture:
    """One number: paths that grow with the time, and a histogram that approaches that of the data."""
    tracks, expected = (numbers.reshape(*numbers.shape[:2], -1)[..., 0] for numbers in (beliefs, means))
    reference = flattened(data)[:, 0]
    limits = _limits(reference, tracks[:, :PATHS])
    edges = torch.linspace(*limits, 81, dtype=torch.float64)
    highest = 1.3 * float(torch.histogram(reference, edges, density=True)[0].max())

    def draw(i: int) -> None:
        axes[0].plot(t[: i + 1].tolist(), tracks[: i + 1, :PATHS].tolist(), color=BLUE, lw=0.7, alpha=0.6)
        axes[0].plot(t[i].expand(PATHS)[: tracks.shape[1]].tolist(), tracks[i, :PATHS].tolist(), ".", color=BLUE, ms=3)
        axes[0].set(xlim=(0.0, 1.02), ylim=limits, xlabel="t", ylabel=r"mean $\mu$")
        for values, colour, alpha, label in ((reference, GREY, 0.4, "data"), (expected[i], ORANGE, 0.7, "output")):
            heights = torch.histogram(values.to(edges), edges, density=True)[0]
            axes[1].stairs(
                heights.tolist(),
                edges.tolist(),
                orientation="horizontal",
                fill=True,
                color=colour,
                alpha=alpha,
                label=label,
            )
        axes[1].set(ylim=limits, xlim=(0.0, highest), xlabel="density")
        axes[1].legend(frameon=False, loc="upper right", fontsize=8)

    return draw


def _plane(axes: list[Axes], beliefs: Tensor, means: Tensor, data: Tensor) -> Picture:
    """Two numbers, or the first two of more: points in front of the data, in a square that holds the data."""
    reference = flattened(data)[:: math.ceil(len(data) / POINTS), :2]
    clouds = [beliefs.flatten(2)[..., :2], means.flatten(2)[..., :2]]
    middle = reference.mean(0)
    reach = 1.15 * float((reference - middle).abs().max())
    limits = [(float(m) - reach, float(m) + reach) for m in middle]

    def draw(i: int) -> None:
        for axis, cloud, colour in zip(axes, clouds, (BLUE, ORANGE), strict=True):
            axis.scatter(reference[:, 0].tolist(), reference[:, 1].tolist(), s=3, alpha=0.25, color=GREY, linewidths=0)
            axis.scatter(cloud[i, :, 0].tolist(), cloud[i, :, 1].tolist(), s=7, alpha=0.7, color=colour, linewidths=0)
            axis.set(xlim=limits[0], ylim=limits[1], aspect="equal", xlabel="$x_1$", ylabel="$x_2$")

    return draw


def _images(axes: list[Axes], family: Family[Any], beliefs: Tensor, means: Tensor, data: Tensor) -> Picture:
    """Images: a sheet of beliefs, and a sheet of expectations."""
    columns = math.isqrt(min(IMAGES, beliefs.shape[1]))
    sheets = [beliefs[..., 0] if beliefs.ndim > means.ndim else beliefs, means]
    like = pictures(data, family)

    def draw(i: int) -> None:
        for axis, sheet in zip(axes, sheets, strict=True):
            draw_images(axis, pictures(sheet[i, : columns**2], family), columns, like)

    return draw


def _sets(axes: list[Axes], beliefs: Tensor, means: Tensor, data: Tensor, mask: Tensor | None) -> Picture:
    """Sets: some beliefs, and what is expected of each."""
    columns = min(SETS, math.isqrt(means.shape[1]))
    few = slice(columns**2)
    there = mask_of(means[0, few], None if mask is None else mask[few])

    def draw(i: int) -> None:
        for axis, sets in zip(axes, (beliefs, means), strict=True):
            draw_sets(axis, with_gaps(sets[i, few], there), columns, data)

    return draw


def _classes(axes: list[Axes], t: Tensor, beliefs: Tensor, entropy: Tensor) -> Picture:
    """Classes: beliefs about the first sample, site by site, and the entropy of all outputs."""
    table = beliefs[:, 0].flatten(1, -2)  # (E, sites, F)
    low, high = float(table.min()), float(table.max())
    limits = _limits(entropy, torch.zeros(()))
    for numbers in (axes[0].xaxis, axes[0].yaxis):
        numbers.set_major_locator(MaxNLocator(integer=True))

    def draw(i: int) -> None:
        axes[0].imshow(table[i].T.tolist(), aspect="auto", cmap="Blues", vmin=low, vmax=high, interpolation="nearest")
        axes[0].set(xlabel="site of the first sample", ylabel="class")
        axes[1].plot(t[: i + 1].tolist(), entropy[: i + 1, :PATHS].tolist(), color=ORANGE, lw=0.7, alpha=0.6)
        axes[1].set(xlim=(0.0, 1.02), ylim=limits, xlabel="t", ylabel="entropy in nats")

    return draw
