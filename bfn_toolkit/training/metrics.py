"""Metrics of a training: read from the device, written into the run directory, and passed to callbacks and trackers."""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs
import torch
from torch import Tensor

from bfn_toolkit.bfn import BFN
from bfn_toolkit.config.experiment import Experiment
from bfn_toolkit.errors import ResourceError
from bfn_toolkit.parallel import processes
from bfn_toolkit.runs.directory import Home
from bfn_toolkit.runs.metrics_log import MetricsLog
from bfn_toolkit.training.step import NonFiniteStep, TrainStep

if TYPE_CHECKING:
    from accelerate import Accelerator

READ_EVERY = 20  # steps between reads of the losses: reading a number waits for the device
READ_SECONDS = 5.0  # after this time they are read too, in a single process
FAILURES = 3  # consecutive failures after which a callback is not called any more

Metrics = Mapping[str, Any]


@attrs.frozen(eq=False)
class TrainingEvent:
    """The argument of a callback, which can stop the training (:meth:`stop`).

    Arguments:
        step: Optimiser steps done.
        metrics: Measurements since the last call.
        model: The model to sample from, in its present state.
        path: The run directory, or None.
    """

    step: int
    metrics: Sequence[Metrics]
    model: BFN
    path: Path | None
    _reasons: list[str] = attrs.field(factory=list, init=False, repr=False)

    def stop(self, reason: str = "a callback asked for it") -> None:
        """Ends the training after this step, as an early stop: the run is complete, and the reason is recorded."""
        self._reasons.append(str(reason))

    @property
    def stopped(self) -> str | None:
        """The first reason to stop; None if there is none."""
        return self._reasons[0] if self._reasons else None


Callback = Callable[[TrainingEvent], object]


@attrs.define(eq=False)
class MetricsLogger:
    """The metrics of a training.  All processes call it together; the first one keeps them and calls the callbacks.

    Arguments:
        train_step: The steps, whose network is in training.
        model: The model to sample from.
        folder: The run directory, or None.
        callbacks: Functions to call with new metrics.
        history: All metrics, in the first process.
        stopped: Reason of a callback to stop, in the first process, and "" in the others; None if there is none.
        history: All metrics, in the first process, of a training without a run directory.
        log: The file of the metrics, in the first process.
        home: The run directory while it is written.
    """

    train_step: TrainStep
    model: BFN
    folder: Path | None
    callbacks: Sequence[Callback]
    history: list[Metrics] = attrs.field(factory=list)
    stopped: str | None = None
    log: MetricsLog | None = None
    home: Home | None = None
    _unread: list[tuple[int, float, Tensor]] = attrs.field(factory=list)  # losses that are still on the device
    _new: list[Metrics] = attrs.field(factory=list)  # since the last call of the callbacks
    _unlogged: list[Metrics] = attrs.field(factory=list)
    _failures: Counter[int] = attrs.field(factory=Counter)
    _log_failed: bool = False
    _read_at: float = attrs.field(factory=time.monotonic)

    def note(self, step: int, lr: float, loss: Tensor, norm: Tensor) -> None:
        """Keeps loss and gradient norm of a step, which may still be on the device."""
        self._unread.append((step, lr, torch.stack((loss, norm))))

    def read(self) -> None:
        """Reads the losses that are still on the device.

        Raises:
            NonFiniteStep: If a loss or a gradient is not finite.
        """
        if not self._unread:
            return
        self._read_at = time.monotonic()
        steps, rates, values = zip(*self._unread, strict=True)
        self._unread = []
        for step, lr, (loss, norm) in zip(steps, rates, torch.stack(values).tolist(), strict=True):
            # With a scaler, gradients in half precision overflow now and then; it skips those steps.
            if not math.isfinite(loss) or not (math.isfinite(norm) or self.train_step.accelerator.scaler):
                raise NonFiniteStep(step, loss, norm)
            self.record({"step": step, "loss": loss, "grad_norm": norm, "lr": lr})

    def record(self, metrics: Metrics) -> None:
        """Adds new measurements."""
        self._new.append(metrics)
        if processes.is_main_process() and self.folder is None:
            self.history.append(metrics)

    def flush(self, step: int, *, now: bool = False, alone: bool = False) -> None:
        """Writes new metrics into the run directory and calls the callbacks; the other processes wait.

        Arguments:
            step: Number of steps done.
            now: Whether to read all losses from the device now.
            alone: Whether this process calls it alone, as after an error.
        Raises:
            NonFiniteStep: If a loss or a gradient is not finite.
        """
        late = processes.world_size() == 1 and time.monotonic() - self._read_at >= READ_SECONDS
        if now or late or step % READ_EVERY == 0:
            self.read()
        if not self._new:
            return
        metrics, self._new = tuple(self._new), []
        with nullcontext() if alone else processes.others_waiting():
            if processes.is_main_process():
                self._write(metrics)
                event = TrainingEvent(step, metrics, self.model.eval(), self.folder)
                self._call(event)
                self.stopped = self.stopped if event.stopped is None else event.stopped
        if not alone and processes.all_reduce_max(int(self.stopped is not None), self.train_step.device):
            self.stopped = self.stopped or ""
        self.train_step.model.train()

    def _write(self, metrics: Sequence[Metrics]) -> None:
        if self.log is None:
            return
        if self.home is not None:
            self.home.check()
        self._unlogged += metrics
        try:
            self.log.append(self._unlogged)
            self._unlogged = []
        except ResourceError as error:  # a failing log does not end a training; the lines are retried with the next
            if not self._log_failed:
                processes.warn(str(error))
            self._log_failed = True

    def _call(self, event: TrainingEvent) -> None:
        for callback in self.callbacks:
            if self._failures[id(callback)] < FAILURES:
                try:
                    callback(event)
                    self._failures[id(callback)] = 0
                except Exception as error:
                    self._failures[id(callback)] += 1
                    name = getattr(callback, "__qualname__", repr(callback))
                    ending = "; it is not called any more" if self._failures[id(callback)] == FAILURES else ""
                    processes.warn(f"callback {name}: {type(error).__name__}: {error}{ending}")


def start_trackers(accelerator: Accelerator, experiment: Experiment) -> Callback:
    """Starts the trackers of an experiment; returns a callback that hands them the metrics.

    Raises:
        ResourceError: If one does not start.
    """
    options = {key: value for key, _, value in experiment.options()}
    plain = {key: v if isinstance(v, (bool, int, float, str)) else str(v) for key, v in options.items()}
    try:
        accelerator.init_trackers("bfn", config=plain)
    except Exception as error:
        names = ", ".join(experiment.training.trackers)
        raise ResourceError(f"training.trackers: {names} did not start: {error}") from error

    def tracker(event: TrainingEvent) -> None:
        for metrics in event.metrics:
            numbers = {k: v for k, v in metrics.items() if k != "step" and v is not None}
            accelerator.log(numbers, step=int(metrics["step"]))

    return tracker
