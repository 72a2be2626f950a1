"""Tells whether the first record of a table has the names of the columns.

Names may be numbers, as of years, wavelengths, or the 0, 1, 2, ... of pandas.  Then nothing is certain, and the user is
told what was decided.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import chain
from typing import Any, TypeAlias

import numpy as np

from bfn_files.numbers import NAMES, PLAIN

Array: TypeAlias = "np.ndarray[Any, Any]"

ALIKE = 0.1  # largest share of rows that look like the first record, if that has names ...
MOST_ALIKE = 0.5  # ... and those are 0, 1, 2, ...
_DATE = re.compile(r"(?a)\d{1,4}([-/.])\d{1,2}\1\d{1,4}([T ].*)?|\d+:\d+(:[\d.]+)?")
_NUMBER = re.compile(r"(?a)[+-]?(\d[\d.,]*|\.\d+)([eE][+-]?\d+)?%?")


def is_number(text: str) -> bool:
    """Whether a text looks like a number, a date or a time."""
    text = text.strip()
    return _NUMBER.fullmatch(text) is not None or _DATE.fullmatch(text) is not None


def has_header(records: Sequence[Sequence[str]]) -> tuple[bool, bool]:
    """Whether the first record has names, and whether that is certain.

    It has if there is a text above a number, no number at all, or different texts above columns that repeat others, as
    in ``2019,2020,city``; and perhaps if its numbers are names.
    """
    if not records:
        return False, True
    first, *below = [[text.strip() for text in record] for record in records]
    texts = [i for i, text in enumerate(first) if text and not is_number(text) and not _is_gap(text)]
    if not any(map(is_number, first)):
        only_gaps = any(first) and not texts
        return not (only_gaps and any(map(is_number, chain.from_iterable(below)))), True
    columns = {i: [row[i] for row in below if i < len(row)] for i in texts}
    if any(is_number(cell) for cells in columns.values() for cell in cells):
        return True, True
    new = all(first[i] not in cells and 2 * len(set(cells)) <= len(cells) for i, cells in columns.items())
    if texts and new and len(set(first)) == len(first):
        return True, True
    if all(first[i] not in cells for i, cells in columns.items()) and _are_names(first, below):
        return True, False
    return False, first != ["0"] or ["0"] in below  # the name that pandas gives to a single column, or a number


def _is_gap(text: str) -> bool:
    return text.lower() in NAMES


def _are_names(first: Sequence[str], below: Sequence[Sequence[str]]) -> bool:
    """Whether numbers above others are names.

    They are if they are written otherwise than all numbers below or far from them in each column, or if they grow from
    column to column and the rows below do not.  They are none if a column counts on from them.
    """
    if len(below) < 2 or first in below or any(len(row) != len(first) for row in below):
        return False
    places = [i for i, text in enumerate(first) if is_number(text)]
    cells = {i: [row[i] for row in below if row[i] and not _is_gap(row[i])] for i in places}
    pairs = [(first[i], column) for i, column in cells.items() if column]
    if pairs and all(_is_written_otherwise(text, column) for text, column in pairs):
        return True
    numbers = _numbers([first[i] for i in places])
    rows = np.array([_numbers([row[i] for i in places]) for row in below])
    steps = np.diff(np.concatenate([numbers[None], rows]), axis=0)
    if ((steps[0] != 0) & np.isclose(steps, steps[0], rtol=1e-6, atol=0.0).all(0)).any():  # a column counts on
        return False
    is_index = first[0] == "" and all(row[0] for row in below)
    if is_index and len({row[0] for row in below}) == len(below):
        return True
    of_pandas = [first[i] for i in places] == [str(i) for i in range(len(places))]
    for grows in (_is_even, _is_monotone):
        if grows(numbers) and sum(map(grows, rows)) <= (MOST_ALIKE if of_pandas else ALIKE) * len(rows):
            return True
    low, high = np.nanmin(rows, 0, initial=np.inf), np.nanmax(rows, 0, initial=-np.inf)
    width = high - low
    far = (width > 0) & ((numbers < low - width) | (numbers > high + width))
    return len(numbers) > 1 and len(rows) > 4 and bool(far.all())


def _is_written_otherwise(text: str, cells: Sequence[str]) -> bool:
    """Whether a text is a date above others, or has another number of decimals than all of many numbers."""
    if _DATE.fullmatch(text):
        return not any(map(_DATE.fullmatch, cells))
    digits = [_decimals(cell) for cell in cells]
    return _decimals(text) < min(digits) or (len(cells) > 4 and _decimals(text) > max(digits))


def _decimals(text: str) -> int:
    return len(re.split("[eE%]", text)[0].replace(",", ".").rpartition(".")[2]) if re.search("[.,]", text) else 0


def _numbers(texts: Sequence[str]) -> Array:
    """Numbers of texts, NaN for those that are none."""
    plain = (text.replace(",", ".") for text in texts)
    return np.array([float(text) if PLAIN.fullmatch(text) else np.nan for text in plain])


def _is_even(numbers: Array) -> bool:
    """Whether numbers grow or fall by equal steps; two of them by 1."""
    steps = np.diff(numbers)
    return (
        len(steps) > 0
        and (len(steps) > 1 or abs(steps[0]) == 1.0)
        and bool(steps[0] != 0 and np.allclose(steps, steps[0], rtol=1e-6, atol=0.0))
    )


def _is_monotone(numbers: Array) -> bool:
    """Whether five or more numbers grow, or fall, from each to the next."""
    signs = np.sign(np.diff(numbers))
    return len(signs) > 3 and abs(signs.sum()) == len(signs)
