"""Validation: the loss of the validation rows during a training, and its lowest value."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import attrs
import torch
from torch import Tensor

from bfn_toolkit.bfn import BFN
from bfn_toolkit.data.dataset import Batch, Rows
from bfn_toolkit.data.rows import sent
from bfn_toolkit.masks import told
from bfn_toolkit.parallel import processes
from bfn_toolkit.parallel.chunks import deal_chunks
from bfn_toolkit.sampling.chunks import RowsTogether, map_chunks, rows_together
from bfn_toolkit.training.metrics import MetricsLogger
from bfn_toolkit.training.step import TrainStep

VALIDATION_ROWS = 256  # in a chunk, at most


@attrs.define(eq=False)
class Validation:
    """Losses of the validation rows, with the weights that samples would use.

    The draws are the same each time, so that two validations differ by the weights alone; times that the training has
    learned are not used.  The lowest loss, the one to train with, is the best.  Where it is not in nats, the likelihood
    bound is reported beside it.

    Arguments:
        train_step: The steps, whose network is in training.
        model: The model to sample from.
        metrics: The metrics, to which validations are added.
        rows: The validation rows, as the training step receives them.
        step: The last validated step.
        loss: Loss at that step; None if it was not finite, or after a resume.
        best: Lowest finite loss so far.
        since_best: Number of validations since then.
        bounded: Whether the likelihood bound is reported too.
    """

    train_step: TrainStep
    model: BFN
    metrics: MetricsLogger
    rows: Rows
    step: int = 0
    loss: float | None = None
    best: float = math.inf
    since_best: int = 0
    _together: RowsTogether = attrs.field(factory=RowsTogether, init=False)
    bounded: bool = attrs.field(default=attrs.Factory(lambda self: not self.train_step.loss.in_nats, takes_self=True))

    def due(self, step: int) -> bool:
        """Whether a step, or the end of the training, needs a validation that is not done yet."""
        every = self.train_step.training.validate_every
        return self.step != step and every > 0 and (step % every == 0 or step == self.train_step.training.steps)

    def maybe(self, step: int) -> bool:
        """Validates if that is due; all processes call it together.

        Returns:
            Whether the loss is the lowest so far.
        Raises:
            Interrupted: If a signal asks to stop; the validation is then still due.
        """
        if not self.due(step):
            return False
        from bfn_toolkit.evaluation.likelihood import Estimate

        self.metrics.read()  # first, because a signal can end the validation
        estimate, bound = Estimate.of(self.losses()), self.nats() if self.bounded else None
        value = _finite(estimate.value)
        improved = value is not None and value < self.best
        self.step, self.loss = step, value
        self.since_best = 0 if improved else self.since_best + 1
        if improved and value is not None:
            self.best = value
        stderr = _finite(estimate.stderr) if value is not None else None
        found = {"step": step, "valid_loss": value, "valid_loss_stderr": stderr}
        if bound is not None:
            nats = Estimate.of(bound)
            value, stderr = (nats.value, _finite(nats.stderr)) if math.isfinite(nats.value) else (None, None)
            found |= {"valid_nats": value, "valid_nats_stderr": stderr}
        self.metrics.record(found)
        return improved

    def loss_at(self, step: int) -> float | None:
        """The loss at a step, or None where it was not validated."""
        return self.loss if self.step == step else None

    def losses(self) -> Tensor:
        """Loss of each row, the mean of ``validation_draws``."""
        loss, draws = self.train_step.loss, self.train_step.training.validation_draws

        def of_rows(rows: Batch) -> Tensor:
            drawn = [told(loss, self.model, rows.x, rows.condition, mask=rows.mask) for _ in range(draws)]
            return torch.stack(drawn).mean(0) if draws > 1 else drawn[0]

        return self._map(of_rows, "validation")

    def nats(self) -> Tensor | None:
        """One draw of the likelihood bound for each row; None if the model has none."""

        def nll(rows: Batch) -> Tensor:
            n_steps = self.model.family.n_steps
            return self.model.nll(rows.x, n_steps=n_steps, condition=rows.condition, mask=rows.mask)

        try:
            return self._map(nll, "validation bound")
        except ValueError as error:  # an output without a density can be trained with other losses
            processes.warn(f"validation reports no likelihood bound: {error}")
            self.bounded = False
            return None

    @torch.no_grad()
    def _map(self, numbers: Callable[[Batch], Tensor], key: str) -> Tensor:
        """Numbers (B,) of the validation rows, chunk by chunk, with the draws of a key."""
        n, device = len(self.rows), self.train_step.device
        size = rows_together(self.model.family, VALIDATION_ROWS)
        self.model.eval()

        def chunk(number: int) -> Tensor:
            first = number * size
            rows = sent(self.rows[torch.arange(first, first + size).remainder_(n)], device)
            priced: Tensor = self._together.price(numbers, self.train_step.prepare(rows), device)
            return priced

        found: Tensor = map_chunks(range(n), size, chunk, (self.train_step.seed, key), device=device, deal=deal_chunks)
        self.train_step.model.train()
        return found

    @property
    def lost_patience(self) -> bool:
        """Whether the last ``patience`` validations brought no improvement."""
        return 0 < self.train_step.training.patience <= self.since_best

    @property
    def state(self) -> dict[str, Any]:
        """State that a checkpoint keeps."""
        best = self.best if math.isfinite(self.best) else None
        return {"validated": self.step, "best": best, "since_best": self.since_best}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Restores the state of a checkpoint."""
        self.step, self.since_best = state["validated"], state["since_best"]
        self.best = math.inf if state["best"] is None else float(state["best"])


def _finite(number: float) -> float | None:
    """A number, or None if it is not finite, like the standard error of a single row."""
    return number if math.isfinite(number) else None
