r"""Output distributions over directions: mixtures of beliefs, and their receivers.

With beliefs :math:`p(x \mid v) = e^{v \cdot \phi(x)} / Z(v)` and components with natural parameters v + u_k,

.. math:: p_O(x) = \sum_k w_k \, p(x \mid v + u_k), \qquad
          p_R(y) = \sum_k w_k \, N(y; \alpha \phi(x), \alpha I) \, \frac{p(x \mid v + u_k)}{p(x \mid v + u_k + y)}

for any x, by Bayes' rule.  With x the mean direction of the beliefs after the message, no term is a difference of
numbers of the size of the accuracy.

This form is exact: if the data have the density :math:`\sum_k \pi_k \, p(x \mid u_k)`, their posterior is p_O with
:math:`w_k \propto \pi_k Z(v + u_k) / Z(u_k)`.  The receiver is exact too, because p is conjugate to the sender.  The
likelihood bound is that of a density, without grid or bins.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import attrs
import torch
from torch import Tensor
from torch.distributions import Distribution

from bfn_directional.beliefs import Belief
from bfn_toolkit import (
    ConfigError,
    Kernel,
    Output,
    expand,
    guide,
    marginal,
    moments_near,
    per_example,
    present,
    seeded,
)


@attrs.frozen(eq=False)
class BeliefMixture:
    """Output distribution: at each site a mixture of beliefs.

    Arguments:
        belief: Class of the beliefs, such as :class:`~bfn_directional.beliefs.VonMisesFisher`.
        logits: Unnormalised log-weights, with shape (B, *sites, K).
        v: Natural parameters, with shape (B, *sites, K, d).
    """

    belief: type[Belief]
    logits: Tensor
    v: Tensor

    def _chosen(self, choice: Tensor) -> Belief:
        index = choice[..., None, None].expand(*choice.shape, 1, self.v.shape[-1])
        return self.belief(self.v.gather(-2, index).squeeze(-2))

    @property
    def expectation(self) -> Tensor:
        """E[phi] at each site, with shape (B, *sites, d)."""
        return (self.logits.softmax(-1).unsqueeze(-1) * self.belief(self.v).expectation).sum(-2)

    @property
    def mean(self) -> Tensor:
        """Direction of E[phi]."""
        return self.belief(self.expectation).mean

    @property
    def mode(self) -> Tensor:
        """Mean direction of the component with the largest weight (the mode, if components do not overlap)."""
        return self._chosen(self.logits.argmax(-1)).mean

    def sample(self) -> Tensor:
        """Draws x, with independent sites."""
        gumbel = -torch.empty_like(self.logits).exponential_().log()
        return self._chosen((self.logits + gumbel).argmax(-1)).sample()

    def log_prob(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Log-density in nats per example."""
        terms = self.belief(self.v).log_prob(present(x, mask).unsqueeze(self.v.ndim - 2))
        return per_example((self.logits.log_softmax(-1) + terms).logsumexp(-1), mask)

    def expect(self, function: Callable[[Tensor], Tensor]) -> Tensor:
        r"""E[function(x)] of a function that is affine in phi, exact.

        It is a sum over the points of the design, with weights :math:`(1 + d / |\phi|^2 \; E[\phi] \cdot \phi_j) / n`,
        some of which may be negative.

        Raises:
            ConfigError: If the function is not affine in phi; values are read to find out.
        """
        like = self.v
        points = torch.tensor(self.belief.design, device=like.device, dtype=like.dtype)
        site = self.expectation.shape[:-1]
        values = [function(point.expand(*site, *point.shape)) for point in points]

        def average(expectation: Tensor) -> Tensor:
            scale, terms = self.v.shape[-1] / self.belief.square, []
            for point, value in zip(points, values, strict=True):
                weight = (1.0 + scale * (expectation @ self.belief.embed(point))) / len(points)
                terms.append(expand(weight, value) * value)
            return torch.stack(terms).sum(0)

        with seeded(0, "affine"):
            draws = [self.sample() for _ in range(3)]
        for x in draws:  # for an affine function, the weighted sum at phi(x) is function(x)
            value, expected = function(x), average(self.belief.embed(x))
            size = torch.stack(values).abs().amax() + value.abs().amax()
            if not bool(((value - expected).abs() <= 1e-3 * size).all()):
                raise ConfigError(
                    f"a mixture of {self.belief.__name__} has exact expectations only for functions affine in its "
                    "embedding, and this one is not; write function(output.sample()) and average over draws"
                )
        return average(self.expectation)

    def mix(self, kernel: Kernel) -> Distribution:
        """The receiver; exact for the kernel of the channel, N(alpha phi(x), alpha I)."""
        sent = kernel(self.mode)
        return Receiver(self, kernel, sent.variance.reshape(*self.v.shape[:-2], -1)[..., :1], sent.event_shape)


@guide.register
def _(given: BeliefMixture, free: Any, weight: float) -> Output:
    logits, v = given.logits + weight * (given.logits - free.logits), given.v + weight * (given.v - free.v)
    return attrs.evolve(given, logits=logits, v=v)


class Receiver(Distribution):
    """Receiver distribution of a :class:`BeliefMixture`.

    Arguments:
        output: The mixture.
        kernel: The sender, as a function of the data.
        alpha: Accuracy of the message, with shape (B, *sites, 1).
        event_shape: Shape of a message, (*site, d).
        mask: True at the sites whose density counts; None if all do.
    """

    arg_constraints = {}  # noqa: RUF012

    def __init__(
        self,
        output: BeliefMixture,
        kernel: Kernel,
        alpha: Tensor,
        event_shape: torch.Size,
        mask: Tensor | None = None,
    ) -> None:
        self.output, self.kernel, self.alpha, self.mask = output, kernel, alpha, mask
        super().__init__(alpha.shape[:1], event_shape, validate_args=False)

    def log_prob(self, y: Tensor) -> Tensor:
        """Log-density in nats per example."""
        belief, v, alpha = self.output.belief, self.output.v, self.alpha.unsqueeze(-2)
        y = y.reshape(*v.shape[:-2], 1, v.shape[-1])
        after = belief(v + y)
        x = after.mean.detach()  # the density is the same for every x
        noise = (y - alpha * belief.embed(x)).square() / alpha + (2.0 * math.pi * alpha).log()
        terms = belief(v).log_prob(x) - after.log_prob(x) - 0.5 * noise.sum(-1)
        return per_example((self.output.logits.log_softmax(-1) + terms).logsumexp(-1), self.mask)

    def sample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        """Ancestral draws, with shape sample_shape + (B, *site, d)."""
        draws = [self.kernel(self.output.sample()).sample() for _ in range(math.prod(sample_shape))]
        return torch.stack(draws).reshape(*sample_shape, *draws[0].shape)


@marginal.register
def _(receiver: Receiver, mask: Tensor) -> Distribution:
    return Receiver(receiver.output, receiver.kernel, receiver.alpha, receiver.event_shape, mask)


@moments_near.register
def _(receiver: Receiver, sender: Distribution) -> tuple[Tensor, Tensor]:
    """After half a message without noise; the variance is the average over the coordinates, as |phi| is constant."""
    output, alpha = receiver.output, receiver.alpha
    belief, logits, v = output.belief, output.logits, output.v
    tilted = v + 0.5 * sender.mean.reshape(*logits.shape[:-1], 1, v.shape[-1])
    if logits.shape[-1] > 1:
        logits = logits + belief(tilted).log_normaliser - belief(v).log_normaliser
    phi = BeliefMixture(belief, logits, tilted).expectation
    spread = (belief.square - phi.square().sum(-1, keepdim=True)) / phi.shape[-1]
    mean, variance = alpha * phi, (alpha * (1.0 + alpha * spread)).expand_as(phi)
    shape = (-1, *receiver.event_shape)
    return mean.reshape(shape), variance.reshape(shape)
