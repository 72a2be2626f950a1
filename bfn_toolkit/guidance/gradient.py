r"""Gradient guidance: a model wrapper that follows the gradient of a log-likelihood of the data.

Let l(x) be differentiable, such as the log-probability of a measurement or the score of a predictor, and s its scale.
Classes move along the gradient g of s l at the mean of the output, in natural parameters.  Points move towards the
largest posterior density, if the remaining uncertainty of the data given the beliefs is normal with covariance C:

.. math::
    \text{classes:} \quad \tilde p_k \propto p_k \, e^{g_k}, \qquad
    \text{points:} \quad \tilde x = \hat x + d \quad \text{that raises} \quad
    s \, l(\hat x + d) - \tfrac12 \, d^\top C^{-1} d .

With the Hessian H of s l at :math:`\hat x`, d is Newton's step :math:`(C^{-1} - H)^{-1} g`, by conjugate gradients for
each example by itself: k iterations are exact for k linear measurements with normal noise.  Along a direction in which
l is convex the step is C g, as if l were linear, and the iterations of the example end.  A step that does not raise the
objective, because l is far from quadratic, is shortened.  So no step lowers s l by more than rounding.

C has one of two forms,

.. math::
    \text{isotropic:} \quad C = \frac{1}{1 / v + B} \, I, \qquad
    \text{network:} \quad C = \frac{\partial \hat x}{\partial v_\theta},

with the mean square v of real data, the accuracy B, and the natural parameters :math:`v_\theta` of the beliefs
(:class:`~bfn_toolkit.ChannelFamily`).  The second is the covariance for every exact network.  In the first form the
gradient does not pass through the network.

With s = 1 the moved output is the posterior (its mean, for points) of

* classes, if l is linear in the probabilities, and sites are independent given the beliefs;
* points, if l is linear or quadratic and concave, and the data are normal: independent sites with mean square v for the
  isotropic form, any mean and covariance for the network's.

Source: the shift in the parameters' space of MolJO (arXiv 2411.13280); the network's covariance and conjugate gradients
of moment matching posterior sampling (Rozet et al. 2024, arXiv 2405.13712); their end at a direction of wrong curvature
of Steihaug (1983).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
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
from bfn_toolkit.shapes import Data, Times, expand, map_data

Likelihood = Callable[[Data], Tensor]
LinearMap = Callable[[Tensor], Tensor]  # of vectors with shape (B, D), for each example by itself

FURTHEST = 1e3  # longest step of a point at one site, in root mean squares of the data
TRIALS = 8  # lengths of a step that are tried, each a quarter of the one before


class GradientGuided(ModelWrapper, FlowModel):
    """Model whose outputs are moved along the gradient of a log-likelihood.

    Arguments:
        model: The model.
        log_likelihood: Function l that returns nats with shape (B,), each from its own row.  Its argument is x_hat
            (B, *site) for points, probabilities (B, *site, K) for classes, and a mapping of these by part for data of
            several parts.
        scale: Scale s; 0 for no guidance.
        data_variance: Mean square v of real data; None for that of the family
            (:attr:`~bfn_toolkit.ChannelFamily.embedding_variance`).
        covariance: Form of C: "isotropic", or "network", which takes vector-Jacobian products of the network.
        iterations: Largest number of conjugate-gradient iterations for points; the number of measurements is enough.
            Each takes a product with the Hessian of l, and for ``covariance="network"`` a backward pass of the network.
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
        self._longest: Tensor | None = None  # step within a finite guard, as a share of what is allowed

    def output(self, params: Any, t: Times, condition: Condition | None = None, **told: Any) -> Output:
        """The model's output, moved.

        Raises:
            ConfigError: If the output is neither classes nor points, the likelihood has another shape, or points do
                not have this form of covariance.
        """
        if self.scale == 0.0:
            return self.model.output(params, t, condition, **told)
        natural: dict[str, Tensor] = {}
        if self.covariance == "isotropic":
            output = self.model.output(params, t, condition, **told)
        else:
            with torch.inference_mode(False), torch.enable_grad():
                traced, natural = _traced(self.family, params)
                conditions = None if condition is None else map_data(torch.clone, condition)
                output = self.model.output(traced, map_data(torch.clone, t), conditions, **told)
        parts = list(self.family.walk(output, params))
        expected = {part.name: _expected(part.values[0]) for part in parts}
        with torch.inference_mode(False), torch.enable_grad():
            steps = self._steps(parts, expected, natural)
        healthy = _flat(list(expected.values())).isfinite().all(1)
        moved: dict[str, Output] = {}
        for part in parts:
            p_o, step = part.values[0], steps[part.name]
            if isinstance(p_o, Delta):
                self._watch(step, healthy, FURTHEST * math.sqrt(self._variance(part)))
                moved[part.name] = attrs.evolve(p_o, value=p_o.value + step)
            else:
                self._watch(step, healthy, math.inf)
                moved[part.name] = Finite(None, p_o.logits + step)
        return self.family.join_outputs(moved)

    @contextmanager
    def finite_guard(self) -> Iterator[Callable[[], bool]]:
        """Guard of the model and of the steps: NaN, infinity and steps over 1,000 root mean squares of the data.

        A step of that length leaves every range of the data, so that the network would see beliefs unlike any of its
        training, and the samples would be finite and meaningless.  The longest step is read once, at the end.
        """
        self._longest = torch.zeros(())
        try:
            with self.model.finite_guard() as is_finite:
                yield lambda: self._within_reach() and is_finite()
        finally:
            self._longest = None

    def _watch(self, step: Tensor, healthy: Tensor, allowed: float) -> None:
        """Keeps the longest step of the rows where the model's output is finite."""
        if self._longest is not None:  # NaN survives both maxima, and a CPU scalar works with any device
            longest = torch.where(expand(healthy, step), step.abs() / allowed, 0.0).amax()
            self._longest = torch.maximum(self._longest, longest)

    def _within_reach(self) -> bool:
        """Returns True.

        Raises:
            NonFiniteError: If a step was not finite, or too long.
        """
        longest = 0.0 if self._longest is None else float(self._longest)
        if longest <= 1.0:
            return True
        raise NonFiniteError(
            f"a step of the gradient guidance had {longest * FURTHEST:.3g} times the root mean square of the data, "
            f"allowed are {FURTHEST:.0f}; look at the log-likelihood and its gradient, or write a smaller scale"
        )

    def _steps(self, parts: list[Part], expected: dict[str, Tensor], natural: dict[str, Tensor]) -> dict[str, Tensor]:
        """Steps by the names of the parts."""
        at = {name: value.detach().clone().requires_grad_() for name, value in expected.items()}
        nats = self._nats(at)
        slopes = dict(zip(at, _gradients(nats, list(at.values()), create_graph=True), strict=True))
        no_number = nats.isnan()
        steps = {name: slope.detach().masked_fill(expand(no_number, slope), math.nan) for name, slope in slopes.items()}
        points = [part for part in parts if isinstance(part.values[0], Delta)]
        if not points:
            return steps
        covariance = self._isotropic(points) if self.covariance == "isotropic" else _of_network(points, natural)
        x = {part.name: at[part.name] for part in points}
        g = _flat([slopes[name] for name in x])

        def hessian(p: Tensor) -> Tensor:
            return _flat(_gradients(g, list(x.values()), p))

        @torch.no_grad()
        def rise(d: Tensor) -> Tensor:
            after = self._nats(at | {name: x[name] + step for name, step in _named(d, x).items()})
            return after - nats + math.sqrt(torch.finfo(after.dtype).eps) * (after.abs() + nats.abs())

        gradient = _flat([steps[name] for name in x])
        return steps | _named(_step(gradient, covariance, hessian, rise, self.iterations), x)

    def _nats(self, x_hat: dict[str, Tensor]) -> Tensor:
        """s l, with shape (B,)."""
        nats: Tensor = self.log_likelihood(self.family.join(x_hat)) * self.scale
        rows = len(next(iter(x_hat.values())))
        if nats.shape != (rows,):
            raise ConfigError(f"the log-likelihood must have shape ({rows},), found {tuple(nats.shape)}")
        return nats

    def _isotropic(self, points: list[Part]) -> LinearMap:
        """Product with C = 1 / (1 / v + B)."""
        remaining = []
        for part in points:
            output, beliefs = part.values
            accuracy = part.as_channel().natural_params(beliefs)[1]
            variance = (1.0 / self._variance(part) + accuracy).reciprocal()
            remaining.append(expand(variance, output.value).expand_as(output.value))
        return _flat(remaining).clone().mul

    def _variance(self, part: Part) -> float:
        """Mean square v of the data of a part."""
        if self.data_variance is not None:
            return self.data_variance
        return part.as_channel().embedding_variance


def _expected(output: Any) -> Tensor:
    """Expected data under an output, the argument of the likelihood."""
    if isinstance(output, Delta):
        return output.value
    if isinstance(output, Finite) and output.support is None:
        return output.logits.softmax(-1)
    found = "weights on a grid of values" if isinstance(output, Finite) else type(output).__name__
    raise ConfigError(f"gradient guidance is for outputs that are classes or points, found {found}")


def _traced(family: Family[Any], params: Any) -> tuple[Any, dict[str, Tensor]]:
    """The beliefs as functions of their natural parameters, and these by part, for parts that are channels."""
    copies, natural = {}, {}
    for part in family.walk(params):
        (beliefs,) = part.values
        names = [field.name for field in attrs.fields(type(beliefs))]
        # Tensors of inference mode have no gradients, but their copies have.
        beliefs = attrs.evolve(beliefs, **{name: getattr(beliefs, name).clone() for name in names})
        with suppress(ConfigError):
            channel = part.as_channel()
            v, accuracy = channel.natural_params(beliefs)
            natural[part.name] = v.requires_grad_()
            beliefs = channel.from_natural(v, accuracy)
        copies[part.name] = beliefs
    return family.join(copies), natural


def _of_network(points: list[Part], natural: dict[str, Tensor]) -> LinearMap:
    """Product with C, as a vector-Jacobian product: C is symmetric."""
    for part in points:
        if part.as_channel().channels != 1 or not part.values[0].value.requires_grad:
            raise ConfigError(
                "covariance='network' needs points that are a differentiable function of the beliefs, in a family "
                f"whose embedding is the data; those of {type(part.family).__name__} are not: "
                "write covariance='isotropic'"
            )
    x_hat, roots = _flat([part.values[0].value for part in points]), [natural[part.name] for part in points]
    return lambda p: _flat(_gradients(x_hat, roots, p))


def _step(
    g: Tensor, covariance: LinearMap, hessian: LinearMap, rise: Callable[[Tensor], Tensor], iterations: int
) -> Tensor:
    """Step d that raises the objective l(x_hat + d) - d' C^-1 d / 2, which is 0 for d = 0.

    Conjugate gradients are preconditioned with C.  Its inverse is never formed: each vector that is C u comes with its
    u.  An example ends at rounding, at a direction in which C is no covariance, and after a step along one in which H
    is not negative, or not finite, where H counts as 0.

    Arguments:
        g: Gradient, with shape (B, D).
        covariance: Product of C with such vectors.
        hessian: Product of H with such vectors.
        rise: l(x_hat + d) - l(x_hat), rounded up, with shape (B,), of such a vector d.
        iterations: Largest number of iterations.
    """
    r, d, d_u = g, torch.zeros_like(g), torch.zeros_like(g)
    steepest, done = torch.zeros_like(g[:, :1]), torch.zeros_like(g[:, :1], dtype=torch.bool)
    rounding = (4.0 * torch.finfo(g.dtype).eps) ** 2
    past: list[tuple[Tensor, Tensor, Tensor]] = []  # directions p = C u, and A p / p' A p for A = C^-1 - H
    for _ in range(min(iterations, g.shape[1])):
        p, u = covariance(r), r
        descent = _dot(r, p)
        for p_0, u_0, dual in past:  # the last one is enough, but for rounding
            share = _dot(dual, p)
            p, u = p - share * p_0, u - share * u_0
        h = hessian(p)
        bend, width = _dot(p, h), _dot(p, u)
        steepest = torch.maximum(steepest, descent)
        # A covariance has width >= descent, and the Jacobian of a network may be none.
        done = done | (descent <= rounding * steepest) | (width < 0.5 * descent)
        concave = (bend < 0.0) & bend.isfinite()
        curvature = width - torch.where(concave, bend, 0.0)
        length = descent / curvature
        d, d_u = torch.where(done, d, d + length * p), torch.where(done, d_u, d_u + length * u)
        r = torch.where(done, r, r - length * (u - h))
        past.append((p, u, (u - h) / curvature))
        done = done | ~concave
    half_width = 0.5 * _dot(d, d_u)
    share, found = torch.ones_like(half_width), torch.zeros_like(half_width, dtype=torch.bool)
    for _ in range(TRIALS):
        found = found | (rise(share * d).unsqueeze(1) >= share.square() * half_width)
        share = torch.where(found, share, 0.25 * share)
    return torch.where(found, share, 0.0) * d + 0.0 * g  # a gradient that is not finite stays so


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


def _dot(a: Tensor, b: Tensor) -> Tensor:
    """Products of vectors (B, D), with shape (B, 1)."""
    return (a * b).sum(1, keepdim=True)


def _flat(parts: Sequence[Tensor]) -> Tensor:
    """Vectors (B, D) of all numbers of each example."""
    return torch.cat([part.reshape(len(part), -1) for part in parts], 1)


def _named(vectors: Tensor, like: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The parts of vectors (B, D), in the shapes of ``like``."""
    shares = torch.split(vectors, [part[0].numel() for part in like.values()], 1)
    return {name: share.reshape(part.shape) for (name, part), share in zip(like.items(), shares, strict=True)}
