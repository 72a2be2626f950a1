"""Strings in files: one a line, in the column of a table, or in the records of a FASTA file, with their places.

A file is read once, line by line; strings become codes of characters in one array, so that a million of them need
little more memory than the file.
"""

from __future__ import annotations

import codecs
import csv
import gzip
import io
import re
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from itertools import chain, islice
from pathlib import Path
from typing import Any, Literal, TypeAlias

import attrs
import numpy as np

from bfn_files.columns import records_of
from bfn_files.reading import check_unpacked, reading
from bfn_toolkit import BFNError, BFNWarning, ConfigError, DataError

Array: TypeAlias = "np.ndarray[Any, Any]"
Record: TypeAlias = tuple[int, str, Sequence[str]]  # number of the line, string, cells of the conditions
Form: TypeAlias = Literal["lines", "smi", "fasta", "table"]

FORMS: dict[str, Form] = {
    ".smi": "smi",
    ".fasta": "fasta",
    ".fa": "fasta",
    ".faa": "fasta",
    ".fna": "fasta",
    ".csv": "table",
    ".tsv": "table",
}
LINE = 10**6  # smallest number of bytes of a line, or characters of a string, that is refused
ROWS = 2**16  # strings that are encoded together
LEAST = 10  # lines by which a file is recognised
PEEKED = 1000  # first records, by which the form of a file is judged
NUMBERS = 0.9  # share of the first values from which on a column is one of numbers
MOST_CATEGORIES = 1000
SHOWN = 10  # largest number of names in a message
BEYOND_UNICODE = 0x110000
# The organic subset, atoms in brackets, bonds, ring closures, branches.
SMILES = re.compile(
    r"(?:\[[^\[\]\s]+\]|Cl|Br|[BCNOPSFIbcnops*])(?:\[[^\[\]\s]+\]|Cl|Br|[BCNOPSFIbcnops*\-=#$:/\\.()%0-9])*"
)


def form_of(path: Path) -> Form:
    """Form of a file by its name; one string a line if the name says nothing."""
    return FORMS.get(ending_of(path), "lines")


def ending_of(path: Path) -> str:
    """Ending of a name in lower case, without .gz."""
    return Path(path.name.lower().removesuffix(".gz")).suffix


@attrs.frozen(eq=False)
class Strings:
    """Strings as codes in an alphabet.

    Arguments:
        codes: Codes of the characters of all strings, one after another.
        offsets: Place of each string in the codes, and their number at the end, with shape (N + 1,).
        lines: Number of the line of each string, with shape (N,).
        hashes: Hash of each string, with shape (N,).
        alphabet: The characters in the order of their codes.
        column: Name of the strings.
        numbers: Conditions that are numbers, by name.
        classes: Conditions that are names, by name: class of each string, and names of the classes.
    """

    codes: Array
    offsets: Array
    lines: Array
    hashes: Array
    alphabet: str
    column: str
    numbers: dict[str, Array]
    classes: dict[str, tuple[Array, list[str]]]

    def __len__(self) -> int:
        return len(self.lines)

    @property
    def lengths(self) -> Array:
        """Number of characters of each string."""
        return np.diff(self.offsets)

    def rows(self, kept: Array) -> Strings:
        """The strings where a mask (N,) is true."""
        lengths = self.lengths
        return attrs.evolve(
            self,
            codes=self.codes[np.repeat(kept, lengths)],
            offsets=np.concatenate([[0], np.cumsum(lengths[kept])]),
            lines=self.lines[kept],
            hashes=self.hashes[kept],
            numbers={name: values[kept] for name, values in self.numbers.items()},
            classes={name: (values[kept], names) for name, (values, names) in self.classes.items()},
        )


def read_strings(
    path: Path, column: str | None, conditions: Sequence[str], alphabet: str | None, on_empty: str
) -> Strings:
    """Reads all strings of a file.

    Arguments:
        path: The file; its name tells the form (:data:`FORMS`).
        column: Column of the strings in a table; None for the only one that is not of numbers.
        conditions: Names of further columns.
        alphabet: The characters; None for those of the file.
        on_empty: "error" to refuse empty strings, "drop" to leave them out.
    Raises:
        ConfigError: If there are no columns with these names.
        DataError: If the file is malformed; it names the line.
    """
    with _decoded(path) as lines:
        name, records = _records(path, lines, column, conditions)
        collected = _Collected(path, name, conditions, alphabet)
        empty, first = 0, 0
        while chunk := list(islice(records, ROWS)):
            whole = [record for record in chunk if record[1] and not record[1].isspace()]
            if len(whole) < len(chunk):
                first = first or next(line for line, text, _ in chunk if not text or text.isspace())
                empty += len(chunk) - len(whole)
            collected.add(whole)
    if empty and on_empty == "error":
        what = {"fasta": "a record without a sequence", "table": f"column '{name}' is empty"}.get(
            form_of(path), "an empty line"
        )
        raise DataError(f"{path}:{first}: {what} ({empty:,} in all); --dataset.on_empty drop leaves such lines out")
    if empty:
        warnings.warn(f"{path}: left out {empty:,} empty strings, the first in line {first}", BFNWarning, stacklevel=2)
    return collected.strings()


# Lines


@contextmanager
def _decoded(path: Path) -> Iterator[Iterator[str]]:
    """Lines of a file, compressed or not, with their ends; without a byte order mark."""
    with reading(path) as file:
        if not path.name.lower().endswith(".gz"):
            yield _lines(path, file, None)
            return
        with gzip.GzipFile(fileobj=file) as plain:
            yield _lines(path, io.BufferedReader(plain), path.stat().st_size)


def _lines(path: Path, file: Any, packed: int | None) -> Iterator[str]:
    size = 0
    for number, line in enumerate(iter(partial(file.readline, LINE), b""), 1):
        size += len(line)
        if packed is not None:
            check_unpacked(path, "the text", size, packed)
        if len(line) == LINE:
            raise DataError(f"{path}:{number}: a line of {LINE:,} bytes or more is not a string; read it as a text")
        if number == 1:
            line = line.removeprefix(codecs.BOM_UTF8)
        try:
            yield line.decode()
        except UnicodeDecodeError as error:
            found = f"0x{line[error.start]:02X} at byte {error.start + 1} of the line"
            raise DataError(f"{path}:{number}: not UTF-8: {found}; save the file as UTF-8") from error


def _without_end(line: str) -> str:
    return line.removesuffix("\n").removesuffix("\r")


def _records(
    path: Path, lines: Iterator[str], column: str | None, conditions: Sequence[str]
) -> tuple[str, Iterator[Record]]:
    """Name of the strings, and the records of a file."""
    form = form_of(path)
    if form == "table":
        return _table(path, lines, column, conditions)
    has = {"smi": ["name"]}.get(form, [])
    if column is not None:
        raise ConfigError(f"column: '{path.name}' has no columns with names; leave column out, or use a .csv or .tsv")
    for name in conditions:
        if name not in has:
            found = f"has the column {has[0]}" if has else "has no further columns; use a .csv or .tsv"
            raise ConfigError(f"conditions: no column named '{name}': '{path.name}' {found}")
    if form == "smi":
        return "smiles", _smiles(path, lines, bool(conditions))
    if form == "fasta":
        return "sequence", fasta(path, lines)
    return "text", ((number, text, ()) for number, text in _without_last(enumerate(map(_without_end, lines), 1)))


def _without_last(lines: Iterator[tuple[int, str]]) -> Iterator[tuple[int, str]]:
    """Lines without the empty ones at the end."""
    empty = []
    for number, text in lines:
        if not text or text.isspace():
            empty.append((number, ""))
            continue
        yield from empty
        empty.clear()
        yield number, text


def _smiles(path: Path, lines: Iterator[str], named: bool) -> Iterator[Record]:
    """A SMILES, then a blank and perhaps a name; lines that begin with # are comments, as no SMILES does."""
    numbered = _without_last(
        (number, text) for number, text in enumerate(map(_without_end, lines), 1) if not text.startswith("#")
    )
    records = ((number, text.rstrip().split(maxsplit=1) or [""]) for number, text in numbered)
    first = list(islice(records, PEEKED))
    if first and first[0][1][0].lower().endswith("smiles"):  # a header
        del first[0]
    _check_order(path, first)
    if not named and any(len(words) > 1 for _, words in first):
        more = "--dataset.conditions '[\"name\"]' would make them a condition"
        warnings.warn(f"{path}: the names after the SMILES are not read; {more}", BFNWarning, stacklevel=2)
    for number, words in chain(first, records):
        yield number, words[0], (words[1:] or [""]) if named else ()


def _check_order(path: Path, records: Sequence[tuple[int, list[str]]]) -> None:
    """Refuses a file whose names stand before the SMILES."""
    several = [(number, words[0], words[1].split()[0]) for number, words in records if len(words) > 1]
    turned = [r for r in several if not SMILES.fullmatch(r[1]) and SMILES.fullmatch(r[2])]
    if len(turned) * 2 > len(records):
        number, name, smiles = turned[0]
        raise DataError(
            f"{path}:{number}: {name[:40]!r} is not SMILES, and {smiles[:40]!r} after it is one; write the SMILES "
            "first, or name the file .tsv and choose its column"
        )


def fasta(path: Path, lines: Iterator[str]) -> Iterator[Record]:
    """Sequences of a FASTA file, each joined over its lines, with the line of its header."""
    parts: list[str] = []
    header = size = 0
    for number, line in enumerate(lines, 1):
        text = line.strip()
        if text.startswith(">"):
            if header:
                yield header, "".join(parts), ()
            header, size = number, 0
            parts.clear()
        elif text:
            if not header:
                more = "a file with one sequence a line ends in .txt"
                raise DataError(f"{path}:{number}: expected a header such as >name, found {text[:40]!r}; {more}")
            parts.append(text)
            size += len(text)
            if size >= LINE:
                raise DataError(f"{path}:{header}: a sequence of {LINE:,} characters or more is too long")
    if header:
        yield header, "".join(parts), ()


# Tables


def _is_number(text: str) -> bool:
    try:
        return np.isfinite(float(text)) and "_" not in text
    except ValueError:
        return False


def _table(
    path: Path, lines: Iterator[str], column: str | None, conditions: Sequence[str]
) -> tuple[str, Iterator[Record]]:
    records = records_of(path, lines, "\t" if ending_of(path) == ".tsv" else ",")
    first = list(islice(records, PEEKED))
    if not first:
        raise DataError(f"{path}: no rows: the file is empty")
    (line, header), *rows = first
    names = [name.strip() for name in header]
    if len(names) == 1 and (other := next((c for c in ";\t," if c in names[0]), None)):
        raise DataError(f"{path}:{line}: the fields are separated by {other!r}; .csv needs commas, .tsv tabs")
    if not rows:
        raise DataError(f"{path}: no rows below the header {','.join(names)[:40]!r}")
    if any(map(_is_number, names)) or _is_smiles(names, rows):
        found = ",".join(names)[:60]
        raise DataError(f"{path}:{line}: expected a header with the names of the columns, found {found!r}; add one")
    doubled = next((name for name in names if names.count(name) > 1), None)
    if doubled is not None:
        raise DataError(f"{path}:{line}: two columns are named '{doubled}'; rename one")
    texts = [
        name
        for i, name in enumerate(names)
        if not all(_is_number(r[i]) or not r[i].strip() for _, r in rows if i < len(r))
    ]
    if column is None:
        left = [name for name in texts if name not in conditions]
        if len(left) != 1:
            found = ", ".join(left[:SHOWN]) or "no column of strings"
            raise ConfigError(f"{path}: found {found}; choose one: --dataset.column {(left or names)[0]}")
        column = left[0]
    for name in (column, *conditions):
        if name not in names:
            raise ConfigError(f"{path}: no column named '{name}'; it has {', '.join(names[:SHOWN])}")
    if column in conditions:
        raise ConfigError(f"{path}: '{column}' is the column of the strings; take it out of conditions")
    place, places = names.index(column), [names.index(name) for name in conditions]

    def chosen() -> Iterator[Record]:
        for number, cells in chain(rows, records):
            if len(cells) != len(names):
                raise DataError(f"{path}:{number}: found {len(cells)} fields, expected {len(names)}")
            yield number, cells[place], [cells[i] for i in places]

    return column, chosen()


def _is_smiles(names: Sequence[str], rows: Sequence[tuple[int, list[str]]]) -> bool:
    """Whether a header looks like the SMILES below it."""
    return any(
        len(name) > 1
        and SMILES.fullmatch(name)
        and sum(bool(SMILES.fullmatch(cells[i])) for _, cells in rows if i < len(cells)) * 2 > len(rows)
        for i, name in enumerate(names)
    )


# Codes


class _Collected:
    """Strings so far."""

    def __init__(self, path: Path, column: str, conditions: Sequence[str], alphabet: str | None) -> None:
        self.path, self.column, self.fixed = path, column, alphabet is not None
        self.alphabet = list(alphabet or "")
        self.table = np.full(BEYOND_UNICODE, -1, np.int32)
        self.table[[ord(c) for c in self.alphabet]] = np.arange(len(self.alphabet))
        self.codes: list[Array] = []
        self.lengths: list[Array] = []
        self.lines: list[Array] = []
        self.hashes: list[Array] = []
        self.conditions = [_Column(path, name) for name in conditions]
        self.blanks = self.strange = 0
        self.found = ""

    def add(self, records: Sequence[Record]) -> None:
        """Adds strings that are not empty."""
        if not records:
            return
        lines, texts, cells = zip(*records, strict=True)
        together = "".join(texts)
        if not self.fixed:
            self._learn(lines, texts, together)
        codes = self.table[np.frombuffer(together.encode("utf-32-le"), "<u4")]
        if self.fixed and (codes < 0).any():
            wrong = [i for i, text in enumerate(texts) if not set(text) <= set(self.alphabet)]
            self.strange += len(wrong)
            text = texts[wrong[0]]
            place = next(i for i, c in enumerate(text) if self.table[ord(c)] < 0)
            self.found = self.found or f"{lines[wrong[0]]}: the character {shown(text[place])} at offset {place}"
        self.codes.append(codes.astype(np.uint8 if len(self.alphabet) <= 2**8 else np.int32))
        self.lengths.append(np.fromiter(map(len, texts), np.int64, len(texts)))
        self.lines.append(np.array(lines, np.int64))
        self.hashes.append(np.fromiter(map(hash, texts), np.int64, len(texts)))
        for column, values in zip(self.conditions, zip(*cells, strict=True), strict=True):
            column.add(lines, values)

    def _learn(self, lines: Sequence[int], texts: Sequence[str], together: str) -> None:
        """Adds new characters to the alphabet, line by line, those of a line in their order."""
        if " " in together:
            self.blanks += sum(" " in text for text in texts)
        new = set(together) - set(self.alphabet)
        for line, text in zip(lines, texts, strict=True) if new else ():
            if new.isdisjoint(text):
                continue
            for c in sorted(new & set(text)):
                if c < " " or c == "\x7f":
                    cure = {
                        "\t": "name the file .tsv if it has columns",
                        "\r": "end the lines by \\n or \\r\\n",
                    }.get(c, "list all characters in the option alphabet if it belongs there")
                    raise DataError(f"{self.path}:{line}: the control character {shown(c)}; {cure}")
                self.table[ord(c)] = len(self.alphabet)
                self.alphabet.append(c)
            new -= set(text)
            if not new:
                break

    def strings(self) -> Strings:
        """All strings.

        Raises:
            DataError: If there are none, or they have characters outside the alphabet.
        """
        if not self.lines:
            raise DataError(f"{self.path}: no rows: the file has no strings")
        if self.strange:
            raise DataError(f"{self.path}:{self.found} is not in the alphabet ({self.strange:,} such lines in all)")
        if len(self.alphabet) < 2:
            raise DataError(f"{self.path}: strings of {shown(self.alphabet[0])} only have nothing to learn")
        lengths = np.concatenate(self.lengths)
        if self.blanks:
            words = f"{self.blanks:,} of {len(lengths):,} strings have blanks, which are characters like others"
            warnings.warn(
                f"{self.path}: {words}; name the file .tsv or .csv if it has columns", BFNWarning, stacklevel=2
            )
        wide = np.uint8 if len(self.alphabet) <= 2**8 else np.uint16 if len(self.alphabet) <= 2**16 else np.int32
        return Strings(
            codes=np.concatenate(self.codes, dtype=wide, casting="unsafe"),
            offsets=np.concatenate([[0], np.cumsum(lengths)]),
            lines=np.concatenate(self.lines),
            hashes=np.concatenate(self.hashes),
            alphabet="".join(self.alphabet),
            column=self.column,
            numbers={c.name: c.numbers() for c in self.conditions if c.is_number},
            classes={c.name: c.classes() for c in self.conditions if not c.is_number},
        )


class _Column:
    """Values of a condition so far: numbers if nearly all of the first ones are, else names."""

    def __init__(self, path: Path, name: str) -> None:
        self.path, self.name = path, name
        self.is_number = False
        self.parts: list[Array] = []
        self.index: dict[str, int] = {}

    def add(self, lines: Sequence[int], values: Sequence[str]) -> None:
        """Adds values.

        Raises:
            DataError: If one is empty, is not a number among numbers, or there are too many names.
        """
        texts = [value.strip() for value in values]
        if not self.parts:
            known = [text for text in texts if text.lower() not in ("", "nan")]
            self.is_number = sum(map(_is_number, known)) >= NUMBERS * len(known)
        for line, text in zip(lines, texts, strict=True):
            if not text or (self.is_number and not _is_number(text)):
                expected = "a number" if self.is_number else "a name"
                cure = "fill it in, or leave the column out of conditions"
                raise DataError(
                    f"{self.path}:{line}: column '{self.name}': expected {expected}, got {text[:40]!r}; {cure}"
                )
        if self.is_number:
            self.parts.append(np.fromiter(map(float, texts), np.float64, len(texts)))
            return
        index = self.index
        self.parts.append(np.fromiter((index.setdefault(text, len(index)) for text in texts), np.int64, len(texts)))
        if len(index) > MOST_CATEGORIES:
            raise DataError(
                f"{self.path}: column '{self.name}' has more than {MOST_CATEGORIES:,} names, which are not categories; "
                "leave it out of conditions"
            )

    def numbers(self) -> Array:
        """The numbers, (N,)."""
        return np.concatenate(self.parts)

    def classes(self) -> tuple[Array, list[str]]:
        """The classes (N,) and their names, in order."""
        names = sorted(self.index)
        if len(names) < 2:
            raise DataError(
                f"{self.path}: column '{self.name}' is {names[0]!r} in all lines; leave it out of conditions"
            )
        order = np.empty(len(names), np.int64)
        order[[self.index[name] for name in names]] = np.arange(len(names))
        return order[np.concatenate(self.parts)], names


def shown(character: str) -> str:
    """A character in a message."""
    return f"U+{ord(character):04X} {character!a}"


# Telling the kind


def beginning(path: Path, size: int) -> str | None:
    """The first characters of a text file, compressed or not; None if it is not text."""
    compressed = path.name.lower().endswith(".gz")
    try:
        with reading(path) as file:
            data = (gzip.GzipFile(fileobj=file) if compressed else file).read(size)
        return codecs.getincrementaldecoder("utf-8-sig")().decode(data, final=len(data) < size)
    except (BFNError, UnicodeDecodeError):
        return None


def has_strings(path: Path, text: str) -> bool:
    """Whether a table, of which this is the beginning, has a column that is not of numbers."""
    delimiter = "\t" if ending_of(path) == ".tsv" else ","
    try:
        _, *rows = islice(csv.reader(text.splitlines()[:PEEKED], delimiter=delimiter), 3)
    except (csv.Error, ValueError):
        return False
    return any(cell.strip() and not _is_number(cell) for cells in rows for cell in cells)


def looks_like_strings(text: str) -> bool:
    """Whether a text begins with many short lines, nearly all without blanks, that are not numbers."""
    lines = [line for line in text.splitlines()[:-1] if line] if len(text) > LEAST else []
    strings = [line for line in lines if not re.search(r"\s", line) and line.isprintable() and not _is_number(line)]
    return len(lines) >= LEAST and len(strings) >= 0.9 * len(lines)
