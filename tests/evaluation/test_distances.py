"""Distances between samples and data, where numbers are missing and where the order of the points says nothing."""

from __future__ import annotations

import math

import pytest
import torch

from bfn_categorical import Categorical
from bfn_gaussian import Gaussian
from bfn_toolkit import Batch, ProductFamily, seeded, sliced_w1
from bfn_toolkit.evaluation.distances import distances, one_distance, total_variation


def test_total_variation_counts_rows() -> None:
    a, b = torch.tensor([[0, 1], [0, 1], [2, 0], [5, 5]]), torch.tensor([[0, 1], [5, 5]])
    assert total_variation(a, b) == pytest.approx(0.25)
    assert total_variation(a * 10**6, b * 10**6) == pytest.approx(0.25)  # too many values for a table
    assert total_variation(a - 1, b - 1) == pytest.approx(0.25)


def test_what_is_missing_changes_no_distance() -> None:
    with seeded(0):
        there = torch.arange(5) < torch.randint(1, 6, (400, 1))
        numbers, classes = torch.randn(400, 5), torch.randint(4, (400, 5))
    for family, x in ((Gaussian((5,)), numbers), (Categorical((5,), classes=4), classes)):
        one, two = (x[:200].clone(), x[200:].clone())
        first = distances(family, Batch(one, mask=there[:200]), Batch(two, mask=there[200:]))
        one[~there[:200]], two[~there[200:]] = 3, 1
        assert distances(family, Batch(one, mask=there[:200]), Batch(two, mask=there[200:])) == first


def test_complete_samples_are_compared_with_complete_rows() -> None:
    with seeded(1):
        x, y = torch.randn(300, 3), torch.randn(300, 3)
    there = torch.ones(300, 3, dtype=torch.bool)
    there[::2, 1] = False
    found = distances(Gaussian((3,)), Batch(x), Batch(y, mask=there))
    assert found["sliced_w1"] == sliced_w1(x, y[1::2])


def test_padding_of_classes_has_the_weight_of_the_rows_that_have_it() -> None:
    """Sites 0 of all rows differ, and sites 1, which one row of ten has, agree."""
    there = torch.tensor([[True, row == 0] for row in range(10)])
    a, b = torch.zeros(10, 2, dtype=torch.int64), torch.tensor([[1, 0]]).expand(10, 2)
    found = distances(Categorical((2,)), Batch(a, mask=there), Batch(b, mask=there))
    assert found["tv_site"] == pytest.approx(1.0 / 1.1)


def test_sets_are_compared_whatever_the_order_of_their_points() -> None:
    family = Gaussian((4, 2), axes=("set", "channel"))
    square = torch.tensor([[0.0, 0.0], [1.0, 0.0], [1.0, 1.0], [0.0, 1.0]])
    with seeded(2):
        x = torch.stack([square[torch.randperm(4)] for _ in range(50)])
    same = distances(family, Batch(x), Batch(square.expand(50, 4, 2)))
    assert same == pytest.approx({"sliced_w1": 0.0, "w1_lengths": 0.0}, abs=1e-12)
    larger = distances(family, Batch(2.0 * x), Batch(x))
    assert larger["w1_lengths"] == pytest.approx((4.0 + 2.0 * math.sqrt(2.0)) / 6.0)
    there = (torch.arange(4) < 2).expand(50, 4)
    padded = distances(family, Batch(square.expand(50, 4, 2), mask=there), Batch(square.expand(50, 4, 2)))
    assert padded["w1_lengths"] == pytest.approx((4.0 + 2.0 * math.sqrt(2.0)) / 6.0 - 1.0)


def test_one_distance_suits_the_kind_of_data() -> None:
    with seeded(3):
        x, y = torch.randn(2, 60, 4, 2)
        words = torch.randint(3, (60, 6))
    assert one_distance(Gaussian((1,)), Batch(x[:, 0, :1]), Batch(x[:, 0, :1] + 0.25)) == ("w1", pytest.approx(0.25))
    assert one_distance(Gaussian((4, 2)), Batch(x), Batch(y)) == ("sliced_w1", sliced_w1(x, y))
    sets = Gaussian((4, 2), axes=("set", "channel"))
    lengths = distances(sets, Batch(x), Batch(y))["w1_lengths"]
    assert one_distance(sets, Batch(x), Batch(y)) == ("w1_lengths", lengths)
    both = ProductFamily({"a": Gaussian((1,)), "b": Categorical((1,), classes=3)})
    one, two = (Batch({"a": x[:, 0, :1] + shift, "b": words[:, :1]}) for shift in (0.0, 0.5))
    assert one_distance(both, one, two) == ("mean", pytest.approx(0.25))


def test_neighbours_of_sequences_are_counted_at_all_places() -> None:
    """Pairs are counted wherever they stand, and those that begin beyond the end of a row are left out."""
    family = Categorical((4,), classes=3, axes=("sequence",))
    a, b = torch.tensor([[0, 1, 0, 1]]), torch.tensor([[1, 0, 1, 2]])
    name, score = one_distance(family, Batch(a), Batch(b))
    assert (name, score) == ("tv_pair", pytest.approx(1.0 / 3.0))  # 01 01 10 against 10 01 12
    there = torch.tensor([[True, True, True, False]])
    _, score = one_distance(family, Batch(b, mask=there), Batch(a, mask=there))
    assert score == pytest.approx(0.5 * (1.0 / 3.0 + 1.0 / 3.0))  # 10 01 1. against 01 10 0.
