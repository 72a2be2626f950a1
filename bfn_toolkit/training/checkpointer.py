"""Checkpoints of a training: when one is due, who writes it, and how often a failure is put up with."""

from __future__ import annotations

import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import attrs

from bfn_toolkit.config.experiment import Experiment
from bfn_toolkit.errors import ResourceError, RunDirectoryError
from bfn_toolkit.parallel import processes
from bfn_toolkit.runs.checkpoints import Checkpoint, find_checkpoint, load_checkpoint, save_checkpoint
from bfn_toolkit.runs.directory import EXPERIMENT
from bfn_toolkit.runs.provenance import changed_settings, providers
from bfn_toolkit.storage.files import write_atomically
from bfn_toolkit.training.step import TrainStep
from bfn_toolkit.training.validation import Validation

UNSAVED = 3  # failures of saving in a row that end a training
SCHEDULE = ("lr", "scheduler", "scheduler_options", "warmup", "steps")  # options of the learning rate


@attrs.define(eq=False)
class Checkpointer:
    """Writes the state of a training into its run directory, and takes it over from there.

    Arguments:
        folder: The run directory, or None to write nothing.
        experiment: The experiment.
        train_step: The steps, with the weights.
        validation: The validation, whose state is kept too.
        origin: Environment and fingerprint of the data, which a resumed training must have again.
        conditions: Kind and range of each condition, to go with the weights.
        inexact: Times at which the training was resumed although something had changed.
    """

    folder: Path | None
    experiment: Experiment
    train_step: TrainStep
    validation: Validation
    origin: dict[str, Any]
    conditions: dict[str, Any]
    inexact: list[Any] = attrs.field(factory=list)
    _began: float = attrs.field(factory=time.monotonic)
    _saved: int = -1  # the step that was saved last
    _failures: int = 0  # in a row

    @property
    def seconds(self) -> float:
        """Seconds of training, before and after a stop."""
        return time.monotonic() - self._began

    def due(self, step: int) -> bool:
        """Whether ``checkpoint_every`` asks for a checkpoint of this step."""
        every = self.experiment.training.checkpoint_every
        return every > 0 and step > 0 and step % every == 0

    def maybe_save(self, step: int, *, asked: bool = False, improved: bool = False) -> None:
        """Saves a step that is due, asked for by a signal, or better than all before it.  All processes call it."""
        if improved:
            self._saved = -1  # the checkpoint of this step may be from before its validation
        if asked or improved or self.due(step):
            self.save(step)

    def save(self, step: int, *, last: bool = False, alone: bool = False) -> None:
        """Saves a step that is not saved; what cannot be written is put up with a few times.

        Arguments:
            step: The step whose state it is.
            last: Whether there will be no other: a failure is then an error.
            alone: Whether this process comes here without the others; otherwise all come together.
        Raises:
            ResourceError: If it cannot be written, and is the last, or ``on_save_error`` is "stop", or it is the third
                failure in a row.
        """
        if self.folder is None:
            return
        # The process that writes knows whether it is saved, and tells the others.
        saved = int(processes.is_main_process() and self._saved == step)
        if saved if alone else processes.all_reduce_max(saved, self.train_step.device):
            return
        if processes.is_main_process() or self.train_step.sharded:
            checkpoint = self._checkpoint(step)
            try:
                if processes.is_main_process():
                    save_checkpoint(self.folder, checkpoint, self.experiment.training.keep)
                self._failures, self._saved = 0, step
            except ResourceError as error:
                self._failures += 1
                if last or self.experiment.training.on_save_error == "stop" or self._failures == UNSAVED:
                    raise
                processes.warn(f"step {step} is not saved: {error}")
        if not alone:
            processes.barrier()

    def _checkpoint(self, step: int) -> Checkpoint:
        state = {
            **self.origin,
            "experiment": self.experiment.to_mapping(),
            **self.validation.state,
            "seconds": self.seconds,
            "inexact": self.inexact,
        }
        facts = {
            "bfn-toolkit": version("bfn-toolkit"),
            "plugins": providers(self.experiment),
            "conditions": self.conditions,
        }
        return self.train_step.checkpoint(step, state, self.validation.loss_at(step), facts)

    def restore(self, folder: Path, *, allow_inexact: bool, allow_nonfinite: bool) -> int:
        """Takes over the state of the last checkpoint of a run that is not damaged; returns its step, 0 without one.

        Raises:
            RunDirectoryError: If it is not that of this training, and that is not allowed.
        """
        listed, passed = find_checkpoint(folder)
        for fault in passed:
            processes.warn(f"passed over: {fault}")
        if listed is None:  # stopped before the first: the start is as good
            return 0
        weights, average = self.train_step.unwrapped.state_dict(), self.train_step.ema is not None
        checkpoint = load_checkpoint(listed.path, weights, average, allow_nonfinite=allow_nonfinite)
        try:
            self._take(checkpoint, folder, allow_inexact)
        except (LookupError, TypeError, RuntimeError, AttributeError) as error:
            raise RunDirectoryError(
                f"{listed.path} does not hold the state of this training: {type(error).__name__}: {error}"
            ) from error
        return checkpoint.step

    def _take(self, checkpoint: Checkpoint, folder: Path, allow_inexact: bool) -> None:
        state, mapping = checkpoint.state, self.experiment.to_mapping()
        differs = changed_settings(state, {**self.origin, "experiment": mapping})
        if differs and not allow_inexact:
            raise RunDirectoryError(
                f"{folder} cannot be resumed bit-exactly; these changed since the checkpoint: {'; '.join(differs)}. "
                "Restore them, or pass --allow-inexact (the change is recorded)"
            )
        before, now = state["experiment"]["training"], mapping["training"]
        self.train_step.restore(checkpoint, schedule=all(before.get(key) == now.get(key) for key in SCHEDULE))
        self._saved, self._began = checkpoint.step, time.monotonic() - state["seconds"]
        self.inexact = state["inexact"]
        self.validation.restore(state)
        if differs:
            self.inexact.append({"step": checkpoint.step, "differs": differs})
        if processes.is_main_process() and state["experiment"] != mapping:
            write_atomically(folder / EXPERIMENT, self.experiment.to_toml())
