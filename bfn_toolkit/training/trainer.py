"""Training: from an experiment to a trained model, in memory or in a run directory.

Each step draws from a scope of its own, keyed by the seed and the step, and the rows of each batch are a function of
seed and step.  So what a run does after a step follows from the state at that step, which a checkpoint holds: a run
that was stopped, in whatever way, goes on to the same bits (:func:`resume`).
"""

from __future__ import annotations

import json
import math
import shlex
import signal
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, suppress
from importlib.metadata import version
from pathlib import Path
from typing import Any

import attrs
import torch
from torch import Tensor

from bfn_toolkit.bfn import BFN
from bfn_toolkit.config.experiment import Experiment, Training
from bfn_toolkit.data.conditions import seen_in
from bfn_toolkit.data.dataset import Batch
from bfn_toolkit.data.loader import batches, fetched_batches
from bfn_toolkit.errors import ConfigError, DataError, NonFiniteError, ResourceError, RunDirectoryError
from bfn_toolkit.parallel import processes, signals
from bfn_toolkit.parallel.devices import make_accelerator
from bfn_toolkit.parallel.signals import Interrupted
from bfn_toolkit.randomness import seeded
from bfn_toolkit.runs.checkpoints import CHECKPOINTS, Checkpoint, find_checkpoint, load_checkpoint, save_checkpoint
from bfn_toolkit.runs.conditions import warn_of_unread
from bfn_toolkit.runs.directory import EXPERIMENT, check_out, cut_metrics, describe, make_folder, start_run
from bfn_toolkit.runs.model_files import save_model
from bfn_toolkit.runs.provenance import RESUME_SAFE_OPTIONS, changed_settings, environment, fingerprint, providers
from bfn_toolkit.runs.run import Run, Weights, read_experiment
from bfn_toolkit.storage.files import write_atomically
from bfn_toolkit.storage.folders import sweep
from bfn_toolkit.storage.locks import locked
from bfn_toolkit.training.metrics import Callback, MetricsLogger, start_trackers
from bfn_toolkit.training.nonfinite import explained
from bfn_toolkit.training.step import NonFiniteStep, TrainStep
from bfn_toolkit.training.validation import Validation

READ_EVERY = 20  # steps between two looks at the losses
AGREE_EVERY = 100  # steps between two checks that all processes are at the same place
UNSAVED = 3  # failures of saving in a row that end a training
SCHEDULE = ("lr", "scheduler", "scheduler_options", "warmup", "steps")  # options of the learning rate


def train(
    experiment: Experiment,
    out: str | Path | None = None,
    *,
    force: bool = False,
    callbacks: Sequence[Callback] = (),
) -> Run:
    """Trains the model of an experiment.

    Arguments:
        experiment: What to train, on what, and how.
        out: Run directory to make; None to keep everything in memory.
        force: Replace the run that is in ``out``.
        callbacks: Functions that are called now and then with a :class:`TrainingEvent`; one that fails three times is
            not called any more.
    Returns:
        The run: its model, ready to sample, and its metrics.
    Raises:
        ConfigError: If ``out`` exists and ``force`` is not given.
        DataError: If the data do not fit the family.
        NonFiniteError: If a loss or a gradient is not finite.
        ResourceError: If the device is missing or ``out`` cannot be written.
        Interrupted: If a signal asks to stop; what was done is then saved.
    """
    folder = None if out is None else Path(out)
    if folder is not None and processes.is_main_process():
        check_out(folder, force=force, dataset=experiment.dataset)
    return _Training(experiment, folder, callbacks).run()


def resume(
    path: str | Path,
    *,
    overrides: Sequence[tuple[str, str]] = (),
    allow_inexact: bool = False,
    allow_nonfinite: bool = False,
    allow_plugin_mismatch: bool = False,
    callbacks: Sequence[Callback] = (),
) -> Run:
    """Goes on with the training of a run directory, to the bits that it would have had without a stop.

    Arguments:
        path: The run directory.
        overrides: Options of the experiment to change, as the command line has them; only with ``allow_inexact``, but
            for those that change nothing in the numbers (:data:`~bfn_toolkit.runs.provenance.RESUME_SAFE_OPTIONS`).
        allow_inexact: Go on even where machine, versions, processes, data or options are others; it is recorded.
        allow_nonfinite: Take weights that are NaN or infinite.
        allow_plugin_mismatch: Take plugins of another major version.
        callbacks: As in :func:`train`.
    Raises:
        RunDirectoryError: If it is not a run directory, is damaged, or could not be resumed exactly.
    """
    folder = Path(path)
    experiment = read_experiment(folder, allow_plugin_mismatch=allow_plugin_mismatch)
    if overrides:
        if not allow_inexact and not all(
            name.removeprefix("training.") in RESUME_SAFE_OPTIONS for name, _ in overrides
        ):
            names = ", ".join(f"--{name}" for name, _ in overrides)
            raise ConfigError(f"{names} would make it another run than the one in {folder}; give --allow-inexact too")
        experiment = Experiment.from_mapping(experiment.to_mapping(), overrides=overrides)
    training = _Training(experiment, folder, callbacks, resumed=True, allow_inexact=allow_inexact)
    training.allow_nonfinite = allow_nonfinite
    return training.run()


@attrs.define(eq=False)
class _Training:
    """One run, from its start or from a checkpoint to its end."""

    experiment: Experiment
    folder: Path | None
    callbacks: Sequence[Callback]
    resumed: bool = False
    allow_inexact: bool = False
    allow_nonfinite: bool = False
    # The state besides that of the loop:
    step: int = 0
    seconds: float = 0.0
    inexact: list[Any] = attrs.field(factory=list)
    # What is made for the run:
    train_step: TrainStep = attrs.field(init=False)
    model: BFN = attrs.field(init=False)
    data: Batch = attrs.field(init=False)
    validation: Validation = attrs.field(init=False)
    metrics_logger: MetricsLogger = attrs.field(init=False)
    origin: dict[str, Any] = attrs.field(init=False)
    seen: dict[str, Any] = attrs.field(init=False)  # of each condition, to go with the weights
    # What has not been read or written yet:
    _unread: list[tuple[int, float, Tensor]] = attrs.field(factory=list)
    _saved: int = -1
    _failures: int = 0  # of saving, in a row

    @property
    def training(self) -> Training:
        return self.experiment.training

    @property
    def device(self) -> torch.device:
        return torch.device(self.train_step.accelerator.device)

    def run(self) -> Run:
        with ExitStack() as scope:
            self._prepare()
            if self.folder is not None:
                self._open(scope, self.folder)
                scope.enter_context(signals.listening())
            if self.training.trackers:
                tracker = start_trackers(self.train_step.accelerator, self.experiment)
                scope.callback(self.train_step.accelerator.end_training)
                self.metrics_logger.callbacks = [*self.callbacks, tracker]
            self._train(time.monotonic() - self.seconds)
            kind = "raw" if self.train_step.ema is None else "ema"
            if self.folder is not None:
                weights = self.train_step.weights()
                if processes.is_main_process():
                    facts = {**describe(self.experiment, self.step), "training_seconds": round(self.seconds, 3)}
                    facts["conditions"] = self.seen
                    save_model(self.folder, weights, facts)
            processes.barrier()
        metrics = tuple(json.loads(json.dumps(self.metrics_logger.history)))
        return Run(self.experiment, self.model.eval(), metrics, self.folder, Weights(kind, self.step, "final"))

    def _prepare(self) -> None:
        """Device, data, model and loop, and everything that can be wrong with them."""
        experiment = self.experiment
        accelerator = make_accelerator(self.training, folder=self.folder)
        self.data, valid = (experiment.dataset.split(name) for name in ("train", "valid"))
        for name, rows in (("training", self.data), ("validation", valid)):
            if not len(rows):
                raise DataError(f"{type(experiment.dataset).__name__} has no {name} rows, so there are no batches")
            experiment.family.check_data(rows.x)
        if processes.is_main_process():
            warn_of_unread(experiment.network, self.data.condition)
        data = fingerprint(self.data, valid)
        processes.check_in_sync("data", data, self.step)
        self.origin = {"environment": environment(accelerator.device), "data": data}
        self.seen = {name: attrs.asdict(seen) for name, seen in seen_in(self.data.condition).items()}
        if not self.training.workers:
            self.data = self.data.to(accelerator.device)
        with seeded(experiment.seed, "weights"):
            model = BFN(experiment.family, experiment.network).to(accelerator.device)
        self.train_step = TrainStep(model, experiment.loss, self.training, experiment.seed, accelerator)
        self.train_step.shares(min(len(self.data), self.training.batch_size))
        self.model = BFN(experiment.family, self.train_step.network)
        self.model.builder = experiment.network
        self.validation = Validation(self.train_step, self.model, valid.to(accelerator.device))
        self.metrics_logger = MetricsLogger(self.model, self.folder, self.callbacks)
        model.train()

    def _open(self, scope: ExitStack, folder: Path) -> None:
        """Takes hold of the run directory, and takes over the state in it, or clears it."""
        if processes.is_main_process():
            make_folder(folder)
            scope.enter_context(locked(folder))
            if not self.resumed:
                start_run(folder, self.experiment)
            sweep(folder)
            sweep(folder / CHECKPOINTS)
        processes.barrier()
        if self.resumed:
            self._restore(folder)
        if processes.is_main_process():
            self.metrics_logger.history = list(cut_metrics(folder, self.step, self.validation.step))

    def _restore(self, folder: Path) -> None:
        listed, passed = find_checkpoint(folder)
        for fault in passed:
            processes.warn(f"passed over: {fault}")
        if listed is None:  # stopped before the first: the start is as good
            return
        average = self.train_step.ema is not None
        checkpoint = load_checkpoint(
            listed.path, self.train_step.unwrapped.state_dict(), average, allow_nonfinite=self.allow_nonfinite
        )
        try:
            self._take(checkpoint, folder)
        except (LookupError, TypeError, RuntimeError, AttributeError) as error:
            raise RunDirectoryError(
                f"{listed.path} does not hold the state of this training: {type(error).__name__}: {error}"
            ) from error

    def _take(self, checkpoint: Checkpoint, folder: Path) -> None:
        state, mapping = checkpoint.state, self.experiment.to_mapping()
        differs = changed_settings(state, {**self.origin, "experiment": mapping})
        if differs and not self.allow_inexact:
            raise RunDirectoryError(
                f"{folder} cannot be resumed to the same bits, because of other {'; '.join(differs)}. "
                "Make it as it was, or give --allow-inexact to go on all the same, which is recorded"
            )
        before, now = state["experiment"]["training"], mapping["training"]
        self.train_step.restore(checkpoint, schedule=all(before.get(key) == now.get(key) for key in SCHEDULE))
        self.step = self._saved = checkpoint.step
        self.seconds, self.inexact = state["seconds"], state["inexact"]
        self.validation.restore(state)
        if differs:
            self.inexact.append({"step": self.step, "differs": differs})
        if processes.is_main_process() and state["experiment"] != mapping:
            write_atomically(folder / EXPERIMENT, self.experiment.to_toml())

    def _train(self, start: float) -> None:
        feed = self._feed()
        improved, stop = self._validated_if_due()  # a stop can come before the validation of its step
        if improved:
            self._saved = -1
            self._tell()
            self._save()
        if stop:
            self._stop(signal.Signals(stop))
        while self.step < self.training.steps and not self.validation.lost_patience:
            self._step(next(feed))
            looks = self.device.type == "cpu" or self.step % READ_EVERY == 0  # to look at a device is to wait for it
            stop, save = self._signals() if looks else (0, False)
            due = _divides(self.training.checkpoint_every, self.step)
            if stop or save or due or self.step % READ_EVERY == 0:
                self._read()
            if _divides(AGREE_EVERY, self.step):
                processes.check_in_sync("weights", self.train_step.checksum(), self.step)
            self.seconds = time.monotonic() - start
            improved = False
            if not stop:
                improved, stop = self._validated_if_due()
            self._tell()  # before the save: a run that goes on from it finds all lines
            if due or save or improved:
                self._save()
            if stop:
                self._stop(signal.Signals(stop))
        self._read()
        self.seconds = time.monotonic() - start
        self._tell()
        self._save(last=True)
        if self.validation.step and math.isinf(self.validation.best):
            raise NonFiniteError("no validation loss was a finite number; look at the validation rows and the network")

    def _feed(self) -> Iterator[Batch]:
        """The batches after the last step."""
        size, seed, workers = self.training.batch_size, self.experiment.seed, self.training.workers
        if not workers:
            return batches(self.data, size, seed=seed, start=self.step)
        wait = self.training.timeout
        fetched = fetched_batches(self.data, size, seed=seed, start=self.step, workers=workers, timeout=wait)
        return (batch.to(self.device) for batch in fetched)

    def _step(self, batch: Batch) -> None:
        lr = self.train_step.lr
        try:
            loss, norm = self.train_step.step(batch, self.step + 1)
        except Exception as error:
            self._read()
            if self.train_step.between_steps:  # the step was not begun: what was done before it need not be lost
                with suppress(ResourceError):
                    self._save(alone=not self.train_step.sharded)
                self._tell()
            if isinstance(error, NonFiniteStep):
                raise explained(error, self.train_step, self.experiment, self.data, self.folder) from error
            raise
        self.step += 1
        self.validation.loss = None
        self._unread.append((self.step, lr, torch.stack((loss, norm))))

    def _read(self) -> None:
        """Reads the losses that are still on the device."""
        if not self._unread:
            return
        steps, rates, values = zip(*self._unread, strict=True)
        self._unread = []
        for step, lr, (loss, norm) in zip(steps, rates, torch.stack(values).tolist(), strict=True):
            # A scaler lets gradients of half precision overflow now and then, and makes no step of them.
            if not math.isfinite(loss) or not (math.isfinite(norm) or self.train_step.accelerator.scaler):
                error = NonFiniteStep(step, loss, norm)
                raise explained(error, self.train_step, self.experiment, self.data, self.folder)
            self.metrics_logger.record({"step": step, "loss": loss, "grad_norm": norm, "lr": lr})

    def _tell(self) -> None:
        if self.metrics_logger.tell(self.step):
            self.train_step.model.train()

    def _validated_if_due(self) -> tuple[bool, int]:
        """Whether a validation that was due is the best so far, and the signal that ended it, or 0."""
        try:
            best = self.validation.best
            if self.validation.due(self.step):
                self._read()  # first, for a signal can end the validation
                self.metrics_logger.record(self.validation.take(self.step))
            return self.validation.best < best, 0
        except Interrupted as request:
            return False, int(request.number)

    def _signals(self) -> tuple[int, bool]:
        """The signal that asked any process to stop, and whether one asked to save."""
        stop = processes.all_reduce_max(int(signals.pending() or 0), self.device)
        return stop, bool(processes.all_reduce_max(int(signals.take_save()), self.device))

    def _stop(self, number: signal.Signals) -> None:
        self._save(last=True)
        raise Interrupted(number, f"go on with: bfn train --resume {shlex.quote(str(self.folder))}")

    def _save(self, last: bool = False, alone: bool = False) -> None:
        """Writes a checkpoint; what cannot be written is put up with a few times, but not at the end.

        All processes come here together, unless this one is alone.
        """
        if self.folder is None:
            return
        saved = int(
            processes.is_main_process() and self._saved == self.step
        )  # the one that writes knows, and tells the others
        if saved if alone else processes.all_reduce_max(saved, self.device):
            return
        if processes.is_main_process() or self.train_step.sharded:
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
                "conditions": self.seen,
            }
            checkpoint = self.train_step.checkpoint(self.step, state, self.validation.loss, facts)
            try:
                if processes.is_main_process():
                    save_checkpoint(self.folder, checkpoint, self.training.keep)
                self._failures = 0
                self._saved = self.step
            except ResourceError as error:
                self._failures += 1
                if last or self.training.on_save_error == "stop" or self._failures == UNSAVED:
                    raise
                processes.warn(f"step {self.step} is not saved: {error}")
        if not alone:
            processes.barrier()


def _divides(every: int, step: int) -> bool:
    return every > 0 and step % every == 0
