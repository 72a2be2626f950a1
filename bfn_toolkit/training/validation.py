"""Validation: what the validation rows cost in the course of a training, and when they cost least."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import attrs
import torch
from torch import Tensor

from bfn_toolkit.bfn import BFN
from bfn_toolkit.data.dataset import Batch
from bfn_toolkit.evaluation.likelihood import Estimate
from bfn_toolkit.sampling.chunks import map_chunks
from bfn_toolkit.training.step import TrainStep

VALIDATION_ROWS = 256  # of a block


@attrs.define(eq=False)
class Validation:
    """Prices of the validation rows, with the weights that samples would have.

    The draws are the same each time, so that two validations differ by the weights alone.

    Arguments:
        loop: The loop in training.
        model: The model to sample from.
        rows: The validation rows, on the device.
        step: The last step whose validation is done.
        loss: At the present step, or None.
        best: The least finite loss so far.
        since_best: Validations since then.
    """

    train_step: TrainStep
    model: BFN
    rows: Batch
    step: int = 0
    loss: float | None = None
    best: float = math.inf
    since_best: int = 0

    def due(self, step: int) -> bool:
        """Whether a step, or the end of the training, calls for a validation that is not done."""
        every = self.train_step.training.validate_every
        return self.step != step and every > 0 and (step % every == 0 or step == self.train_step.training.steps)

    def take(self, step: int) -> dict[str, Any]:
        """Validates at a step; returns its metrics."""
        estimate = Estimate.of(self.losses())
        value = estimate.value if math.isfinite(estimate.value) else None
        improved = value is not None and value < self.best
        self.step, self.loss = step, value
        self.since_best = 0 if improved else self.since_best + 1
        if improved and value is not None:
            self.best = value
        return {"step": step, "valid_loss": value, "valid_loss_stderr": estimate.stderr if value else None}

    @torch.no_grad()
    def losses(self) -> Tensor:
        """Loss of each row."""
        model, n, device = self.model.eval(), len(self.rows), torch.device(self.train_step.accelerator.device)

        def price(block: int) -> Tensor:
            first = block * VALIDATION_ROWS
            rows = self.rows.rows(torch.arange(first, first + VALIDATION_ROWS, device=device).remainder_(n))
            return self.train_step.loss(model, rows.x, rows.condition)

        key = (self.train_step.seed, "validation")
        losses: Tensor = map_chunks(range(n), VALIDATION_ROWS, price, key, device=device)
        self.train_step.model.train()
        return losses

    @property
    def lost_patience(self) -> bool:
        """Whether the best is longer ago than the training has patience for."""
        return 0 < self.train_step.training.patience <= self.since_best

    @property
    def state(self) -> dict[str, Any]:
        """What a checkpoint keeps."""
        best = self.best if math.isfinite(self.best) else None
        return {"validated": self.step, "best": best, "since_best": self.since_best}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Takes over what a checkpoint kept."""
        self.step, self.since_best = state["validated"], state["since_best"]
        self.best = math.inf if state["best"] is None else state["best"]
