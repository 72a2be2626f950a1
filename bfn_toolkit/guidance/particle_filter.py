r"""Particles: samples of the model's own conditional distribution, given known sites.

With clamped outputs alone (:mod:`~bfn_toolkit.sampling.inpainting`), the messages about known sites come from a sender
who knows the values, whereas the model would draw them from its receiver.  The ratio of both densities is the weight of
such a path:

.. math::
    \ln w = \sum_i \ln \frac{p_R(y_i \mid \theta_{i-1})}{p_S(y_i \mid \bar x; \alpha_i)} \Bigg|_{\text{known}}
            + \ln p_O(\bar x \mid \theta_n; 1) \Big|_{\text{known}} ,

the negative code length of the known sites, message by message.  Each example has P particles with such weights.  When
few particles carry most of the weight, they are resampled; at the end one is drawn.  As P grows, the result becomes a
sample of the model's own conditional distribution, for any number of steps: the distribution of its samples with that
number of steps, conditioned on the known values.

Source: sequential Monte Carlo with systematic resampling below an effective sample size (Doucet and Johansen 2009); for
Bayesian flows, with the divergence in place of the ratio, ProtBFN (Atkinson et al. 2025).
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import singledispatch
from itertools import pairwise
from typing import Any

import attrs
import torch
from attrs import field
from torch import Tensor

from bfn_toolkit import validators
from bfn_toolkit.binned_outputs import Binned
from bfn_toolkit.families import Family
from bfn_toolkit.model import Condition, Model, rows_of_condition
from bfn_toolkit.outputs import Finite, Output, SiteNormalMixture
from bfn_toolkit.product_family import JointOutput
from bfn_toolkit.sampling.ancestral import AncestralSampler
from bfn_toolkit.sampling.inpainting import InpaintedModel, Observed, clamp
from bfn_toolkit.sampling.masked import MaskedModel
from bfn_toolkit.sampling.sampler import OnStep, Sampler, SamplerState, watched
from bfn_toolkit.shapes import Data, map_data


def rows_of(params: Any, index: Tensor) -> Any:
    """Beliefs of the rows ``index``."""
    if isinstance(params, Mapping):
        return {name: rows_of(part, index) for name, part in params.items()}
    if isinstance(params, Tensor):
        return params[index]
    names = [f.name for f in attrs.fields(type(params))]
    return type(params)(**{name: getattr(params, name)[index] for name in names})


def systematic(weights: Tensor, draws: int) -> Tensor:
    """Systematic resampling: indices (B, draws) of particles with weights (B, P), from one uniform number per row.

    A particle with normalised weight w is drawn floor(draws w) or ceil(draws w) times, draws w on average.
    """
    cdf = weights.cumsum(-1)
    places = (torch.arange(draws, device=weights.device) + torch.rand_like(weights[:, :1])) / draws
    # The total may not round to 1; scaled by it, places stay within the table.
    chosen = torch.searchsorted(cdf, places * cdf[:, -1:], right=True)
    return chosen.clamp_max_(weights.shape[-1] - 1)


NARROW = 1e-8  # width of a certain component; it adds nothing to the variance of a message


@singledispatch
def mask_unobserved(output: Any, x: Data, free: Data) -> Output:
    """Output with all probability on x at the unobserved sites, so that only the observed sites enter a density ratio.

    The result is used only in ratios, so the density at unobserved sites may be any constant.  A plugin registers a
    rule for its own output with ``mask_unobserved.register``, unless its :func:`clamp` already serves.

    Arguments:
        output: Output distribution with independent sites.
        x: Data, with shape (B, *site); a mapping by part for data of several parts.
        free: True where nothing is known, with the same shape.
    """
    return clamp(output, x, free)


@mask_unobserved.register
def _(output: SiteNormalMixture, x: Tensor, free: Tensor) -> Output:
    free = free.unsqueeze(-1)
    means = torch.where(free, x.unsqueeze(-1), output.means)
    return SiteNormalMixture(output.logits, means, torch.where(free, NARROW, output.scales))


@mask_unobserved.register
def _(output: Binned, x: Tensor, free: Tensor) -> Output:
    normals, free = output.normals, free.unsqueeze(-1)
    width = 2.0 / output.bins / 1000.0  # stays within one bin, with finite log-probabilities
    means = torch.where(free, output.centre(output.index(x)).unsqueeze(-1), normals.means)
    return Binned(SiteNormalMixture(normals.logits, means, torch.where(free, width, normals.scales)), output.bins)


@mask_unobserved.register
def _(output: Finite, x: Tensor, free: Tensor) -> Output:
    if output.support is None:
        return clamp(output, x, free)
    certain = torch.full_like(output.logits, -torch.inf).scatter_(-1, output.index(x).unsqueeze(-1), 0.0)
    return Finite(output.support, torch.where(free.unsqueeze(-1), certain, output.logits))


@mask_unobserved.register
def _(output: JointOutput, x: Data, free: Data) -> Output:
    return JointOutput({name: mask_unobserved(part, x[name], free[name]) for name, part in output.parts.items()})


def _masked(observed: Observed, output: Output, x: Data) -> Output:
    """The output with all probability on x at the unobserved sites."""
    if isinstance(x, Mapping):
        free = {
            name: ~observed.mask[name] if name in observed.mask else torch.ones_like(part).bool()
            for name, part in x.items()
        }
        return mask_unobserved(output, x, free)
    return mask_unobserved(output, x, ~observed.mask)


@attrs.frozen
class ParticleSampler(Sampler[SamplerState]):
    """Sequential Monte Carlo for samples with known sites; without known sites, the ancestral sampler.

    It works for every family, and for outputs that :func:`mask_unobserved` supports: classes, points, normal mixtures
    and bins at each site, and products of them.  The network sees P rows for each example.

    Arguments:
        particles: Number P of particles per example.
        threshold: Fraction of P; particles are resampled when the effective sample size falls below it.
    """

    particles: int = field(default=64, validator=validators.integer(ge=1))
    threshold: float = field(default=0.5, validator=validators.number(ge=0, le=1))

    def init(self, model: Model, batch_size: int, *, device: torch.device, dtype: torch.dtype) -> SamplerState:
        """The prior."""
        return AncestralSampler().init(model, batch_size, device=device, dtype=dtype)

    def step(
        self, model: Model, state: SamplerState, s: Tensor, t: Tensor, condition: Condition | None = None
    ) -> SamplerState:
        """One draw of the output, one message, one update."""
        return AncestralSampler().step(model, state, s, t, condition)

    @torch.inference_mode()
    def sample(
        self,
        model: Model,
        batch_size: int,
        *,
        n_steps: int,
        condition: Condition | None = None,
        device: torch.device | None = None,
        dtype: torch.dtype | None = None,
        on_step: OnStep | None = None,
    ) -> Data:
        """Draws samples of the conditional distribution, if the model is an :class:`~bfn_toolkit.InpaintedModel`.

        Arguments are those of :meth:`Sampler.sample`; a reported evaluation has P rows for each example.

        Raises:
            ConfigError: If :func:`mask_unobserved` does not support the output.
        """
        if not isinstance(model, InpaintedModel):
            plain = AncestralSampler()
            return plain.sample(
                model, batch_size, n_steps=n_steps, condition=condition, device=device, dtype=dtype, on_step=on_step
            )
        device, dtype = device or torch.device("cpu"), dtype or torch.get_default_dtype()
        each = torch.arange(batch_size, device=device).repeat_interleave(self.particles)
        observed, crowd = model.observed.rows(each), rows_of_condition(condition, each)
        family, times = model.family, self.times(model, n_steps)
        inside = model.model.rows(each) if isinstance(model.model, MaskedModel) else model.model
        unclamped = watched(inside, self.nfe(n_steps), on_step)
        params = family.prior(len(each), device=device, dtype=dtype)
        log_weights = torch.zeros(batch_size, self.particles, device=device, dtype=dtype)
        for s, t in pairwise(times.unbind()):
            output = unclamped.output(params, s, crowd)
            alpha = map_data(lambda a: a.to(device, dtype).expand(len(each)), family.accuracy(s, t))
            params, log_ratio = self._updated(family, params, output, observed, alpha)
            params, log_weights = self._resampled(params, log_weights + log_ratio.view_as(log_weights))
        output = unclamped.output(params, times[-1], crowd)
        x = observed.clamp(output).sample()
        log_weights = log_weights + _masked(observed, output, x).log_prob(x).view_as(log_weights)
        chosen = self._numbers(log_weights, 1)
        return map_data(lambda part: part[chosen], x)

    def _updated(
        self, family: Family[Any], params: Any, output: Output, observed: Observed, alpha: Any
    ) -> tuple[Any, Tensor]:
        """Beliefs after one message, and ln p_R(y) - ln p_S(y) at the observed sites, for each particle."""
        x = observed.clamp(output).sample()
        sender = family.sender(x, alpha)
        y = sender.sample()
        log_ratio = family.receiver(_masked(observed, output, x), alpha).log_prob(y) - sender.log_prob(y)
        return family.update(params, y, alpha), log_ratio

    def _resampled(self, params: Any, log_weights: Tensor) -> tuple[Any, Tensor]:
        """Particles of equal weight, for the examples whose effective sample size is below the threshold."""
        weights = log_weights.softmax(-1)
        poor = weights.square().sum(-1, keepdim=True).reciprocal() < self.threshold * self.particles
        same = torch.arange(log_weights.numel(), device=poor.device)
        numbers = torch.where(poor.expand_as(weights).flatten(), self._numbers(log_weights, self.particles), same)
        return rows_of(params, numbers), torch.where(poor, 0.0, log_weights)

    def _numbers(self, log_weights: Tensor, draws: int) -> Tensor:
        """Draws particles for each example; returns their indices among the particles of all examples."""
        first = torch.arange(len(log_weights), device=log_weights.device).unsqueeze(-1) * self.particles
        return (first + systematic(log_weights.softmax(-1), draws)).flatten()
