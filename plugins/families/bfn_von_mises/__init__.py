r"""von Mises family: angles in a fixed number of messages, as published for crystals (plugin).

Beliefs are von Mises distributions with natural parameters v = c (cos m, sin m).  The sender's message is von Mises
too, and Bayes' rule adds vectors:

.. math:: y \sim \mathrm{vM}(x, \alpha), \qquad v' = v + \alpha \, (\cos y, \sin y)

The concentration c' = |v'| depends on y and is at most c + alpha, so accuracies do not add: the table of accuracies is
part of the model, and there is no continuous-time loss.  The n-step loss has a closed form, with A = I_1 / I_0:

.. math:: \mathrm{KL} = 2 \alpha A(\alpha) \sin^2 \big((x - \hat x) / 2\big)

Messages are independent given x, so the flow is a sum of n draws, which can be made together.  The accuracies are such
that the entropy of a belief with the expected concentration falls linearly, where the square of that concentration is

.. math:: E|v_i|^2 = \sum_j \alpha_j^2 + 2 \sum_{j < k} \alpha_j \alpha_k A(\alpha_j) A(\alpha_k) .

For an additive family of angles see ``circle`` (``bfn_directional``), the limit of many messages.

Source: CrysBFN (arXiv 2502.02016).  Differences: vectors are added without an offset in the angle; the loss is the
divergence, not the squared distance; samplers update beliefs instead of drawing them anew from the flow; the expected
concentration is a root mean square in closed form, theirs a Monte Carlo mean.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import attrs
import torch
from attrs import field
from torch import Tensor
from torch.distributions import Distribution

from bfn_toolkit import (
    Delta,
    Entry,
    NetworkIO,
    Output,
    SteppedFamily,
    TableSchedule,
    as_axes,
    as_shape,
    by_example,
    check_axes,
    check_finite,
    check_site_shape,
    expand,
    guide,
    hookimpl,
    marginal,
    present,
    validators,
    von_mises,
)

CHUNK = 2**10  # messages times sites of one row in one draw


def entropy(concentration: Tensor) -> Tensor:
    r"""Entropy :math:`\ln 2 \pi I_0(c) - c A(c)` of a von Mises distribution, in nats."""
    i0, i1 = torch.special.i0e(concentration), torch.special.i1e(concentration)
    nats: Tensor = (2.0 * math.pi * i0).log() + concentration * (i0 - i1) / i0
    return nats


@lru_cache(maxsize=16)
def entropy_linear_accuracies(n_steps: int, beta_1: float) -> tuple[float, ...]:
    """Accuracies of n messages for which the entropy at the expected concentration falls linearly.

    Arguments:
        n_steps: Number of messages n.
        beta_1: Root mean square of the concentration after all messages.

    >>> [round(alpha, 3) for alpha in entropy_linear_accuracies(3, 20.0)]
    [2.199, 4.389, 14.521]
    """
    from scipy.optimize import brentq
    from scipy.special import i0e, i1e

    last = torch.tensor([0.0, beta_1], dtype=torch.float64)
    start, end = entropy(last)
    goals = torch.lerp(start, end, torch.linspace(0.0, 1.0, n_steps + 1, dtype=torch.float64)[1:-1])
    low, high = torch.zeros_like(goals), torch.full_like(goals, beta_1)
    for _ in range(100):  # entropy falls with the concentration: bisection to the last bit
        middle = 0.5 * (low + high)
        above = entropy(middle) > goals
        low, high = torch.where(above, middle, low), torch.where(above, high, middle)
    accuracies: list[float] = []
    square = along = 0.0  # E|v|^2, and E[v] along the direction of x
    for goal in [*(0.5 * (low + high)).tolist(), beta_1]:

        def excess(alpha: float, missing: float = goal**2 - square, along: float = along) -> float:
            return alpha * (alpha + 2.0 * along * float(i1e(alpha) / i0e(alpha))) - missing

        alpha = float(brentq(excess, 0.0, goal, xtol=1e-300, rtol=1e-14))
        resultant = float(i1e(alpha) / i0e(alpha))
        square, along = square + alpha * (alpha + 2.0 * along * resultant), along + alpha * resultant
        accuracies.append(alpha)
    return tuple(accuracies)


def unit(x: Tensor) -> Tensor:
    """(cos x, sin x) of angles (...), with shape (..., 2)."""
    return torch.stack([x.cos(), x.sin()], -1)


@attrs.frozen(eq=False)
class Direction(Delta):
    """A certain angle; its log-density is that of a von Mises distribution with standard deviation ``std``."""

    def log_prob(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Log-density in nats per example, with concentration std^-2."""
        if self.std is None:
            return super().log_prob(x)
        density = von_mises(unit(self.value) / self.std**2)
        return density.log_prob(x) if mask is None else marginal(density, mask).log_prob(present(x, mask))


@guide.register
def _(given: Direction, free: Any, weight: float) -> Output:
    turn = torch.remainder(given.value - free.value + math.pi, 2.0 * math.pi) - math.pi  # the shorter way round
    return attrs.evolve(given, value=given.value + weight * turn)


@attrs.frozen(eq=False)
class VonMisesParams:
    """Beliefs with natural parameters v at each site, independent.

    Arguments:
        v: Concentration times mean direction, with shape (B, *site, 2).
    """

    v: Tensor


@attrs.frozen
class VonMises(SteppedFamily[VonMisesParams]):
    """Angles in radians, in n messages; any real number is accepted, and samples are in (-pi, pi].

    Arguments:
        site_shape: Shape of one example.
        n_steps: Number of messages n, part of the model: losses and samplers must use it.
        beta_1: Root mean square of the concentration of the beliefs at t = 1.
        axes: Names of the axes of the site shape (:class:`~bfn_toolkit.PartIO`); empty if they have none.

    >>> family = VonMises(site_shape=(1,), n_steps=3, beta_1=20.0)
    >>> belief = family.update(family.prior(1), torch.tensor([[0.5]]), torch.tensor([2.0]))
    >>> family.input(belief).mean
    tensor([[0.5000]])
    """

    site_shape: tuple[int, ...] = field(default=(1,), converter=as_shape, validator=check_site_shape)
    n_steps: int = field(default=100, validator=validators.integer(ge=1, le=3000))
    beta_1: float = field(default=1000.0, validator=validators.number(ge=1e-2, le=1e6))
    axes: tuple[str, ...] = field(default=(), kw_only=True, converter=as_axes, validator=check_axes)
    schedule: TableSchedule = field(init=False, repr=False, eq=False)

    def __attrs_post_init__(self) -> None:
        object.__setattr__(self, "schedule", TableSchedule(entropy_linear_accuracies(self.n_steps, self.beta_1)))

    @property
    def network_io(self) -> NetworkIO:  # noqa: D102
        return NetworkIO(self.site_shape, 3, 2, self.axes, "direction")

    @property
    def site_times(self) -> bool:  # noqa: D102
        return True

    def prior(
        self, batch_size: int, *, device: torch.device | str | None = None, dtype: torch.dtype | None = None
    ) -> VonMisesParams:
        """v = 0: uniform."""
        return VonMisesParams(torch.zeros((batch_size, *self.site_shape, 2), device=device, dtype=dtype))

    def input(self, params: VonMisesParams) -> Distribution:
        """vM(v)."""
        return von_mises(params.v)

    def sender(self, x: Tensor, alpha: Tensor) -> Distribution:
        """vM(x, alpha)."""
        direction = unit(x)
        return von_mises(expand(alpha, direction) * direction)

    def update(self, params: VonMisesParams, y: Tensor, alpha: Tensor) -> VonMisesParams:
        """v' = v + alpha (cos y, sin y)."""
        y, alpha = (value.to(params.v.dtype) for value in (y, alpha))
        return VonMisesParams(params.v + expand(alpha, params.v) * unit(y))

    def flow(self, x: Tensor, t: Tensor) -> VonMisesParams:
        """The sum of the messages up to t, drawn in chunks."""
        step = self.schedule.step(by_example(t, len(x)))
        sent, v, x = expand(step, x).unsqueeze(1), torch.zeros_like(unit(x)), x.unsqueeze(1)
        alphas = torch.tensor(self.schedule.accuracies, device=x.device, dtype=x.dtype)
        numbers = torch.arange(len(alphas), device=x.device)
        for chunk in torch.split(numbers, max(1, CHUNK // math.prod(self.site_shape))):
            number, alpha = (a.reshape(-1, *(1,) * len(self.site_shape)) for a in (chunk, alphas[chunk]))
            y = von_mises(alpha.unsqueeze(-1) * unit(x)).sample()  # (B, messages, *site)
            received = torch.where(number < sent, alpha, 0.0)
            v = v + (received.unsqueeze(-1) * unit(y)).sum(1)
        return VonMisesParams(v)

    def features(self, params: VonMisesParams) -> Tensor:
        """E[(cos x, sin x)], and ln(1 + c) scaled to [0, 1], because the concentration c is random at each t."""
        c = torch.linalg.vector_norm(params.v, dim=-1, keepdim=True)
        most = math.log1p(sum(self.schedule.accuracies))
        return torch.cat([params.v * _shrinkage(c), torch.log1p(c) / most], -1)

    def output(self, raw: Tensor, params: VonMisesParams) -> Output:
        """The direction of the beliefs, tilted by the raw numbers in units of sqrt(1 + c)."""
        c = torch.linalg.vector_norm(params.v, dim=-1, keepdim=True)
        tilted = params.v + (1.0 + c).sqrt() * raw
        return Direction(torch.atan2(tilted[..., 1], tilted[..., 0]), self.beta_1**-0.5)

    def check_data(self, x: Tensor) -> None:
        """Checks shape, floating dtype and finite values."""
        super().check_data(x)
        check_finite(self, x, "angles")


def _shrinkage(c: Tensor) -> Tensor:
    """A(c) / c."""
    c = c.clamp_min(1e-6)
    ratio: Tensor = torch.special.i1e(c) / torch.special.i0e(c) / c
    return ratio


@hookimpl
def bfn_families() -> Sequence[Entry]:
    """The family."""
    examples = (VonMises(n_steps=5, beta_1=20.0), VonMises(site_shape=(2, 2), n_steps=3, beta_1=3.0))
    return [Entry("von-mises", VonMises, examples)]
