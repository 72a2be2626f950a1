"""Angles with a known density: quadrature, closed forms and draws."""

from __future__ import annotations

import math

import pytest
import torch
from scipy.special import i0, i1
from torch import Tensor

from bfn_toolkit import ConfigError, Experiment
from bfn_torus import Torus
from tests.significance import Z, ks_against, z_of_mean

CIRCLE = Torus(means=(0.0, 2.0), concentration=(0.5, 9.0), count=(9000, 11_000))
PLANE = Torus(count=(8000, 6000, 2000))
SPACE = Torus(means=((0.0, 1.0, -3.0), (2.0, -1.0, 0.5)), concentration=(0.0, 8.0), count=(6000, 4000))
DATASETS = [CIRCLE, PLANE, SPACE]


def grid(d: int, n: int) -> tuple[Tensor, float]:
    circle = torch.arange(n, dtype=torch.float64) * (2 * math.pi / n) - math.pi
    return torch.cartesian_prod(*[circle] * d).reshape(-1, d), (2 * math.pi / n) ** d


@pytest.mark.parametrize("dataset", DATASETS, ids=str)
def test_density_is_its_formula_and_has_mass_one(dataset: Torus) -> None:
    x, cell = grid(*dataset.site_shape, 64)  # exact for concentrations up to 20 to 1e-9, by periodicity
    k = len(dataset.means)
    means = torch.tensor(dataset.means, dtype=torch.float64).reshape(k, -1)
    density = torch.zeros(len(x), dtype=torch.float64)
    for mean, kappa, count in zip(means, dataset.concentration, dataset.count, strict=True):
        factor = torch.exp(kappa * (x - mean).cos()) / (2 * math.pi * i0(kappa))
        density += count / sum(dataset.count) * factor.prod(1)
    assert torch.allclose(dataset.log_prob(x), density.log(), rtol=1e-12, atol=1e-12)  # sums of a hundred eps
    assert abs(float(density.sum()) * cell - 1.0) <= 1e-9
    assert abs(float(dataset.log_prob(x).exp().sum()) * cell - 1.0) <= 1e-9


@pytest.mark.parametrize("dataset", DATASETS, ids=str)
def test_entropy_is_the_mean_price_of_fresh_points(dataset: Torus) -> None:
    entropy, error = dataset.entropy()
    x = dataset.split("test").x.double()
    price = -dataset.log_prob(x)
    stderr = float(price.std()) / math.sqrt(len(x))
    assert abs(float(price.mean()) - entropy) < Z * math.hypot(stderr, error)
    assert (error > 0) == (dataset.site_shape == (3,))


def test_entropy_in_three_dimensions_is_that_of_quadrature() -> None:
    x, cell = grid(3, 48)
    log_p = SPACE.log_prob(x)
    expected = -float((log_p.exp() * log_p).sum()) * cell
    entropy, error = SPACE.entropy(samples=50_000)
    assert 0 < error < 0.02
    assert abs(entropy - expected) < Z * error


@pytest.mark.parametrize("kappa", [0.0, 1.0, 500.0])
def test_entropy_of_one_component_is_the_closed_form(kappa: float) -> None:
    closed = math.log(2 * math.pi * i0(kappa)) - kappa * i1(kappa) / i0(kappa)
    for d in (1, 2):
        entropy, _ = Torus(means=((0.3,) * d,), concentration=kappa, count=10).entropy()
        assert abs(entropy - d * closed) <= 1e-9  # of the quadrature, and kappa eps from the closed form


def test_draws_have_the_density() -> None:
    """Kolmogorov-Smirnov on the circle at a false-alarm rate of 1e-6, N = 20,000; else moments."""
    x = CIRCLE.split("all").x.double().flatten().sort().values
    axis, step = grid(1, 4096)
    cdf = CIRCLE.log_prob(axis).exp().cumsum(0) * step
    at = torch.searchsorted(axis.flatten(), x).clamp_max(len(axis) - 1)
    assert ks_against(x, cdf[at]) < 1.0
    for dataset in (PLANE, SPACE):
        x, grid_x = dataset.split("all").x.double(), grid(*dataset.site_shape, 48)
        mass = dataset.log_prob(grid_x[0]).exp() * grid_x[1]
        for moment in (lambda v: v.cos(), lambda v: v.sin(), lambda v: (v[:, :1] - v[:, 1:]).cos()):
            expected = (moment(grid_x[0]) * mass.unsqueeze(1)).sum(0)
            # Counts are fixed for each component, so the true error is below the one of independent draws.
            assert z_of_mean(moment(x), expected) < Z


def test_angles_are_in_one_turn_and_dependent() -> None:
    x = PLANE.split("train").x
    assert bool(((x >= -math.pi) & (x < math.pi)).all())
    a, b = x.double().unbind(1)
    dependence = ((a - b).cos() - (a.cos().mean() * b.cos().mean() + a.sin().mean() * b.sin().mean())).mean()
    assert abs(float(dependence)) > 0.05  # 0 for independent angles, with a standard error of 0.006


def test_modes_are_counted() -> None:
    shares = Torus(concentration=200.0, count=(10, 30, 60)).mode_shares(
        Torus(concentration=200.0, count=(10, 30, 60)).split("all").x
    )
    assert list(shares.values()) == pytest.approx([0.1, 0.3, 0.6], abs=1e-6)


def test_density_has_period_two_pi_and_keeps_the_dtype() -> None:
    x = torch.tensor([[3.0, -2.0], [0.1, 0.2]], dtype=torch.float64)
    assert torch.allclose(PLANE.log_prob(x), PLANE.log_prob(x + 2 * math.pi), rtol=0, atol=1e-12)
    assert PLANE.log_prob(x.float()).dtype == torch.float32
    assert torch.allclose(PLANE.log_prob(x.float()).double(), PLANE.log_prob(x), rtol=0, atol=1e-4)  # 20 eps of it


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"means": ()}, "at least one"),
        ({"means": ((0.0, 1.0), (0.0,))}, "equal length"),
        ({"means": (math.nan,), "concentration": 1.0, "count": 3}, "finite"),
        ({"concentration": -1.0}, "0 <= concentration"),
        ({"concentration": math.nan}, "0 <= concentration"),
        ({"count": (5, 5)}, "each of the 3 means"),
        ({"count": 0}, "1 <= count"),
    ],
)
def test_what_is_no_mixture_is_refused(wrong: dict[str, object], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        Torus(**wrong)


def test_the_recipe_is_for_angles() -> None:
    family = Experiment.from_mapping({"dataset": "torus"}, base="default").family
    assert (type(family).__name__, family.site_shape) == ("Circle", (2,))
