r"""Exact log-density of a model of continuous data, by the probability-flow ODE.

In :math:`w = v / \sqrt{B}` and :math:`q = \sqrt{B}`, with (v, B) the coordinates of a
:class:`~bfn_toolkit.ChannelFamily` whose embedding is the data themselves, and :math:`\hat x` the mean of the output,

.. math::
    \frac{dw}{dq} = \hat x, \qquad
    \ln p(x) = \ln N(w_0; 0, I) - \int_0^{q_1} \mathrm{tr} \frac{\partial \hat x}{\partial w} \, dq + D \ln q_1,
    \qquad w_1 = q_1 \, x

It is the density of the model's samples, smoothed by :math:`N(0, 1 / B_1)`, and not a bound.  In q, unlike in
:math:`\ln q`, the flow is regular at t = 0, so the integration begins at the prior itself.

Source: Song et al. 2021 (arXiv 2011.13456), eq. 39; for BFN Xue et al. 2024 (arXiv 2404.15766), proposition 4.2.  The
steps are those of Dormand and Prince 1980 (J. Comput. Appl. Math. 6, 19), RK5(4)7M.
"""

from __future__ import annotations

import math
from contextlib import suppress
from typing import Any

import attrs
import torch
from torch import Tensor

from bfn_toolkit.arguments import conditions, data_and_mask
from bfn_toolkit.errors import ConfigError
from bfn_toolkit.families import ChannelFamily, Family
from bfn_toolkit.model import Condition, Model
from bfn_toolkit.shapes import expand, in_float64, per_example
from bfn_toolkit.validators import whole_number

# Each row: where an evaluation takes place within the step, and the weights of the evaluations before it.  The last
# one is the result, of order 5, and the first evaluation of the next step.
STAGES = (
    (1 / 5, (1 / 5,)),
    (3 / 10, (3 / 40, 9 / 40)),
    (4 / 5, (44 / 45, -56 / 15, 32 / 9)),
    (8 / 9, (19372 / 6561, -25360 / 2187, 64448 / 6561, -212 / 729)),
    (1.0, (9017 / 3168, -355 / 33, 46732 / 5247, 49 / 176, -5103 / 18656)),
    (1.0, (35 / 384, 0.0, 500 / 1113, 125 / 192, -2187 / 6784, 11 / 84)),
)
# The result minus the one of order 4, which the same evaluations give.
ERRORS = (71 / 57600, 0.0, -71 / 16695, 71 / 1920, -17253 / 339200, 22 / 525, -1 / 40)
SAFETY = 3.0  # factor of the error estimates, which can be too small where a step is long
LONGEST = 0.1  # step, as a share of the way
LEAST_SHARE = 0.05  # of the tolerance that is left, which any step may use


@attrs.frozen(eq=False)
class LogDensity:
    """Log-densities in nats, with error estimates.

    Arguments:
        value: ln p(x) of each example, with shape (B,), in float64.
        error: Estimates of their errors, with the same shape: those of the steps, at most the tolerance in all, and
            the standard error of an estimated trace.  They measure the solver, neither the network nor its rounding.
        evaluations: Number of evaluations of the network.
    """

    value: Tensor
    error: Tensor
    evaluations: int


def log_density(
    model: Model,
    x: Tensor,
    *,
    tolerance: float = 1e-3,
    max_evaluations: int = 10_000,
    probes: int = 0,
    condition: Condition | None = None,
) -> LogDensity:
    """Integrates the probability-flow ODE from data to the prior, in adaptive steps of order 5.

    Each row has steps of its own, so it does not depend on the others.  All rows are evaluated together until the last
    one has reached the prior.

    Arguments:
        model: A model whose family is a channel with phi(x) = x, such as the Gaussian with any head.
        x: Data (B, *site), on the model's device.
        tolerance: Largest error of the solver, in nats; at most 0.01, because the estimates of larger ones are poor.
        max_evaluations: Largest number of evaluations of the network.  About 100 to 200 are enough for a smooth output,
            and some thousand for one with kinks, such as an estimate that is clipped.
        probes: Number of random directions for the trace (Hutchinson 1990); 0 for the exact trace, with one gradient
            for each of D numbers (for D up to a hundred).
        condition: Conditions of the network by name.
    Raises:
        ConfigError: If the family's data are not their own embedding, a number is out of range, the gradient of the
            output is not that of its values, or the evaluations do not suffice.
    """
    if not 0.0 < tolerance <= 0.01:
        raise ConfigError(f"tolerance must be above 0 and at most 0.01 nats, got {tolerance!r}; the default is 1e-3")
    (x, _), probes = data_and_mask(model, x), whole_number("probes", probes, least=0)
    condition, max_evaluations = conditions(model, condition, len(x)), whole_number("max_evaluations", max_evaluations)
    flow = _Flow(model, _identity_channel(model.family, x), x, probes, condition)
    flow.check_gradient()
    size, rows = x[0].numel(), in_float64(x.new_zeros(len(x)))
    q, error = rows + flow.last, rows
    remaining = q.log1p()  # the clock of the steps: even in q near the prior, and in ln q near the data
    step = longest = LONGEST * remaining
    state = torch.cat([flow.last * in_float64(x).reshape(len(x), -1), rows.unsqueeze(1).repeat(1, max(probes, 1))], 1)
    slope = flow.slope(state, q)
    while unfinished := int((remaining > 0.0).sum()):  # the only time that a step waits for the device
        if flow.evaluations + len(STAGES) > max_evaluations:
            raise ConfigError(
                f"{unfinished} of {len(x)} log-densities are not within {tolerance:g} nats after {flow.evaluations} "
                f"evaluations; write max_evaluations={10 * max_evaluations}"
                + (f", or tolerance={min(0.01, 10.0 * tolerance):g}" if tolerance < 0.01 else "")
            )
        step = torch.minimum(torch.minimum(step, longest), remaining)
        after = torch.expm1(remaining - step)
        h, slopes, to = (after - q).unsqueeze(1), [slope], state
        for place, weights in STAGES:
            to = state + h * _combined(slopes, weights)
            slopes.append(flow.slope(to, torch.lerp(q, after, place)))
        off = h * _combined(slopes, ERRORS)
        # An error of w changes the density by its product with the score, which is q x_hat - w.
        score = after.unsqueeze(1) * slopes[-1][:, :size] - to[:, :size]
        nats = SAFETY * ((score * off[:, :size]).abs().sum(1) + off[:, size:].mean(1).abs())
        # The least share lets a step pass whose error is rounding, which is proportional to its length.
        share = (step / remaining).clamp_min(LEAST_SHARE)
        allowed = (tolerance - error) * torch.where(remaining > 0.0, share, 1.0)
        passed = ~(nats > allowed)  # a row that is not finite goes on to the end
        state = torch.where(passed.unsqueeze(1), to, state)
        slope = torch.where(passed.unsqueeze(1), slopes[-1], slope)
        q, error = torch.where(passed, after, q), torch.where(passed, error + nats, error)
        remaining = torch.where(passed, remaining - step, remaining)
        step = step * (0.9 * (allowed / nats.clamp_min(1e-300)) ** 0.2).clamp(0.2, 2.0)
    w, traces = state[:, :size], state[:, size:]
    value = -0.5 * (w.square().sum(1) + size * math.log(2.0 * math.pi)) + traces.mean(1) + size * math.log(flow.last)
    spread = traces.std(1) / math.sqrt(probes) if probes > 1 else rows
    return LogDensity(value, error + spread, flow.evaluations)


def _combined(slopes: list[Tensor], weights: tuple[float, ...]) -> Tensor:
    terms = [weight * slope for weight, slope in zip(weights, slopes, strict=True) if weight]
    return torch.stack(terms).sum(0)


def _identity_channel(family: Family[Any], x: Tensor) -> ChannelFamily[Any]:
    """The family as a channel whose embedding is the data themselves."""
    with suppress(ConfigError):
        channel = family.as_channel()
        if x.is_floating_point() and channel.channels == 1 and torch.equal(channel.embed(x[:1]), x[:1].unsqueeze(-1)):
            return channel
    raise ConfigError(
        f"{type(family).__name__} has no density by the probability flow, which needs continuous data and a channel "
        "with phi(x) = x, such as the Gaussian; use the bound (bfn evaluate, or model.nll)"
    )


class _Flow:
    """The right-hand side of the ODE, for states [w, integral of each trace from q_1] (B, D + max(probes, 1))."""

    def __init__(
        self, model: Model, family: ChannelFamily[Any], x: Tensor, probes: int, condition: Condition | None
    ) -> None:
        one = torch.ones((), dtype=torch.float64)
        self.model, self.family, self.x, self.condition = model, family, x, condition
        self.unit = family.snr(one).item()
        self.last = math.sqrt(family.schedule.beta(one).item() * self.unit)
        self.signs = torch.randint(0, 2, (probes, *x.shape), device=x.device).to(x.dtype).mul_(2.0).sub_(1.0)
        self.evaluations = 0

    def mean(self, w: Tensor, q: Tensor) -> Tensor:
        """x_hat, for w with the shape of the data, at q, with shape (B,)."""
        self.evaluations += 1
        accuracy, root = q.square(), expand(q.to(w), w)
        params = self.family.from_natural((root * w).unsqueeze(-1), accuracy.to(w))
        t = self.family.schedule.time(accuracy / self.unit).clamp(0.0, 1.0)
        mean: Tensor = self.model.output(params, t, self.condition).mean
        return mean

    @torch.inference_mode(False)
    @torch.enable_grad()
    def slope(self, state: Tensor, q: Tensor) -> Tensor:
        """d state / dq."""
        w = state[:, : self.x[0].numel()].to(self.x, copy=True).view_as(self.x).requires_grad_()
        mean = self.mean(w, q)

        def pulled(direction: Tensor) -> Tensor:
            """The direction times the Jacobian of x_hat, with shape (B, D)."""
            if not mean.requires_grad:
                return torch.zeros_like(w).reshape(len(w), -1)
            (back,) = torch.autograd.grad(mean, w, direction, retain_graph=True, materialize_grads=True)
            return back.reshape(len(w), -1)

        if len(self.signs):
            traces = [(sign.reshape(len(w), -1) * pulled(sign)).sum(1) for sign in self.signs]
        else:
            units = torch.eye(w[0].numel(), device=w.device, dtype=w.dtype)
            traces = [torch.stack([pulled(e.view_as(w[0]).expand_as(w))[:, i] for i, e in enumerate(units)]).sum(0)]
        return in_float64(torch.cat([mean.detach().reshape(len(w), -1), torch.stack(traces, 1)], 1))

    @torch.inference_mode(False)
    @torch.enable_grad()
    def check_gradient(self) -> None:
        """Compares the gradient of x_hat with differences, in the middle of the flow.

        Raises:
            ConfigError: If they disagree.
        """
        middle = math.expm1(0.5 * math.log1p(self.last))
        q = in_float64(self.x.new_zeros(len(self.x))) + middle
        w = (middle * self.x).requires_grad_()
        size = torch.finfo(w.dtype).eps ** (1.0 / 3.0) * (1.0 + w.detach().abs())
        mean = self.mean(w, q)
        with torch.no_grad():
            changes = self.mean(w + size, q) - self.mean(w - size, q)
        pulled = torch.zeros_like(w)
        if mean.requires_grad:
            (pulled,) = torch.autograd.grad(mean.sum(), w, materialize_grads=True)
        differences, gradients = per_example(changes), per_example(2.0 * size * pulled)
        off = (differences - gradients).abs().sum()
        if bool(off > 0.1 * (differences.abs() + gradients.abs()).sum()):
            raise ConfigError(
                f"the density needs the gradient of the output, and that of {type(self.model).__name__} is not the "
                "slope of its values; take torch.no_grad and detach out of it, and call eval() if it draws at random"
            )
