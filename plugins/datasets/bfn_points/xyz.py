"""Sets of points in .xyz files, plain or extended.

Each set is a line with the number of its points, a line of any text, and a line for each point: a name and three
coordinates.  An extended file names other columns in the second line, as in Properties=species:S:1:pos:R:3:charge:I:1.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import BinaryIO

import attrs
import numpy as np

from bfn_files.reading import reading
from bfn_points.sets import Array, PointSets, is_number, lines_of, shown
from bfn_toolkit import DataError

UNNAMED = "X"  # name of a point without a type


def read_xyz(path: Path) -> PointSets:
    """Reads all sets of a file."""
    starts, sizes, numbers, names, charges = [], [], [], [], []
    with reading(path) as file:
        for start, frame in _frames(path, file):
            starts.append(start)
            sizes.append(len(frame.names))
            numbers.append(np.array(frame.numbers).reshape(-1, 3))
            names += frame.names
            charges += frame.charges
            if len(charges) not in (0, len(names)):
                raise DataError(
                    f"{path}:{start + 1}: some sets have a column of charges and some have none; expected it in all"
                )
    if not sizes:
        raise DataError(f"{path}: no rows: the file is empty")
    classes: dict[str, Array] = {"types": np.array([name.decode("utf-8", "replace") for name in names])}
    if charges:
        classes["charges"] = np.array(charges)
    if (classes["types"] == UNNAMED).all():
        del classes["types"]
    return PointSets(
        np.concatenate(numbers), np.array(sizes), lambda row, point: f"{path}:{starts[row] + 2 + point}", classes
    )


@attrs.frozen(eq=False)
class _Frame:
    """One set of an .xyz file."""

    names: list[bytes]
    numbers: list[float]
    charges: list[int]


def _frames(path: Path, file: BinaryIO) -> Iterator[tuple[int, _Frame]]:
    """Number of the first line of each set, and the set."""
    lines = enumerate(lines_of(path, file), 1)
    last = ""
    for start, line in lines:
        if line.isspace():
            continue
        if not line.strip().isdigit():
            raise DataError(f"{path}:{start}: expected the number of points of a set, found {shown(line)}{last}")
        count = int(line.strip()[:18])  # more digits are more points than a file has, too
        if not count:
            raise DataError(f"{path}:{start}: a set of 0 points; leave it out")
        comment = next(lines, (0, b""))[1]
        species, position, charge = _columns(path, start + 1, comment)
        rows = [line.split() for _, line in itertools.islice(lines, count)]
        if len(rows) < count:
            raise DataError(f"{path}:{start}: says {count} points, and the file ends after {len(rows)}")
        yield start, _frame(path, start, rows, species, position, charge)
        last = f"; line {start} says {count} points, perhaps too few"


def _columns(path: Path, line: int, comment: bytes) -> tuple[int, int, int | None]:
    """Columns of the name, of the first coordinate and of the charge, by the Properties of an extended .xyz file."""
    found = re.search(rb"Properties=\"?([^\s\"]+)", comment)
    if found is None:
        return 0, 1, None
    fields, place, columns = found[1].decode("utf-8", "replace").split(":"), 0, {}
    for name, kind, width in zip(fields[::3], fields[1::3], fields[2::3], strict=False):
        columns[name, kind, width] = place
        place += int(width) if width.isdigit() else 0
    species, position = columns.get(("species", "S", "1")), columns.get(("pos", "R", "3"))
    if species is None or position is None:
        raise DataError(f"{path}:{line}: Properties: expected species:S:1 and pos:R:3, found {':'.join(fields)[:80]}")
    return species, position, columns.get(("charge", "I", "1"), columns.get(("charges", "I", "1")))


def _frame(
    path: Path, start: int, rows: Sequence[Sequence[bytes]], species: int, position: int, charge: int | None
) -> _Frame:
    try:
        names = [row[species] for row in rows]
        texts = [text for row in rows for text in row[position : position + 3]]
        numbers = [float(text) for text in texts]
        charges = [] if charge is None else [int(row[charge]) for row in rows]
        if len(texts) == 3 * len(rows) and b"_" not in b"".join(texts):
            return _Frame(names, numbers, charges)
    except (ValueError, IndexError):
        pass
    for line, row in enumerate(rows, start + 2):
        if len(row) < max(species + 1, position + 3, 0 if charge is None else charge + 1):
            raise DataError(
                f"{path}:{line}: expected a name and three coordinates, found {shown(b' '.join(row))}; "
                f"line {start} says {len(rows)} points"
            )
        for text in row[position : position + 3]:
            if not is_number(text):
                raise DataError(f"{path}:{line}: expected a coordinate, found {shown(text)}")
        if charge is not None and not re.fullmatch(rb"[+-]?\d{1,9}", row[charge]):
            raise DataError(f"{path}:{line}: expected a charge, an integer, found {shown(row[charge])}")
    raise AssertionError("a fault that the search does not find")
