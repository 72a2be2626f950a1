"""The density by the probability flow: against densities that are known."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from bfn_categorical import Categorical
from bfn_gaussian import Gaussian
from bfn_gaussian_mixture import GaussianMixture
from bfn_siren import Siren
from bfn_toolkit import BFN, ConfigError, FlowModel, Output, log_density, seeded

DOUBLE = torch.float64


class Exact(FlowModel):
    """The posterior of a mixture, with gradients."""

    def __init__(self, family: Gaussian, data: GaussianMixture) -> None:
        super().__init__(family)
        self.data = data

    def output(self, params: Any, t: Tensor, condition: Any = None) -> Output:
        return self.data.exact_output(params)


def smoothed(data: GaussianMixture, sigma_1: float) -> GaussianMixture:
    """The mixture after the noise of the last belief, 1 / beta(1)."""
    return GaussianMixture(means=data.means, std=math.sqrt(data.std**2 + 1.0 / (sigma_1**-2 - 1.0)), count=data.count)


@pytest.mark.parametrize("sigma_1", [0.01, 0.05])
def test_the_density_of_the_exact_model_is_that_of_the_data(sigma_1: float) -> None:
    data = GaussianMixture()
    x = data.split("test").x[:200].double()
    found = log_density(Exact(Gaussian(sigma_1=sigma_1), data), x)
    error = (found.value - smoothed(data, sigma_1).log_prob(x)).abs()
    # Starting at t = 1e-4 costs 1.3e-4 nats on average at sigma_1 = 0.01 (it is linear in the start).
    assert float(error.mean()) < 5e-4
    assert bool((error <= 3.0 * found.error + 1e-4).all())


def test_the_error_is_told_where_steps_are_too_few() -> None:
    data = GaussianMixture()
    x = data.split("test").x[:100].double()
    model = Exact(Gaussian(), data)
    few, many = log_density(model, x, n_steps=12), log_density(model, x)
    off = (few.value - many.value).abs()
    assert float(off.max()) > 0.1
    assert float(few.error.max()) > 0.1
    assert float(few.error.mean()) > 10 * float(many.error.mean())


def test_random_directions_estimate_the_trace() -> None:
    with seeded(0, "density"):
        model = BFN(Gaussian(site_shape=(3,), sigma_1=0.1), Siren(width=16))
        x = 0.3 * torch.randn(20, 3)
        exact = log_density(model, x, n_steps=20)
        estimated = log_density(model, x, n_steps=20, probes=200)
    z = (estimated.value - exact.value) / estimated.error
    assert float(z.abs().max()) < 5
    assert float(estimated.error.max()) < 0.5


def test_a_density_integrates_to_one() -> None:
    """Of a network that was never trained: the flow makes a density of any."""
    with seeded(1, "density"):
        model = BFN(Gaussian(sigma_1=0.1), Siren(width=16)).double()
    x = torch.linspace(-6.0, 6.0, 1201, dtype=DOUBLE).reshape(-1, 1)
    value = log_density(model, x, n_steps=60).value
    assert float(torch.trapezoid(value.exp(), x[:, 0])) == pytest.approx(1.0, abs=2e-3)


def test_other_data_are_refused_with_what_to_use() -> None:
    model = BFN(Categorical(classes=3), Siren(width=8))
    with pytest.raises(ConfigError, match=r"Categorical has no density.*use the bound"):
        log_density(model, torch.zeros(2, 1, dtype=torch.int64))
