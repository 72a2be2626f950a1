"""D: tables of mixed columns, by their path."""

from __future__ import annotations

import gzip
import os

from bad_input.cases import Case, Content, Word, case
from bad_input.data import SMALL

CITIES = ["Bonn", "Oslo", "Lima"]
ROWS = [(i * i, f"{i / 8}", CITIES[i % 3], f"{1 + i % 28:02}.{1 + i % 12:02}.2020") for i in range(40)]


def rows_of(*changes: tuple[int, int, object], separator: str = ",", header: str = "age,size,city,born") -> str:
    """A table, with other values in some rows and columns."""
    rows = [list(row) for row in ROWS]
    for row, column, value in changes:
        rows[row][column] = str(value)
    lines = [separator.join(map(str, row)) for row in rows]
    return "\n".join([header.replace(",", separator), *lines, ""])


def mixed(id: str, content: Content, status: int, *words: Word, options: str = "", name: str = "x.csv") -> Case:
    """Training on a file that the data set "table" recognises."""
    return case(id, f"train {name} {options} {SMALL}", status, *words, files={name: content})


CASES: list[Case] = [
    mixed("D1-empty-table", "", 3, "x.csv: no rows: the file is empty"),
    mixed("D1-table-of-a-header", "age,size\n", 3, "x.csv: no rows below the header 'age,size'"),
    mixed("D1-parquet-of-nothing", b"", 3, "x.parquet: truncated or damaged", name="x.parquet"),
    mixed("D2-table-of-one-row", "age,city\n1,Bonn\n", 3, "x.csv: cannot split 1 row"),
    mixed("D3-gaps-are-data", rows_of((3, 0, ""), (4, 1, "NA"), (5, 2, "")), 0, "run:"),
    mixed("D4-infinity", rows_of((7, 1, "inf")), 3, "x.csv:9: column 'size': 'inf' is not finite; write --gaps inf"),
    mixed("D4-infinity-as-a-gap", rows_of((7, 1, "inf")), 0, "run:", options="--gaps inf"),
    mixed("D5-table-column-of-gaps", rows_of(*((i, 1, "NA") for i in range(40))), 0, "constant", "size", "run:"),
    mixed(
        "D6-constant-column-of-a-table", rows_of(*((i, 2, "Bonn") for i in range(40))), 0, "constant", "city", "run:"
    ),
    mixed("D7-equal-rows-of-a-table", "a,b\n" + "1,u\n2,v\n" * 10, 0, "18 of 20 rows are duplicates", "run:"),
    mixed("D8-short-row-of-a-table", rows_of((5, 3, "1\n2,3")), 3, "x.csv:8: found 2 fields, expected 4: '2,3'"),
    mixed("D8-long-row-of-a-table", rows_of((5, 3, "1,2")), 3, "x.csv:7: found 5 fields, expected 4", "put quotes"),
    mixed(
        "D8-long-row-behind-a-line-end",
        rows_of((1, 2, '"a\n\nb"'), (5, 3, "1;2"), separator=";"),
        3,
        "x.csv:9: found 5 fields, expected 4",
    ),
    mixed("D9-names-twice", rows_of(header="age,size,age,born"), 3, "x.csv:1: columns 1 and 3 are both named 'age'"),
    mixed("D9-column-without-name", rows_of(header="age,,city,born"), 3, "x.csv:1: column 2 has no name in the header"),
    mixed("D9-nul-in-a-table", rows_of((7, 2, "a\0b")), 3, "x.csv:9: a NUL byte"),
    mixed("D9-quote-that-stays-open", rows_of((7, 2, '"a')), 3, "x.csv:9: a record with a wrong quote"),
    mixed(
        "D9-text-among-numbers",
        rows_of((7, 0, "old")),
        3,
        "x.csv:9: column 'age': expected a number, got 'old'; write --gaps 'old'",
        '--types "age=category"',
        "97.5 %",
    ),
    mixed("D9-text-that-is-a-gap", rows_of((7, 0, "old")), 0, "run:", options="--gaps old"),
    mixed("D9-text-among-dates", rows_of((7, 3, "soon")), 3, "x.csv:9: column 'born': expected a date, got 'soon'"),
    mixed("D9-table-without-use", "id,b\n" + "".join(f"{i},x\n" for i in range(30)), 3, "no column to learn", "'id'"),
    mixed("D9-latin-1-table", rows_of((7, 2, "Köln")).encode("latin-1"), 0, "x.csv:9: not UTF-8", "cp1252", "run:"),
    mixed("D18-bomb-of-a-table", gzip.compress(b"1,2\n" * 10**6) * 70, 3, "above the size limit", name="x.csv.gz"),
    mixed("D20-table-cut", gzip.compress(rows_of().encode())[:-20], 3, "truncated or damaged", name="x.csv.gz"),
    mixed("D20-parquet-damaged", b"PAR1" + bytes(40) + b"PAR1", 3, "x.parquet: cannot be read", name="x.parquet"),
    mixed("D22-table-is-a-fifo", os.mkfifo, 3, "x.csv: a FIFO, device or socket"),
    mixed(
        "C12-column-of-a-table",
        rows_of(),
        2,
        "columns: no column is named 'aeg'; it has age, size, city, born",
        "Did you mean 'age'?",
        options="--columns aeg,size",
    ),
    mixed(
        "C12-kind-without-column", rows_of(), 2, "--types age: expected a column and its kind", options="--types age"
    ),
    mixed(
        "C12-kind-of-a-column",
        rows_of(),
        2,
        "types: 'city=categry': expected one of number, integer,",
        "Did you mean 'category'?",
        options="--types city=categry",
    ),
    mixed(
        "C12-kind-that-does-not-fit",
        rows_of(),
        3,
        "x.csv:2: column 'city': expected a number, got 'Bonn'",
        options="--types city=number",
    ),
    mixed("C12-bins", rows_of(), 2, "bins: expected bins >= 2, got 1", options="--dataset.bins 1"),
]
