"""Sets of points as they are read, and lines of text with places."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO, TypeAlias

import attrs
import numpy as np

from bfn_toolkit import DataError

Array: TypeAlias = "np.ndarray[Any, Any]"

LINE = 10**6  # smallest number of bytes of a line that is refused


@attrs.frozen(eq=False)
class PointSets:
    """Sets of points, one after another.

    Arguments:
        positions: Coordinates of all points, with shape (P, D), in float64; NaN where they are unknown.
        sizes: Number of points of each set, with shape (S,), each at least 1.
        place: Function from the number of a set, and of a point in it, to their place in the file.
        classes: Names or integers (P,) of all points, under "types" and "charges".
        label: Names or integers (S,) of the sets; None if there are none.
    """

    positions: Array
    sizes: Array
    place: Callable[[int, int], str]
    classes: Mapping[str, Array] = attrs.field(factory=dict)
    label: Array | None = None

    @property
    def starts(self) -> Array:
        """Number of the first point of each set."""
        return np.cumsum(self.sizes) - self.sizes

    def place_of(self, point: int) -> str:
        """Place of a point by its number among all."""
        row = int(np.searchsorted(self.starts, point, "right")) - 1
        return self.place(row, point - int(self.starts[row]))


def lines_of(path: Path, file: BinaryIO) -> Iterator[bytes]:
    """Lines of a file, of which one that is too long is refused."""
    for number in itertools.count(1):
        line = file.readline(LINE)
        if not line:
            return
        if len(line) == LINE:
            raise DataError(f"{path}:{number}: a line of {LINE:,} bytes or more is not a line of a set of points")
        yield line


def shown(text: bytes) -> str:
    """A text in a message."""
    return repr(text.strip()[:40].decode("utf-8", "replace"))


def is_number(text: bytes) -> bool:
    """Whether a text is a number, which may be nan or inf."""
    try:
        float(text)
    except ValueError:
        return False
    return b"_" not in text
