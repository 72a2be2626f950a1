"""Distributions over data and messages.

Every distribution that the toolkit passes around has batch shape (B,), so that a log-density or a divergence is in nats
per example; its event shape is that of the data or of the message.  Distributions of torch are used unchanged.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import singledispatch
from typing import Any

import torch
from torch import Tensor
from torch.distributions import (
    Categorical,
    Distribution,
    Independent,
    Normal,
    constraints,
    kl_divergence,
    register_kl,
)

from bfn_toolkit.masks import marginal
from bfn_toolkit.randomness import streams
from bfn_toolkit.shapes import Data, Mask, expand, in_float64, map_data, per_example


def normal(mean: Tensor, scale: Tensor) -> Distribution:
    """Normal distribution with independent sites; mean (B, *site), scale (B,), () or the shape of the mean.

    Draws have the device and dtype of the mean.
    """
    scale = expand(scale, mean).to(mean.device, mean.dtype, non_blocking=True)
    return Independent(_Normal(mean, scale), mean.ndim - 1, validate_args=False)


class _Normal(Normal):
    """Normal distribution that computes functions of the scale once per distinct scale, not at every site."""

    def __init__(self, mean: Tensor, scale: Tensor) -> None:
        self.shared_scale = scale  # broadcasts against the mean
        super().__init__(mean, scale.expand_as(mean), validate_args=False)

    def expand(self, batch_shape: Sequence[int], _instance: Any = None) -> _Normal:
        return _Normal(self.loc.expand(*batch_shape), self.shared_scale)

    def log_prob(self, value: Tensor) -> Tensor:
        z = (value - self.loc) / self.shared_scale
        return torch.addcmul(-self.shared_scale.log() - 0.5 * math.log(2.0 * math.pi), z, z, value=-0.5)


def kl(p: Distribution, q: Distribution, samples: int = 1, mask: Mask | None = None) -> Tensor:
    """KL(p || q) in nats per example, with shape (B,); with a mask, that of the sites that are present.

    In closed form if torch has one registered (``torch.distributions.kl.register_kl``); otherwise the unbiased Monte
    Carlo estimate from ``samples`` draws of p, with a :func:`control_variate` if p is normal and :func:`moments_near`
    knows q.
    """
    here, there = (p, q) if mask is None else (marginal(p, mask), marginal(q, mask))
    try:
        return kl_divergence(here, there)
    except NotImplementedError:
        pass
    messages = [p.sample() for _ in range(samples)]
    losses = [here.log_prob(y) - there.log_prob(y) for y in messages]
    near = moments_near(q, p) if isinstance(p, Independent) and isinstance(p.base_dist, Normal) else None
    if near is not None:
        (mean, variance), loc, scale = near, p.mean, p.stddev
        shift, ratio = (mean - loc) / scale, variance / scale.square()
        losses = [
            loss + control_variate((y - loc) / scale, shift, ratio, mask)
            for y, loss in zip(messages, losses, strict=True)
        ]
    return torch.stack(losses).mean(0)


def control_variate(noise: Tensor, shift: Tensor, ratio: Tensor, mask: Tensor | None = None) -> Tensor:
    r"""Number of mean 0 that takes most of the noise out of ln p(y) - ln q(y) for y ~ p, with shape (B,).

    p is normal, and at y it has the standard normal noise :math:`\epsilon`.  If q is normal too, with mean m and
    variance r in units of p, the sum of both is constant:

    .. math:: c = \sum \frac{m \epsilon + (r - 1) (\epsilon^2 - 1) / 2}{r}

    Arguments:
        noise: (y - mean of p) / standard deviation of p, with shape ``(B, *event)``.
        shift: m, with the same shape; for a q that is not normal, any m and r leave the mean at 0.
        ratio: r, with the same shape.
        mask: True at the sites that count; None if all do.
    """
    return per_example(torch.addcmul(shift * noise, ratio - 1.0, noise.square() - 1.0, value=0.5) / ratio, mask)


@singledispatch
def moments_near(q: Distribution, p: Distribution) -> tuple[Tensor, Tensor] | None:
    """Mean and variance of the part of q where the draws of a normal p fall; None if they are unknown.

    Both have shape ``(B, *event)``.  They need not be exact: they determine how much noise :func:`kl` takes out, and
    nothing else.
    """
    return None


class VonMises(Distribution):
    """von Mises distribution on the circle, with density proportional to exp(v . (cos x, sin x)).

    Arguments:
        v: Natural parameters with shape (..., 2), the concentration times the mean direction; zero is uniform.
        validate_args: Whether torch checks values, which synchronises with the device.
    """

    arg_constraints = {"v": constraints.real_vector}  # noqa: RUF012 - the name and form that torch prescribes
    support = constraints.real

    def __init__(self, v: Tensor, validate_args: bool = False) -> None:
        self.v = v
        super().__init__(v.shape[:-1], validate_args=validate_args)

    def expand(self, batch_shape: Sequence[int], _instance: Any = None) -> VonMises:
        """The same distribution for more examples."""
        return type(self)(self.v.expand(*batch_shape, 2), bool(self._validate_args))

    @property
    def mean(self) -> Tensor:
        """Mean direction in (-pi, pi]."""
        return torch.atan2(self.v[..., 1], self.v[..., 0])

    @property
    def concentration(self) -> Tensor:
        """Length of v."""
        kappa: Tensor = torch.linalg.vector_norm(self.v, dim=-1)
        return kappa

    @property
    def variance(self) -> Tensor:
        """Circular variance 1 - I_1(kappa) / I_0(kappa)."""
        return 1.0 - mean_resultant(self.concentration)

    def log_prob(self, value: Tensor) -> Tensor:
        """Log-density in nats, with a normaliser that is precise for every concentration."""
        if self._validate_args:
            self._validate_sample(value)
        kappa = self.concentration
        density: Tensor = -2.0 * kappa * ((value - self.mean) / 2).sin().square() - torch.special.i0e(kappa).log()
        return density - math.log(2.0 * math.pi)

    def sample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        """Draws with shape sample_shape + batch shape; NaN where v is not finite.

        By rejection under a wrapped Cauchy distribution (Best and Fisher 1979), from a separate random stream: the
        number of rejections in one row changes neither the other rows nor later draws.
        """
        with torch.no_grad(), streams()("von Mises"):
            finite = torch.isfinite(self.v).all(-1)
            v = in_float64(torch.where(finite.unsqueeze(-1), self.v, 1.0))
            kappa = torch.linalg.vector_norm(v, dim=-1).clamp_min(1e-9)
            tau = 1.0 + (1.0 + 4.0 * kappa.square()).sqrt()
            rho = (tau - (2.0 * tau).sqrt()) / (2.0 * kappa)
            r = torch.where(kappa < 1e-5, 1.0 / kappa + kappa, (1.0 + rho.square()) / (2.0 * rho))
            angle = torch.zeros((*sample_shape, *kappa.shape), device=v.device, dtype=v.dtype)
            waits = torch.ones_like(angle, dtype=torch.bool)
            while bool(waits.any()):  # two thirds are accepted at any concentration
                u, level, side = torch.rand((*angle.shape, 3), device=v.device, dtype=v.dtype).unbind(-1)
                z = (math.pi * u).cos()
                cosine = (1.0 + r * z) / (r + z)
                c = kappa * (r - cosine)
                accepted = (c * (2.0 - c) > level) | ((c / level).log() + 1.0 - c >= 0.0)
                angle = torch.where(waits & accepted, (side - 0.5).sign() * cosine.acos(), angle)
                waits = waits & ~accepted
            turned = torch.remainder(angle + torch.atan2(v[..., 1], v[..., 0]) + math.pi, 2.0 * math.pi) - math.pi
            return torch.where(finite, turned.to(self.v), torch.nan)


def mean_resultant(kappa: Tensor) -> Tensor:
    """I_1(kappa) / I_0(kappa): the mean of cos(x - mean) under a von Mises distribution."""
    resultant: Tensor = torch.special.i1e(kappa) / torch.special.i0e(kappa)
    return resultant


def von_mises(v: Tensor) -> Distribution:
    """von Mises distributions (B,) with independent sites and natural parameters v (B, *site, 2)."""
    return Independent(VonMises(v), v.ndim - 2, validate_args=False)


@register_kl(VonMises, VonMises)  # type: ignore[no-untyped-call, untyped-decorator]
def _kl_von_mises(p: VonMises, q: VonMises) -> Tensor:
    towards, away = (torch.nn.functional.normalize(law.v, dim=-1) for law in (p, q))
    turn = 0.5 * q.concentration * (towards - away).square().sum(-1)  # concentration times 1 - cosine
    resultant, excess = mean_resultant(p.concentration), p.concentration - q.concentration
    normalisers = (torch.special.i0e(q.concentration) / torch.special.i0e(p.concentration)).log()
    divergence: Tensor = resultant * turn - p.variance * excess + normalisers
    return divergence


@singledispatch
def as_batch(distribution: Distribution, axes: int) -> Distribution:
    """The distribution with its first event axes turned into batch axes, so that their log-densities are not summed.

    Arguments:
        distribution: A distribution that is independent along those axes.
        axes: Number of axes.
    Raises:
        TypeError: If the distribution is not known to be independent along them.
    """
    raise TypeError(
        f"a mixture needs components that are Independent over candidates and sites, got {distribution}; "
        "build them with torch.distributions.Independent"
    )


@as_batch.register(Independent)
def _(distribution: Independent[Any], axes: int) -> Distribution:
    left = distribution.reinterpreted_batch_ndims - axes
    if left < 0:
        raise TypeError(f"{distribution} has fewer than {axes} axes along which it is known to be independent")
    return Independent(distribution.base_dist, left, validate_args=False)


class Mixture(Distribution):
    """Mixture of K distributions, with weights per example or per site.

    One batched distribution holds all candidates, on the axis after the batch.

    Arguments:
        logits: Unnormalised log-weights: (*batch, K) for one choice per example, (*batch, *site, K) for one per site.
        components: Distribution with batch shape (*batch, K), or (*batch, K, *site) with weights per site; see
            :func:`as_batch`.
        batch_ndim: Number of batch axes.
        validate_args: Whether torch checks values, which synchronises with the device.

    >>> candidates = Normal(torch.tensor([[-1.0, 1.0]]), 0.5)
    >>> Mixture(torch.zeros(1, 2), candidates).log_prob(torch.tensor([1.0]))
    tensor([-0.9186])
    """

    arg_constraints = {"logits": constraints.real_vector}  # noqa: RUF012 - the name and form that torch prescribes

    def __init__(
        self, logits: Tensor, components: Distribution, batch_ndim: int = 1, validate_args: bool = False
    ) -> None:
        batch, sites = logits.shape[:batch_ndim], logits.shape[batch_ndim:-1]
        expected = (*batch, logits.shape[-1], *sites)
        if tuple(components.batch_shape) != expected:
            raise ValueError(
                f"logits of shape {tuple(logits.shape)} need components with batch shape {expected}, "
                f"found {tuple(components.batch_shape)}; write as_batch(kernel(candidates), {1 + len(sites)})"
            )
        self.logits, self.components, self._axis = logits.log_softmax(-1), components, batch_ndim
        super().__init__(batch, torch.Size((*sites, *components.event_shape)), validate_args=validate_args)

    def expand(self, batch_shape: Sequence[int], _instance: Mixture | None = None) -> Mixture:
        """The same mixture for more examples."""
        logits, k = self.logits, self.logits.shape[-1]
        sites = logits.shape[self._axis : -1]
        components = self.components.expand(torch.Size((*batch_shape, k, *sites)))
        return Mixture(logits.expand(*batch_shape, *sites, k), components, len(batch_shape), bool(self._validate_args))

    def __repr__(self) -> str:
        return f"Mixture(logits: {tuple(self.logits.shape)}, components: {self.components})"

    @property
    def sites(self) -> int:
        """Number of axes of sites, each with its own choice of component."""
        return self.logits.ndim - 1 - self._axis

    @property
    def support(self) -> constraints.Constraint:
        """The support of the components."""
        return constraints.independent(self.components.support, self.sites)  # type: ignore[no-untyped-call]

    @property
    def _log_weights(self) -> Tensor:
        """Log-weights with the candidates on the same axis as in the components."""
        return self.logits.movedim(-1, self._axis)

    def _average(self, values: Tensor) -> Tensor:
        return (expand(self._log_weights.exp(), values) * values).sum(self._axis)

    @property
    def mean(self) -> Data:
        """E[y]."""
        return map_data(self._average, self.components.mean)

    @property
    def variance(self) -> Tensor:
        """Elementwise variance of y."""
        mean = self.components.mean
        centred = mean - self._average(mean).unsqueeze(self._axis)
        return self._average(self.components.variance + centred.square())

    def log_prob(self, y: Data) -> Tensor:
        """Log-density in nats per example, with shape (B,)."""
        if self._validate_args:
            self._validate_sample(y)
        terms = self.components.log_prob(_beside(y, self.components, self.sites)) + self._log_weights
        density = terms.logsumexp(-1 - self.sites)
        return density.flatten(-self.sites).sum(-1) if self.sites else density

    def sample(self, sample_shape: Sequence[int] = ()) -> Data:
        """Draws with shape sample_shape + (B,) + event shape."""
        size = torch.Size(sample_shape)
        draws = self.components.sample(size)
        choice: Tensor = Categorical(logits=self.logits, validate_args=False).sample(size)  # type: ignore[no-untyped-call]
        axis = len(size) + self._axis

        def chosen(draw: Tensor) -> Tensor:
            index = expand(choice.unsqueeze(axis), draw)
            return draw.gather(axis, index.expand(*draw.shape[:axis], 1, *draw.shape[axis + 1 :])).squeeze(axis)

        return map_data(chosen, draws)


@marginal.register
def _(distribution: Mixture, mask: Mask) -> Distribution:
    """Missing sites have density 1 under all candidates, so that they choose none."""
    mask = map_data(lambda part: None if part is None else part.unsqueeze(distribution._axis), mask)
    return Mixture(distribution.logits, marginal(distribution.components, mask), distribution._axis)


@moments_near.register
def _(q: Mixture, p: Distribution) -> tuple[Tensor, Tensor] | None:
    """Each component counts by its mean density at draws of p: far from p, there is often only one."""
    if not (isinstance(q.components, Independent) and isinstance(q.components.base_dist, Normal)):
        return None
    normals, axes = q.components.base_dist, q.components.reinterpreted_batch_ndims
    mean, variance = (_beside(v, q.components, q.sites) for v in (p.mean, p.variance))
    scale = (normals.scale.square() + variance).sqrt()
    widened: Any = Independent(_Normal(normals.loc, scale), axes, validate_args=False)
    near = Mixture(q.logits + widened.log_prob(mean).movedim(q._axis, -1), q.components, q._axis)
    return near.mean, near.variance


def _beside(y: Data, components: Any, sites: int) -> Data:
    """Data with a candidate axis of length one, which broadcasts against all candidates."""
    if isinstance(y, Mapping):
        return {name: _beside(part, components[name], sites) for name, part in y.items()}
    return y.unsqueeze(y.ndim - len(components.event_shape) - sites)
