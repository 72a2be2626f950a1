"""The journal of a training: what is measured, written into the run directory and told to callbacks and trackers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs

from bfn_toolkit.bfn import BFN
from bfn_toolkit.config.experiment import Experiment
from bfn_toolkit.errors import ResourceError
from bfn_toolkit.parallel import processes
from bfn_toolkit.runs.directory import append_metrics

if TYPE_CHECKING:
    from accelerate import Accelerator

FAILURES = 3  # in a row, of a callback, after which it is not called any more

Metrics = Mapping[str, Any]


@attrs.frozen(eq=False)
class TrainingEvent:
    """What a callback is told.

    Arguments:
        step: Optimiser steps done.
        metrics: What has been measured since the last call.
        model: The model to sample from, in its present state.
        path: The run directory, or None.
    """

    step: int
    metrics: Sequence[Metrics]
    model: BFN
    path: Path | None


Callback = Callable[[TrainingEvent], object]


@attrs.define(eq=False)
class MetricsLogger:
    """The metrics of a training; only the first process keeps them.

    Arguments:
        model: The model to sample from.
        folder: The run directory, or None.
        callbacks: Who is told.
        history: All metrics.
    """

    model: BFN
    folder: Path | None
    callbacks: Sequence[Callback]
    history: list[Metrics] = attrs.field(factory=list)
    _untold: list[Metrics] = attrs.field(factory=list)
    _unlogged: list[Metrics] = attrs.field(factory=list)
    _failures: Counter[int] = attrs.field(factory=Counter)
    _log_failed: bool = False

    def record(self, metrics: Metrics) -> None:
        """Notes what has been measured."""
        if processes.is_main_process():
            self.history.append(metrics)
            self._untold.append(metrics)

    def tell(self, step: int) -> bool:
        """Writes new metrics into the run directory and calls the callbacks, who find the model in eval mode.

        Returns:
            Whether there were any.
        """
        if not self._untold:
            return False
        if self.folder is not None:
            self._unlogged += self._untold
            try:
                append_metrics(self.folder, self._unlogged)
                self._unlogged = []
            except ResourceError as error:  # a log does not end a training; the lines are tried again with the next
                if not self._log_failed:
                    processes.warn(str(error))
                self._log_failed = True
        moment = TrainingEvent(step, tuple(self._untold), self.model.eval(), self.folder)
        self._untold = []
        for callback in self.callbacks:
            if self._failures[id(callback)] < FAILURES:
                try:
                    callback(moment)
                    self._failures[id(callback)] = 0
                except Exception as error:
                    self._failures[id(callback)] += 1
                    name = getattr(callback, "__qualname__", repr(callback))
                    ending = "; it is not called any more" if self._failures[id(callback)] == FAILURES else ""
                    processes.warn(f"callback {name}: {type(error).__name__}: {error}{ending}")
        return True


def start_trackers(accelerator: Accelerator, experiment: Experiment) -> Callback:
    """Starts the trackers of an experiment; what is returned tells them of a moment.

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

    def tracker(moment: TrainingEvent) -> None:
        for metrics in moment.metrics:
            accelerator.log({k: v for k, v in metrics.items() if k != "step"}, step=int(metrics["step"]))

    return tracker
