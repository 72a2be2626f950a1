"""Laws of the losses: even times, nats per example, and factors that cannot be lost."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, strategies as st
from torch import Tensor

from bfn_gaussian import Gaussian, GaussianParams, NoiseHead, UnsquaredNormLoss
from bfn_siren import Siren
from bfn_toolkit import (
    BFN,
    ContinuousTimeLoss,
    Delta,
    DiscreteTimeLoss,
    Finite,
    Loss,
    Oracle,
    ReconstructionLoss,
    draw_times,
    seeded,
)
from significance import Z, ks_against, z_of_mean
from toy_families import PlainCategorical

DOUBLE = torch.float64
LOSSES = [ContinuousTimeLoss(), ContinuousTimeLoss("unit"), DiscreteTimeLoss(7), ReconstructionLoss()]


def drawn(n: int, seed: int, dtype: torch.dtype = DOUBLE) -> Tensor:
    with seeded(seed, "times"):
        return draw_times(torch.zeros(n, 1, dtype=dtype))


@given(st.integers(1, 300), st.integers(0, 2**32), st.sampled_from((torch.float32, DOUBLE)))
def test_times_lie_in_the_interval(n: int, seed: int, dtype: torch.dtype) -> None:
    t = drawn(n, seed, dtype)
    assert t.shape == (n,)
    assert t.dtype == dtype
    assert (t > 0).all()
    assert (t <= 1).all()


def test_times_of_integer_data_have_the_default_dtype() -> None:
    assert draw_times(torch.zeros(3, 1, dtype=torch.long)).dtype == torch.get_default_dtype()


@pytest.mark.parametrize("row", [0, 1, 7])
def test_each_time_is_uniform_by_itself(row: int) -> None:
    # One row over 20,000 independent calls: Kolmogorov-Smirnov at a false-alarm rate of 1e-6.
    with seeded(0, "uniform"):
        t = torch.stack([draw_times(torch.zeros(8, 1, dtype=DOUBLE))[row] for _ in range(20_000)])
    ordered = t.sort().values
    assert ks_against(ordered, ordered) <= 1


@given(st.integers(0, 3000), st.integers(1, 1000), st.integers(0, 2**32))
def test_any_run_of_rows_covers_the_interval_evenly(start: int, length: int, seed: int) -> None:
    t = drawn(start + length, seed)[start:].sort().values
    steps = torch.arange(length + 1, dtype=DOUBLE) / length
    discrepancy = max(float((steps[1:] - t).max()), float((t - steps[:-1]).max()))
    # The golden-ratio sequence: at most about (1 + ln length) / length from any origin; independent draws have
    # 1 / sqrt(length), three times as much at length 100 and six times at 1000.
    assert discrepancy <= (1.5 + math.log(length)) / length


def test_times_differ_from_call_to_call_and_repeat_with_the_seed() -> None:
    assert torch.equal(drawn(9, 1), drawn(9, 1))
    assert not torch.equal(drawn(9, 1), drawn(9, 2))


@pytest.mark.parametrize("loss", [*LOSSES, UnsquaredNormLoss()], ids=str)
@pytest.mark.parametrize("site", [(1,), (2, 3)])
@pytest.mark.parametrize("dtype", [torch.float32, DOUBLE], ids=str)
def test_losses_are_one_number_per_example(loss: Loss, site: tuple[int, ...], dtype: torch.dtype) -> None:
    bfn = BFN(Gaussian(site_shape=site), Siren(width=8)).to(dtype)
    value = loss(bfn, torch.zeros(5, *site, dtype=dtype))
    assert value.shape == (5,)
    assert value.dtype == dtype
    assert value.requires_grad
    assert torch.isfinite(value).all()


def off_by(error: float, family: Gaussian) -> Oracle:
    """A model that knows that the data are 0, and is off by the same error at every site."""
    return Oracle(family, lambda params: Delta(torch.zeros_like(params.mean) + error, family.sigma_1))


@pytest.mark.parametrize("n", [1, 2, 5, 20, None])
def test_losses_are_nats_summed_over_sites_for_any_number_of_steps(n: int | None) -> None:
    # A constant error e costs beta(1) e^2 / 2 at each site, for every n: no factor may be lost.
    family, rows = Gaussian(site_shape=(2, 3), sigma_1=0.1), 2**16
    with seeded(1, str(n)):
        loss = off_by(0.3, family).loss(torch.zeros(rows, 2, 3, dtype=DOUBLE), n_steps=n)
    exact = 6 * 99 * 0.3**2 / 2
    # Koksma's inequality: the times' discrepancy, at most (1.5 + ln B) / B, times the variation of the integrand
    variation = float(loss.max() - loss.min())
    assert abs(float(loss.mean()) - exact) <= variation * (1.5 + math.log(rows)) / rows + 1e-11 * exact


@pytest.mark.parametrize("n", [1, 3, 10])
def test_discrete_time_loss_takes_each_step_equally_often(n: int) -> None:
    family = Gaussian(sigma_1=0.1)
    seen: list[Tensor] = []

    class Watch(Oracle):
        def output(self, params: GaussianParams, t: Tensor, condition: object = None) -> Delta:
            seen.extend((params.precision, t))
            return Delta(torch.ones_like(params.mean))

    with seeded(2, n):
        loss = DiscreteTimeLoss(n)(Watch(family, lambda params: None), torch.zeros(n * 1000, 1, dtype=DOUBLE))
    precision, s = seen
    step = (s * n).round().long()
    counts = torch.bincount(step, minlength=n)
    assert len(counts) == n  # s = t_{i-1}, from 0 to 1 - 1/n
    assert (counts - 1000).abs().max() <= 2 * (1.5 + math.log(1000 * n))  # twice the discrepancy
    assert torch.allclose(s, step.double() / n, rtol=1e-15)
    # the beliefs are those of time s, and the message is that over (s, s + 1/n]
    assert torch.allclose(precision, 0.1 ** (-2 * s), rtol=1e-13)
    assert torch.allclose(loss, n * 0.5 * (0.1 ** (-2 * (s + 1 / n)) - 0.1 ** (-2 * s)), rtol=1e-12)


def test_continuous_time_loss_meets_beliefs_of_the_same_time() -> None:
    family = Gaussian(sigma_1=0.1)
    seen: list[Tensor] = []

    class Watch(Oracle):
        def output(self, params: GaussianParams, t: Tensor, condition: object = None) -> Delta:
            seen.extend((params.precision, t))
            return Delta(torch.ones_like(params.mean))

    loss = ContinuousTimeLoss()(Watch(family, lambda params: None), torch.zeros(100, 1, dtype=DOUBLE))
    precision, t = seen
    assert torch.allclose(precision, 0.1 ** (-2 * t), rtol=1e-13)
    assert torch.allclose(loss, -math.log(0.1) * 0.1 ** (-2 * t), rtol=1e-13)  # eq. 101


@pytest.mark.parametrize("head", [Gaussian().head, NoiseHead()], ids=str)
def test_unit_weighting_is_the_rate_times_the_weight_of_the_family(head: object) -> None:
    family = Gaussian(sigma_1=0.1, head=head)
    model, x = off_by(0.3, family), torch.zeros(50, 1, dtype=DOUBLE)
    with seeded(3):
        paper = ContinuousTimeLoss()(model, x)
    with seeded(3):
        unit = ContinuousTimeLoss("unit")(model, x)
    with seeded(3):
        t = draw_times(x)
    assert torch.allclose(unit, paper * family.loss_weight(t), rtol=1e-14)
    assert not torch.allclose(unit, paper)


def test_unit_weighting_starts_near_one() -> None:
    # Data of the head's variance and a network that returns 0: the raw target has unit mean square at every time.
    family = Gaussian(sigma_1=0.01)
    model = Oracle(family, lambda p: family.output(torch.zeros_like(p.mean).unsqueeze(-1), p))
    with seeded(4):
        loss = ContinuousTimeLoss("unit")(model, torch.randn(100_000, 1, dtype=DOUBLE))
    assert z_of_mean(loss, 1.0) <= Z


def test_more_samples_of_the_message_leave_the_mean_and_shrink_the_spread() -> None:
    family = PlainCategorical()
    model = Oracle(family, lambda log_theta: Finite(torch.arange(3), log_theta))
    x = torch.ones(100_000, 1, dtype=torch.long)
    with seeded(5):
        once, often = (DiscreteTimeLoss(1, samples=k)(model, x) for k in (1, 8))
    assert z_of_mean(once - often, 0.0) <= Z
    assert often.std() <= 0.5 * once.std()


def test_reconstruction_is_the_density_at_the_end_of_time() -> None:
    family, x = Gaussian(site_shape=(2,), sigma_1=0.1), torch.zeros(3, 2, dtype=DOUBLE)
    loss = ReconstructionLoss()(off_by(0.3, family), x)
    expected = 2 * (0.5 * 9 + math.log(0.1) + 0.5 * math.log(2 * math.pi))  # a normal of sd sigma_1, three of them away
    assert torch.allclose(loss, torch.full((3,), expected, dtype=DOUBLE), rtol=1e-13)
    with seeded(6):
        total = off_by(0.3, family).nll(x)
    with seeded(6):
        messages = off_by(0.3, family).loss(x)
    assert torch.allclose(total, messages + expected, rtol=1e-13)


@pytest.mark.parametrize("n", [0, -1, 2.5, True])
def test_wrong_step_counts_are_refused(n: object) -> None:
    with pytest.raises(ValueError, match=r"at least 1|n_steps"):
        off_by(0.3, Gaussian()).loss(torch.zeros(2, 1), n_steps=n)


def test_unknown_weighting_is_refused() -> None:
    with pytest.raises(ValueError, match="weighting"):
        ContinuousTimeLoss("units")
