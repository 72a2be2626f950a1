"""The density by the probability flow: against densities that are known."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from bfn_categorical import Categorical
from bfn_gaussian import Gaussian
from bfn_gaussian_mixture import GaussianMixture
from bfn_siren import Siren
from bfn_toolkit import BFN, ConfigError, Delta, GradientGuided, ModelWrapper, Oracle, Output, log_density, seeded
from bfn_toolkit.testing.toys import Toy

DOUBLE = torch.float64
LINE = GaussianMixture()
UNEQUAL = GaussianMixture(
    means=((-0.5, -0.5, 0.1, -0.5, 0.2), (0.5, 0.2, -0.3, 0.8, 0.0)), std=(0.05, 0.3), count=(1000, 3000)
)
FAR = GaussianMixture(means=(10.0,), std=3.0)


def model(data: GaussianMixture, sigma_1: float = 0.01) -> Oracle:
    return Oracle(Gaussian(data.site_shape, sigma_1=sigma_1), data.exact_output)


def smoothed(data: GaussianMixture, sigma_1: float) -> GaussianMixture:
    """The mixture after the noise of the last belief, 1 / beta(1)."""
    stds = data.std if isinstance(data.std, tuple) else (data.std,) * len(data.means)
    wider = tuple(math.sqrt(std**2 + 1.0 / (sigma_1**-2 - 1.0)) for std in stds)
    return GaussianMixture(means=data.means, std=wider, count=data.count)


@pytest.mark.parametrize("dtype", [torch.float32, DOUBLE])
@pytest.mark.parametrize(
    ("data", "sigma_1"), [(LINE, 0.01), (LINE, 0.05), (UNEQUAL, 0.01), (UNEQUAL, 0.05), (FAR, 0.01)]
)
def test_the_density_of_the_exact_model_is_that_of_the_data(
    data: GaussianMixture, sigma_1: float, dtype: torch.dtype
) -> None:
    x = data.split("test").x[:200].to(dtype)
    found = log_density(model(data, sigma_1), x)
    error = (found.value - smoothed(data, sigma_1).log_prob(x.double())).abs()
    assert bool((error <= found.error).all())
    assert float(found.error.max()) <= 1e-3
    assert found.value.dtype == found.error.dtype == DOUBLE
    assert found.evaluations < 200


@pytest.mark.parametrize("tolerance", [1e-2, 1e-5])
def test_the_error_keeps_to_the_tolerance(tolerance: float) -> None:
    x = UNEQUAL.split("test").x[:100].double()
    found = log_density(model(UNEQUAL), x, tolerance=tolerance)
    error = (found.value - smoothed(UNEQUAL, 0.01).log_prob(x)).abs()
    assert float(found.error.max()) <= tolerance
    assert float(error.max()) <= tolerance
    assert float(error.max()) > 1e-5 * tolerance  # it is not far more precise than asked


def test_a_row_does_not_depend_on_the_others() -> None:
    x = torch.tensor([[0.25], [0.5], [9.0]], dtype=DOUBLE)
    together = log_density(model(LINE), x)
    for i in range(3):
        alone = log_density(model(LINE), x[i : i + 1])
        assert float((together.value[i] - alone.value).abs()) < 1e-9 * float(alone.value.abs())


def test_atoms_become_as_wide_as_the_last_noise() -> None:
    toy = Toy.of(Gaussian((2,), sigma_1=0.1))
    variance = 1.0 / (0.1**-2 - 1.0)
    with seeded(0, "atoms"):
        x = toy.sample(50) + math.sqrt(variance) * torch.randn(50, 2, dtype=DOUBLE)
    square = (x.unsqueeze(1) - toy.values).square().sum(-1)
    exact = (toy.weights.log() - 0.5 * square / variance).logsumexp(-1) - math.log(2.0 * math.pi * variance)
    found = log_density(toy.oracle, x)
    assert bool(((found.value - exact).abs() <= found.error).all())


def test_a_constant_output_has_the_density_of_the_last_noise() -> None:
    constant = Oracle(Gaussian(sigma_1=0.1), lambda params: Delta(torch.full_like(params.mean, 0.5)))
    x = torch.linspace(0.2, 0.8, 7, dtype=DOUBLE).unsqueeze(1)
    exact = 0.5 * math.log(99.0 / (2.0 * math.pi)) - 0.5 * 99.0 * (x.squeeze(1) - 0.5).square()
    assert torch.allclose(log_density(constant, x).value, exact, rtol=1e-9)


class Hidden(ModelWrapper):
    """A model that hides its gradient."""

    def output(self, params: Any, t: Tensor, condition: Any = None) -> Output:
        with torch.no_grad():
            return super().output(params, t, condition)


class HalfHidden(ModelWrapper):
    """A model that hides the gradient of a part of its output."""

    def output(self, params: Any, t: Tensor, condition: Any = None) -> Output:
        mean = super().output(params, t, condition).mean
        return Delta(0.5 * mean + 0.5 * mean.detach())


@pytest.mark.parametrize("hide", [Hidden, HalfHidden])
def test_a_gradient_that_is_hidden_is_refused(hide: type[ModelWrapper]) -> None:
    x = LINE.split("test").x[:20]
    with pytest.raises(ConfigError, match=rf"that of {hide.__name__} is not the slope of its values; take torch.no_gr"):
        log_density(hide(model(LINE)), x)


def test_an_output_that_draws_at_random_is_refused() -> None:
    network = nn.Sequential(nn.Linear(1, 16), nn.Dropout(0.5), nn.Linear(16, 1))

    class Dropping(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.network = network

        def forward(self, features: Tensor, t: Tensor) -> Tensor:
            return self.network(features)

    with seeded(0, "dropout"):
        bfn = BFN(Gaussian(), Dropping())
        with pytest.raises(ConfigError, match=r"call eval\(\) if it draws at random"):
            log_density(bfn.train(), torch.linspace(-1, 1, 20).unsqueeze(1))
        assert bool(log_density(bfn.eval(), torch.linspace(-1, 1, 20).unsqueeze(1)).value.isfinite().all())


def test_guidance_gives_the_same_with_and_without_gradients() -> None:
    exact = Oracle(Gaussian(), lambda params: Delta(LINE.exact_output(params).mean))
    guided = GradientGuided(exact, lambda x: 2.0 * x[:, 0], data_variance=0.5)
    params = exact.family.prior(3, dtype=DOUBLE)
    params.mean.requires_grad_()
    moved = guided.output(params, torch.zeros(())).mean
    with torch.no_grad():
        again = guided.output(params, torch.zeros(())).mean
    assert torch.equal(moved, again)
    assert torch.allclose(moved, LINE.exact_output(params).mean + 2.0 * 0.5)


def test_random_directions_estimate_the_trace() -> None:
    with seeded(0, "density"):
        bfn = BFN(Gaussian(site_shape=(3,), sigma_1=0.1), Siren(width=16))
        x = 0.3 * torch.randn(20, 3)
        exact = log_density(bfn, x)
        estimated = log_density(bfn, x, probes=40)
    z = (estimated.value - exact.value) / estimated.error
    assert float(z.abs().max()) < 5
    assert float(estimated.error.max()) < 1.0


def test_a_density_integrates_to_one() -> None:
    """Of a network that was never trained: the flow makes a density of any."""
    with seeded(1, "density"):
        bfn = BFN(Gaussian(sigma_1=0.1), Siren(width=16)).double()
    x = torch.linspace(-6.0, 6.0, 1201, dtype=DOUBLE).reshape(-1, 1)
    value = log_density(bfn, x).value
    assert float(torch.trapezoid(value.exp(), x[:, 0])) == pytest.approx(1.0, abs=2e-3)


def test_it_works_under_inference_mode() -> None:
    x = LINE.split("test").x[:5]
    with torch.inference_mode():
        inside = log_density(model(LINE), x).value
    assert torch.equal(inside, log_density(model(LINE), x).value)


def test_too_few_evaluations_are_told() -> None:
    x = LINE.split("test").x[:5]
    with pytest.raises(ConfigError, match=r"5 of 5 log-densities .* write max_evaluations=400, or tolerance=0.01"):
        log_density(model(LINE), x, max_evaluations=40)


@pytest.mark.parametrize("tolerance", [0.0, -1.0, 0.1, math.nan])
def test_a_tolerance_out_of_range_is_refused(tolerance: float) -> None:
    with pytest.raises(ConfigError, match=r"tolerance must be above 0 and at most 0\.01 nats"):
        log_density(model(LINE), torch.zeros(1, 1), tolerance=tolerance)


def test_other_data_are_refused_with_what_to_use() -> None:
    bfn = BFN(Categorical(classes=3), Siren(width=8))
    with pytest.raises(ConfigError, match=r"Categorical has no density.*use the bound"):
        log_density(bfn, torch.zeros(2, 1, dtype=torch.int64))


def test_the_number_may_be_the_whole_example() -> None:
    line = Oracle(Gaussian(site_shape=()), lambda params: Delta(0.5 * params.mean))
    column = Oracle(Gaussian(site_shape=(1,)), lambda params: Delta(0.5 * params.mean))
    x = torch.linspace(-1.0, 1.0, 5, dtype=DOUBLE)
    assert torch.allclose(log_density(line, x).value, log_density(column, x.unsqueeze(1)).value, rtol=1e-12)
