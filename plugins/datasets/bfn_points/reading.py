"""Sets of points in files: .npz, .xyz and .ply, without pickle and with places.

These formats are read here because the libraries that read them do not fit: ``plyfile`` is under the GPL, and ``ase``
brings a simulation package and names no line of a fault.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO, TypeAlias

import attrs
import numpy as np

from bfn_files.columns import open_npz
from bfn_files.reading import reading
from bfn_toolkit import DataError

Array: TypeAlias = "np.ndarray[Any, Any]"

LINE = 10**6  # smallest number of bytes of a line that is refused
HEADER = 10**5  # smallest number of bytes of a PLY header that is refused
UNNAMED = "X"  # name of a point without a type in an .xyz file


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


def read_points(path: Path) -> PointSets:
    """Reads the sets of a file that ends in .npz or .xyz, or the one set of a .ply file.

    Raises:
        DataError: If the file is damaged, or is not of the format that its name promises.
    """
    return READERS[path.suffix.lower()](path)


def _cut(text: bytes) -> str:
    return repr(text.strip()[:40].decode("utf-8", "replace"))


# Arrays


def _npz(path: Path) -> PointSets:
    with open_npz(path, kinds="biufUS") as (names, load):
        known = ("positions", "mask", "sizes", "types", "charges", "label")
        arrays = {name: load(name) for name in known if name in names}
    if "positions" not in arrays:
        raise DataError(f"{path}: no array is named 'positions'; it has {', '.join(names) or 'none'}")
    positions = arrays["positions"]
    if positions.dtype.kind not in "iuf" or positions.ndim not in (2, 3) or positions.shape[-1] not in (2, 3):
        raise DataError(
            f"{path}: positions are {positions.dtype} of shape {positions.shape}; expected numbers (sets, points, 2 "
            "or 3), or (all points, 2 or 3) with sizes"
        )
    mask = _present(path, arrays)
    sizes, ragged = mask.sum(1), positions.ndim == 2
    if not (len(sizes) and sizes.all()):
        where = f"set {int(np.argmin(sizes))} of 0...{len(sizes) - 1} has" if len(sizes) else "no sets:"
        raise DataError(f"{path}: {where} 0 points; leave it out")
    classes = {}
    for name in ("types", "charges"):
        if name in arrays:
            values, expected = arrays[name], positions.shape[:-1]
            if values.shape != expected:
                raise DataError(f"{path}: {name} have the shape {values.shape}; expected {expected}, as positions have")
            classes[name] = _classes(path, name, values if ragged else values[mask])
    label = arrays.get("label")
    if label is not None and label.shape != sizes.shape:
        raise DataError(f"{path}: label has the shape {label.shape}; expected ({len(sizes)},), one for each set")

    def place(row: int, point: int) -> str:
        point = point if ragged else int(np.flatnonzero(mask[row])[point])
        return f"{path}: set {row} of 0...{len(sizes) - 1}, point {point}"

    positions = (positions if ragged else positions[mask]).astype(np.float64)
    return PointSets(positions, sizes, place, classes, None if label is None else _classes(path, "label", label))


def _present(path: Path, arrays: Mapping[str, Array]) -> Array:
    """True where a set has a point, with shape (S, N); of ragged positions, the first places."""
    positions, mask, sizes = (arrays.get(name) for name in ("positions", "mask", "sizes"))
    assert positions is not None
    if sizes is not None:
        right = sizes.ndim == 1 and sizes.dtype.kind in "iu" and (positions.ndim == 2 or len(sizes) == len(positions))
        if not right:
            raise DataError(f"{path}: sizes are {sizes.dtype} of shape {sizes.shape}; expected integers, one for each set")
        most = len(positions) if positions.ndim == 2 else positions.shape[1]
        wrong = (sizes < 0) | (sizes > most)
        if wrong.any():
            row = int(np.argmax(wrong))
            raise DataError(f"{path}: sizes: set {row} has {sizes[row]} points; expected 1 to {most}")
    if positions.ndim == 2:
        if sizes is None:
            raise DataError(
                f"{path}: positions have the shape {positions.shape}, all points one after another; add sizes, the "
                "number of points of each set, or write positions as (sets, points, 2 or 3)"
            )
        if (total := int(sizes.sum())) != len(positions):
            raise DataError(f"{path}: sizes add up to {total} points, and positions have {len(positions)}")
        return np.arange(sizes.max(initial=0)) < sizes[:, None]
    if mask is None:
        mask = np.ones(positions.shape[:2], np.bool_)
        return mask if sizes is None else np.arange(positions.shape[1]) < sizes[:, None]
    if mask.shape != positions.shape[:2] or mask.dtype.kind not in "biu" or not np.isin(mask, (0, 1)).all():
        raise DataError(
            f"{path}: mask is {mask.dtype} of shape {mask.shape}; expected booleans of shape {positions.shape[:2]}, "
            "true where there is a point"
        )
    if sizes is not None and not np.array_equal(mask.sum(1), sizes):
        row = int(np.argmax(mask.sum(1) != sizes))
        raise DataError(f"{path}: set {row} has {int(mask[row].sum())} points by the mask and {sizes[row]} by sizes")
    return mask.astype(np.bool_)


def _classes(path: Path, name: str, values: Array) -> Array:
    """Values of points or sets as names or integers; NaN and empty names stay, as gaps."""
    if values.dtype.kind == "S":
        return np.char.decode(values, "utf-8", "replace")
    if values.dtype.kind == "f":
        wrong = ~np.isnan(values) & ((values != np.floor(values)) | (np.abs(values) > 2**53))
        if wrong.any():
            raise DataError(f"{path}: {name}: expected integers or names, got {values[wrong][0]:g}")
        return values
    return values.astype(np.int64) if values.dtype.kind in "biu" else values


# XYZ


def _xyz(path: Path) -> PointSets:
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
    lines = enumerate(_lines(path, file), 1)
    last = ""
    for start, line in lines:
        if line.isspace():
            continue
        if not line.strip().isdigit():
            raise DataError(f"{path}:{start}: expected the number of points of a set, found {_cut(line)}{last}")
        if not (count := int(line)):
            raise DataError(f"{path}:{start}: a set of 0 points; leave it out")
        comment = next(lines, (0, b""))[1]
        species, position, charge = _columns(path, start + 1, comment)
        rows = [line.split() for _, line in itertools.islice(lines, count)]
        if len(rows) < count:
            raise DataError(f"{path}:{start}: says {count} points, and the file ends after {len(rows)}")
        yield start, _frame(path, start, rows, species, position, charge)
        last = f"; line {start} says {count} points, perhaps too few"


def _lines(path: Path, file: BinaryIO) -> Iterator[bytes]:
    for number in itertools.count(1):
        line = file.readline(LINE)
        if not line:
            return
        if len(line) == LINE:
            raise DataError(f"{path}:{number}: a line of {LINE:,} bytes or more is no line of a set of points")
        yield line


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
                f"{path}:{line}: expected a name and three coordinates, found {_cut(b' '.join(row))}; "
                f"line {start} says {len(rows)} points"
            )
        for text in row[position : position + 3]:
            if not _is_number(text):
                raise DataError(f"{path}:{line}: expected a coordinate, found {_cut(text)}")
        if charge is not None and not re.fullmatch(rb"[+-]?\d{1,9}", row[charge]):
            raise DataError(f"{path}:{line}: expected a charge, an integer, found {_cut(row[charge])}")
    raise AssertionError("a fault that the search does not find")


def _is_number(text: bytes) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return b"_" not in text


# PLY

_PLY_TYPES = {
    **{name: name for name in ("int8", "uint8", "int16", "uint16", "int32", "uint32", "float32", "float64")},
    **{"char": "int8", "uchar": "uint8", "short": "int16", "ushort": "uint16", "int": "int32", "uint": "uint32"},
    **{"float": "float32", "double": "float64"},
}
_PLY_ORDERS = {"ascii": "=", "binary_little_endian": "<", "binary_big_endian": ">"}


@attrs.define(eq=False)
class _Element:
    """An element of a PLY header: its fields of numbers, or None if it has a list."""

    name: str
    count: int
    fields: list[tuple[str, str]] | None = attrs.field(factory=list)


def _ply(path: Path) -> PointSets:
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
        order = _PLY_ORDERS[form]
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
    return np.dtype([(f"{i} {name}" if name not in "xyz" else name, f"{order}{np.dtype(kind).str[1:]}")
                     for i, (name, kind) in enumerate(element.fields or [])])


def _ply_header(path: Path, file: BinaryIO) -> tuple[str, list[_Element], int]:
    """Format, elements, and number of lines of a header, after which the file is placed."""
    form, elements = "", []
    for number, line in enumerate(iter(lambda: file.readline(HEADER), b""), 1):
        words = line.decode("ascii", "replace").split()
        if number == 1 and words != ["ply"]:
            raise DataError(f"{path}: not PLY: its first line is {_cut(line)}; expected 'ply'")
        match words:
            case ["end_header"]:
                if not form:
                    raise DataError(f"{path}: the header has no format; expected one of {', '.join(_PLY_ORDERS)}")
                return form, elements, number
            case ["format", kind, "1.0"] if kind in _PLY_ORDERS:
                form = kind
            case ["element", name, count] if count.isascii() and count.isdigit():
                elements.append(_Element(name, int(count)))
            case ["property", "list", _, _, _] if elements:
                elements[-1].fields = None
            case ["property", kind, name] if elements and kind in _PLY_TYPES:
                if elements[-1].fields is not None:
                    elements[-1].fields.append((name, _PLY_TYPES[kind]))
            case ["ply"] | ["comment" | "obj_info", *_] | []:
                pass
            case _:
                raise DataError(f"{path}:{number}: not a line of a PLY header: {_cut(line)}")
        if file.tell() > HEADER:
            break
    raise DataError(f"{path}: the PLY header has no end: expected the line 'end_header'")


def _ply_text(
    path: Path, file: BinaryIO, first: int, vertex: _Element, columns: Sequence[int], skip: int
) -> Array:
    """Coordinates of the vertices in the lines after the first so many."""
    lines, numbers = itertools.islice(_lines(path, file), skip, None), []
    for line, text in enumerate(itertools.islice(lines, vertex.count), first + 1):
        fields = text.split()
        chosen = [fields[column] for column in columns if column < len(fields)]
        if len(fields) != len(vertex.fields or ()):
            raise DataError(f"{path}:{line}: found {len(fields)} numbers, expected {len(vertex.fields or ())}")
        wrong = next((word for word in chosen if not _is_number(word)), None)
        if wrong is not None:
            raise DataError(f"{path}:{line}: expected a coordinate, found {_cut(wrong)}")
        numbers.append([float(word) for word in chosen])
    if len(numbers) < vertex.count:
        raise DataError(f"{path}: the header says {vertex.count} vertices, and the file ends after {len(numbers)}")
    return np.array(numbers)


READERS: Mapping[str, Callable[[Path], PointSets]] = {".npz": _npz, ".xyz": _xyz, ".ply": _ply}
