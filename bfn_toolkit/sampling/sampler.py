r"""Samplers: from the prior to a sample, message by message.

The ancestral sampler draws the messages of a sender who knows a sample of the output distribution:

.. math::
    x' \sim p_O(\cdot \mid \theta_{i-1}; t_{i-1}), \quad y \sim p_S(\cdot \mid x'; \alpha_i), \quad
    \theta_i = h(\theta_{i-1}, y, \alpha_i), \qquad i = 1..n

which is exact in distribution for every n if the output distribution is.  At the end x is drawn from the output at
t = 1.

Source: Graves et al. 2023, algorithms 3 and 9.
"""

from __future__ import annotations

import abc
from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import Any, ClassVar, Generic, TypeVar

import attrs
import torch
from torch import Tensor

from bfn_toolkit.errors import ConfigError
from bfn_toolkit.model import Model
from bfn_toolkit.outputs import Output
from bfn_toolkit.parallel import processes


@attrs.frozen(eq=False)
class SamplerState:
    """What a sampler carries from step to step.

    Arguments:
        params: Beliefs of all examples.
    """

    params: Any


S = TypeVar("S", bound=SamplerState)


@attrs.frozen(eq=False)
class SamplerStep:
    """One evaluation of the network on the way to a sample.

    Arguments:
        number: Which of them: 1 for the first.
        count: How many there are in all; the last is the one from which the sample is drawn.
        t: Time, a scalar tensor on the CPU.
        params: Beliefs at that time.
        output: Output distribution under them.
        first: Number of the first of these rows among all that are drawn.
    """

    number: int
    count: int
    t: Tensor
    params: Any
    output: Output
    first: int = 0


OnStep = Callable[[SamplerStep], object]


class _Watched:
    """A model that tells of its evaluations, and keeps none."""

    def __init__(self, model: Model, count: int, on_step: OnStep) -> None:
        self.family, self._model, self._count, self._on_step, self._number = model.family, model, count, on_step, 0

    def output(self, params: Any, t: Tensor, **condition: Tensor) -> Output:
        output = self._model.output(params, t, **condition)
        self._number += 1
        self._on_step(SamplerStep(self._number, self._count, t, params, output))
        return output


def watched(model: Model, count: int, on_step: OnStep | None) -> Model:
    """The model, which tells of each of ``count`` evaluations if someone wants to know."""
    return model if on_step is None else _Watched(model, count, on_step)


class Sampler(abc.ABC, Generic[S]):
    """A way from the prior to a sample: :meth:`init`, then :meth:`step` over :meth:`times`, then the last output."""

    kind: ClassVar[str] = "sampler"
    exact_for_constants: ClassVar[bool] = (
        True  # a claim: an output that is one point, for ever, is sampled without error
    )

    @abc.abstractmethod
    def init(self, model: Model, batch_size: int, *, device: torch.device, dtype: torch.dtype) -> S:
        """State before the first step."""

    @abc.abstractmethod
    def step(self, model: Model, state: S, s: Tensor, t: Tensor, **condition: Tensor) -> S:
        """State at time t from the state at time s < t; both are scalar float64 tensors on the CPU."""

    def times(self, model: Model, n_steps: int) -> Tensor:
        """Times of the n + 1 states, increasing from 0: the family's, unless a sampler has a grid of its own.

        Raises:
            StepCountError: If this number of steps is not allowed.
            ConfigError: If the sampler is not for this family.
        """
        return model.family.times(n_steps)

    def nfe(self, n_steps: int) -> int:
        """How often a sample of n steps asks the network: once in each step, and once at the end."""
        return n_steps + 1

    def trajectory(
        self,
        model: Model,
        batch_size: int,
        *,
        n_steps: int,
        device: torch.device | None = None,
        dtype: torch.dtype | None = None,
        **condition: Tensor,
    ) -> Iterator[S]:
        """Yields the n + 1 states, from the prior to the last of the times; keeps none of them."""
        if isinstance(batch_size, bool) or not isinstance(batch_size, int) or batch_size < 1:
            raise ConfigError(f"the number of samples must be an integer of at least 1, got {batch_size!r}")
        times = self.times(model, n_steps)
        device, dtype = device or torch.device("cpu"), dtype or torch.get_default_dtype()
        state = self.init(model, batch_size, device=device, dtype=dtype)
        yield state
        for s, t in pairwise(times.unbind()):
            processes.check_signals()
            state = self.step(model, state, s, t, **condition)
            yield state

    @torch.inference_mode()
    def sample(
        self,
        model: Model,
        batch_size: int,
        *,
        n_steps: int,
        device: torch.device | None = None,
        dtype: torch.dtype | None = None,
        on_step: OnStep | None = None,
        **condition: Tensor,
    ) -> Tensor:
        """Draws samples, with shape (batch_size, *site), in :meth:`nfe` evaluations of the network.

        Arguments:
            model: Whose samples.
            batch_size: How many.
            n_steps: Number of steps.
            device: Where to draw.
            dtype: In which precision.
            on_step: Called with each :class:`SamplerStep`, which is gone afterwards unless the function keeps it.
            condition: What the network is told besides.
        """
        model = watched(model, self.nfe(n_steps), on_step)
        for state in self.trajectory(model, batch_size, n_steps=n_steps, device=device, dtype=dtype, **condition):
            params = state.params
        return model.output(params, self.times(model, n_steps)[-1], **condition).sample()
