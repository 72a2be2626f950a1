"""Reads the cells of a table as texts: .csv in its dialects, Parquet, and data frames.

pyarrow reads the rows.  The beginning of a file, its encoding and the places of faults are read by Python's ``csv``, so
that a fault is told with its line, also behind line ends within quotes.
"""

from __future__ import annotations

import codecs
import csv
import gzip
import io
import re
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property, partial
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, TypeAlias

import attrs
import numpy as np
import psutil

from bfn_files.reading import check_unpacked, fingerprint, reading
from bfn_toolkit import BFNWarning, DataError, ResourceError

if TYPE_CHECKING:
    import pyarrow as pa

Integers: TypeAlias = "np.ndarray[Any, np.dtype[np.int32]]"

FORMATS = (".csv", ".csv.gz", ".tsv", ".tsv.gz", ".parquet")
READ = (  # names of the tests of Arrow types that are read
    *("is_null", "is_string", "is_large_string", "is_string_view", "is_boolean"),
    *("is_integer", "is_floating", "is_decimal", "is_date", "is_timestamp", "is_time"),
)
SEPARATORS = ",;\t|"
FIRST = 100  # records that tell the separator and the header
BEGINNING = 2**20  # bytes that are read for them
BLOCK = 2**24  # bytes that are parsed together; no record may have more
HELD = 4  # bytes of memory for each byte of a file, as measured for numbers that all differ
COUNTED = 10**8  # largest size of a file whose rows are counted to describe it
SHOWN = 40  # characters of a text in a message
BLANK = "\n\r\t "
_BOMS = {codecs.BOM_UTF8: "utf-8-sig", codecs.BOM_UTF16_LE: "utf-16", codecs.BOM_UTF16_BE: "utf-16"}
_NUMBER = re.compile(
    r"(?a)[+-]?(\d[\d.,]*|\.\d+)([eE][+-]?\d+)?%?|\d{1,4}([-/.])\d{1,2}\3\d{1,4}([T ].*)?|\d+:\d+(:[\d.]+)?"
)


@attrs.frozen(eq=False)
class Texts:
    """One column of cells as text.

    Arguments:
        distinct: Its different texts.
        index: Number of the text of each row, int32 (N,).
    """

    distinct: tuple[str, ...]
    index: Integers

    @cached_property
    def counts(self) -> np.ndarray[Any, np.dtype[np.int64]]:
        """Number of rows with each text."""
        return np.bincount(self.index, minlength=len(self.distinct))


@attrs.frozen(eq=False)
class TextTable:
    """Cells of a file.

    Arguments:
        path: The file.
        columns: Columns by name, in the order of the file; each is converted when it is asked for.
        rows: Number of rows.
        place: Function from the number of a row, from 0, to its place in words: "people.csv:3".
        separator: Separator of the cells.
    """

    path: Path
    columns: Mapping[str, Texts]
    rows: int
    place: Callable[[int], str]
    separator: str = ","


class _Columns(Mapping[str, Texts]):
    """Columns of an Arrow table as texts."""

    def __init__(self, table: pa.Table, where: str) -> None:
        self.table, self.where = table, where
        self.numbers = {name: i for i, name in enumerate(table.column_names)}

    def __getitem__(self, name: str) -> Texts:
        return _texts(self.table.column(self.numbers[name]), f"{self.where}: column '{name}'")

    def __iter__(self) -> Iterator[str]:
        return iter(self.numbers)

    def __len__(self) -> int:
        return len(self.numbers)


def read_table(path: Path) -> TextTable:
    """Reads a file whose name ends in one of :data:`FORMATS`.

    Raises:
        DataError: If the file is malformed; it names the line.
        ResourceError: If the file does not fit into memory.
    """
    if path.name.lower().endswith(".parquet"):
        return _read_parquet(path)
    _check_memory(path)
    text = TextFile.of(path)
    names, header = text.names, text.header
    if not text.first:
        raise DataError(f"{path}: no rows: the file is empty")
    _check_names(f"{path}:{text.header_line}", names)
    table = _parsed(text, names)
    if not table.num_rows:
        raise DataError(f"{path}: no rows below the header {shown(text.separator.join(names))}")

    def place(row: int) -> str:
        line, _ = next(islice(text.records(), header + row, None))
        return f"{path}:{line}"

    return TextTable(path, _Columns(table, str(path)), table.num_rows, place, text.separator)


def table_of_frame(frame: Any) -> TextTable:
    """The cells of a data frame that has the Arrow interface ``__arrow_c_stream__``, as those of pandas and polars do.

    Raises:
        DataError: If a column holds other things than texts, numbers, truth values, dates and times.
    """
    import pyarrow as pa

    where = Path("the data frame")
    try:
        table = pa.table(frame)
    except (pa.ArrowException, TypeError, ValueError) as error:
        raise DataError(f"{where}: expected columns of texts, numbers or dates: {_line(error)}") from error
    index = [name for name in table.column_names if re.fullmatch(r"__index_level_\d+__", name)]  # of pandas
    table = table.drop_columns(index)
    _check_names(str(where), table.column_names)
    if not table.num_rows or not table.num_columns:
        raise DataError(f"{where}: no rows: found {table.num_rows} rows and {table.num_columns} columns")
    return TextTable(where, _Columns(table, str(where)), table.num_rows, lambda row: f"{where}: row {row}")


def describe(path: Path) -> tuple[Sequence[str], int | None, Sequence[Sequence[str]]]:
    """Names of the columns, number of rows (None if it is large), and first rows of a table, which is not read whole.

    Raises:
        DataError: If the beginning of the file is malformed.
    """
    if path.name.lower().endswith(".parquet"):
        with _parquet(path) as file:
            return file.schema_arrow.names, file.metadata.num_rows, []
    text = TextFile.of(path, whole=False)
    size = path.stat().st_size * (10 if path.name.lower().endswith(".gz") else 1)
    rows = text.count() - text.header if size <= COUNTED else None
    return text.names, rows, [record for _, record in text.first[text.header :]]


def is_number(text: str) -> bool:
    """Whether a text looks like a number, a date or a time."""
    return _NUMBER.fullmatch(text.strip()) is not None


def shown(text: str) -> str:
    """The beginning of a text in quotes."""
    return repr(text[:SHOWN]) + ("..." if len(text) > SHOWN else "")


def _check_memory(path: Path) -> None:
    """Refuses a file that is larger than what fits into memory."""
    size = fingerprint(path)[2]
    need, free = HELD * size, psutil.virtual_memory().available
    if need > free:
        raise ResourceError(
            f"{path}: its {size / 1e9:.1f} GB need about {need / 1e9:.1f} GB of memory, and {free / 1e9:.1f} GB are "
            "free; write fewer rows, drawn at random, or fewer columns into a file"
        )


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:200]


def _check_names(where: str, names: Sequence[str]) -> None:
    """Refuses two columns of one name, and names that are empty except for the first, which rows of pandas have."""
    seen: dict[str, int] = {}
    for number, name in enumerate(names, 1):
        if not name and number > 1:
            raise DataError(f"{where}: column {number} has no name in the header; write one")
        if name in seen:
            raise DataError(f"{where}: columns {seen[name]} and {number} are both named '{name}'; rename one")
        seen[name] = number


# Text files


@attrs.frozen(eq=False)
class TextFile:
    """A file of records and its dialect.

    Arguments:
        path: The file.
        encoding: Name of its encoding.
        separator: Separator of the fields.
        skipped: Blank or other lines before the first record.
        first: Lines and fields of the first records.
        header: Whether the first record is a header.
    """

    path: Path
    encoding: str
    separator: str
    skipped: int
    first: Sequence[tuple[int, list[str]]]
    header: bool

    @classmethod
    def of(cls, path: Path, *, whole: bool = True) -> TextFile:
        """Tells the dialect of a file by its content.

        Arguments:
            path: The file.
            whole: Whether the encoding is told by the whole file, else by its beginning.
        Raises:
            DataError: If the file is damaged or has a NUL byte.
        """
        with _bytes(path) as file:
            start = file.read(BEGINNING)
        encoding = _encoding(path, start, whole=whole)
        beginning = start.decode(encoding, "replace")
        said = re.match(r'"?sep=(.)"?\r?\n', beginning)  # of Excel
        if len(start) == BEGINNING:  # the last line may be cut
            beginning = beginning[: max(beginning.rfind("\n"), beginning.rfind("\r")) + 1]
            if not beginning:
                raise DataError(f"{path}:1: a line of {BEGINNING:,} bytes or more is not a row of a table")
        lines = beginning[said.end() :] if said else beginning
        separator = said[1] if said else _separator(lines, path)
        rest = lines.lstrip("\r\n")
        blank = lines[: len(lines) - len(rest)]
        skipped = bool(said) + len(blank.splitlines())
        text = cls(path, encoding, separator, skipped, (), False)
        first = list(islice(text._split(io.StringIO(rest, newline="")), FIRST))
        return attrs.evolve(text, first=first, header=_has_header([fields for _, fields in first]))

    @property
    def names(self) -> list[str]:
        """Names in the header; x1, x2, ... without one."""
        if not self.first:
            return []
        fields = self.first[0][1]
        return [name.strip() for name in fields] if self.header else [f"x{i + 1}" for i in range(len(fields))]

    @property
    def header_line(self) -> int:
        """Line of the first record."""
        return self.first[0][0]

    def records(self) -> Iterator[tuple[int, list[str]]]:
        """Line and fields of each record that is not blank.

        Raises:
            DataError: If a quote does not end, or ends within a field.
        """
        with _bytes(self.path) as file, io.TextIOWrapper(file, self.encoding, newline="") as text:
            for _ in range(self.skipped):
                text.readline()
            yield from self._split(text)

    def _split(self, lines: Iterator[str]) -> Iterator[tuple[int, list[str]]]:
        reader = csv.reader(lines, delimiter=self.separator, strict=True)
        while True:
            line = self.skipped + reader.line_num + 1
            try:
                record = next(reader, None)
            except csv.Error as error:
                raise DataError(f"{self.path}:{line}: a record with a wrong quote or field: {error}") from error
            if record is None:
                return
            if record:
                yield line, record

    def count(self) -> int:
        """Number of lines that are not blank, except for line ends within quotes."""
        with _bytes(self.path) as file:
            data = file.read()
        text = data.decode(self.encoding, "replace") if self.encoding.startswith("utf-16") else data.decode("latin-1")
        ends = sum(len(re.findall(r"[\r\n]+", part)) for part in text.strip("\r\n").split('"')[::2])
        return ends + 1 - text.startswith(("sep=", '"sep='))


@contextmanager
def _bytes(path: Path) -> Iterator[BinaryIO]:
    """Content of a file, unpacked if its name ends in .gz."""
    with reading(path) as file:
        if path.name.lower().endswith(".gz"):
            with gzip.GzipFile(fileobj=file) as plain:
                yield _stream(_checked(path, plain))
        else:
            yield file


def _checked(path: Path, plain: gzip.GzipFile) -> Iterator[bytes]:
    """Blocks of a packed file, as long as there are not enormously many."""
    packed, unpacked = path.stat().st_size, 0
    while block := plain.read(BEGINNING):
        unpacked += len(block)
        check_unpacked(path, "the table", unpacked, packed)
        yield block


class _Blocks(io.RawIOBase):
    """Bytes that come block by block."""

    def __init__(self, blocks: Iterator[bytes]) -> None:
        self.blocks, self.rest = blocks, memoryview(b"")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        self.rest = self.rest or memoryview(next(self.blocks, b""))
        n = min(len(buffer), len(self.rest))
        buffer[:n], self.rest = self.rest[:n], self.rest[n:]
        return n


def _stream(blocks: Iterator[bytes]) -> BinaryIO:
    return io.BufferedReader(_Blocks(blocks), BEGINNING)


def _encoding(path: Path, start: bytes, *, whole: bool) -> str:
    """Name of the encoding of a file that begins with these bytes, after a check for NUL bytes."""
    for bom, name in _BOMS.items():
        if start.startswith(bom):
            return name
    pairs = start[: len(start) // 2 * 2]
    for name, empty in (("utf-16-le", pairs[1::2]), ("utf-16-be", pairs[::2])):
        if len(empty) > 1 and empty.count(0) > 0.9 * len(empty):
            return name
    decoder, found, lines, high = codecs.getincrementaldecoder("utf-8")(), 0, 0, set()
    with _bytes(path) as file:
        while block := file.read(BEGINNING):
            if (nul := block.find(b"\0")) >= 0:
                line = lines + block[:nul].count(b"\n") + 1
                raise DataError(f"{path}:{line}: a NUL byte, which no text has; save the file as text in UTF-8")
            try:
                if not found:
                    decoder.decode(block)
            except UnicodeDecodeError as error:
                found = lines + block[: error.start].count(b"\n") + 1
            if found:
                high |= set(block)
            lines += block.count(b"\n")
            if not whole:
                break
    if not found and whole:
        try:
            decoder.decode(b"", final=True)
        except UnicodeDecodeError:
            found = lines + 1
    if not found:
        return "utf-8"
    name = "latin-1" if high & {0x81, 0x8D, 0x8F, 0x90, 0x9D} else "cp1252"
    if whole:
        message = f"{path}:{found}: not UTF-8, so the file is read as {name}; save it as UTF-8 if letters are wrong"
        warnings.warn(message, BFNWarning, stacklevel=2)
    return name


def _separator(text: str, path: Path) -> str:
    """The separator by which the first records have the same number of fields, and most of them."""
    best, score = "\t" if ".tsv" in path.suffixes[-2:] else ",", (0.0, 1)
    for separator in dict.fromkeys(best + SEPARATORS):
        reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator)
        try:
            lengths = [len(record) for record in islice(reader, FIRST) if record]
        except csv.Error:
            continue
        if lengths and lengths[0] > 1:
            found = (sum(length == lengths[0] for length in lengths) / len(lengths), lengths[0])
            if found > score:
                best, score = separator, found
    return best


def _has_header(records: Sequence[Sequence[str]]) -> bool:
    """Whether the first record has text above a number, no number, or different texts above columns that repeat others.

    The last are years as names: ``2019,2020,city``.
    """
    if not records:
        return False
    first, *below = records
    texts = [i for i, text in enumerate(first) if text.strip() and not is_number(text)]
    if not any(map(is_number, first)):
        return True
    columns = {i: [row[i] for row in below if i < len(row)] for i in texts}
    if any(is_number(cell) for cells in columns.values() for cell in cells):
        return True
    new = all(first[i] not in cells and 2 * len(set(cells)) <= len(cells) for i, cells in columns.items())
    return bool(texts) and new and len(set(first)) == len(first)


def _parsed(text: TextFile, names: Sequence[str]) -> pa.Table:
    """The records as an Arrow table of texts."""
    import pyarrow as pa
    from pyarrow import compute, csv as arrow

    numbered = [str(i) for i in range(len(names))]
    try:
        with _bytes(text.path) as file:
            table = arrow.read_csv(
                file if text.encoding.startswith("utf-8") else _stream(_in_utf8(file, text.encoding)),
                read_options=arrow.ReadOptions(
                    use_threads=False,
                    block_size=BLOCK,
                    column_names=numbered,
                    skip_rows=text.skipped,
                    skip_rows_after_names=int(text.header),
                ),
                parse_options=arrow.ParseOptions(delimiter=text.separator, newlines_in_values=True),
                convert_options=arrow.ConvertOptions(
                    column_types=dict.fromkeys(numbered, pa.string()), strings_can_be_null=False
                ),
            )
    except UnicodeError as error:
        raise DataError(f"{text.path}: damaged text in {text.encoding}: {error}") from error
    except pa.ArrowInvalid as error:
        _check_records(text, len(names))
        raise DataError(f"{text.path}: not a table: {_line(error)}") from error
    within = (compute.match_substring_regex(column, "[\r\n]") for column in table.columns)
    if any(compute.any(found).as_py() for found in within):  # perhaps a quote that does not end
        _check_records(text, len(names))
    return table.rename_columns(list(names))


def _in_utf8(file: BinaryIO, encoding: str) -> Iterator[bytes]:
    for text in codecs.iterdecode(iter(partial(file.read, BEGINNING), b""), encoding):
        yield text.encode()


def _check_records(text: TextFile, fields: int) -> None:
    """Raises DataError with the line of the first record that has another number of fields, or a wrong quote."""
    for line, record in text.records():
        if len(record) != fields:
            raise DataError(
                f"{text.path}:{line}: found {len(record)} fields, expected {fields}: "
                f"{shown(text.separator.join(record))}; put quotes around a field that holds {text.separator!r}"
            )


# Typed columns


@contextmanager
def _parquet(path: Path) -> Iterator[Any]:
    import pyarrow as pa
    from pyarrow.parquet import ParquetFile

    with reading(path) as file:
        try:
            yield ParquetFile(file)
        except pa.ArrowException as error:
            raise DataError(f"{path}: truncated or damaged: {_line(error)}") from error


def _read_parquet(path: Path) -> TextTable:
    with _parquet(path) as file:
        rows, names = file.metadata.num_rows, file.schema_arrow.names
        _check_names(str(path), names)
        if not rows or not names:
            raise DataError(f"{path}: no rows: found {rows} rows and {len(names)} columns")
        groups = (file.metadata.row_group(i) for i in range(file.metadata.num_row_groups))
        check_unpacked(path, "the table", sum(group.total_byte_size for group in groups), path.stat().st_size)
        table = file.read(use_threads=False)
    return TextTable(path, _Columns(table, str(path)), table.num_rows, lambda row: f"{path}: row {row}")


def _texts(column: pa.ChunkedArray, where: str) -> Texts:
    """The cells of a column as they are written in a .csv file; "" where there is none.

    Numbers are the shortest texts that give them again, dates and times are ISO 8601, truth values True and False.
    """
    import pyarrow as pa
    from pyarrow import compute

    if isinstance(column.type, pa.DictionaryType):
        column = pa.chunked_array([_plain(chunk.dictionary).take(chunk.indices) for chunk in column.chunks])
    column = _plain(column)
    kind = column.type
    if not any(is_kind(kind) for is_kind in map(pa.types.__dict__.get, READ)):
        raise DataError(f"{where}: holds {kind}, not texts, numbers, dates or times; leave it out of columns")
    if pa.types.is_null(kind):
        return Texts(("",), np.zeros(len(column), np.int32))
    try:
        encoded = compute.dictionary_encode(column).combine_chunks()
        encoded = encoded.chunk(0) if isinstance(encoded, pa.ChunkedArray) else encoded
        distinct = _written(encoded.dictionary)
        if not encoded.null_count and pa.types.is_string(kind):
            return Texts(tuple(distinct), encoded.indices.to_numpy())
    except (pa.ArrowException, OverflowError, ValueError) as error:
        raise DataError(f"{where}: cannot be read: {_line(error)}") from error
    index = encoded.indices.fill_null(len(distinct)).to_numpy(zero_copy_only=False).astype(np.int32, copy=False)
    return _merged([*distinct, ""], index)


def _plain(values: Any) -> Any:
    """The same without the views of polars, with which Arrow cannot do much."""
    import pyarrow as pa

    return values.cast(pa.string()) if pa.types.is_string_view(values.type) else values


def _merged(distinct: Sequence[str], index: Integers) -> Texts:
    """Texts without those that occur twice, as null and "" do, or in no row."""
    numbers = dict.fromkeys(distinct)
    if len(numbers) < len(distinct):
        place = {text: i for i, text in enumerate(numbers)}
        index = np.array([place[text] for text in distinct], np.int32)[index]
        distinct = list(numbers)
    used = np.bincount(index, minlength=len(distinct)) > 0
    if used.all():
        return Texts(tuple(distinct), index)
    kept = tuple(text for text, is_used in zip(distinct, used.tolist(), strict=True) if is_used)
    return Texts(kept, (np.cumsum(used) - 1).astype(np.int32)[index])


def _written(values: pa.Array) -> list[str]:
    """Values of any type as texts."""
    import pyarrow as pa

    kind = values.type
    if pa.types.is_boolean(kind):
        return [str(value) for value in values.to_pylist()]
    if pa.types.is_floating(kind):
        return [repr(float(str(value))) for value in values.to_numpy(zero_copy_only=False)]
    texts = values.cast(pa.string()).to_pylist()
    return _shortened(texts) if pa.types.is_timestamp(kind) or pa.types.is_time(kind) else texts


def _shortened(texts: list[str]) -> list[str]:
    """Times without fractions of a second that are 0 in all of them, and dates without times that are midnight."""
    if all(re.search(r"\.0+(?=$|Z|[+-])", text) for text in texts):
        texts = [re.sub(r"\.0+(?=$|Z|[+-])", "", text) for text in texts]
    if all(text.endswith(" 00:00:00") for text in texts):
        texts = [text.removesuffix(" 00:00:00") for text in texts]
    return texts
