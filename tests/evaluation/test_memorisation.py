"""Memorisation: models that copy are found out by as much as they copy, and those that draw from the law are not."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from torch import Tensor

from bfn_categorical import Categorical
from bfn_directional import Circle
from bfn_gaussian import Gaussian
from bfn_toolkit import Batch, Family, ProductFamily, seeded
from bfn_toolkit.evaluation.memorisation import (
    CLOSE,
    distance_scores,
    longest_matches,
    nearest_rows,
    neighbours,
    train_share,
)
from tests.significance import Z

PLANE = Gaussian((2,))


def nearest(family: Family, samples: Batch, train: Batch, held_out: Batch) -> Tensor:
    return nearest_rows(family, samples, train, held_out).samples


@pytest.fixture(scope="module")
def rows() -> tuple[Tensor, Tensor, Tensor]:
    """Training rows, as many held-out rows, and draws of the same law."""
    with seeded("rows"):
        return torch.randn(1000, 2), torch.randn(1000, 2), torch.randn(1000, 2)


@pytest.mark.parametrize("copied", [0.0, 0.3, 1.0])
def test_copies_are_counted(copied: float, rows: tuple[Tensor, Tensor, Tensor]) -> None:
    """A share c of samples that are training rows changes each score by a known amount."""
    train, held_out, samples = rows
    n = round(copied * len(samples))
    samples = torch.cat([train[:n], samples[n:]])
    found = nearest_rows(PLANE, Batch(samples), Batch(train), Batch(held_out))
    scores, votes = distance_scores(found.samples, found.held_out), train_share(found.votes, found.train)
    assert scores["copies"] == {"samples": copied, "real": 0.0}
    assert votes["expected"] == 0.5
    assert abs(votes["train_votes"] - (copied + (1.0 - copied) * 0.5)) < Z * 0.5 * votes["copied_stderr"]
    assert abs(votes["copied"] - copied) < Z * votes["copied_stderr"]
    assert votes["copied_stderr"] < 0.06
    close = copied + (1.0 - copied) * CLOSE
    assert abs(scores["closer"]["samples"] - close) < Z * scores["closer"]["stderr"]
    assert scores["closer"]["real"] == CLOSE
    assert abs(scores["auc"] - (copied + (1.0 - copied) * 0.5)) < Z * scores["auc_stderr"]


def test_blurred_samples_are_near_but_no_copies(rows: tuple[Tensor, Tensor, Tensor]) -> None:
    """A model that draws near the middle, of another law: the distance is fooled, and the votes are not."""
    train, held_out, samples = rows
    found = nearest_rows(PLANE, Batch(0.3 * samples), Batch(train), Batch(held_out))
    assert distance_scores(found.samples, found.held_out)["auc"] > 0.6
    votes = train_share(found.votes, found.train)
    assert abs(votes["copied"]) < Z * votes["copied_stderr"]


def test_error_of_the_votes_is_that_of_all_splits() -> None:
    """All ways to choose the training rows among six, some of which no sample votes for."""
    votes = torch.tensor([0.4, 0.0, 0.3, 0.0, 0.2, 0.1], dtype=torch.float64)
    for train in (1, 2, 4, 5):
        copied = []
        for chosen in itertools.combinations(range(6), train):
            order = [*chosen, *(i for i in range(6) if i not in chosen)]
            copied.append(train_share(votes[order], train))
        values = torch.tensor([share["copied"] for share in copied], dtype=torch.float64)
        assert float(values.mean()) == pytest.approx(0.0, abs=1e-12)
        assert float(values.std(correction=0)) == pytest.approx(copied[0]["copied_stderr"], rel=1e-9)


def test_rows_that_are_equally_near_share_a_vote() -> None:
    found = neighbours(iter([torch.tensor([[1.0, 2.0, 1.0], [3.0, 2.0, 5.0]])]), iter([torch.tensor([[7.0, 4.0]])]), 2)
    assert found.votes.tolist() == [0.25, 0.5, 0.25]
    assert found.samples.tolist() == [1.0, 2.0]
    assert found.held_out.tolist() == [4.0]


def test_distances_are_root_mean_squares_and_shares_of_sites(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bfn_toolkit.evaluation.memorisation.PAIRS", 100)  # in several pieces
    with seeded(0):
        a, b, c = (torch.randn(n, 5, dtype=torch.float64) + 100.0 for n in (30, 40, 20))
        x, y, z = (torch.randint(6, (n, 7)) for n in (30, 40, 20))
    expected = torch.cdist(a, b).amin(1) / math.sqrt(5.0)
    assert torch.allclose(nearest(Gaussian((5,)), Batch(a), Batch(b), Batch(c)), expected, rtol=1e-6)
    differ = (x[:, None] != y).double().mean(-1).amin(1)
    classes = Categorical((7,), classes=6)
    assert torch.allclose(nearest(classes, Batch(x), Batch(y), Batch(z)), differ)
    there = torch.arange(7) < 5
    masked = [Batch(rows, mask=there.expand(rows.shape)) for rows in (x, y, z)]
    differ = (x[:, None, :5] != y[:, :5]).double().sum(-1).amin(1) / 7.0
    assert torch.allclose(nearest(classes, *masked), differ)


def test_angles_are_near_across_the_cut() -> None:
    train = Batch(torch.tensor([[math.pi - 0.01], [0.0]]))
    found = nearest(Circle((1,)), Batch(torch.tensor([[-math.pi + 0.01]])), train, Batch(torch.zeros(2, 1)))
    assert float(found) == pytest.approx(math.sin(0.01) * math.sqrt(2.0), rel=1e-3)


def test_sets_are_the_same_in_any_order_and_direction() -> None:
    family, turn = Gaussian((5, 2), axes=("set", "channel")), torch.tensor([[0.6, -0.8], [0.8, 0.6]])
    with seeded(0):
        train, others = torch.randn(2, 20, 5, 2)
        samples = (train[:, torch.randperm(5)] @ turn)[:10]
    there = torch.ones(20, 5, dtype=torch.bool)
    found = nearest_rows(family, Batch(samples), Batch(train, mask=there), Batch(others))
    assert float(found.samples.max()) < 1e-3 < float(found.held_out.min())
    there[:, 4] = False
    fewer = nearest_rows(family, Batch(samples), Batch(train, mask=there), Batch(others))
    assert float(fewer.samples.min()) > 1e-3


def test_parts_count_in_units_of_their_own() -> None:
    """The same numbers, of which one part is measured in thousandths."""
    family = ProductFamily({"a": Gaussian((2,)), "b": Gaussian((2,))})
    with seeded(0):
        a, b = torch.randn(2, 50, 2), torch.randn(2, 50, 2)

    def found(factor: float) -> Tensor:
        train, samples = (Batch({"a": a[i], "b": factor * b[i]}) for i in (0, 1))
        return nearest(family, samples, train, train)

    assert torch.allclose(found(1.0), found(1000.0), rtol=1e-4)


def test_longest_runs_are_those_of_a_search_by_hand() -> None:
    with seeded(0):
        queries, train = torch.randint(4, (20, 15)), torch.randint(4, (30, 20))
        queries[0] = train[5, 3:18]
        lengths, others = torch.randint(2, 16, (20, 1)), torch.randint(2, 21, (30, 1))
    there, train_there = torch.arange(15) < lengths, torch.arange(20) < others
    texts = [
        ["".join(map(str, row[mask].tolist())) for row, mask in zip(*side, strict=True)]
        for side in ((queries, there), (train, train_there))
    ]
    expected = [
        max(j - i for i, j in itertools.combinations(range(len(text) + 1), 2) if any(text[i:j] in t for t in texts[1]))
        for text in texts[0]
    ]
    assert longest_matches(queries, train, there, train_there).tolist() == expected
    large = longest_matches(queries + 70_000, train + 70_000, there, train_there)  # classes of four bytes
    assert large.tolist() == expected
    nothing = longest_matches(queries, train + 4, there, train_there)
    assert nothing.tolist() == [0] * 20
