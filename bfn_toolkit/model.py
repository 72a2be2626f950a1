r"""The Bayesian flow network: a family and a network make an output distribution.

.. math:: \theta \to \text{features}(\theta) \to \text{network}(\cdot, t) \to p_O(x \mid \theta; t)

Loss, likelihood bound and samples are thin calls of :mod:`~bfn_toolkit.losses` and :mod:`~bfn_toolkit.samplers`.
"""

from __future__ import annotations

import abc
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from bfn_toolkit.errors import PluginError
from bfn_toolkit.families import Family
from bfn_toolkit.losses import ContinuousTimeLoss, DiscreteTimeLoss, ReconstructionLoss
from bfn_toolkit.networks import NetworkBuilder
from bfn_toolkit.outputs import Output
from bfn_toolkit.samplers import OnStep, Sampler
from bfn_toolkit.shapes import times_like
from bfn_toolkit.solvers import default_sampler


class FlowModel(nn.Module, abc.ABC):
    """A family with an output distribution, from wherever it comes."""

    def __init__(self, family: Family[Any]) -> None:
        super().__init__()
        self.family = family

    @abc.abstractmethod
    def output(self, params: Any, t: Tensor, **condition: Tensor) -> Output:
        """Output distribution p_O(. | theta; t), with t of shape (B,) or ()."""

    def loss(self, x: Tensor, *, n_steps: int | None = None, **condition: Tensor) -> Tensor:
        """Price of the messages in nats per example, shape (B,): one draw of L^n, or of L^inf for n_steps=None."""
        loss = ContinuousTimeLoss() if n_steps is None else DiscreteTimeLoss(n_steps)
        return loss(self, x, **condition)

    def nll(self, x: Tensor, *, n_steps: int | None = None, **condition: Tensor) -> Tensor:
        """One draw of an upper bound of -ln p(x) in nats per example, with shape (B,): messages and reconstruction."""
        return self.loss(x, n_steps=n_steps, **condition) + ReconstructionLoss()(self, x, **condition)

    def sample(
        self,
        batch_size: int,
        *,
        n_steps: int,
        sampler: Sampler[Any] | None = None,
        on_step: OnStep | None = None,
        **condition: Tensor,
    ) -> Tensor:
        """Draws samples, with shape (batch_size, *site), from torch's generator (see :func:`~bfn_toolkit.seeded`).

        Arguments:
            batch_size: How many.
            n_steps: Number of steps.
            sampler: How; what :func:`~bfn_toolkit.default_sampler` chooses, if it is not given.
            on_step: Called with each :class:`~bfn_toolkit.Evaluation` of the network.
            condition: What the network is told besides.
        Raises:
            StepCountError: If the family or the sampler's grid does not allow this number of steps.
            ConfigError: If the sampler is not for this family.
        """
        weight = next(self.parameters(), None)
        device, dtype = (None, None) if weight is None else (weight.device, weight.dtype)
        if sampler is None:
            sampler, _ = default_sampler(self.family, n_steps)
        return sampler.sample(
            self, batch_size, n_steps=n_steps, device=device, dtype=dtype, on_step=on_step, **condition
        )


class BFN(FlowModel):
    """Bayesian flow network.

    Arguments:
        family: Distribution family; its ``network_io`` says what the network has to fit.
        network: A module with ``forward(features, t, **condition)``, or the builder of one.

    >>> from bfn_gaussian import Gaussian
    >>> from bfn_siren import Siren
    >>> bfn = BFN(Gaussian(site_shape=(2,)), Siren(width=32))
    >>> bfn.sample(5, n_steps=10).shape
    torch.Size([5, 2])
    """

    def __init__(self, family: Family[Any], network: nn.Module | NetworkBuilder) -> None:
        super().__init__(family)
        self.raw_per_site = family.network_io.raw
        self.network = network if isinstance(network, nn.Module) else network.build(family.network_io)

    def output(self, params: Any, t: Tensor, **condition: Tensor) -> Output:
        """Features, network, output distribution."""
        features = self.family.features(params)
        raw = self.network(features, times_like(t, features), **condition)
        expected = (*features.shape[:-1], self.raw_per_site)
        if not isinstance(raw, Tensor) or raw.shape != expected:
            found = tuple(raw.shape) if isinstance(raw, Tensor) else type(raw).__name__
            cls = type(self.network)
            name = f"{cls.__module__}.{cls.__qualname__}"
            raise PluginError(f"network {name} returned {found}, expected a tensor of shape {expected}")
        return self.family.output(raw.to(features.dtype), params)


class Oracle(FlowModel):
    """A model whose output distribution is a given function: for data whose posterior is known in closed form.

    Arguments:
        family: Distribution family.
        posterior: The exact p(x | theta), as a function of the params.
    """

    def __init__(self, family: Family[Any], posterior: Callable[[Any], Output]) -> None:
        super().__init__(family)
        self.posterior = posterior

    @torch.no_grad()
    def output(self, params: Any, t: Tensor, **condition: Tensor) -> Output:
        """The posterior, whatever the time."""
        return self.posterior(params)
