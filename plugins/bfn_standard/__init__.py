"""Registers the core's losses, time distributions, samplers, grids, schedules and codecs (plugin)."""

from __future__ import annotations

from collections.abc import Sequence

from bfn_toolkit import (
    ODE1,
    ODE2,
    SDE1,
    SDE2,
    AncestralSampler,
    AnyOrderSampler,
    ChurnSampler,
    ContinuousTimeLoss,
    CrossEntropyLoss,
    DiscreteTimeLoss,
    Entry,
    EulerMaruyama,
    FlowSampler,
    GeometricSchedule,
    GivenGrid,
    IdentityCodec,
    ImageCodec,
    ImportanceTimes,
    KarrasGrid,
    KnownFirstSampler,
    LogNormalTimes,
    LogSnrGrid,
    ODEMidpoint,
    ParticleSampler,
    PartsCodec,
    PartTimesSampler,
    QuadraticSchedule,
    TableCodec,
    TableSchedule,
    TextCodec,
    UniformGrid,
    UniformTimes,
    hookimpl,
)


@hookimpl
def bfn_losses() -> Sequence[Entry]:
    """The losses of the paper, and the cross-entropy of classes."""
    drawn = ContinuousTimeLoss(times=LogNormalTimes(unbiased=True)), ContinuousTimeLoss("unit", LogNormalTimes())
    return [
        Entry("continuous-time", ContinuousTimeLoss, (ContinuousTimeLoss(), ContinuousTimeLoss("unit"), *drawn)),
        Entry("discrete-time", DiscreteTimeLoss, (DiscreteTimeLoss(), DiscreteTimeLoss(n_steps=10, samples=2))),
        Entry("cross-entropy", CrossEntropyLoss, (CrossEntropyLoss(),)),
    ]


@hookimpl
def bfn_time_distributions() -> Sequence[Entry]:
    """The distributions of the times of a loss."""
    return [
        Entry("uniform", UniformTimes, (UniformTimes(),)),
        Entry("importance", ImportanceTimes, (ImportanceTimes(), ImportanceTimes(5, decay=0.5, uniform_share=0.3))),
        Entry("log-normal", LogNormalTimes, (LogNormalTimes(), LogNormalTimes(0.0, 1.0, unbiased=True))),
    ]


@hookimpl
def bfn_samplers() -> Sequence[Entry]:
    """The sampler of the paper, and the solvers."""
    return [
        Entry("ancestral", AncestralSampler, (AncestralSampler(),)),
        Entry("churn", ChurnSampler, (ChurnSampler(), ChurnSampler(churn=5.0))),
        Entry("any-order", AnyOrderSampler, (AnyOrderSampler(), AnyOrderSampler(ODE2(), block=4, sequence="given"))),
        Entry("part-times", PartTimesSampler, (PartTimesSampler(), PartTimesSampler({"": KarrasGrid()}, ODE2()))),
        Entry("known-first", KnownFirstSampler, (KnownFirstSampler(), KnownFirstSampler(SDE2()))),
        Entry("ode-1", ODE1, (ODE1(),)),
        Entry("ode-2", ODE2, (ODE2(), ODE2(UniformGrid(0.05), slope="signal"))),
        Entry("ode-midpoint", ODEMidpoint, (ODEMidpoint(KarrasGrid()),)),
        Entry("sde-1", SDE1, (SDE1(UniformGrid()),)),
        Entry("sde-2", SDE2, (SDE2(), SDE2(UniformGrid(), slope="signal"))),
        Entry("euler-maruyama", EulerMaruyama, (EulerMaruyama(),)),
        Entry("particles", ParticleSampler, (ParticleSampler(), ParticleSampler(8, threshold=1.0))),
        Entry("flow", FlowSampler, (FlowSampler(), FlowSampler(UniformGrid()))),
    ]


@hookimpl
def bfn_grids() -> Sequence[Entry]:
    """The grids of the solvers."""
    return [
        Entry("uniform", UniformGrid, (UniformGrid(), UniformGrid(0.1))),
        Entry("log-snr", LogSnrGrid, (LogSnrGrid(), LogSnrGrid(1e-4))),
        Entry("karras", KarrasGrid, (KarrasGrid(), KarrasGrid(0.1, rho=2.0))),
        Entry("given", GivenGrid, (GivenGrid(), GivenGrid((0.2, 1.0)))),
    ]


@hookimpl
def bfn_schedules() -> Sequence[Entry]:
    """The schedules of the paper, and the table."""
    return [
        Entry("geometric", GeometricSchedule, (GeometricSchedule(), GeometricSchedule(sigma_1=0.5))),
        Entry("quadratic", QuadraticSchedule, (QuadraticSchedule(), QuadraticSchedule(beta_1=9.0))),
        Entry("table", TableSchedule, (TableSchedule((0.5, 1.0, 2.0)),)),
    ]


@hookimpl
def bfn_codecs() -> Sequence[Entry]:
    """The codecs of numbers, tables, texts, images and data of several parts."""
    return [
        Entry("identity", IdentityCodec, (IdentityCodec(),)),
        Entry("table", TableCodec, (TableCodec(shift=(1.0, 2.0), scale=(2.0, 0.5), names=("a", "b")),)),
        Entry("text", TextCodec, (TextCodec("ab", length=3),)),
        Entry("image", ImageCodec, (ImageCodec(17), ImageCodec(2, "classes"))),
        Entry("parts", PartsCodec, (PartsCodec({"picture": ImageCodec(2), "title": TextCodec("ab", length=3)}),)),
    ]
