"""Conditions on the cells of a table, and known rows, from texts to texts, by a network that has learned nothing."""

from __future__ import annotations

import csv
import datetime
import io
import itertools
import math
import operator
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from bfn_columns import Columns
from bfn_mlp import MLP
from bfn_table import Table
from bfn_toolkit import BFN, CellConditions, ConfigError, DataError, Experiment, seeded
from bfn_toolkit.cli import main
from bfn_toolkit.cli.options import make_plan
from bfn_toolkit.guidance.regions import _Pieces
from bfn_toolkit.runs.run import Run
from bfn_toolkit.runs.sampling import ResolvedPlan, SamplePlan, stream_samples

COMPARE = {"=": "eq", "!=": "ne", "<": "lt", "<=": "le", ">": "gt", ">=": "ge"}
PARSE: dict[str, Callable[[str], Any]] = {
    "price": float,
    "count": int,
    "spiky": float,
    "day": datetime.date.fromisoformat,
    "when": datetime.datetime.fromisoformat,
    "kind": str,
}
GAP = {"count": "NA", "kind": ""}


def rows(n: int = 400) -> list[list[str]]:
    """Prices with two decimals, counts with gaps, mostly zeros, dates, times, and names with a comma and gaps."""
    rng = np.random.default_rng(0)
    kinds = ["a, b", "c<d", 'e"f', "g", ""]
    table = [["key", "price", "count", "spiky", "day", "when", "kind"]]
    for i in range(n):
        day = datetime.date(2020, 1, 31) + datetime.timedelta(days=int(rng.integers(0, 700)))
        when = datetime.datetime(2021, 5, 1) + datetime.timedelta(seconds=int(rng.integers(0, 10**6)))
        table.append(
            [
                f"k{i:05d}{rng.integers(10**6)}",
                f"{rng.lognormal(3, 1):.2f}",
                "NA" if rng.random() < 0.1 else str(rng.poisson(20) * 5),
                "0" if rng.random() < 0.6 else repr(float(rng.normal())),
                day.isoformat(),
                when.isoformat(sep=" "),
                str(rng.choice(kinds, p=[0.4, 0.3, 0.15, 0.1, 0.05])),
            ]
        )
    return table


def texts_of(table: list[list[str]]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(table)
    return text.getvalue()


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    path = tmp_path_factory.mktemp("table") / "things.csv"
    path.write_text(texts_of(rows()))
    dataset = Table(path)
    family = Columns(dataset.metadata["sizes"], dataset.metadata["ordered"])
    experiment = Experiment.from_mapping({"network": {"name": "siren", "width": 8}}, base="default")
    with seeded(0, "weights"):
        return Run(experiment, BFN(family, MLP(width=8, time_free=True), codec=dataset.codec).eval(), [], seen={})


def drawn(run: Run, n: int, *where: str, known: Path | None = None) -> dict[str, list[str]]:
    plan = ResolvedPlan.of(run, SamplePlan(n=n, steps=6, where=where, known=known))
    raw: dict[str, list[str]] = plan.raw(plan.draw())
    return raw


@pytest.mark.parametrize("column", ["price", "count", "spiky", "day", "when"])
def test_every_text_of_a_range_satisfies_it(run: Run, column: str) -> None:
    """Bounds are levels, neighbours of levels, and numbers between; compared by another reading of the texts."""
    values = sorted({row[1:][list(PARSE).index(column)] for row in rows()[1:]} - {"NA"}, key=PARSE[column])
    bounds = [values[i] for i in (0, 1, len(values) // 3, len(values) // 2, -2, -1)]
    if column in ("price", "spiky"):
        bounds += [f"{float(bound) + 0.005:.3f}" for bound in bounds[:3]]
    if column == "count":
        bounds += [str(int(bound) + 1) for bound in bounds[1:4]]
    codec = run.codec
    for bound, sign in itertools.product(bounds, COMPARE):
        compare = getattr(operator, COMPARE[sign])
        if not any(compare(PARSE[column](text), PARSE[column](bound)) for text in values):
            continue
        (region,) = CellConditions.of(codec, [f"{column} {sign} {bound}"]).asked
        pieces = _Pieces.of(region, math.ceil(max(region.high)), torch.device("cpu"), torch.float32)
        with seeded(0, bound, sign):
            points = pieces.points(torch.randint(len(pieces.low), (200,)))
        points = torch.cat([points, pieces.low, pieces.high])  # and the ends
        x = torch.zeros(len(points), len(codec.names))
        x[:, region.site] = points
        found = codec.decode(x)[column]
        known = [text for text in found if text != GAP.get(column)]
        assert all(compare(PARSE[column](text), PARSE[column](bound)) for text in known), (sign, bound)
        assert len(known) == len(found) or sign == "!="
    found = drawn(run, 100, f"{column} > {bounds[2]}", f"{column}<={bounds[3]}")[column]
    low, high = (PARSE[column](bound) for bound in bounds[2:4])
    assert all(low < PARSE[column](text) <= high for text in found)


def test_names_are_chosen_and_excluded(run: Run) -> None:
    assert set(drawn(run, 50, "kind=a, b")["kind"]) == {"a, b"}
    assert set(drawn(run, 50, "kind = c<d")["kind"]) == {"c<d"}
    assert set(drawn(run, 200, "kind!=a, b", "kind != c<d")["kind"]) == {'e"f', "g", ""}
    assert set(drawn(run, 20, "kind=")["kind"]) == {""}
    assert set(drawn(run, 20, "count=NA", "kind!=")["count"]) == {"NA"}


def test_several_conditions_hold_together(run: Run) -> None:
    raw = drawn(run, 200, "price>10", "price<=30.5", "count>=100", "day<2021-01-01", "kind!=g", "spiky=0")
    assert all(10.0 < float(text) <= 30.5 for text in raw["price"])
    assert all(int(text) >= 100 for text in raw["count"])
    assert max(raw["day"]) < "2021-01-01"
    assert set(raw["spiky"]) == {"0"}
    assert "g" not in raw["kind"]


def test_an_equal_number_comes_back_as_it_was_given(run: Run) -> None:
    assert set(drawn(run, 5, "price=020.5")["price"]) == {"020.5"}
    assert set(drawn(run, 5, "count=101", "price>20")["count"]) == {"101"}  # between two levels


def test_known_rows_stay_to_the_character(run: Run, tmp_path: Path) -> None:
    known = tmp_path / "gaps.csv"
    known.write_text('kind,key,price,count\n"a, b",x 1,007.10,\n,"y""2",,NA\n,,20,1e2\n')
    plan = make_plan(run, known=known, draws=20, condition=["day>=2021-06-01"])
    out = tmp_path / "filled.csv"
    stream_samples(plan, out)
    header, *filled = csv.reader(out.read_text().splitlines())
    assert header == ["kind", "key", "price", "count", "spiky", "day", "when"]
    for row, given in zip(filled, list(csv.reader(known.read_text().splitlines()))[1:] * 20, strict=True):
        assert all(here == there for here, there in zip(row, given, strict=False) if there)
        assert row[1] == given[1]
        assert float(row[2]) > 0.0
        assert row[5] >= "2021-06-01"
        assert row[0]  # an empty cell would be a gap
        assert row[3] != "NA" or given[3] == "NA"
    assert filled[0] != filled[3]


def test_known_rows_that_cannot_be_are_told(run: Run, tmp_path: Path) -> None:
    known = tmp_path / "gaps.csv"
    for text, words in (
        ("pric,kind\n1.5,g\n", "no column is named 'pric'; the columns are price, .* Did you mean 'price'"),
        ("price,kind\n1.5,g\n2.5,h\n", "gaps.csv:3: column 'kind': expected one of"),
        ("price,count\n1.5,ten\n", "gaps.csv:2: column 'count': expected an integer"),
    ):
        known.write_text(text)
        with pytest.raises(DataError, match=words):
            make_plan(run, known=known)
    known.write_text("price,kind\n1.5,g\n5.5,\n")
    with pytest.raises(DataError, match=r"known row 2: its 'price' is '5.5', which 'price<5' excludes"):
        make_plan(run, known=known, condition=["price<5"])
    with pytest.raises(DataError, match=r"known row 1: its 'kind' is 'g', which 'kind=a, b' excludes"):
        make_plan(run, known=known, condition=["kind=a, b"])


@pytest.mark.parametrize(
    ("where", "words"),
    [
        (["prise>3"], "no column is named 'prise'; the columns are price, count, spiky, day, when, kind. Did you mean"),
        (["key=k1"], "column 'key' is not learned"),
        (["kind=h"], "'kind=h': column 'kind': expected one of a, b, c<d"),
        (["kind>g"], "'kind>g': column 'kind': > compares numbers"),
        (["price>many"], "'price>many': column 'price': expected a number"),
        (["price>1e9"], "'price>1e9': no cell of column 'price' satisfies this"),
        (["price="], "column 'price' has no gaps"),
        (["count<="], "column 'count': <= compares numbers, '' is a gap; use = or !="),
        (["price"], "NAME=VALUE"),
        (["price>3", "price<2"], "no cell satisfies 'price>3' and 'price<2' together"),
        (["count=100", "count!=100"], "no cell satisfies 'count=100' and 'count!=100' together"),
        (["count=101", "count<80"], "no cell satisfies 'count=101' and 'count<80' together"),
    ],
)
def test_conditions_that_cannot_hold_are_told(run: Run, where: list[str], words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        CellConditions.of(run.codec, where)
    assert words in str(caught.value)


def test_the_command_satisfies_conditions_and_says_how_probable_they_are(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, trained = tmp_path / "things.csv", tmp_path / "run"
    path.write_text(texts_of(rows(120)))
    quick = ["--training.steps", "2", "--network.width", "8", "--no-report"]
    assert main(["train", "--dataset", "table", "--dataset.path", str(path), *quick, "--out", str(trained)]) == 0
    command = ["sample", str(trained), "--condition", "price>20", "--condition", "kind=g", "-n", "20"]
    assert main([*command, "--out", str(tmp_path / "a.csv")]) == 0
    assert "price>20 and kind=g: probability 0." in capsys.readouterr().err
    found = list(csv.DictReader(io.StringIO((tmp_path / "a.csv").read_text())))
    assert all(float(row["price"]) > 20.0 and row["kind"] == "g" for row in found)
    assert main([*command]) == 0
    assert "price-above-20-kindg" in capsys.readouterr().out
    assert main([*command, "--condition", "prise=3"]) == 2
    assert "Did you mean 'price'" in capsys.readouterr().err
