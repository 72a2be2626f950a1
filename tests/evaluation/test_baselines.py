"""Baselines price what their laws say: known entropies, and the formula of each law written out for a few rows."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from bfn_categorical import Categorical
from bfn_directional import Circle
from bfn_gaussian import Gaussian
from bfn_gaussian_heads import DiscretisedHead
from bfn_toolkit import Batch, ProductFamily, seeded
from bfn_toolkit.evaluation.baselines import baselines, bins_of


def chain(n: int, length: int, flip: float) -> Tensor:
    """Two classes, equally likely; each differs from the one before with the probability ``flip``: (n, length)."""
    first = torch.randint(2, (n, 1))
    changes = (torch.rand(n, length - 1) < flip).long()
    return torch.cat([first, changes], 1).cumsum(1) % 2


def entropy(p: float) -> float:
    return -p * math.log(p) - (1.0 - p) * math.log(1.0 - p)


def test_pairs_of_a_markov_chain_have_its_entropy() -> None:
    with seeded(0):
        train, test = chain(4000, 21, 0.1), chain(4000, 21, 0.1)
    found = baselines(Categorical(site_shape=(21,), axes=("sequence",)), Batch(train), Batch(test))
    exact = {"independent": 21 * math.log(2.0), "pairs": math.log(2.0) + 20 * entropy(0.1)}
    assert found.keys() == exact.keys()
    for name, nats in found.items():
        error = float(nats.std()) / math.sqrt(len(nats))
        assert abs(float(nats.mean()) - exact[name]) < 4.0 * error + 2e-3, name


def test_missing_sites_cost_nothing() -> None:
    """A padded sequence costs what the sequence alone does, and padding is not counted."""
    with seeded(1):
        train, test = torch.randint(3, (50, 6)), torch.randint(3, (20, 6))
    long, short = (Categorical(site_shape=(n,), classes=3, axes=("sequence",)) for n in (6, 4))
    there = torch.arange(6) < 4
    train[:, 4:], test[:, 4:] = -7, 99  # anything
    padded = baselines(long, Batch(train, mask=there.expand_as(train)), Batch(test, mask=there.expand_as(test)))
    alone = baselines(short, Batch(train[:, :4]), Batch(test[:, :4]))
    for name, nats in alone.items():
        assert torch.allclose(padded[name], nats)


def test_a_histogram_adds_one_to_each_count_of_a_site() -> None:
    train, test = torch.tensor([[0, 2], [0, 1], [1, 1]]), torch.tensor([[0, 2], [2, 1]])
    nats = baselines(Categorical(site_shape=(2,), classes=3), Batch(train), Batch(test))["independent"]
    exact = [-math.log(3 / 6) - math.log(2 / 6), -math.log(1 / 6) - math.log(3 / 6)]
    assert nats.tolist() == pytest.approx(exact)


def test_the_price_of_numbers_is_that_of_a_normal_distribution() -> None:
    with seeded(2):
        scale = torch.tensor([0.5, 3.0])
        train, test = (scale * torch.randn(20_000, 2) for _ in range(2))
    nats = baselines(Gaussian(site_shape=(2,)), Batch(train), Batch(test))["independent"]
    exact = sum(0.5 * math.log(2.0 * math.pi * math.e * s**2) for s in (0.5, 3.0))
    assert abs(float(nats.mean()) - exact) < 4.0 * float(nats.std()) / math.sqrt(len(nats)) + 1e-3


def test_points_of_a_set_share_a_law() -> None:
    with seeded(3):
        train, test = torch.randn(40, 5, 2), torch.randn(10, 5, 2)
    of_sets = baselines(Gaussian(site_shape=(5, 2), axes=("set", "channel")), Batch(train), Batch(test))
    of_points = baselines(Gaussian(site_shape=(2,)), Batch(train.flatten(0, 1)), Batch(test.flatten(0, 1)))[
        "independent"
    ]
    assert torch.allclose(of_sets["independent"], of_points.reshape(10, 5).sum(1))


@pytest.mark.parametrize("axes", [("height", "width", "channel"), ("channel", "height", "width")])
def test_neighbours_know_a_picture_of_stripes(axes: tuple[str, ...]) -> None:
    """Each column has its own random colour, so that the upper neighbour tells all but the first row."""
    shape = (3, 6, 7) if axes[0] == "channel" else (6, 7, 3)
    with seeded(4):
        colours = torch.randint(4, (2, 1500, 1, 7, 3)).expand(2, 1500, 6, 7, 3)
    x = colours.permute(0, 1, 4, 2, 3) if axes[0] == "channel" else colours
    found = baselines(Categorical(site_shape=shape, classes=4, axes=axes), Batch(x[0]), Batch(x[1]))
    assert float(found["independent"].mean()) == pytest.approx(6 * 7 * 3 * math.log(4.0), rel=1e-2)
    assert float(found["neighbours"].mean()) == pytest.approx(7 * 3 * math.log(4.0), rel=2e-2)


def test_bins_are_priced_as_the_family_prices_them() -> None:
    """Probabilities under a discretised head; densities, uniform within a bin, under another."""
    with seeded(5):
        levels = torch.randint(8, (2, 4000, 4, 4))
    x = (2.0 * levels + 1.0) / 8.0 - 1.0
    discrete = Gaussian(site_shape=(4, 4), head=DiscretisedHead(bins=8))
    dense = Gaussian(site_shape=(4, 4))
    assert (bins_of(discrete), bins_of(dense)) == (8, None)
    masses = baselines(discrete, Batch(x[0]), Batch(x[1]))
    densities = baselines(dense, Batch(x[0]), Batch(x[1]), {"": 8})
    for name in ("independent", "neighbours"):
        assert float(masses[name].mean()) == pytest.approx(16 * math.log(8.0), rel=5e-3)
        assert torch.allclose(densities[name], masses[name] + 16 * math.log(2.0 / 8.0))


def test_parts_add_up_and_directions_have_no_baseline() -> None:
    parts = {"u": Gaussian(site_shape=(1,)), "k": Categorical(site_shape=(5,), classes=3, axes=("sequence",))}
    with seeded(6):
        train, test = ({"u": torch.randn(n, 1), "k": torch.randint(3, (n, 5))} for n in (30, 20))
    whole = baselines(ProductFamily(parts), Batch(train), Batch(test))
    u, k = (baselines(parts[name], Batch(train[name]), Batch(test[name])) for name in ("u", "k"))
    assert torch.allclose(whole["independent"], u["independent"] + k["independent"])
    assert torch.allclose(whole["pairs"], u["independent"] + k["pairs"])
    angles = Batch(torch.zeros(5, 1))
    assert baselines(Circle(site_shape=(1,)), angles, angles) == {}
