"""Checkpoints of a training: their schedule, their writer, and tolerance of failures."""

from __future__ import annotations

import shlex
import time
from collections.abc import Mapping
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import Any

import attrs

from bfn_toolkit.config.experiment import Experiment
from bfn_toolkit.config.toml_files import read_toml
from bfn_toolkit.errors import BFNError, ConfigError, ResourceError, RunDirectoryError
from bfn_toolkit.parallel import processes
from bfn_toolkit.runs.checkpoints import Checkpoint, find_checkpoint, load_checkpoint, save_checkpoint
from bfn_toolkit.runs.directory import GoneError, Home
from bfn_toolkit.runs.metrics_log import METRICS, NOTHING
from bfn_toolkit.runs.model_files import DESCRIPTION
from bfn_toolkit.runs.provenance import providers
from bfn_toolkit.runs.records import EXPERIMENT, changed_settings, identity, parsed
from bfn_toolkit.storage.files import write_atomically
from bfn_toolkit.training.step import TrainStep
from bfn_toolkit.training.validation import Validation

UNSAVED = 3  # consecutive failures to save that end a training
SCHEDULE = ("lr", "scheduler", "scheduler_options", "warmup", "steps")  # options of the learning rate


@attrs.define(eq=False)
class Checkpointer:
    """Writes the state of a training into its run directory, and restores it.

    Arguments:
        folder: The run directory, or None to write nothing.
        experiment: The experiment.
        train_step: The steps, with the weights.
        validation: The validation, whose state is saved too.
        origin: Environment and fingerprint of the data, which must be the same after a resume.
        data_facts: Facts about the data and the first weights, saved with the weights.
        inexact: Resumes after something had changed.
        lines: Record of ``metrics.jsonl`` in the checkpoint that was restored.
        home: The directory while it is written.
    """

    folder: Path | None
    experiment: Experiment
    train_step: TrainStep
    validation: Validation
    origin: dict[str, Any]
    data_facts: dict[str, Any]
    inexact: list[Any] = attrs.field(factory=list)
    lines: Mapping[str, Any] = attrs.field(factory=NOTHING.copy)
    home: Home | None = None
    _rewrite: bool = False  # whether experiment.toml is that before a change
    _began: float = attrs.field(factory=time.monotonic)
    _saved: int = -1  # the step that was saved last
    _failures: int = 0  # in a row

    @cached_property
    def _text(self) -> str:
        return self.experiment.to_toml()

    @property
    def seconds(self) -> float:
        """Seconds of training, before and after a stop."""
        return time.monotonic() - self._began

    def due(self, step: int) -> bool:
        """Whether ``checkpoint_every`` asks for a checkpoint of this step."""
        every = self.experiment.training.checkpoint_every
        return every > 0 and step > 0 and step % every == 0

    def maybe_save(self, step: int, *, requested: bool = False, improved: bool = False) -> None:
        """Saves a step that is due, requested by a signal, or the best so far; all processes call it together."""
        if improved:
            self._saved = -1  # the checkpoint of this step may be from before its validation
        if requested or improved or self.due(step):
            self.save(step)

    def save(self, step: int, *, last: bool = False, alone: bool = False) -> None:
        """Saves a step unless it is saved already; tolerates a few failures to write.

        Arguments:
            step: Number of the step.
            last: Whether it is the last checkpoint: a failure is then an error.
            alone: Whether this process calls it alone; otherwise all call it together.
        Raises:
            ResourceError: If the checkpoint cannot be written and is the last, or ``on_save_error`` is "stop", or this
                is the third failure in a row.
        """
        if self.folder is None:
            return
        # Only the process that writes knows whether the step is saved.
        saved = int(processes.is_main_process() and self._saved == step)
        if saved if alone else processes.all_reduce_max(saved, self.train_step.device):
            return
        if processes.is_main_process() or self.train_step.sharded:
            checkpoint = self._checkpoint(step)
            try:
                if processes.is_main_process():
                    self._write(self.folder, checkpoint)
                self._failures, self._saved = 0, step
            except GoneError:
                raise
            except ResourceError as error:
                self._failures += 1
                if last or self.experiment.training.on_save_error == "stop" or self._failures == UNSAVED:
                    raise
                processes.warn(f"step {step} is not saved: {error}")
        if not alone:
            processes.barrier()

    def _write(self, folder: Path, checkpoint: Checkpoint) -> None:
        if self.home is not None:
            self.home.check()
        save_checkpoint(folder, checkpoint, self.experiment.training.keep)
        if self._rewrite:  # only now, because before this step nothing came of the change
            write_atomically(folder / EXPERIMENT, self._text)
            self._rewrite = False

    def _checkpoint(self, step: int) -> Checkpoint:
        state = {
            **self.origin,
            **self.validation.state,
            "seconds": self.seconds,
            "stopped": self.validation.metrics.stopped,
        }
        facts = {"bfn-toolkit": version("bfn-toolkit"), "plugins": providers(self.experiment), **self.facts}
        return self.train_step.checkpoint(step, state, self.validation.loss_at(step), facts)

    @property
    def facts(self) -> dict[str, Any]:
        """Facts about the data, the experiment and the metrics, which are saved with the weights."""
        log = self.validation.metrics.log
        lines = NOTHING if log is None else log.record()
        return {**self.data_facts, "experiment": self._text, "inexact": self.inexact, "metrics": lines}

    def restore(self, folder: Path, *, allow_inexact: bool, allow_nonfinite: bool) -> int:
        """Restores the state of the last undamaged checkpoint of a run; returns its step, or 0 without one.

        Raises:
            RunDirectoryError: If it belongs to another training, or changes are not allowed.
        """
        path = folder / EXPERIMENT
        self._rewrite = read_toml(path, str(path))[0] != parsed(self._text)
        listed, passed = find_checkpoint(folder)
        for fault in passed:
            processes.warn(f"skipped: {fault}")
        if listed is None:  # stopped before the first checkpoint: start again
            if (folder / DESCRIPTION).exists():
                raise RunDirectoryError(
                    f"{folder} holds a model, but no checkpoint from which its training could continue; the model is "
                    f"left as it is. Another training: bfn train --config {shlex.quote(str(folder / EXPERIMENT))}"
                )
            if (folder / METRICS).exists():
                processes.warn(f"{folder} holds no checkpoint, so the training starts again at step 0")
            return 0
        weights, average = self.train_step.unwrapped.state_dict(), self.train_step.ema is not None
        checkpoint = load_checkpoint(listed.path, weights, average, allow_nonfinite=allow_nonfinite)
        try:
            self._take(checkpoint, folder, allow_inexact)
        except BFNError:
            raise
        except (LookupError, TypeError, ValueError, RuntimeError, AttributeError) as error:
            raise RunDirectoryError(
                f"{listed.path} does not hold the state of this training: {type(error).__name__}: {error}"
            ) from error
        return checkpoint.step

    def _take(self, checkpoint: Checkpoint, folder: Path, allow_inexact: bool) -> None:
        state, dataset = checkpoint.state, self.experiment.dataset
        now = {**self.origin, "experiment": self._text, "plugins": providers(self.experiment)}
        differs = changed_settings(state, now, dataset)
        if differs and not allow_inexact:
            raise RunDirectoryError(
                f"{folder} cannot be resumed bit-exactly; these changed since the checkpoint: {'; '.join(differs)}. "
                "Restore them, or pass --allow-inexact (the change is recorded)"
            )
        then = parsed(state["experiment"])
        before, after = then["training"], parsed(self._text)["training"]
        self.train_step.restore(checkpoint, schedule=all(before.get(key) == after.get(key) for key in SCHEDULE))
        self._saved, self._began = checkpoint.step, time.monotonic() - state["seconds"]
        self.inexact, self.lines = state["inexact"], state["metrics"]
        if "init" in state:
            self.data_facts["init"] = state["init"]
        self.validation.restore(state)
        if before["steps"] == after["steps"]:
            self.validation.metrics.stopped = state.get("stopped")
        options = identity(then, dataset) != identity(parsed(self._text), dataset)
        if options and (checkpoint.step >= self.experiment.training.steps or self.validation.lost_patience):
            raise ConfigError(
                f"{folder} has been trained to its end, step {checkpoint.step}, and other options would describe "
                "weights that they have not trained; leave them out, or train longer: "
                f"--training.steps {2 * checkpoint.step}"
            )
        if differs:
            entry = {"step": checkpoint.step, "differs": differs, "experiment": identity(then, dataset)}
            self.inexact = [*self.inexact, entry]
