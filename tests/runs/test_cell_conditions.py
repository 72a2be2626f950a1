"""Conditions on the columns of a codec: each sample satisfies them, and each mistake is told in words."""

from __future__ import annotations

import operator
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import attrs
import pytest
import torch
from torch import Tensor

from bfn_columns import Columns
from bfn_mlp import MLP
from bfn_toolkit import (
    BFN,
    CellConditions,
    Cells,
    Codec,
    ConfigError,
    DataError,
    Experiment,
    Format,
    IdentityCodec,
    RegionSampler,
    TableFormat,
    comparison,
    seeded,
)
from bfn_toolkit.cli.options import make_plan
from bfn_toolkit.runs.run import Run
from bfn_toolkit.runs.sampling import ResolvedPlan, SamplePlan, stream_samples

SUITS, RANKS = ("clubs", "hearts", "spades"), tuple(str(rank) for rank in range(1, 21))
COMPARE = {"=": "eq", "!=": "ne", "<": "lt", "<=": "le", ">": "gt", ">=": "ge"}


@attrs.frozen
class Cards(Codec):
    """Cards: a suit, a class for each, and a rank, two in each class; None is unknown."""

    @property
    def names(self) -> tuple[str, ...]:
        return ("suit", "rank")

    @property
    def formats(self) -> Mapping[str, Format]:
        return {".csv": TableFormat(self)}

    def encode(self, raw: Any) -> Tensor:
        place = {"suit": SUITS, "rank": RANKS}
        width = {"suit": 1.0, "rank": 0.5}
        columns = [
            [torch.nan if text is None else (place[name].index(text) + 0.5) * width[name] for text in raw[name]]
            for name in self.names
        ]
        return torch.tensor(columns).T

    def decode(self, x: Any, mask: Any = None) -> Any:
        suits, ranks = x[:, 0].floor().long().tolist(), (x[:, 1] * 2.0).floor().long().tolist()
        return {"suit": [SUITS[i] for i in suits], "rank": [RANKS[i] for i in ranks]}

    def cells(self, raw: Any, part: str = "x") -> Mapping[str, Sequence[str]]:
        return raw  # type: ignore[no-any-return]

    def from_cells(self, cells: Cells, part: str = "x") -> Any:
        empty = [""] * len(cells.lines)
        return {name: [text or None for text in cells.columns.get(name, empty)] for name in self.names}

    def with_known(self, raw: Any, known: Any) -> Any:
        return {
            name: [here if given is None else given for here, given in zip(raw[name], known[name], strict=True)]
            for name in raw
        }

    def region(self, condition: str) -> tuple[str, Tensor, Tensor]:
        name, sign, value = comparison(condition, self.names)
        if name not in self.names or (value not in SUITS and not value.isdigit()):
            raise ConfigError(f"no such card: {condition}")
        compare = getattr(operator, COMPARE[sign])
        if name == "suit":
            kept = [float(i) for i, suit in enumerate(SUITS) if compare(suit, value)]
            low, high = torch.tensor(kept), torch.tensor(kept) + 1.0
        else:
            kept = [i / 2.0 for i, rank in enumerate(RANKS) if compare(int(rank), int(value))]
            low, high = torch.tensor(kept), torch.tensor(kept) + 0.5
        return name, low, high


@pytest.fixture(scope="module")
def run() -> Run:
    experiment = Experiment.from_mapping({"network": {"name": "siren", "width": 8}}, base="default")
    with seeded(0, "weights"):
        model = BFN(Columns((3, 10), (False, True)), MLP(width=16, time_free=True), codec=Cards()).eval()
    return Run(experiment, model, [], seen={})


def drawn(run: Run, **options: Any) -> tuple[list[str], list[str]]:
    plan = ResolvedPlan.of(run, SamplePlan(steps=2, **options))
    raw = plan.raw(plan.draw())
    return raw["suit"], raw["rank"]


def test_every_sample_satisfies_all_conditions(run: Run) -> None:
    suits, ranks = drawn(run, n=500, where=("rank>3", "rank != 7", "rank<=12", "suit!=hearts"))
    assert set(suits) == {"clubs", "spades"}
    assert set(map(int, ranks)) == {4, 5, 6, 8, 9, 10, 11, 12}


def test_equality_comes_back_as_given(run: Run) -> None:
    suits, ranks = drawn(run, n=50, where=("suit=hearts", "rank>=5"))
    assert set(suits) == {"hearts"}
    assert min(map(int, ranks)) >= 5


def test_known_cells_and_conditions_hold_together(run: Run, tmp_path: Path) -> None:
    known = tmp_path / "known.csv"
    known.write_text("rank,suit\n9,\n,clubs\n,\n")
    suits, ranks = drawn(run, n=300, known=known, where=("rank>=8", "suit!=spades"))
    assert set(ranks[::3]) == {"9"}
    assert set(suits[1::3]) == {"clubs"}
    assert set(suits) == {"clubs", "hearts"}
    assert min(map(int, ranks)) >= 8
    suits, ranks = drawn(run, n=3, known=known, where=("suit=clubs",))
    assert suits == ["clubs"] * 3
    assert ranks[0] == "9"
    with pytest.raises(DataError, match=r"known row 1: its 'rank' is '9', which 'rank<9' excludes"):
        drawn(run, n=3, known=known, where=("rank<9",))
    with pytest.raises(DataError, match=r"known row 2: its 'suit' is 'clubs', which 'suit=hearts' excludes"):
        drawn(run, n=3, known=known, where=("suit=hearts",))


def test_the_rows_of_a_file_are_filled_in_as_often_as_asked(run: Run, tmp_path: Path) -> None:
    known = tmp_path / "known.csv"
    known.write_text("suit\nclubs\nspades\n")
    for choice, n in (({}, 2), ({"draws": 3}, 6), ({"n": 8}, 8)):
        plan = make_plan(run, known=known, **choice)
        assert plan.raw(plan.draw())["suit"] == ["clubs", "spades"] * (n // 2)
    with pytest.raises(ConfigError, match="has 2 rows, expected 7"):
        make_plan(run, known=known, n=7)
    for choice in ({"draws": 3}, {"draws": 3, "n": 6, "known": known}):
        with pytest.raises(ConfigError, match="--draws is how many times"):
            make_plan(run, **choice)


def test_the_bytes_do_not_depend_on_the_batch(run: Run, tmp_path: Path) -> None:
    plan = ResolvedPlan.of(run, SamplePlan(n=200, steps=2, where=("rank>3", "suit!=clubs")))
    for batch in (16, 48, 200):
        stream_samples(plan, tmp_path / f"{batch}.csv", batch=batch)
    whole = (tmp_path / "200.csv").read_bytes()
    assert (tmp_path / "16.csv").read_bytes() == whole == (tmp_path / "48.csv").read_bytes()
    assert whole.decode().startswith("suit,rank\n")


def test_the_probability_of_the_conditions_is_that_of_the_samples(run: Run) -> None:
    plan = ResolvedPlan.of(run, SamplePlan(n=4000, steps=2, where=("suit=hearts", "rank>14")))
    probability = plan.probability()
    assert probability is not None
    suits, ranks = drawn(run, n=4000)
    found = sum(suit == "hearts" and int(rank) > 14 for suit, rank in zip(suits, ranks, strict=True)) / 4000
    assert abs(found - probability.value) < 5.0 * (probability.stderr**2 + found * (1.0 - found) / 4000) ** 0.5
    assert ResolvedPlan.of(run, SamplePlan(n=4, steps=2)).probability() is None


@pytest.mark.parametrize(
    ("where", "words"),
    [
        (["rank>20"], "no cell satisfies 'rank>20'"),
        (["rank>4", "rank<3"], "no cell satisfies 'rank>4' and 'rank<3' together"),
        (["suit=clubs", "suit=hearts"], "no cell satisfies 'suit=clubs' and 'suit=hearts' together"),
        (["rank=3", "rank>4"], "no cell satisfies 'rank=3' and 'rank>4' together"),
        (["rank"], "a condition on a column is NAME=VALUE"),
        ([">4"], "a condition on a column is NAME=VALUE"),
    ],
)
def test_conditions_that_cannot_hold_are_told(where: list[str], words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        CellConditions.of(Cards(), where)
    assert words in str(caught.value)


def test_other_data_have_no_conditions_on_columns() -> None:
    with pytest.raises(ConfigError, match="the columns of these data take none"):
        CellConditions.of(IdentityCodec(names=["height"]), ["height>3"])


def test_a_condition_is_split_at_the_operator_after_the_name() -> None:
    names = ["a", "a<b", "a = b"]
    assert comparison("a<b>=2", names) == ("a<b", ">=", "2")
    assert comparison("a = b==x = y", names) == ("a = b", "=", "x = y")
    assert comparison(" a != ", names) == ("a", "!=", "")
    assert comparison("other<-1.5", names) == ("other", "<", "-1.5")


def test_conditions_give_what_sample_takes(run: Run) -> None:
    cells = CellConditions.of(Cards(), ["suit=spades", "rank>=19"])
    with seeded(0, "python"):
        x = run.model.sample(20, n_steps=2, sampler=RegionSampler(cells.regions), known=cells.pair(Cards()))
    assert Cards().decode(x)["suit"] == ["spades"] * 20
    assert set(Cards().decode(x)["rank"]) <= {"19", "20"}
