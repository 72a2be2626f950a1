"""Toy densities in the plane: densities against quadrature, closed forms and draws."""

from __future__ import annotations

import math

import mpmath
import numpy as np
import pytest
import torch
from scipy.integrate import quad
from scipy.stats import chi2
from torch import Tensor

from bfn_toolkit import ConfigError
from bfn_toy2d import SHAPES, Toy2d
from tests.significance import Z, z_of_mean

N = 20_000
PER_CELL = 12  # points each way, of a cell: the density there is known to 0.3 %, and its counts to 5 %
CASES = [Toy2d(shape, count=N, noise=noise) for shape in SHAPES for noise in (0.05, 0.3)]
NOISELESS = Toy2d("checkerboard", count=N, noise=0.0)


def grid(dataset: Toy2d, cells: int, per_cell: int) -> tuple[Tensor, Tensor]:
    """Points (n^2, 2) in the middles of a fine grid, by cells of a coarse one, and the probability of each."""
    reach = 1.0 + 7.0 * dataset.noise
    n = cells * per_cell
    axis = ((torch.arange(n, dtype=torch.float64) + 0.5) * 2.0 / n - 1.0) * reach
    x = torch.cartesian_prod(axis, axis)
    return x, dataset.log_prob(x).exp() * (2.0 * reach / n) ** 2


@pytest.mark.parametrize("dataset", CASES, ids=str)
def test_density_has_mass_one_mean_zero_and_the_stated_variance(dataset: Toy2d) -> None:
    x, mass = grid(dataset, 1, math.ceil(4.0 * (1.0 + 7.0 * dataset.noise) / dataset.noise))
    # The sum over a grid half a noise apart is exact to 1e-8; the variance is rounded to six digits.
    assert abs(float(mass.sum()) - 1.0) <= 1e-7
    assert float((x * mass.unsqueeze(1)).sum(0).abs().max()) <= 1e-7
    variance = float((x.square().mean(1) * mass).sum())
    assert abs(variance - dataset.metadata["data_variance"]) <= 1e-6


@pytest.mark.parametrize("dataset", CASES, ids=str)
def test_draws_have_the_density(dataset: Toy2d) -> None:
    """Counts in 256 cells against the density's mass: chi squared, p > 1e-6 for N = 20,000."""
    cells = 16
    x, mass = grid(dataset, cells, PER_CELL)
    reach = float(x.abs().max()) * (1.0 + 1.0 / (cells * PER_CELL - 1))

    def cell(points: Tensor) -> Tensor:
        index = ((points.double() / reach + 1.0) * cells / 2).floor().long().clamp(0, cells - 1)
        return index[:, 0] * cells + index[:, 1]

    expected = torch.zeros(cells**2, dtype=torch.float64).index_add_(0, cell(x), mass) * N
    counts = torch.bincount(cell(dataset.split("all").x), minlength=cells**2)
    rare = expected < 10.0
    counts = torch.cat([counts[~rare], counts[rare].sum().reshape(1)])
    expected = torch.cat([expected[~rare], expected[rare].sum().reshape(1)])
    statistic = float(((counts - expected).square() / expected.clamp_min(1.0)).sum())
    assert chi2.sf(statistic, len(counts) - 1) > 1e-6


@pytest.mark.parametrize("dataset", [*CASES, NOISELESS], ids=str)
def test_entropy_is_the_mean_price_of_fresh_points(dataset: Toy2d) -> None:
    entropy, error = dataset.entropy()
    assert error == 0.0
    price = -dataset.log_prob(dataset.split("test").x.double())
    if dataset.noise == 0.0:
        assert entropy == math.log(2.0)  # the area of the squares
        assert float((price - entropy).abs().max()) <= 1e-14
    else:
        assert z_of_mean(price, entropy) < Z


def test_rings_are_bessel_functions() -> None:
    s = 0.1
    x = torch.tensor([[0.0, 0.0], [0.4, 0.0], [0.3, -0.6], [1.2, 1.2]], dtype=torch.float64)
    rho = x.norm(dim=1)
    terms = []
    for radius in (0.4, 0.8):
        bessel = torch.special.i0e(rho * radius / s**2).log()
        terms.append(bessel - (rho - radius).square() / (2 * s**2) - math.log(4 * math.pi * s**2))
    # 1e-9 is what log_prob states
    assert torch.allclose(Toy2d("rings", noise=s).log_prob(x), torch.stack(terms).logsumexp(0), rtol=0, atol=1e-9)


def curves(shape: str, u: float) -> list[complex]:
    if shape == "moons":
        moon = 0.6 * complex(math.cos(math.pi * u) - 0.5, math.sin(math.pi * u) - 0.25)
        return [moon, -moon]
    if shape == "pinwheel":
        r = 0.2 + 0.7 * u
        return [r * np.exp(1j * (2 * r + 2 * math.pi * j / 5)) for j in range(5)]
    r = math.sqrt(0.01 + 0.8 * u)
    return [r * np.exp(1j * (3.5 * math.pi * r + math.pi * j)) for j in range(2)]


@pytest.mark.parametrize("shape", ["moons", "pinwheel", "spirals"])
def test_density_of_curves_is_their_integral(shape: str) -> None:
    s = 0.1

    def integrand(u: float, point: complex) -> float:
        exponents = [-(abs(point - c) ** 2) / (2 * s**2) for c in curves(shape, u)]
        return sum(map(math.exp, exponents)) / (len(exponents) * 2 * math.pi * s**2)

    points = [0.0, 0.5 + 0.1j, -0.3 + 0.6j, 0.8 - 0.8j]
    expected = [math.log(quad(integrand, 0, 1, (p,), epsabs=0, epsrel=1e-10, limit=500)[0]) for p in points]
    x = torch.tensor([[p.real, p.imag] for p in map(complex, points)], dtype=torch.float64)
    found = Toy2d(shape, noise=s).log_prob(x)
    assert torch.allclose(found, torch.tensor(expected, dtype=torch.float64), rtol=0, atol=1e-8)  # 1e-10 of quad


def test_checkerboard_is_precise_far_away() -> None:
    s, point = 0.05, (1.5, -1.9)
    with mpmath.workdps(60):
        total = mpmath.mpf(0)
        for i in range(4):
            for j in range(4):
                if (i + j) % 2 == 0:
                    sides = [
                        mpmath.ncdf((mpmath.mpf(k + 1) / 2 - 1 - p) / mpmath.mpf(s))
                        - mpmath.ncdf((mpmath.mpf(k) / 2 - 1 - p) / mpmath.mpf(s))
                        for k, p in zip((i, j), map(mpmath.mpf, point), strict=True)
                    ]
                    total += sides[0] * sides[1] / 2
        expected = float(mpmath.log(total))
    found = float(Toy2d("checkerboard", noise=s).log_prob(torch.tensor([point], dtype=torch.float64)))
    assert expected < -200  # exp of which is 0 in float32
    assert abs(found - expected) <= 1e-11 * abs(expected)  # s and the point are rounded, at 38 standard deviations


def test_noiseless_checkerboard_has_eight_squares() -> None:
    x = torch.tensor([[-0.9, -0.9], [-0.9, -0.4], [0.1, 0.1], [0.9, 0.9], [0.9, -0.9], [1.1, 0.9]])
    expected = torch.tensor([-math.log(2.0), -math.inf, -math.log(2.0), -math.log(2.0), -math.inf, -math.inf])
    assert torch.allclose(NOISELESS.log_prob(x), expected, rtol=0, atol=1e-6)  # float32


@pytest.mark.parametrize("shape", SHAPES)
def test_density_keeps_the_dtype(shape: str) -> None:
    x = torch.tensor([[0.3, 0.4], [-0.7, 0.1]], dtype=torch.float64)
    exact, rounded = (Toy2d(shape).log_prob(x.to(dtype)) for dtype in (torch.float64, torch.float32))
    assert (exact.dtype, rounded.dtype) == (torch.float64, torch.float32)
    # float32: a distance over a noise, squared, is up to 100 here
    assert torch.allclose(rounded.double(), exact, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize(("shape", "pieces"), [("moons", 2), ("rings", 2), ("checkerboard", 8), ("pinwheel", 5)])
def test_pieces_are_equally_probable(shape: str, pieces: int) -> None:
    dataset = Toy2d(shape, count=N)
    shares = dataset.mode_shares(dataset.split("all").x)
    assert list(shares) == [str(j) for j in range(pieces)]
    assert sum(shares.values()) == pytest.approx(1.0)
    bound = Z * math.sqrt((1 - 1 / pieces) / pieces / N)
    assert all(abs(share - 1 / pieces) < bound for share in shares.values())


def test_the_test_split_is_fresh() -> None:
    everything, test = (Toy2d(count=50).split(name).x for name in ("all", "test"))
    assert everything.shape == test.shape
    assert not (everything.unsqueeze(1) == test).all(-1).any()


@pytest.mark.parametrize(("shape", "noise"), [("moons", 0.0), ("moons", 0.01), ("rings", math.nan), ("rings", 1.5)])
def test_noise_is_within_what_the_density_resolves(shape: str, noise: float) -> None:
    with pytest.raises(ConfigError, match=r"0\.02 <= noise <= 1"):
        Toy2d(shape, noise=noise)


def test_moons_may_not_be_without_noise() -> None:
    with pytest.raises(ConfigError, match='shape="checkerboard"'):
        Toy2d("moons", noise=0.0)
