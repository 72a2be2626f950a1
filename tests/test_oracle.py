"""The mixture knows its posterior: samples and likelihoods must come out exactly right without any training."""

from __future__ import annotations

import math
from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor

from bfn_gaussian import Gaussian, GaussianParams
from bfn_gaussian_mixture import GaussianMixture
from bfn_toolkit import AncestralSampler, Batch, DataError, Oracle, likelihood_bound, seeded, split_rows, w1
from significance import Z, ks_against, z_of_mean

BLOG = GaussianMixture()
UNEVEN = GaussianMixture(means=(-0.6, 0.1, 0.7), std=(0.02, 0.2, 0.1), count=(10, 30, 60))
PLANE = GaussianMixture(means=((-0.5, 0.0), (0.5, 0.5), (0.0, -0.5)), std=(0.1, 0.05, 0.2), count=(50, 60, 70))
MIXTURES = pytest.mark.parametrize("mixture", [BLOG, UNEVEN, PLANE], ids=("blog", "uneven", "plane"))
STEPS = pytest.mark.parametrize("n", [1, 2, 5, 20])


def oracle(mixture: GaussianMixture, sigma_1: float = 0.05) -> Oracle:
    return Oracle(Gaussian(site_shape=mixture.site_shape, sigma_1=sigma_1), mixture.exact_output)


def log_density(mixture: GaussianMixture, x: Tensor) -> Tensor:
    """The definition, component by component, in plain Python."""
    means = [m if isinstance(m, tuple) else (m,) for m in mixture.means]
    stds = mixture.std if isinstance(mixture.std, tuple) else (mixture.std,) * len(means)
    counts = mixture.count if isinstance(mixture.count, tuple) else (mixture.count,) * len(means)
    total = torch.zeros(len(x), dtype=torch.float64)
    for mean, std, count in zip(means, stds, counts, strict=True):
        square = sum((x[:, d] - m) ** 2 for d, m in enumerate(mean))
        norm = (2 * math.pi * std**2) ** (x.shape[1] / 2)
        total += count / sum(counts) * torch.exp(-0.5 * square / std**2) / norm
    return total.log()


def draw(mixture: GaussianMixture, n: int, *key: int | str) -> Tensor:
    """Independent points, unlike those of the splits, whose counts are fixed."""
    with seeded(*key, "draw"):
        return mixture._prior(torch.empty(n, 1, dtype=torch.float64)).sample()


def grid(mixture: GaussianMixture) -> tuple[Tensor, float]:
    """Points that cover the mixture, and the volume of one: the trapezoid rule converges faster than any power."""
    if mixture is PLANE:
        axis = torch.linspace(-2, 2, 1001, dtype=torch.float64)
        return torch.cartesian_prod(axis, axis), float((axis[1] - axis[0]) ** 2)
    axis = torch.linspace(-3, 3, 20_001, dtype=torch.float64)
    return axis.unsqueeze(1), float(axis[1] - axis[0])


@MIXTURES
def test_log_prob_is_the_definition_and_integrates_to_one(mixture: GaussianMixture) -> None:
    x, cell = grid(mixture)
    near = x[log_density(mixture, x) > -500]  # where the plain exponentials have not underflowed
    assert torch.allclose(mixture.log_prob(near), log_density(mixture, near), rtol=1e-12, atol=1e-12)  # float64
    assert abs(mixture.log_prob(x).exp().sum() * cell - 1) <= 1e-9  # quadrature


@MIXTURES
@pytest.mark.parametrize("rho", [1.0, 1.0 + 1e-9, 1.5, 30.0, 2e3])
def test_posterior_is_that_of_brute_force_integration(mixture: GaussianMixture, rho: float) -> None:
    # p(x | theta) is proportional to p(x) p(y | x), where y = mu rho / beta are the data of accuracy beta received
    x, cell = grid(mixture)
    mean = torch.tensor([[0.3, 0.13][: x.shape[1]]], dtype=torch.float64)
    log_p = mixture.log_prob(x) + rho * x @ mean[0] - 0.5 * (rho - 1) * x.square().sum(1)
    log_p = log_p - torch.logsumexp(log_p, 0) - math.log(cell)
    output = mixture.exact_output(GaussianParams(mean, torch.tensor([rho], dtype=torch.float64)))
    likely = log_p > -30
    # 1e-6: grids resolve the narrowest posterior (2,000 received at std 0.05) to eight digits
    found = torch.cat([output.log_prob(row.unsqueeze(0)) for row in x[likely][:: max(1, int(likely.sum()) // 200)]])
    assert torch.allclose(found, log_p[likely][:: max(1, int(likely.sum()) // 200)], rtol=0, atol=1e-6)
    assert torch.allclose(output.mean[0], (log_p.exp().unsqueeze(1) * x).sum(0) * cell, rtol=0, atol=1e-6)


@cache
def sampling_noise() -> tuple[Tensor, float]:
    """Quantiles of a mixture, and the largest distance of 199 independent samples of 2000 from them."""
    x, cell = grid(UNEVEN)
    cdf = UNEVEN.log_prob(x).exp().cumsum(0) * cell
    levels = (torch.arange(20_000, dtype=torch.float64) + 0.5) / 20_000
    truth = x[torch.searchsorted(cdf, levels)]
    return truth, max(w1(draw(UNEVEN, 2000, i), truth) for i in range(199))


@STEPS
def test_oracle_samples_are_exact_for_any_number_of_steps(n: int) -> None:
    # False alarms: 1e-6 for Kolmogorov-Smirnov; 1/200 for W1, held against the largest of 199 fresh samples.
    with seeded(7, "samples", n):
        x = AncestralSampler().sample(oracle(UNEVEN), 20_000, n_steps=n, dtype=torch.float64)
    assert x.shape == (20_000, 1)
    assert x.dtype == torch.float64
    weights, normals = (
        torch.tensor([0.1, 0.3, 0.6]),
        torch.distributions.Normal(
            torch.tensor(UNEVEN.means, dtype=torch.float64), torch.tensor(UNEVEN.std, dtype=torch.float64)
        ),
    )
    ordered = x[:, 0].sort().values
    assert ks_against(ordered, (weights * normals.cdf(ordered.unsqueeze(1))).sum(1)) <= 1
    truth, floor = sampling_noise()
    assert w1(x[:2000], truth) <= floor


@pytest.mark.parametrize("n", [1, 5])
def test_oracle_samples_of_the_plane_have_its_moments(n: int) -> None:
    with seeded(8, "plane", n):
        x = AncestralSampler().sample(oracle(PLANE), 100_000, n_steps=n, dtype=torch.float64)
    points, cell = grid(PLANE)
    p = PLANE.log_prob(points).exp().unsqueeze(1) * cell
    for function in (lambda u: u, torch.square, lambda u: torch.sin(7 * u) * u.flip(1)):
        assert z_of_mean(function(x), (p * function(points)).sum(0)) <= Z


@MIXTURES
@pytest.mark.parametrize("n", [1, 2, 5, 20, None])
def test_oracle_pays_the_entropy_for_any_number_of_steps(mixture: GaussianMixture, n: int | None) -> None:
    # With the exact posterior L(x) = -ln p(x), for every x and n: its mean is the entropy, and -ln p(x) is the control
    # variate that makes the standard error small.  4 standard errors: a false-alarm rate of 6e-5 each.
    x = draw(mixture, 100_000, "entropy")
    with seeded(9, "entropy", str(n)):
        price = oracle(mixture).nll(x, n_steps=n)
    assert price.shape == (100_000,)
    surplus = price + log_density(mixture, x)
    assert z_of_mean(surplus, 0.0) <= 4
    assert surplus.std() / math.sqrt(100_000) <= 0.04  # so that a lost factor or term shows
    points, cell = grid(mixture)
    log_p = mixture.log_prob(points)
    assert z_of_mean(price, float(-(log_p.exp() * log_p).sum() * cell)) <= 4


def test_oracle_pays_the_surprise_of_each_point() -> None:
    # The same law at single points, the likely and the unlikely.
    for i, value in enumerate((-0.75, 0.0, 0.4)):
        with seeded(10, i):
            price = oracle(BLOG).nll(torch.full((100_000, 1), value, dtype=torch.float64), n_steps=3)
        expected = -log_density(BLOG, torch.tensor([[value]], dtype=torch.float64))
        assert z_of_mean(price, expected) <= Z


@pytest.mark.parametrize("n", [3, None])
def test_likelihood_bound_is_the_entropy_of_the_data(n: int | None) -> None:
    x = draw(UNEVEN, 500, "bound")
    bound = likelihood_bound(oracle(UNEVEN), Batch(x), n_steps=n, draws=200, seed=1)
    expected = float(-log_density(UNEVEN, x).mean())
    # 0.01 is the standard error of the 100,000 draws; that of the bound counts the 500 examples too.
    assert abs(bound.total.value - expected) <= Z * 0.01
    assert 0.01 <= bound.total.stderr <= 0.1
    assert bound.total.value == pytest.approx(bound.messages.value + bound.reconstruction.value, rel=1e-12)
    assert bound.bits_per_dimension.value == pytest.approx(bound.total.value / math.log(2), rel=1e-12)
    assert (bound.n_steps, bound.dimensions, bound.examples, bound.draws) == (n, 1, 500, 200)
    again = likelihood_bound(oracle(UNEVEN), Batch(x), n_steps=n, draws=200, seed=1)
    assert again == bound


def test_continuous_time_loss_of_the_oracle_is_the_floor_of_the_blog() -> None:
    # I-MMSE: L^inf = I(X; theta_1), 3.0148 nats at sigma_1 = 0.01 by quadrature, and no network can be below.
    x = draw(BLOG, 200_000, "floor")
    with seeded(11, "floor"):
        loss = oracle(BLOG, 0.01).loss(x)
    assert z_of_mean(loss, 3.0148) <= Z
    assert loss.std() / math.sqrt(200_000) <= 0.02


def test_points_are_the_draws_of_the_blog_post() -> None:
    torch.manual_seed(3407)
    expected = torch.cat([mean + 0.05 * torch.randn(1000, 1) for mean in (-0.75, -0.25, 0.25, 0.75)])
    assert torch.equal(BLOG.split("all").x, expected)
    assert BLOG.site_shape == (1,)
    assert PLANE.split("all").x.shape == (180, 2)


@MIXTURES
def test_splits_are_disjoint_and_fixed_by_the_seed(mixture: GaussianMixture) -> None:
    everything, train, valid, test = (mixture.split(name).x for name in ("all", "train", "valid", "test"))
    assert len(valid) == round(0.1 * len(everything))
    assert sorted(train.tolist() + valid.tolist()) == sorted(everything.tolist())
    rows = torch.cat(split_rows(len(everything), 0.1, mixture.seed))
    assert torch.equal(rows.sort().values, torch.arange(len(everything)))
    # fresh points; a few of 4000 coincide with others in float32
    assert torch.isin(test[:, 0], everything[:, 0]).float().mean() <= 0.01
    for name, part in (("train", train), ("valid", valid), ("test", test)):
        torch.rand(1)  # the state of the caller's generator does not matter
        assert torch.equal(mixture.split(name).x, part)
        assert not torch.equal(GaussianMixture(seed=1).split(name).x, BLOG.split(name).x)


@pytest.mark.parametrize(("n", "fraction"), [(1, 0.5), (4, 0.1), (4, 0.9)])
def test_a_split_without_rows_is_refused(n: int, fraction: float) -> None:
    with pytest.raises(DataError, match="leaves no"):
        split_rows(n, fraction, 0)


def test_entropy_by_quadrature_is_that_by_draws() -> None:
    for mixture in (BLOG, UNEVEN):
        exact, error = mixture.entropy()
        assert error <= 1e-12
        assert z_of_mean(-log_density(mixture, draw(mixture, 200_000, "mc")), exact) <= Z
    exact, error = PLANE.entropy()
    points, cell = grid(PLANE)
    log_p = PLANE.log_prob(points)
    assert 0 < error <= 0.005
    assert abs(exact + float((log_p.exp() * log_p).sum() * cell)) <= Z * error


@pytest.mark.parametrize("std", [1e-8, 1e-6, 1e-3])
@pytest.mark.parametrize(
    "means", [(0.1, 0.9, -7.0), ((0.1, 0.0), (0.9, 1.0), (-7.0, 2.0)), ((1.0,) * 40, (1.5,) * 40)], ids=len
)
def test_entropy_of_separate_modes_is_the_closed_form(means: tuple[Any, ...], std: float) -> None:
    stds, counts = (std, 0.01, std)[: len(means)], (1, 3, 6)[: len(means)]
    mixture = GaussianMixture(means=means, std=stds, count=counts)
    (d,), total = mixture.site_shape, sum(counts)
    alone = (
        0.5 * d * math.log(2 * math.pi * math.e * s**2) - math.log(n / total) for s, n in zip(stds, counts, strict=True)
    )
    expected = sum(n / total * nats for nats, n in zip(alone, counts, strict=True))
    exact, error = mixture.entropy(samples=20_000)
    assert error <= 1e-6
    assert abs(exact - expected) <= error + 1e-12 * abs(expected)


@pytest.mark.parametrize("means", [(0.0, 0.0), (0.0, 0.01), ((0.0, 0.0), (0.3, 0.3))], ids=str)
def test_entropy_of_a_narrow_mode_in_a_broad_one(means: tuple[Any, ...]) -> None:
    mixture = GaussianMixture(means=means, std=(1e-3, 1.0), count=(40, 60))
    exact, error = mixture.entropy()
    assert error <= 1e-3
    nats = -mixture.log_prob(draw(mixture, 200_000, "narrow"))
    assert abs(float(nats.mean()) - exact) <= Z * math.hypot(error, float(nats.std()) / math.sqrt(200_000))


def test_mode_shares_and_facts_are_those_of_the_definition() -> None:
    shares = BLOG.mode_shares(torch.tensor([[-0.76], [-0.5001], [-0.4999], [0.3], [9.0]]))
    assert shares == pytest.approx({"-0.75": 0.4, "-0.25": 0.2, "0.25": 0.2, "0.75": 0.2}, rel=1e-6)  # float32
    assert sum(PLANE.mode_shares(PLANE.split("all").x).values()) == pytest.approx(1, rel=1e-6)
    assert list(BLOG.mode_shares(BLOG.split("all").x).values()) == pytest.approx([0.25] * 4, abs=1e-9)
    x = draw(PLANE, 200_000, "variance")
    assert z_of_mean(x.square().mean(1), PLANE.metadata["data_variance"]) <= Z
