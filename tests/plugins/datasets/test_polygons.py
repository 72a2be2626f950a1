"""Triangles and squares: their forms, shares and directions."""

from __future__ import annotations

import math

import pytest
import torch

from bfn_polygons import Polygons, distances
from bfn_toolkit import Batch
from tests.significance import Z


def sizes(rows: Batch) -> torch.Tensor:
    assert isinstance(rows.mask, torch.Tensor)
    return rows.mask.sum(1)


def test_shapes_are_rigid_and_centred() -> None:
    rows = Polygons(count=500, edge=3.0).split("all")
    triangles, squares = rows.x[sizes(rows) == 3].double(), rows.x[sizes(rows) == 4].double()
    assert (len(triangles), len(squares)) == (150, 350)
    assert torch.allclose(distances(triangles, 3), torch.full((3,), 3.0, dtype=torch.float64), atol=1e-5)
    diagonal = 3.0 * math.sqrt(2.0)
    expected = torch.tensor([3.0, 3.0, 3.0, 3.0, diagonal, diagonal], dtype=torch.float64)
    assert torch.allclose(distances(squares, 4), expected, atol=1e-5)
    assert float(rows.x.sum(1).abs().max()) < 1e-5
    assert not rows.x[~rows.mask].any()


def test_directions_are_uniform_and_the_order_is_random() -> None:
    rows = Polygons(count=6000).split("all")
    for n in (3, 4):
        first = rows.x[sizes(rows) == n][:, 0]
        angle = torch.atan2(first[:, 1], first[:, 0]).double()
        for k in (1, 2, 3, 4):  # Fourier coefficients of a uniform angle are 0, with variance 1/2 each
            for wave in ((k * angle).cos(), (k * angle).sin()):
                assert abs(float(wave.mean())) < Z * math.sqrt(0.5 / len(angle))
        second = rows.x[sizes(rows) == n][:, 1]
        turn = (
            first[:, 0] * second[:, 1] - first[:, 1] * second[:, 0]
        ) > 0.1  # the second is a quarter or a third ahead
        share = {3: 1 / 2, 4: 1 / 3}[n]
        assert abs(float(turn.double().mean()) - share) < Z * math.sqrt(share * (1 - share) / len(turn))


@pytest.mark.parametrize("jitter", [0.0, 0.3])
def test_facts_are_those_of_the_rows(jitter: float) -> None:
    polygons = Polygons(count=20_000, jitter=jitter)
    rows = polygons.split("all")
    square = rows.x[rows.mask].double().square()
    stderr = float(square.std()) / math.sqrt(len(square) / 4)  # the points of a polygon are not independent
    assert abs(float(square.mean()) - float(str(polygons.metadata["data_variance"]))) < Z * stderr + 1e-5
    assert polygons.mode_shares(rows.x) == {"triangle": 0.3, "square": 0.7}


def test_splits_are_disjoint_and_the_test_is_fresh() -> None:
    polygons = Polygons(count=100)
    parts = {name: polygons.split(name) for name in ("train", "valid", "test", "all")}
    assert [len(part) for part in parts.values()] == [90, 10, 100, 100]
    both = torch.cat([parts["train"].x, parts["valid"].x]).flatten(1)
    assert set(map(tuple, both.tolist())) == set(map(tuple, parts["all"].x.flatten(1).tolist()))
    assert not torch.equal(parts["test"].x, parts["all"].x)
