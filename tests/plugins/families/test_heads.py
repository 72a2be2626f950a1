"""Heads of the Gaussian family: their formulas, and finite numbers wherever the configuration may go."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, strategies as st
from torch import Tensor

from bfn_gaussian import DataHead, Gaussian, GaussianParams, Head, NoiseHead, SkipHead, UnsquaredNormLoss
from bfn_toolkit import BFN, ContinuousTimeLoss, Delta, DiscreteTimeLoss, Loss, per_example, seeded
from strategies import EDGES, dtypes, log_uniform, values

HEADS = [DataHead(), NoiseHead(), NoiseHead(clip=math.inf), SkipHead(), SkipHead(data_variance=0.3), SkipHead(4.0)]
BOX = [1e-8, 1e-4, 0.02, 0.5, 0.999]
DTYPES = (torch.float32, torch.float64)


class Linear(torch.nn.Module):
    """The smallest network: raw = w features + c."""

    def __init__(self, dtype: torch.dtype) -> None:
        super().__init__()
        self.weights = torch.nn.Parameter(torch.tensor([0.3, -0.2], dtype=dtype))

    def forward(self, features: Tensor, t: Tensor) -> Tensor:
        return self.weights[0] * features + self.weights[1]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("sigma_1", BOX)
@pytest.mark.parametrize("head", HEADS, ids=str)
def test_output_rate_and_gradient_are_finite_at_both_ends_of_time(
    head: Head, sigma_1: float, dtype: torch.dtype
) -> None:
    family, network = Gaussian(site_shape=(3,), sigma_1=sigma_1, head=head), Linear(dtype)
    t = torch.tensor(EDGES, dtype=dtype)
    x = torch.linspace(-1, 1, 3 * len(EDGES), dtype=dtype).reshape(-1, 3)
    with seeded(0, "box"):
        belief = family.flow(x, t)
    belief.mean.requires_grad_()  # guidance differentiates by the beliefs
    output = BFN(family, network).output(belief, t)
    assert output.mean.dtype == dtype
    assert torch.isfinite(belief.mean).all()
    assert torch.isfinite(belief.precision).all()
    # x_hat stays at the scale of the data, of the raw numbers, and of the features; without a clip, eps / sqrt(beta)
    # of the earliest time, or of the rounding of rho.
    limit = 1.0 if head == NoiseHead() else 1e5 if head == NoiseHead(clip=math.inf) else 20.0
    assert (output.mean.abs() <= limit).all()
    for rate in (family.loss_rate(x, output, t), family.loss_rate(x, output, t) * family.loss_weight(t)):
        assert torch.isfinite(rate).all()
        found = torch.autograd.grad(rate.sum(), [*network.parameters(), belief.mean], retain_graph=True)
        assert all(torch.isfinite(gradient).all() for gradient in found)
    assert torch.isfinite(output.log_prob(x)).all()


@pytest.mark.parametrize("sigma_1", BOX)
@pytest.mark.parametrize("head", HEADS, ids=str)
@pytest.mark.parametrize("loss", [ContinuousTimeLoss("unit"), DiscreteTimeLoss(3), UnsquaredNormLoss()], ids=str)
def test_losses_and_gradients_are_finite(loss: Loss, head: Head, sigma_1: float) -> None:
    bfn = BFN(Gaussian(site_shape=(3,), sigma_1=sigma_1, head=head), Linear(torch.float32))
    with seeded(0, "losses"):
        values = loss(bfn, torch.linspace(-1, 1, 3 * 64).reshape(-1, 3))
    values.sum().backward()
    assert torch.isfinite(values).all()
    assert torch.isfinite(bfn.network.weights.grad).all()


@pytest.mark.parametrize("t", EDGES)
@pytest.mark.parametrize("sigma_1", BOX)
def test_flow_keeps_gamma_in_float32(sigma_1: float, t: float) -> None:
    # Data of 1e20 drown the noise: the mean over x is gamma = 1 - sigma_1^{2t}, which 1 - exp(...) loses at t = 1e-6.
    family, when = Gaussian(sigma_1=sigma_1), torch.tensor([t])
    with seeded(0, "gamma"):
        gamma = family.flow(torch.full((1, 1), 1e20), when).mean.item() / 1e20
    exact = -math.expm1(2 * math.log(sigma_1) * when.item())
    assert abs(gamma - exact) <= 1e-6 * exact


def skip_formula(mean: Tensor, beta: Tensor, raw: Tensor, v: float) -> tuple[Tensor, Tensor]:
    """Features and estimate as the docstring has them, in float64."""
    mean, beta, raw = mean.double(), beta.double(), raw.double()
    x_hat = v * (1 + beta) / (1 + v * beta) * mean + torch.sqrt(v / (1 + v * beta)) * raw
    return (1 + beta) / torch.sqrt(beta * (1 + v * beta)) * mean, x_hat


@given(values, values, log_uniform(1e-3, 1e6), log_uniform(1e-2, 4.0), dtypes)
def test_skip_head_is_its_formula(mean: float, raw: float, beta: float, v: float, dtype: torch.dtype) -> None:
    family = Gaussian(head=SkipHead(v))
    numbers = (torch.tensor([[number]], dtype=dtype) for number in (mean, raw))
    (mean_, raw_), precision = numbers, torch.tensor([1 + beta], dtype=dtype)
    belief = GaussianParams(mean_, precision)
    features, x_hat = skip_formula(mean_, precision.double().unsqueeze(1) - 1, raw_, v)
    eps = 16 * torch.finfo(dtype).eps
    found = family.features(belief)
    assert found.shape == (1, 1, 1)
    assert (found.squeeze(-1) - features).abs() <= eps * features.abs() + torch.finfo(dtype).tiny
    _, scale = skip_formula(mean_.abs(), precision.unsqueeze(1).double() - 1, raw_.abs(), v)
    estimate = family.output(raw_.unsqueeze(-1), belief).mean
    assert (estimate - x_hat).abs() <= eps * scale + torch.finfo(dtype).tiny


@given(log_uniform(1e-2, 4.0), log_uniform(1e-3, 0.5), st.floats(1e-3, 1.0))
def test_skip_head_has_unit_scale_and_the_best_linear_estimate(v: float, sigma_1: float, t: float) -> None:
    family = Gaussian(sigma_1=sigma_1, head=SkipHead(v))
    gamma = -math.expm1(2 * t * math.log(sigma_1))
    variance = gamma**2 * v + gamma * (1 - gamma)  # of mu, for data of variance v
    one, zero = torch.ones(1, 1, dtype=torch.float64), torch.zeros(1, 1, 1, dtype=torch.float64)
    belief = GaussianParams(one, torch.tensor([1 / (1 - gamma)], dtype=torch.float64))
    # 1e-9: 1 - gamma loses 1 / sigma_1^2 = 1e6 eps
    assert abs(family.features(belief).item() ** 2 * variance - 1) <= 1e-9
    slope = family.output(zero, belief).mean.item()
    assert abs(slope / (gamma * v / variance) - 1) <= 1e-9
    residual = family.output(zero + 1, belief).mean.item() - slope
    assert abs(residual**2 / (v - (gamma * v) ** 2 / variance) - 1) <= 1e-9


@pytest.mark.parametrize("head", HEADS[1:], ids=str)
def test_loss_weight_makes_the_rate_the_squared_error_of_the_raw_number(head: Head) -> None:
    # With a raw number off by d, the weighted rate is d^2 at every time, summed over the sites.
    family = Gaussian(site_shape=(2,), sigma_1=0.05, head=head)
    t = torch.linspace(0.2, 1, 9, dtype=torch.float64)
    belief = GaussianParams(torch.zeros(9, 2, dtype=torch.float64), 1 + family.schedule.beta(t))
    raw = torch.full((9, 2, 1), 0.1, dtype=torch.float64)
    x, output = family.output(raw, belief).mean, family.output(raw + 0.3, belief)
    weighted = family.loss_rate(x, output, t) * family.loss_weight(t)
    assert torch.allclose(weighted, torch.full_like(t, 2 * 0.3**2), rtol=1e-12, atol=0)  # float64, cancellation of 0.3


def test_data_head_returns_the_raw_number_and_prices_it_at_sigma_1() -> None:
    family = Gaussian(site_shape=(2,), sigma_1=0.1, head=DataHead())
    raw = torch.tensor([[[0.2], [-0.4]]], dtype=torch.float64)
    belief = family.prior(1, dtype=torch.float64)
    output = family.output(raw, belief)
    assert torch.equal(output.mean, raw.squeeze(-1))
    assert torch.equal(family.features(belief), belief.mean.unsqueeze(-1))
    density = torch.distributions.Normal(raw.squeeze(-1), 0.1).log_prob(torch.zeros(1, 2))
    assert torch.allclose(output.log_prob(torch.zeros(1, 2)), per_example(density), rtol=1e-14)  # the same formula


class Estimate(torch.nn.Module):
    """A model whose output is one given tensor."""

    def __init__(self, family: Gaussian, x_hat: Tensor) -> None:
        super().__init__()
        self.family, self.x_hat, self.times = family, x_hat, []

    def output(self, params: GaussianParams, t: Tensor, condition: object = None) -> Delta:
        self.times.append(t)
        return Delta(self.x_hat)


@given(values, dtypes)
def test_unsquared_norm_has_a_finite_gradient_at_zero_error(value: float, dtype: torch.dtype) -> None:
    x = torch.full((4, 2), value, dtype=dtype)
    x_hat = x.clone().requires_grad_()
    loss = UnsquaredNormLoss()(Estimate(Gaussian(site_shape=(2,)), x_hat), x)
    loss.sum().backward()
    assert torch.equal(loss, torch.zeros_like(loss))
    assert torch.isfinite(x_hat.grad).all()


def test_unsquared_norm_is_the_formula_of_the_blog() -> None:
    x = torch.zeros(5, 2, dtype=torch.float64)
    model = Estimate(Gaussian(site_shape=(2,), sigma_1=0.02), x + torch.tensor([3.0, 4.0]))
    loss = UnsquaredNormLoss()(model, x)
    assert loss.shape == (5,)
    expected = -math.log(0.02) * 0.02 ** (-2 * model.times[0]) * 5.0
    assert torch.allclose(loss, expected, rtol=1e-13)  # pow against exp in float64
