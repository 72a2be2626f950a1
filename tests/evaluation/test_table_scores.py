"""Scores of samples of tables, ranks and filled gaps of ``benchmarks.tables``, against closed forms."""

from __future__ import annotations

import math

import numpy as np
import pytest
from numpy.typing import NDArray

from benchmarks.tables import impute, page, peers, score
from benchmarks.tables.data import Texts, claims, spiral

RNG = np.random.default_rng(0)


def texts(**columns: NDArray[np.generic] | list[str]) -> Texts:
    return {name: [str(value) for value in values] for name, values in columns.items()}


def cells(n: int, seed: int) -> Texts:
    """A number, a name that it decides, and a name without a gap."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=n).round(6)
    return texts(x=x, sign=np.where(x > 0, "plus", "minus"), other=rng.choice(["a", "b"], n))


def test_wasserstein_distance_of_a_shift_is_the_shift() -> None:
    x = RNG.normal(size=50)
    assert score.distance(x, x + 3.0, scale=2.0) == pytest.approx(1.5)
    assert score.distance(np.append(x, np.nan), np.append(np.nan, x + 3.0), scale=2.0) == pytest.approx(1.5)


def test_total_variation_of_known_shares() -> None:
    real, drawn = np.repeat([0, 1, 2], [2, 5, 3]), np.repeat([0, 1, 2, 3], [4, 2, 3, 1])
    assert score.total_variation(real, drawn) == pytest.approx((0.2 + 0.3 + 0.0 + 0.1) / 2)


def test_the_parts_of_a_score() -> None:
    train, test = cells(60, 1), cells(40, 2)
    train["x"][:6] = [""] * 6
    drawn = {name: column[:30] + test[name][:30] for name, column in train.items()}
    found = score.score(train, test, drawn, "sign")
    assert found["gaps"] == pytest.approx(6 / 60)
    assert found["copies"] == 0.5
    assert found["copies_test"] == 0.0
    assert found["valid"] == 1.0
    assert found["target_real"] > 0.9
    with pytest.raises(SystemExit, match=r"lack the columns \['sign'\]"):
        score.score(train, test, {"x": train["x"], "other": train["other"]}, "x")


def test_rows_of_the_same_law_cannot_be_told_apart_and_others_can() -> None:
    n = 300
    (real, same, other), _, _ = score.coded(cells(n, 1), cells(n, 2), cells(n, 3))
    spread = math.sqrt((2 * n + 1) / (12 * n * n))  # of the area under the ROC curve without any difference
    assert abs(score.two_sample(real, same) - 0.5) < 4 * spread
    moved = score.Rows(other.numbers + 10.0, other.names)
    assert score.two_sample(real, moved) > 0.99


def test_associations_of_functions_are_one() -> None:
    x = RNG.normal(size=100)
    group = (np.arange(100) % 4).astype(np.int64)
    assert score.spearman(x, np.exp(x)) == pytest.approx(1.0)
    assert score.spearman(x, -x) == pytest.approx(-1.0)
    assert score.correlation_ratio(group.astype(float), group) == pytest.approx(1.0)
    assert score.cramer(group, 3 - group) == pytest.approx(1.0)
    assert score.cramer(group, np.zeros(100, np.int64)) == score.correlation_ratio(np.zeros(100), group) == 0.0


def test_association_of_two_names_is_that_of_their_table() -> None:
    a, b = np.array([0] * 60 + [1] * 40), np.array([0] * 45 + [1] * 15 + [0] * 10 + [1] * 30)
    phi = (45 * 30 - 15 * 10) / math.sqrt(60 * 40 * 55 * 45)  # of a table of two by two
    assert score.cramer(a, b) == pytest.approx(phi)


def test_distances_to_the_nearest_row_are_of_ranks_names_and_gaps() -> None:
    train = texts(x=["1", "2", "3", "4", ""], name=["a", "a", "b", "b", "a"])
    rows = texts(x=["2", "2.5", "", "9"], name=["a", "a", "b", "a"])
    (fit, asked), _, _ = score.coded(train, rows)
    # the value 2 is itself at (1 + 2) / 8; 2.5 is between two ranks; a gap is at the distance 1 of numbers; 9 is at 1
    assert score.nearest(asked, fit) * 2 == pytest.approx([0.0, 0.125, 1.0, 5 / 8])


def test_rows_out_of_range_are_not_valid() -> None:
    train = texts(x=["0", "10", "", "3"], y=["0.5", "1.5", "1", "1"], name=["a", "b", "a", "b"])
    good = [("7", "1.2", "a"), ("", "0.5", "b")]
    bad = [("11", "1", "a"), ("2.5", "1", "a"), ("3", "", "a"), ("3", "1", "c"), ("3", "1", ""), ("x", "2", "a")]
    drawn = dict(zip(train, map(list, zip(*good, *bad, strict=True)), strict=True))
    (fit, real, rows), _, _ = score.coded(train, train, drawn)
    assert score.valid(rows, fit, real) == len(good) / len(good + bad)


def test_a_target_is_learned_from_good_samples_alone() -> None:
    train, test = cells(300, 1), cells(300, 2)
    mixed = {**train, "sign": list(RNG.permutation(train["sign"]))}
    (fit, real, rows), numbers, names = score.coded(train, test, mixed)
    assert (numbers, names) == (["x"], ["sign", "other"])
    assert score.learned_target(fit, real, 1) > 0.99
    assert abs(score.learned_target(rows, real, 1) - 0.5) < 0.2
    assert score.learned_target(fit, real, 0) == pytest.approx(2 / math.pi, abs=0.1)  # R2 of the sign of a normal


def test_ranks_within_the_noise_of_seeds_are_shared() -> None:
    found = page.ranks({"a": [1.0, 1.2], "b": [1.1, 1.3], "c": [2.0, 2.2], "one seed": [3.0]})
    assert found == {"a": 1.5, "b": 1.5, "c": 3.0, "one seed": 4.0}


def test_hidden_cells_are_a_fifth_of_those_that_are_known() -> None:
    test = texts(x=np.arange(5000), y=["", *["1"] * 4999])
    table, places = impute.gapped(test)
    assert abs(places["x"].mean() - impute.HIDDEN) < 4 * math.sqrt(0.2 * 0.8 / 5000)
    assert not places["y"][0]
    assert all((cell == "") == hidden for cell, hidden in zip(table["x"], places["x"], strict=True))


@pytest.mark.parametrize("values", [8, 100_000], ids=["ties", "no ties"])
def test_draws_of_the_right_law_cover_nine_of_ten(values: int) -> None:
    n, rng = 5000, np.random.default_rng(1)
    train, test, *draws = (texts(x=rng.integers(0, values, n)) for _ in range(2 + impute.DRAWS))
    hidden = impute.gapped(test)[1]["x"].sum()
    assert abs(impute.errors(train, test, draws)["coverage"] - 0.9) < 4 * math.sqrt(0.9 * 0.1 / hidden)


def test_gaps_are_filled_by_the_usual_and_by_what_was_learned() -> None:
    train, test = cells(300, 1), cells(900, 2)
    table, places = impute.gapped(test)
    found = {name: impute.errors(train, test, [fill(train, table)]) for name, fill in impute.IMPUTERS.items()}
    assert impute.errors(train, test, [test]) == {"nrmse": 0.0, "accuracy": 1.0}
    hidden = places["x"].sum()
    assert found["mean-or-mode"]["nrmse"] == pytest.approx(1.0, abs=4 / math.sqrt(hidden))
    for name in ("boosting", "forests"):
        assert (
            found[name]["nrmse"] < 0.9
        )  # a fifth of the signs is hidden, and what is guessed for them is wrong half the time
        filled = impute.IMPUTERS[name](train, table)
        assert all(cell for column in filled.values() for cell in column)
        kept = [filled["x"][i] == test["x"][i] for i in np.flatnonzero(~places["x"])]
        assert all(kept)


def test_peers_of_ours_keep_the_columns_and_the_copula_the_correlation_of_pairs() -> None:
    train = cells(600, 1)
    task = peers.Task(train, "sign", seed=0, budget=1.0)
    rho = 2 / math.pi  # of a normal variable and the normal score of its sign, spread at random
    expected = {"independent": 0.0, "copula": math.asin(rho / math.sqrt(2)) / math.pi * math.sqrt(12)}
    for name, ratio in expected.items():
        drawn = peers.PEERS[name].draw(task)
        assert set(drawn["x"]) <= set(train["x"])
        (rows,), _, _ = score.coded(drawn)
        found = score.correlation_ratio(rows.numbers[:, 0], rows.names[:, 0])
        assert found == pytest.approx(ratio, abs=4 / math.sqrt(600))


def test_generated_tables_are_what_they_say() -> None:
    arms, policies = spiral(500), claims(500)
    assert {len(column) for column in arms.values()} == {len(column) for column in policies.values()} == {500}
    none = [count == "0" for count in policies["claims"]]
    assert [amount == "0" for amount in policies["amount"]] == none
    assert sum(none) > 250
