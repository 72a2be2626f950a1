"""Families whose example is one value without axes: site_shape = ()."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from bfn_categorical import Categorical
from bfn_directional import Circle
from bfn_gaussian import Gaussian
from bfn_gaussian_heads import DiscretisedMixtureHead, MixtureHead
from bfn_siren import Siren
from bfn_toolkit import BFN, ODE2, AncestralSampler, ProductFamily, seeded, sliced_w1
from bfn_toolkit.testing import check
from bfn_von_mises import VonMises

FAMILIES = [
    Gaussian(site_shape=()),
    Gaussian(site_shape=(), head=MixtureHead(components=3)),
    Gaussian(site_shape=(), head=DiscretisedMixtureHead(bins=8, components=2)),
    Categorical(site_shape=(), classes=3),
    Circle(site_shape=()),
    VonMises(site_shape=(), n_steps=3, beta_1=3.0),
    ProductFamily({"x": Gaussian(site_shape=()), "k": Categorical(site_shape=(), classes=3)}),
]


@pytest.mark.parametrize("family", FAMILIES, ids=repr)
@pytest.mark.parametrize(
    "law",
    [
        "information-is-conserved",
        "rows-are-independent",
        "receiver-is-the-mixture-of-senders",
        "output-density-is-that-of-its-draws",
        "configuration-round-trips",
    ],
)
def test_the_laws_hold(family: Any, law: str) -> None:
    check(family, laws=[law])


@pytest.mark.parametrize("family", FAMILIES, ids=repr)
def test_losses_and_samples_have_their_shapes(family: Any) -> None:
    n = family.n_steps or 4
    with seeded(0, "no axes"):
        bfn = BFN(family, Siren(width=8))
        x = bfn.sample(6, n_steps=n, sampler=AncestralSampler())
        assert bfn.nll(x, n_steps=n).shape == (6,)
        if family.has_parts:
            known: Any = {"x": (x["x"], torch.tensor([True, False] * 3))}
        else:
            known = (x, torch.tensor([True, False] * 3))
        again = bfn.sample(6, n_steps=n, known=known)
        if family.n_steps is None:
            bfn.sample(6, n_steps=n, sampler=ODE2())
    pairs = [(again["x"], x["x"])] if family.has_parts else [(again, x)]
    assert all(a.shape == (6,) and torch.equal(a[::2], b[::2]) for a, b in pairs)


def test_samples_are_compared_with_data() -> None:
    assert sliced_w1(torch.zeros(5), torch.ones(5)) == pytest.approx(1.0)
