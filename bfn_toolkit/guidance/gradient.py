r"""Gradient guidance: a model wrapper that follows the gradient of a log-likelihood of the data.

Let l(x) be differentiable, such as the log-probability of a measurement or the score of a predictor.  Its gradient g,
taken at the mean of the output, moves the output in natural parameters,

.. math::
    \text{classes:} \quad \tilde p_k \propto p_k \, e^{s g_k}, \qquad
    \text{points:} \quad \tilde x = \hat x + \frac{s \, S \, g}{1 + s \, S \, c},
    \quad S = \frac{1}{1 / v + B}, \quad c = \max(0, -l'')

with the scale s, and for points the remaining uncertainty S at accuracy B of data with variance v.  Because of the
curvature c, the step does not overshoot a nearby maximum, however steep l is.  For s = 1 both are the posterior: of
classes, if l is a sum over the sites; the mean of a Gaussian posterior, if l is quadratic or linear.  The gradient does
not pass through the network.

Source: the shift in the parameters' space of MolJO (arXiv 2411.13280); the denominator is Newton's.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial, singledispatch
from typing import Any

import attrs
import torch
from torch import Tensor

from bfn_toolkit.bfn import FlowModel
from bfn_toolkit.errors import ConfigError
from bfn_toolkit.families import Part
from bfn_toolkit.model import Condition, Model, ModelWrapper
from bfn_toolkit.outputs import Delta, Finite, Output
from bfn_toolkit.shapes import Data, expand

Likelihood = Callable[[Data], Tensor]


@singledispatch
def _expected(output: Any) -> Tensor:
    """Expected data under an output, the argument of the likelihood."""
    raise ConfigError(f"gradient guidance is for outputs that are classes or points, found {type(output).__name__}")


@_expected.register
def _(output: Finite) -> Tensor:
    if output.support is not None:
        raise ConfigError("gradient guidance is for classes or points, found weights on a grid of values")
    return output.logits.softmax(-1)


@_expected.register
def _(output: Delta) -> Tensor:
    return output.value


@attrs.frozen(eq=False)
class _Push:
    """Gradient s g and curvature s c of the scaled log-likelihood, and the uncertainty S for points."""

    gradient: Tensor
    curvature: Tensor
    uncertainty: Callable[[], Tensor]


@singledispatch
def _moved(output: Any, push: _Push) -> Output:
    """The output moved along the gradient."""
    raise AssertionError(f"{type(output).__name__} outputs are refused earlier")


@_moved.register
def _(output: Finite, push: _Push) -> Output:
    return Finite(None, output.logits + push.gradient)


@_moved.register
def _(output: Delta, push: _Push) -> Output:
    left = expand(push.uncertainty(), push.gradient)
    return attrs.evolve(output, value=output.value + left * push.gradient / (1.0 + left * push.curvature))


class GradientGuided(ModelWrapper, FlowModel):
    """Model whose outputs are moved along the gradient of a log-likelihood.

    Arguments:
        model: The model.
        log_likelihood: Function l that returns nats with shape (B,).  Its argument is x_hat (B, *site) for points,
            probabilities (B, *site, K) for classes, and a mapping of these by part for data of several parts.
        scale: Scale s; 0 for no guidance.
        data_variance: Mean square v of real data.
    Raises:
        ConfigError: If a number is not finite, or the variance not positive.

    >>> from bfn_gaussian import Gaussian
    >>> from bfn_siren import Siren
    >>> from bfn_toolkit import BFN
    >>> bfn = BFN(Gaussian(site_shape=(2,)), Siren(width=16))
    >>> right = GradientGuided(bfn, lambda x: 10.0 * x[:, 0])
    >>> right.sample(5, n_steps=10).shape
    torch.Size([5, 2])
    """

    def __init__(
        self, model: Model, log_likelihood: Likelihood, scale: float = 1.0, data_variance: float = 1.0
    ) -> None:
        if not math.isfinite(scale) or not 0.0 < data_variance < math.inf:
            raise ConfigError(f"scale must be finite and data_variance positive, got {scale} and {data_variance}")
        super().__init__(model)
        self.log_likelihood = log_likelihood
        self.scale, self.data_variance = float(scale), float(data_variance)

    def output(self, params: Any, t: Tensor, condition: Condition | None = None) -> Output:
        """The model's output, moved.

        Raises:
            ConfigError: If the output is neither classes nor points, or the likelihood has another shape.
        """
        output = self.model.output(params, t, condition)
        if self.scale == 0.0:
            return output
        parts = list(self.family.walk(output, params))
        pushes = self._gradients({part.name: _expected(part.values[0]) for part in parts})
        moved = {}
        for part in parts:
            p_o, beliefs = part.values
            uncertainty = partial(_uncertainty, part, beliefs, self.data_variance)
            moved[part.name] = _moved(p_o, _Push(*pushes[part.name], uncertainty))
        return self.family.join_outputs(moved)

    def _gradients(self, expected: dict[str, Tensor]) -> dict[str, tuple[Tensor, Tensor]]:
        """s g and s c at the expected data, by the names of the parts."""
        with torch.inference_mode(False), torch.enable_grad():
            x_hat = {name: part.detach().clone().requires_grad_() for name, part in expected.items()}
            nats = self.log_likelihood(self.family.join(x_hat)) * self.scale
            rows = len(next(iter(x_hat.values())))
            if nats.shape != (rows,):
                raise ConfigError(f"the log-likelihood must have shape ({rows},), found {tuple(nats.shape)}")
            pushes = _slopes(nats.sum(), x_hat, create_graph=True)
            bends = _slopes(sum(push.sum() for push in pushes.values()), x_hat)
        return {name: (pushes[name].detach(), -bends[name].clamp_max(0.0)) for name in x_hat}


def _uncertainty(part: Part, params: Any, variance: float) -> Tensor:
    """S = 1 / (1 / v + B), with shape (B,)."""
    accuracy: Tensor = part.as_channel().natural_params(params)[1]
    return (1.0 / variance + accuracy).reciprocal()


def _slopes(total: Any, of: dict[str, Tensor], *, create_graph: bool = False) -> dict[str, Tensor]:
    """Gradients by name, zero for a part on which the total does not depend."""
    if not total.requires_grad:
        return {name: torch.zeros_like(part) for name, part in of.items()}
    slopes = torch.autograd.grad(total, list(of.values()), create_graph=create_graph, allow_unused=True)
    pairs = zip(of.items(), slopes, strict=True)
    return {name: torch.zeros_like(part) if slope is None else slope for (name, part), slope in pairs}
