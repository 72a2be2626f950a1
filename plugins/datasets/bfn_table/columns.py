r"""Columns of a table: levels on a line, in classes of equal width.

A *level* is a value that occurs in the training rows: a number, a name, or the gap.  The levels of a column lie side
by side on the line [0, K), numbers in their order, each in an interval; K *classes* have unit width: class k is
[k, k + 1).  A common level has a class of its own; a class of rarer ones shares its width by their frequencies.  The gap, if any,
is the last class.  So a point x of the line is a cell, and the class of the point is what a network predicts.

The map from cells to points is monotone for numbers, and its inverse is exact: the middle of a level's interval is
decoded to the level.
"""

from __future__ import annotations

from typing import Literal, TypeAlias

import attrs

Kind: TypeAlias = Literal["number", "integer", "category", "boolean", "date", "datetime", "time", "constant"]
ORDERED: tuple[Kind, ...] = ("number", "integer", "date", "datetime", "time")


@attrs.frozen
class Column:
    """One column: its levels, their places, and the way they are written.

    Arguments:
        name: Name in the header.
        kind: Kind of its cells.  A constant has one text and no place in the data of the model.
        classes: Number K of classes, that of the gap included.
        edges: Ends of the intervals of the levels: the first is 0, the last K, or K - 1 if there is a gap.
        values: Numbers of the levels of an ordered column; dates count days, times of day and datetimes seconds.
        texts: Names of the levels of a category, a boolean or a constant, as in the file.
        gaps: Spellings of a gap in the file, the commonest first; () if the column has none.
        decimals: Decimals of numbers as they are written; -1 for the shortest text that gives the double.
        smooth: Whether values between the levels of a number are drawn too.
        form: Format of dates and times as of :func:`time.strftime`; "," for numbers with a decimal comma.
    """

    name: str
    kind: Kind
    classes: int = 1
    edges: tuple[float, ...] = attrs.field(default=(0.0, 1.0), converter=tuple)
    values: tuple[float, ...] = attrs.field(default=(), converter=tuple)
    texts: tuple[str, ...] = attrs.field(default=(), converter=tuple)
    gaps: tuple[str, ...] = attrs.field(default=(), converter=tuple)
    decimals: int = -1
    smooth: bool = False
    form: str = ""

    @property
    def is_ordered(self) -> bool:
        """Whether the levels are numbers, dates or times."""
        return self.kind in ORDERED
