"""Films: beliefs and outputs from the prior to the samples, as an animated GIF.

Each part of the data has a row: its beliefs on the left, and the expectations of the network on the right, in front of
the data.  The last picture shows the samples.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from io import BytesIO
from typing import Any

import attrs
import torch
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator
from PIL import Image
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
    with_breaks,
    with_gaps,
)
from bfn_toolkit.reports.style import StyledFigure, style
from bfn_toolkit.sampling.trajectory import Trajectory
from bfn_toolkit.shapes import Data, Mask

FRAMES = 40  # largest number of pictures
SECONDS, HOLD = 4.0, 1.0  # duration of all pictures, and additional time of the last
PATHS, IMAGES = 60, 36  # largest numbers of paths (of one number) and of images
CLASSES = 24  # largest number of samples whose only class is shown

Picture = Callable[[int], None]  # draws the state at an evaluation, given its number from 0


@style()
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
    figure = StyledFigure(7.0, 3.6 * len(parts), dpi=100)
    heading = figure.suptitle("", family="monospace", fontsize=10)
    t = trajectory.arrays["t"]
    pictures = []
    for row, part in enumerate(parts):
        axes = [figure.add_subplot(len(parts), 2, 2 * row + column + 1) for column in (0, 1)]
        pictures.append(_picture(axes, trajectory, part))
    last = len(t) - 1
    frames = []
    for i in sorted({round(i * last / (FRAMES - 1)) for i in range(FRAMES)}):
        for picture in pictures:
            picture(i)
        heading.set_text(f"{title}: t = {float(t[i]):.2f}")
        pixels = BytesIO()
        figure.savefig(pixels, format="rgba", dpi=figure.dpi)
        figure.set_layout_engine("none")  # all pictures keep the layout of the first
        frames.append(Image.frombytes("RGBA", figure.canvas.get_width_height(), pixels.getvalue()).convert("RGB"))
    each = round(1000.0 * SECONDS / len(frames))
    durations = [each] * (len(frames) - 1) + [each + round(1000.0 * HOLD)]
    buffer = BytesIO()
    frames[0].save(buffer, "GIF", save_all=True, append_images=frames[1:], duration=durations, loop=0)
    return buffer.getvalue()


def _picture(axes: list[Axes], trajectory: Trajectory, part: Part) -> Picture:
    """Returns a function that draws a part, by the kind of its data."""
    t = trajectory.arrays["t"]
    beliefs, means, entropy = (
        trajectory.arrays[part.prefix + name] for name in ("beliefs", "output_mean", "output_entropy")
    )
    (data, gaps, mask), kind = part.values, part.family.example_kind
    titles = ["beliefs", "what the network expects"]
    if kind is ExampleKind.IMAGE:
        draw = _images(axes, part.family, beliefs, means, data)
    elif kind is ExampleKind.SET:
        draw = _sets(axes, beliefs, means, with_gaps(data, gaps), mask)
    elif kind in (ExampleKind.CLASS, ExampleKind.SEQUENCE):
        draw, titles[1] = _classes(axes, t, beliefs, entropy), "how unsure the network is"
    elif kind is ExampleKind.NUMBER:
        draw = _line(axes, t, with_breaks(beliefs, part.family), means, data)
    else:
        draw = _plane(axes, beliefs, means, data)

    def picture(i: int) -> None:
        for axis in axes:
            for artist in (*axis.lines, *axis.collections, *axis.patches, *axis.images, *axis.texts):
                artist.remove()  # not clear(), because new ticks take most of the time
        draw(i)
        for axis, what in zip(axes, titles, strict=True):
            axis.set_title(f"{part.name}: {what}" if part.name else what)

    return picture


def _limits(*values: Tensor) -> tuple[float, float]:
    """Limits of an axis for all values that are finite, with a margin."""
    finite = [v[v.isfinite()].double().cpu() for v in values]
    low, high = (float(end) for end in torch.cat([torch.zeros(0).double(), *finite]).aminmax())
    margin = 0.06 * (high - low) or 1.0
    return low - margin, high + margin


def _line(axes: list[Axes], t: Tensor, beliefs: Tensor, means: Tensor, data: Tensor) -> Picture:
    """One number: paths that grow with the time, and a histogram that approaches that of the data."""
    tracks, expected = (numbers.reshape(*numbers.shape[:2], -1)[..., 0] for numbers in (beliefs, means))
    reference = flattened(data)[:, 0]
    limits = _limits(reference, tracks[:, :PATHS])
    bins = max(16, min(80, expected.shape[1] // 8))
    edges = torch.linspace(*limits, bins + 1, dtype=torch.float64)
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
        axes[1].legend(loc="upper right", fontsize=8)

    return draw


def _plane(axes: list[Axes], beliefs: Tensor, means: Tensor, data: Tensor) -> Picture:
    """Two numbers, or the first two of more: points in front of the data, in a square that holds the data."""
    reference = flattened(data)[:: math.ceil(len(data) / POINTS), :2]
    clouds = [beliefs.flatten(2)[..., :2], means.flatten(2)[..., :2]]
    middle = reference.mean(0)
    reach = 1.15 * float((reference - middle).abs().max()) or 1.0
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
    if beliefs.ndim > means.ndim:  # classes: the level that is expected under the beliefs
        beliefs = _levels(_shares(beliefs), family)
    sheets = [beliefs, means]
    like = pictures(data, family)

    def draw(i: int) -> None:
        for axis, sheet in zip(axes, sheets, strict=True):
            draw_images(axis, pictures(sheet[i, : columns**2], family), columns, like)

    return draw


def _shares(features: Tensor) -> Tensor:
    """Features (..., F) of beliefs about classes as numbers from 0 to 1, which add up to 1 if F > 1."""
    low, high = features.aminmax()
    shares = (features - low) / (high - low).clamp_min(1e-9)
    return shares / shares.sum(-1, keepdim=True).clamp_min(1e-9) if features.shape[-1] > 1 else shares


def _levels(shares: Tensor, family: Family[Any]) -> Tensor:
    """Expected class; a feature beyond those of the classes stands for all of them, the mask of ``masked``."""
    classes, count = family.network_io.parts[""].classes or 2, shares.shape[-1]
    if count == 1:
        return shares[..., 0]
    levels = torch.arange(count, dtype=shares.dtype)
    levels[classes:] = 0.5 * (classes - 1)
    return shares @ levels


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
    """Classes: beliefs about the first sample, site by site, or about some of one site, and entropies."""
    table = beliefs.flatten(2, -2)  # (E, samples, sites, F)
    label, table = (
        ("sample", table[:, :CLASSES, 0]) if table.shape[2] == 1 else ("site of the first sample", table[:, 0])
    )
    low, high = float(table.min()), float(table.max())
    limits = _limits(entropy, torch.zeros(()))
    for numbers in (axes[0].xaxis, axes[0].yaxis):
        numbers.set_major_locator(MaxNLocator(integer=True))

    def draw(i: int) -> None:
        axes[0].imshow(table[i].T.tolist(), aspect="auto", cmap="Blues", vmin=low, vmax=high, interpolation="nearest")
        axes[0].set(xlabel=label, ylabel="class")
        axes[1].plot(t[: i + 1].tolist(), entropy[: i + 1, :PATHS].tolist(), color=ORANGE, lw=0.7, alpha=0.6)
        axes[1].set(xlim=(0.0, 1.02), ylim=limits, xlabel="t", ylabel="entropy in nats")

    return draw
