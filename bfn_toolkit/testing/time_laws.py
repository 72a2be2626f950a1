"""Laws of time distributions, tried on a real number and on a class."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from bfn_toolkit.randomness import Shard
from bfn_toolkit.schedules import QuadraticSchedule
from bfn_toolkit.testing.devices import on_meta
from bfn_toolkit.testing.draws import seeded
from bfn_toolkit.testing.law import NAN, Judge, law, round_trip
from bfn_toolkit.testing.toys import Line
from bfn_toolkit.time_distributions import LearnedTimes, TimeDistribution, Times

DRAWS = 2**17
ROWS = 500


def _family() -> Any:
    return Line(QuadraticSchedule(8.0))


def _data(n: int, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.zeros(n, 1, dtype=dtype)


def is_unbiased(times: Any) -> bool:
    """Whether the distribution claims that its weights leave the mean of a loss as it is."""
    return bool(getattr(times, "is_unbiased", False))


def is_learned(times: Any) -> bool:
    """Whether the distribution learns from losses."""
    return isinstance(times, LearnedTimes)


def _steep(t: Tensor) -> Tensor:
    """Losses that are larger at early times."""
    return 0.2 + (5.0 * (1.0 - t)).exp()


def _learned(times: LearnedTimes, steps: int = 3) -> TimeDistribution:
    """The distribution after some steps of losses that are larger at early times."""
    state = times.initial_state()
    for _ in range(steps):
        drawn = times.fitted(state).draw(_family(), _data(ROWS))
        state = times.updated(state, times.statistics(drawn.t, _steep(drawn.t)))
    return times.fitted(state)


def _stages(times: TimeDistribution) -> Iterator[tuple[str, TimeDistribution]]:
    """The distribution, and what it becomes in training."""
    yield "", times
    if isinstance(times, LearnedTimes):
        yield "before the first step", times.fitted(times.initial_state())
        yield "after three steps", _learned(times)


@law("time-distribution", "t has shape (B,), is in (0, 1], and has the dtype and device of x; weights are above 0")
def check_times_are_in_the_interval(times: TimeDistribution) -> float:
    """One time for each row, at which beliefs exist, and a finite weight, without reading a value from the device."""
    judge, family = Judge(check_times_are_in_the_interval, times), _family()
    with seeded(0, "interval"):
        for name, stage in _stages(times):
            judge.named(name)
            for x in (_data(1), _data(7), _data(ROWS), _data(ROWS, torch.float32)):
                drawn = stage.draw(family, x)
                for value in (drawn.t,) if drawn.weight is None else (drawn.t, drawn.weight):
                    judge.true(value.shape == x.shape[:1], f"shape {tuple(value.shape)}", f"({len(x)},)")
                    judge.true(value.dtype == x.dtype, f"{value.dtype}", f"{x.dtype}")
                    judge.error(torch.where(value.isfinite(), 0.0, value), 0.0)
                    judge.true(bool((value > 0.0).all()), f"{float(value.min()):.3g}", "above 0")
                judge.true(bool((drawn.t <= 1.0).all()), f"t = {float(drawn.t.max()):.8g}", "at most 1")
        meta = on_meta(lambda: times.draw(family, _data(5).to("meta")))
        judge.true(meta is not None, "a value is read", "none")
        judge.true(meta.t.device.type == "meta", f"times on {meta.t.device}", "the device of x")
    return judge.figure


@law("time-distribution", "row i of a batch has one time, in whatever pieces the batch is computed")
def check_times_do_not_depend_on_the_pieces(times: TimeDistribution) -> float:
    """One seed gives one batch of times, and a piece of the batch has its share of them."""
    judge, family = Judge(check_times_do_not_depend_on_the_pieces, times), _family()

    def drawn(start: int, rows: int) -> Times:
        with seeded(0, "pieces"), Shard(start, rows, 7):
            return times.draw(family, _data(rows))

    whole = drawn(0, 7)
    for start, rows in ((0, 7), (0, 3), (3, 4)):
        piece = drawn(start, rows)
        judge.close(piece.t, whole.t[start : start + rows], 0.0)
        if whole.weight is not None and piece.weight is not None:
            judge.close(piece.weight, whole.weight[start : start + rows], 0.0)
    with seeded(1, "pieces"):
        judge.true(not torch.equal(times.draw(family, _data(7)).t, whole.t), "the times of another seed", "other times")
    return judge.figure


@law("time-distribution", "E[w(t) L(t)] is the integral of L over (0, 1]", is_unbiased)
def check_weighted_times_are_unbiased(times: TimeDistribution) -> float:
    """Weights undo the density, before training and in it, for losses at all times, at late and at early ones."""
    judge, family = Judge(check_weighted_times_are_unbiased, times), _family()
    losses: dict[str, tuple[Callable[[Tensor], Tensor], float]] = {
        "1": (torch.ones_like, 1.0),
        "t": (lambda t: t, 0.5),
        "t^8": (lambda t: t**8, 1.0 / 9.0),
        "(1 - t)^8": (lambda t: (1.0 - t) ** 8, 1.0 / 9.0),
        "cos 9t": (lambda t: (9.0 * t).cos(), math.sin(9.0) / 9.0),
    }
    with seeded(0, "unbiased"):
        for name, stage in _stages(times):
            drawn = stage.draw(family, _data(DRAWS))
            for loss, (function, integral) in losses.items():
                judge.named(" ".join(filter(None, (f"L = {loss}", name))))
                judge.mean(drawn.weighted(function(drawn.t)), integral)
    return judge.figure


@law("time-distribution", "times come more often where the losses were larger; what is learned adds up", is_learned)
def check_learned_times_follow_the_losses(times: LearnedTimes) -> float:
    """Early losses that are larger bring early times; pieces of a batch say together what the batch says."""
    judge, family = Judge(check_learned_times_follow_the_losses, times), _family()
    with seeded(0, "follow"):
        first = times.fitted(times.initial_state()).draw(family, _data(ROWS)).t
        judge.named("mean before the first step").mean(first, 0.5)
        learned = _learned(times).draw(family, _data(ROWS)).t
        gap = float(first.mean() - learned.mean())
        judge.named("").true(gap > 0.02, f"times earlier by {gap:.3g} on average", "more than 0.02")
        losses = _steep(first)
        whole, pieces = times.statistics(first, losses), [slice(0, 200), slice(200, None)]
        total = torch.stack([times.statistics(first[piece], losses[piece]) for piece in pieces]).sum(0)
        judge.named("sum over two pieces").close(total, whole, 1e-5 * (1.0 + whole.abs()))
        bad = losses.clone()
        bad[::50] = torch.inf
        state = times.updated(times.initial_state(), times.statistics(first, bad))
        after = times.fitted(state).draw(family, _data(ROWS)).t
        judge.named("").true(bool(after.isfinite().all()), NAN, "finite times after a loss that is not")
    return judge.figure


@law("time-distribution", "repr, pickle and TOML give back an equal distribution")
def check_time_distribution_round_trips(times: TimeDistribution) -> float:
    """The configuration of a distribution is a value; what is learned is no part of it."""
    return round_trip(Judge(check_time_distribution_round_trips, times))
