"""Reads the cells of a table as texts: .csv in its dialects, and Parquet."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeAlias

import attrs
import numpy as np

Integers: TypeAlias = "np.ndarray[Any, np.dtype[np.int32]]"


@attrs.frozen(eq=False)
class Texts:
    """One column of cells as text.

    Arguments:
        distinct: Its different texts.
        index: Number of the text of each row, int32 (N,).
    """

    distinct: tuple[str, ...]
    index: Integers


@attrs.frozen(eq=False)
class TextTable:
    """Cells of a file.

    Arguments:
        path: The file.
        columns: Columns by name, in the order of the file.
        place: Function from the number of a row, from 0, to its place in words: "people.csv:3".
    """

    path: Path
    columns: Mapping[str, Texts]
    place: Callable[[int], str]
