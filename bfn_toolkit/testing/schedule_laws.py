"""Laws of schedules."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from bfn_toolkit.schedules import AccuracySchedule
from bfn_toolkit.testing.cases import times
from bfn_toolkit.testing.devices import on_meta
from bfn_toolkit.testing.draws import seeded
from bfn_toolkit.testing.law import Judge, law, round_trip, search

EXAMPLES = 50
FLOAT32 = 4e-6  # 32 machine epsilons
PANELS, NODES = 64, 16  # of the quadrature of the rate


def _has_table(schedule: Any) -> bool:
    """Whether the schedule has accuracies for a fixed number of messages, and for no others."""
    return getattr(schedule, "n_steps", None) is not None


def _range() -> Tensor:
    """Times over all of [0, 1], dense near 0."""
    near = torch.logspace(-6.0, -3.0, 31, dtype=torch.float64)[:-1]
    return torch.cat([torch.zeros(1, dtype=torch.float64), near, torch.linspace(1e-3, 1.0, 1000, dtype=torch.float64)])


def _finite(judge: Judge, value: Tensor, what: str, t: Tensor) -> None:
    """Breaks the law, and says where, unless all values are finite."""
    bad = (~torch.isfinite(value)).flatten().nonzero().flatten()
    if len(bad):
        at = float(t.expand(value.shape).flatten()[bad[0]])
        judge.broken(f"{what} is not finite at {len(bad)} of {value.numel()} times, the first {at:.6g}", "finite")


@law("schedule", "beta(0) = 0")
def check_nothing_is_told_at_the_start(schedule: AccuracySchedule) -> float:
    """Accuracy accumulates from nothing."""
    judge = Judge(check_nothing_is_told_at_the_start, schedule)
    start = torch.zeros(3, dtype=torch.float64)
    beta = schedule.beta(start)
    _finite(judge, beta, "beta", start)
    judge.error(beta.abs(), 0.0)
    return judge.figure


@law("schedule", "beta(1) is finite, above 0, and what the fields beta_1 or sigma_1 say")
def check_the_end_is_as_declared(schedule: AccuracySchedule) -> float:
    """The end decides how sharp the last beliefs are: beta_1, or sigma_1^-2 - 1 for a prior of variance 1."""
    judge = Judge(check_the_end_is_as_declared, schedule)
    end = torch.ones(2, dtype=torch.float64)
    beta = schedule.beta(end)
    _finite(judge, beta, "beta", end)
    judge.true(bool((beta > 0).all()), f"beta(1) = {float(beta[0]):.6g}", "above 0")
    beta_1, sigma_1 = (getattr(schedule, name, None) for name in ("beta_1", "sigma_1"))
    declared = float(beta_1) if beta_1 is not None else None if sigma_1 is None else float(sigma_1) ** -2 - 1.0
    if declared is not None:
        found = f"beta(1) = {float(beta[0]):.10g}"
        judge.true(bool(((beta - declared).abs() <= 1e-9 * abs(declared)).all()), found, f"{declared:.10g}")
    return judge.figure


@law("schedule", "s < t implies beta(s) < beta(t), by more than float32 resolves, and alpha(t) > 0 between the ends")
def check_accuracy_increases(schedule: AccuracySchedule) -> float:
    """Each of a thousand messages carries information, and so do shorter ones near t = 0."""
    judge = Judge(check_accuracy_increases, schedule)
    t = _range()
    beta, alpha = schedule.beta(t), schedule.alpha(t)
    _finite(judge, beta, "beta", t)
    step = beta.diff()
    worst = int((step / beta[1:].abs().clamp_min(1e-300)).argmin())
    found = f"beta rises by {float(step[worst]):.3g} from t = {float(t[worst]):.6g} to {float(t[worst + 1]):.6g}"
    least = torch.finfo(torch.float32).eps / 2.0 * beta[1:]
    judge.true(bool((step > least).all()), found, f"more than {float(least[worst]):.3g}, 6e-8 of beta")
    inner = alpha[1:-1]  # at both ends the rate may be 0
    lowest = int(inner.argmin()) + 1
    judge.true(bool((inner > 0).all()), f"alpha = {float(alpha[lowest]):.3g} at t = {float(t[lowest]):.6g}", "above 0")
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
        _finite(judge, alpha, "alpha", time.detach())
        _finite(judge, rate, "the derivative of beta", time.detach())
        judge.close(alpha, rate, 1e-9 * (1.0 + rate.abs()))

    return search(check_rate_is_the_derivative, schedule, times(), body, case, examples)


@law("schedule", "the integral of alpha from s to t is beta(t) - beta(s)")
def check_rate_adds_up_to_the_accuracy(schedule: AccuracySchedule) -> float:
    """No jump of beta escapes the rate; the derivative alone would not see one (quadrature, to 10 % of each piece)."""
    judge = Judge(check_rate_adds_up_to_the_accuracy, schedule)
    panels = (getattr(schedule, "n_steps", None) or 1) * PANELS  # the rate of a table jumps at its messages
    node, weight = (torch.from_numpy(part) / 2.0 for part in np.polynomial.legendre.leggauss(NODES))
    edges = torch.linspace(0.0, 1.0, panels + 1, dtype=torch.float64)
    t = edges[:-1, None] + (node + 0.5) / panels
    alpha = schedule.alpha(t.flatten()).reshape(t.shape)
    _finite(judge, alpha, "alpha", t)
    rise, integral = schedule.beta(edges).diff(), (alpha * weight).sum(1) / panels
    judge.error((integral - rise).abs(), 0.1 * rise)
    return judge.figure


@law("schedule", "sum of the accuracies of n steps = beta(1)")
def check_steps_add_up(schedule: AccuracySchedule) -> float:
    """The accuracy of a step is the difference of beta; the sum agrees to 1e-12."""
    judge = Judge(check_steps_add_up, schedule)
    n_steps = getattr(schedule, "n_steps", None)
    for n in (n_steps,) if n_steps else (1, 7, 1000):
        grid = torch.linspace(0.0, 1.0, n + 1, dtype=torch.float64)
        steps, total = schedule.accuracy(grid[:-1], grid[1:]), schedule.beta(torch.ones((), dtype=torch.float64))
        _finite(judge, steps, f"the accuracy of one of {n} steps", grid[1:])
        judge.error((steps.sum() - total).abs(), 1e-12 * total)
        judge.close(steps, schedule.beta(grid).diff(), 1e-9 * total)
    return judge.figure


@law("schedule", "accuracy(s, t) = beta(t) - beta(s) for each s < t of a batch")
def check_steps_differ_within_a_batch(schedule: AccuracySchedule) -> float:
    """In training every row has a step of its own; a table has its own steps, in any order."""
    judge = Judge(check_steps_differ_within_a_batch, schedule)
    with seeded(0, "steps"):
        if _has_table(schedule):
            n = int(schedule.n_steps)  # type: ignore[attr-defined]
            start = torch.randint(n, (12,)).double()
            pairs = torch.stack([start, start + 1.0]) / n
        else:
            pairs = torch.rand(2, 12, dtype=torch.float64).sort(0).values
    for s, t in (pairs, pairs.reshape(2, 3, 4), pairs[:, 0]):
        steps, beta = schedule.accuracy(s, t), schedule.beta(t)
        _finite(judge, steps, "an accuracy", t)
        judge.close(steps, beta - schedule.beta(s), 1e-9 * beta)
    return judge.figure


@law("schedule", "beta, alpha and accuracy in float32 are within 4e-6 of float64 over all of [0, 1]")
def check_schedule_is_precise_in_float32(schedule: AccuracySchedule) -> float:
    """Small t needs forms without cancellation: 1 - x**t loses all digits, expm1 does not."""
    judge = Judge(check_schedule_is_precise_in_float32, schedule)
    single = _range()[1:].float()
    single[:-1] *= 0.99987  # no round numbers, at which a rate may jump
    double = single.double()
    beta, alpha = schedule.beta(double), schedule.alpha(double)
    tried = {
        "beta": (schedule.beta(single), beta, beta),
        "alpha": (schedule.alpha(single), alpha, alpha.abs() + beta / double),
    }
    if not _has_table(schedule):
        steps, exact = (schedule.accuracy(t[:-1], t[1:]) for t in (single, double))
        tried["accuracy"] = (steps, exact, beta[1:])
    for name, (actual, exact, scale) in tried.items():
        t = single[-len(actual) :]
        _finite(judge, actual, f"{name} in float32", t)
        _finite(judge, exact, name, t)
        judge.error((actual.double() - exact).abs(), FLOAT32 * scale)
    return judge.figure


@law("schedule", "beta(time(b)) = b for 0 < b <= beta(1), and time(beta(1)) = 1")
def check_time_inverts_the_accuracy(schedule: AccuracySchedule) -> float:
    """The time grids of the solvers need the inverse of beta."""
    judge = Judge(check_time_inverts_the_accuracy, schedule)
    share = torch.tensor([1e-6, 1e-3, 0.1, 0.5, 0.9, 1.0], dtype=torch.float64)
    beta = share * schedule.beta(torch.ones((), dtype=torch.float64))
    t = schedule.time(beta)
    _finite(judge, t, "time", beta)
    judge.true(bool(((t > 0) & (t <= 1.0 + 1e-9)).all()), f"times {[round(v, 6) for v in t.tolist()]}", "within (0, 1]")
    judge.error((schedule.beta(t) - beta).abs(), 1e-9 * beta)
    return judge.figure


@law("schedule", "beta, alpha, accuracy and time have the shape, dtype and device of their arguments")
def check_schedule_keeps_shape_dtype_and_device(schedule: AccuracySchedule) -> float:
    """Times are one per row or one for all, in float32 or float64; nothing is made on the CPU for times elsewhere."""
    judge = Judge(check_schedule_keeps_shape_dtype_and_device, schedule)
    step = 1.0 / (getattr(schedule, "n_steps", None) or 4)
    verbs: dict[str, Any] = {
        "beta": schedule.beta,
        "alpha": schedule.alpha,
        "time": schedule.time,
        "accuracy": lambda t: schedule.accuracy(t, t + step),
    }
    for name, verb in verbs.items():
        for shape in ((), (5,), (2, 3)):
            for dtype in (torch.float32, torch.float64):
                at = torch.zeros(shape, dtype=dtype)
                value = verb(at)
                found = f"{name} has shape {tuple(value.shape)} and {value.dtype}"
                judge.true((value.shape, value.dtype) == (shape, dtype), found, f"shape {shape} and {dtype}")
                _finite(judge, value, name, at)
        try:
            value = on_meta(partial(verb, torch.zeros(5, device="meta")))
        except RuntimeError as error:
            judge.broken(f"{name} mixes devices: {error}", "the device of the argument")
        stays = value is not None and value.device.type == "meta"
        judge.true(stays, f"{name} reads values, or makes its result on another device", "the device of the argument")
    return judge.figure


@law("schedule", "repr, pickle and TOML give back an equal schedule")
def check_schedule_round_trips(schedule: AccuracySchedule) -> float:
    """A schedule is a value."""
    return round_trip(Judge(check_schedule_round_trips, schedule))
