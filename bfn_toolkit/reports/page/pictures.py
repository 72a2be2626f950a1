"""Figures of a page, as data in the page: samples beside data for every kind of data.

They have no background, and words and axes in a grey that is read on white and on black.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator

from matplotlib.figure import Figure
from matplotlib.text import Text

from bfn_toolkit.data.codec import Codec
from bfn_toolkit.data.dataset import Batch
from bfn_toolkit.data.typed_columns import typed_size
from bfn_toolkit.families import ExampleKind, Family
from bfn_toolkit.reports.figures import share_limits
from bfn_toolkit.reports.page.blocks import Block, Passages, Picture, Pictures
from bfn_toolkit.reports.panels import BLUE, ORANGE, View, draw_view, views
from bfn_toolkit.reports.style import StyledFigure, style
from bfn_toolkit.reports.table_figures import column_figures
from bfn_toolkit.reports.tables import Sides

INK = "#808080"
DOTS = 200  # pixels to the inch
TEXTS, LETTERS = 6, 600  # texts of each side, and letters of a text
SIDE = 4.4, 3.2  # inches of one of two figures side by side


def picture(figure: Figure, alt: str, title: str = "") -> Picture:
    """A figure as PNG in a data URI, without its background."""
    for text in figure.findobj(Text):
        text.set_color(INK)
    for axis in figure.axes:
        axis.patch.set_alpha(0.0)
        axis.spines[:].set_color(INK)
        axis.tick_params(colors=INK, which="both")
    figure.patch.set_alpha(0.0)
    for inner in figure.subfigs:
        inner.patch.set_alpha(0.0)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=DOTS)
    data = base64.b64encode(buffer.getvalue()).decode()
    return Picture(f"data:image/png;base64,{data}", alt, title, round(100.0 * figure.get_figwidth()))


def side_by_side(family: Family[object], samples: Batch, data: Batch, codec: Codec) -> Iterator[Block]:
    """Samples beside data, part by part: texts as texts, and everything else as two figures in the same limits.

    Arguments:
        family: Family of the data.
        samples: The samples.
        data: Examples of the data.
        codec: Codec of the data.
    """
    for drawn, view in zip(views(family, samples, codec), views(family, data, codec), strict=True):
        if view.texts:
            yield Passages([_passages("Data", view), _passages("Samples", drawn)])
        yield _pair(drawn, view)


def _passages(title: str, view: View) -> tuple[str, list[str]]:
    return title, [text if len(text) <= LETTERS else f"{text[:LETTERS]} ..." for text in view.texts[:TEXTS]]


@style()
def _pair(drawn: View, view: View) -> Pictures:
    """Two figures of one part."""
    square = view.kind in (ExampleKind.IMAGE, ExampleKind.SET)
    name = f"{view.name}: " if view.name else ""
    sides = ((view, BLUE, "Data"), (drawn, ORANGE, "Samples"))
    figures = [StyledFigure(SIDE[0], SIDE[0] if square else SIDE[1]) for _ in sides]
    axes = [figure.add_subplot() for figure in figures]
    for axis, (side, colour, _) in zip(axes, sides, strict=True):
        draw_view(axis, side, view, colour)
    if not square:
        share_limits(axes, heights=view.kind is not ExampleKind.POINTS)
    return Pictures(
        [
            picture(figure, f"{name}{what.lower()}, drawn", f"{name}{what} ({len(side.values):,})")
            for figure, (side, _, what) in zip(figures, sides, strict=True)
        ]
    )


def columns(sides: Sides) -> Pictures:
    """The columns of a table, a figure for each: real rows filled, samples as an outline."""
    found = [picture(figure, f"column {name}: real rows and samples") for name, figure in column_figures(*sides.typed)]
    real, drawn = typed_size(sides.train) + typed_size(sides.held_out), typed_size(sides.samples)
    words = f"{real:,} real rows are filled in blue, {drawn:,} samples outlined in orange"
    more = len(sides.samples) - len(found)
    words += f"; {more:,} columns that are nearer to the data are left out." if more else "."
    return Pictures(found, "small", words)
