"""Measures of tables: closed forms, calculations by other libraries, and pairs by pairs."""

from __future__ import annotations

import builtins
import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pytest
from scipy import stats

from bfn_toolkit.data.typed_columns import TypedColumn, TypedTable, typed_joined, typed_rows, typed_size
from bfn_toolkit.evaluation import table_quality as table_quality_module, tables
from bfn_toolkit.evaluation.table_quality import INSTALL, exposed, membership, table_quality, worst_columns
from bfn_toolkit.evaluation.tables import Cells, cells
from tests.significance import Z

NAN = math.nan


def table(**columns: Any) -> TypedTable:
    return {name: TypedColumn(values) for name, values in columns.items()}


def one(**columns: Any) -> Cells:
    (found,) = cells(table(**columns))
    return found


def mixed(n: int, seed: int, *, noise: float = 0.5, shift: float = 0.0) -> TypedTable:
    """Two numbers that depend on a category, one of them with gaps, and a number apart."""
    random = np.random.default_rng(seed)
    kind = random.integers(3, size=n)
    u = kind + noise * random.normal(size=n) + shift
    v = np.where(random.random(n) < 0.1, np.nan, 2.0 * u + random.normal(size=n))
    return table(u=u.round(3), kind=np.array(["a", "b", "c"], object)[kind], v=v.round(2), w=random.normal(size=n))


def test_names_have_the_same_number_in_every_table() -> None:
    first, second = cells(table(x=["b", "a", ""]), table(x=["c", "a"]))
    assert first.labels == second.labels == (("", "a", "b", "c"),)
    assert first.values[:, 0].tolist() == [2.0, 1.0, 0.0]
    assert second.values[:, 0].tolist() == [3.0, 1.0]


def test_typed_tables_are_cut_and_joined() -> None:
    whole = mixed(10, 0)
    halves = [typed_rows(whole, np.arange(5)), typed_rows(whole, np.arange(5, 10))]
    joined = typed_joined(halves)
    assert (typed_size(halves[0]), typed_size(joined)) == (5, 10)
    for name, column in whole.items():
        assert np.array_equal(joined[name].values, column.values, equal_nan=column.is_number)
    assert TypedColumn(["x", ""]).gaps.tolist() == [False, True]
    assert TypedColumn([1, NAN]).gaps.tolist() == [False, True]


def test_distances_of_columns() -> None:
    real = table(u=[0.0, 1.0, 2.0, NAN], k=["x", "x", "y", ""], e=[1.0, 2.0, 3.0, 4.0])
    drawn = table(u=[0.5, 1.5, 2.5, 1.5], k=["x", "y", "y", "z"], e=[NAN] * 4)
    a, b = cells(real, drawn)
    unit = tables.deviations(a)
    assert unit.tolist() == [1.0, 1.0, np.std([1, 2, 3, 4], ddof=1)]
    distance, gaps = tables.columns(a, b, unit)
    assert distance[0] == pytest.approx(stats.wasserstein_distance([0, 1, 2], [0.5, 1.5, 2.5, 1.5]))
    assert distance[1] == pytest.approx(0.5)  # x 2 and 1, y 1 and 2, the gap 1 and 0, z 0 and 1, each of 4
    assert math.isnan(distance[2])
    assert gaps.tolist() == [0.25, 0.0, 1.0]


def test_associations_are_those_of_scipy() -> None:
    random = np.random.default_rng(0)
    n = 400
    x = random.integers(8, size=n).astype(float)  # many ties
    y = x + random.normal(size=n)
    y[random.random(n) < 0.2] = NAN
    k = np.array(list("abcde"))[(x / 2 + random.random(n)).astype(int)]
    m = np.array(list("pqr"))[random.integers(3, size=n)]
    m[k == "a"] = "p"
    found = tables.association(one(x=x, y=y, k=k, m=m))
    there = ~np.isnan(y)
    assert np.array_equal(found, found.T)
    assert found[0, 1] == pytest.approx(stats.spearmanr(x[there], y[there]).statistic)
    counts = stats.contingency.crosstab(k, m).count
    assert found[2, 3] == pytest.approx(stats.contingency.association(counts, "cramer"))
    # The correlation ratio, from the sums of squares of an analysis of variance.
    for i, values, rows in ((0, x, np.ones(n, bool)), (1, y, there)):
        ranks = stats.rankdata(values[rows])
        groups = [ranks[k[rows] == name] for name in "abcde"]
        within = sum(((group - group.mean()) ** 2).sum() for group in groups)
        assert found[i, 2] == pytest.approx(math.sqrt(1.0 - within / ((ranks - ranks.mean()) ** 2).sum()))


def test_associations_without_variation_or_rows_are_0() -> None:
    found = tables.association(one(c=[1.0] * 6, k=["x"] * 6, u=[1, 2, 3, 4, 5, 6], v=[1.0, 2, 3, 4, NAN, NAN]))
    assert np.array_equal(found, np.eye(4))


def test_monotone_numbers_and_copied_categories_go_together() -> None:
    found = tables.association(
        one(u=[1, 2, 3, 4, 5, 6], v=[-1, -8, -27, -64, -125, -216], k=list("ababcc"), m=list("qpqprr"))
    )
    assert found[0, 1] == pytest.approx(-1.0)
    assert found[2, 3] == pytest.approx(1.0)


def test_ten_thousand_categories_fit_into_memory() -> None:
    names = np.array([f"n{i}" for i in range(10_000)], object)
    assert tables.association(one(a=names, b=names[::-1]))[0, 1] == pytest.approx(1.0)


def test_gaps_of_numbers_are_a_category_in_the_pairs() -> None:
    rows = one(u=[1.0, NAN, 3.0, NAN, 5.0], v=[1.0, 2, 3, 4, 5], k=list("xyxyx"))
    flagged = tables.with_gap_flags(rows, tables.has_gaps(rows))
    assert flagged.names == ("u", "v", "k", "u?")
    assert tables.association(flagged)[2, 3] == pytest.approx(1.0)


def test_auc_counts_pairs() -> None:
    high, low = np.array([1.0, 3.0, 3.0, 0.0]), np.array([1.0, 2.0, 3.0])
    pairs = [0.5 * ((a > b) + (a >= b)) for a, b in itertools.product(high.tolist(), low.tolist())]
    assert tables.auc(high, low) == pytest.approx(np.mean(pairs))
    random = np.random.default_rng(0)
    drawn = [tables.auc(random.normal(size=30), random.normal(size=20)) for _ in range(2000)]
    assert np.std(drawn) == pytest.approx(tables.auc_error(30, 20), rel=0.06)  # 4 standard errors of it
    assert abs(np.mean(drawn) - 0.5) < Z * tables.auc_error(30, 20) / math.sqrt(2000)


def test_two_sample_test_of_equal_laws_and_of_others() -> None:
    real, same, other = cells(mixed(150, 0), mixed(160, 1), mixed(160, 2, shift=1.5))
    value, _ = tables.two_samples(real, same, importance=False)
    assert abs(value - 0.5) < Z * tables.auc_error(150, 150)
    value, losses = tables.two_samples(real, other)
    assert value > 0.7
    assert int(losses.argmax()) == 0  # the shifted column
    assert tables.two_samples(real, real, importance=False)[0] < 0.5  # rows on both sides cannot be told


def test_target_scores() -> None:
    train, test, random = cells(mixed(300, 0), mixed(400, 1), mixed(300, 2))
    metric, score = tables.target(train, test, 1)
    best = np.mean(np.digitize(test.values[:, 0], [0.5, 1.5]) == test.values[:, 1])
    assert metric == "accuracy"
    assert best - 0.1 < score <= best + 0.1  # the best rule cuts u, up to what v adds and 400 rows vary
    metric, score = tables.target(random.shuffled(), test, 1)
    assert score < 0.45  # a third would be chance
    metric, score = tables.target(train, test, 2)
    assert metric == "R2"
    assert 0.6 < score < 0.9  # v = 2 u + a normal number: 1 - 1 / var(v) = 0.79
    two = [rows.rows(rows.values[:, 1] < 2) for rows in (train, test)]
    metric, score = tables.target(*two, 1)
    assert metric == "AUC"
    assert score > 0.85


def test_targets_that_samples_do_not_have() -> None:
    train, test = cells(table(u=[1, 2, 3, 4], k=list("aaaa")), table(u=[1, 2, 3, 4], k=list("abca")))
    assert tables.target(train, test, 1) == ("accuracy", 0.5)
    assert tables.target(train, test.rows(slice(2)), 1) == ("AUC", 0.5)
    assert tables.target(train, test, 0) == ("R2", 0.0)  # fewer than ten rows
    gaps = cells(table(u=[1.0, 2, 3], k=["", "", ""]), table(u=[1.0, 2], k=["a", "b"]))
    assert tables.target(*gaps, 1) == ("AUC", 0.5)


@pytest.mark.parametrize(
    ("columns", "expected"),
    [
        ({"u": [1, 2], "Class": [1, 2], "k": ["a", "b"]}, 1),
        ({"k": ["a", "b"], "u": [1, 2]}, 0),
        ({"k": ["a", "b"], "m": ["a", "a"], "u": [1, 2]}, 0),  # m has one name alone
        ({"u": [1, 2], "v": [1, 2]}, 1),
        ({"u": [1, 2]}, None),
    ],
)
def test_default_target(columns: Mapping[str, Sequence[Any]], expected: int | None) -> None:
    assert tables.default_target(one(**columns)) == expected


def test_cells_that_could_not_stand_in_the_data() -> None:
    real = table(k=["x", "y", "x"], u=[0.25, 1.5, 2.0], i=[1.0, NAN, 9.0], g=[NAN, NAN, NAN])
    drawn = table(k=["x", "z", "", "y"], u=[0.5, 1.125, 2.25, NAN], i=[2.0, NAN, 2.5, 10.0], g=[NAN, 1.0, NAN, NAN])
    known, rows = cells(real, drawn)
    assert tables.valid(rows, known).T.tolist() == [
        [True, False, False, True],
        [True, False, False, False],  # 1.125 has three decimals, 2.25 is above all
        [True, True, False, False],
        [True, False, True, True],
    ]
    assert tables.valid(known, known).all()


def test_distance_to_the_closest_row() -> None:
    train = table(u=[1.0, 2.0, 2.0, NAN], k=["a", "a", "b", "b"])
    rows = table(u=[2.0, 9.0, NAN, NAN], k=["b", "b", "b", "c"])
    known, drawn = cells(train, rows)
    # Ranks among 1, 2, 2: 1 is 1/6, 2 is 4/6, 9 is 1.
    assert tables.nearest(drawn, known).tolist() == pytest.approx([0.0, (2 / 6) / 2, 0.0, 0.5])


def test_keys_are_equal_where_rows_are() -> None:
    random = np.random.default_rng(0)
    values = random.integers(3, size=(2000, 4)).astype(float)
    values[values == 2.0] = NAN
    rows = one(**{f"c{i}": values[:, i] * 10.0 ** (i - 2) for i in range(4)})
    pairs = dict(
        zip(map(tuple, np.nan_to_num(values, nan=9.0).tolist()), tables.keys(rows.values).tolist(), strict=True)
    )
    assert len(pairs) == len(set(pairs.values())) == 81
    assert tables.keys(np.array([[0.0], [-0.0]])).tolist() == [tables.keys(np.zeros((1, 1)))[0]] * 2
    assert len(set(tables.keys(np.arange(1e5).reshape(-1, 1)).tolist())) == 10**5
    assert len(set(tables.keys(np.array([[1.0, 2.0], [2.0, 1.0], [1.0, 1.0]])).tolist())) == 3


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """No classifiers, which are tested above and take most of the time."""
    for name in ("_two_samples", "_target"):
        monkeypatch.setattr(table_quality_module, name, lambda *_: {})


def test_samples_of_the_law_reach_the_floor() -> None:
    scores = table_quality(mixed(200, 0), mixed(200, 1), mixed(150, 2))
    assert scores["rows"] == {"samples": 200, "train": 200, "held_out": 150}
    # Of 200 and 150 rows, a share of a third varies by 0.05, and a mean by 0.11 standard deviations.
    assert scores["w1"]["samples"] < 0.25
    assert scores["tv"]["samples"] < 0.2
    pairs = scores["pairs"]["mean"]
    assert max(pairs["samples"], pairs["real"]) < 0.5 * pairs["independent"]
    assert abs(scores["two_samples"]["samples"] - 0.5) < Z * scores["two_samples"]["stderr"]
    assert scores["target"]["column"] == "kind"
    assert abs(scores["target"]["samples"] - scores["target"]["real"]) < 0.2
    assert scores["copies"] == {"samples": 0.0, "real": 0.0}
    assert 0.7 < scores["nearest"]["ratio"] < 1.4
    assert 0.9 < scores["valid"]["samples"] < 1.0  # a few lie beyond the real rows


@pytest.mark.usefixtures("quick")
def test_faults_are_found_where_they_are() -> None:
    train, held_out = mixed(900, 1), mixed(300, 2)
    wrong = {**mixed(900, 0), "w": TypedColumn(np.random.default_rng(3).normal(size=900) + 1.0)}
    scores = table_quality(wrong, train, held_out)
    assert scores["columns"]["w"]["w1"]["samples"] == pytest.approx(1.0, abs=0.2)
    assert list(wrong)[worst_columns(*cells(wrong, train, held_out))[0]] == "w"
    copied = table_quality(train, train, held_out)
    assert copied["copies"] == {"samples": 1.0, "real": 0.0}
    assert copied["nearest"]["ratio"] == 0.0
    order = [np.random.default_rng(i).permutation(900) for i in range(4)]
    apart = {name: column.rows(index) for (name, column), index in zip(train.items(), order, strict=True)}
    pairs = table_quality(apart, train, held_out)["pairs"]
    assert pairs["mean"]["samples"] == pytest.approx(pairs["mean"]["independent"], rel=0.2)
    assert set(pairs["worst"][0]["columns"]) in ({"u", "v"}, {"u", "kind"}, {"v", "kind"})


def test_few_rows_and_one_column_have_scores() -> None:
    scores = table_quality(table(u=[1.0]), table(u=[1.0, 2.0]), table(u=[2.0]))
    assert (scores["pairs"], scores["two_samples"], scores["target"]) == ({}, {}, {})
    assert scores["tv"] == {"samples": None, "real": None}
    scores = table_quality(table(k=["a", "b"]), table(k=["a", "b", ""]), table(k=["a"]))
    assert scores["w1"] == {"samples": None, "real": None}


@pytest.mark.usefixtures("quick")
def test_many_columns_are_judged_by_those_that_differ_most() -> None:
    random = np.random.default_rng(0)
    sides = [{f"c{i}": TypedColumn(random.normal(size=60)) for i in range(90)} for _ in range(3)]
    sides[0]["c77"] = sides[0]["c78"] = TypedColumn(random.normal(size=60) + 3.0)
    scores = table_quality(*sides)
    assert len(scores["columns"]) == 90
    assert scores["pairs"]["worst"][0]["columns"] == ["c77", "c78"]


def test_without_scikit_learn_two_scores_are_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    original = builtins.__import__

    def without(name: str, *args: Any, **options: Any) -> Any:
        if name.startswith("sklearn"):
            raise ImportError(name)
        return original(name, *args, **options)

    monkeypatch.setattr(builtins, "__import__", without)
    scores = table_quality(mixed(60, 0), mixed(60, 1), mixed(60, 2))
    assert scores["left_out"] == INSTALL
    assert "target" not in scores
    assert scores["copies"] == {"samples": 0.0, "real": 0.0}


def test_prices_of_one_law_tell_no_rows() -> None:
    random = np.random.default_rng(0)
    held_out, train = random.normal(20.0, 3.0, 500), random.normal(20.0, 3.0, 2000)
    assert abs(membership(train, held_out) - 0.5) < Z * tables.auc_error(2000, 500)
    assert membership(train - 100.0, held_out) == 1.0
    named, dearer = exposed(train, np.ones(2000), np.zeros(2000, bool), held_out)
    assert len(named) == 0  # the mean less 4.7 standard deviations is never reached
    assert np.allclose(dearer[:50], [(held_out > price).mean() for price in train[:50]])


@pytest.mark.parametrize("common", [False, True])
def test_a_cheap_row_that_is_repeated_is_named(common: bool) -> None:
    random = np.random.default_rng(0)
    held_out = random.normal(20.0, 3.0, 500)
    prices, repeats, both = random.normal(20.0, 3.0, 2000), np.ones(2000, int), np.zeros(2000, bool)
    prices[7], repeats[7], both[7] = 11.0, 100, common
    prices[9] = 1.0  # alone, but far below all
    prices[11], repeats[11] = 11.0, 2  # may be chance
    if common:  # among the held-out rows it stands once, as one of the different rows
        held_out[3] = 11.0
    named, dearer = exposed(prices, repeats, both, held_out)
    assert named.tolist() == [9, 7]
    assert dearer[7] >= 0.99


def test_rows_that_repeat_by_nature_are_not_named() -> None:
    prices = np.array([0.7, 2.0, 2.5, 3.0, 3.5])
    named, _ = exposed(prices, np.array([900, 200, 100, 80, 50]), np.ones(5, bool), prices)
    assert len(named) == 0
