"""Frozen numbers: what the published reference implementation computes (see the first line of golden.json)."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from bfn_gaussian import Gaussian, GaussianParams, NoiseHead
from bfn_toolkit import Binned, Delta, SiteNormalMixture, kl

GOLDEN = json.loads(Path(__file__).parents[2].joinpath("golden.json").read_text())
RTOL = 1e-12  # float64; the reference forms differences of betas and powers of sigma_1, which lose tens of eps


def tensor(value: Any) -> Tensor:
    return torch.tensor(value, dtype=torch.float64)


# The reference rounds the weights of its losses to float32: the same 2e-7 at all sites of a row.
LOSS_RTOL = 5e-7


def agree(found: Tensor, expected: Tensor, rtol: float = RTOL) -> bool:
    return torch.allclose(found, expected, rtol=rtol, atol=1e-14)


@pytest.mark.parametrize("case", GOLDEN["gaussian_step_accuracies"], ids=lambda c: f"{c['sigma_1']}-{c['n']}")
def test_step_accuracies(case: dict[str, Any]) -> None:
    family = Gaussian(sigma_1=case["sigma_1"])
    times = family.times(case["n"])
    assert agree(family.accuracy(times[:-1], times[1:]), tensor(case["alpha"]))


def test_update() -> None:
    case = GOLDEN["gaussian_update"]
    mean, y = tensor(case["mean"]), tensor(case["y"])
    belief = GaussianParams(mean, tensor(case["precision"]).expand(len(mean)))
    after = Gaussian(site_shape=(4,)).update(belief, y, tensor(case["alpha"]).expand(len(mean)))
    assert agree(after.mean, tensor(case["new_mean"]))
    assert agree(after.precision, tensor(case["new_precision"]).expand(len(mean)))


def test_noise_head() -> None:
    case = GOLDEN["gaussian_noise_to_data"]
    for clip, expected in ((float("inf"), case["data"]), (1.0, case["data_clipped"])):
        family = Gaussian(site_shape=(3,), sigma_1=case["sigma_1"], head=NoiseHead(clip=clip, t_min=case["t_min"]))
        precision = 1 + family.schedule.beta(tensor(case["t"]))  # the sites differ in time
        belief = GaussianParams(tensor(case["mean"]), precision)
        x_hat = family.output(tensor(case["noise"]).unsqueeze(-1), belief).mean
        assert agree(x_hat, tensor(expected))


def loss_case(name: str) -> tuple[dict[str, Any], Gaussian, Tensor, Tensor, Tensor]:
    """Every site as an example of its own, because the reference gives its losses at each site."""
    case = GOLDEN[name]
    x, x_hat = tensor(case["x"]), tensor(case["x_hat"]).clamp(-1, 1)  # the reference clips its estimate
    t = tensor(case["t"]).unsqueeze(1).expand_as(x)
    family = Gaussian(site_shape=(1,), sigma_1=case["sigma_1"])
    return case, family, x.reshape(-1, 1), x_hat.reshape(-1, 1), t.flatten()


def test_continuous_time_loss() -> None:
    case, family, x, x_hat, t = loss_case("gaussian_continuous_time_loss")
    assert agree(family.loss_rate(x, Delta(x_hat), t), tensor(case["loss"]).flatten(), LOSS_RTOL)


def test_discrete_time_loss() -> None:
    case, family, x, x_hat, s = loss_case("gaussian_discrete_time_loss")
    alpha = family.accuracy(s, s + 1 / case["n"])
    loss = case["n"] * kl(family.sender(x, alpha), family.receiver(Delta(x_hat), alpha))
    assert agree(loss, tensor(case["loss"]).flatten(), LOSS_RTOL)


def sites(value: Any) -> Tensor:
    """Numbers at (rows, sites), each site as an example of its own."""
    return tensor(value).flatten(0, 1).unsqueeze(1)


def binned(params: Tensor, bins: int) -> Binned:
    """From mean and log-scale, or log-weights, means and log-scales of several components."""
    *logits, means, log_scales = params.chunk(2 if params.shape[-1] == 2 else 3, -1)
    return Binned(SiteNormalMixture(logits[0] if logits else means * 0, means, log_scales.exp()), bins)


# Below a probability of 1e-5 the reference returns the density at the bin's centre instead, up to 9 nats off here.
FLOOR = math.log(1e-5)


@pytest.mark.parametrize("case", GOLDEN["discretised_output"], ids=lambda c: f"{c['kind']}-{c['bins']}-{c['clip']}")
def test_discretised_output(case: dict[str, Any]) -> None:
    output = binned(sites(case["params"]), case["bins"])
    table = output.table if case["clip"] else output.truncated
    if case["probs"] is not None:
        assert agree(table.logits.softmax(-1), sites(case["probs"]))
    assert agree(table.mean, sites(case["mean"]))
    expected = sites(case["log_prob"]).squeeze(1)
    assert agree(table.log_prob(sites(case["x"]))[expected > FLOOR], expected[expected > FLOOR])
    if case["clip"]:
        assert (output.mean - sites(case["mean"])).abs().max() <= 3e-7 * 2 / case["bins"]  # as documented
        assert agree(output.log_prob(sites(case["x"]))[expected > FLOOR], expected[expected > FLOOR])


def test_reconstruction_in_bins() -> None:
    case = GOLDEN["gaussian_reconstruction_256_bins"]
    x_hat, loss = sites(case["x_hat"]).unsqueeze(-1), sites(case["loss"]).squeeze(1)
    output = Binned(SiteNormalMixture(x_hat * 0, x_hat, torch.full_like(x_hat, case["sigma_1"])), 256)
    likely = loss < -FLOOR
    assert likely.sum() >= 3
    assert agree(-output.log_prob(sites(case["x"]))[likely], loss[likely])
