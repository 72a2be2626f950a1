"""Samplers: from the prior to a sample, step by step.

A sampler starts from the prior (:meth:`Sampler.init`), calls the model once or more in each step
(:meth:`Sampler.step`), and draws the sample from the last output distribution, at t = 1.
"""

from __future__ import annotations

import abc
from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import Any, ClassVar, Generic, TypeVar

import attrs
import torch
from torch import Tensor

from bfn_toolkit.model import Condition, Model, ModelWrapper
from bfn_toolkit.outputs import Output
from bfn_toolkit.shapes import Data, Times, leaves
from bfn_toolkit.validators import whole_number


@attrs.frozen(eq=False)
class SamplerState:
    """State that a sampler carries from step to step.

    Arguments:
        params: Beliefs of all examples.
        previous: The last output, if the model conditions itself on it.
    """

    params: Any
    previous: Output | None = attrs.field(default=None, kw_only=True)

    def output(self, model: Model, t: Times, condition: Condition | None = None) -> Output:
        """Output distribution of a model under these beliefs."""
        if self.previous is None:
            return model.output(self.params, t, condition)
        return model.output(self.params, t, condition, previous=self.previous)


S = TypeVar("S", bound=SamplerState)


@attrs.frozen(eq=False)
class SamplerStep:
    """One evaluation of the network during sampling.

    Arguments:
        number: Index of the evaluation, from 1.
        count: Number of evaluations in all; the sample is drawn from the last one.
        t: Time, a scalar tensor on the CPU; the mean, if times differ by site or part.
        params: Beliefs at that time.
        output: Output distribution under these beliefs.
        first: Index of the first of these rows among all rows.
    """

    number: int
    count: int
    t: Tensor
    params: Any
    output: Output
    first: int = 0


OnStep = Callable[[SamplerStep], object]


class WatchedModel(ModelWrapper):
    """Model that reports each of its evaluations to a callback, and keeps none of them.

    Arguments:
        model: The wrapped model.
        count: Number of evaluations in all.
        on_step: The callback.
    """

    def __init__(self, model: Model, count: int, on_step: OnStep) -> None:
        super().__init__(model)
        self.count, self.on_step, self.number = count, on_step, 0

    def output(self, params: Any, t: Times, condition: Condition | None = None, **told: Any) -> Output:
        """Output distribution of the wrapped model, which is also passed to the callback."""
        output = self.model.output(params, t, condition, **told)
        self.number += 1
        self.on_step(SamplerStep(self.number, self.count, _mean_time(t), params, output))
        return output


def _mean_time(t: Times) -> Tensor:
    return torch.stack([time.detach().cpu().double().mean() for time in leaves(t)]).mean()


def watched(model: Model, count: int, on_step: OnStep | None) -> Model:
    """The model, watched if there is a callback."""
    return model if on_step is None else WatchedModel(model, count, on_step)


class Sampler(abc.ABC, Generic[S]):
    """Sampler: :meth:`init`, then :meth:`step` over :meth:`times`, then a draw from the last output."""

    kind: ClassVar[str] = "sampler"
    exact_for_constants: ClassVar[bool] = (
        True  # a claim: an output that is the same point at all times is sampled without error
    )

    @abc.abstractmethod
    def init(self, model: Model, batch_size: int, *, device: torch.device, dtype: torch.dtype) -> S:
        """State before the first step."""

    @abc.abstractmethod
    def step(self, model: Model, state: S, s: Times, t: Times, condition: Condition | None = None) -> S:
        """State at time t from the state at time s < t.

        Times are scalar float64 tensors on the CPU.  A sampler that is called by another, such as
        :class:`~bfn_toolkit.AnyOrderSampler`, gets times by part, or by site with shape (B, *site) or leading axes of
        it, and some of them stand still: s = t.  For a model with ``self_conditioning`` the state carries the output.
        """

    def times(self, model: Model, n_steps: int) -> Tensor:
        """Times of the n + 1 states, increasing from 0; by default those of the family.

        Raises:
            StepCountError: If this number of steps is not allowed.
            ConfigError: If the sampler does not fit this family.
        """
        return model.family.times(n_steps)

    def step_times(self, model: Model, n_steps: int) -> Tensor:
        """The times as :meth:`step` takes them in a program, where they are not known in advance: (n + 1, k) numbers.

        k is 1, the time of all sites, unless a sampler has several.
        """
        return self.times(model, n_steps).unsqueeze(1)

    def nfe(self, n_steps: int) -> int:
        """Number of network evaluations for n steps: one per step, and one at the end."""
        return n_steps + 1

    def trajectory(
        self,
        model: Model,
        batch_size: int,
        *,
        n_steps: int,
        condition: Condition | None = None,
        device: torch.device | None = None,
        dtype: torch.dtype | None = None,
    ) -> Iterator[S]:
        """Yields the n + 1 states, from the prior to the last time; keeps none of them."""
        batch_size = whole_number("batch_size", batch_size, most=2**63 - 1, write=16)
        times = self.times(model, n_steps)
        device, dtype = device or torch.device("cpu"), dtype or torch.get_default_dtype()
        state = self.init(model, batch_size, device=device, dtype=dtype)
        yield state
        for s, t in pairwise(times.unbind()):
            state = self.step(model, state, s, t, condition)
            yield state

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
        """Draws samples, with shape (batch_size, *site), in :meth:`nfe` evaluations of the network.

        Arguments:
            model: The model.
            batch_size: Number of samples.
            n_steps: Number of steps.
            condition: Conditions of the network by name, each with ``batch_size`` rows.
            device: Device of the beliefs.
            dtype: Floating dtype of the beliefs.
            on_step: Callback that receives each :class:`SamplerStep`; the sampler does not keep it.
        """
        model = watched(model, self.nfe(n_steps), on_step)
        for state in self.trajectory(
            model, batch_size, n_steps=n_steps, condition=condition, device=device, dtype=dtype
        ):
            last = state
        return last.output(model, self.times(model, n_steps)[-1], condition).sample()
