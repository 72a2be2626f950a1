"""The data set of a table: rows, splits, what it prints and warns of, and the way from the command line."""

from __future__ import annotations

import random
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings, strategies as st

from bfn_table import RowsCodec, Table
from bfn_toolkit import BFNWarning, ConfigError, DataError
from bfn_toolkit.cli import main
from bfn_toolkit.config.recognition import dataset_for
from bfn_toolkit.registry.registry import default_registry
from bfn_toolkit.testing import check_dataset


def put(folder: Path, columns: dict[str, Sequence[object]], name: str = "x.csv", separator: str = ",") -> Path:
    path = folder / name
    lines = [columns.keys(), *zip(*columns.values(), strict=True)]
    path.write_text("".join(separator.join(map(str, line)) + "\n" for line in lines))
    return path


def read(table: Table) -> torch.Tensor:
    """All rows."""
    x = table.content.rows.x
    assert isinstance(x, torch.Tensor)
    return x


def people(n: int = 60) -> dict[str, Sequence[object]]:
    draw = random.Random(0)
    return {
        "id": range(1, n + 1),
        "height": [f"{draw.gauss(1.7, 0.1):.2f}" for _ in range(n)],
        "age": [draw.choice(["", draw.randrange(20, 80)]) for _ in range(n)],
        "zip": [draw.choice(["01234", "10115", "80331"]) for _ in range(n)],
        "sex": [draw.choice("fm") for _ in range(n)],
        "smokes": [draw.choice(["yes", "no", "NA"]) for _ in range(n)],
        "born": [f"{draw.randrange(1, 29):02}.{draw.randrange(1, 13):02}.1980" for _ in range(n)],
        "remark": [f"a remark of many words about the row with the number {i}" for i in range(n)],
        "country": ["DE"] * n,
    }


@pytest.fixture
def table(tmp_path: Path) -> Table:
    return Table(put(tmp_path, people()))


@pytest.mark.filterwarnings("ignore:.*constant, so written as they are")
def test_laws(table: Table) -> None:
    check_dataset(table)


@pytest.mark.filterwarnings("ignore:.*constant, so written as they are")
def test_rows_splits_and_facts(table: Table) -> None:
    rows = table.content.rows
    assert rows.x.dtype == torch.float32
    assert table.site_shape == (6,)
    assert not rows.x.isnan().any()
    codec = table.codec
    assert isinstance(codec, RowsCodec)
    assert codec.names == ("height", "age", "zip", "sex", "smokes", "born")
    assert list(codec.left_out) == ["id", "remark"]
    sizes, ordered = table.metadata["sizes"], table.metadata["ordered"]
    assert ordered == (True, True, False, False, False, True)
    assert [sizes[i] for i in (2, 3, 4)] == [3, 2, 3]  # with the gap
    assert (rows.x.floor().amax(0) < torch.tensor(sizes)).all()
    counts = [len(table.split(name)) for name in ("train", "valid", "test", "all")]
    assert (sum(counts[:3]), counts[0] + counts[1]) == (60, counts[3])


@pytest.mark.filterwarnings("ignore:.*constant, so written as they are")
def test_cells_of_names_come_back(table: Table, tmp_path: Path) -> None:
    columns = people()
    raw = table.codec.decode(table.content.rows.x)
    for name in ("zip", "sex", "smokes", "country"):
        assert raw[name] == columns[name]
    assert [text or "" for text in raw["age"]] == [str(age) for age in columns["age"]]


@pytest.mark.filterwarnings("ignore:.*constant, so written as they are")
def test_what_was_found_is_said(table: Table) -> None:
    gaps = [list(people()[name]).count(text) for name, text in (("age", ""), ("smokes", "NA"))]
    assert [" ".join(line.split()) for line in table.summary] == [
        'id left out: identifier: counts the rows; --types "id=integer" keeps it',
        "height numbers, 2 decimals",
        f"age integers; gaps: {gaps[0]}",
        "zip, sex categories: 3, 2",
        f"smokes booleans; gaps: {gaps[1]}",
        "born dates as %d.%m.%Y",
        'remark left out: free text: 60 different of 60; --types "remark=category" keeps it',
        "country constant",
    ]


def test_wide_tables_are_described_in_few_lines(tmp_path: Path) -> None:
    draw = random.Random(0)
    columns = {f"x{i}": [f"{draw.random():.{1 + i % 9}f}" for _ in range(30)] for i in range(300)}
    columns |= {f"id{i}_id": [draw.random() for _ in range(30)] for i in range(20)}
    columns |= {f"c{i}": [draw.choice("ab") for _ in range(30)] for i in range(50)}
    path = put(tmp_path, columns)
    summary = Table(path).summary
    assert len(summary) <= 16
    assert all(len(line) < 200 for line in summary)
    assert " and " in summary[0]


@pytest.mark.filterwarnings("ignore:.*constant, so written as they are")
def test_options_choose_columns_and_kinds(table: Table, tmp_path: Path) -> None:
    path = table.path
    assert Table(path, columns=("height", "born", "age")).codec.names == ("height", "born", "age")
    assert Table(path, types={"zip": "text"}).codec.left_out["zip"] == "text, as types say"
    assert "id" in Table(path, types={"id": "integer"}).codec.names
    kept = Table(path, gaps=("f",)).codec.columns
    assert next(column.gaps for column in kept if column.name == "sex") == ("f",)
    assert max(Table(path, bins=5).metadata["sizes"]) <= 64
    for options, words in (
        ({"columns": ("sexx",)}, "columns: no column is named 'sexx'; .*Did you mean 'sex'"),
        ({"types": {"sexx": "text"}}, "types: no column is named 'sexx'"),
        ({"types": {"sex": "texts"}}, "Did you mean 'text'"),
    ):
        with pytest.raises(ConfigError, match=words):
            read(Table(path, **options))
    with pytest.raises(DataError, match=r"x.csv:2: column 'height': expected a date, got '1"):
        read(Table(path, types={"height": "date"}))


WARNED: dict[str, tuple[Callable[[int], object], str]] = {
    "constant": (lambda _: "x", "constant, so written as they are and not learned: b"),
    "rare": (lambda i: f"c{i // 2}", "column 'b' has 20 categories in 40 rows, too few to learn them; --types"),
    "text": (lambda i: "many" if i == 7 else i % 5, "x.csv:9: column 'b': 'many' is not a number as others are"),
}


@pytest.mark.parametrize("name", WARNED)
def test_warnings(tmp_path: Path, name: str) -> None:
    value, words = WARNED[name]
    path = put(tmp_path, {"a": [i / 8 for i in range(40)], "b": [value(i) for i in range(40)]})
    with pytest.warns(BFNWarning, match=words):
        read(Table(path))


def test_copies_are_said(tmp_path: Path) -> None:
    path = put(tmp_path, {"a": [i % 2 for i in range(40)], "b": ["u", "v"] * 20})
    with pytest.warns(BFNWarning, match="38 of 40 rows are duplicates; copies may be in both training and validation"):
        read(Table(path))


def test_nothing_to_learn(tmp_path: Path) -> None:
    path = put(tmp_path, {"id": range(30), "b": ["x"] * 30})
    with pytest.raises(DataError, match=r"no column to learn: 'id': identifier: counts the rows"):
        read(Table(path))
    with pytest.raises(DataError, match=r"x\.csv: cannot split 2 rows"):
        read(Table(put(tmp_path, {"a": [1, 2]})))


@pytest.mark.parametrize("n", [3, 4, 5, 12])
def test_few_rows_are_enough(tmp_path: Path, n: int) -> None:
    draw = random.Random(0)
    path = put(tmp_path, {"a": [draw.random() for _ in range(n)], "b": [draw.choice(["", 1, 2]) for _ in range(n)]})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", BFNWarning)
        assert Table(path).content.rows.x.shape == (n, 2)


@pytest.mark.parametrize(
    ("name", "content", "words", "certainty"),
    [
        ("x.csv", "a,b\n1,u\n2,v\n", "2 rows, 2 columns", 3),
        ("x.tsv", "a\tb\n1\tu\n", "1 row, 2 columns", 3),
        ("x.csv", "a,b\n1,2\n", "1 row, 2 columns", 3),
        ("x.csv", "1,2\n3,4\n", "2 rows, 2 columns", 3),
        ("x.csv", "a\n1\n2\n", "2 rows, 1 column", 3),
        ("x.csv", "smiles\nCCO\nCCN\n", None, None),
        ("x.csv", "", "a table", 3),
        ("x.parquet", "damaged", "a table", 3),
        ("x.txt", "a,b\n1,2\n", None, None),
    ],
)
def test_recognition(tmp_path: Path, name: str, content: str, words: str | None, certainty: int | None) -> None:
    path = tmp_path / name
    path.write_text(content)
    found = Table.recognise(path)
    assert (found and found.description, found and found.certainty) == (words, certainty)
    assert Table.recognise(tmp_path) is None
    assert certainty is None or dataset_for(path, default_registry()) == "table"


@pytest.mark.filterwarnings("ignore:.*constant, so written as they are")
def test_short_options_of_the_command_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    put(tmp_path, people())
    words = ["--columns", "zip,sex,born", "--types", "zip=integer,born=date:%d.%m.%Y", "--types", "sex=category"]
    assert main(["train", "x.csv", *words, "--gaps", "f,?", "--options"]) == 0
    options = capsys.readouterr().out
    assert 'columns = ["zip", "sex", "born"]' in options
    assert 'gaps = ["f", "?"]' in options
    small = ["--training.steps", "2", "--network.width", "8", "--no-report", "--out", "run"]
    assert main(["train", "x.csv", *words, "--gaps", "f,?", *small]) == 0
    lines = [" ".join(line.split()) for line in capsys.readouterr().err.splitlines()]
    assert lines[0].startswith("read x.csv: 60 rows, 9 columns (as table")
    assert "zip integers" in lines
    assert f"sex categories: 1; gaps: {list(people()['sex']).count('f')}" in lines
    assert main(["train", "x.csv", "--types", "zip", *small]) == 2
    assert "--types zip: expected a column and its kind, such as zip=category" in capsys.readouterr().err


CELLS = st.one_of(
    st.sampled_from(["", "NA", "-", "None", "1", "01", "2.5", "1,5", "yes", "inf", "2020-01-01", "1/2/2020", "x"]),
    st.text(max_size=3).filter(lambda text: not set(text) & set('\0\r\n",')),
)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(CELLS, CELLS), min_size=3, max_size=30))
def test_any_table_is_read_or_refused_in_words(tmp_path: Path, rows: list[tuple[str, str]]) -> None:
    path = tmp_path / "x.csv"
    lines = ["a,b,c", *(f"{a},{b},{i / 4}" for i, (a, b) in enumerate(rows))]
    path.write_bytes("\n".join([*lines, ""]).encode("utf-8", "surrogatepass"))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", BFNWarning)
        try:
            x = read(table := Table(path))
        except DataError as error:
            refusal = str(error)
        else:
            refusal = ""
    if refusal:
        assert "x.csv" in refusal
        assert "\n" not in refusal
        return
    assert len(x) == len(rows)
    assert (x >= 0.0).all()
    raw = table.codec.decode(x)
    for name in ("a", "b"):
        kind = next((column.kind for column in table.codec.columns if column.name == name), None)
        if kind in ("category", "boolean"):
            cells = [row["ab".index(name)] for row in rows]
            gaps = next(column.gaps for column in table.codec.columns if column.name == name)
            assert all(
                found == cell or (cell in gaps and found in gaps) for cell, found in zip(cells, raw[name], strict=True)
            )
