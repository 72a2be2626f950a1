"""Laws of binned normal mixtures: every number is that of the definition, wherever mean and scale may be."""

from __future__ import annotations

import math

import pytest
import scipy.special
import scipy.stats
import torch
from hypothesis import given, strategies as st
from torch import Tensor
from torch.distributions import Distribution

from bfn_toolkit import Binned, SiteNormalMixture, normal, seeded
from bfn_toolkit.binned_outputs import binned_mean, log_interval, log_ndtr
from significance import Z, ks_two_sample, z_of_mean
from strategies import dtypes, log_uniform

DOUBLE = torch.float64
N = 200_000
BINS = (2, 3, 4, 5, 7, 13, 16, 17, 33, 100, 256, 1024)


def one(mean: Tensor, scale: Tensor, bins: int) -> Binned:
    """One component: mean and scale of shape (B, *site)."""
    return Binned(SiteNormalMixture(mean.unsqueeze(-1) * 0, mean.unsqueeze(-1), scale.unsqueeze(-1)), bins)


def places(n: int = 4000) -> tuple[Tensor, Tensor]:
    """Means in [-3, 3], scales log-uniform in [1e-5, 20]."""
    with seeded(0, "places"):
        return torch.rand(n, dtype=DOUBLE) * 6 - 3, torch.exp(torch.rand(n, dtype=DOUBLE) * math.log(2e6) - 11.5)


def hard_places(bins: int) -> tuple[Tensor, Tensor]:
    """The same, and means around the ends and the middle at the scales where one form gives way to the other."""
    h, (mean, scale) = 2 / bins, places()
    near = torch.linspace(-5, 5, 501, dtype=DOUBLE) * h
    ratios = torch.tensor([1.1999999, 1.2000001, 1.25, 2.0], dtype=DOUBLE) * h
    means, scales = torch.meshgrid(torch.cat([near - 1, near, near + 1]), ratios, indexing="ij")
    return torch.cat([mean, means.flatten()]), torch.cat([scale, scales.flatten()])


def full_sum(mean: Tensor, scale: Tensor, bins: int) -> Tensor:
    """The definition: 1 - 1 / K - (2 / K) sum of F over the inner edges, written for the error function."""
    edges = torch.arange(1, bins, dtype=DOUBLE) * 2 / bins - 1
    return -torch.erf((edges - mean.unsqueeze(-1)) / (math.sqrt(2) * scale.unsqueeze(-1))).sum(-1) / bins


@pytest.mark.parametrize("bins", BINS)
def test_mean_in_constant_time_is_the_full_sum(bins: int) -> None:
    mean, scale = (v.requires_grad_() for v in hard_places(bins))
    found, expected = binned_mean(mean, scale, bins), full_sum(mean, scale, bins)
    exact = bins <= 16  # as documented
    assert ((found - expected).abs() <= (1e-12 if exact else 3e-7) * 2 / bins).all()
    slopes = (torch.autograd.grad(value.sum(), (mean, scale)) for value in (found, expected))
    for ours, sums in zip(*slopes, strict=True):
        # The slope itself is of size h / scale, which multiplies its rounding.
        assert ((ours - sums).abs() <= (1e-12 if exact else 1.1e-5) + 1e-14 / scale.square()).all()


@pytest.mark.parametrize("bins", BINS)
def test_mean_in_float32_is_that_of_float64(bins: int) -> None:
    mean, scale = (v.float() for v in hard_places(bins))
    exact = full_sum(mean.double(), scale.double(), bins)
    density = (2 / bins) / (scale.double() * math.sqrt(2 * math.pi))  # change of the result by that of the mean
    rounding = 4 * torch.finfo(torch.float32).eps * (1.0 + density * mean.double().abs())
    assert ((binned_mean(mean, scale, bins) - exact).abs() <= 3e-7 * 2 / bins + rounding).all()  # as documented


@pytest.mark.parametrize("bins", BINS)
def test_mean_without_a_gradient_is_the_same(bins: int) -> None:
    mean, scale = hard_places(bins)
    expected = binned_mean(mean, scale.requires_grad_(), bins).detach()
    with torch.no_grad():
        assert torch.equal(binned_mean(mean, scale, bins), expected)
        for rows in (scale >= 1.2 * 2 / bins, scale < 1.2 * 2 / bins):  # all scales on one side
            found = binned_mean(mean[rows], scale[rows], bins)
            assert torch.allclose(found, expected[rows], rtol=0.0, atol=1e-14)  # erf rounds by its place in a vector


@pytest.mark.parametrize("bins", BINS)
def test_mean_without_a_gradient_at_large_scales_is_the_full_sum(bins: int) -> None:
    h, (mean, scale) = 2 / bins, hard_places(bins)
    near = torch.linspace(-1.0, 1.0, 999, dtype=DOUBLE)
    mean, scale = torch.cat([mean, near, 1.0 + 20.0 * h * near]), torch.cat([scale, near * 0 + 9 * h, near * 0 + 9 * h])
    rows = scale >= 9 * h
    found, expected = binned_mean(mean[rows], scale[rows], bins), full_sum(mean[rows], scale[rows], bins)
    assert ((found - expected).abs() <= 3e-7 * h).all()
    single = binned_mean(mean[rows].float(), scale[rows].float().clamp_min(9 * h), bins)
    assert ((single - expected).abs() <= 3e-7 * h + 4 * torch.finfo(torch.float32).eps * (2.0 + mean[rows].abs())).all()


@given(st.floats(-3.0, 3.0), log_uniform(1e-4, 20.0), st.integers(2, 300))
def test_mean_is_odd_and_within_the_outermost_centres(mean: float, scale: float, bins: int) -> None:
    mean_, scale_ = torch.tensor([mean], dtype=DOUBLE), torch.tensor([scale], dtype=DOUBLE)
    found = binned_mean(mean_, scale_, bins)
    assert torch.allclose(found, -binned_mean(-mean_, scale_, bins), rtol=0, atol=6e-7 * 2 / bins)
    assert found.abs() <= 1 - 1 / bins + 1e-12


def quadrature(low: float, high: float) -> float:
    """ln of the integral of the normal density, by 400 Gauss-Legendre nodes relative to its largest value."""
    if low + high < 0:
        low, high = -high, -low
    nearest = max(low, 0.0)
    high = min(high, nearest + 40 / max(nearest, 1.0))  # beyond, nothing
    low = max(low, nearest - 40)
    nodes, weights = scipy.special.roots_legendre(400)
    z = torch.from_numpy(nodes).double() * (high - low) / 2 + (high + low) / 2
    density = torch.exp((nearest**2 - z.square()) / 2) * torch.from_numpy(weights).double()
    return math.log(float(density.sum()) * (high - low) / 2) - nearest**2 / 2 - 0.5 * math.log(2 * math.pi)


@given(st.floats(-60.0, 60.0), log_uniform(1e-4, 30.0), dtypes)
def test_log_probability_of_an_interval_is_its_integral(low: float, width: float, dtype: torch.dtype) -> None:
    a, b = torch.tensor(low, dtype=dtype), torch.tensor(low + width, dtype=dtype)
    if not a < b:
        return
    exact = quadrature(float(a), float(b))
    # Near 0 the result is the small rest of 1, known to a few roundings of 1.
    relative, absolute = (2e-5, 1e-6) if dtype == torch.float32 else (1e-8, 1e-13)
    if dtype == torch.float32:
        relative += (
            1e-7 * abs(low) / float(b - a) / max(1.0, abs(exact))
        )  # the width is known to a rounding of its ends
    assert abs(float(log_interval(a, b)) - exact) <= relative * abs(exact) + absolute


def test_log_probability_far_in_the_tail_where_distribution_functions_are_equal() -> None:
    # 256 bins, scale 1e-3 and 2e-3: four bins away, a difference of distribution functions is 0 even in float64.
    for scale in (1e-3, 2e-3):
        mean = torch.full((1, 1), 0.5 / 256, dtype=torch.float32)
        output = one(mean, torch.full((1, 1), scale), 256)
        x = output.centre(output.index(mean) + 4)
        low, high = ((float(x) + side / 256 - float(mean)) / scale for side in (-1, 1))
        assert abs(float(output.log_prob(x)) / quadrature(low, high) - 1) <= 1e-5
        assert quadrature(low, high) < -90


def test_gradients_of_log_probabilities_are_their_derivatives() -> None:
    low = torch.tensor([-40.0, -3.0, -1.0, -0.1, 0.5, 2.0, 30.0], dtype=DOUBLE).requires_grad_()
    for width in (3.0, 0.1, 1e-4):  # both forms
        assert torch.autograd.gradcheck(lambda a, width=width: log_interval(a, a + width), (low,), rtol=1e-5)
    z = torch.tensor([-1e8, -1e5, -1e3, -2.0, 0.0, 3.0, 1e5], requires_grad=True)
    (slope,) = torch.autograd.grad(log_ndtr(z).sum(), z)
    # phi / Phi, from the definition where it does not underflow, and -z far in the lower tail
    normal_law = scipy.stats.norm
    exact = [1e8, 1e5, 1000.001, *(normal_law.pdf(v) / normal_law.cdf(v) for v in (-2.0, 0.0, 3.0)), 0.0]
    assert torch.allclose(slope.double(), torch.tensor(exact, dtype=DOUBLE), rtol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, DOUBLE], ids=str)
@pytest.mark.parametrize("bins", [2, 16, 256])
def test_probabilities_add_up_to_one(bins: int, dtype: torch.dtype) -> None:
    mean, scale = (v.to(dtype).unsqueeze(1) for v in places(500))
    table = one(mean, scale, bins).table
    assert table.logits.shape == (500, 1, bins)
    total = torch.logsumexp(table.logits, -1)
    # Where an edge is rounded, mass moves between neighbours, and nowhere else.
    assert (total.abs() <= 16 * torch.finfo(dtype).eps).all()
    assert torch.isfinite(table.logits).all()


def mixture(n: int, bins: int = 8) -> Binned:
    """Two components at each of two sites, n times."""
    logits, means, scales = (
        torch.tensor(values, dtype=DOUBLE).expand(n, 2, 2)
        for values in ([[0.0, 0.5], [1.0, -1.0]], [[-0.6, 0.4], [0.9, -1.4]], [[0.2, 0.05], [0.5, 0.1]])
    )
    return Binned(SiteNormalMixture(logits, means, scales), bins)


def test_table_is_the_difference_of_distribution_functions() -> None:
    output = mixture(1, 5)
    edges = torch.tensor([-math.inf, -0.6, -0.2, 0.2, 0.6, math.inf], dtype=DOUBLE)
    normals = output.normals
    cdf = scipy.stats.norm.cdf((edges.reshape(-1, 1, 1, 1) - normals.means) / normals.scales)
    weights = (normals.logits.softmax(-1) * torch.from_numpy(cdf)).sum(-1).diff(dim=0)
    assert torch.allclose(output.table.logits.exp(), weights.movedim(0, -1), rtol=1e-10, atol=1e-15)
    assert torch.allclose(output.table.support, torch.tensor([-0.8, -0.4, 0.0, 0.4, 0.8], dtype=DOUBLE), rtol=1e-15)
    x = torch.tensor([[-0.35, 7.0]], dtype=DOUBLE)  # in the second bin, and beyond the last
    assert torch.allclose(output.log_prob(x).exp(), weights[1, 0, 0] * weights[4, 0, 1], rtol=1e-10)
    assert torch.equal(output.mode, output.table.mode)


def test_truncated_bins_are_those_of_draws_within_the_range() -> None:
    output, table = mixture(N), mixture(1).truncated
    with seeded(0, "truncated"):
        y = output.normals.sample()
    within = y.abs() <= 1
    for site in (0, 1):
        found = output.centre(output.index(y[:, site]))[within[:, site]]
        hits = (found.unsqueeze(-1) == table.support).double()
        weights = table.logits[0, site].softmax(-1)
        assert z_of_mean(hits[:, weights > 1e-4], weights[weights > 1e-4]) <= Z


def test_draws_have_their_probabilities_and_sites_are_independent() -> None:
    output, table = mixture(N), mixture(1).table
    with seeded(1, "bins"):
        x = output.sample()
    hits = (x.unsqueeze(-1) == table.support).double()
    assert (hits.sum(-1) == 1).all()  # every draw is a centre
    weights = table.logits[0].exp()
    assert z_of_mean(hits[..., weights.amin(0) > 1e-4], weights[:, weights.amin(0) > 1e-4]) <= Z
    assert z_of_mean(x, output.mean[0]) <= Z
    assert z_of_mean(x.prod(1), output.mean[0].prod()) <= Z


def test_mix_is_the_law_of_a_message_about_a_draw() -> None:
    output = mixture(N // 10)

    def kernel(x: Tensor) -> Distribution:
        return normal(x, torch.full((len(x),), 0.1, dtype=DOUBLE))

    with seeded(2, "bins"):
        direct, ancestral = output.mix(kernel).sample(), kernel(output.sample()).sample()
    for site in (0, 1):
        assert ks_two_sample(direct[:, site], ancestral[:, site]) <= 1


def test_expectation_is_the_sum_over_the_table() -> None:
    output = mixture(1)
    assert torch.allclose(output.expect(lambda x: x), output.mean, rtol=0, atol=3e-7 / 4)
    squares = output.table.logits.exp() @ output.table.support.square()
    assert torch.allclose(output.expect(lambda x: x * x), squares, rtol=1e-14)  # the same sum


@pytest.mark.parametrize("bins", [2, 8, 255, 256, 65_536])
def test_a_centre_is_in_its_bin(bins: int) -> None:
    output, index = mixture(1, bins), torch.arange(bins, dtype=torch.float32)
    assert torch.equal(output.index(output.centre(index)), index)
    assert output.index(torch.tensor([-1.0, 1.0, -9.0, 9.0])).tolist() == [0, bins - 1, 0, bins - 1]


@pytest.mark.parametrize("dtype", [torch.float32, DOUBLE], ids=str)
@pytest.mark.parametrize("bins", [2, 256])
def test_everything_is_finite_with_its_gradient(bins: int, dtype: torch.dtype) -> None:
    places = [-300.0, -1.0 - 2**-20, -1.0, -0.999, 0.0, 1 / 512, 0.3, 1.0, 300.0]
    mean, scale = torch.meshgrid(torch.tensor(places), torch.logspace(-9, 4, 27), indexing="ij")
    mean, scale = (v.to(dtype).reshape(1, -1).requires_grad_() for v in (mean, scale))
    output = one(mean, scale, bins)
    x = output.centre(torch.tensor([0.0, bins // 2, bins - 1], dtype=dtype)).reshape(3, 1).expand(3, mean.shape[1])
    price = torch.stack([output.log_prob(row.unsqueeze(0)) for row in x])
    for value in (output.mean, price, output.truncated.mean, output.sample()):
        assert value.dtype == dtype
        assert torch.isfinite(value).all()
    for value in (output.mean, price, output.truncated.mean):
        for gradient in torch.autograd.grad(value.sum(), (mean, scale), retain_graph=True):
            assert torch.isfinite(gradient).all()
