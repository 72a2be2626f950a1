"""Sets of points in .ply files: the vertices of one file, as text or in binary of either byte order."""

from __future__ import annotations

import itertools
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, BinaryIO

import attrs
import numpy as np

from bfn_files.reading import reading
from bfn_points.sets import Array, PointSets, is_number, lines_of, shown
from bfn_toolkit import DataError

HEADER = 10**5  # smallest number of bytes of a header that is refused

_KINDS = {
    "char": "int8",
    "uchar": "uint8",
    "short": "int16",
    "ushort": "uint16",
    "int": "int32",
    "uint": "uint32",
    "float": "float32",
    "double": "float64",
}
_KINDS |= {kind: kind for kind in _KINDS.values()}
_ORDERS = {"ascii": "=", "binary_little_endian": "<", "binary_big_endian": ">"}


@attrs.define(eq=False)
class _Element:
    """An element of a PLY header: its fields of numbers, or None if it has a list."""

    name: str
    count: int
    fields: list[tuple[str, str]] | None = attrs.field(factory=list)


def read_ply(path: Path) -> PointSets:
    """Reads the vertices of a file as one set."""
    with reading(path) as file:
        form, elements, lines = _ply_header(path, file)
        vertex = next((element for element in elements if element.name == "vertex"), None)
        if vertex is None:
            raise DataError(f"{path}: no element is named 'vertex'")
        if vertex.fields is None:
            raise DataError(f"{path}: the vertices have a list property; expected numbers such as x, y and z")
        names = [name for name, _ in vertex.fields]
        axes = [axis for axis in "xyz" if axis in names]
        if axes[:2] != ["x", "y"] or len(set(names)) < len(names):
            raise DataError(f"{path}: the vertices have the properties {', '.join(names)}; expected x, y and z")
        if not vertex.count:
            raise DataError(f"{path}: a set of 0 points; leave it out")
        before = elements[: elements.index(vertex)]
        if form == "ascii":
            first = lines + sum(element.count for element in before)
            columns = [names.index(axis) for axis in axes]
            positions = _ply_text(path, file, first, vertex, columns, skip=first - lines)
            return PointSets(positions, np.array([len(positions)]), lambda _, point: f"{path}:{first + 1 + point}")
        order = _ORDERS[form]
        size = path.stat().st_size
        if any(element.fields is None for element in before):
            raise DataError(f"{path}: an element with a list comes before the vertices; write the vertices first")
        offset = file.tell() + sum(element.count * _record(element, order).itemsize for element in before)
        record = _record(vertex, order)
        if vertex.count * record.itemsize > size - offset:
            room = max(0, size - offset) // record.itemsize
            raise DataError(f"{path}: the header says {vertex.count} vertices, and the file has room for {room}")
        file.seek(offset)
        data = np.frombuffer(file.read(vertex.count * record.itemsize), record)
        positions = np.stack([data[axis].astype(np.float64) for axis in axes], 1)
    return PointSets(positions, np.array([len(positions)]), lambda _, point: f"{path}: vertex {point}")


def _record(element: _Element, order: str) -> np.dtype[Any]:
    return np.dtype(
        [
            (f"{i} {name}" if name not in "xyz" else name, f"{order}{np.dtype(kind).str[1:]}")
            for i, (name, kind) in enumerate(element.fields or [])
        ]
    )


def _ply_header(path: Path, file: BinaryIO) -> tuple[str, list[_Element], int]:
    """Format, elements, and number of lines of a header, after which the file is placed."""
    form, elements = "", list[_Element]()
    for number, line in enumerate(iter(lambda: file.readline(HEADER), b""), 1):
        words = line.decode("ascii", "replace").split()
        if number == 1 and words != ["ply"]:
            raise DataError(f"{path}: not PLY: its first line is {shown(line)}; expected 'ply'")
        match words:
            case ["end_header"]:
                if not form:
                    raise DataError(f"{path}: the header has no format; expected one of {', '.join(_ORDERS)}")
                return form, elements, number
            case ["format", kind, "1.0"] if kind in _ORDERS:
                form = kind
            case ["element", name, count] if count.isascii() and count.isdigit() and len(count) < 19:
                elements.append(_Element(name, int(count)))
            case ["property", "list", _, _, _] if elements:
                elements[-1].fields = None
            case ["property", kind, name] if elements and kind in _KINDS:
                if elements[-1].fields is not None:
                    elements[-1].fields.append((name, _KINDS[kind]))
            case ["ply"] | ["comment" | "obj_info", *_] | []:
                pass
            case _:
                raise DataError(f"{path}:{number}: not a line of a PLY header: {shown(line)}")
        if file.tell() > HEADER:
            break
    raise DataError(f"{path}: the PLY header has no end: expected the line 'end_header'")


def _ply_text(path: Path, file: BinaryIO, first: int, vertex: _Element, columns: Sequence[int], skip: int) -> Array:
    """Coordinates of the vertices in the lines after the first so many."""
    lines, numbers = itertools.islice(lines_of(path, file), min(skip, sys.maxsize), None), []
    for line, text in enumerate(itertools.islice(lines, vertex.count), first + 1):
        fields = text.split()
        chosen = [fields[column] for column in columns if column < len(fields)]
        if len(fields) != len(vertex.fields or ()):
            raise DataError(f"{path}:{line}: found {len(fields)} numbers, expected {len(vertex.fields or ())}")
        wrong = next((word for word in chosen if not is_number(word)), None)
        if wrong is not None:
            raise DataError(f"{path}:{line}: expected a coordinate, found {shown(wrong)}")
        numbers.append([float(word) for word in chosen])
    if len(numbers) < vertex.count:
        raise DataError(f"{path}: the header says {vertex.count} vertices, and the file ends after {len(numbers)}")
    return np.array(numbers)
