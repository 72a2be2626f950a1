"""Panels: one tensor of data, drawn on one pair of axes as its family's :class:`~bfn_toolkit.ExampleKind` says.

One number per example is drawn as a histogram, two as points in the plane; of more, the first two; classes by their
frequencies, images as a sheet.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from matplotlib.axes import Axes
from torch import Tensor

from bfn_toolkit.data.codec import Codec, IdentityCodec
from bfn_toolkit.families import ExampleKind

NAMED = 64  # largest number of classes whose names are written
POINTS = 2000  # largest number of points in a cloud: more of them hide its density
BARS = 256  # largest number of classes with a bar each, which takes a while to draw
BLUE, ORANGE, GREY = "#4269d0", "#ff725c", "#8a8a8a"


def flattened(x: Tensor) -> Tensor:
    """The numbers of each example in a row (B, D), in float64 on the CPU."""
    return x.detach().reshape(len(x), -1).double().cpu()


def draw_images(axis: Axes, x: Tensor, columns: int = 12, like: Tensor | None = None) -> None:
    """Draws the first examples as a sheet of images, with the grey scale of the images ``like``."""
    like = x if like is None else like
    rows = min(columns, len(x) // columns) or 1
    tiles = torch.nn.functional.pad(x[: rows * columns].double().cpu(), (1, 1, 1, 1), value=float("nan"))
    tiles = torch.nn.functional.pad(tiles, (0, 0, 0, 0, 0, rows * columns - len(tiles)), value=float("nan"))
    sheet = tiles.reshape(rows, columns, *tiles.shape[1:]).transpose(1, 2).flatten(0, 1).flatten(1)
    axis.imshow(sheet.numpy(), cmap="gray_r", vmin=float(like.min()), vmax=float(like.max()), interpolation="nearest")
    axis.set_axis_off()


def draw_data(axis: Axes, x: Tensor, data: Tensor, kind: ExampleKind, colour: str, codec: Codec | None = None) -> None:
    """Draws one tensor of samples: images, frequencies, a histogram or points, in the limits of the data.

    The codec gives the names of columns and classes.
    """
    codec = codec or IdentityCodec()
    if kind is ExampleKind.IMAGE:
        draw_images(axis, x)
    elif kind in (ExampleKind.CLASS, ExampleKind.SEQUENCE):
        _draw_frequencies(axis, x, data, colour, codec.class_names)
    elif kind is ExampleKind.NUMBER:
        _draw_histogram(axis, x, data, colour, codec.names)
    else:
        _draw_points(axis, x, colour, codec.names)


def _draw_frequencies(axis: Axes, x: Tensor, data: Tensor, colour: str, names: Sequence[str]) -> None:
    values, classes = flattened(x).long().flatten(), int(data.max()) + 1
    share = torch.bincount(values, minlength=classes)[:classes] / values.numel()
    if classes > BARS:
        axis.stairs(share.tolist(), torch.arange(classes + 1).sub(0.5).tolist(), fill=True, color=colour, alpha=0.7)
    else:
        axis.bar(range(classes), share.tolist(), color=colour, alpha=0.7)
    axis.set(xlabel="class", ylabel="frequency")
    if names and classes <= NAMED:
        axis.set_xticks(range(classes), [_printed(name) for name in names[:classes]], fontsize=7)


def _printed(name: str) -> str:
    """A name in which matplotlib reads no formula, and in which blanks and line ends are seen."""
    return (name if name.isprintable() and not name.isspace() else ascii(name)).replace("$", r"\$")


def _draw_histogram(axis: Axes, x: Tensor, data: Tensor, colour: str, names: Sequence[str]) -> None:
    edges = torch.linspace(float(data.min()), float(data.max()), 101).tolist()
    axis.hist(flattened(x)[:, 0].tolist(), bins=edges, color=colour, alpha=0.7, density=True)
    axis.set(xlabel=_printed(names[0]) if names else "x", ylabel="density")


def _draw_points(axis: Axes, x: Tensor, colour: str, names: Sequence[str]) -> None:
    points = flattened(x)
    points = points[:: math.ceil(len(points) / POINTS)]  # evenly: rows may be in the order of their modes
    axis.scatter(points[:, 0].tolist(), points[:, 1].tolist(), s=3, alpha=0.4, color=colour)
    if len(names) < 2:
        axis.set(xlabel="$x_1$", ylabel="$x_2$", aspect="equal")
    else:  # columns with units of their own
        axis.set(xlabel=_printed(names[0]), ylabel=_printed(names[1]))
