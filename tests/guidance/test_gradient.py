"""Laws of steering: it is Bayes' rule where that has a closed form, and nothing where nothing is said."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from bfn_categorical import Categorical
from bfn_gaussian import Gaussian, GaussianParams
from bfn_toolkit import (
    SDE1,
    AncestralSampler,
    ConfigError,
    Delta,
    Finite,
    GradientGuided,
    Guided,
    Oracle,
    ProductFamily,
    seeded,
)
from bfn_von_mises import VonMises
from every_family import draw, network, same
from significance import Z

NORMAL = Oracle(Gaussian((2,), sigma_1=0.05), lambda params: Delta(params.mean))  # of data from N(0, 1)


def measured(x: Tensor, sign: float = 1.0) -> Tensor:
    """Log-likelihood of 0.8 at the first site, measured with the deviation 0.3."""
    return -sign * (x[:, 0] - 0.8).square() / (2 * 0.3**2)


@pytest.mark.parametrize("rho", [1.0, 1.5, 30.0])
def test_a_measurement_gives_the_mean_of_the_gaussian_posterior(rho: float) -> None:
    mean = torch.tensor([[-0.4, 0.2]], dtype=torch.float64)
    params = GaussianParams(mean, torch.tensor([rho], dtype=torch.float64))
    steered = GradientGuided(NORMAL, measured).output(params, torch.tensor(0.5)).mean
    expected = (rho * -0.4 + 0.8 / 0.09) / (rho + 1 / 0.09)
    assert steered[0, 0].item() == pytest.approx(expected, rel=1e-14)  # some roundings of float64
    assert steered[0, 1] == mean[0, 1]


def test_samples_under_a_measurement_have_its_posterior() -> None:
    # N(0.7339, 0.2873^2): five standard errors, 0.01 and 3 % for 100 steps.
    with seeded(1, "measured"):
        x = GradientGuided(NORMAL, measured).sample(5000, n_steps=100, sampler=SDE1())
    precision = 1 + 1 / 0.09
    assert abs(float(x[:, 0].double().mean()) - 0.8 / 0.09 / precision) <= 0.01 + Z * 0.288 / math.sqrt(5000)
    assert abs(float(x[:, 0].double().std()) / precision**-0.5 - 1) <= 0.03 + Z / math.sqrt(10_000)
    assert abs(float(x[:, 1].double().mean())) <= 0.01 + Z / math.sqrt(5000)


def test_a_tilt_of_classes_is_exact() -> None:
    table = torch.tensor([[0.0, 1.0, -2.0], [0.5, 0.0, 3.0]], dtype=torch.float64)
    with seeded(2, "logits"):
        logits = torch.randn(4, 2, 3, dtype=torch.float64)
    model = Oracle(Categorical((2,), classes=3), lambda params: Finite(None, logits))
    output: Any = GradientGuided(model, lambda p: (p * table).sum((1, 2)), scale=0.7).output(None, torch.zeros(()))
    assert torch.allclose(output.logits.softmax(-1), (logits + 0.7 * table).softmax(-1), rtol=1e-14, atol=0)


@pytest.mark.parametrize("family", [Gaussian((2,)), Categorical((2,), classes=3)], ids=["real", "classes"])
def test_nothing_said_changes_nothing(family: Any) -> None:
    bfn = network(family)
    assert same(draw(GradientGuided(bfn, lambda x: x.flatten(1).sum(1), scale=0.0)), draw(bfn))
    assert same(draw(GradientGuided(bfn, lambda x: torch.zeros(len(x)))), draw(bfn))


def test_a_convex_likelihood_does_not_turn_the_step_round() -> None:
    params = GaussianParams(torch.zeros(1, 2), torch.ones(1))
    steered = GradientGuided(NORMAL, lambda x: measured(x, sign=-1.0)).output(params, torch.tensor(0.0)).mean
    assert steered[0, 0].item() == pytest.approx(-0.8 / 0.09, rel=1e-6)  # away from the value, by S g


def test_parts_are_steered_together_and_with_conditions() -> None:
    family = ProductFamily({"x": Gaussian((2,)), "k": Categorical((2,), classes=3)})
    bfn, label = network(family), torch.arange(30) % 3
    x = draw(
        GradientGuided(Guided(bfn, 1.0), lambda data: 50.0 * data["k"][..., 2].sum(1) - 5.0 * data["x"].sum(1)),
        {"label": label},
    )
    assert (x["k"] == 2).all()
    assert x["x"].mean() < draw(bfn, condition={"label": label})["x"].mean()


def test_outputs_that_cannot_be_steered_are_named() -> None:
    bfn = network(VonMises((2,), n_steps=6, beta_1=20.0))
    with pytest.raises(ConfigError, match="ChannelFamily, which VonMises is not"):
        draw(GradientGuided(bfn, lambda x: x.sum(1)))
    odd = Oracle(Gaussian((1,)), lambda params: "odd")  # type: ignore[arg-type, return-value]
    with pytest.raises(ConfigError, match="found str"):
        GradientGuided(odd, lambda x: x.sum(1)).output(None, torch.zeros(()))
    with pytest.raises(ConfigError, match=r"shape \(\d+,\), found \(\)"):
        GradientGuided(NORMAL, lambda x: x.sum()).sample(2, n_steps=2, sampler=AncestralSampler())
    for scale, variance in ((math.nan, 1.0), (1.0, 0.0), (1.0, math.inf)):
        with pytest.raises(ConfigError, match="data_variance positive"):
            GradientGuided(NORMAL, measured, scale, variance)
