"""Forgetting is the reverse of an update, for every family that defines it, and a sampler may forget."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from bfn_categorical import Categorical
from bfn_directional import Circle
from bfn_gaussian import Gaussian
from bfn_masked import LogLinearSchedule, Masked
from bfn_mlp import MLP
from bfn_toolkit import BFN, ChurnSampler, ConfigError, Delta, Oracle, ProductFamily, seeded
from bfn_toolkit.shapes import map_data
from bfn_toolkit.testing.cases import data
from bfn_toolkit.testing.probes import repeat, tensors
from bfn_von_mises import VonMises
from every_family import FAMILIES
from significance import Z, ks_two_sample, z_of_mean

DOUBLE, ROWS = torch.float64, 20_000
PARTS = {"k": Masked((2,), 3), "x": Gaussian((2,), sigma_1=0.1)}
FORGETFUL = [
    *(Gaussian((2,), sigma_1=0.1), Categorical((2,), classes=3), Circle((2,)), Masked((2,), 3)),
    ProductFamily(PARTS),
]
FORGETFUL_FAMILY = pytest.mark.parametrize("family", FORGETFUL, ids=lambda family: type(family).__name__)


def numbers(params: Any) -> Tensor:
    """All numbers of beliefs side by side, and their products."""
    columns = torch.cat([value.double().reshape(len(value), -1) for value in tensors(params).values()], 1)
    return columns[:, columns.std(0) > 1e-9]


@FORGETFUL_FAMILY
@pytest.mark.parametrize(("kept", "forgotten"), [(0.5, 0.5), (2.0, 0.1), (0.05, 1.0)])
def test_forgetting_reverses_an_update(family: Any, kept: float, forgotten: float) -> None:
    """The beliefs before and after a message have one joint law, whichever was drawn first."""
    x = repeat(data(family, 1), ROWS)
    prior = family.prior(ROWS, dtype=DOUBLE)
    first, second = (torch.full((ROWS,), accuracy, dtype=DOUBLE) for accuracy in (kept, forgotten))
    with seeded(0, "forget"):
        early = family.draw_update(prior, x, first)
        late = family.draw_update(early, x, second)
        after = family.draw_update(prior, x, first + second)
        before = family.forget(after, second)
    for name, value in tensors(before).items():
        if name.endswith("accuracy"):
            assert torch.allclose(value, torch.full_like(value, kept), rtol=1e-12)
    forward, backward = (torch.cat([numbers(a), numbers(b)], 1) for a, b in ((early, late), (before, after)))
    for a, b in zip(forward.unbind(1), backward.unbind(1), strict=True):
        assert ks_two_sample(a, b) <= 1.0
    mean, scale = forward.mean(0), forward.std(0)
    for shift in range(1, forward.shape[1]):
        products = [((both - mean) / scale) * ((both - mean) / scale).roll(shift, 1) for both in (forward, backward)]
        spread = ((products[0].var(0) + products[1].var(0)) / ROWS).sqrt()
        assert float(((products[0].mean(0) - products[1].mean(0)).abs() / spread).max()) <= Z


@FORGETFUL_FAMILY
@pytest.mark.parametrize("dtype", [torch.float32, DOUBLE])
def test_all_can_be_forgotten_and_nothing(family: Any, dtype: torch.dtype) -> None:
    """An accuracy as the samplers give it: one number in float64."""
    x, t = data(family, 4), torch.tensor(0.7, dtype=DOUBLE)
    with seeded(0, "all"):
        late = family.flow(
            map_data(lambda v: v.to(dtype) if v.is_floating_point() else v, x), torch.full((4,), 0.7, dtype=dtype)
        )
        none = family.forget(late, family.accuracy(torch.zeros_like(t), t))
        same = family.forget(late, family.accuracy(t, t))
        prior = family.prior(4, dtype=dtype)
        still = family.forget(prior, family.accuracy(torch.zeros_like(t), torch.zeros_like(t)))
    pairs = [(none, prior, 1e-2), (same, late, 1e-4), (still, prior, 0.0)]
    for found, expected, tolerance in pairs:
        for name, value in tensors(found).items():
            assert value.dtype == tensors(expected)[name].dtype
            assert torch.allclose(value, tensors(expected)[name], rtol=1e-4, atol=tolerance), name


@pytest.mark.parametrize("schedule", [LogLinearSchedule(), LogLinearSchedule(2.0)])
def test_remasking_is_by_time_under_the_log_linear_schedule(schedule: Any) -> None:
    family, n, s = Masked((1,), 3, schedule), 40_000, torch.tensor(0.6, dtype=DOUBLE)
    with seeded(0, "remask"):
        late = family.flow(torch.zeros(n, 1, dtype=torch.int64), s.expand(n))
        before = family.forget(late, family.accuracy(s * math.exp(-0.2), s))
    known = late.x[:, 0] < 3
    assert z_of_mean((before.x[known] == 3).double(), -math.expm1(-0.2)) <= Z


def test_no_churn_is_the_ancestral_sampler_and_the_network_learns_the_time() -> None:
    family, asked = Gaussian(sigma_1=0.1), list[float]()

    class Watch(Oracle):
        def output(self, params: Any, t: Tensor, condition: Any = None) -> Delta:
            assert torch.allclose(params.precision - 1, family.schedule.beta(t), rtol=1e-9)
            asked.append(float(t))
            return Delta(torch.zeros_like(params.mean))

    for churn in (0.0, 2.0):
        asked.clear()
        ChurnSampler(churn).sample(Watch(family, lambda params: None), 3, n_steps=4, dtype=DOUBLE)
        assert asked == pytest.approx([*(i / 4 * math.exp(-churn / 4) for i in range(4)), 1.0])


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: type(family).__name__)
def test_every_family_churns_or_says_why_not(family: Any) -> None:
    with seeded(0, "weights"):
        bfn = BFN(family, MLP(width=8, depth=1))
    if isinstance(family, VonMises):
        with pytest.raises(ConfigError, match="VonMises cannot forget a message; write sampler=AncestralSampler"):
            bfn.sample(2, n_steps=6, sampler=ChurnSampler())
    else:
        x = bfn.sample(5, n_steps=3, sampler=ChurnSampler())
        family.check_data(x)
