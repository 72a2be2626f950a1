"""Texts of tables: every dialect to the character, and faults with their places."""

from __future__ import annotations

import csv
import datetime
import gzip
import io
import os
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings, strategies as st
from pyarrow import parquet

from bfn_files.tables import TextTable, describe, read_table, table_of_frame
from bfn_toolkit import BFNWarning, DataError, ResourceError


def put(folder: Path, content: str | bytes, name: str = "x.csv") -> Path:
    path = folder / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def cells(table: TextTable) -> dict[str, list[str]]:
    return {name: [texts.distinct[i] for i in texts.index] for name, texts in table.columns.items()}


PEOPLE = "name,height,born\nAnna,1.70,1990-01-01\nBo,1.8,\n"
READ = {"name": ["Anna", "Bo"], "height": ["1.70", "1.8"], "born": ["1990-01-01", ""]}
GERMAN = 'Größe;Ort\n"1,70";Köln\n"1,80";Bonn\n'
SIZES = {"Größe": ["1,70", "1,80"], "Ort": ["Köln", "Bonn"]}


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (PEOPLE, READ),
        (PEOPLE.removesuffix("\n"), READ),
        (PEOPLE.replace("\n", "\r\n"), READ),
        (PEOPLE.replace("\n", "\r"), READ),
        (PEOPLE.replace(",", ";"), READ),
        (PEOPLE.replace(",", "\t"), READ),
        (PEOPLE.replace(",", "|"), READ),
        ("\n\n" + PEOPLE.replace("Bo,", "\nBo,") + "\n\n", READ),
        ("sep=;\n" + PEOPLE.replace(",", ";"), READ),
        (PEOPLE.encode("utf-8-sig"), READ),
        (PEOPLE.encode("utf-16"), READ),
        (PEOPLE.encode("utf-16-le"), READ),
        (PEOPLE.encode("utf-16-be"), READ),
        (GERMAN, SIZES),
        (GERMAN.encode("utf-16"), SIZES),
        ('"a","b"\n"x ""y"" z","1,2"\n" u","two\nlines"\n', {"a": ['x "y" z', " u"], "b": ["1,2", "two\nlines"]}),
        ('"a\nb",c\n1,2\n', {"a\nb": ["1"], "c": ["2"]}),
        ("1.5,red\n2,blue\n", {"x1": ["1.5", "2"], "x2": ["red", "blue"]}),
        ("2019,2020,city\n1,2,x\n3,4,x\n", {"2019": ["1", "3"], "2020": ["2", "4"], "city": ["x", "x"]}),
        ('a\n""\n2\n', {"a": ["", "2"]}),
        ("a\n1\n2\n", {"a": ["1", "2"]}),
        (",a\n0,x\n1,y\n", {"": ["0", "1"], "a": ["x", "y"]}),
    ],
)
def test_dialects_are_told_by_content(tmp_path: Path, content: str | bytes, expected: dict[str, list[str]]) -> None:
    assert cells(read_table(put(tmp_path, content))) == expected
    packed = gzip.compress(content.encode() if isinstance(content, str) else content)
    assert cells(read_table(put(tmp_path, packed, "x.csv.gz"))) == expected


ROWS = [[f"{0.5 * i:.2f}", f"{(7 * i) % 11}", f"{i * i}"] for i in range(12)]


def lines(head: str, rows: list[list[str]] = ROWS, separator: str = ",") -> str:
    return head + "\n" + "".join(separator.join(row) + "\n" for row in rows)


INTEGERS = [row[1:] for row in ROWS]
NAMES_IN_NUMBERS: dict[str, tuple[str, list[str]]] = {
    "of pandas": (lines("0,1,2"), ["0", "1", "2"]),
    "of pandas, above integers": (lines("0,1", INTEGERS), ["0", "1"]),
    "of pandas, with an index": (lines(",0,1", [[str(i), *row] for i, row in enumerate(INTEGERS)]), ["", "0", "1"]),
    "with an index of texts": (
        lines(",1990,1991", [[f"p{i}", *row] for i, row in enumerate(INTEGERS)]),
        ["", "1990", "1991"],
    ),
    "years": (lines("1990,1991,1992"), ["1990", "1991", "1992"]),
    "falling years": (lines("2002,2001,2000", ROWS, ","), ["2002", "2001", "2000"]),
    "years beside a text": (
        lines("country,1990,1991", [[f"c{i}", *row] for i, row in enumerate(INTEGERS)]),
        ["country", "1990", "1991"],
    ),
    "years in quotes": (lines('"1990","1991"', INTEGERS), ["1990", "1991"]),
    "years and semicolons": (
        lines("1990;1991;1992", [[cell.replace(".", ",") for cell in row] for row in ROWS], ";"),
        ["1990", "1991", "1992"],
    ),
    "wavelengths": (
        lines("400.5,401.1,401.6,402.2,402.9", [[f"0.{(i * k) % 97:03}" for k in range(3, 8)] for i in range(1, 9)]),
        ["400.5", "401.1", "401.6", "402.2", "402.9"],
    ),
    "dates": (lines("2020-01-01,2020-02-01,2020-03-01"), ["2020-01-01", "2020-02-01", "2020-03-01"]),
    "one name": (lines("0", [[row[0]] for row in ROWS]), ["0"]),
}


@pytest.mark.parametrize("name", NAMES_IN_NUMBERS)
def test_names_that_are_numbers_are_told_and_may_be_denied(tmp_path: Path, name: str) -> None:
    content, names = NAMES_IN_NUMBERS[name]
    path = put(tmp_path, content)
    with pytest.warns(BFNWarning, match=r"x\.csv:1: the first record, .*--dataset\.header false"):
        table = read_table(path)
    assert list(table.columns) == names
    rows = content.count("\n") - 1
    assert table.rows == rows
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert list(read_table(path, header=True).columns) == list(read_table(path, names=names).columns) == names
        assert read_table(path, header=False).rows == rows + 1


@pytest.mark.parametrize(
    "content",
    [
        lines("", ROWS)[1:],
        lines("", INTEGERS)[1:],
        lines("", [[str(i), row[1]] for i, row in enumerate(ROWS)])[1:],  # a column counts on from the first row
        lines("", [[str(i + k) for k in range(3)] for i in (1990, 3, 70, 500)])[1:],  # all rows grow by 1
        lines("0,1", [["1", "0"], ["0", "1"]] * 5),  # the first row comes again
        lines("5.1,3.5,a", [["4.9", "3.1", "b"], ["4.7", "3.2", "a"]] * 3),
        lines("NA,1.5", [["2.5", "3.5"], ["0.5", "7.5"]]),
        lines("NaN,NaN", [["2.5", "3.5"], ["0.5", "7.5"]]),
        lines("?,", [["2.5", "3.5"], ["0.5", "7.5"]]),
    ],
)
def test_a_first_row_of_numbers_and_gaps_is_a_row(tmp_path: Path, content: str) -> None:
    table = read_table(put(tmp_path, content))
    assert table.rows == content.count("\n")
    assert list(table.columns) == [f"x{i + 1}" for i in range(len(table.columns))]


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("# by me\n# 2020, a\na,b\n1,2\n3,4\n", {"a": ["1", "3"], "b": ["2", "4"]}),
        ("# by me\n1.5,2\n3,4\n", {"x1": ["1.5", "3"], "x2": ["2", "4"]}),
        ("# by me\n\n# a,b\n1.5,2\n3,4\n", {"a": ["1.5", "3"], "b": ["2", "4"]}),  # numpy.savetxt
        ("#chrom,gene\nc1,u\nc2,v\n", {"chrom": ["c1", "c2"], "gene": ["u", "v"]}),
        ("#a\n1.5\n2\n", {"a": ["1.5", "2"]}),
        ("# by me\n1.5\n2\n", {"x1": ["1.5", "2"]}),
        ("#,b\n1.5,2\n3,4\n", {"#": ["1.5", "3"], "b": ["2", "4"]}),
        ("#ff0000,1\n#00ff00,2\n", {"x1": ["#ff0000", "#00ff00"], "x2": ["1", "2"]}),
        ("a,b,\n1,2,\n3,4,\n", {"a": ["1", "3"], "b": ["2", "4"]}),
        ("1.5,2,\n3,4,\n", {"x1": ["1.5", "3"], "x2": ["2", "4"]}),
        ("1,5;2,5\n3,5;4,5\n", {"x1": ["1,5", "3,5"], "x2": ["2,5", "4,5"]}),
    ],
)
def test_comments_and_empty_last_fields_are_left_out(
    tmp_path: Path, content: str, expected: dict[str, list[str]]
) -> None:
    table = read_table(put(tmp_path, content))
    assert cells(table) == expected
    last = 1 + content.rstrip("\n").count("\n")
    assert table.place(table.rows - 1).endswith(f":{last}")
    assert describe(tmp_path / "x.csv")[1] == table.rows


def test_a_point_is_read_by_what_the_other_columns_have(tmp_path: Path) -> None:
    for content, comma in (
        ("a;b\n1.234;5,5\n", True),
        ("a;b\n1.234;1.234.567,5\n", True),
        ("a;b\n1.234;5.25\n", False),
        ("a;b\n1.234;5\n", None),
        ("a,b\n1.234,5\n", False),
        ('a,b\n1.234,"5,5"\n', True),
    ):
        assert read_table(put(tmp_path, content)).comma is comma


@pytest.mark.parametrize(
    ("encoding", "text"), [("cp1252", "Größe,€\n1,2\n"), ("latin-1", "Größe,\x81\n1,2\n"), ("cp1252", "a,b\n1,ä\n")]
)
def test_other_encodings_are_said(tmp_path: Path, encoding: str, text: str) -> None:
    path = put(tmp_path, text.encode(encoding))
    line = 2 if "ä\n" in text else 1
    with pytest.warns(BFNWarning, match=rf"x\.csv:{line}: not UTF-8, so the file is read as {encoding}"):
        table = read_table(path)
    (names, row) = csv.reader(io.StringIO(text))
    assert cells(table) == {name: [cell] for name, cell in zip(names, row, strict=True)}


# Blanks around a name are taken off, and a blank line is no row.
NAME = st.text(st.characters(codec="utf-8", exclude_categories=("Cs", "Cc", "Nd", "Zs")), min_size=1, max_size=5)
CELL = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=6)


@st.composite
def tables(draw: st.DrawFn) -> tuple[list[str], list[list[str]]]:
    names = draw(st.lists(NAME.map(str.strip).filter(bool), min_size=1, max_size=4, unique=True))
    rows = st.lists(st.lists(CELL, min_size=len(names), max_size=len(names)), min_size=1, max_size=5)
    return names, draw(rows)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(tables(), st.sampled_from(["\n", "\r\n"]), st.sampled_from([csv.QUOTE_ALL, csv.QUOTE_NONNUMERIC]))
def test_what_python_writes_is_read_to_the_character(
    tmp_path: Path, table: tuple[list[str], list[list[str]]], end: str, quoting: Any
) -> None:
    names, rows = table
    text = io.StringIO()
    csv.writer(text, lineterminator=end, quoting=quoting).writerows([names, *rows])
    found = read_table(put(tmp_path, text.getvalue()))
    assert cells(found) == {name: [row[i] for row in rows] for i, name in enumerate(names)}
    lines = [1 + sum(1 for _ in io.StringIO(text.getvalue(), newline=None))]
    assert int(found.place(len(rows) - 1).rpartition(":")[2]) <= lines[0]


def test_places_count_lines_within_quotes(tmp_path: Path) -> None:
    table = read_table(put(tmp_path, '\na,b\n"1\n\n2",x\n\n3,"y\r\nz"\n4,u\n'))
    assert [table.place(row).rpartition(":")[2] for row in range(3)] == ["3", "7", "9"]


def test_texts_are_counted(tmp_path: Path) -> None:
    texts = read_table(put(tmp_path, "a,b\nx,1\ny,2\nx,3\n")).columns["a"]
    assert texts.distinct == ("x", "y")
    assert texts.index.dtype == np.int32
    assert texts.counts.tolist() == [2, 1]


FAULTS: dict[str, tuple[str | bytes, str]] = {
    "nothing": ("", "x.csv: no rows: the file is empty"),
    "blank lines": ("\n\n", "x.csv: no rows: the file is empty"),
    "a header": ("a,b\n", "x.csv: no rows below the header 'a,b'"),
    "a short row": ("a,b\n1,2\n3\n", r"x.csv:3: found 1 fields, expected 2: '3'"),
    "a long row": ("a,b\n1,2\n3,4,5\n", r"x.csv:3: found 3 fields, expected 2: '3,4,5'; put quotes"),
    "a long row behind a line end": ('a,b\n"1\n",2\n\n3,4,5\n', r"x.csv:5: found 3 fields"),
    "two columns of one name": ("a,b,a\n1,2,3\n", r"x.csv:1: columns 1 and 3 are both named 'a'"),
    "a column without a name": ("\na,,b\n1,2,3\n", r"x.csv:2: column 2 has no name"),
    "an open quote": ('a,b\n1,2\n3,"4\n5,6\n', r"x.csv:3: a record with a wrong quote"),
    "a quote that swallows a row": ('a,b\n1,"2\n3,"4"\n5,6\n', r"x.csv:2: a record with a wrong quote"),
    "a NUL byte": ("a,b\n1,2\n3,\0\n", r"x.csv:3: a NUL byte"),
    "half of a character": (b"a,b\n1,2\n" + "x,y\n".encode("utf-16"), r"x.csv:3: a NUL byte"),
    "a cut character": ("a,b\n1,2\n".encode("utf-16")[:-1], r"x.csv: damaged text in utf-16"),
    "an endless header": ("a" * 2_000_000, r"x.csv:1: a record with a wrong quote or field: field larger"),
}


@pytest.mark.parametrize("name", FAULTS)
def test_faults_are_told_with_their_line(tmp_path: Path, name: str) -> None:
    content, words = FAULTS[name]
    with pytest.raises(DataError, match=words) as raised:
        read_table(put(tmp_path, content))
    assert "\n" not in str(raised.value)


def test_hostile_files(tmp_path: Path) -> None:
    for name in ("x.csv", "x.csv.gz", "x.parquet"):
        os.mkfifo(tmp_path / name)
        with pytest.raises(DataError, match="not a regular file"):
            read_table(tmp_path / name)
        (tmp_path / name).unlink()
    good = gzip.compress(PEOPLE.encode() * 1000)
    for content, words in (
        (good[:-20], "truncated or damaged"),
        (PEOPLE.encode(), "cannot be read: Not a gzipped file"),
        (gzip.compress(b"1,2\n" * 1_000_000) * 70, "above the size limit of 256 MB"),
    ):
        with pytest.raises(DataError, match=words):
            read_table(put(tmp_path, content, "x.csv.gz"))


def test_a_file_beyond_the_memory_says_what_it_needs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = put(tmp_path, PEOPLE)
    monkeypatch.setattr("bfn_files.tables.HELD", 10**15)
    with pytest.raises(
        ResourceError, match=r"x\.csv: its 0\.0 GB need about .* GB of memory, and .* GB are free; write"
    ):
        read_table(path)


def test_parquet_is_read_as_it_would_be_written(tmp_path: Path) -> None:
    day = datetime.date(2020, 2, 29)
    moment = datetime.datetime(2020, 2, 29, 12, 30, 5)
    table = pa.table(
        {
            "double": [0.1, 1e300, None, float("nan")],
            "float": pa.array([0.1, 16777216.0, None, -2.5], pa.float32()),
            "integer": [2**62, -1, None, 0],
            "truth": [True, False, None, True],
            "text": ["a,b", "", None, 'x"y'],
            "category": pa.array(["u", "v", None, "u"]).dictionary_encode(),
            "day": [day, None, None, day],
            "moment": [moment, None, None, moment],
            "midnight": [datetime.datetime(2020, 2, 29), None, None, None],
            "time": [moment.time(), None, None, None],
            "nothing": [None] * 4,
        }
    )
    expected = {
        "double": ["0.1", "1e+300", "", "nan"],
        "float": ["0.1", "16777216.0", "", "-2.5"],
        "integer": ["4611686018427387904", "-1", "", "0"],
        "truth": ["True", "False", "", "True"],
        "text": ["a,b", "", "", 'x"y'],
        "category": ["u", "v", "", "u"],
        "day": ["2020-02-29", "", "", "2020-02-29"],
        "moment": ["2020-02-29 12:30:05", "", "", "2020-02-29 12:30:05"],
        "midnight": ["2020-02-29", "", "", ""],
        "time": ["12:30:05", "", "", ""],
        "nothing": [""] * 4,
    }
    parquet.write_table(table, tmp_path / "x.parquet")
    read = read_table(tmp_path / "x.parquet")
    assert cells(read) == expected
    assert read.place(2).endswith("x.parquet: row 2")
    assert describe(tmp_path / "x.parquet")[:2] == (list(expected), 4)
    assert cells(table_of_frame(table)) == expected


def test_damaged_parquet(tmp_path: Path) -> None:
    parquet.write_table(pa.table({"a": [[1], [2]], "b": [1, 2]}), tmp_path / "x.parquet")
    with pytest.raises(DataError, match=r"x.parquet: column 'a': holds list<"):
        read_table(tmp_path / "x.parquet").columns["a"]
    data = (tmp_path / "x.parquet").read_bytes()
    for content in (b"", b"PAR1", data[:-10], data[:40] + data[60:], data.replace(b"PAR1", b"PAR2")):
        with pytest.raises(DataError, match=r"x\.parquet: "):
            read_table(put(tmp_path, content, "x.parquet"))
    parquet.write_table(pa.table({"a": pa.array([], pa.int64())}), tmp_path / "x.parquet")
    with pytest.raises(DataError, match="no rows"):
        read_table(tmp_path / "x.parquet")


def test_frames_of_wrong_things_are_told() -> None:
    with pytest.raises(DataError, match="the data frame: expected columns of texts"):
        table_of_frame(object())
    with pytest.raises(DataError, match="columns 1 and 2 are both named 'a'"):
        table_of_frame(pa.table([[1], [2]], ["a", "a"]))


@pytest.mark.parametrize(
    ("content", "rows"),
    [
        (PEOPLE, 2),
        (PEOPLE.removesuffix("\n"), 2),
        ('\na,b\n"1\n2",3\n\n4,5\r\n6,7', 3),
        ("1,2\n3,4\n", 2),
        ("a,b\n", 0),
    ],
)
def test_rows_are_counted_without_reading(tmp_path: Path, content: str, rows: int) -> None:
    path = put(tmp_path, content)
    assert describe(path)[1] == rows
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert describe(put(tmp_path, gzip.compress(content.encode()), "x.csv.gz"))[1] == rows
