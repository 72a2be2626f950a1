"""Panels: one part of some examples, drawn on a pair of axes as its family's :class:`~bfn_toolkit.ExampleKind` says.

One number per example is drawn as a histogram, two as points in the plane; of more, the first two; classes by their
frequencies, texts also as lines; images as a sheet, and sets of points each for itself.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cache
from typing import Any

import attrs
import numpy as np
import torch
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.font_manager import findfont, get_font
from torch import Tensor

from bfn_toolkit.data.codec import Codec
from bfn_toolkit.data.column_codecs import IdentityCodec
from bfn_toolkit.data.dataset import Batch
from bfn_toolkit.data.parts_codec import codec_of_part, raw_like, texts_of
from bfn_toolkit.families import ExampleKind, Family
from bfn_toolkit.masks import mask_by_part, mask_of, present
from bfn_toolkit.shapes import Data

NAMED = 64  # largest number of classes whose names are written
POINTS = 2000  # largest number of points in a cloud: more of them hide its density
BARS = 256  # largest number of classes with a bar each, which takes a while to draw
PIXELS = 480  # width of a sheet: images are not drawn much smaller than they are
TILES, CAPTIONED, SETS = 12, 8, 5  # largest numbers of columns: of images, with captions, and of sets
LINES, LETTERS, WIDE = 26, 52, 116  # of a panel of texts, and letters of one of the whole width
SIZES = "size"  # name of the captions that count points
BLUE, ORANGE, GREY = "#4269d0", "#ff725c", "#8a8a8a"


def flattened(x: Tensor) -> Tensor:
    """The numbers of each example in a row (B, D), in float64 on the CPU."""
    return x.detach().reshape(len(x), -1).cpu().double()


@attrs.frozen(eq=False)
class View:
    """One part of some examples, ready to be drawn.

    Arguments:
        name: Name of the part, or "".
        kind: Kind of an example.
        values: Numbers in the user's units, (N, *site) in float64, NaN where they are missing; of images, the channel
            comes last, if there are three.
        codec: Names of columns and classes.
        texts: The first examples as texts; empty if they are not texts.
        captions: Labels of the first examples; empty if they have none.
        types: Classes of the points of sets, (N, points), NaN where they are missing; None if they have none.
        type_names: Names of these classes.
    """

    name: str
    kind: ExampleKind
    values: Tensor
    codec: Codec = attrs.field(factory=IdentityCodec)
    texts: Sequence[str] = ()
    captions: Sequence[str] = ()
    types: Tensor | None = None
    type_names: Sequence[str] = ()

    @property
    def panels(self) -> tuple[str, ...]:
        """Pictures of the part: "texts" where it is text, and "data"."""
        return ("texts", "data") if self.texts else ("data",)


def views(
    family: Family[Any],
    examples: Data | Batch,
    codec: Codec | None = None,
    *,
    texts: int = LINES,
    decoded: bool = True,
) -> list[View]:
    """The parts of examples.

    Arguments:
        family: Family of the data.
        examples: The examples; a batch also has masks, and the condition "label".
        codec: Units, names and texts.
        texts: Largest number of texts.
        decoded: Whether numbers are in the units of the codec, to which it may round them.
    """
    codec = codec or IdentityCodec()
    batch = examples if isinstance(examples, Batch) else Batch(examples)
    batch = batch.map(lambda values: values.detach().cpu())
    x = present(batch.x, batch.mask)
    first = Batch(x, batch.condition, batch.mask).part(0, texts)
    lines = texts_of(first.x, mask_by_part(first.x, first.mask), codec)
    captions = _captions(batch.part(0, TILES**2), codec)
    found = []
    for part in family.walk(raw_like(x, codec) if decoded else x, mask_of(x, batch.mask)):
        values = with_gaps(*part.values)
        if part.family.example_kind is ExampleKind.IMAGE:
            values = pictures(values, part.family)
        own = codec_of_part(codec, part.name)
        view = View(part.name, part.family.example_kind, values, own, lines.get(part.name, ()), captions)
        found.append(view)
    points = {name: part.network_io.parts[""] for name, part in family.parts.items()}
    types = next((view for view in found if points[view.name].axes == ("set",) and view.values.ndim == 2), None)
    if types is None or points[types.name].kind != "classes":
        return found
    return [
        attrs.evolve(view, types=types.values, type_names=types.codec.class_names)
        if view.kind is ExampleKind.SET
        else view
        for view in found
    ]


def _captions(batch: Batch, codec: Codec) -> list[str]:
    labels = batch.condition.get("label")
    if labels is None or labels.ndim != 1 or labels.is_floating_point():
        return []
    names = codec.categories.get("label", ())
    return [names[label] if 0 <= label < len(names) else str(label) for label in labels.tolist()]


def with_gaps(values: Tensor, mask: Tensor) -> Tensor:
    """Values in float64 on the CPU, NaN outside the mask."""
    return torch.where(mask.cpu(), values.detach().cpu().double(), torch.nan)


def with_breaks(means: Tensor, family: Family[Any]) -> Tensor:
    """Means (times, samples, ...) of one number, NaN where an angle turns to the other end of the circle."""
    if family.network_io.parts[""].kind != "direction":
        return means
    ahead = torch.cat([torch.zeros_like(means[:1]), means.diff(dim=0)])
    return torch.where(ahead.abs() > math.pi, torch.nan, means)


def pictures(x: Tensor, family: Family[Any]) -> Tensor:
    """Images (N, *site) as (N, height, width) or, in three colours, (N, height, width, 3)."""
    axes = family.network_io.parts[""].picture_axes or ("height", "width")
    order = [1 + axes.index(axis) for axis in ("height", "width", "channel") if axis in axes]
    x = x.permute(0, *order)
    return x[..., 0] if x.ndim == 4 and x.shape[-1] == 1 else x


def draw_images(
    axis: Axes, x: Tensor, columns: int = TILES, like: Tensor | None = None, captions: Sequence[str] = ()
) -> None:
    """Draws the first images, (N, height, width) or (N, height, width, 3), as a sheet, light on dark.

    Arguments:
        axis: The axes.
        x: The images.
        columns: Number of columns, and largest number of rows.
        like: Images whose smallest number is black and whose largest is white.
        captions: Words above the first images.
    """
    like = x if like is None else like
    numbers = like[~like.isnan()].double()
    low, high = (float(numbers.min()), float(numbers.max())) if len(numbers) else (0.0, 1.0)
    rows = min(columns, math.ceil(len(x) / columns))
    tiles = ((x[: rows * columns].cpu().double() - low) / (high - low or 1.0)).clamp(0.0, 1.0).numpy()
    height, width = tiles.shape[1:3]
    above = [1 + (math.ceil(0.3 * height) if row * columns < len(captions) else 0) for row in range(rows)]
    sheet = np.full(
        (rows * height + sum(above), columns * (width + 1), *tiles.shape[3:]), 1.0 if tiles.ndim > 3 else np.nan
    )
    for i, tile in enumerate(tiles):
        row, column = divmod(i, columns)
        top, left = row * height + sum(above[: row + 1]), column * (width + 1)
        sheet[top : top + height, left : left + width] = tile
        if i < len(captions):
            place = (left + width / 2 - 0.5, top - 0.5)
            axis.text(*place, _glyphs(captions[i])[:10], fontsize=4, ha="center", va="bottom", parse_math=False)
    axis.imshow(
        sheet if sheet.ndim == 2 else np.nan_to_num(sheet), cmap="gray", vmin=0, vmax=1, interpolation="nearest"
    )
    axis.set_axis_off()


def class_colours(classes: int) -> Tensor:
    """Colours (K, 3) of the classes; up to ten are matplotlib's colour cycle."""
    if classes <= 10:
        return torch.tensor([to_rgb(f"C{k}") for k in range(classes)])
    return torch.from_numpy(colormaps["turbo"](np.linspace(0.0, 1.0, classes))[:, :3]).float()


def columns_of(x: Tensor, captions: Sequence[str] = ()) -> int:
    """Number of columns of a sheet of images (N, height, width, ...): fewer of large images, and of few."""
    most = CAPTIONED if captions else TILES
    return max(1, min(most, max(4, PIXELS // max(x.shape[1:3])), math.ceil(math.sqrt(len(x)))))


def draw_sets(
    axis: Axes,
    x: Tensor,
    columns: int = SETS,
    like: Tensor | None = None,
    types: Tensor | None = None,
    names: Sequence[str] = (),
    captions: Sequence[str] = (),
) -> None:
    """Draws the first sets of points (N, points, 2 or 3), each in a place of its own.

    Arguments:
        axis: The axes.
        x: The points, NaN where they are missing.
        columns: Number of columns.
        like: Sets whose reach decides the scale.
        types: Class of each point, which gives its colour.
        names: Names of the classes.
        captions: Words below the first sets; ``("size",)`` for the number of points, where sizes differ.
    """
    like = _flat_view(x if like is None else like).flatten(0, 1)
    like = like[~like.isnan().any(1)]
    middle = like.mean(0) if len(like) else torch.zeros(2, dtype=torch.float64)
    reach = float((like - middle).abs().amax(1).quantile(0.99)) if 0 < len(like) < 2**23 else 1.0
    cell = 3.2 * (reach or 1.0)
    there = ~x.isnan().any(-1)
    if captions == (SIZES,):
        sizes = there.sum(1)
        captions = [f"n = {size}" for size in sizes.tolist()] if bool((sizes != x.shape[1]).any()) else ()
    n = torch.arange(len(x))
    places = torch.stack([n % columns, -(n // columns)], 1).double() * cell
    points = (_flat_view(x) - middle + places.unsqueeze(1))[there]
    colours: Any = BLUE
    if types is not None:
        classes = types[there].nan_to_num().long()
        colours = [f"C{c % 10}" for c in classes.tolist()]
        for c in sorted(set(classes.tolist()))[:10]:
            axis.scatter([], [], color=f"C{c % 10}", s=12, label=_glyphs(names[c] if c < len(names) else str(c)))
        axis.legend(fontsize=6, loc="upper left", bbox_to_anchor=(1.0, 1.0), handletextpad=0.1)
    area = min(14.0, max(0.5, 220.0 / columns / max(1, x.shape[1]) ** 0.75))
    axis.scatter(points[:, 0].tolist(), points[:, 1].tolist(), s=area, c=colours, linewidths=0)
    for caption, (u, v) in zip(captions, places.tolist(), strict=False):
        axis.text(u, v - 0.5 * cell, _glyphs(caption)[:10], fontsize=5, ha="center", va="center", parse_math=False)
    rows = math.ceil(len(x) / columns)
    axis.set(xlim=(-0.5 * cell, (columns - 0.5) * cell), ylim=(-(rows - 0.4) * cell, 0.5 * cell), aspect="equal")
    axis.set_axis_off()


def _flat_view(x: Tensor) -> Tensor:
    """Points in the plane as they are, and points in space seen from the direction (1, 1, 1)."""
    if x.shape[-1] == 2:
        return x
    a, b, c = x.unbind(-1)
    return torch.stack([(b - a) / math.sqrt(2.0), (2.0 * c - a - b) / math.sqrt(6.0)], -1)


def draw_texts(axis: Axes, texts: Sequence[str], letters: int = LETTERS) -> None:
    """Draws the first texts, one below the other, in lines of so many letters; long ones are cut."""
    lines: list[str] = []
    for text in texts:
        shown = _glyphs(one_line(text, 3 * letters)) or " "
        own = [shown[i : i + letters] for i in range(0, len(shown), letters)]
        if lines and len(lines) + len(own) > LINES:
            break
        lines += [*own, ""] if len(texts[0]) > letters else own
    axis.text(0.0, 1.0, "\n".join(lines), va="top", family="monospace", fontsize=5.5, parse_math=False)
    axis.set_axis_off()


def one_line(text: str, most: int) -> str:
    """A text on one line of at most so many characters, with escapes for what cannot be printed."""
    shown = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
    return shown if len(shown) <= most else shown[: most - 1] + "\N{HORIZONTAL ELLIPSIS}"


@cache
def _known() -> frozenset[int]:
    """Code points that both fonts of the figures have."""
    fonts = [get_font(findfont(name)) for name in ("DejaVu Sans", "DejaVu Sans Mono")]
    return frozenset.intersection(*(frozenset(font.get_charmap()) for font in fonts))


def _glyphs(text: str) -> str:
    """A text without characters that matplotlib could not draw."""
    return "".join(c if ord(c) in _known() else "\N{WHITE SQUARE}" for c in text)


def draw_view(axis: Axes, view: View, like: View, colour: str, panel: str = "data") -> None:
    """Draws one part of some examples in the limits of the part ``like``."""
    if panel == "texts":
        draw_texts(axis, view.texts)
    elif view.kind is ExampleKind.IMAGE:
        draw_images(axis, view.values, columns_of(view.values, view.captions), like.values, view.captions)
    elif view.kind is ExampleKind.SET:
        columns = min(SETS, math.ceil(math.sqrt(len(view.values))))
        few = slice(columns * columns)
        types = None if view.types is None else view.types[few]
        captions = view.captions or (SIZES,)
        draw_sets(axis, view.values[few], columns, like.values, types, view.type_names, captions)
    elif view.kind in (ExampleKind.CLASS, ExampleKind.SEQUENCE):
        _draw_frequencies(axis, view.values, like.values, colour, view.codec.class_names)
    elif view.kind is ExampleKind.NUMBER:
        _draw_histogram(axis, view.values, like.values, colour, view.codec.names)
    else:
        _draw_points(axis, view.values, colour, view.codec.names)


def _numbers(x: Tensor) -> Tensor:
    """All numbers that are not missing."""
    return x[~x.isnan()]


def _draw_frequencies(axis: Axes, x: Tensor, data: Tensor, colour: str, names: Sequence[str]) -> None:
    values, classes = _numbers(x).long(), int(_numbers(data).max()) + 1
    share = torch.bincount(values, minlength=classes)[:classes] / max(1, len(values))
    if classes > BARS:
        axis.stairs(share.tolist(), torch.arange(classes + 1).sub(0.5).tolist(), fill=True, color=colour, alpha=0.7)
    else:
        axis.bar(range(classes), share.tolist(), color=colour, alpha=0.7)
    axis.set(xlabel="class", ylabel="frequency")
    if names and classes <= NAMED:
        axis.set_xticks(range(classes), [printed(name) for name in names[:classes]], fontsize=7)


def printed(name: str) -> str:
    """A name in which matplotlib reads no formula, and in which blanks and line ends are seen."""
    return _glyphs(name if name.isprintable() and not name.isspace() else ascii(name)).replace("$", r"\$")


def _draw_histogram(axis: Axes, x: Tensor, data: Tensor, colour: str, names: Sequence[str]) -> None:
    reference = _numbers(data)
    low, high = (float(end) for end in reference.aminmax()) if len(reference) else (0.0, 1.0)
    if low == high:
        low, high = low - 0.5, high + 0.5
    edges = torch.linspace(low, high, 101, dtype=torch.float64)
    counts = torch.histogram(_numbers(x), edges)[0]
    heights = counts / (counts.sum().clamp_min(1.0) * edges.diff())
    axis.stairs(heights.tolist(), edges.tolist(), fill=True, color=colour, alpha=0.7)
    axis.set(xlabel=printed(names[0]) if names else "x", ylabel="density")


def _draw_points(axis: Axes, x: Tensor, colour: str, names: Sequence[str]) -> None:
    points = flattened(x)[:, :2]
    points = points[~points.isnan().any(1)]
    points = points[:: math.ceil(len(points) / POINTS) or 1]  # evenly: rows may be in the order of their modes
    axis.scatter(points[:, 0].tolist(), points[:, 1].tolist(), s=3, alpha=0.4, color=colour)
    if len(names) < 2:
        axis.set(xlabel="$x_1$", ylabel="$x_2$", aspect="equal")
    else:  # columns with units of their own
        axis.set(xlabel=printed(names[0]), ylabel=printed(names[1]))
