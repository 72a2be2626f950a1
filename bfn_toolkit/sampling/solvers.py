r"""Solvers: samplers of few steps, for every family that is a Gaussian channel.

In the channel's coordinates, natural parameters v and accuracy B (:class:`~bfn_toolkit.ChannelFamily`), let

.. math:: q = \sqrt{B}, \qquad w = v / q, \qquad \hat\phi(w, t) = E_{p_O(\cdot \mid \theta; t)} \, \phi(x) .

Given the data, :math:`w \sim N(q \, \phi(x), I)`: signal q on noise of unit scale.  The limit of many messages, and the
ordinary differential equation with the same marginal distributions, are

.. math::
    dv = \hat\phi \, dB + dW_B, \qquad
    \frac{dw}{dq} = \hat\phi \qquad \big(\text{the same as } dw / d\lambda = \sqrt{B} \, \hat\phi,
    \; \lambda = \tfrac12 \ln B\big) .

Solvers differ in D, their value for :math:`\hat\phi` between two times, and in how much of the noise they renew.
A step from s to t is

.. math:: w_t = a \, w_s + b \, D + c \, z, \qquad z \sim N(0, I)

======================= ============= ======================= ======================= ==========================
sampler                 a             b                       c                       D
======================= ============= ======================= ======================= ==========================
:class:`ODE1`           1             :math:`q_t - q_s`       0                       the last evaluation
:class:`ODE2`           1             :math:`q_t - q_s`       0                       extrapolated from two
:class:`ODEMidpoint`    1             :math:`q_t - q_s`       0                       interpolated from two
:class:`SDE1`           q_s / q_t     (B_t - B_s) / q_t       sqrt(B_t - B_s) / q_t   the last evaluation
:class:`SDE2`           q_s / q_t     (B_t - B_s) / q_t       sqrt(B_t - B_s) / q_t   extrapolated from two
:class:`EulerMaruyama`  q_s / q_t     B'(s) (t - s) / q_t     sqrt(B'(s) (t - s)) /   the last evaluation
                                                              q_t
:class:`FlowSampler`    0             :math:`q_t`             sqrt(temperature)       of a draw of the output
======================= ============= ======================= ======================= ==========================

All but Euler-Maruyama are exact for a constant D.  At t = 0 the beliefs are the prior, and w is pure noise.  The step
to the grid's first time leaves w unchanged and needs no evaluation; the evaluation at that time is the first one, and
its drift covers the time since 0, in the middle of which it is (:mod:`~bfn_toolkit.sampling.time_grids`).  So n steps
take n evaluations of the network, at the n times of the grid, and the sample is drawn from the last output.

Where times differ by part, each part has its own B.  Where they differ by site, so does B, and a site whose time stands
still keeps its w.  The coefficients are then tensors; where all times are equal, results agree to rounding.

Source: Xue et al. 2024 (arXiv 2404.15766), theorems 4.1 and 5.1: BFN-Solver 1 and 2, SDE-BFN-Solver 1 and 2.  The
re-noising sampler is that of MolCRAFT (Qu et al. 2024, arXiv 2404.12141), its temperature that of ChemBFN.
"""

from __future__ import annotations

import abc
import math
import warnings
from collections.abc import Iterator, Mapping
from functools import lru_cache
from typing import Any, ClassVar, Literal, TypeAlias

import attrs
import torch
from attrs import field
from torch import Tensor

from bfn_toolkit import validators
from bfn_toolkit.errors import BFNWarning, ConfigError
from bfn_toolkit.families import ChannelFamily, Family, Part
from bfn_toolkit.model import Condition, Model
from bfn_toolkit.outputs import Delta, Output
from bfn_toolkit.randomness import Blocks, streams
from bfn_toolkit.sampling.sampler import Sampler, SamplerState
from bfn_toolkit.sampling.time_grids import LogSnrGrid, TimeGrid, UniformGrid
from bfn_toolkit.shapes import Times, expand, fit, widest

Slope = Literal["log-snr", "signal"]
Number: TypeAlias = Any  # a float, or a tensor in float64 where sites differ


@attrs.frozen(eq=False)
class SolverPath:
    """The state of a solver, for one part of the data; where sites differ, q's are tensors that broadcast with w.

    Arguments:
        w: v / sqrt(B), with shape (B, *site, d).
        q: sqrt(B).
        q_0: The q from which the next drift starts: q itself, but 0 at the grid's first time.
        phi: The previous evaluation, if the solver needs it.
        q_phi: sqrt(B) at that evaluation.
        w_0: The w at which a step of two evaluations began.
    """

    w: Tensor
    q: Number
    q_0: Number
    phi: Tensor | None = None
    q_phi: Number = 0.0
    w_0: Tensor | None = None


@attrs.frozen(eq=False)
class SolverState(SamplerState):
    """Beliefs, and the solver's path for each part.

    Arguments:
        paths: Paths by the names of the parts.
    """

    paths: Mapping[str, SolverPath]

    @classmethod
    def at(cls, family: Family[Any], paths: Mapping[str, SolverPath], previous: Output | None = None) -> SolverState:
        """The beliefs at the ends of the paths."""
        params = {part.name: _beliefs(part.as_channel(), paths[part.name]) for part in family.walk()}
        return cls(family.join(params), paths, previous=previous)


def _beliefs(family: ChannelFamily[Any], path: SolverPath) -> Any:
    if not isinstance(path.q, Tensor):
        return family.from_scaled(path.w, path.q)
    q = path.q.to(path.w.dtype)
    accuracy = fit(q.square(), 1 + len(family.sites)).expand(q.shape[0], *family.sites)
    return family.from_natural(q * path.w, accuracy)


class _Accuracies(dict[float, float]):
    """B by time, computed where it is missing."""

    def __init__(self, family: ChannelFamily[Any]) -> None:
        super().__init__()
        self.family = family

    def __missing__(self, t: float) -> float:
        if len(self) >= 4096:
            self.clear()
        self[t] = B = self.family.snr(self.family.schedule.beta(torch.tensor(t, dtype=torch.float64))).item()
        return B


_accuracies = lru_cache(maxsize=64)(_Accuracies)  # for grids that are used again


def _snr(family: ChannelFamily[Any], t: Number) -> Number:
    """B at time t."""
    return family.snr(family.schedule.beta(t)) if isinstance(t, Tensor) else _accuracies(family)[t]


def _log(number: Number) -> Number:
    return number.log() if isinstance(number, Tensor) else math.log(number)


def _sqrt(number: Number) -> Number:
    return number.sqrt() if isinstance(number, Tensor) else math.sqrt(number)


def _plus(a: Tensor, b: Tensor, factor: Number) -> Tensor:
    """a + factor b."""
    return torch.addcmul(a, b, factor.to(b.dtype)) if isinstance(factor, Tensor) else torch.add(a, b, alpha=factor)


def _add(a: Tensor, b: Tensor, factor: Number) -> Tensor:
    """a + factor b, in place in a."""
    return a.addcmul_(b, factor.to(b.dtype)) if isinstance(factor, Tensor) else a.add_(b, alpha=factor)


def _in_streams(family: Family[Any], *values: Any) -> Iterator[Part]:
    """Yields the parts, for a product each within its own random stream."""
    if not family.has_parts:
        yield from family.walk(*values)
        return
    stream = streams()
    for part in family.walk(*values):
        with stream(part.name):
            yield part


class Solver(Sampler[SolverState]):
    """Base of the solvers: the grid, and the loop over the parts."""

    grid: TimeGrid
    order: ClassVar[int | None] = None  # a claim: no noise, and errors that fall with this power of the step

    @abc.abstractmethod
    def advance(self, path: SolverPath, phi: Tensor, q: Number, alpha: Number) -> SolverPath:
        """Advances the path to the accuracy where sqrt(B) is q.

        Where sites differ, q and alpha are tensors; at a site that stands still, the result may be anything.

        Arguments:
            path: The path so far.
            phi: E[phi(x)] under the output distribution, with shape (B, *site, d).
            q: sqrt(B) at the end of the step.
            alpha: Accuracy that the beliefs gain in the step.
        """

    def guess_of(self, output: Output) -> Any:
        """Guess that a step makes from the output before it looks at the parts: by default the output itself."""
        return output

    def embedding(self, family: ChannelFamily[Any], guess: Any, w: Tensor) -> Tensor:
        """Estimate of the data's embedding for the step, with the shape and dtype of w: its expectation by default."""
        return family.mean_embedding(guess)

    def accuracy(self, family: ChannelFamily[Any], s: Number, t: Number) -> Number:
        """Accuracy B that the beliefs gain over (s, t]."""
        if isinstance(t, Tensor):
            return _snr(family, t) - _snr(family, s)
        B = _accuracies(family)
        return B[t] - B[s]

    def times(self, model: Model, n_steps: int) -> Tensor:
        """0, then the times of the grid: n + 1 in all."""
        return torch.cat([torch.zeros(1, dtype=torch.float64), self.grid.times(model.family, n_steps)])

    def nfe(self, n_steps: int) -> int:
        """Number of evaluations: n, since the first step needs none and the final draw needs one."""
        return n_steps

    def init(self, model: Model, batch_size: int, *, device: torch.device, dtype: torch.dtype) -> SolverState:
        """The prior, with noise for w."""
        paths = {}
        for part in _in_streams(model.family):
            family = part.as_channel()
            shape = (batch_size, *family.network_io.site_shape, family.channels)
            paths[part.name] = SolverPath(torch.randn(shape, device=device, dtype=dtype), 0.0, 0.0)
        return SolverState.at(model.family, paths)

    def step(
        self, model: Model, state: SolverState, s: Times, t: Times, condition: Condition | None = None
    ) -> SolverState:
        """One evaluation, then :meth:`advance` for each part; from t = 0 to the grid's start the noise is unchanged."""
        if self.order is None:
            return self._step(model, state, s, t, condition)
        return Blocks.outside(self._step, model, state, s, t, condition)  # the probability flow has no noise

    def _step(self, model: Model, state: SolverState, s: Times, t: Times, condition: Condition | None) -> SolverState:
        spans, paths = {}, {}
        for part in model.family.walk(s, t):
            path, (start, end) = state.paths[part.name], part.values
            spans[part.name] = span = _number(start, path), _number(end, path)
            if _waits(path, *span):
                paths[part.name] = _begun(part.as_channel(), path, span[1])
        if len(paths) == len(spans):
            return SolverState.at(model.family, paths, state.previous)
        output, params = state.output(model, s, condition), {}
        for part in _in_streams(model.family, self.guess_of(output)):
            family, name = part.as_channel(), part.name
            if name not in paths:
                paths[name] = self._advanced(family, state.paths[name], part.values[0], *spans[name])
            params[name] = _beliefs(family, paths[name])
        previous = output if model.self_conditioning else None
        return SolverState(model.family.join(params), paths, previous=previous)

    def _advanced(self, family: ChannelFamily[Any], path: SolverPath, guess: Any, s: Number, t: Number) -> SolverPath:
        """The path at time t; sites that stand still stay where they are, and those at the prior begin."""
        phi, q = self.embedding(family, guess, path.w), _sqrt(_snr(family, t))
        if not isinstance(t, Tensor):
            return self.advance(path, phi, q, self.accuracy(family, s, t))
        if not isinstance(path.q, Tensor):
            numbers = {name: torch.full_like(t, getattr(path, name)) for name in ("q", "q_0", "q_phi")}
            path = attrs.evolve(path, **numbers)
        begins, moves = path.q == 0.0, (t > s) & (path.q > 0.0)
        phi_before = phi if path.phi is None else torch.where(path.q_phi > 0.0, path.phi, phi)
        new = self.advance(attrs.evolve(path, phi=phi_before), phi, q, self.accuracy(family, s, t))
        return SolverPath(
            torch.where(moves, new.w, path.w),
            torch.where(moves, new.q, torch.where(begins, q, path.q)),
            torch.where(moves, new.q_0, path.q_0),
            None if new.phi is None else torch.where(moves, new.phi, phi_before),
            torch.where(moves, new.q_phi, path.q_phi),
        )


def _number(t: Tensor, path: SolverPath) -> Number:
    """The time as a number; where sites differ, or the path's do, as a tensor that broadcasts with w."""
    if t.ndim == 0 and not isinstance(path.q, Tensor):
        return t.item()  # on the CPU: no device sync
    return expand(t.to(path.w.device, widest(path.w.device)), path.w).expand_as(path.w[..., :1])


def _waits(path: SolverPath, s: Number, t: Number) -> bool:
    """Whether a path needs no evaluation: it is at the prior, or its time stands still."""
    if isinstance(path.q, Tensor):
        return False
    return path.q == 0.0 or (not isinstance(t, Tensor) and s == t)


def _begun(family: ChannelFamily[Any], path: SolverPath, t: Number) -> SolverPath:
    """A path from the prior at the first time of the grid, with the same noise; others stand still."""
    return SolverPath(path.w, _sqrt(_snr(family, t)), 0.0 * t) if path.q == 0.0 else path


def _extrapolated(path: SolverPath, phi: Tensor, q: Number, slope: Slope, *, mean_q: Number) -> Tensor:
    """D: the mean of the embedding over the step to q, on the line through the last two evaluations.

    The line is in lambda = ln q ("log-snr"), where the published solvers take its value in the middle of the step, or
    in q ("signal"), where the mean is the value at ``mean_q``.
    """
    if path.phi is None:
        return phi
    if slope == "signal":
        r = (mean_q - path.q) / (path.q - path.q_phi)
    else:
        r = 0.5 * _log(q / path.q) / _log(path.q / path.q_phi)
    return torch.lerp(path.phi, phi, _weight(1.0 + r, phi))  # phi + r (phi - phi_before)


def _weight(number: Number, like: Tensor) -> Number:
    return number.to(like.dtype) if isinstance(number, Tensor) else number


def _sde_step(path: SolverPath, z: Tensor, D: Tensor, q: Number, alpha: Number) -> Tensor:
    """w_t = a w_s + b D + c z, computed in place in z: drift and noise for the accuracy of the step."""
    a = path.q / q
    b = (path.q**2 + alpha - path.q_0**2) / q
    c = _sqrt(alpha) / q
    return _add(_add(z.mul_(c), path.w, a), D, b)


NARROW = BFNWarning(
    "the flow sampler draws new beliefs about points, which makes the samples too narrow at any number of steps; "
    "write sampler=ODE2(), on the command line --sampler ode-2, or a head whose output has a spread"
)
_IS_GRID = validators.instance_of(TimeGrid)
_IS_SLOPE = validators.one_of("log-snr", "signal")


@attrs.frozen
class ODE1(Solver):
    """First-order solver of the probability flow (BFN-Solver 1): draws noise only at the beginning.

    Arguments:
        grid: Times of the evaluations.
    """

    order: ClassVar[int | None] = 1

    grid: TimeGrid = field(factory=LogSnrGrid, validator=_IS_GRID)

    def advance(self, path: SolverPath, phi: Tensor, q: Number, alpha: Number) -> SolverPath:  # noqa: D102
        w = _plus(path.w, phi, q - path.q_0)
        return SolverPath(w, q, q)


@attrs.frozen
class ODE2(Solver):
    """Second-order multistep solver of the probability flow (BFN-Solver 2): one evaluation per step.

    Arguments:
        grid: Times of the evaluations.
        slope: Variable in which the expected embedding is extrapolated linearly: "log-snr", as published for
            continuous data, or "signal", sqrt(B), as published for classes.
    """

    order: ClassVar[int | None] = 2

    grid: TimeGrid = field(factory=LogSnrGrid, validator=_IS_GRID)
    slope: Slope = field(default="log-snr", validator=_IS_SLOPE)

    def advance(self, path: SolverPath, phi: Tensor, q: Number, alpha: Number) -> SolverPath:  # noqa: D102
        D = _extrapolated(path, phi, q, self.slope, mean_q=0.5 * (path.q + q))  # dw = phi dq
        w = _plus(path.w, D, q - path.q_0)
        return SolverPath(w, q, q, phi=phi, q_phi=path.q)


@attrs.frozen
class ODEMidpoint(Solver):
    """Second-order single-step solver of the probability flow: every second time is the middle of a step.

    The last step is complete for an odd number of evaluations, and first-order for an even one.

    Arguments:
        grid: Times of the evaluations.
    """

    order: ClassVar[int | None] = 2

    grid: TimeGrid = field(factory=LogSnrGrid, validator=_IS_GRID)

    def advance(self, path: SolverPath, phi: Tensor, q: Number, alpha: Number) -> SolverPath:  # noqa: D102
        if isinstance(q, Tensor):
            raise ConfigError("the midpoint solver has one time for all sites; write ODE2(), on the command line ode-2")
        if path.w_0 is None or path.phi is None:  # to the middle
            w_0 = torch.add(path.w, phi, alpha=path.q - path.q_0)  # the drift since 0 is not part of the step
            w = torch.add(path.w, phi, alpha=q - path.q_0)
            return SolverPath(w, q, path.q, phi=phi, q_phi=path.q, w_0=w_0)
        r = 0.5 * math.log(q / path.q_phi) / math.log(path.q / path.q_phi)
        D = torch.lerp(path.phi, phi, r)
        w = torch.add(path.w_0, D, alpha=q - path.q_0)
        return SolverPath(w, q, q)


@attrs.frozen
class SDE1(Solver):
    """First-order stochastic solver (SDE-BFN-Solver 1): the ancestral sampler with E[phi] in place of a drawn phi(x).

    Arguments:
        grid: Times of the evaluations.
    """

    grid: TimeGrid = field(factory=LogSnrGrid, validator=_IS_GRID)

    def advance(self, path: SolverPath, phi: Tensor, q: Number, alpha: Number) -> SolverPath:  # noqa: D102
        w = _sde_step(path, torch.randn_like(path.w), phi, q, alpha)
        return SolverPath(w, q, q)


@attrs.frozen
class SDE2(Solver):
    """Second-order multistep stochastic solver (SDE-BFN-Solver 2).

    Arguments:
        grid: Times of the evaluations.
        slope: See :class:`ODE2`.
    """

    grid: TimeGrid = field(factory=LogSnrGrid, validator=_IS_GRID)
    slope: Slope = field(default="log-snr", validator=_IS_SLOPE)

    def advance(self, path: SolverPath, phi: Tensor, q: Number, alpha: Number) -> SolverPath:  # noqa: D102
        mean_q = (2.0 / 3.0) * (q**3 - path.q**3) / (q**2 - path.q**2)  # dv = phi dB, with B = q^2
        z = torch.randn_like(path.w)  # before D is held, because drawing takes memory of its own
        w = _sde_step(path, z, _extrapolated(path, phi, q, self.slope, mean_q=mean_q), q, alpha)
        return SolverPath(w, q, q, phi=phi, q_phi=path.q)


@attrs.frozen
class EulerMaruyama(Solver):
    """Euler-Maruyama steps, with a constant accuracy rate within each step: a baseline for many steps.

    Its beliefs accumulate the accuracy of these steps, which is less than B(t).

    Arguments:
        grid: Times of the evaluations.
    """

    exact_for_constants: ClassVar[bool] = False

    grid: TimeGrid = field(factory=UniformGrid, validator=_IS_GRID)

    def accuracy(self, family: ChannelFamily[Any], s: Number, t: Number) -> Number:
        """The accuracy rate at s, times t - s."""
        if isinstance(s, Tensor):
            return (t - s) * family.snr(family.schedule.alpha(s))
        rate = family.schedule.alpha(torch.tensor(s, dtype=torch.float64))
        return (t - s) * family.snr(rate).item()

    def advance(self, path: SolverPath, phi: Tensor, q: Number, alpha: Number) -> SolverPath:  # noqa: D102
        q = _sqrt(path.q**2 + alpha)
        w = _sde_step(path, torch.randn_like(path.w), phi, q, alpha)
        return SolverPath(w, q, q)


@attrs.frozen
class FlowSampler(Solver):
    """Draws new beliefs at each time from the flow of the last guess, so that no noise is carried between steps.

    It needs an output with a spread: about points, its samples are too narrow at any number of steps, and a warning
    says so.

    Arguments:
        grid: Times of the evaluations.
        guess: "sample", a draw of the output, which gives the beliefs the right distribution if the output is exact;
            or "mean", E[phi], as published, which makes a point of every output.
        temperature: Variance of the noise, in units of the flow's; below 1 for likelier samples.
    """

    grid: TimeGrid = field(factory=LogSnrGrid, validator=_IS_GRID)
    guess: Literal["sample", "mean"] = field(default="sample", validator=validators.one_of("sample", "mean"))
    temperature: float = field(default=1.0, validator=validators.number(ge=0, le=100))

    def guess_of(self, output: Output) -> Any:
        """A draw of all parts together, or the output."""
        parts = getattr(output, "parts", {"": output}).values()
        if self.guess == "mean" or any(isinstance(part, Delta) for part in parts):
            warnings.warn(NARROW, stacklevel=2)
        return output if self.guess == "mean" else output.sample()

    def embedding(self, family: ChannelFamily[Any], guess: Any, w: Tensor) -> Tensor:
        """Embedding of the guess."""
        return family.mean_embedding(guess) if self.guess == "mean" else family.embed(guess).to(w.dtype)

    def advance(self, path: SolverPath, phi: Tensor, q: Number, alpha: Number) -> SolverPath:  # noqa: D102
        w = torch.mul(phi, _weight(q, phi)).add_(torch.randn_like(phi), alpha=math.sqrt(self.temperature))
        return SolverPath(w, q, q)
