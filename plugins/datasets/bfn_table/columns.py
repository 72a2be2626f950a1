r"""Columns of a table: levels on a line, in classes of equal width.

A *level* is a value that occurs in the file: a number, a name, or the gap.  The levels of a column lie side by side on
the line [0, K), numbers in their order, each in an interval; K *classes* have unit width: class k is [k, k + 1).
A common level has a class of its own; a class of rarer ones shares its width by their frequencies in the training rows.
The gap, if any, is the last class.  So a point x of the line is a cell, and the class of the point is what a network
predicts.

If nearly all numbers of a column differ, it is *smooth*: values between the levels are drawn too
(:mod:`bfn_table.quantiles`).  All other cells are exactly levels.

The map from cells to points is monotone for numbers, and its inverse is exact: the middle of a level's interval is
decoded to the level, in float32.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cached_property
from itertools import pairwise
from typing import Any, Literal, TypeAlias, TypeVar, get_args

import attrs
import numpy as np

from bfn_files.numbers import NAMES, WORDS
from bfn_files.tables import Texts, shown
from bfn_table.kinds import Told, numbers_of, written
from bfn_table.quantiles import ULPS, Quantiles
from bfn_toolkit import ConfigError, TypedColumn, did_you_mean

Array: TypeAlias = "np.ndarray[Any, Any]"
T = TypeVar("T")
Kind: TypeAlias = Literal["number", "integer", "category", "boolean", "date", "datetime", "time", "constant"]
ISO = {
    "number": ("",),
    "integer": ("",),
    "date": ("%Y-%m-%d", "%Y-%m-%d %H:%M:%S"),
    "datetime": ("%Y-%m-%d %H:%M:%S", "%Y-%m-%d %H:%M:%S.%f", "%Y-%m-%d"),
    "time": ("%H:%M:%S", "%H:%M:%S.%f"),
}
ORDERED: tuple[Kind, ...] = ("number", "integer", "date", "datetime", "time")

WRONG = -1.0  # place of a text that is not a cell of a column
MOST_DECIMALS = 18  # more than a double has
MOST_LEVELS = 4000  # largest number of levels of numbers, about
NAMED = 64  # number of names that have a class of their own, whatever the number of bins
CLASS_ROWS = 12  # rows of the smallest class of a column with many levels
FEW = 16  # fewer different values than these are not smooth
SPIKES = 4  # number of the commonest values, such as 0, that may repeat in a smooth column
SHOWN = 10  # largest number of names in a message


def distinct(cells: Sequence[T]) -> tuple[tuple[T, ...], Array]:
    """The different cells, and the number of each one's among them, int32 (N,)."""
    numbers: dict[T, int] = {}
    index = np.array([numbers.setdefault(cell, len(numbers)) for cell in cells], np.int32)
    return tuple(numbers), index


def _is_increasing(numbers: Sequence[float]) -> bool:
    """Whether these are finite numbers, each above the one before."""
    if not all(isinstance(number, (int, float)) and abs(number) < math.inf for number in numbers):
        return False
    return all(a < b for a, b in pairwise(numbers))


def _texts(value: Sequence[str]) -> tuple[str, ...]:
    return tuple(value)


def _floats(value: Sequence[float]) -> tuple[float, ...]:
    return tuple(value)


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
        decimals: Decimals of numbers, or of seconds; -1 for the shortest text that gives the double.
        form: Way of writing numbers, dates and times, as of :func:`bfn_table.kinds.parsed`.
        smooth: Whether values between the levels are drawn too.
    """

    name: str
    kind: Kind
    classes: int = 1
    edges: tuple[float, ...] = attrs.field(default=(0.0, 1.0), converter=_floats)
    values: tuple[float, ...] = attrs.field(default=(), converter=_floats)
    texts: tuple[str, ...] = attrs.field(default=(), converter=_texts)
    gaps: tuple[str, ...] = attrs.field(default=(), converter=_texts)
    decimals: int = -1
    form: str = ""
    smooth: bool = False

    def check(self) -> None:
        """Checks that the levels, their ends and the way they are written fit together.

        Raises:
            ConfigError: If not, as after damage.
        """
        texts = (self.name, self.form, *self.texts, *self.gaps)
        right = all(isinstance(text, str) for text in texts) and self.kind in get_args(Kind)
        if right and self.kind == "constant":
            right = len(self.texts) > 0
        elif right:
            levels, last = self.values if self.is_ordered else self.texts, self.classes - bool(self.gaps)
            right = isinstance(last, int) and len(self.edges) == len(levels) + 1 > 1 and last <= len(levels)
            right = right and _is_increasing(self.edges) and (self.edges[0], self.edges[-1]) == (0.0, last)
            right = right and set(range(last)) <= set(self.edges) and len(set(self.texts)) == len(self.texts)
            right = right and (not self.is_ordered or _is_increasing(self.values))
        if right and self.is_ordered:
            right = isinstance(self.decimals, int) and -1 <= self.decimals <= MOST_DECIMALS
            right = right and self._can_be_written()
        if not right:
            raise ConfigError(f"column {shown(str(self.name))}: its levels, ends and form do not fit together")

    def _can_be_written(self) -> bool:
        try:
            self._written(np.array([self.values[0], self.values[-1]]))
        except (ValueError, TypeError, OverflowError):
            return False
        return True

    @property
    def is_ordered(self) -> bool:
        """Whether the levels are numbers, dates or times."""
        return self.kind in ORDERED

    def encode(self, texts: Sequence[str | None]) -> Array:
        """Places of texts, float32 (N,): the middle of the interval of the cell.

        A number that is not a level goes to its place between two levels, or to the nearer level if the column is not
        smooth; one beyond the range goes to the end.  The place is NaN for None, and for a gap in a column without
        gaps; it is :data:`WRONG` for a text that is not a cell of this column.
        """
        cells = [text or "" for text in texts]
        if self.is_ordered:
            places = self._places(numbers_of(cells, self.kind, self.form))
        else:
            places = np.array([self._place_of.get(text, self._place_of.get(text.strip(), WRONG)) for text in cells])
        gap = self.classes - 0.5 if self.gaps else np.nan
        for i, text in enumerate(cells):
            if text in self.gaps or (places[i] == WRONG and self.is_gap(text)):
                places[i] = gap
            if texts[i] is None:
                places[i] = np.nan
        return _float32(places)

    def places(self, told: Told, texts: Texts) -> Array:
        """Places of the distinct texts of the column that was told, float32."""
        if not self.is_ordered:
            return self.encode(texts.distinct)
        gap = np.isnan(told.numbers)
        return _float32(np.where(gap, self.classes - 0.5, self._places(told.numbers)))

    def never(self, texts: Sequence[str]) -> Array:
        """True at texts that are never drawn, (N,), apart from gaps.

        These are no cells of this column, numbers beyond its range and, unless it is smooth, numbers that are no level.
        """
        if self.kind == "constant":
            return np.array([text not in self.texts and not self.is_gap(text) for text in texts], np.bool_)
        places = self.encode(texts)
        never: Array = places == WRONG
        if self.is_ordered:
            numbers, values = numbers_of(texts, self.kind, self.form), np.array(self.values)
            other = (numbers < values[0]) | (numbers > values[-1])
            if not self.smooth and len(values) <= MOST_LEVELS // 2:  # of more, some may have been left out
                other |= ~np.isin(numbers, values)
            never |= other & (places < self.classes - bool(self.gaps))  # false for gaps
        return never

    def decode(self, x: Array) -> list[str]:
        """Cells at points of the line (N,)."""
        x = x.astype(np.float64)
        levels = self._levels(x)
        if not self.smooth:
            return list(self._labels[levels])
        gap = levels == len(self.values)
        values, index = np.unique(np.where(gap, self.values[0], self._quantiles.value(x)), return_inverse=True)
        texts = np.array([*self._written(values), *self.gaps[:1]], object)
        return list(texts[np.where(gap, len(values), index)])

    def typed(self, texts: Sequence[str | None]) -> TypedColumn:
        """Cells as numbers, or as names."""
        cells, index = distinct(["" if text is None or text in self.gaps else text for text in texts])
        values = numbers_of(cells, self.kind, self.form) if self.is_ordered else np.array(cells, object)
        return TypedColumn(values[index])

    def log_width(self, x: Array) -> Array:
        """Logarithm of the width of the interval of points that are decoded to the same cell, float64 (N,).

        Where numbers do not lie on a lattice, those that agree to a millionth of the distance of the quartiles count as
        the same cell.
        """
        x = x.astype(np.float64)
        levels = self._levels(x)
        widths = np.diff(self._edges, append=self.classes)[levels]
        if self.smooth:
            inside = levels < len(self.values)
            widths[inside] = self._quantiles.width(x[inside])
        log_widths: Array = np.log(np.maximum(widths, np.finfo(np.float64).tiny))
        return log_widths

    def region(self, operator: str, text: str) -> list[tuple[float, float]]:
        """Beginnings and ends of the intervals of the line whose cells compare so with a text; a gap only equals a gap.

        Raises:
            ConfigError: If the text cannot be a cell, or cells have no order.
        """
        place = self.encode([text])[0]
        if self.is_ordered and place != WRONG and not self.is_gap(text):
            start, end = self._starts(numbers_of([text], self.kind, self.form))
        elif place == WRONG or np.isnan(place):
            missing = f"column '{self.name}' has no gaps"
            raise ConfigError(missing if np.isnan(place) else self.mistake(text))
        elif operator in ("=", "!="):
            level = int(self._levels(np.array([place], np.float64))[0])
            start, end = np.append(self._edges, self.classes)[[level, level + 1]].tolist()
        else:
            what = "a gap" if self.is_gap(text) else f"a {self.kind}"
            raise ConfigError(
                f"column '{self.name}': {operator} compares numbers, {shown(text)} is {what}; use = or !="
            )
        last = self.edges[-1]
        intervals = {
            "=": [(start, end)],
            "!=": [(0.0, start), (end, float(self.classes))],
            "<": [(0.0, start)],
            "<=": [(0.0, end)],
            ">": [(end, last)],
            ">=": [(start, last)],
        }
        return [(a, b) for a, b in intervals[operator] if a < b]

    def respelled(self, texts: Sequence[str]) -> list[str]:
        """Plain numbers, dates of ISO 8601, and True and False, of a typed column, as this column writes them."""
        if self.kind == "boolean":
            own = {text.lower(): text for text in self.texts}
            return [own.get(text.lower(), text) for text in texts]
        numbers = np.full(len(texts), np.nan)
        for form in ISO.get(self.kind, ()):
            numbers = np.where(np.isnan(numbers), numbers_of(texts, self.kind, form), numbers)
        new = self._written(np.nan_to_num(numbers)) if self.is_ordered else texts
        return [text if np.isnan(number) else other for text, number, other in zip(texts, numbers, new, strict=True)]

    def is_gap(self, text: str) -> bool:
        """Whether a text that is neither a number nor a name of this column stands for a gap."""
        return text in self.gaps or text.strip().lower() in {"", *(WORDS if self.is_ordered else NAMES)}

    def mistake(self, text: str) -> str:
        """Words for a text that is not a cell."""
        hint = ""
        if self.is_ordered:
            article = "an" if self.kind == "integer" else "a"
            expected = f"{article} {self.kind} such as {self._labels[0]}"
        else:
            expected = f"{'one of ' * (len(self.texts) > 1)}{', '.join(self.texts[:SHOWN])}"
            expected += f" and {len(self.texts) - SHOWN:,} more" if len(self.texts) > SHOWN else ""
            hint = did_you_mean(text, self.texts)
        return f"column '{self.name}': expected {expected}, got {shown(text)}.{hint}"

    @property
    def range_in_words(self) -> str:
        """The ends of an ordered column, to end a message with."""
        first, last = (self._labels[0], self._labels[len(self.values) - 1]) if self.is_ordered else ("", "")
        return f": its cells are from {first} to {last}" if self.is_ordered else ""

    @cached_property
    def _edges(self) -> Array:
        return np.array(self.edges)

    @cached_property
    def _quantiles(self) -> Quantiles:
        return Quantiles(np.array(self.values), self._edges)

    @cached_property
    def _middles(self) -> Array:
        return (self._edges[1:] + self._edges[:-1]) / 2.0

    @cached_property
    def _place_of(self) -> dict[str, float]:
        """Place of each name."""
        return dict(zip(self.texts, self._middles.tolist(), strict=True))

    @cached_property
    def _labels(self) -> Array:
        """Text of each level, and of the gap."""
        texts = self._written(np.array(self.values)) if self.is_ordered else self.texts
        return np.array([*texts, *self.gaps[:1]], object)

    def _levels(self, x: Array) -> Array:
        """Number of the level at each point (N,); the gap comes after all others."""
        last = len(self.edges) - 1 - (not self.gaps)
        return np.searchsorted(self._edges[1:], x, "right").clip(max=last)

    def _places(self, numbers: Array) -> Array:
        """Places of numbers, (N,); WRONG for NaN."""
        values = np.array(self.values)
        wrong = np.isnan(numbers)
        numbers = np.where(wrong, values[0], numbers)
        if self.smooth:
            places = self._quantiles.place(numbers)
        else:
            after = np.searchsorted(values, numbers).clip(max=len(values) - 1)
            before = (after - 1).clip(0)
            places = self._middles[np.where(numbers - values[before] <= values[after] - numbers, before, after)]
        return np.where(wrong, WRONG, places)

    def _starts(self, number: Array) -> tuple[float, float]:
        """Ends of the points with numbers below one (1,), and with numbers not above it."""
        if self.smooth:
            return float(self._quantiles.start(number)[0]), float(self._quantiles.start(number, after=True)[0])
        first, last = (int(np.searchsorted(self.values, number[0], side)) for side in ("left", "right"))
        return self.edges[first], self.edges[last]

    def of_numbers(self, numbers: Array) -> list[str | None]:
        """Cells of numbers (N,), None for NaN."""
        values = numbers.astype(np.float64)
        return [None if gap else self._written(values[i : i + 1])[0] for i, gap in enumerate(np.isnan(values).tolist())]

    def _written(self, values: Array) -> list[str]:
        return [written(value, self.kind, self.decimals, self.form) for value in values.tolist()]


def _float32(places: Array) -> Array:
    """Places in float32, rounded within their classes."""
    rounded = places.astype(np.float32)
    return np.where(np.floor(rounded) > np.floor(places), np.nextafter(rounded, np.float32(0.0)), rounded)


def fit(told: Told, texts: Texts, rows: Any, bins: int) -> Column:
    """A column of a file; a constant if it has only one level.

    Arguments:
        told: Kind of the column.
        texts: Its cells.
        rows: Numbers of the training rows.
        bins: Largest number of classes, not counting that of the gap; names have at least :data:`NAMED`.
    """
    column = Column(told.name, told.kind, gaps=told.gaps, decimals=told.decimals, form=told.form)  # type: ignore[arg-type]
    if told.kind == "constant":
        return attrs.evolve(column, texts=texts.distinct[:1])
    counts = np.bincount(texts.index[np.asarray(rows)], minlength=len(texts.distinct)).astype(np.float64)
    gaps = set(told.gaps)
    levels = np.array([text not in gaps for text in texts.distinct])
    if not counts[levels].any():  # only gaps in the training rows
        counts += 1.0
    if column.is_ordered:
        values, index = np.unique(told.numbers[levels], return_inverse=True)
        column, classes, weights = _of_numbers(column, values, np.bincount(index, counts[levels]), bins)
    else:
        names = [text for text in texts.distinct if text not in gaps]
        column, classes, weights = _of_names(column, names, counts[levels], bins)
    if len(classes) == 1 and not gaps:
        return Column(told.name, "constant", texts=[texts.distinct[int(counts.argmax())]])
    return attrs.evolve(column, edges=_edges(classes, weights), classes=int(classes[-1]) + 1 + bool(gaps))


def _of_names(column: Column, names: Sequence[str], counts: Array, bins: int) -> tuple[Column, Array, Array]:
    """Names by frequency, their classes and weights: the rare ones share the last class, or more if they are many."""
    order = np.array(sorted(range(len(names)), key=lambda i: (-counts[i], names[i])))
    most = max(bins, NAMED)
    classes = np.arange(len(names))
    if len(names) > most:
        together = int(0.5 / _least_width(2 * most))
        classes = np.minimum(classes, most - 1) + (classes - most + 1).clip(0) // together
    return attrs.evolve(column, texts=[names[i] for i in order]), classes, _with_unseen(counts[order])


def _of_numbers(column: Column, values: Array, counts: Array, bins: int) -> tuple[Column, Array, Array]:
    """Numbers in their order, their classes and weights."""
    first, step, power = Quantiles(values, np.zeros(0)).lattice
    second = np.array([(first + step) / power])
    on_lattice = step > 0 and numbers_of(column._written(second), column.kind, column.form)[0] == second[0]
    others = np.sort(counts[counts > 0])[:-SPIKES]
    smooth = len(others) >= FEW and len(others) > (0.5 if on_lattice else 0.9) * others.sum()
    smooth = (smooth and (on_lattice or step == 0)) or (on_lattice and len(values) > MOST_LEVELS)
    if smooth:
        values, counts = values[counts > 0], counts[counts > 0]
    weights = _with_unseen(counts)
    classes = _grouped(weights, bins, least=4.0 if smooth else 0.0)
    values, weights, classes = _thinned(values, weights, classes, smooth=smooth)
    return attrs.evolve(column, values=values.tolist(), smooth=bool(smooth)), classes, weights


def _with_unseen(counts: Array) -> Array:
    """Weights of levels: their training rows; those without any weigh half a row, and together at most 1 %."""
    unseen = counts == 0.0
    return np.where(unseen, min(0.5, 0.01 * counts.sum() / max(1, unseen.sum())), counts)


def _grouped(weights: Array, bins: int, least: float) -> Array:
    """Class of each level: at most ``bins``, of as little weight as possible, but not below ``least``."""
    if len(weights) <= bins and not least:
        return np.arange(len(weights))
    low, high = max(least, min(CLASS_ROWS, weights.sum() / bins)), 2.0 * weights.sum()
    if _quantile_classes(weights, low)[-1] < bins:
        return _quantile_classes(weights, low)
    while high > 1.01 * low:
        middle = math.sqrt(low * high)
        low, high = (low, middle) if _quantile_classes(weights, middle)[-1] < bins else (middle, high)
    classes = _quantile_classes(weights, high)
    # Heavy levels of one weight all lose their classes at once.
    return classes if classes[-1] + 1 > 0.9 * bins else _joined(_quantile_classes(weights, low), weights, bins)


def _joined(classes: Array, weights: Array, bins: int) -> Array:
    """Class of each level after neighbours of the least weight together have become one, until ``bins`` are left."""
    totals, new = np.bincount(classes, weights), np.arange(int(classes[-1]) + 1)
    while len(totals) > bins:
        first = int((totals[:-1] + totals[1:]).argmin())
        totals[first] += totals[first + 1]
        totals = np.delete(totals, first + 1)
        new[new > first] -= 1
    return new[classes]


def _quantile_classes(weights: Array, weight: float) -> Array:
    """Class of each level: a heavy level has its own, and runs of others are divided into classes of equal weight."""
    heavy = weights > 0.8 * weight
    begins = heavy.copy()
    begins[1:] |= heavy[:-1]
    begins[0] = False
    run = np.cumsum(begins)
    total = np.bincount(run, weights)
    pieces = np.rint(total / weight).clip(1.0)
    pieces[run[heavy]] = 1.0
    before = np.cumsum(weights) - weights / 2.0 - (np.cumsum(total) - total)[run]
    begins[1:] |= np.diff(np.floor(before / total[run] * pieces[run])) != 0.0
    return np.cumsum(begins)


def _thinned(values: Array, weights: Array, classes: Array, *, smooth: bool) -> tuple[Array, Array, Array]:
    """At most about :data:`MOST_LEVELS` levels: neighbours within a class become one of them; the ends stay."""
    if len(values) <= MOST_LEVELS:
        return values, weights, classes
    share = weights / np.bincount(classes, weights)[classes]
    part = (np.cumsum(share) - share / 2.0 - classes).clip(0.0, 1.0 - 1e-9)
    pieces = max(1, MOST_LEVELS // (int(classes[-1]) + 1))
    groups = classes * pieces + np.floor(part * pieces)
    _, first, group, size = np.unique(groups, return_index=True, return_inverse=True, return_counts=True)
    kept = first + size // 2 if smooth else np.lexsort((weights, group))[np.cumsum(size) - 1]  # the middle, or heaviest
    kept[[0, -1]] = [0, len(values) - 1]
    return values[kept], np.bincount(group, weights), classes[first]


def _edges(classes: Array, weights: Array) -> list[float]:
    """Ends of the intervals of levels, which share their class by their weights."""
    share = np.maximum(weights / np.bincount(classes, weights)[classes], _least_width(int(classes[-1]) + 2))
    share /= np.bincount(classes, share)[classes]
    edges: list[float] = np.append(0.0, np.cumsum(share)).round(7).tolist()
    return edges


def _least_width(classes: int) -> float:
    """Width of an interval that survives float32."""
    return ULPS * float(np.spacing(np.float32(classes)))
