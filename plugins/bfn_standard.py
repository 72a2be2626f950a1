"""The core's own losses, sampler and schedules under their names (plugin)."""

from __future__ import annotations

from collections.abc import Sequence

from bfn_toolkit import (
    AncestralSampler,
    ContinuousTimeLoss,
    DiscreteTimeLoss,
    Entry,
    GeometricSchedule,
    QuadraticSchedule,
    TableSchedule,
    hookimpl,
)


@hookimpl
def bfn_losses() -> Sequence[Entry]:
    """The losses of the paper."""
    return [
        Entry("continuous-time", ContinuousTimeLoss, (ContinuousTimeLoss(), ContinuousTimeLoss("unit"))),
        Entry("discrete-time", DiscreteTimeLoss, (DiscreteTimeLoss(), DiscreteTimeLoss(n_steps=10, samples=2))),
    ]


@hookimpl
def bfn_samplers() -> Sequence[Entry]:
    """The sampler of the paper."""
    return [Entry("ancestral", AncestralSampler, (AncestralSampler(),))]


@hookimpl
def bfn_schedules() -> Sequence[Entry]:
    """The schedules of the paper, and the table."""
    return [
        Entry("geometric", GeometricSchedule, (GeometricSchedule(), GeometricSchedule(sigma_1=0.5))),
        Entry("quadratic", QuadraticSchedule, (QuadraticSchedule(), QuadraticSchedule(beta_1=9.0))),
        Entry("table", TableSchedule, (TableSchedule((0.5, 1.0, 2.0)),)),
    ]
