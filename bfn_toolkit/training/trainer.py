"""Training: from an experiment to a trained model, in memory or in a run directory.

Each step draws from a scope of its own, keyed by the seed and the step, and the rows of each batch are a function of
seed and step.  So a run after a step follows from the state at that step, which a checkpoint holds: a run that
was stopped, in whatever way, continues bit-identically (:func:`resume`).
"""

from __future__ import annotations

import json
import math
import shlex
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import attrs
import torch
from torch import Tensor
from torch.nn import Module

from bfn_toolkit.bfn import BFN
from bfn_toolkit.config.experiment import Experiment
from bfn_toolkit.data.dataset import Batch, Dataset, Rows
from bfn_toolkit.data.loader import batches, fetched_batches
from bfn_toolkit.data.rows import sent
from bfn_toolkit.errors import (
    BFNError,
    ConfigError,
    NonFiniteError,
    OutOfStepError,
    is_out_of_memory,
    out_of_memory,
)
from bfn_toolkit.model import readable
from bfn_toolkit.parallel import processes, signals
from bfn_toolkit.parallel.devices import make_accelerator
from bfn_toolkit.parallel.signals import Interrupted
from bfn_toolkit.randomness import seeded
from bfn_toolkit.registry.global_state import torch_states, watched
from bfn_toolkit.runs.blueprints import build, saved_sizes
from bfn_toolkit.runs.checkpoints import find_checkpoint, load_checkpoint
from bfn_toolkit.runs.conditions import warn_of_unread
from bfn_toolkit.runs.directory import Home, check_out, describe, make_folder, start_run, sweep_run, unmake_run
from bfn_toolkit.runs.metrics_log import MetricsLog, StoredMetrics
from bfn_toolkit.runs.model_files import load_description, save_model, verify_model
from bfn_toolkit.runs.provenance import data_facts, environment, fingerprint
from bfn_toolkit.runs.records import RESUME_SAFE_OPTIONS
from bfn_toolkit.runs.run import Run, Weights, read_experiment
from bfn_toolkit.sharing.initial import initialise
from bfn_toolkit.storage.files import digest, to_json
from bfn_toolkit.storage.locks import locked
from bfn_toolkit.storage.safetensors_files import dumps
from bfn_toolkit.training.checkpointer import Checkpointer
from bfn_toolkit.training.feed import Check, checked
from bfn_toolkit.training.metrics import READ_EVERY, Callback, MetricsLogger, start_trackers
from bfn_toolkit.training.network_checks import check_network
from bfn_toolkit.training.nonfinite import explained
from bfn_toolkit.training.progress import progress as show_progress, say
from bfn_toolkit.training.step import NonFiniteStep, TrainStep
from bfn_toolkit.training.validation import Validation

AGREE_EVERY = 100  # steps between two checks that all processes are in sync


def train(
    experiment: Experiment,
    out: str | Path | None = None,
    *,
    force: bool = False,
    callbacks: Sequence[Callback] = (),
    progress: bool = False,
) -> Run:
    """Trains the model of an experiment.

    Arguments:
        experiment: Data, family, network, loss and options.
        out: Run directory to make; None to keep everything in memory.
        force: Replace the run that is in ``out``.
        callbacks: Functions that are called now and then with a :class:`TrainingEvent`, whose method ``stop(reason)``
            ends the training; one that fails three times is not called any more.
        progress: Print the plan, a bar (on a terminal or in a notebook) or lines with losses and times, and the end.
    Returns:
        The run: its model, ready to sample, and its metrics.
    Raises:
        ConfigError: If ``out`` exists and ``force`` is false.
        DataError: If the data do not fit the family.
        NonFiniteError: If a loss or a gradient is not finite.
        ResourceError: If the device is missing or ``out`` cannot be written.
        Interrupted: If a signal asks to stop; the steps before it are then saved.
    """
    folder = None if out is None else Path(out)
    if folder is not None:
        experiment.to_toml()  # an experiment that cannot be written is refused before anything is
    if folder is not None and processes.is_main_process():
        check_out(folder, force=force, dataset=experiment.dataset)
        if folder.absolute() == Path(experiment.training.init):
            raise ConfigError(
                f"{folder} holds the weights that this training starts from (--init); choose another --out"
            )
    return _Training(experiment, folder, callbacks, progress).run()


def resume(
    path: str | Path,
    *,
    overrides: Sequence[tuple[str, str]] = (),
    allow_inexact: bool = False,
    allow_nonfinite: bool = False,
    allow_plugin_mismatch: bool = False,
    callbacks: Sequence[Callback] = (),
    progress: bool = False,
) -> Run:
    """Continues the training of a run directory; the result is bit-identical to that of a run without a stop.

    Arguments:
        path: The run directory.
        overrides: Options of the experiment to change, as on the command line.  All but
            :data:`~bfn_toolkit.runs.records.RESUME_SAFE_OPTIONS` need ``allow_inexact``.
        allow_inexact: Continue even if machine, versions, processes, data or options have changed; it is recorded.
        allow_nonfinite: Accept weights that are NaN or infinite.
        allow_plugin_mismatch: Accept plugins of another major version.
        callbacks: As in :func:`train`.
        progress: As in :func:`train`.
    Raises:
        RunDirectoryError: If it is not a run directory, is damaged, or could not be resumed exactly.
    """
    folder = Path(path)
    experiment = read_experiment(folder, allow_plugin_mismatch=allow_plugin_mismatch)
    if any(name in ("init", "training.init") for name, _ in overrides):
        raise ConfigError(f"--init names the weights that a new training starts from, not {folder}; leave it out")
    if overrides:
        if not allow_inexact and not all(
            name.removeprefix("training.") in RESUME_SAFE_OPTIONS for name, _ in overrides
        ):
            names = ", ".join(f"--{name}" for name, _ in overrides)
            raise ConfigError(f"{names} would change the run in {folder}; pass --allow-inexact too")
        experiment = Experiment.from_mapping(experiment.to_mapping(), overrides=overrides)
    if sizes := saved_sizes(folder):
        build(experiment.family, experiment.network, sizes, "meta")
    return _Training(experiment, folder, callbacks, progress, True, allow_inexact, allow_nonfinite).run()


def prepared(experiment: Experiment) -> tuple[TrainStep, Rows]:
    """The training step and the rows of a training that is not begun, in memory.

    Errors are those of :func:`train`.
    """
    training = _Training(experiment, None)
    training._prepare()
    return training.train_step, training.data


@contextmanager
def _undisturbed() -> Iterator[None]:
    """Scope after which torch's global state is as before, whatever the parts of an experiment have set."""
    try:
        with watched(torch_states()) as changed:
            yield
    finally:
        if changed:
            processes.warn(
                f"a part of the experiment changed {', '.join(changed)} while it was trained; that is undone. Set it "
                "where it is needed, such as dtype=torch.float64 for a tensor, or with torch.no_grad()"
            )


@attrs.define(eq=False)
class _Training:
    """One run, from its start or from a checkpoint to its end."""

    experiment: Experiment
    folder: Path | None
    callbacks: Sequence[Callback] = ()
    progress: bool = False
    resumed: bool = False
    allow_inexact: bool = False
    allow_nonfinite: bool = False
    step: int = 0  # optimiser steps done
    data: Rows = attrs.field(init=False)
    train_step: TrainStep = attrs.field(init=False)
    model: BFN = attrs.field(init=False)  # the one to sample from
    metrics: MetricsLogger = attrs.field(init=False)
    validation: Validation = attrs.field(init=False)
    checkpointer: Checkpointer = attrs.field(init=False)
    advanced: Callable[[int], object] = lambda step: None  # called after each step
    best: tuple[int, Mapping[str, Tensor]] | None = None  # step and weights, for final = "best"

    def run(self) -> Run:
        """Runs everything, from the data to the model in the run directory."""
        with ExitStack() as scope:
            scope.enter_context(_undisturbed())
            self._prepare()
            if self.folder is not None:
                self._open(scope, self.folder)
                scope.enter_context(signals.listening())
            if self.experiment.training.trackers:
                tracker = start_trackers(self.train_step.accelerator, self.experiment)
                scope.callback(self.train_step.accelerator.end_training)
                self.metrics.callbacks = [*self.metrics.callbacks, tracker]
            if self.progress:
                shown = scope.enter_context(
                    show_progress(self.experiment, self.train_step, len(self.data), self.folder, self.step)
                )
                self.metrics.callbacks, self.advanced = [*self.metrics.callbacks, shown], shown.advance
            try:
                self._train()
            except NonFiniteStep as error:
                raise explained(error, self.train_step, self.experiment, self.data, self.folder) from error
            run = self._result()
            self._answer_late_signal()
            return run

    def _unmake(self, folder: Path, made: Sequence[Path], kind: type[BaseException] | None) -> None:
        """Leaves nothing of a new run that fails before its first step is done."""
        failed = (Exception, SystemExit)
        saved = (Interrupted, NonFiniteError)  # they leave a checkpoint and a report
        if kind is not None and issubclass(kind, failed) and not issubclass(kind, saved) and self.step == 0:
            unmake_run(folder, made)

    def _train(self) -> None:
        try:
            self._loop()
        except Interrupted as stop:
            self._finish()
            advice = f"continue with: bfn train --resume {shlex.quote(str(self.folder))}"
            raise Interrupted(stop.number, advice) from None
        except (Exception, SystemExit) as error:
            self._rescue(error)
            raise
        self._finish()
        if self.validation.step and math.isinf(self.validation.best):
            raise NonFiniteError("no validation loss was finite; check the validation rows and the network")

    def _loop(self) -> None:
        feed, save = self._feed(), False
        while True:
            improved = self.validation.maybe(self.step)
            self.metrics.flush(self.step, now=save or self.checkpointer.due(self.step))
            self.checkpointer.maybe_save(self.step, requested=save, improved=improved)
            if improved and self.experiment.training.final == "best":
                self.best = self.step, {name: value.clone() for name, value in self.train_step.weights().items()}
            if self._is_over:
                break
            self._step(next(feed))
            save = self._answer_signals()
            self._check_in_sync()

    @property
    def _is_complete(self) -> bool:
        return self.step >= self.experiment.training.steps

    @property
    def _is_over(self) -> bool:
        return self._is_complete or self.validation.lost_patience or self.metrics.stopped is not None

    def _step(self, batch: Batch) -> None:
        """One optimiser step."""
        lr = self.train_step.lr
        try:
            loss, norm = self.train_step.step(batch, self.step + 1)
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            traceback.clear_frames(error.__traceback__)  # frees what the step held, for the checkpoint that follows
            advice = self.train_step.memory_advice(len(batch))
            raise out_of_memory(error, f"in step {self.step + 1}", advice) from error
        self.step += 1
        self.metrics.note(self.step, lr, loss, norm)
        self.advanced(self.step)

    def _rescue(self, error: BaseException) -> None:
        """Saves the steps before an error, unless it leaves them in doubt; says first what it was."""
        late = isinstance(error, NonFiniteStep) and error.step <= self.step
        doubtful = late or not self.train_step.between_steps or isinstance(error, OutOfStepError)
        if self.folder is None or self.step == 0 or doubtful:
            return
        reason = str(error) if isinstance(error, BFNError) else f"{type(error).__name__}: {error}"
        if processes.world_size() == 1:  # of several, the launcher names the one that failed
            with suppress(Exception):  # as where a warning is an error
                processes.warn(f"after step {self.step}: {reason}; the steps before it are saved now")
        try:
            self.metrics.flush(self.step, now=True, alone=True)  # first, because a checkpoint records what is written
            self.checkpointer.save(self.step, alone=not self.train_step.sharded)
        except Exception as failure:
            with suppress(Exception):
                processes.warn(f"step {self.step} is not saved: {failure}")

    def _answer_signals(self) -> bool:
        """Whether a signal to any process asks to save.

        Raises:
            Interrupted: If one asks to stop.
        """
        device = self.train_step.device
        if device.type != "cpu" and self.step % READ_EVERY:  # reading from a device waits for it
            return False
        processes.check_signals(device, together=True)
        return bool(processes.all_reduce_max(int(signals.take_save()), device))

    def _answer_late_signal(self) -> None:
        """Stops with a finished model if a signal came after the last step."""
        try:
            processes.check_signals(self.train_step.device, together=True)
        except Interrupted as stop:
            raise Interrupted(stop.number, f"the model is finished: {self.folder}") from None

    def _check_in_sync(self) -> None:
        if self.step % AGREE_EVERY == 0 and processes.world_size() > 1:
            processes.check_in_sync("weights", self.train_step.checksum(), self.step)

    def _finish(self) -> None:
        """Writes all metrics, then the last checkpoint."""
        self.metrics.flush(self.step, now=True)
        self.checkpointer.save(self.step, last=True)

    def _choose_final(self) -> int:
        """Puts the weights of the finished model into the model to sample from; returns their step."""
        if self.experiment.training.final == "last" or not math.isfinite(self.validation.best):
            return self.step
        if self.best is None:  # it was before a resume
            assert self.folder is not None
            network, average = self.train_step.unwrapped.state_dict(), self.train_step.ema is not None
            listed, _ = find_checkpoint(self.folder, "best")
            assert listed is not None
            found = load_checkpoint(listed.path, network, average, allow_nonfinite=self.allow_nonfinite)
            self.best = found.step, found.weights if found.ema is None else found.ema
        step, weights = self.best
        self.train_step.network.load_state_dict(weights)
        return step

    def _result(self) -> Run:
        kind = "raw" if self.train_step.ema is None else "ema"
        step = self._choose_final()
        if self.folder is None:
            metrics = tuple(json.loads(to_json(self.metrics.history)))
            return Run(self.experiment, self.model.eval(), metrics, None, Weights(kind, step, "final"))
        facts, weights = self.checkpointer.facts, self.train_step.weights()
        text, seen = facts["experiment"], StoredMetrics(self.folder, facts["metrics"])
        sha256 = digest(dumps(weights))
        if processes.is_main_process() and not self._is_saved(step, sha256):
            assert self.checkpointer.home is not None
            self.checkpointer.home.check()
            seconds = round(self.checkpointer.seconds, 3)
            stopped = {"stopped": self.metrics.stopped} if self.metrics.stopped and not self._is_complete else {}
            facts = {**describe(self.experiment, step), **stopped, "training_seconds": seconds, **facts}
            save_model(self.folder, weights, facts)
        processes.barrier()
        found = Weights(kind, step, "final", sha256)
        return Run(self.experiment, self.model.eval(), seen, self.folder, found, text=text)

    def _is_saved(self, step: int, sha256: str) -> bool:
        """Whether the model of the run has these weights already: no step was made, so its records stay."""
        assert self.folder is not None
        if verify_model(self.folder)["fault"] is not None:
            return False
        saved = load_description(self.folder)
        return (saved["step"], saved.get("sha256")) == (step, sha256)

    def _feed(self) -> Iterator[Batch]:
        """The batches after the last step."""
        training = self.experiment.training
        size, seed, workers = training.batch_size, self.experiment.seed, training.workers
        if workers:
            fetched = fetched_batches(
                self.data, size, seed=seed, start=self.step, workers=workers, timeout=training.timeout
            )
        else:
            fetched = batches(self.data, size, seed=seed, start=self.step)
            if isinstance(self.data, Batch):  # on the device
                return fetched
        return (sent(batch, self.train_step.device) for batch in fetched)

    def _prepare(self) -> None:
        """Makes and checks device, data, model and training step."""
        try:
            self._make()
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            advice = "take a smaller network, less data, or a device with more memory"
            raise out_of_memory(error, "before the first step", advice) from error

    def _make(self) -> None:
        experiment = self.experiment
        accelerator = make_accelerator(experiment.training, folder=self.folder)
        stored, check = [experiment.dataset.rows(name) for name in ("train", "valid")], Check(experiment)
        self.data, summary = checked("training", stored[0], check)
        valid, _ = checked("validation", stored[1], check)
        summary.check_scale(warn=processes.is_main_process())
        if processes.is_main_process():
            warn_of_unread(experiment.network, summary.conditions)
        data = fingerprint(*stored)
        processes.check_in_sync("data", data, self.step)
        origin = {"environment": environment(accelerator.device), "data": data}
        facts = {**data_facts(experiment.dataset, summary.conditions, summary.sizes), "data": data}
        with seeded(experiment.seed, "weights"):
            model = BFN(experiment.family, experiment.network)
        check_network(model, self._another_network)
        if experiment.training.init and not (self.resumed and self._has_checkpoint):
            facts["init"] = self._initialise(model.network)
        model.to(accelerator.device)
        for rows in (self.data, valid):
            first = check.prepared(rows[torch.arange(1)])
            model.check_condition(readable(model, first.condition), 1)

        def prepare(batch: Batch) -> Batch:
            batch = experiment.dataset.prepare(batch)
            weight = None if batch.weight is None else batch.weight / summary.weight
            return attrs.evolve(batch, condition=readable(model, batch.condition), weight=weight)

        if experiment.training.final == "best" and experiment.training.parallel == "fsdp":
            raise ConfigError('training.final = "last" goes with parallel = "fsdp"; sample with --checkpoint best')
        step = self.train_step = TrainStep(model, experiment.loss, experiment.training, experiment.seed, accelerator)
        as_stored = type(experiment.dataset).prepare is Dataset.prepare
        if as_stored and isinstance(self.data, Batch) and isinstance(valid, Batch):  # prepared once, not in each step
            self.data, valid = prepare(self.data), prepare(valid)
        else:
            step.prepare = prepare
        if isinstance(self.data, Batch) and not experiment.training.workers:
            self.data = self.data.to(accelerator.device)
        if isinstance(valid, Batch):
            valid = valid.to(accelerator.device)
        step.shares(min(len(self.data), experiment.training.batch_size))
        self.model = BFN(experiment.family, step.network, experiment.network, experiment.dataset.codec)
        self.metrics = MetricsLogger(step, self.model, self.folder, self.callbacks)
        self.validation = Validation(step, self.model, self.metrics, valid)
        self.checkpointer = Checkpointer(self.folder, experiment, step, self.validation, origin, facts)
        model.train()

    @property
    def _has_checkpoint(self) -> bool:
        """Whether the run directory holds a state, which has the weights, to continue from."""
        return self.folder is not None and find_checkpoint(self.folder)[0] is not None

    def _initialise(self, network: Module) -> dict[str, Any]:
        """Gives the network the weights of ``training.init``, and says which; returns facts about them."""
        initial = initialise(network, self.experiment)
        processes.check_in_sync("weights of training.init", initial.sha256, self.step)
        first, *others = initial.lines
        if self.progress:
            say(f"init   {first}")
            for line in others:
                say(f"       {line}")
        elif initial.fresh or others:
            processes.warn(f"training.init: {'; '.join(initial.lines)}")
        return initial.facts

    def _another_network(self) -> Module:
        with seeded(self.experiment.seed, "other weights"):
            return BFN(self.experiment.family, self.experiment.network).network

    def _open(self, scope: ExitStack, folder: Path) -> None:
        """Locks the run directory, then restores the state in it or clears it."""
        if processes.is_main_process():
            made = make_folder(folder)
            scope.enter_context(locked(folder))
            if not self.resumed:
                undo = ExitStack()
                undo.push(lambda kind, *_: self._unmake(folder, made, kind))
                if folder in made:
                    scope.enter_context(undo)
                start_run(folder, self.experiment)
                if folder not in made:  # until now, another run may be there
                    scope.enter_context(undo)
            sweep_run(folder)
        processes.barrier()
        if self.resumed:
            self.step = self.checkpointer.restore(
                folder, allow_inexact=self.allow_inexact, allow_nonfinite=self.allow_nonfinite
            )
        if processes.is_main_process():
            self.metrics.log = MetricsLog.continued(folder, self.checkpointer.lines)
            self.metrics.home = self.checkpointer.home = Home.of(folder)
