"""Perfect networks: samples of the default sampler have the law of the data, from few steps to many."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from scipy.stats import kstest, norm
from torch import Tensor

from bfn_categorical import Categorical
from bfn_gaussian import Gaussian, SkipHead
from bfn_toolkit import (
    ODE2,
    SDE2,
    Delta,
    Finite,
    FlowSampler,
    InpaintedModel,
    JointOutput,
    Observed,
    Oracle,
    ProductFamily,
    default_sampler,
    expand,
    seeded,
)
from significance import Z

ROWS = 10_000
STEPS = (20, 100)
BIAS = {20: 0.02, 100: 0.005}  # of second-order steps, in units of the data's deviation; it falls with n


def cloud(params: Any, means: Tensor, weights: Tensor, deviation: float) -> Delta:
    """E[x | theta] of one-dimensional normal components of one deviation, at each site."""
    accuracy = expand(params.precision - 1.0, params.mean).unsqueeze(-1)
    v = (params.mean * expand(params.precision, params.mean)).unsqueeze(-1)
    c = 1.0 + deviation**2 * accuracy
    shares = (
        weights.log() + (means * v - 0.5 * accuracy * means.square() + 0.5 * deviation**2 * v.square()) / c
    ).softmax(-1)
    return Delta((shares * (means + deviation**2 * v) / c).sum(-1))


def normal(mean: float, deviation: float, columns: int = 1) -> Oracle:
    """A perfect network for independent normal columns; the head knows their mean square, as from a data set."""
    family = Gaussian((columns,), head=SkipHead(mean**2 + deviation**2))
    one = torch.ones(1, dtype=torch.float64)
    return Oracle(family, lambda params: cloud(params, mean * one, one, deviation))


def drawn(model: Any, rows: int, n: int, **options: Any) -> Any:
    with seeded("start", n):
        sampler = options.pop("sampler", None) or default_sampler(model.family, n)
        return sampler.sample(model, rows, n_steps=n, dtype=torch.float64, **options)


def is_normal(x: Tensor, mean: float, deviation: float, n: int) -> None:
    """Mean, deviation and Kolmogorov-Smirnov distance within sampling error and the bias of n steps."""
    z = (x.flatten() - mean) / deviation
    size = z.numel()
    assert abs(float(z.mean())) <= Z / math.sqrt(size) + BIAS[n]
    assert abs(float(z.std()) - 1.0) <= Z / math.sqrt(2.0 * size) + BIAS[n]
    assert kstest(z.numpy(), norm.cdf).statistic <= 2.5 / math.sqrt(size) + 0.5 * BIAS[n]  # 2.5: one in 1e5


@pytest.mark.parametrize("n", STEPS)
@pytest.mark.parametrize(
    ("mean", "deviation", "columns"), [(0.0, 1.0, 16), (0.0, 1.0, 1), (2.0, 1.0, 1), (0.0, 10.0, 1), (50.0, 10.0, 1)]
)
def test_normal_columns_of_any_place_and_width(mean: float, deviation: float, columns: int, n: int) -> None:
    is_normal(drawn(normal(mean, deviation, columns), ROWS, n), mean, deviation, n)


@pytest.mark.parametrize("n", STEPS)
def test_correlated_columns_keep_their_principal_deviation(n: int) -> None:
    # x = common factor of variance 0.9 + own part of variance 0.1: the first principal variance is 14.5 of 16.
    columns, common = 16, 0.9
    covariance = common * torch.ones(columns, columns, dtype=torch.float64) + (1 - common) * torch.eye(columns)

    def posterior(params: Any) -> Delta:
        accuracy = params.precision[0] - 1.0
        v = params.mean * params.precision[:, None]
        gain = torch.linalg.solve(torch.eye(columns, dtype=torch.float64) + accuracy * covariance, covariance)
        return Delta(v @ gain)

    x = drawn(Oracle(Gaussian((columns,)), posterior), ROWS, n)
    is_normal(x.sum(1), 0.0, math.sqrt(float(covariance.sum())), n)
    is_normal(x[:, 0] - x[:, 1], 0.0, math.sqrt(2.0 * (1.0 - common)), n)


@pytest.mark.parametrize("n", STEPS)
def test_a_rare_mode_far_away_keeps_its_share(n: int) -> None:
    means, weights = torch.tensor([[0.0, 20.0], [0.998, 0.002]], dtype=torch.float64)
    square = 1.0 + 0.002 * 400.0
    model = Oracle(Gaussian(head=SkipHead(square)), lambda params: cloud(params, means, weights, 1.0))
    rows = 50_000
    share = float((drawn(model, rows, n) > 10.0).double().mean())
    assert abs(share - 0.002) <= Z * math.sqrt(0.002 / rows)


@pytest.mark.parametrize("n", STEPS)
def test_the_real_part_of_a_product_with_classes(n: int) -> None:
    family = ProductFamily({"x": Gaussian((1,)), "k": Categorical((1,), 3)})
    p = torch.tensor([0.2, 0.3, 0.5], dtype=torch.float64)
    one = torch.ones(1, dtype=torch.float64)

    def posterior(params: Any) -> JointOutput:
        return JointOutput({"x": cloud(params["x"], one, one, 1.0), "k": Finite(None, p.log() + params["k"].logits)})

    x = drawn(Oracle(family, posterior), ROWS, n)
    is_normal(x["x"], 1.0, 1.0, n)
    for k, share in enumerate(p.tolist()):
        # The mean of a class is no class: the probabilities of few steps are off by up to 0.02.
        assert abs(float((x["k"] == k).double().mean()) - share) <= Z * math.sqrt(0.25 / ROWS) + BIAS[n]


@pytest.mark.parametrize("sampler", [ODE2(), SDE2()], ids=str)
def test_the_bias_falls_with_the_number_of_steps(sampler: Any) -> None:
    def error(n: int) -> float:
        return abs(float(drawn(normal(0.0, 1.0, 64), 2_000, n, sampler=sampler).std()) - 1.0)

    assert error(20) <= 0.03
    assert error(160) <= 0.125 * error(20) + Z / math.sqrt(2.0 * 2_000 * 64)


@pytest.mark.parametrize("n", [3, 10, 40])
def test_known_values_and_conditions_need_no_moments_of_the_data(n: int) -> None:
    # A start at the moments of all data would be wrong for values that are far from them.
    model = normal(0.0, 1.0, 2)
    known = Observed.of(model.family, (torch.full((ROWS, 2), 3.0), torch.tensor([True, False]).expand(ROWS, 2)), ROWS)
    params = []
    x = drawn(InpaintedModel(model, known), ROWS, n, on_step=lambda step: params.append(step.params), sampler=ODE2())
    assert torch.equal(x[:, 0], torch.full((ROWS,), 3.0, dtype=x.dtype))
    last = params[-1]
    beta = last.precision[0] - 1.0
    noise = (last.mean[:, 0] * last.precision - beta * 3.0) / beta.sqrt()
    assert abs(float(noise.mean())) <= Z / math.sqrt(ROWS)
    assert abs(float(noise.square().mean()) - 1.0) <= Z * math.sqrt(2.0 / ROWS)


def test_the_flow_sampler_warns_about_points() -> None:
    for model, sampler in (
        (normal(0.0, 1.0), FlowSampler()),
        (Oracle(Categorical(), lambda params: Finite(None, params.logits)), FlowSampler(guess="mean")),
    ):
        with pytest.warns(UserWarning, match="flow sampler draws new beliefs about points"):
            drawn(model, 4, 4, sampler=sampler)
    x = drawn(Oracle(Categorical(), lambda params: Finite(None, params.logits)), 4, 4, sampler=FlowSampler())
    assert x.shape == (4, 1)
