"""Contents of a page: sections of blocks, each of which the template writes in its own way.

A block holds texts and numbers alone.  The template escapes every text, because names of columns, classes and files
come from strangers, and so may texts in the data.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import ClassVar, TypeAlias

import attrs

MINUS, PLUS_MINUS = "\N{MINUS SIGN}", "\N{PLUS-MINUS SIGN}"
DECIMALS = 6  # largest number of decimals of a number with an error


@attrs.frozen
class Number:
    """A number as people read it; the file also has its exact value.

    Arguments:
        value: The value; None if it is not finite, or not known.
        text: The value as it is shown.
    """

    value: float | None
    text: str


Cell: TypeAlias = str | Number


def number(value: float | None, stderr: float | None = None, form: str = "") -> Number:
    """A number with its standard error, of which two digits are shown.

    Arguments:
        value: The number; None if it is not finite.
        stderr: Its standard error; None if there is none.
        form: Format of a number without an error; by default four digits.
    """
    if value is None or not math.isfinite(value):
        return Number(None, "not finite")
    if stderr is None or not math.isfinite(stderr) or stderr <= 0.0:
        return Number(value, _signed(f"{value:{form}}" if form else four_digits(value)))
    decimals = min(DECIMALS, max(0, 1 - math.floor(math.log10(stderr))))
    return Number(value, _signed(f"{value:,.{decimals}f} {PLUS_MINUS} {stderr:,.{decimals}f}"))


def four_digits(value: float) -> str:
    """A number of about four digits, without an exponent where people would not write one."""
    if value == 0.0 or 1e-4 <= abs(value) < 1e6:
        decimals = 0 if value == round(value) else max(0, 3 - math.floor(math.log10(abs(value))))
        return f"{value:,.{min(decimals, DECIMALS)}f}"
    return f"{value:.3g}"


def rough(value: float, stderr: float | None = None) -> str:
    """A number in a sentence: as many decimals as its standard error lets one know, but at most three digits."""
    decimals = max(0, 2 - math.floor(math.log10(abs(value)))) if value else 0
    if stderr is not None and math.isfinite(stderr) and stderr > 0.0:
        decimals = min(decimals, max(0, -math.floor(math.log10(stderr))))
    return _signed(f"{round(value, decimals) + 0.0:,.{decimals}f}")


def _signed(text: str) -> str:
    return text.replace("-", MINUS)


@attrs.frozen
class Paragraph:
    """Sentences.

    Arguments:
        text: The sentences.
        tone: "" or "note" for what is less important, "fault" for what could not be made.
    """

    kind: ClassVar[str] = "paragraph"
    text: str
    tone: str = ""


@attrs.frozen
class Table:
    """Rows of cells.

    Arguments:
        rows: The rows; the first cell of each is its name.
        headings: Names of the columns; empty for none.
        caption: Sentence below.
    """

    kind: ClassVar[str] = "table"
    rows: Sequence[Sequence[Cell]]
    headings: Sequence[str] = ()
    caption: str = ""


@attrs.frozen
class Picture:
    """A figure as a data URI.

    Arguments:
        source: The URI.
        alt: Description for those who do not see it.
        title: Words above.
        pixels: Its width.
    """

    source: str
    alt: str
    title: str = ""
    pixels: int = 0


@attrs.frozen
class Pictures:
    """Figures side by side, or one below the other on a narrow screen.

    Arguments:
        pictures: The figures.
        width: "wide" for one that keeps its width and scrolls on a narrow screen, "half" for two in a row, "small" for
            three.
        caption: Sentence below.
    """

    kind: ClassVar[str] = "pictures"
    pictures: Sequence[Picture]
    width: str = "half"
    caption: str = ""


@attrs.frozen
class Passages:
    """Texts of the data and of the model, in columns.

    Arguments:
        columns: Title and texts of each column.
    """

    kind: ClassVar[str] = "passages"
    columns: Sequence[tuple[str, Sequence[str]]]


@attrs.frozen
class Line:
    """A line of a chart.

    Arguments:
        name: Its name in the legend; "" for none.
        points: Coordinates, as ``points`` of an SVG polyline.
        colour: Number of the colour.
        style: "raw" for a pale line, "line", "dashed", or "dots" for a line with a dot at each point.
        dots: Coordinates of the dots.
    """

    name: str
    points: str
    colour: int
    style: str = "line"
    dots: Sequence[tuple[float, float]] = ()


@attrs.frozen
class Chart:
    """Curves, with axes.

    Arguments:
        title: Words above.
        lines: The lines.
        x_ticks: Place and label of the ticks of x.
        y_ticks: The same of y.
        x_label: Words below.
    """

    title: str
    lines: Sequence[Line]
    x_ticks: Sequence[tuple[float, str]]
    y_ticks: Sequence[tuple[float, str]]
    x_label: str = "step"

    @property
    def legend(self) -> list[Line]:
        """Lines with a name."""
        return [line for line in self.lines if line.name]


@attrs.frozen
class Charts:
    """Charts side by side, or one below the other on a narrow screen."""

    kind: ClassVar[str] = "charts"
    charts: Sequence[Chart]


@attrs.frozen
class Price:
    """A row of a comparison of likelihoods.

    Arguments:
        name: Whose it is.
        cells: The numbers.
        place: Place of the dot between the ends of the scale, in percent; None if the price is not known.
        reach: Two standard errors, in the same unit.
        style: "model", "floor" or "baseline".
    """

    name: str
    cells: Sequence[Number]
    place: float | None
    reach: float
    style: str


@attrs.frozen
class Prices:
    """Likelihoods on a common scale.

    Arguments:
        rows: The rows.
        headings: Names of their numbers.
        ends: The ends of the scale.
        caption: Sentence below.
    """

    kind: ClassVar[str] = "prices"
    rows: Sequence[Price]
    headings: Sequence[str]
    ends: tuple[str, str]
    caption: str = ""


@attrs.frozen
class Code:
    """Lines to copy.

    Arguments:
        text: The lines.
        summary: Words on the button that unfolds them; "" for lines that are always seen.
    """

    kind: ClassVar[str] = "code"
    text: str
    summary: str = ""


@attrs.frozen
class Verdicts:
    """Results of checks, each with the line to write where something looks wrong."""

    kind: ClassVar[str] = "verdicts"
    rows: Sequence[Verdict]


@attrs.frozen
class Verdict:
    """The result of one check.

    Arguments:
        name: What was checked.
        state: "fine", "wrong" or "unknown".
        seen: The observation, with its number.
        line: The line to write; "" where nothing looks wrong.
    """

    name: str
    state: str
    seen: str
    line: str = ""


Block: TypeAlias = Paragraph | Table | Pictures | Passages | Charts | Prices | Code | Verdicts


@attrs.frozen
class Section:
    """A part of a page.

    Arguments:
        key: Its name in links.
        title: Its title.
        blocks: Its contents.
    """

    key: str
    title: str
    blocks: Sequence[Block]
