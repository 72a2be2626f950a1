"""Heads with a distribution for the Gaussian family: their formulas, the laws of the kit, and finite numbers."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from bfn_gaussian import DataHead, Gaussian, GaussianParams, Head, NoiseHead, SkipHead
from bfn_gaussian_heads import ComponentsHead, DiscretisedHead, DiscretisedMixtureHead, MixtureHead
from bfn_toolkit import (
    BFN,
    Binned,
    ContinuousTimeLoss,
    DataError,
    DiscreteTimeLoss,
    Finite,
    Loss,
    ReconstructionLoss,
    SiteNormalMixture,
    seeded,
)
from bfn_toolkit.testing import verdicts
from strategies import EDGES

DOUBLE = torch.float64
HEADS = [
    MixtureHead(components=1),
    MixtureHead(components=3),
    MixtureHead(components=2, point=NoiseHead()),
    DiscretisedHead(bins=8),
    DiscretisedHead(bins=256),
    DiscretisedHead(bins=8, point=SkipHead()),
    DiscretisedHead(bins=5, form="renormalised"),
    DiscretisedMixtureHead(bins=8, components=3, point=SkipHead()),
    DiscretisedMixtureHead(bins=5, components=2, form="renormalised"),
]
SMALL = [head for head in HEADS if head != DiscretisedHead(bins=256)]


@pytest.mark.parametrize("head", [HEADS[0], HEADS[3], HEADS[6], HEADS[7]], ids=str)
def test_the_gaussian_family_keeps_every_law_with_the_head(head: Head) -> None:
    found = list(verdicts(Gaussian(site_shape=(2,), sigma_1=0.1, head=head)))
    assert len(found) > 20
    assert [verdict for verdict in found if verdict.verdict != "holds"] == []


def beliefs(family: Gaussian, t: list[float]) -> GaussianParams:
    with seeded(0, "beliefs"):
        return family.flow(torch.rand(len(t), 3, dtype=DOUBLE) * 2 - 1, torch.tensor(t, dtype=DOUBLE))


def raw_numbers(family: Gaussian, rows: int, dtype: torch.dtype = DOUBLE) -> Tensor:
    with seeded(0, "raw"):
        return torch.randn(rows, *family.site_shape, family.network_io.out_features, dtype=dtype)


def test_published_components_are_the_formula() -> None:
    # Eq. 105 and 106: mu / gamma - sqrt((1 - gamma) / gamma) mu_eps and sqrt((1 - gamma) / gamma) sigma_eps.
    head = DiscretisedHead(bins=16, point=NoiseHead(t_min=1e-3))
    family = Gaussian(site_shape=(3,), sigma_1=0.05, head=head)
    t = [0.0, 1e-4, 0.01, 0.4, 1.0]
    params = beliefs(family, t)
    raw = raw_numbers(family, 5)
    normals = head.normals(family, raw, params)
    gamma = 1 - 0.05 ** (2 * torch.tensor(t[2:], dtype=DOUBLE).unsqueeze(1))
    spread = torch.sqrt((1 - gamma) / gamma)
    expected = params.mean[2:] / gamma - spread * raw[2:, :, 0]
    assert torch.allclose(normals.means[2:, :, 0], expected, rtol=1e-12, atol=1e-12)  # 1 - gamma cancels
    assert torch.allclose(normals.scales[2:, :, 0], spread * raw[2:, :, 1].exp(), rtol=1e-12)
    assert torch.equal(normals.means[:2, :, 0], torch.zeros(2, 3, dtype=DOUBLE))  # before t_min the mean is 0,
    assert torch.equal(normals.scales[:2, :, 0], raw[:2, :, 1].exp())  # and sigma_eps is in units of the data


@pytest.mark.parametrize("point", [SkipHead(0.3), NoiseHead(clip=math.inf), DataHead()], ids=str)
def test_means_are_the_estimates_of_the_point_head(point: Head) -> None:
    family = Gaussian(site_shape=(3,), sigma_1=0.05, head=point)
    head = MixtureHead(components=2, point=point)
    params = beliefs(family, [0.2, 0.7, 1.0])
    logits, centres, log_scales = raw_numbers(Gaussian(site_shape=(3,), head=head), 3).chunk(3, -1)
    normals = head.normals(family, torch.cat([logits, centres, log_scales], -1), params)
    assert torch.equal(normals.logits, logits)
    for c in (0, 1):
        assert torch.allclose(normals.means[..., c], family.output(centres[..., c : c + 1], params).mean, rtol=1e-14)
    step = family.output(centres[..., :1] + 1, params).mean - normals.means[..., 0]
    # A component's scale is that of the raw number; the difference of two estimates loses a few digits.
    assert torch.allclose(normals.scales[..., 0], step.abs() * log_scales[..., 0].exp(), rtol=1e-9)
    assert torch.equal(head.features(family, params), family.features(params))
    t = torch.tensor([0.1, 0.9], dtype=DOUBLE)
    assert torch.equal(head.loss_weight(family, t), point.loss_weight(family, t))


@pytest.mark.parametrize("head", HEADS, ids=str)
def test_outputs_are_what_the_head_says(head: ComponentsHead) -> None:
    family = Gaussian(site_shape=(3,), sigma_1=0.05, head=head)
    assert family.network_io.out_features == (2 if head.count == 1 else 3 * head.count)
    output = family.output(raw_numbers(family, 2), beliefs(family, [0.5, 0.9]))
    kind = SiteNormalMixture
    if not isinstance(head, MixtureHead):
        kind = Binned if head.form == "clipped" else Finite
    assert type(output) is kind
    assert output.sample().shape == output.mean.shape == (2, 3)


class Linear(torch.nn.Module):
    """The smallest network: every raw number is w feature + c."""

    def __init__(self, raw: int, dtype: torch.dtype) -> None:
        super().__init__()
        with seeded(0, "linear"):
            self.weights = torch.nn.Parameter(torch.randn(2, raw, dtype=dtype))

    def forward(self, features: Tensor, t: Tensor) -> Tensor:
        return self.weights[0] * features + self.weights[1]


@pytest.mark.parametrize("sigma_1", [1e-8, 1e-3, 0.5, 0.999])
@pytest.mark.parametrize("head", HEADS, ids=str)
def test_output_price_and_gradient_are_finite_at_both_ends_of_time(head: Head, sigma_1: float) -> None:
    family = Gaussian(site_shape=(3,), sigma_1=sigma_1, head=head)
    network = Linear(family.network_io.out_features, torch.float32)
    t, x = torch.tensor(EDGES), torch.tensor([-0.9, 0.1, 0.9]).expand(len(EDGES), 3)
    with seeded(0, "box"):
        belief = family.flow(x, t)
    belief.mean.requires_grad_()  # guidance differentiates by the beliefs
    output = BFN(family, network).output(belief, t)
    for values in (output.mean, output.sample(), output.mode):
        assert values.dtype == torch.float32
        assert torch.isfinite(values).all()
    rate, price = family.loss_rate(x, output, t), output.log_prob(x)
    for value in (rate, rate * family.loss_weight(t), price):
        assert torch.isfinite(value).all()
        for gradient in torch.autograd.grad(value.sum(), [*network.parameters(), belief.mean], retain_graph=True):
            assert torch.isfinite(gradient).all()


@pytest.mark.parametrize("head", SMALL, ids=str)
@pytest.mark.parametrize("loss", [ContinuousTimeLoss("unit"), DiscreteTimeLoss(3), ReconstructionLoss()], ids=str)
def test_losses_and_gradients_are_finite(loss: Loss, head: Head) -> None:
    family = Gaussian(site_shape=(3,), sigma_1=0.01, head=head)
    bfn = BFN(family, Linear(family.network_io.out_features, torch.float32))
    with seeded(0, "losses"):
        values = loss(bfn, torch.linspace(-0.9, 0.9, 3 * 64).reshape(-1, 3))
    values.sum().backward()
    assert values.shape == (64,)
    assert torch.isfinite(values).all()
    assert torch.isfinite(bfn.network.weights.grad).all()
    assert (bfn.network.weights.grad != 0).any()


def test_extreme_raw_numbers_give_finite_numbers() -> None:
    for head in SMALL:
        family = Gaussian(site_shape=(3,), sigma_1=1e-3, head=head)
        raw = (
            torch.tensor([-1e4, 0.0, 1e4])
            .reshape(3, 1, 1)
            .expand(3, 3, family.network_io.out_features)
            .clone()
            .requires_grad_()
        )
        with seeded(0, "extreme"):
            output = family.output(raw, family.flow(torch.zeros(3, 3), torch.tensor([0.0, 0.5, 1.0])))
        price = output.log_prob(torch.zeros(3, 3)) + output.mean.sum(1)
        price.sum().backward()
        assert torch.isfinite(price).all()
        assert torch.isfinite(raw.grad).all()


def test_discrete_time_price_teaches_the_scale_that_the_mean_does_not_show() -> None:
    # Data of two values, told apart by nothing: the best single normal has their mean and their deviation.
    head = MixtureHead(components=1, point=DataHead())
    family = Gaussian(site_shape=(1,), sigma_1=0.5, head=head)
    x = torch.tensor([[-0.6], [0.6]], dtype=DOUBLE).repeat(20_000, 1)
    params, alpha = family.prior(len(x), dtype=DOUBLE), torch.full((len(x),), 3.0, dtype=DOUBLE)
    prices = {}
    for log_scale in (math.log(0.6) - 1, math.log(0.6), math.log(0.6) + 1):
        raw = torch.tensor([0.0, log_scale], dtype=DOUBLE).expand(len(x), 1, 2)
        with seeded(0, "price"):
            prices[log_scale] = float(family.step_loss(x, family.output(raw, params), alpha).mean())
    assert min(prices, key=lambda key: prices[key]) == math.log(0.6)


def test_data_outside_of_the_bins_are_refused() -> None:
    family = Gaussian(site_shape=(2,), head=DiscretisedHead(bins=8))
    family.check_data(torch.tensor([[-1.0, 1.0]]))
    with pytest.raises(DataError, match=r"found 3\.0 at index \(1, 0\) \(2 in all\)"):
        family.check_data(torch.tensor([[0.0, 1.0], [3.0, -7.0]]))
    Gaussian(site_shape=(2,), head=MixtureHead()).check_data(torch.tensor([[3.0, -7.0]]))


@pytest.mark.parametrize(
    "wrong", [{"bins": 1}, {"form": "cut"}, {"point": DiscretisedHead()}, {"point": "skip"}], ids=str
)
def test_wrong_options_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises((ValueError, TypeError)):
        DiscretisedHead(**wrong)
