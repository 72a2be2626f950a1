r"""Gradient guidance: a model wrapper that follows the gradient of a log-likelihood of the data.

Let l(x) be differentiable, such as the log-probability of a measurement or the score of a predictor, s its scale, and
g and H the gradient and the Hessian of s l at the mean of the output.  They move the output in natural parameters,

.. math::
    \text{classes:} \quad \tilde p_k \propto p_k \, e^{g_k}, \qquad
    \text{points:} \quad \tilde x = \hat x + C (I - H C)^{-1} g .

C is the remaining covariance of the data given the beliefs, in one of two forms,

.. math::
    \text{isotropic:} \quad C = \frac{1}{1 / v + B} I, \qquad
    \text{network:} \quad C = \frac{\partial \hat x}{\partial v_\theta},

with the mean square v of real data, the accuracy B, and the natural parameters :math:`v_\theta` of the beliefs
(:class:`~bfn_toolkit.ChannelFamily`).  The second form is exact for an exact network, whatever the data.

With s = 1 the moved output is the posterior of

* classes, if l is linear in the probabilities and the sites are independent given the beliefs;
* points, if l is quadratic or linear and the data are normal: with equal variances v at independent sites for the
  isotropic form, with any covariance for the network's.

Conjugate gradients solve for the step, for each example by itself: k iterations are exact for k linear measurements.
Directions in which l is convex have no maximum to aim at.  There the step is C g, as if l were linear, and the
iterations of the example end.  So the step never turns against g, and it does not overshoot a maximum, however steep.
In the isotropic form the gradient does not pass through the network.

Source: the shift in the parameters' space of MolJO (arXiv 2411.13280); the covariance, by vector-Jacobian products, of
moment matching posterior sampling (Rozet et al. 2024, arXiv 2405.13712); the end at directions of wrong curvature of
Steihaug 1983.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, Literal

import attrs
import torch
from torch import Tensor

from bfn_toolkit.bfn import FlowModel
from bfn_toolkit.errors import ConfigError, NonFiniteError
from bfn_toolkit.families import Family, Part
from bfn_toolkit.model import Condition, Model, ModelWrapper
from bfn_toolkit.outputs import Delta, Finite, Output
from bfn_toolkit.shapes import Data, expand, map_data, per_example

Likelihood = Callable[[Data], Tensor]
LinearMap = Callable[[Tensor], Tensor]  # of vectors with shape (B, D), for each example by itself

FURTHEST = 1e3  # largest step of a point, in root mean squares of the data


class GradientGuided(ModelWrapper, FlowModel):
    """Model whose outputs are moved along the gradient of a log-likelihood.

    Arguments:
        model: The model.
        log_likelihood: Function l that returns nats with shape (B,), each from its own row.  Its argument is x_hat
            (B, *site) for points, probabilities (B, *site, K) for classes, and a mapping of these by part for data of
            several parts.
        scale: Scale s; 0 for no guidance.
        data_variance: Mean square v of real data; None for that of the family's head, or 1 if it has none.
        covariance: Form of C: "isotropic", or "network", which takes vector-Jacobian products of the network.
        iterations: Largest number of conjugate-gradient iterations: the number of measurements, or less.  Each takes a
            Hessian-vector product of l, and for ``covariance="network"`` the backward pass of the network.
    Raises:
        ConfigError: If a number is not finite or not positive, or the covariance has another name.

    >>> from bfn_gaussian import Gaussian
    >>> from bfn_siren import Siren
    >>> from bfn_toolkit import BFN
    >>> bfn = BFN(Gaussian(site_shape=(2,)), Siren(width=16))
    >>> right = GradientGuided(bfn, lambda x: 10.0 * x[:, 0])
    >>> right.sample(5, n_steps=10).shape
    torch.Size([5, 2])
    """

    def __init__(
        self,
        model: Model,
        log_likelihood: Likelihood,
        scale: float = 1.0,
        data_variance: float | None = None,
        covariance: Literal["isotropic", "network"] = "isotropic",
        iterations: int = 8,
    ) -> None:
        if not math.isfinite(scale) or not (data_variance is None or 0.0 < data_variance < math.inf):
            raise ConfigError(f"scale must be finite and data_variance positive, got {scale} and {data_variance}")
        if covariance not in ("isotropic", "network"):
            raise ConfigError(f"covariance must be 'isotropic' or 'network', got {covariance!r}")
        if isinstance(iterations, bool) or not isinstance(iterations, int) or iterations < 1:
            raise ConfigError(f"iterations must be an integer of at least 1, got {iterations!r}")
        super().__init__(model)
        self.log_likelihood = log_likelihood
        self.scale, self.data_variance = float(scale), data_variance
        self.covariance, self.iterations = covariance, iterations
        self._furthest: Tensor | None = None  # largest step within a finite guard, as a part of what is allowed

    def output(self, params: Any, t: Tensor, condition: Condition | None = None) -> Output:
        """The model's output, moved.

        Raises:
            ConfigError: If the output is neither classes nor points, or the likelihood has another shape.
        """
        if self.scale == 0.0:
            return self.model.output(params, t, condition)
        if self.covariance == "isotropic":
            return self._moved(self.model.output(params, t, condition), params, None)
        with torch.inference_mode(False), torch.enable_grad():
            params, natural = _differentiable(self.family, params)
            conditions = None if condition is None else {name: value.clone() for name, value in condition.items()}
            return self._moved(self.model.output(params, map_data(torch.clone, t), conditions), params, natural)

    @contextmanager
    def finite_guard(self) -> Iterator[Callable[[], bool]]:
        """Guard of the model, and of the steps: none may be NaN, infinite, or longer than 1,000 root mean squares.

        The largest step is kept on the device and read once, at the end.
        """
        self._furthest = torch.zeros(())
        try:
            with self.model.finite_guard() as is_finite:
                yield lambda: is_finite() and self._within_reach()
        finally:
            self._furthest = None

    def _within_reach(self) -> bool:
        """Returns True.

        Raises:
            NonFiniteError: If a step was not finite, or too long.
        """
        share = 0.0 if self._furthest is None else float(self._furthest)
        if share <= 1.0:
            return True
        raise NonFiniteError(
            f"guidance moved an output by {share * FURTHEST:.3g} root mean squares of the data, of which {FURTHEST:.0f} "
            "are allowed; look at the log-likelihood and its gradient, or write a smaller scale"
        )

    def _watch(self, step: Tensor, allowed: float) -> None:
        """Keeps the largest step; maximum and amax keep NaN."""
        if self._furthest is not None:
            self._furthest = torch.maximum(self._furthest, (step.abs() / allowed).amax())

    def _moved(self, output: Output, params: Any, natural: dict[str, Tensor] | None) -> Output:
        """The output moved; ``natural`` are the natural parameters on which it depends, if its Jacobian is wanted."""
        parts = list(self.family.walk(output, params))
        expected = {part.name: _expected(part.values[0]) for part in parts}
        points = [part for part in parts if isinstance(part.values[0], Delta)]
        with torch.inference_mode(False), torch.enable_grad():
            steps = self._steps(expected, points, natural)
        moved = {}
        for part in parts:
            p_o, step = part.values[0], steps[part.name]
            if isinstance(p_o, Finite):
                self._watch(step, math.inf)
                moved[part.name] = Finite(None, p_o.logits.detach() + step)
            else:
                self._watch(step, FURTHEST * math.sqrt(self._variance(part)))
                moved[part.name] = attrs.evolve(p_o, value=p_o.value.detach() + step)
        return self.family.join_outputs(moved)

    def _steps(
        self, expected: dict[str, Tensor], points: list[Part], natural: dict[str, Tensor] | None
    ) -> dict[str, Tensor]:
        """Steps by the names of the parts: the gradient for classes, C (I - H C)^-1 g for points."""
        at = {name: value.detach().clone().requires_grad_() for name, value in expected.items()}
        rows = len(next(iter(at.values())))
        nats = self.log_likelihood(self.family.join(at)) * self.scale
        if nats.shape != (rows,):
            raise ConfigError(f"the log-likelihood must have shape ({rows},), found {tuple(nats.shape)}")
        steps = dict(zip(at, _gradients(nats, list(at.values()), create_graph=True), strict=True))
        names = [part.name for part in points]
        if names:
            wrt, g = [at[name] for name in names], _flat([steps[name] for name in names])

            def hessian(p: Tensor) -> Tensor:
                return _flat(_gradients(g, wrt, p))

            if natural is None:
                S = _flat([self._remaining(part).expand_as(at[part.name]) for part in points])
                covariance: LinearMap = S.mul
            else:
                x_hat, roots = _flat([expected[name] for name in names]), [natural[name] for name in names]

                def covariance(p: Tensor) -> Tensor:
                    return _flat(_gradients(x_hat, roots, p))

            step = _newton_step(g.detach(), covariance, hessian, self.iterations)
            sizes = [value[0].numel() for value in wrt]
            for name, share in zip(names, step.split(sizes, 1), strict=True):
                steps[name] = share.reshape(at[name].shape)
        return {name: step.detach() for name, step in steps.items()}

    def _remaining(self, part: Part) -> Tensor:
        """Remaining variance S = 1 / (1 / v + B), with axes to broadcast over the sites."""
        output, beliefs = part.values
        accuracy: Tensor = part.as_channel().natural_params(beliefs)[1]
        return expand((1.0 / self._variance(part) + accuracy).reciprocal(), output.value)

    def _variance(self, part: Part) -> float:
        """Mean square v of the data of a part."""
        if self.data_variance is not None:
            return self.data_variance
        head = getattr(part.family, "head", None)
        return float(getattr(head, "data_variance", 1.0))


def _expected(output: Any) -> Tensor:
    """Expected data under an output, the argument of the likelihood."""
    if isinstance(output, Delta):
        return output.value
    if isinstance(output, Finite) and output.support is None:
        return output.logits.softmax(-1)
    found = "weights on a grid of values" if isinstance(output, Finite) else type(output).__name__
    raise ConfigError(f"gradient guidance is for outputs that are classes or points, found {found}")


def _differentiable(family: Family[Any], params: Any) -> tuple[Any, dict[str, Tensor]]:
    """The beliefs as functions of their natural parameters, and these by part, for the parts that are channels."""
    copies, natural = {}, {}
    for part in family.walk(params):
        (beliefs,) = part.values
        fields = [field.name for field in attrs.fields(type(beliefs))]
        # Tensors of inference mode have no gradients, but their copies have.
        copies[part.name] = attrs.evolve(beliefs, **{field: getattr(beliefs, field).clone() for field in fields})
        with suppress(ConfigError):
            channel = part.as_channel()
            v, accuracy = channel.natural_params(copies[part.name])
            natural[part.name] = v.detach().requires_grad_()
            copies[part.name] = channel.from_natural(natural[part.name], accuracy)
    return family.join(copies), natural


def _newton_step(g: Tensor, covariance: LinearMap, hessian: LinearMap, iterations: int) -> Tensor:
    r"""Step :math:`(C^{-1} - H)^{-1} g`, by conjugate gradients with the preconditioner C.

    The inverse of C is never formed: each direction p = C u is carried together with its u.  An example ends at rounding,
    at a direction in which C is not positive, and after a step along one in which H is not negative, where H counts as 0.

    Arguments:
        g: Gradient, with shape (B, D).
        covariance: Product of C with vectors of this shape.
        hessian: Product of H with vectors of this shape.
        iterations: Largest number of iterations.
    """
    step, r = torch.zeros_like(g), g
    p, u = covariance(g), g
    descent = per_example(r * p).unsqueeze(1)
    largest, done = descent, torch.zeros_like(descent, dtype=torch.bool)
    rounding = (4.0 * torch.finfo(g.dtype).eps) ** 2
    for i in range(min(iterations, g.shape[1])):
        Hp = hessian(p)
        bend, width = per_example(p * Hp).unsqueeze(1), per_example(p * u).unsqueeze(1)
        done = done | (descent <= rounding * largest) | (width <= 0.0)  # NaN is not done, and goes into the step
        length = descent / (width - bend.clamp_max(0.0))
        step = torch.where(done, step, step + length * p)
        done = done | (bend >= 0.0)
        if i + 1 == iterations:
            break
        r = torch.where(done, r, r - length * (u - Hp))
        z, before = covariance(r), descent
        descent = per_example(r * z).unsqueeze(1)
        largest = torch.maximum(largest, descent)
        p, u = torch.addcmul(z, descent / before, p), torch.addcmul(r, descent / before, u)
    return step


def _gradients(
    of: Tensor, wrt: list[Tensor], along: Tensor | None = None, *, create_graph: bool = False
) -> list[Tensor]:
    """Gradients of the sum, or of the product with ``along``; zero where there is no dependence."""
    if not of.requires_grad:
        return [torch.zeros_like(x) for x in wrt]
    along = torch.ones_like(of) if along is None else along
    return list(
        torch.autograd.grad(of, wrt, along, retain_graph=True, create_graph=create_graph, materialize_grads=True)
    )


def _flat(parts: list[Tensor]) -> Tensor:
    """Vectors (B, D) of all numbers of each example."""
    return torch.cat([part.reshape(len(part), -1) for part in parts], 1)
