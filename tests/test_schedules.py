"""Laws of the accuracy schedules."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import assume, given, strategies as st

from bfn_toolkit import AccuracySchedule, GeometricSchedule, QuadraticSchedule, TableSchedule
from strategies import dtypes, log_uniform, sigmas, times

TABLE = TableSchedule((0.5, 1.0, 2.0, 0.25))
SCHEDULES = [GeometricSchedule(0.02), GeometricSchedule(1e-8), GeometricSchedule(0.999), QuadraticSchedule(3.0), TABLE]
EPS = {dtype: torch.finfo(dtype).eps for dtype in (torch.float32, torch.float64)}


def grid(n: int) -> torch.Tensor:
    return torch.linspace(0, 1, n + 1, dtype=torch.float64)


@pytest.mark.parametrize("schedule", SCHEDULES, ids=str)
def test_beta_starts_at_zero_and_rises(schedule: AccuracySchedule) -> None:
    beta = schedule.beta(grid(64))
    assert beta[0] == 0
    assert (beta.diff() > 0).all()


@pytest.mark.parametrize("schedule", SCHEDULES, ids=str)
def test_alpha_is_the_derivative_of_beta(schedule: AccuracySchedule) -> None:
    t = grid(64)[:-1] + 1 / 128  # between the corners of the table
    t.requires_grad_()
    (slope,) = torch.autograd.grad(schedule.beta(t).sum(), t)
    assert torch.allclose(schedule.alpha(t.detach()), slope, rtol=1e-13, atol=0)  # float64, two exponentials


@pytest.mark.parametrize(
    ("schedule", "n"), [(TABLE, 4)] + [(schedule, n) for schedule in SCHEDULES[:-1] for n in (1, 4, 20, 1000)], ids=str
)
def test_message_accuracies_telescope(schedule: AccuracySchedule, n: int) -> None:
    t = grid(n)
    alphas = schedule.accuracy(t[:-1], t[1:])
    total = schedule.beta(torch.ones((), dtype=torch.float64))
    assert (alphas > 0).all()
    # t and t - s round by n eps of a step; 1e-12 is 4 eps at n = 1000.
    assert abs(alphas.sum() / total - 1) <= 1e-12
    assert torch.allclose(alphas.cumsum(0), schedule.beta(t[1:]), rtol=1e-11, atol=0)


@given(sigmas, times, times, dtypes)
def test_geometric_message_accuracy_does_not_cancel(sigma_1: float, s: float, t: float, dtype: torch.dtype) -> None:
    s, t = sorted(torch.tensor([s, t], dtype=dtype).tolist())
    rate = -2 * math.log(sigma_1)
    exact = math.exp(rate * s) * math.expm1(rate * (t - s))
    schedule = GeometricSchedule(sigma_1)
    found = schedule.accuracy(torch.tensor(s, dtype=dtype), torch.tensor(t, dtype=dtype))
    # exp turns the rounding of its argument, at most 37, into a relative error of as many half eps
    assert abs(found.item() - exact) <= (16 + rate) * EPS[dtype] * exact


@given(sigmas, times, dtypes)
def test_gamma_is_accurate_at_both_ends_of_time(sigma_1: float, t: float, dtype: torch.dtype) -> None:
    when = torch.tensor(t, dtype=dtype)
    beta = GeometricSchedule(sigma_1).beta(when)
    exact = -math.expm1(2 * math.log(sigma_1) * when.item())
    assert abs((beta / (1 + beta)).item() - exact) <= 16 * EPS[dtype] * exact


@given(sigmas, times)
def test_input_entropy_is_linear_in_time(sigma_1: float, t: float) -> None:
    # eq. 65 and 72: H(t) = H(0) + t ln sigma_1, at 16 eps of a scale of 10 nats (18 nats at sigma_1 = 1e-8)
    beta = GeometricSchedule(sigma_1).beta(torch.tensor(t, dtype=torch.float64))
    entropy = 0.5 * math.log(2 * math.pi * math.e) - 0.5 * torch.log1p(beta).item()
    expected = 0.5 * math.log(2 * math.pi * math.e) + t * math.log(sigma_1)
    assert abs(entropy - expected) <= 16 * EPS[torch.float64] * 20


@given(sigmas, st.integers(1, 10_000), st.floats(0, 1))
def test_message_over_rate_has_its_limit_in_n(sigma_1: float, n: int, where: float) -> None:
    # n alpha_i / alpha(t_{i-1}) = (e^{c/n} - 1) n / c = 1 + c / 2n + ..., for c = -2 ln sigma_1 and every i
    schedule, c = GeometricSchedule(sigma_1), -2 * math.log(sigma_1)
    i = min(int(where * n), n - 1)
    s, t = (torch.tensor(k / n, dtype=torch.float64) for k in (i, i + 1))
    ratio = (n * schedule.accuracy(s, t) / schedule.alpha(s)).item()
    exact = math.expm1(c / n) * n / c
    assert abs(ratio / exact - 1) <= 16 * n * EPS[torch.float64]  # t - s rounds by n eps of a step


@given(log_uniform(1e-6, 1e6), times, times)
def test_quadratic_message_accuracy_is_a_difference_of_squares(beta_1: float, s: float, t: float) -> None:
    assume(s < t)
    found = QuadraticSchedule(beta_1).accuracy(*torch.tensor([s, t], dtype=torch.float64))
    exact = beta_1 * (t - s) * (t + s)
    assert abs(found.item() - exact) <= 16 * EPS[torch.float64] * exact


@given(st.integers(1, 2000), dtypes)
def test_table_finds_its_step_on_the_grid(n: int, dtype: torch.dtype) -> None:
    table = TableSchedule(tuple(1.0 + i for i in range(n)))
    t = grid(n).to(dtype)  # i / n rounds, to either side
    assert torch.equal(table.step(t), torch.arange(n + 1))
    assert torch.equal(table.accuracy(t[:-1], t[1:]), torch.arange(1.0, n + 1, dtype=dtype))
    assert torch.allclose(table.beta(t).double(), torch.arange(n + 1.0).double().cumsum(0), rtol=2 * EPS[dtype], atol=0)


@pytest.mark.parametrize(
    "bad",
    [
        lambda: GeometricSchedule(1.0),
        lambda: GeometricSchedule(0.0),
        lambda: GeometricSchedule(math.nan),
        lambda: QuadraticSchedule(0.0),
        lambda: QuadraticSchedule(math.inf),
        lambda: TableSchedule(()),
        lambda: TableSchedule((1.0, 0.0)),
        lambda: TableSchedule((1.0, math.nan)),
    ],
)
def test_schedules_refuse_accuracies_that_do_not_rise(bad: object) -> None:
    with pytest.raises(ValueError, match=r"sigma_1|beta_1|accuracies"):
        bad()
