"""The defaults of the base classes are the definitions: families that override nothing obey the laws they claim."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

import attrs
import pytest
import torch
from hypothesis import given, strategies as st
from torch import Tensor

from bfn_categorical import Categorical
from bfn_directional import Circle as DirectionalCircle
from bfn_gaussian import Gaussian
from bfn_gaussian_heads import DiscretisedMixtureHead, MixtureHead
from bfn_toolkit import (
    ConfigError,
    ContinuousTimeLoss,
    DataError,
    Delta,
    DiscreteTimeLoss,
    Family,
    Finite,
    NormalMixture,
    Oracle,
    SiteNormalMixture,
    StepCountError,
    TableSchedule,
    kl,
    normal,
    seeded,
)
from significance import Z, ks_two_sample, z_of_mean, z_of_variance
from toy_families import TOYS, Circle, CircleParams, PlainCategorical, SteppedGaussian

N = 100_000
DOUBLE = torch.float64
TOY = pytest.mark.parametrize("family", TOYS, ids=lambda family: type(family).__name__)


def full(value: float, n: int = N) -> Tensor:
    return torch.full((n,), value, dtype=DOUBLE)


def flattened(params: Any) -> Tensor:
    """All numbers of the beliefs, with shape (B, -1)."""
    parts = [params] if isinstance(params, Tensor) else attrs.astuple(params)
    return torch.cat([part.reshape(len(part), -1) for part in parts], 1)


def truth(family: Family[Any], n: int) -> Tensor:
    return torch.ones(n, 1, dtype=torch.long) if isinstance(family, PlainCategorical) else full(0.7, n).unsqueeze(1)


@TOY
def test_update_is_bayes_rule(family: Family[Any]) -> None:
    x, alpha = truth(family, 50), torch.logspace(-2, 1, 50, dtype=DOUBLE)
    with seeded(0, "bayes"):
        belief = family.flow(x, full(1 / 3, 50))
        y = family.sender(x, alpha).sample()
    after = family.update(belief, y, alpha)
    values = (0, 1, 2) if isinstance(family, PlainCategorical) else (-3.0, -0.4, 0.0, 0.7, 2.5)
    terms = torch.stack(
        [
            family.input(after).log_prob(u) - family.input(belief).log_prob(u) - family.sender(u, alpha).log_prob(y)
            for u in (torch.full_like(x, value) for value in values)
        ]
    )
    # float64, and terms of tens; torch's Bessel function is a fit to 2e-7, but does not depend on x
    assert (terms.amax(0) - terms.amin(0) <= 1e-11).all()


@TOY
def test_flow_to_the_end_is_the_fold_of_its_messages(family: Family[Any]) -> None:
    x, n = truth(family, N), 3
    times = family.times(n)
    with seeded(1, "fold"):
        flow = flattened(family.flow(x, full(1.0)))
        belief = family.prior(N, dtype=DOUBLE)
        for s, t in pairwise(times):
            belief = family.draw_update(belief, x, family.accuracy(s.expand(N), t.expand(N)))
    assert flow.dtype == DOUBLE
    for a, b in zip(flow.unbind(1), flattened(belief).unbind(1), strict=True):
        spread = (b - b[0]).abs().max()
        if spread <= 1e-9:  # an accuracy, which is not random
            assert torch.allclose(a, b, rtol=1e-12)
        else:
            assert ks_two_sample(a, b) <= 1


def test_flow_of_an_additive_family_is_one_message() -> None:
    circle, categorical, t = Circle(), PlainCategorical(), 0.6
    with seeded(2, "one"):
        v = circle.flow(truth(circle, N), full(t)).v
        log_theta = categorical.flow(truth(categorical, N), full(t))
    b = 8.0 * t**2
    assert z_of_mean(v[:, 0], b * torch.tensor([math.cos(0.7), math.sin(0.7)])) <= Z
    assert z_of_variance(v[:, 0], b) <= Z
    assert abs(torch.corrcoef(v[:, 0].T)[0, 1]) <= Z / math.sqrt(N)
    # eq. 185: z ~ N(beta (K e_x - 1), beta K); differences of two coordinates survive the softmax
    difference = log_theta[:, 0, 1] - log_theta[:, 0, 2]
    assert z_of_mean(difference, 3 * t**2) <= Z
    assert z_of_variance(difference, 2 * 3 * t**2) <= Z
    assert torch.allclose(log_theta.logsumexp(-1), torch.zeros(1, dtype=DOUBLE), atol=1e-14)


def test_flow_of_a_stepped_family_has_received_the_messages_so_far() -> None:
    family, t = SteppedGaussian(), torch.tensor([0.0, 0.2, 1 / 3, 0.5, 2 / 3, 1.0], dtype=DOUBLE)
    x = full(0.7, 6 * N).reshape(-1, 1)
    with seeded(3, "stepped"):
        belief = family.flow(x, t.repeat_interleave(N))
    means = belief.mean.reshape(6, N)
    received = torch.tensor([0.0, 0.0, 0.5, 0.5, 4.5, 6.5], dtype=DOUBLE)
    assert torch.equal(belief.precision.reshape(6, N), (1 + received).unsqueeze(1).expand(6, N))
    for mean, b in zip(means, received, strict=True):
        if b > 0:
            assert z_of_mean(mean, 0.7 * b / (1 + b)) <= Z
            assert z_of_variance(mean, b / (1 + b) ** 2) <= Z
        else:
            assert (mean == 0).all()


@given(st.sampled_from((0, -1, True, 2.5, "3", None)))
def test_step_counts_are_integers_of_at_least_one(n: Any) -> None:
    for family in (*TOYS, Gaussian()):
        with pytest.raises(StepCountError, match="integer of at least 1"):
            family.times(n)


def test_a_stepped_family_names_its_number_of_steps() -> None:
    with pytest.raises(StepCountError) as error:
        SteppedGaussian().times(64)
    assert str(error.value) == (
        "SteppedGaussian was built with 3 steps; got n_steps=64. Use n_steps=3, or build it for 64 steps."
    )
    assert torch.allclose(SteppedGaussian().times(3), torch.tensor([0, 1, 2, 3], dtype=DOUBLE) / 3, rtol=1e-15)


def test_a_stepped_family_has_no_continuous_time_loss() -> None:
    model = Oracle(SteppedGaussian(), lambda params: Delta(params.mean, 0.1))
    with pytest.raises(ConfigError, match="discrete-time loss with n_steps=3"):
        ContinuousTimeLoss()(model, torch.zeros(4, 1))
    assert model.nll(torch.zeros(4, 1), n_steps=3).shape == (4,)


@pytest.mark.parametrize("n", [3, 40, 100])
def test_discrete_time_loss_of_a_stepped_family_uses_its_own_table(n: int) -> None:
    # Even in float32, where i / n * n falls short of i: each step's accuracy meets beliefs of what came before.
    table = tuple(1.0 + i for i in range(n))
    seen: list[Tensor] = []

    def posterior(params: Any) -> Delta:
        seen.append(params.precision)
        return Delta(torch.ones_like(params.mean))

    family = SteppedGaussian(schedule=TableSchedule(table))
    loss = DiscreteTimeLoss(n)(Oracle(family, posterior), torch.zeros(2000, 1))
    alpha = loss / (0.5 * n)
    before = 1 + (alpha - 1) * alpha / 2  # 1 + the sum of the table up to, and without, alpha
    assert torch.allclose(seen[0], before, rtol=1e-4)  # float32: alpha from a divergence of order 100
    assert len(alpha.round().unique()) == n


@TOY
def test_data_of_another_shape_are_refused(family: Family[Any]) -> None:
    with pytest.raises(DataError, match=r"shape \(B, 1\), found \(5, 2\)"):
        family.check_data(torch.zeros(5, 2))


def gauss_mixture_kl(alpha: float, x: float, support: Tensor, weights: Tensor) -> float:
    """KL(N(x, 1/alpha) || sum_k w_k N(k, 1/alpha)) by quadrature."""
    y = x + torch.linspace(-12, 12, 20_001, dtype=DOUBLE) / math.sqrt(alpha)
    log_p = 0.5 * math.log(alpha / (2 * math.pi)) - 0.5 * alpha * (y - x) ** 2
    log_q = 0.5 * math.log(alpha / (2 * math.pi)) - 0.5 * alpha * (y.unsqueeze(1) - support) ** 2 + weights.log()
    return float(torch.trapezoid(log_p.exp() * (log_p - log_q.logsumexp(1)), y))


def test_receiver_is_the_sender_averaged_over_the_output() -> None:
    # Two sites, three values: the mixture at each site, by brute force.
    family, alpha = Gaussian(site_shape=(2,)), torch.tensor([0.5, 30.0], dtype=DOUBLE)
    support = torch.tensor([-0.8, 0.1, 0.5], dtype=DOUBLE)
    with seeded(4):
        output = Finite(support, torch.randn(2, 2, 3, dtype=DOUBLE))
        y = torch.randn(2, 2, dtype=DOUBLE)
    densities = torch.zeros(2, 2, dtype=DOUBLE)
    for k in range(3):
        one = torch.distributions.Normal(support[k], alpha.rsqrt().unsqueeze(1))
        densities += output.logits.softmax(-1)[..., k] * one.log_prob(y).exp()
    receiver = family.receiver(output, alpha)
    assert torch.allclose(receiver.log_prob(y), densities.log().sum(1), rtol=1e-12)  # float64, plain exponentials


@pytest.mark.parametrize("alpha", [0.01, 1.0, 40.0])
def test_monte_carlo_divergence_is_unbiased(alpha: float) -> None:
    family, weights = Gaussian(site_shape=()), torch.tensor([0.2, 0.5, 0.3], dtype=DOUBLE)
    support, x = torch.tensor([-0.8, 0.1, 0.5], dtype=DOUBLE), 0.1
    output = Finite(support, weights.log().expand(N, 3))
    exact = gauss_mixture_kl(alpha, x, support, weights)
    with seeded(5, str(alpha)):
        sender, receiver = family.sender(full(x), full(alpha)), family.receiver(output, full(alpha))
        once, often = kl(sender, receiver), kl(sender, receiver, samples=4)
    assert exact > 0
    assert z_of_mean(once, exact) <= Z
    assert z_of_mean(often, exact) <= Z
    assert 3 <= once.var() / often.var() <= 5  # four draws have a quarter of the variance
    sure = family.receiver(Finite(torch.tensor([x], dtype=DOUBLE), torch.zeros(N, 1, dtype=DOUBLE)), full(alpha))
    assert kl(sender, sure).abs().max() <= 1e-13  # at the truth there is nothing to pay, draw by draw


@pytest.mark.parametrize("alpha", [full(2.0, 1)[0], torch.logspace(-6, 8, 40, dtype=DOUBLE)], ids=["scalar", "rows"])
@pytest.mark.parametrize("scale", [1e-3, 0.5, 20.0])
def test_price_of_a_normal_output_has_no_noise(scale: float, alpha: Tensor) -> None:
    """Also where the ratio of the densities has no variance: alpha scale^2 > 1."""
    x, family = torch.linspace(-1, 1, 120, dtype=DOUBLE).reshape(40, 3), Gaussian(site_shape=(3,))
    shape = (40, 3, 1)
    means, scales = torch.zeros(shape, dtype=DOUBLE) + 0.3, torch.full(shape, scale, dtype=DOUBLE)
    output = SiteNormalMixture(torch.zeros(shape, dtype=DOUBLE), means, scales)
    with seeded(6, "normal"):
        found = family.step_loss(x, output, alpha, samples=2)
    ratio = 1 + alpha.expand(40)[:, None] * scale**2  # of the variances
    exact = 0.5 * (ratio.log() + (1 + alpha.expand(40)[:, None] * (x - 0.3) ** 2) / ratio - 1)
    # The densities are differences of terms of alpha (x - 0.3)^2.
    assert torch.allclose(found, exact.sum(1), rtol=1e-9, atol=1e-15 * float(alpha.max()) + 1e-13)


SPREAD = (
    Gaussian((2,), sigma_1=0.02, head=MixtureHead(components=3)),
    Gaussian((2,), sigma_1=0.02, head=DiscretisedMixtureHead(bins=32, components=2)),
    DirectionalCircle((2,), sigma_1=0.05, components=3),
    Categorical((2,), classes=2),
    Categorical((2,), classes=27),
)


@pytest.mark.parametrize(("n", "factor"), [(2, 1.5), (10, 4.0), (100, 30.0), (1000, 200.0)])
@pytest.mark.parametrize("family", SPREAD, ids=lambda family: type(getattr(family, "head", family)).__name__)
def test_price_has_the_mean_of_the_log_ratio_and_less_noise(family: Any, n: int, factor: float) -> None:
    io, rows, draws = family.network_io, 500, 10
    with seeded(7, type(family).__name__, n):
        raw = 0.5 * torch.randn(rows, 2, io.out_features, dtype=DOUBLE)
        x = family.output(raw, family.prior(rows, dtype=DOUBLE)).sample()
        u = torch.arange(rows) % n  # rows of one batch at different steps
        s, t = family.times(n)[u], family.times(n)[u + 1]
        params, alpha = family.flow(x, s), family.accuracy(s, t)
        output = family.output(raw, params)
        sender, receiver = family.sender(x, alpha), family.receiver(output, alpha)
        messages = [sender.sample() for _ in range(draws)]
        defined = n * torch.stack([sender.log_prob(y) - receiver.log_prob(y) for y in messages])
        price = n * torch.stack([family.step_loss(x, output, alpha) for _ in range(draws)])
    assert z_of_mean((price - defined).mean(0), 0.0) <= Z
    assert float(price.var(0).mean()) * factor <= float(defined.var(0).mean())


@pytest.mark.parametrize("alpha", [1e-3, 1e-4])
def test_loss_rate_is_the_limit_of_the_divergence(alpha: float) -> None:
    support, weights, x = torch.tensor([-0.8, 0.1, 0.5], dtype=DOUBLE), torch.tensor([0.2, 0.5, 0.3]).double(), 0.5
    output = Finite(support, weights.log().reshape(1, 1, 3))
    rate = Gaussian().kl_rate(torch.tensor([[x]], dtype=DOUBLE), output).item()
    assert abs(gauss_mixture_kl(alpha, x, support, weights) / alpha - rate) <= 3 * alpha  # the next order


@pytest.mark.parametrize("alpha", [1e-3, 0.5])
def test_channel_divergence_is_its_rate_for_points(alpha: float) -> None:
    circle, x, x_hat = Circle(), full(0.7, 1).unsqueeze(1), full(-1.2, 1).unsqueeze(1)
    rate = circle.kl_rate(x, Delta(x_hat))
    assert torch.allclose(rate, 1 - torch.cos(x - x_hat), rtol=1e-13)  # half of |phi - phi_hat|^2
    divergence = kl(circle.sender(x, full(alpha, 1)), circle.receiver(Delta(x_hat), full(alpha, 1)))
    assert torch.allclose(divergence, alpha * rate.sum(1), rtol=1e-9)  # torch's formula adds 1 - 1 at each number
    t = full(0.5, 1)
    assert torch.allclose(circle.loss_rate(x, Delta(x_hat), t), 8.0 * rate.sum(1), rtol=1e-13)
    spread = Finite(torch.tensor([0.2, 1.9], dtype=DOUBLE), torch.zeros(1, 1, 2, dtype=DOUBLE))
    expected = 0.5 * (circle.embed(x) - 0.5 * (circle.embed(full(0.2, 1)) + circle.embed(full(1.9, 1)))).square().sum(
        -1
    )
    assert torch.allclose(circle.kl_rate(x, spread), expected, rtol=1e-13)


@pytest.mark.parametrize("n", [1, 2, 5, 20, None])
def test_categorical_oracle_pays_the_entropy_for_any_number_of_steps(n: int | None) -> None:
    # Conservation of information at two sites of different laws; -ln p(x) is the control variate, point by point.
    law = torch.tensor([[0.6, 0.3, 0.1], [0.2, 0.3, 0.5]], dtype=DOUBLE)
    family = PlainCategorical(site_shape=(2,))
    model = Oracle(family, lambda log_theta: Finite(torch.arange(3), log_theta + law.log()))
    with seeded(6, str(n)):
        x = torch.stack([torch.multinomial(p, N, replacement=True) for p in law], 1)
        price = model.nll(x, n_steps=n)
    surprise = -law.log()[torch.arange(2), x].sum(1)
    assert price.shape == (N,)
    assert z_of_mean(price - surprise, 0.0) <= Z
    assert (price - surprise).std() / math.sqrt(N) <= 0.03  # so that a lost factor shows
    assert z_of_mean(price, float(-(law * law.log()).sum())) <= Z
    if n is None:  # the messages alone, which the surrogate rate would get wrong for finite n
        return
    messages = model.loss(x, n_steps=n)
    assert messages.mean() <= -(law * law.log()).sum()
    assert messages.mean() + Z * messages.std() / math.sqrt(N) >= 0


def test_a_mixture_of_normals_is_widened_by_any_channel() -> None:
    # A channel's message has an axis more than the data: examples, sites and components must not be mistaken.
    @attrs.frozen
    class Line(Circle):
        def embed(self, x: Tensor) -> Tensor:
            return 2 * x.unsqueeze(-1)

    family, alpha = Line(site_shape=(3,)), full(0.5, 4)
    scales = torch.tensor([0.1, 0.2, 0.3, 0.4], dtype=DOUBLE)
    output = NormalMixture(torch.zeros(4, 1, dtype=DOUBLE), torch.ones(4, 1, 3, dtype=DOUBLE), scales.unsqueeze(1))
    y = torch.linspace(-1, 2, 12, dtype=DOUBLE).reshape(4, 3, 1)
    expected = normal(torch.ones_like(y), (0.5 + scales.square()).sqrt()).log_prob(y)  # mean and variance: alpha phi
    assert torch.allclose(family.receiver(output, alpha).log_prob(y), expected, rtol=1e-14)  # the same formula


def test_circle_beliefs_are_calibrated() -> None:
    # x uniform, then told by one message: the error is orthogonal to any function of the beliefs.
    circle = Circle()
    with seeded(7):
        x = (2 * torch.rand(N, 1, dtype=DOUBLE) - 1) * math.pi
        belief: CircleParams = circle.flow(x, full(0.5))
    belief_mean = belief.v[:, 0]
    norm = belief_mean.norm(dim=1)
    expected = belief_mean / norm.unsqueeze(1) * (torch.special.i1e(norm) / torch.special.i0e(norm)).unsqueeze(1)
    assert z_of_mean(circle.embed(x)[:, 0] - expected, 0.0) <= Z
    assert z_of_mean(((circle.embed(x)[:, 0] - expected) * belief_mean).sum(1), 0.0) <= Z
