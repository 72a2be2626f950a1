"""The codec of rows: texts of a file come back, known cells to the character, and conditions are regions of lines."""

from __future__ import annotations

import datetime
import json
import operator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from bfn_files.tables import Texts
from bfn_table import RowsCodec, Table
from bfn_table.columns import distinct, fit
from bfn_table.kinds import tell
from bfn_toolkit import ConfigError, DataError
from bfn_toolkit.config.json_values import codec_from_json, codec_to_json
from bfn_toolkit.registry.registry import default_registry
from bfn_toolkit.runs.sample_files import sample_file
from bfn_toolkit.testing.codec_laws import (
    check_codecs_keep_gaps,
    check_codecs_survive_json,
    check_codecs_take_data_back,
)

N = 300
SPECIES = ["Adelie", 'a "big" one', "x;y, z", "two\nlines", "a\rb", "c=d>2"]


def _rows() -> dict[str, list[str]]:
    rng = np.random.default_rng(0)
    start = datetime.date(2020, 1, 1)
    return {
        "length, mm": [f"{v:.1f}".replace(".", ",") if v < 60 else "" for v in rng.normal(45.0, 9.0, N)],
        "mass>g": [str(50 * v) for v in rng.integers(60, 120, N)],
        "mass": [repr(v) for v in rng.choice(rng.lognormal(size=20), N).tolist()],
        "species": rng.choice(SPECIES, N).tolist(),
        "sex": rng.choice(["male", "female", "NA"], N).tolist(),
        "day": [(start + datetime.timedelta(int(v))).strftime("%d/%m/%Y") for v in rng.integers(0, 900, N)],
        "year": ["2007"] * N,
        "alive": rng.choice(["TRUE", "FALSE"], N).tolist(),
        "at": [f"2020-05-01T{v // 60:02}:{v % 60:02}" for v in rng.integers(0, 1440, N)],
        "hour": rng.choice(["08:30 AM", "12:00 PM", "07:15 PM"], N).tolist(),
    }


@pytest.fixture(scope="module")
def rows() -> dict[str, list[str]]:
    return _rows()


@pytest.fixture(scope="module")
def codec(rows: dict[str, list[str]]) -> RowsCodec:
    columns = []
    for name, cells in rows.items():
        texts = Texts(*distinct(cells))
        kind = {"length, mm": "number:0,0", "day": "date:%d/%m/%Y"}.get(name)
        columns.append(fit(tell(name, texts, str, kind), texts, range(N), 25))
    return RowsCodec(columns, {"id": "identifier: all different"}, ";")


@pytest.fixture(scope="module")
def x(codec: RowsCodec) -> torch.Tensor:
    """Points everywhere on the lines."""
    sizes = torch.tensor([column.classes for column in codec.learned])
    return torch.rand(2000, len(sizes), generator=torch.Generator().manual_seed(0)) * sizes


def written(path: Path, codec: RowsCodec, *pieces: Any) -> Path:
    with sample_file(path, sum(len(piece["year"]) for piece in pieces), codec=codec) as file:
        for piece in pieces:
            file.append(piece)
    return path


def test_rows_come_back(codec: RowsCodec, rows: dict[str, list[str]]) -> None:
    assert [column.kind for column in codec.columns] == [
        *("number", "integer", "number", "category", "category", "date", "constant", "boolean", "datetime", "time")
    ]
    x = codec.encode(rows)
    assert x.dtype == torch.float32
    assert x.shape == (N, 9)
    assert codec.decode(x) == rows
    again = codec.encode({**rows, "id": ["ignored"] * N})
    assert torch.equal(again, x)


def test_points_are_cells(codec: RowsCodec, x: torch.Tensor) -> None:
    raw = codec.decode(x)
    assert all(raw[column.name].count(None) == 0 for column in codec.columns)
    again = codec.encode(raw)
    assert torch.equal(again.floor(), x.floor())
    assert codec.decode(again) == raw
    widths = codec.log_width(x)
    assert widths.dtype == x.dtype
    assert bool((widths <= 0.0).all())
    assert torch.allclose(widths, codec.log_width(again))


def test_a_model_file_says_everything(codec: RowsCodec, x: torch.Tensor) -> None:
    table = codec_to_json(codec, default_registry())
    copy = codec_from_json(json.loads(json.dumps(table, allow_nan=False)), default_registry())
    assert copy == codec
    assert hash(copy) == hash(codec)
    assert copy.decode(x) == codec.decode(x)


def test_unknown_cells(codec: RowsCodec, x: torch.Tensor) -> None:
    mask = torch.rand(x.shape, generator=torch.Generator().manual_seed(1)) < 0.5
    raw = codec.decode(x, mask)
    assert torch.equal(codec.encode(raw).isnan(), ~mask)
    assert raw == codec.decode(torch.where(mask, x, torch.nan))
    assert set(codec.decode(x, mask[:, 0])["mass>g"]) > {None}
    found = codec.encode({"sex": ["NA", "", None, "male"], "mass": ["", "NA", None, "1.5"]})
    unknown = dict(zip(codec.names, found.isnan().T.tolist(), strict=True))
    assert unknown.pop("sex") == [False, False, True, False]
    assert unknown.pop("mass") == [True, True, True, False]  # a column without gaps
    assert all(map(all, unknown.values()))
    assert codec.encode({}).shape == (0, 9)


@pytest.mark.parametrize(
    ("raw", "words"),
    [
        ({"sex": ["male", "mal"]}, "row 2: column 'sex': expected one of .*, got 'mal'. Did you mean 'male'"),
        ({"sexx": ["male"]}, "no column is named 'sexx'; the columns are length, mm, .*Did you mean 'sex'"),
        ({"mass>g": ["1", "2 kg"]}, "row 2: column 'mass>g': expected an integer such as 3000, got '2 kg'"),
        ({"day": ["2020-05-01"]}, "row 1: column 'day': expected a date such as 03/01/2020, got '2020-05-01'"),
        ({"year": ["2008"]}, "row 1: column 'year': expected 2007, got '2008'"),
        ({"sex": ["male"], "mass": ["1.0", "2.0"]}, "expected columns of one length, got sex 1, mass 2"),
    ],
)
def test_texts_that_are_no_cells_are_named(codec: RowsCodec, raw: dict[str, list[str]], words: str) -> None:
    with pytest.raises(DataError, match=words):
        codec.encode(raw)


@pytest.mark.parametrize("ending", [".csv", ".tsv", ".parquet"])
def test_files_come_back(
    codec: RowsCodec, rows: dict[str, list[str]], x: torch.Tensor, ending: str, tmp_path: Path
) -> None:
    raw = codec.decode(x)
    path = written(
        tmp_path / f"rows{ending}", codec, {n: c[:700] for n, c in raw.items()}, {n: c[700:] for n, c in raw.items()}
    )
    found = codec.formats[ending].read(path)
    unknown = {name: [None if cell == "" else cell for cell in cells] for name, cells in raw.items()}
    if ending == ".parquet":  # in which a gap is null
        unknown["sex"] = [None if cell == "NA" else cell for cell in unknown["sex"]]
    assert found == unknown
    if ending != ".parquet":
        separator = ";" if ending == ".csv" else "\t"
        first = path.read_bytes().decode().split("\n")[0]
        assert first == separator.join(
            ["length, mm", "mass>g", "mass", "species", "sex", "day", "year", "alive", "at", "hour"]
        )
        assert '"two\nlines"' in path.read_bytes().decode()
        assert '"a\rb"' in path.read_bytes().decode()


def test_parquet_has_types(codec: RowsCodec, rows: dict[str, list[str]], tmp_path: Path) -> None:
    from pyarrow import parquet

    table = parquet.read_table(written(tmp_path / "rows.parquet", codec, rows))
    types = [
        "double",
        "int64",
        "double",
        "string",
        "string",
        "date32[day]",
        "string",
        "bool",
        "timestamp[us]",
        "time64[us]",
    ]
    assert [str(kind) for kind in table.schema.types] == types
    assert table.column("sex").null_count == rows["sex"].count("NA")
    assert table.column("mass").to_pylist() == [float(text) for text in rows["mass"]]
    assert table.column("day").to_pylist()[0].strftime("%d/%m/%Y") == rows["day"][0]
    assert table.column("length, mm").null_count == rows["length, mm"].count("")


def test_known_cells_come_back_to_the_character(codec: RowsCodec, x: torch.Tensor, tmp_path: Path) -> None:
    path = tmp_path / "gaps.csv"
    path.write_text('"length, mm",mass>g,sex,mass\n"4,50",  ,NA,\n"41,27",03500,,NA\n')
    known = codec.formats[".csv"].read(path)
    assert known == {
        "length, mm": ["4,50", "41,27"],
        "mass>g": [None, "03500"],
        "sex": ["NA", None],
        "mass": [None, None],
    }
    places = codec.encode(known)
    assert places.isnan().tolist() == [
        [False, True, True, True, False, True, True, True, True],
        [False, False, True, True, True, True, True, True, True],
    ]
    sampled = codec.decode(torch.where(places.isnan(), x[:2], places))
    filled = codec.with_known(sampled, known)
    assert filled["length, mm"] == ["4,50", "41,27"]
    assert filled["mass>g"] == [sampled["mass>g"][0], "03500"]
    assert filled["sex"] == ["NA", sampled["sex"][1]]
    assert filled["mass"] == sampled["mass"]
    assert codec.with_known(sampled, {"mass": ["", "1.5"]})["mass"] == [sampled["mass"][0], "1.5"]
    path.write_text("mass;sex\n1.0;male\n2.0;mle\n")
    with pytest.raises(DataError, match=r"gaps\.csv:3: column 'sex': expected one of .*, got 'mle'"):
        codec.formats[".csv"].read(path)


OPERATORS = {
    "=": operator.eq,
    "!=": operator.ne,
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}


@pytest.mark.parametrize("sign", OPERATORS)
@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("length, mm", "45,2"),
        ("length, mm", "45,25"),
        ("mass>g", "4000"),
        ("mass>g", "4010"),
        ("mass", "1.5"),
        ("day", "17/05/2021"),
    ],
)
def test_regions_are_the_points_that_satisfy_a_condition(
    codec: RowsCodec, x: torch.Tensor, name: str, text: str, sign: str
) -> None:
    number = _number(name, text)
    cells = codec.decode(x)[name]
    expected = [cell != "" and OPERATORS[sign](_number(name, str(cell)), number) for cell in cells]
    if sign == "!=":
        expected = [ok or cell == "" for ok, cell in zip(expected, cells, strict=True)]
    found, starts, ends = codec.region(f" {name} {sign} {text} ")
    assert found == name
    points = x[:, codec.names.index(name)].unsqueeze(1)
    assert ((starts <= points) & (points < ends)).any(1).tolist() == expected


def _number(name: str, text: str) -> float:
    if name == "day":
        return datetime.datetime.strptime(text, "%d/%m/%Y").timestamp()
    return float(text.replace(",", "."))


@pytest.mark.parametrize(
    ("name", "text"), [("species", "Adelie"), ("species", "c=d>2"), ("sex", "NA"), ("sex", ""), ("length, mm", "")]
)
def test_regions_of_names_and_gaps(codec: RowsCodec, x: torch.Tensor, name: str, text: str) -> None:
    cells = codec.decode(x)[name]
    points = x[:, codec.names.index(name)].unsqueeze(1)
    for sign in ("=", "!="):
        _, starts, ends = codec.region(f"{name}{sign}{text}")
        same = [cell == (text or ("NA" if name == "sex" else "")) for cell in cells]
        assert ((starts <= points) & (points < ends)).any(1).tolist() == [one == (sign == "=") for one in same]


@pytest.mark.parametrize(
    ("condition", "words"),
    [
        ("sexx=male", "no column is named 'sexx'.*Did you mean 'sex'"),
        ("sex=mle", "column 'sex': expected one of .*, got 'mle'. Did you mean 'male'"),
        ("sex>male", "> compares numbers, 'male' is a category; use = or !="),
        ("length, mm<", "< compares numbers, '' is a gap"),
        ("mass=", "column 'mass' has no gaps"),
        ("mass>g>90000", "no cell of column 'mass>g' satisfies this: its cells are from 3000 to"),
        ("mass>g=90000", "no cell of column 'mass>g' satisfies this: its cells are from 3000 to"),
        ("year=2007", "column 'year' is '2007' in all rows"),
        ("id=3", "column 'id' is not learned: identifier"),
        ("mass", "NAME=VALUE"),
        ("day<tomorrow", "expected a date such as 03/01/2020, got 'tomorrow'"),
    ],
)
def test_conditions_that_cannot_be_met(codec: RowsCodec, condition: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        codec.region(condition)


def test_the_laws_of_codecs_hold_for_a_table(codec: RowsCodec, rows: dict[str, list[str]], tmp_path: Path) -> None:
    path = written(tmp_path / "rows.csv", codec, rows)
    dataset = Table(path)
    for law in (check_codecs_take_data_back, check_codecs_keep_gaps, check_codecs_survive_json):
        law(dataset)


def test_a_table_of_numbers_is_also_an_array(tmp_path: Path) -> None:
    path = tmp_path / "numbers.csv"
    path.write_text("a,b\n" + "".join(f"{i}.5,{i % 7}\n" for i in range(40)))
    codec = Table(path).codec
    raw = codec.from_numbers(torch.tensor([[3.5, torch.nan], [7.5, 2.0]], dtype=torch.float64))
    assert raw == {"a": ["3.5", "7.5"], "b": [None, "2"]}
    assert torch.equal(codec.numbers(codec.decode(codec.encode(raw)))[1], torch.tensor([7.5, 2.0], dtype=torch.float64))
    assert codec.from_numbers(torch.tensor([1.5, 6.0])) == {"a": ["1.5"], "b": ["6"]}
    with pytest.raises(DataError, match=r"expected an array \(rows, 2\)"):
        codec.from_numbers(torch.zeros(3))


def test_a_table_with_names_is_no_array(codec: RowsCodec) -> None:
    assert ".npy" not in codec.formats


@pytest.mark.parametrize(
    "damage",
    [
        {"edges": [0.0, 2.0]},
        {"edges": [0.0, 1.5, 1.0, 2.0]},
        {"edges": [0.0, 1.0, 1.5, float("nan")]},
        {"edges": [0.0, 0.5, 1.5, 2.0]},
        {"classes": 10**9},
        {"classes": 1},
        {"values": [30.0, 20.0, 40.0]},
        {"values": [0.0, 20.0, float("inf")]},
        {"values": []},
        {"decimals": 400},
        {"kind": "date", "form": "%Y", "values": [0.0, 20.0, 1e9]},
        {"form": "0.0.0"},
        {"kind": "category"},
        {"kind": "constant"},
        {"gaps": ["", 5]},
    ],
)
def test_a_damaged_column_is_refused_when_it_is_read(damage: dict[str, Any]) -> None:
    sound = {"name": "a", "kind": "number", "classes": 3, "edges": [0.0, 1.0, 1.5, 2.0], "gaps": [""]}
    sound |= {"values": [0.0, 20.0, 30.0], "decimals": 1}
    assert RowsCodec([sound]).names == ("a",)
    with pytest.raises(ConfigError):
        RowsCodec([{**sound, **damage}])
