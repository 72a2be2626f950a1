"""Laws of schedules."""

from __future__ import annotations

import torch

from bfn_toolkit.schedules import AccuracySchedule
from bfn_toolkit.testing.cases import times
from bfn_toolkit.testing.law import Judge, law, round_trip, search

EXAMPLES = 50


@law("schedule", "beta(0) = 0")
def check_nothing_is_told_at_the_start(schedule: AccuracySchedule) -> float:
    """Accuracy accumulates from nothing."""
    judge = Judge(check_nothing_is_told_at_the_start, schedule)
    judge.error(schedule.beta(torch.zeros(3, dtype=torch.float64)).abs(), 0.0)
    return judge.figure


@law("schedule", "s < t implies beta(s) < beta(t)")
def check_accuracy_increases(schedule: AccuracySchedule) -> float:
    """Every message carries information."""
    judge = Judge(check_accuracy_increases, schedule)
    beta = schedule.beta(torch.linspace(0.0, 1.0, 1001, dtype=torch.float64))
    judge.true(bool((beta.diff() > 0).all()), f"a step of {float(beta.diff().min()):.3g}", "steps above 0")
    return judge.figure


@law("schedule", "alpha = d beta / dt")
def check_rate_is_the_derivative(
    schedule: AccuracySchedule, *, case: float | None = None, examples: int = EXAMPLES
) -> float:
    """The rate in the continuous-time loss is the derivative of beta (by automatic differentiation)."""

    def body(judge: Judge, t: float) -> None:
        time = torch.tensor([t], dtype=torch.float64, requires_grad=True)
        (rate,) = torch.autograd.grad(schedule.beta(time).sum(), time)
        alpha = schedule.alpha(time.detach())
        judge.close(alpha, rate, 1e-9 * (1.0 + rate.abs()))

    return search(check_rate_is_the_derivative, schedule, times(), body, case, examples)


@law("schedule", "sum of the accuracies of n steps = beta(1)")
def check_steps_add_up(schedule: AccuracySchedule) -> float:
    """The accuracy of a step is the difference of beta; the sum agrees to 1e-12."""
    judge = Judge(check_steps_add_up, schedule)
    n_steps = getattr(schedule, "n_steps", None)
    for n in (n_steps,) if n_steps else (1, 7, 1000):
        grid = torch.linspace(0.0, 1.0, n + 1, dtype=torch.float64)
        steps, total = schedule.accuracy(grid[:-1], grid[1:]), schedule.beta(torch.ones((), dtype=torch.float64))
        judge.error((steps.sum() - total).abs(), 1e-12 * total)
        judge.close(steps, schedule.beta(grid).diff(), 1e-9 * total)
    return judge.figure


@law("schedule", "beta(t) in float32 is within 4e-6 of float64, down to t = 1e-6")
def check_accuracy_is_precise_near_the_start(schedule: AccuracySchedule) -> float:
    """Small t needs forms without cancellation: 1 - x**t loses all digits, expm1 does not."""
    judge = Judge(check_accuracy_is_precise_near_the_start, schedule)
    t = torch.tensor([1e-6, 1e-4, 1e-2, 0.5, 1.0])
    exact = schedule.beta(t.double())
    judge.error((schedule.beta(t).double() - exact).abs(), 4e-6 * exact)  # 32 machine epsilons
    return judge.figure


@law("schedule", "beta(time(b)) = b for 0 < b <= beta(1)")
def check_time_inverts_the_accuracy(schedule: AccuracySchedule) -> float:
    """The time grids of the solvers need the inverse of beta."""
    judge = Judge(check_time_inverts_the_accuracy, schedule)
    share = torch.tensor([1e-6, 1e-3, 0.1, 0.5, 0.9, 1.0], dtype=torch.float64)
    beta = share * schedule.beta(torch.ones((), dtype=torch.float64))
    judge.error((schedule.beta(schedule.time(beta)) - beta).abs(), 1e-9 * beta)
    return judge.figure


@law("schedule", "repr, pickle and TOML give back an equal schedule")
def check_schedule_round_trips(schedule: AccuracySchedule) -> float:
    """A schedule is a value."""
    return round_trip(Judge(check_schedule_round_trips, schedule))


SHAPES = ((1,), (5,), (2, 3))
