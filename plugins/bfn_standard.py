"""Registers the core's losses, samplers, grids, schedules and codecs (plugin)."""

from __future__ import annotations

from collections.abc import Sequence

from bfn_toolkit import (
    ODE1,
    ODE2,
    SDE1,
    SDE2,
    AncestralSampler,
    ChurnSampler,
    ContinuousTimeLoss,
    DiscreteTimeLoss,
    Entry,
    EulerMaruyama,
    FlowSampler,
    GeometricSchedule,
    GivenGrid,
    IdentityCodec,
    ImageCodec,
    KarrasGrid,
    LogSnrGrid,
    ODEMidpoint,
    ParticleSampler,
    PartsCodec,
    QuadraticSchedule,
    TableCodec,
    TableSchedule,
    TextCodec,
    UniformGrid,
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
    """The sampler of the paper, and the solvers."""
    return [
        Entry("ancestral", AncestralSampler, (AncestralSampler(),)),
        Entry("churn", ChurnSampler, (ChurnSampler(), ChurnSampler(churn=5.0))),
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
