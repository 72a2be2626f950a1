"""Conservation laws of the Gaussian family: update, flow, messages, and its overrides against the definitions."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import given, strategies as st
from torch import Tensor
from torch.distributions import Independent

from bfn_gaussian import Gaussian, GaussianParams, NoiseHead, SkipHead
from bfn_toolkit import AdditiveFamily, ChannelFamily, DataError, Delta, Family, coefficient, expand, kl, seeded
from significance import Z, ks_two_sample, z_of_mean, z_of_variance
from strategies import SITE, accuracies, alphas, beliefs, data, dtypes, log_uniform, tensors, times, values

GAUSSIAN = Gaussian(site_shape=SITE, sigma_1=0.02)
N = 200_000  # draws of the statistical laws: a variance is known to 0.3 %, and Z standard errors are 1.6 %


def within(found: Tensor, expected: Tensor, scale: Tensor, eps: float = 16) -> bool:
    """At most 16 machine epsilons of the scale (the largest error of 1e6 draws of any law was 9)."""
    info = torch.finfo(found.dtype)
    tolerance = eps * info.eps * scale + 4 * info.tiny  # below tiny, numbers have no relative precision
    return bool(((found - expected).abs() <= tolerance).all())


def size(*tensors: Tensor) -> Tensor:
    return torch.stack([t.abs() for t in tensors]).amax(0)


@given(st.data(), dtypes)
def test_precision_is_additive(draw: st.DataObject, dtype: torch.dtype) -> None:
    belief, y = draw.draw(beliefs(dtype)), draw.draw(data(dtype))
    a, b = draw.draw(alphas(dtype)), draw.draw(alphas(dtype))
    after = GAUSSIAN.update(GAUSSIAN.update(belief, y, a), -y, b).precision
    assert within(after, belief.precision + a + b, after)
    assert torch.equal(GAUSSIAN.update(belief, y, a).precision, GAUSSIAN.draw_update(belief, y, a).precision)


@given(st.data(), dtypes)
def test_update_is_commutative(draw: st.DataObject, dtype: torch.dtype) -> None:
    belief, y, z = draw.draw(beliefs(dtype)), draw.draw(data(dtype)), draw.draw(data(dtype))
    a, b = draw.draw(alphas(dtype)), draw.draw(alphas(dtype))
    first = GAUSSIAN.update(GAUSSIAN.update(belief, y, a), z, b)
    second = GAUSSIAN.update(GAUSSIAN.update(belief, z, b), y, a)
    assert within(first.mean, second.mean, size(belief.mean, y, z))


@given(st.data(), dtypes)
def test_two_messages_merge_into_one(draw: st.DataObject, dtype: torch.dtype) -> None:
    belief, y, z = draw.draw(beliefs(dtype)), draw.draw(data(dtype)), draw.draw(data(dtype))
    a, b = draw.draw(alphas(dtype)), draw.draw(alphas(dtype))
    two = GAUSSIAN.update(GAUSSIAN.update(belief, y, a), z, b)
    merged = (expand(a, y) * y + expand(b, z) * z) / expand(a + b, y)
    assert within(GAUSSIAN.update(belief, merged, a + b).mean, two.mean, size(belief.mean, y, z))


@given(st.data(), dtypes)
def test_zero_accuracy_changes_nothing(draw: st.DataObject, dtype: torch.dtype) -> None:
    belief, y, zero = draw.draw(beliefs(dtype)), draw.draw(data(dtype)), torch.zeros(2, dtype=dtype)
    for after in (GAUSSIAN.update(belief, y, zero), GAUSSIAN.draw_update(belief, y, zero)):
        assert torch.equal(after.mean, belief.mean)  # to the bit: the difference form
        assert torch.equal(after.precision, belief.precision)


@given(st.data(), dtypes)
def test_new_mean_lies_between_mean_and_message(draw: st.DataObject, dtype: torch.dtype) -> None:
    belief, y, a = draw.draw(beliefs(dtype)), draw.draw(data(dtype)), draw.draw(alphas(dtype))
    mean = GAUSSIAN.update(belief, y, a).mean
    assert (torch.minimum(belief.mean, y) <= mean).all()  # to the bit: the difference form is monotone
    assert (mean <= torch.maximum(belief.mean, y)).all()


@given(st.data(), dtypes)
def test_infinite_accuracy_returns_the_message(draw: st.DataObject, dtype: torch.dtype) -> None:
    belief, y = draw.draw(beliefs(dtype)), draw.draw(data(dtype))
    a = belief.precision * 1e20  # so that what is left of the old mean is below either epsilon
    assert within(GAUSSIAN.update(belief, y, a).mean, y, size(belief.mean, y), eps=1)


@given(st.data(), dtypes)
def test_natural_parameters_add(draw: st.DataObject, dtype: torch.dtype) -> None:
    # In the form that is stored: rho' mu' itself would show the cancellation of the difference form.
    belief, y, a = draw.draw(beliefs(dtype)), draw.draw(data(dtype)), draw.draw(alphas(dtype))
    rho, alpha = expand(belief.precision, y), expand(a, y)
    textbook = (rho * belief.mean + alpha * y) / (rho + alpha)
    assert within(GAUSSIAN.update(belief, y, a).mean, textbook, size(belief.mean, y))


@given(st.data(), dtypes)
def test_sites_may_differ_in_precision(draw: st.DataObject, dtype: torch.dtype) -> None:
    # Told site by site or at once: the same beliefs.  B == D, so that a mistaken axis would go unnoticed by torch.
    mean, y, a = draw.draw(data(dtype)), draw.draw(data(dtype)), draw.draw(alphas(dtype))
    rho = 1 + draw.draw(tensors(accuracies, (2, 2), dtype))
    for update in (GAUSSIAN.update, GAUSSIAN.draw_update):
        after = update(GaussianParams(mean, rho), y, a)
        assert torch.equal(after.precision, rho + a.unsqueeze(1))
    single = Gaussian(site_shape=(1,))
    for i in range(2):
        alone = single.update(GaussianParams(mean[:, i : i + 1], rho[:, i]), y[:, i : i + 1], a)
        assert within(
            GAUSSIAN.update(GaussianParams(mean, rho), y, a).mean[:, i], alone.mean[:, 0], size(mean, y)[:, i]
        )


@given(st.data(), dtypes, log_uniform(0.1, 10.0), st.sampled_from((-1.0, 1.0)), values)
def test_update_is_affine_equivariant(draw: st.DataObject, dtype: torch.dtype, c: float, sign: float, b: float) -> None:
    belief, y, a = draw.draw(beliefs(dtype)), draw.draw(data(dtype)), draw.draw(alphas(dtype))
    moved = GaussianParams(sign * c * belief.mean + b, belief.precision / c**2)
    expected = sign * c * GAUSSIAN.update(belief, y, a).mean + b
    found = GAUSSIAN.update(moved, sign * c * y + b, a / c**2).mean
    assert within(found, expected, c * size(belief.mean, y) + abs(b))


@given(st.data())
def test_update_is_bayes_rule(draw: st.DataObject) -> None:
    # log p_I(x | theta') - log p_I(x | theta) - log p_S(y | x) must not depend on x.
    belief, y, a = (draw.draw(s(torch.float64)) for s in (beliefs, data, alphas))
    after, spread, scale = GAUSSIAN.update(belief, y, a), [], torch.zeros(2, dtype=torch.float64)
    for x in (after.mean, y, belief.mean, belief.mean + 1, torch.zeros_like(y)):
        terms = [GAUSSIAN.input(after).log_prob(x), -GAUSSIAN.input(belief).log_prob(x)]
        terms.append(-GAUSSIAN.sender(x, a).log_prob(y))
        scale = size(scale, *terms)
        spread.append(sum(terms))
    # 64 eps: each term is a sum over two sites, and the rounding of the new mean enters at the slope of its square.
    assert within(torch.stack(spread).amax(0), torch.stack(spread).amin(0), scale + 1, eps=64)


@pytest.mark.parametrize(("rho", "alpha"), [(1.0, 0.5), (3.0, 40.0), (50.0, 0.1)])
def test_expected_mean_is_a_martingale(rho: float, alpha: float) -> None:
    family, full = Gaussian(site_shape=()), torch.full((N,), 1.0, dtype=torch.float64)
    belief = GaussianParams(0.3 * full, rho * full)
    with seeded(0, "martingale"):
        x = family.input(belief).sample()
        after = family.draw_update(belief, x, alpha * full)
    assert z_of_mean(after.mean, 0.3) <= Z
    assert z_of_variance(after.mean, 1 / rho - 1 / (rho + alpha)) <= Z
    assert z_of_mean((x - after.mean) * torch.sin(5 * after.mean), 0.0) <= Z  # calibration: the error is orthogonal


@pytest.mark.parametrize("n", [1, 2, 7, 100, 10_000])
def test_flow_moments_are_those_of_composed_updates(n: int) -> None:
    # The update is affine in y, so its own slope at y carries mean and variance from message to message.
    family, x = Gaussian(site_shape=(), sigma_1=0.02), torch.full((1,), 0.7, dtype=torch.float64)
    belief, variance = family.prior(1, dtype=torch.float64), torch.zeros(1, dtype=torch.float64)
    grid = family.times(n)
    for alpha in family.accuracy(grid[:-1], grid[1:]).split(1):
        slope = family.update(GaussianParams(0 * x, belief.precision), torch.ones_like(x), alpha).mean
        variance = (1 - slope) ** 2 * variance + slope**2 * family.sender(x, alpha).variance
        belief = family.update(belief, x, alpha)
    gamma = 1 - 0.02**2
    # 1e-12: n sums round; 1.4e-13 was seen at n = 10,000.  The variance is 1 - gamma = 4e-4 of a difference of ones.
    assert (belief.mean - gamma * x).abs() <= 1e-12
    assert (variance - gamma * (1 - gamma)).abs() <= 1e-12 * gamma * (1 - gamma)
    assert (belief.precision * 0.02**2 - 1).abs() <= 1e-12


@pytest.mark.parametrize("t", [0.03, 0.5, 1.0])
def test_flow_is_distributed_as_folded_updates(t: float) -> None:
    family, x = Gaussian(site_shape=(), sigma_1=0.1), torch.full((N,), 0.7, dtype=torch.float64)
    folded = family.prior(N, dtype=torch.float64)
    grid = family.times(4) * t
    with seeded(1, "flow"):
        for alpha in family.accuracy(grid[:-1], grid[1:]):
            folded = family.draw_update(folded, x, alpha)
        flow = family.flow(x, torch.full_like(x, t))
    assert ks_two_sample(flow.mean, folded.mean) <= 1
    assert torch.allclose(flow.precision, folded.precision, rtol=1e-13, atol=0)  # four sums in float64


@given(times, log_uniform(1e-3, 0.9), st.integers(0, 2**32))
def test_flow_knows_its_precision(t: float, sigma_1: float, seed: int) -> None:
    family, x = Gaussian(sigma_1=sigma_1), torch.zeros(1, 1, dtype=torch.float64)
    when = torch.tensor([t], dtype=torch.float64)
    with seeded(seed):
        assert within(family.flow(x, when).precision, 1 + family.schedule.beta(when), 1 + family.schedule.beta(when))


def draws(family: Family, of: object, kind: str) -> Tensor:
    """Means of N beliefs at once, by the family's own verb or by the plain definition ``of`` a base class."""
    full = torch.ones(N, dtype=torch.float64)
    x = 0.7 * full
    with seeded(2, kind, of is None):
        if kind == "flow":
            return (family.flow(x, 0.4 * full) if of is None else of.flow(family, x, 0.4 * full)).mean
        belief = GaussianParams(-0.2 * full, 3 * full)
        verb = family.draw_update if of is None else lambda *a: of.draw_update(family, *a)
        return verb(belief, x, 2 * full).mean


@pytest.mark.parametrize(("base", "kind"), [(AdditiveFamily, "flow"), (Family, "draw_update")])
def test_overrides_draw_what_the_definitions_draw(base: type, kind: str) -> None:
    family = Gaussian(site_shape=(), sigma_1=0.1)
    found, expected = draws(family, None, kind), draws(family, base, kind)
    assert ks_two_sample(found, expected) <= 1
    assert z_of_mean(found - expected, 0.0) <= Z  # independent seeds


@pytest.mark.parametrize("t", [1e-3, 0.5, 1.0])
def test_flow_and_update_have_the_moments_of_the_paper(t: float) -> None:
    family, full = Gaussian(site_shape=(), sigma_1=0.1), torch.ones(N, dtype=torch.float64)
    gamma, alpha = 1 - 0.1 ** (2 * t), 0.1 ** (-2 * t) - 1
    with seeded(3, "moments"):
        flow = family.flow(-0.5 * full, t * full).mean
        update = family.draw_update(GaussianParams(0.2 * full, 3 * full), -0.5 * full, alpha * full).mean
    assert z_of_mean(flow, -0.5 * gamma) <= Z  # eq. 77
    assert z_of_variance(flow, gamma * (1 - gamma)) <= Z
    assert z_of_mean(update, (-0.5 * alpha + 3 * 0.2) / (3 + alpha)) <= Z  # eq. 52
    assert z_of_variance(update, alpha / (3 + alpha) ** 2) <= Z


@given(st.data(), dtypes)
def test_verbs_agree_with_the_channel(draw: st.DataObject, dtype: torch.dtype) -> None:
    belief, y, a = draw.draw(beliefs(dtype)), draw.draw(data(dtype)), draw.draw(alphas(dtype))
    v, accuracy = GAUSSIAN.natural_params(belief)
    assert v.shape == (*y.shape, 1)
    back = GAUSSIAN.from_natural(v, accuracy)
    assert within(back.mean, belief.mean, belief.mean.abs())
    assert within(back.precision, belief.precision, belief.precision)
    # The paper's message is y = (channel message) / alpha.
    plain = ChannelFamily.update(GAUSSIAN, belief, (y * expand(a, y)).unsqueeze(-1), a)
    assert within(GAUSSIAN.update(belief, y, a).mean, plain.mean, size(belief.mean, y))
    sent, plain_sent = GAUSSIAN.sender(y, a), ChannelFamily.sender(GAUSSIAN, y, a)
    assert within(expand(a, y) * sent.mean, plain_sent.mean.squeeze(-1), expand(a, y) * y.abs())
    assert within(expand(a.square(), y) * sent.variance, plain_sent.variance.squeeze(-1), expand(a, y))
    prior, plain_prior = GAUSSIAN.prior(2, dtype=dtype), ChannelFamily.prior(GAUSSIAN, 2, dtype=dtype)
    assert torch.equal(prior.mean, plain_prior.mean)
    assert torch.equal(prior.precision, plain_prior.precision)


@pytest.mark.parametrize("b", [0.01, 5.0, 900.0])
def test_flow_is_the_gaussian_channel(b: float) -> None:
    family, x = Gaussian(site_shape=(), sigma_1=0.03), torch.full((N,), 0.4, dtype=torch.float64)
    t = torch.full_like(x, math.log1p(b) / family.schedule.rate)
    with seeded(4, "channel"):
        v, accuracy = family.natural_params(family.flow(x, t))
    assert torch.allclose(accuracy, torch.tensor(b, dtype=torch.float64), rtol=1e-11)  # rho - 1 loses eps / b
    assert z_of_mean(v, 0.4 * b) <= Z
    assert z_of_variance(v, b) <= Z


@given(st.data(), dtypes)
def test_kl_has_its_closed_form(draw: st.DataObject, dtype: torch.dtype) -> None:
    x, x_hat, a = draw.draw(data(dtype)), draw.draw(data(dtype)), draw.draw(alphas(dtype))
    sender, output = GAUSSIAN.sender(x, a), Delta(x_hat)
    found, expected = kl(sender, GAUSSIAN.receiver(output, a)), 0.5 * a * (x - x_hat).square().sum(1)
    # torch's formula adds a term that is 0 up to rounding, 1 - 1 - log 1, at each site
    assert within(found, expected, expected + 1)
    assert within(kl(sender, GAUSSIAN.receiver(Delta(x), a)), torch.zeros_like(a), torch.ones_like(a))
    # and the loss rate is its slope: the overrides against the definitions of the base classes
    rate, plain = GAUSSIAN.kl_rate(x, output), ChannelFamily.kl_rate(GAUSSIAN, x, output)
    assert within(rate, plain, plain)
    assert within(a * rate.sum(1), expected, expected)
    t = torch.tensor([0.25, 1.0], dtype=dtype)
    plain_rate = AdditiveFamily.loss_rate(GAUSSIAN, x, output, t)
    assert within(GAUSSIAN.loss_rate(x, output, t), plain_rate, plain_rate)


def test_kl_is_the_expected_log_ratio() -> None:
    family, x = Gaussian(site_shape=(2,)), torch.tensor([[0.3, -0.4]], dtype=torch.float64)
    alpha = torch.tensor([7.0], dtype=torch.float64)
    sender, receiver = family.sender(x, alpha), family.receiver(Delta(x + 0.25), alpha)
    with seeded(5, "kl"):
        y = sender.sample((N,))
    assert isinstance(receiver, Independent)
    assert z_of_mean(sender.log_prob(y) - receiver.log_prob(y), 0.5 * 7.0 * 2 * 0.25**2) <= Z


@pytest.mark.parametrize("n", [1, 2, 5, 20, 1000, None])
def test_constant_error_costs_the_same_for_every_number_of_steps(n: int | None) -> None:
    # L^n = L^inf = beta(1) e / 2, for a squared error e.
    family, e = Gaussian(site_shape=(2,), sigma_1=0.1), 2 * 0.3**2
    if n is None:
        nodes = torch.tensor([-math.sqrt(0.6), 0.0, math.sqrt(0.6)], dtype=torch.float64)  # Gauss-Legendre
        weights = torch.tensor([5.0, 8.0, 5.0], dtype=torch.float64) / 18
        t = ((torch.arange(200).unsqueeze(1) + 0.5 * (nodes + 1)) / 200).flatten()
        x = torch.zeros(len(t), 2, dtype=torch.float64)
        total = (family.loss_rate(x, Delta(x + 0.3), t).reshape(200, 3) * weights).sum() / 200
    else:
        grid, x = family.times(n), torch.zeros(n, 2, dtype=torch.float64)
        alpha = family.accuracy(grid[:-1], grid[1:])
        total = kl(family.sender(x, alpha), family.receiver(Delta(x + 0.3), alpha)).sum()
    assert abs(total / (99 * e / 2) - 1) <= 1e-12  # a thousand sums in float64; the quadrature is exact beyond that


def test_data_are_checked_for_shape_dtype_and_finite_values() -> None:
    GAUSSIAN.check_data(torch.zeros(3, *SITE))
    for bad in (torch.zeros(3, 4), torch.zeros(3, *SITE, dtype=torch.long), torch.full((3, *SITE), math.nan)):
        with pytest.raises(DataError):
            GAUSSIAN.check_data(bad)


@pytest.mark.parametrize("head", [SkipHead(), SkipHead(data_variance=0.1), NoiseHead(), NoiseHead(t_min=0.5)], ids=str)
@pytest.mark.parametrize("q", [0.0, 1e-5, 0.3, 40.0])
def test_a_precision_that_all_rows_share_gives_the_numbers_of_rows(head: Any, q: float) -> None:
    family = Gaussian((3,), sigma_1=0.02, head=head)
    with seeded(0, "shared"):
        w, raw = torch.randn(5, 3, 1, dtype=torch.float64), torch.randn(5, 3, 1, dtype=torch.float64)
    shared = family.from_scaled(w, q)
    rows = GaussianParams(shared.mean, shared.precision.clone())
    assert isinstance(coefficient(shared.precision), float)
    assert isinstance(coefficient(rows.precision), torch.Tensor)
    assert torch.allclose(family.features(shared), family.features(rows), rtol=1e-13)
    assert torch.allclose(family.output(raw, shared).mean, family.output(raw, rows).mean, rtol=1e-13)
