r"""Exact log-density of a model of continuous data, by the probability-flow ODE.

In :math:`w = v / \sqrt{B}` and :math:`\lambda = \tfrac12 \ln B`, with (v, B) the coordinates of a
:class:`~bfn_toolkit.ChannelFamily` whose embedding is the data themselves, and :math:`\hat x` the mean of the output,

.. math::
    \frac{dw}{d\lambda} = \sqrt{B} \, \hat x, \qquad
    \ln p(x) = \ln N(w_0; 0, I)
               - \int_{\lambda_0}^{\lambda_1} \mathrm{tr} \frac{\partial \dot w}{\partial w} \, d\lambda
               + \tfrac{D}{2} \ln B_1, \qquad w_1 = \sqrt{B_1} \, x

It is the density of the model's samples, smoothed by :math:`N(0, 1 / B_1)`, and not a bound.  The integration ends a
little after t = 0, where B is 0, which leaves an error that is linear in that time.

Source: Song et al. 2021 (arXiv 2011.13456), eq. 39; for BFN Xue et al. 2024 (arXiv 2404.15766), proposition 4.2.
"""

from __future__ import annotations

import math
from contextlib import suppress
from typing import Any

import attrs
import torch
from torch import Tensor

from bfn_toolkit.errors import ConfigError
from bfn_toolkit.families import ChannelFamily, Family, check_n_steps
from bfn_toolkit.model import Condition, Model
from bfn_toolkit.shapes import expand


@attrs.frozen(eq=False)
class LogDensity:
    """Log-densities in nats, with error estimates.

    Arguments:
        value: ln p(x) of each example, with shape (B,), in float64.
        error: Change of each value with steps twice as long and a start twice as late, plus the standard error of the
            estimated trace.  It measures the solver, not the network.
    """

    value: Tensor
    error: Tensor


def log_density(
    model: Model,
    x: Tensor,
    *,
    n_steps: int = 100,
    probes: int = 0,
    start: float = 1e-4,
    condition: Condition | None = None,
) -> LogDensity:
    """Integrates the probability-flow ODE from data to the prior, by Runge-Kutta of order 4 on equal steps of lambda.

    Arguments:
        model: A model whose family is a channel with phi(x) = x, such as the Gaussian with any head.
        x: Data (B, *site), on the model's device.
        n_steps: Number of steps of four evaluations each; the error estimate needs half as many in addition.
        probes: Number of random directions for the trace (Hutchinson 1990); 0 for the exact trace, with one gradient
            for each of D numbers (for D up to a hundred).
        start: Time at which the density is that of the prior.
        condition: Conditions of the network by name.
    Raises:
        ConfigError: If the family's data are not their own embedding.
    """
    family = _identity_channel(model.family, x)
    check_n_steps(n_steps)
    fine, spread = _integrate(model, family, x, n_steps, probes, start, condition)
    coarse, _ = _integrate(model, family, x, max(1, n_steps // 2), probes, 2.0 * start, condition)
    return LogDensity(fine, (fine - coarse).abs() + spread)


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


def _integrate(
    model: Model,
    family: ChannelFamily[Any],
    x: Tensor,
    n_steps: int,
    probes: int,
    start: float,
    condition: Condition | None,
) -> tuple[Tensor, Tensor]:
    ends = family.schedule.beta(torch.tensor([1.0, start], dtype=torch.float64))
    unit = family.snr(torch.ones((), dtype=torch.float64))
    last, first = (0.5 * (ends * unit).log()).tolist()
    step = (first - last) / n_steps
    grid = last + 0.5 * step * torch.arange(2 * n_steps + 1, dtype=torch.float64)  # including the midpoints
    accuracies = (2.0 * grid).exp()
    times = family.schedule.time(accuracies / unit)
    signs = torch.randint(0, 2, (probes, *x.shape), device=x.device).to(x.dtype).mul_(2.0).sub_(1.0)

    def slope(w: Tensor, i: int) -> tuple[Tensor, Tensor]:
        """d w / d lambda, and estimates of the trace of its Jacobian with shape (max(probes, 1), B)."""
        accuracy = accuracies[i].to(x.device, x.dtype).expand(len(x))
        root = expand(accuracy.sqrt(), w)
        with torch.enable_grad():
            w = w.detach().requires_grad_()
            params = family.from_natural((root * w).unsqueeze(-1), accuracy)
            drift = root * model.output(params, times[i], condition).mean
            if probes:
                pairs = [(sign, torch.autograd.grad(drift, w, sign, retain_graph=True)[0]) for sign in signs]
                traces = [(sign * pulled).flatten(1).sum(1) for sign, pulled in pairs]
            else:
                columns = drift.flatten(1).unbind(1)
                pulled = [torch.autograd.grad(column.sum(), w, retain_graph=True)[0] for column in columns]
                traces = [sum((g.flatten(1)[:, i] for i, g in enumerate(pulled)), torch.zeros_like(columns[0]))]
        return drift.detach(), torch.stack(traces).double()

    w = expand(accuracies[0].sqrt().to(x.device, x.dtype), x) * x
    trace = torch.zeros(max(probes, 1), len(x), dtype=torch.float64, device=x.device)
    for i in range(0, 2 * n_steps, 2):
        d1, t1 = slope(w, i)
        d2, t2 = slope(w + 0.5 * step * d1, i + 1)
        d3, t3 = slope(w + 0.5 * step * d2, i + 1)
        d4, t4 = slope(w + step * d3, i + 2)
        w = w + (step / 6.0) * (d1 + 2.0 * d2 + 2.0 * d3 + d4)
        trace = trace - (step / 6.0) * (t1 + 2.0 * t2 + 2.0 * t3 + t4)  # step is negative: from the data to the prior
    dimensions = x[0].numel()
    prior = -0.5 * (w.double().flatten(1).square().sum(1) + dimensions * math.log(2.0 * math.pi))
    spread = trace.std(0) / math.sqrt(probes) if probes > 1 else torch.zeros_like(trace[0])
    return prior - trace.mean(0) + 0.5 * dimensions * accuracies[0].log().item(), spread
