"""Columns of numbers in files: .csv, .csv.gz, .npy, .npz and .safetensors, without pickle and with places.

Every fault of a file is reported with its line or row, and its column.  A table of plain numbers is read quickly by
numpy; if numpy fails, its cells are read as texts.
"""

from __future__ import annotations

import csv
import math
import os
import re
import warnings
import zipfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeAlias

import attrs
import numpy as np
from safetensors import SafetensorError, safe_open

from bfn_files.numbers import NAMES, PLAIN, WORDS, affixes, gaps, is_number, numbers
from bfn_files.reading import check_unpacked, reading
from bfn_files.tables import TextFile, TextTable, check_names, shown
from bfn_toolkit import BFNWarning, ConfigError, DataError, array_header as read_header, tensors_header

Array: TypeAlias = "np.ndarray[Any, Any]"

FORMATS = (".csv", ".csv.gz", ".npy", ".npz", ".safetensors")
ROWS = 10_000  # rows of a table that are read together
FIRST = 100  # numbers of an array that are looked at to tell what it is
FEW = 10  # rows that may count by chance; largest number of columns in a message
SHOWN = 20  # largest number of names in a message
_UNNAMED = re.compile(r"Unnamed: \d+")  # pandas' name of an index


@attrs.frozen(eq=False)
class Values:
    """Numbers and their places in the file.

    Arguments:
        numbers: Numbers, with shape (B, *site), of any real dtype.
        names: Names of the D columns of numbers (B, D), or of the only array.
        row: Function from the index of a row to its place in the file.
        categories: Names of the classes 0, 1, ... that the numbers are, if the file has names.
    """

    numbers: Array
    names: Sequence[str]
    row: Callable[[int], str]
    categories: Sequence[str] = ()

    def place(self, index: Sequence[int]) -> str:
        """Place, in words, of the number with this index."""
        row, *site = map(int, index)
        return f"{self.row(row)}: {self.column(site)}"

    def column(self, site: Sequence[int]) -> str:
        """Name of the column or array element of a site."""
        if self.numbers.ndim <= 2 and len(self.names) == math.prod(self.numbers.shape[1:]):
            return f"column '{self.names[site[0] if site else 0]}'"
        return f"array '{self.names[0]}' at {list(site)}"


def read_columns(
    path: Path, columns: Sequence[str] | None, label: str | None, header: bool | None = None
) -> tuple[Values, Values | None]:
    """Reads the named columns, or all columns of numbers, and optionally a column of labels.

    Arguments:
        path: A file whose name ends in one of :data:`FORMATS`.
        columns: Names of columns of a table, or of arrays; None for all columns of numbers.
        label: Name of another column or array (B,), which holds labels; None for no labels.
        header: Whether the first record of a table has the names of its columns; None to tell it by the content.
    Raises:
        ConfigError: If there are no columns with these names.
        DataError: If the file is damaged, or a value is not a number.
    """
    name = path.name.lower()
    if name.endswith((".csv", ".csv.gz")):
        return _read_csv(path, columns, label, header)
    if name.endswith(".npy"):
        return _read_npy(path, columns, label)
    read = open_npz if name.endswith(".npz") else _safetensors
    with read(path) as (names, load):
        return _read_arrays(path, names, load, columns, label)


def _chosen(
    path: Path, names: Sequence[str], columns: Sequence[str] | None, label: str | None, default: Sequence[str]
) -> list[str]:
    """Names of the data's columns: the named ones, or the default ones without the label."""
    known = set(names)
    for name in (*(columns or ()), *([label] if label else ())):
        if name not in known:
            more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
            raise ConfigError(f"{path}: no column named '{name}'; it has {', '.join(names[:SHOWN])}{more}")
    if columns and label in columns:
        raise ConfigError(f"{path}: '{label}' is both one of the columns and the label; take it out of columns")
    return list(columns or [name for name in default if name != label])


@attrs.frozen(eq=False)
class Glimpse:
    """The beginning of a file, which is cheap to read.

    Arguments:
        names: Names of the columns of numbers, or of the arrays.
        shape: Shape of the only array; None for a table, and for several arrays.
        first: Its first numbers, or those of the first rows of a table.
        header: Whether a table has a header.
    """

    names: Sequence[str]
    shape: tuple[int, ...] | None = None
    first: Array | None = None
    header: bool = False


def glimpse(path: Path) -> Glimpse:
    """Reads the beginning of a file whose name ends in one of :data:`FORMATS`.

    Raises:
        DataError: If that is damaged.
    """
    name = path.name.lower()
    if name.endswith((".csv", ".csv.gz")):
        text = TextFile.of(path, whole=False)
        _, texts = _kinds(text)
        numeric = [name for name in text.names if name and name not in texts]
        rows = [record for _, record in text.first[text.header :]]
        first = [float(cell) for row in rows for cell in row if PLAIN.fullmatch(cell)]
        return Glimpse(numeric if rows else [], None, np.array(first), text.header)
    if name.endswith(".safetensors"):
        with _safetensors(path) as (arrays, _):
            return Glimpse(arrays)
    with reading(path) as file:
        if name.endswith(".npy"):
            return Glimpse([], *_beginning(path, file))
        with zipfile.ZipFile(file) as archive:
            members = archive.infolist()
            arrays = [member.filename.removesuffix(".npy") for member in members]
            if len(arrays) != 1:
                return Glimpse(arrays)
            check_unpacked(path, f"array '{arrays[0]}'", members[0].file_size, members[0].compress_size)
            with archive.open(members[0]) as stream:
                return Glimpse(arrays, *_beginning(path, stream))


def _beginning(path: Path, stream: Any) -> tuple[tuple[int, ...], Array]:
    shape, _, dtype = array_header(path, "the array", stream)
    data = stream.read(max(0, min(math.prod(shape), FIRST)) * dtype.itemsize)
    return shape, np.frombuffer(data[: len(data) // dtype.itemsize * dtype.itemsize], dtype)


# Tables


def records_of(path: Path, lines: Iterator[str], delimiter: str = ",") -> Iterator[tuple[int, list[str]]]:
    """Yields the last line number and the fields of each record that is not blank.

    Raises:
        DataError: If the lines are not CSV.
    """
    reader = csv.reader(lines, strict=True, delimiter=delimiter)
    try:
        for record in reader:
            if record:
                yield reader.line_num, record
    except csv.Error as error:
        raise DataError(f"{path}:{reader.line_num}: not CSV: {error}") from error


def _read_csv(
    path: Path, columns: Sequence[str] | None, label: str | None, header: bool | None
) -> tuple[Values, Values | None]:
    text = TextFile.of(path, header=header)
    names = text.names
    if not text.first:
        raise DataError(f"{path}: no rows: the file is empty")
    check_names(f"{path}:{text.header_line}", names)
    plain, texts = _kinds(text)
    named = [name for name in names if name and not _UNNAMED.fullmatch(name)]
    chosen = _chosen(path, names, columns, label, named)
    wanted = [name for name in chosen if columns or name not in texts]
    take = [*wanted, *([label] if label else [])]
    matrix = _quickly(text, take) if wanted and plain.issuperset(take) else None
    classes: Array | None = None
    categories: Sequence[str] = ()
    if matrix is None:
        table = text.table(text.parsed())
        read = {name: _numbers_of(table, name, required=bool(columns)) for name in chosen}
        wanted = [name for name, found in read.items() if found is not None]
        matrix = np.stack([found for found in read.values() if found is not None], 1) if wanted else np.zeros((0, 0))
        if label:
            classes, categories = _labels_of(table, label)
    elif label:
        classes, matrix = matrix[:, -1], matrix[:, :-1]
    if not wanted:
        raise DataError(f"{path}: no column of numbers among {', '.join(names[:SHOWN])}")
    if not columns:
        read_names = {*wanted, label}
        _warn_of_columns(text, [i for i, name in enumerate(names) if name not in read_names], wanted, matrix)
    data = Values(matrix, wanted, text.place)
    return data, Values(classes, [label], text.place, categories) if label and classes is not None else None


def _kinds(text: TextFile) -> tuple[set[str], set[str]]:
    """Names of the columns that begin with plain numbers, and of those that begin with texts, neither with gaps."""
    rows = [record for _, record in text.first[text.header :]]
    plain, texts = set(), set()
    for i, name in enumerate(text.names):
        cells = [row[i] for row in rows if i < len(row)]
        if all(map(PLAIN.fullmatch, cells)):
            plain.add(name)
        elif not any(is_number(cell) or not cell.strip() or cell.strip().lower() in WORDS for cell in cells):
            texts.add(name)
    return plain, texts


def _numbers_of(table: TextTable, name: str, *, required: bool) -> Array | None:
    """Numbers of a column, NaN for gaps; None if it is one of texts.

    Raises:
        DataError: If it has both, unless it is not required and most are texts.
    """
    texts = table.columns[name]

    def place(text: str) -> str:
        return f"{table.place_of(name, text)}: column '{name}'"

    missing = gaps(texts.distinct, WORDS)
    values = [text for text in texts.distinct if text not in missing]
    every = np.full(len(texts.distinct), math.nan)
    if not values:
        return every[texts.index]
    found = numbers(values, table.comma)
    if found is None:
        right = {text for text in values if is_number(text)}
        if len(right) == len(values):  # of several forms
            right = {text for text in values if affixes(text) == affixes(values[0])} - {values[-1]}
        counts = dict(zip(texts.distinct, texts.counts.tolist(), strict=True))
        if not required and 2 * sum(counts[text] for text in right) < sum(counts[text] for text in values):
            return None
        wrong = next(text for text in values if text not in right)
        raise DataError(f"{place(wrong)}: expected a number, got {shown(wrong)}")
    if found.otherwise:
        text = max(values, key=len)
        number = found.values[values.index(text)]
        message = f"{shown(text)} is read as {number:.10g}; if that is wrong, write it as 1234.5 in the file"
        warnings.warn(f"{place(text)}: {message}", BFNWarning, stacklevel=2)
    if sign := "".join(filter(None, affixes(values[0]))).strip():
        warnings.warn(f"{place(values[0])}: read without its {sign!r}", BFNWarning, stacklevel=2)
    every[[text not in missing for text in texts.distinct]] = found.values
    return every[texts.index]


def _labels_of(table: TextTable, name: str) -> tuple[Array, Sequence[str]]:
    """Numbers of a column of labels, or its classes and their names in order; NaN for gaps.

    Raises:
        DataError: If there are names and numbers, or only one name.
    """
    texts = table.columns[name]
    missing = gaps(texts.distinct, NAMES)
    values = [text for text in texts.distinct if text not in missing]
    categories = sorted({text.strip() for text in values})
    if not values or all(map(PLAIN.fullmatch, categories)):
        return np.array([math.nan if text in missing else float(text) for text in texts.distinct])[texts.index], ()
    if len(categories) < 2 or any(map(PLAIN.fullmatch, categories)):
        text = next(text for text in values if not PLAIN.fullmatch(text.strip()))
        raise DataError(
            f"{table.place_of(name, text)}: column '{name}': expected a number, got {shown(text)}; "
            "a label by name has two or more names, and no numbers among them"
        )
    index = {text: float(number) for number, text in enumerate(categories)}
    return np.array([math.nan if t in missing else index[t.strip()] for t in texts.distinct])[texts.index], categories


def _warn_of_columns(text: TextFile, left_out: Sequence[int], wanted: Sequence[str], matrix: Array) -> None:
    """Says which columns are not read, and which only count the rows."""
    if left_out:
        names, (_, first) = text.names, text.first[text.header]
        words = ", ".join(f"'{names[i]}' ({shown(first[i])})" for i in left_out[:FEW])
        words += f" and {len(left_out) - FEW} more" if len(left_out) > FEW else ""
        message = f"{text.path}: left out columns of texts or without a name: {words}"
        warnings.warn(message, BFNWarning, stacklevel=3)
    if len(matrix) > FEW and len(wanted) > 1:
        counting = np.flatnonzero((np.diff(matrix, axis=0) == 1.0).all(0))
        if len(counting):
            message = f"column '{wanted[counting[0]]}' counts the rows; name the others in columns to leave it out"
            warnings.warn(f"{text.path}: {message}", BFNWarning, stacklevel=3)


def _quickly(text: TextFile, take: Sequence[str]) -> Array | None:
    """Reads columns of plain numbers by numpy; None if there is a quote, a blank line or a fault."""
    if text.separator != "," or not text.encoding.startswith("utf-8"):
        return None
    place = {name: i for i, name in enumerate(text.names)}
    columns, commas, parts = [place[name] for name in take], len(text.first[0][1]) - 1, []
    for lines in text.lines(ROWS):
        if any(line.count(",") != commas or '"' in line or line.isspace() for line in lines):
            return None
        try:
            parts.append(np.loadtxt(lines, np.float64, comments=None, delimiter=",", usecols=columns, ndmin=2))
        except ValueError:
            return None
    return np.concatenate(parts) if parts else None


# Arrays


def _read_npy(path: Path, columns: Sequence[str] | None, label: str | None) -> tuple[Values, Values | None]:
    with reading(path) as file:
        array = _array(path, "the array", file, path.stat().st_size)
    if array.ndim != 2:
        if columns or label:
            raise ConfigError(f"{path}: only an array (B, D) has columns, and this one has the shape {array.shape}")
        return _read_arrays(path, ["x"], lambda _: array, ["x"], None)
    names = [f"x{i + 1}" for i in range(array.shape[1])]
    chosen = _chosen(path, names, columns, label, names)
    row = _row_of(path, len(array))
    place = {name: i for i, name in enumerate(names)}
    data = array[:, [place[name] for name in chosen]] if columns or label else array
    return Values(data, chosen, row), Values(array[:, place[label]], [label], row) if label else None


def _read_arrays(
    path: Path,
    names: Sequence[str],
    load: Callable[[str], Array],
    columns: Sequence[str] | None,
    label: str | None,
) -> tuple[Values, Values | None]:
    chosen = _chosen(path, names, columns, label, names)
    if not chosen:
        raise DataError(f"{path}: no rows: it holds no array{' except the label' if names else ''}")
    if not columns and len(chosen) > 1:
        more = ", ..." if len(chosen) > SHOWN else ""
        raise ConfigError(
            f'{path}: holds the arrays {", ".join(chosen[:SHOWN])}{more}; choose: columns = ["{chosen[0]}"]'
        )
    loaded = {name: load(name) for name in [*chosen, *([label] if label else [])]}
    first = loaded[chosen[0]]
    for name, array in loaded.items():
        if array.ndim == 0:
            raise DataError(f"{path}: array '{name}': expected rows, found a single number")
        if len(array) != len(first):
            raise DataError(f"{path}: differing lengths: '{chosen[0]}' has {len(first)} rows, '{name}' {len(array)}")
        if array.ndim > 1 and (name == label or len(chosen) > 1):
            raise DataError(f"{path}: column '{name}': expected the shape ({len(first)},), found {array.shape}")
    row = _row_of(path, len(first))
    data = np.stack([loaded[name] for name in chosen], 1) if first.ndim == 1 else first
    return Values(data, chosen, row), Values(loaded[label], [label], row) if label else None


def _row_of(path: Path, rows: int) -> Callable[[int], str]:
    return lambda number: f"{path}: row {number} of 0...{rows - 1}"


def _array(path: Path, what: str, stream: Any, size: int, kinds: str = "biuf") -> Array:
    """Reads the array of a .npy stream of ``size`` bytes, after checking its header against this size."""
    shape, fortran, dtype = array_header(path, what, stream, size, kinds)
    expected = math.prod(shape) * dtype.itemsize
    data = stream.read(expected)
    if len(data) < expected:
        raise DataError(f"{path}: {what} is truncated: {len(data):,} of {expected:,} bytes")
    flat = np.frombuffer(data, dtype)
    return flat.reshape(shape[::-1]).T if fortran else flat.reshape(shape)


def array_header(
    path: Path, what: str, stream: Any, size: int | None = None, kinds: str = "biuf"
) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    """Shape of the array in a .npy stream of ``size`` bytes, whether its order is Fortran's, and its dtype.

    Raises:
        DataError: If its dtype is not one of the kinds, or its header does not fit ``size``.
    """
    try:
        shape, fortran, dtype = read_header(stream)
    except ValueError as error:
        raise DataError(f"{path}: {what} is truncated or not .npy: {' '.join(str(error).split())[:100]}") from error
    if dtype.hasobject:
        raise DataError(f"{path}: {what} has the dtype object, which would be unpickled; save it as numbers")
    if dtype.kind not in kinds:
        names = " or names" if "U" in kinds else ""
        raise DataError(f"{path}: {what} has the dtype {dtype}; expected integers, floats or booleans{names}")
    expected = math.prod(shape) * dtype.itemsize
    if size is not None and (left := size - stream.tell()) != expected:
        found = "which is larger than the file" if expected > size else f"and {left:,} follow it"
        claim = f"its header claims the shape {shape}, {expected:,} bytes, {found}"
        raise DataError(f"{path}: {what} is truncated or damaged: {claim}")
    return shape, fortran, dtype


@contextmanager
def open_npz(path: Path, kinds: str = "biuf") -> Iterator[tuple[Sequence[str], Callable[[str], Array]]]:
    """Names of the arrays in an archive, and a function that reads one; ``kinds`` are the accepted ones of dtypes."""
    with reading(path) as file, zipfile.ZipFile(file) as archive:
        members = {info.filename.removesuffix(".npy"): info for info in archive.infolist()}

        def load(name: str) -> Array:
            info = members[name]
            if info.flag_bits & 1:
                raise DataError(f"{path}: array '{name}' is encrypted; save it without a password")
            check_unpacked(path, f"array '{name}'", info.file_size, info.compress_size)
            with archive.open(info) as stream:
                array = _array(path, f"array '{name}'", stream, info.file_size, kinds)
                stream.read(1)  # reaches the end, where zipfile checks the checksum
            return array

        yield list(members), load


@contextmanager
def _safetensors(path: Path) -> Iterator[tuple[Sequence[str], Callable[[str], Array]]]:
    import torch

    def load(name: str) -> Array:
        tensor = opened.get_tensor(name)
        if tensor.is_complex():
            raise DataError(
                f"{path}: array '{name}' has the dtype {tensor.dtype}; expected integers, floats or booleans"
            )
        array: Array = (
            tensor.float() if tensor.is_floating_point() and tensor.dtype != torch.float64 else tensor
        ).numpy()
        return array

    with reading(path) as file:
        try:
            tensors_header(file, os.fstat(file.fileno()).st_size)
        except (ValueError, RecursionError) as error:
            raise DataError(f"{path}: truncated or not .safetensors: {error}") from error
        try:
            with safe_open(path, framework="pt") as opened:
                yield list(opened.keys()), load
        except SafetensorError as error:
            raise DataError(f"{path}: truncated or not .safetensors: {error}") from error
