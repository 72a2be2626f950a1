"""Columns of numbers in files: .csv, .csv.gz, .npy, .npz and .safetensors, without pickle and with places.

Every fault of a file is reported with its line or row, and its column.  A table is read quickly by numpy; if numpy
fails, it is read again record by record.
"""

from __future__ import annotations

import csv
import gzip
import io
import math
import tokenize
import warnings
import zipfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO, TypeAlias

import attrs
import numpy as np
from safetensors import SafetensorError, safe_open

from bfn_files.reading import check_unpacked, reading
from bfn_toolkit import ConfigError, DataError

Array: TypeAlias = "np.ndarray[Any, Any]"

FORMATS = (".csv", ".csv.gz", ".npy", ".npz", ".safetensors")
ROWS = 10_000  # rows of a table that are read together
LINE = 10**6  # smallest number of characters of a line that is refused
FIRST = 100  # rows of a table, or numbers of an array, that are looked at to tell what it is
SHOWN = 20  # largest number of names in a message


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


def read_columns(path: Path, columns: Sequence[str] | None, label: str | None) -> tuple[Values, Values | None]:
    """Reads the named columns, or all columns of numbers, and optionally a column of labels.

    Arguments:
        path: A file whose name ends in one of :data:`FORMATS`.
        columns: Names of columns of a table, or of arrays; None for all columns of numbers.
        label: Name of another column or array (B,), which holds labels; None for no labels.
    Raises:
        ConfigError: If there are no columns with these names.
        DataError: If the file is damaged, or a value is not a number.
    """
    name = path.name.lower()
    if name.endswith((".csv", ".csv.gz")):
        return _read_csv(path, columns, label)
    if name.endswith(".npy"):
        return _read_npy(path, columns, label)
    read = open_npz if name.endswith(".npz") else _safetensors
    with read(path) as (names, load):
        return _read_arrays(path, names, load, columns, label)


def _chosen(
    path: Path, names: Sequence[str], columns: Sequence[str] | None, label: str | None, default: Sequence[str]
) -> list[str]:
    """Names of the data's columns: the named ones, or the default ones without the label."""
    for name in (*(columns or ()), *([label] if label else ())):
        if name not in names:
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
        names, header, numeric = _columns_of(path)
        places = [names.index(column) for column in numeric]
        rows = [[fields[i] for i in places if i < len(fields)] for _, fields in islice(_records(path), header, FIRST)]
        first = np.array([_number(text) for row in rows for text in row if _is_number(text)])
        return Glimpse(numeric, None, first, bool(header))
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


def _records(path: Path) -> Iterator[tuple[int, list[str]]]:
    with _text(path) as lines:
        yield from records_of(path, lines)


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


@contextmanager
def _text(path: Path) -> Iterator[Iterator[str]]:
    """Lines of a table, compressed or not."""
    with reading(path) as file:
        compressed = path.name.lower().endswith(".gz")
        with gzip.GzipFile(fileobj=file) if compressed else file as plain:
            text = io.TextIOWrapper(plain, "utf-8-sig", newline="")
            try:
                yield _lines(path, text)
            except UnicodeDecodeError as error:
                line = _not_utf8(path)
                raise DataError(f"{path}:{line}: not UTF-8; save the file as UTF-8") from error


def _lines(path: Path, text: io.TextIOWrapper) -> Iterator[str]:
    for number, line in enumerate(iter(partial(text.readline, LINE), ""), 1):
        if len(line) == LINE:
            raise DataError(f"{path}:{number}: a line of {LINE:,} characters or more is not a row of a table")
        yield line


def _check_packed(path: Path) -> None:
    """Unpacks a table once and discards it, so that a too large one is refused before its rows fill the memory."""
    with reading(path) as file, gzip.GzipFile(fileobj=file) as plain:
        packed, unpacked = path.stat().st_size, 0
        while block := plain.read(2**20):
            unpacked += len(block)
            check_unpacked(path, "the table", unpacked, packed)


def _not_utf8(path: Path) -> int:
    """Number of the first line that is not UTF-8."""
    opened: BinaryIO | gzip.GzipFile
    with reading(path) as file:
        opened = gzip.GzipFile(fileobj=file) if path.name.lower().endswith(".gz") else file
        for number, line in enumerate(opened, 1):
            try:
                line.decode()
            except UnicodeDecodeError:
                return number
    return number


def _number(text: str) -> float:
    """Parses a number; blank text is NaN, and Python's 1_0 and digits of other scripts are refused."""
    if not text or text.isspace():
        return math.nan
    if "_" in text or not text.isascii():
        raise ValueError(text)
    return float(text)


def _is_number(text: str) -> bool:
    try:
        _number(text)
    except ValueError:
        return False
    return True


def _says_number(text: str) -> bool:
    return _is_number(text) and not math.isnan(_number(text))


def _read_csv(path: Path, columns: Sequence[str] | None, label: str | None) -> tuple[Values, Values | None]:
    if path.name.lower().endswith(".gz"):
        _check_packed(path)
    names, header, numeric = _columns_of(path)
    chosen = _chosen(path, names, columns, label, numeric)
    if not chosen:
        raise DataError(f"{path}: no column of numbers among {', '.join(names[:SHOWN])}")
    left_out = [repr(name) for name in names if name not in {*chosen, label}]
    if left_out and not columns:
        warnings.warn(
            f"{path}: left out columns that do not begin with a number: {', '.join(left_out[:SHOWN])}", stacklevel=2
        )
    named = label is not None and label not in numeric  # a label of texts
    take = [names.index(name) for name in [*chosen, *([label] if label and not named else [])]]
    matrix = _quickly(path, names, header, take)
    if matrix is None:
        matrix = _carefully(path, names, header, take)

    def row(number: int) -> str:
        return f"{path}:{next(islice(_records(path), header + number, None))[0]}"

    data = Values(matrix[:, : len(chosen)], chosen, row)
    if label and named:
        classes, categories = _categories(path, header, names.index(label), label)
        return data, Values(classes, [label], row, categories)
    return data, Values(matrix[:, -1], [label], row) if label else None


def _categories(path: Path, header: int, column: int, name: str) -> tuple[Array, Sequence[str]]:
    """Classes (B,) of a column of names, NaN where it is blank, and the different names in order.

    Raises:
        DataError: If some are numbers, or there is only one.
    """
    lines, texts = zip(*((n, row[column].strip()) for n, row in islice(_records(path), header, None)), strict=True)
    categories = sorted(set(texts) - {""})
    if len(categories) < 2 or any(map(_says_number, categories)):
        line, text = next((n, t) for n, t in zip(lines, texts, strict=True) if not _is_number(t))
        raise DataError(
            f"{path}:{line}: column '{name}': expected a number, got {_cut(text)}; "
            "a label by name has two or more names, and no numbers among them"
        )
    index = {text: float(number) for number, text in enumerate(categories)}
    return np.array([index.get(text, math.nan) for text in texts]), categories


def _columns_of(path: Path) -> tuple[list[str], int, list[str]]:
    """Names of all columns, number of headers (0 or 1), and names of the columns that begin with a number or a blank.

    The first record is a header if it has text above a number, or no number at all; without a header, the columns are
    x1, x2, ...  A column without a name, such as the row index of pandas, does not count as numeric.
    """
    records = [fields for _, fields in islice(_records(path), 2)]
    if not records:
        raise DataError(f"{path}: no rows: the file is empty")
    first, below = records[0], records[-1]
    if len(first) == 1 and (other := next((c for c in ";\t" if c in first[0]), None)):
        raise DataError(f"{path}:1: the fields are separated by {other!r}; separate them by commas")
    text_above_number = any(not _is_number(a) and _says_number(b) for a, b in zip(first, below, strict=False))
    if not text_above_number and any(map(_says_number, first)):
        names = [f"x{i + 1}" for i in range(len(first))]
        return names, 0, [name for name, text in zip(names, first, strict=True) if _is_number(text)]
    if len(records) == 1:
        raise DataError(f"{path}: no rows below the header {_cut(','.join(first))}")
    names = [text.strip() for text in first]
    doubled = next((name for name in names if names.count(name) > 1), None)
    if doubled is not None:
        raise DataError(f"{path}:1: two columns are named '{doubled}'; rename one")
    return names, 1, [name for name, text in zip(names, below, strict=False) if name and _is_number(text)]


def _quickly(path: Path, names: Sequence[str], header: int, take: Sequence[int]) -> Array | None:
    """Reads the columns with numpy; None if there is a quote, a blank line or a fault."""
    parts = []
    with _text(path) as lines:
        for text in islice(lines, header):
            if '"' in text or text.isspace():
                return None
        while chunk := list(islice(lines, ROWS)):
            commas = len(names) - 1
            if any(text.count(",") != commas or '"' in text or text.isspace() for text in chunk):
                return None
            try:
                parts.append(np.loadtxt(chunk, np.float64, comments=None, delimiter=",", usecols=take, ndmin=2))
            except ValueError:
                return None
    return np.concatenate(parts) if parts else None


def _carefully(path: Path, names: Sequence[str], header: int, take: Sequence[int]) -> Array:
    """Reads the columns record by record; raises DataError with the place of the first fault."""
    parts, records = [], islice(_records(path), header, None)
    while chunk := list(islice(records, ROWS)):
        for line, fields in chunk:
            if len(fields) != len(names):
                raise DataError(f"{path}:{line}: found {len(fields)} fields, expected {len(names)}")
        part = np.empty((len(chunk), len(take)))
        for j, column in enumerate(take):
            texts = [fields[column] for _, fields in chunk]
            try:
                part[:, j] = _all_numbers(texts)
            except ValueError:
                for i, text in enumerate(texts):
                    if not _is_number(text):
                        place = f"{path}:{chunk[i][0]}: column '{names[column]}'"
                        raise DataError(f"{place}: expected a number, got {_cut(text)}") from None
                part[:, j] = [_number(text) for text in texts]
        parts.append(part)
    return np.concatenate(parts)


def _all_numbers(texts: Sequence[str]) -> Array:
    """Applies :func:`_number` to many texts quickly; raises ValueError if one is blank or not a plain number."""
    together = "".join(texts)
    if "_" in together or not together.isascii():
        raise ValueError("not plain numbers")
    return np.fromiter(map(float, texts), np.float64, len(texts))


def _cut(text: str) -> str:
    return repr(text[:40]) + ("..." if len(text) > 40 else "")


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
    data = array[:, [names.index(name) for name in chosen]] if columns or label else array
    return Values(data, chosen, row), Values(array[:, names.index(label)], [label], row) if label else None


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
        DataError: If its dtype is not one of the kinds, or its header claims more than ``size`` bytes.
    """
    try:
        version = np.lib.format.read_magic(stream)
        read = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}[version]
        shape, fortran, dtype = read(stream)
    except (ValueError, KeyError, TypeError, SyntaxError, tokenize.TokenError, RecursionError) as error:
        raise DataError(f"{path}: {what} is truncated or no .npy: {' '.join(str(error).split())[:100]}") from error
    if dtype.hasobject:
        raise DataError(f"{path}: {what} has the dtype object, which would be unpickled; save it as numbers")
    if dtype.kind not in kinds:
        names = " or names" if "U" in kinds else ""
        raise DataError(f"{path}: {what} has the dtype {dtype}; expected integers, floats or booleans{names}")
    expected = math.prod(shape) * dtype.itemsize
    if size is not None and (any(length < 0 for length in shape) or expected > size):
        found = f"its header claims the shape {shape}, {expected:,} bytes, which is larger than the file"
        raise DataError(f"{path}: {what} is truncated or damaged: {found}")
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

    with reading(path):
        try:
            with safe_open(path, framework="pt") as opened:
                yield list(opened.keys()), load
        except SafetensorError as error:
            raise DataError(f"{path}: truncated or no .safetensors: {error}") from error
