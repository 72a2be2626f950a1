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
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property, partial
from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, TypeAlias

import attrs
import numpy as np
import psutil

from bfn_files.headers import has_header, is_number
from bfn_files.numbers import DECIMAL_COMMA, DECIMAL_POINT
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
SAMPLE = 10  # of them, whose numbers are counted to tell the separator
BEGINNING = 2**20  # bytes that are read for them, or more until there are LINES lines
LINES = 3  # smallest number of lines that are looked at
BLOCK = 2**24  # bytes that are parsed together; no record may have more
HELD = 4  # bytes of memory for each byte of a file, as measured for numbers that all differ
COUNTED = 10**8  # largest size of a file whose rows are counted to describe it
SHOWN = 40  # characters of a text in a message
BLANK = "\n\r\t "
_BOMS = {codecs.BOM_UTF8: "utf-8-sig", codecs.BOM_UTF16_LE: "utf-16", codecs.BOM_UTF16_BE: "utf-16"}


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
        comma: Whether there are numbers with a decimal comma; None if it cannot be told.
    """

    path: Path
    columns: Mapping[str, Texts]
    rows: int
    place: Callable[[int], str]
    separator: str = ","
    comma: bool | None = False

    def place_of(self, name: str, text: str) -> str:
        """Place of the first row with a text in a column."""
        texts = self.columns[name]
        return self.place(int(np.argmax(texts.index == texts.distinct.index(text))))


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


def read_table(path: Path, header: bool | None = None, names: Collection[str] = ()) -> TextTable:
    """Reads a file whose name ends in one of :data:`FORMATS`.

    Arguments:
        path: The file.
        header: Whether the first record has the names of the columns; None to tell it by the content.
        names: Names that the columns may have: a first record of these is a header.
    Raises:
        DataError: If the file is malformed; it names the line.
        ResourceError: If the file does not fit into memory.
    """
    if path.name.lower().endswith(".parquet"):
        return _read_parquet(path)
    _check_memory(path)
    text = TextFile.of(path, header=header, known=names)
    return text.table(text.parsed())


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
    check_names(str(where), table.column_names)
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
    rows = text.count() if size <= COUNTED else None
    return text.names, rows, [record for _, record in text.first[text.header :]]


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


def check_names(where: str, names: Sequence[str]) -> None:
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
        skipped: Lines before the first record: blank ones, and comments that begin with #.
        comments: Number of comments among them.
        first: Lines and fields of the first records.
        header: Whether the first record is a header.
        is_marked: Whether that begins with #, as a comment.
        is_open: Whether records end in a separator, so that there is an empty last field.
    """

    path: Path
    encoding: str
    separator: str
    skipped: int
    comments: int = 0
    first: Sequence[tuple[int, list[str]]] = ()
    header: bool = False
    is_marked: bool = False
    is_open: bool = False

    @classmethod
    def of(cls, path: Path, *, header: bool | None = None, known: Collection[str] = (), whole: bool = True) -> TextFile:
        """Tells the dialect of a file by its content.

        Arguments:
            path: The file.
            header: See :func:`read_table`.
            known: See :func:`read_table`.
            whole: Whether the encoding is told by the whole file, else by its beginning; then nothing is warned of.
        Raises:
            DataError: If the file is damaged or has a NUL byte.
        """
        start, is_cut = _beginning(path)
        encoding = _encoding(path, start, whole=whole)
        beginning = start.decode(encoding, "replace")
        said = re.match(r'"?sep=(.)"?\r?\n', beginning)  # of Excel
        if is_cut:
            beginning = beginning[: max(beginning.rfind("\n"), beginning.rfind("\r")) + 1]
            if not beginning:
                raise DataError(f"{path}:1: a line of {BLOCK:,} bytes or more is not a row of a table")
        lines = beginning[said.end() :] if said else beginning
        rest = lines.lstrip("\r\n")
        comments = _comments(rest)
        plain = rest[sum(map(len, comments)) :]
        separator = said[1] if said else _separator(plain, path)
        is_marked = bool(comments) and header is not False and _is_header(comments[-1], plain, separator, header)
        if is_marked:
            plain = comments.pop() + plain
        blank = lines[: len(lines) - len(plain)]
        skipped = bool(said) + len(re.findall(r"\r\n|\r|\n", blank))
        text = cls(path, encoding, separator, skipped, sum(line.startswith("#") for line in comments))
        first = list(islice(text._split(io.StringIO(plain, newline="")), FIRST))
        fields = [fields for _, fields in first]
        is_open = len(fields) > 1 and len(fields[0]) > 1 and not any(record[-1].strip() for record in fields)
        if is_open:
            fields = [record[:-1] for record in fields]
        if header is None and not is_marked:
            is_known = bool(fields and known) and {name.strip() for name in fields[0]} <= set(known)
            header, is_certain = (True, True) if is_known else has_header(fields)
            if whole and not is_certain:
                what = "the names of the columns" if header else "a row"
                message = f"the first record, {shown(separator.join(fields[0]))}, is read as {what}"
                warnings.warn(
                    f"{path}:{first[0][0]}: {message}; if not, write --dataset.header {str(not header).lower()}",
                    BFNWarning,
                    stacklevel=2,
                )
        return attrs.evolve(text, first=first, header=header or is_marked, is_marked=is_marked, is_open=is_open)

    @property
    def names(self) -> list[str]:
        """Names in the header; x1, x2, ... without one."""
        if not self.first:
            return []
        fields = self.first[0][1][: -1 if self.is_open else None]
        if not self.header:
            return [f"x{i + 1}" for i in range(len(fields))]
        first = fields[0].lstrip("# ").strip() if self.is_marked else ""
        return [first or fields[0].strip(), *(name.strip() for name in fields[1:])]

    @property
    def header_line(self) -> int:
        """Line of the first record."""
        return self.first[0][0]

    def lines(self, many: int) -> Iterator[list[str]]:
        """Lines below the header, so many at a time."""
        with _bytes(self.path) as file, io.TextIOWrapper(file, self.encoding, newline="") as text:
            for _ in range(self.skipped + self.header):
                text.readline()
            while lines := list(islice(text, many)):
                yield lines

    def place(self, row: int) -> str:
        """File and line of a row."""
        line, _ = next(islice(self.records(), self.header + row, None))
        return f"{self.path}:{line}"

    def parsed(self) -> pa.Table:
        """The cells as an Arrow table of texts, whose columns have the numbers 0, 1, ... as names.

        Raises:
            DataError: If there are no rows, the names are wrong, or a record has another number of fields.
        """
        if not self.first:
            raise DataError(f"{self.path}: no rows: the file is empty")
        names = self.names
        check_names(f"{self.path}:{self.header_line}", names)
        table = _parsed(self, len(names) + self.is_open)
        if not table.num_rows:
            raise DataError(f"{self.path}: no rows below the header {shown(self.separator.join(names))}")
        return table

    def table(self, parsed: pa.Table) -> TextTable:
        """The same with the names of the columns."""
        comma = _has_commas(parsed) if self.separator != "," or self._quotes_commas else False
        columns = _Columns(parsed.rename_columns(self.names), str(self.path))
        return TextTable(self.path, columns, parsed.num_rows, self.place, self.separator, comma)

    @property
    def _quotes_commas(self) -> bool:
        return any("," in cell for _, record in self.first for cell in record)

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
        """Number of rows, as that of lines that are not blank, except for line ends within quotes."""
        with _bytes(self.path) as file:
            data = file.read()
        text = data.decode(self.encoding, "replace") if self.encoding.startswith("utf-16") else data.decode("latin-1")
        ends = sum(len(re.findall(r"[\r\n]+", part)) for part in text.strip("\r\n").split('"')[::2])
        return ends + 1 - text.startswith(("sep=", '"sep=')) - self.comments - self.header


def _beginning(path: Path) -> tuple[bytes, bool]:
    """The first bytes of a file, with some lines, and whether there are more."""
    with _bytes(path) as file:
        start = file.read(BEGINNING)
        while len(start) < BLOCK and len(re.findall(rb"[\r\n]+", start)) < LINES and (more := file.read(BEGINNING)):
            start += more
        return start, bool(file.read(1))


def _comments(text: str) -> list[str]:
    """The first lines that begin with # and the blank ones among them, with their ends, if no other begins so."""
    lines = re.split(r"(?<=\n)|(?<=\r)(?!\n)", text)
    count = next((i for i, line in enumerate(lines) if not line.startswith("#") and line.strip("\r\n")), len(lines))
    return [] if any(line.startswith("#") for line in lines[count:]) or count == len(lines) else lines[:count]


def _is_header(comment: str, text: str, separator: str, header: bool | None) -> bool:
    """Whether a comment has the names of the columns: as many fields as the records below it, which have no names."""
    records = list(islice(csv.reader(io.StringIO(text, newline=""), delimiter=separator), FIRST))
    names = next(csv.reader([comment], delimiter=separator), [])
    if not records or len(names) != len(records[0]) or (len(names) == 1 and " " in names[0].lstrip("# ").strip()):
        return False
    return header is True or not any(map(is_number, chain.from_iterable(records))) or not has_header(records)[0]


def _has_commas(table: pa.Table) -> bool | None:
    """Whether there are decimal commas; None if there are no points either that must be decimal."""
    from pyarrow import compute

    def some(pattern: str) -> bool:
        found = (compute.any(compute.match_substring_regex(column, pattern)).as_py() for column in table.columns)
        return any(found)

    return some(DECIMAL_COMMA) or (False if some(DECIMAL_POINT) else None)


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
    """The separator by which the first records have the same number of fields, then most numbers, then most of them."""
    best, score = "\t" if ".tsv" in path.suffixes[-2:] else ",", (0.0, 0.0, 1)
    for separator in dict.fromkeys(best + SEPARATORS):
        reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator)
        try:
            records = [record for record in islice(reader, FIRST) if record]
        except csv.Error:
            continue
        width = len(records[0]) if records else 0
        if width > 1:
            cells = [cell for record in records[:SAMPLE] for cell in record]
            share = sum(map(is_number, cells)) / len(cells)
            found = (sum(len(record) == width for record in records) / len(records), share, width)
            if found > score:
                best, score = separator, found
    return best


def _parsed(text: TextFile, fields: int) -> pa.Table:
    """The records as an Arrow table of texts."""
    import pyarrow as pa
    from pyarrow import compute, csv as arrow

    numbered = [str(i) for i in range(fields)]
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
        _check_records(text, fields)
        raise DataError(f"{text.path}: not a table: {_line(error)}") from error
    within = (compute.match_substring_regex(column, "[\r\n]") for column in table.columns)
    if any(compute.any(found).as_py() for found in within):  # perhaps a quote that does not end
        _check_records(text, fields)
    if text.is_open:
        filled = compute.any(compute.match_substring_regex(table.column(fields - 1), r"\S")).as_py()
        if filled:
            raise DataError(f"{text.path}:{text.header_line}: column {fields} has no name in the header; write one")
        table = table.select(numbered[:-1])
    return table


def _in_utf8(file: BinaryIO, encoding: str) -> Iterator[bytes]:
    for text in codecs.iterdecode(iter(partial(file.read, BEGINNING), b""), encoding):
        yield text.encode()


def _check_records(text: TextFile, fields: int) -> None:
    """Raises DataError with the line of the first record that has another number of fields, or a wrong quote."""
    for line, record in text.records():
        if len(record) != fields:
            cure = f"put quotes around a field that holds {text.separator!r}"
            if fields == 1:
                cure = f"if line {text.header_line} is a title, begin it with #"
            elif len(record) == fields + 1 and not record[-1].strip():
                cure = f"end the first line with {text.separator!r} too, or no line"
            raise DataError(
                f"{text.path}:{line}: found {len(record)} fields, expected {fields}: "
                f"{shown(text.separator.join(record))}; {cure}"
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
        check_names(str(path), names)
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
