r"""Steering: a model that wraps a model, and follows the gradient of a log-likelihood of the data.

Let l(x) be differentiable, such as the log-probability of a measurement or the score of a predictor.  Its gradient g at
what the output expects moves the output in natural parameters,

.. math::
    \text{classes:} \quad \tilde p_k \propto p_k \, e^{s g_k}, \qquad
    \text{points:} \quad \tilde x = \hat x + \frac{s \, S \, g}{1 + s \, S \, c},
    \quad S = \frac{1}{1 / v + B}, \quad c = \max(0, -l'')

with the scale s, and for points the uncertainty S that is left of data of variance v at the accuracy B.  By the
curvature c the step ends at the maximum that is near, however steep l is.  For s = 1 both are the posterior: that of
classes, where l is a sum over the sites; the mean of a Gaussian one, where l is quadratic or linear.  The gradient is
not taken through the network.

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
    """The numbers of an output that a likelihood sees: what it expects of the data."""
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
    """The gradient s g of the scaled likelihood, its curvature s c, and the uncertainty S, which points need."""

    gradient: Tensor
    curvature: Tensor
    uncertainty: Callable[[], Tensor]


@singledispatch
def _moved(output: Any, push: _Push) -> Output:
    """The output moved along the gradient."""
    raise AssertionError(f"{type(output).__name__} outputs are refused before")


@_moved.register
def _(output: Finite, push: _Push) -> Output:
    return Finite(None, output.logits + push.gradient)


@_moved.register
def _(output: Delta, push: _Push) -> Output:
    left = expand(push.uncertainty(), push.gradient)
    return attrs.evolve(output, value=output.value + left * push.gradient / (1.0 + left * push.curvature))


class GradientGuided(ModelWrapper, FlowModel):
    """A model whose outputs are moved along the gradient of a log-likelihood.

    Arguments:
        model: The model.
        log_likelihood: Function l of the expected data, with values in nats of shape (B,): of x_hat (B, *site) where
            the outputs are points, of probabilities (B, *site, K) where they are classes, and of a mapping of such by
            the names of the parts for data of several.
        scale: s; 0 for no steering.
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
        """s g and s c at what is expected, by the names of the parts."""
        with torch.inference_mode(False), torch.enable_grad():
            seen = {name: part.detach().clone().requires_grad_() for name, part in expected.items()}
            nats = self.log_likelihood(self.family.join(seen)) * self.scale
            rows = len(next(iter(seen.values())))
            if nats.shape != (rows,):
                raise ConfigError(f"the log-likelihood must have shape ({rows},), found {tuple(nats.shape)}")
            pushes = _slopes(nats.sum(), seen, create_graph=True)
            bends = _slopes(sum(push.sum() for push in pushes.values()), seen)
        return {name: (pushes[name].detach(), -bends[name].clamp_max(0.0)) for name in seen}


def _uncertainty(part: Part, params: Any, variance: float) -> Tensor:
    """S = 1 / (1 / v + B), with shape (B,)."""
    accuracy: Tensor = part.as_channel().natural_params(params)[1]
    return (1.0 / variance + accuracy).reciprocal()


def _slopes(total: Any, of: dict[str, Tensor], *, create_graph: bool = False) -> dict[str, Tensor]:
    """Gradients by name, zero where the total does not depend on a part."""
    if not total.requires_grad:
        return {name: torch.zeros_like(part) for name, part in of.items()}
    found = torch.autograd.grad(total, list(of.values()), create_graph=create_graph, allow_unused=True)
    pairs = zip(of.items(), found, strict=True)
    return {name: torch.zeros_like(part) if slope is None else slope for (name, part), slope in pairs}
