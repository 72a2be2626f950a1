"""The times of a loss, learned from the losses of the training."""

from __future__ import annotations

import attrs
import torch
from torch import Tensor

from bfn_toolkit.data.dataset import Batch
from bfn_toolkit.families import Family
from bfn_toolkit.losses import Loss
from bfn_toolkit.masks import told
from bfn_toolkit.model import Model
from bfn_toolkit.parallel import processes
from bfn_toolkit.shapes import Data
from bfn_toolkit.time_distributions import LearnedTimes, TimeDistribution, Times


@attrs.frozen(eq=False)
class _Drawn(TimeDistribution):
    """Times that are drawn already."""

    times: Times

    def draw(self, family: Family, x: Data) -> Times:  # type: ignore[type-arg]
        return self.times


@attrs.define(eq=False)
class TimeLearner:
    """A loss whose field ``times`` is a :class:`~bfn_toolkit.LearnedTimes`, and what training has learned of them.

    The state belongs to the training, is the same in all processes, and changes only between two steps.

    Arguments:
        loss: The loss.
        device: Device of the training.
    """

    loss: Loss
    device: torch.device
    times: LearnedTimes = attrs.field(init=False)
    state: Tensor = attrs.field(init=False)
    _statistics: Tensor = attrs.field(init=False)  # of the step in progress

    def __attrs_post_init__(self) -> None:
        self.times = self.loss.times  # type: ignore[attr-defined]
        self.restore(None)

    @classmethod
    def of(cls, loss: Loss, device: torch.device) -> TimeLearner | None:
        """The learner of a loss; None if its times are not learned."""
        return cls(loss, device) if isinstance(getattr(loss, "times", None), LearnedTimes) else None

    def losses(self, model: Model, batch: Batch, held: Times | None = None) -> Tensor:
        """Weighted losses of the rows of a piece, with shape (B,)."""
        drawn = self.times.fitted(self.state).draw(model.family, batch.x)
        loss = attrs.evolve(self.loss, times=_Drawn(drawn))  # type: ignore[misc]
        losses: Tensor = told(loss, model, batch.x, batch.condition, mask=batch.mask, held=held)
        seen = losses.detach() if drawn.weight is None else losses.detach() / drawn.weight
        self._statistics = self._statistics + self.times.statistics(drawn.t, seen)
        return losses

    def begin(self) -> None:
        """Begins a step."""
        self._statistics = torch.zeros_like(self._statistics)

    def learn(self) -> None:
        """Learns from the losses of the step; all processes call it together."""
        self.state = self.times.updated(self.state, processes.all_reduce_sum(self._statistics))

    def restore(self, state: list[list[float]] | None) -> None:
        """Takes the state of a checkpoint, or None to begin anew; so does a state of another form."""
        first = self.times.initial_state()
        saved = first if state is None else torch.tensor(state, dtype=first.dtype)
        self.state = (saved if saved.shape == first.shape else first).to(self.device)
        self._statistics = torch.zeros_like(self.state)
