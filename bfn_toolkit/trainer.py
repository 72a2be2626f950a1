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
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, suppress
from importlib.metadata import version
from pathlib import Path
from typing import Any

import attrs
import torch
from torch import Tensor

from bfn_toolkit import interrupts, processes
from bfn_toolkit.blocks import in_blocks
from bfn_toolkit.checkpoint import (
    CHECKPOINTS,
    Checkpoint,
    find_checkpoint,
    load_checkpoint,
    save_checkpoint,
    save_model,
)
from bfn_toolkit.conditions import seen_in, warn_of_unread
from bfn_toolkit.datasets import Batch, batches, fetched_batches, row_order
from bfn_toolkit.devices import make_accelerator
from bfn_toolkit.diagnosis import diagnose
from bfn_toolkit.errors import (
    BFNWarning,
    ConfigError,
    DataError,
    NonFiniteError,
    OutOfStepError,
    ResourceError,
    RunDirectoryError,
)
from bfn_toolkit.evaluation import Estimate
from bfn_toolkit.experiment import Experiment, Training
from bfn_toolkit.interrupts import Interrupted
from bfn_toolkit.loop import Loop, NonFiniteStep
from bfn_toolkit.model import BFN
from bfn_toolkit.provenance import differences, environment, fingerprint, providers
from bfn_toolkit.randomness import seeded
from bfn_toolkit.runs import (
    EXPERIMENT,
    REPORTS,
    Run,
    Weights,
    append_metrics,
    check_out,
    cut_metrics,
    describe,
    make_folder,
    read_experiment,
    start_run,
)
from bfn_toolkit.storage import locked, sweep, to_json, write_atomically

READ_EVERY = 20  # steps between two looks at the losses
AGREE_EVERY = 100  # steps between two checks that all processes are at the same place
VALIDATION_ROWS = 256  # of a block
FAILURES = 3  # in a row, of saving or of a callback, that are put up with
# Options that do not reach the numbers of a run; all others may.
HARMLESS = ("checkpoint_every", "keep", "on_save_error", "timeout", "trackers", "workers")
SCHEDULE = ("lr", "scheduler", "scheduler_options", "warmup", "steps")  # options of the learning rate

Metrics = Mapping[str, Any]


@attrs.frozen(eq=False)
class Moment:
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


Callback = Callable[[Moment], object]


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
        callbacks: Functions that are called now and then with a :class:`Moment`; one that fails three times is not
            called any more.
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
    if folder is not None and processes.first():
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
            for those that change nothing in the numbers (:data:`HARMLESS`).
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
        if not allow_inexact and not all(name.removeprefix("training.") in HARMLESS for name, _ in overrides):
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
    validated: int = 0  # the last step whose validation is done
    valid_loss: float | None = None  # at this step
    best: float = math.inf
    since_best: int = 0  # validations
    seconds: float = 0.0
    inexact: list[Any] = attrs.field(factory=list)
    # What is made for the run:
    loop: Loop = attrs.field(init=False)
    model: BFN = attrs.field(init=False)
    data: Batch = attrs.field(init=False)
    valid: Batch = attrs.field(init=False)
    origin: dict[str, Any] = attrs.field(init=False)
    seen: dict[str, Any] = attrs.field(init=False)  # of each condition, to go with the weights
    # What has not been read, told or written yet:
    _unread: list[tuple[int, float, Tensor]] = attrs.field(factory=list)
    _untold: list[Metrics] = attrs.field(factory=list)
    _unlogged: list[Metrics] = attrs.field(factory=list)
    _history: list[Metrics] = attrs.field(factory=list)
    _saved: int = -1
    _failures: Counter[Any] = attrs.field(factory=Counter)

    @property
    def training(self) -> Training:
        return self.experiment.training

    @property
    def device(self) -> torch.device:
        return torch.device(self.loop.accelerator.device)

    def run(self) -> Run:
        with ExitStack() as scope:
            self._prepare()
            if self.folder is not None:
                self._open(scope, self.folder)
                scope.enter_context(interrupts.listening())
            if self.training.trackers:
                self._start_trackers(scope)
            self._train(time.monotonic() - self.seconds)
            kind = "raw" if self.loop.ema is None else "average"
            if self.folder is not None:
                weights = self.loop.weights()
                if processes.first():
                    facts = {**describe(self.experiment, self.step), "training_seconds": round(self.seconds, 3)}
                    facts["conditions"] = self.seen
                    save_model(self.folder, weights, facts)
            processes.wait()
        metrics = tuple(json.loads(json.dumps(self._history)))
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
        if processes.first():
            warn_of_unread(experiment.network, self.data.condition)
        data = fingerprint(self.data, valid)
        self._agree("data", data)
        self.origin = {"environment": environment(accelerator.device), "data": data}
        self.seen = {name: attrs.asdict(seen) for name, seen in seen_in(self.data.condition).items()}
        if not self.training.workers:
            self.data = self.data.to(accelerator.device)
        self.valid = valid.to(accelerator.device)
        with seeded(experiment.seed, "weights"):
            model = BFN(experiment.family, experiment.network).to(accelerator.device)
        self.loop = Loop(model, experiment.loss, self.training, experiment.seed, accelerator)
        self.loop.shares(min(len(self.data), self.training.batch_size))
        self.model = BFN(experiment.family, self.loop.network)
        self.model.builder = experiment.network
        model.train()

    def _open(self, scope: ExitStack, folder: Path) -> None:
        """Takes hold of the run directory, and takes over the state in it, or clears it."""
        if processes.first():
            make_folder(folder)
            scope.enter_context(locked(folder))
            if not self.resumed:
                start_run(folder, self.experiment)
            sweep(folder)
            sweep(folder / CHECKPOINTS)
        processes.wait()
        if self.resumed:
            self._restore(folder)
        if processes.first():
            self._history = list(cut_metrics(folder, self.step, self.validated))

    def _restore(self, folder: Path) -> None:
        listed, passed = find_checkpoint(folder)
        for fault in passed:
            self._warn(f"passed over: {fault}")
        if listed is None:  # stopped before the first: the start is as good
            return
        average = self.loop.ema is not None
        checkpoint = load_checkpoint(
            listed.path, self.loop.bare.state_dict(), average, allow_nonfinite=self.allow_nonfinite
        )
        try:
            self._take(checkpoint, folder)
        except (LookupError, TypeError, RuntimeError, AttributeError) as error:
            raise RunDirectoryError(
                f"{listed.path} does not hold the state of this training: {type(error).__name__}: {error}"
            ) from error

    def _take(self, checkpoint: Checkpoint, folder: Path) -> None:
        state, mapping = checkpoint.state, self.experiment.to_mapping()
        differs = differences(state["environment"], self.origin["environment"])
        if state["data"] != self.origin["data"]:
            differs.append("data")
        if _what_matters(state["experiment"]) != _what_matters(mapping):
            differs.append("options")
        if differs and not self.allow_inexact:
            raise RunDirectoryError(
                f"{folder} cannot be resumed to the same bits, because of other {'; '.join(differs)}. "
                "Make it as it was, or give --allow-inexact to go on all the same, which is recorded"
            )
        before, now = state["experiment"]["training"], mapping["training"]
        self.loop.restore(checkpoint, schedule=all(before.get(key) == now.get(key) for key in SCHEDULE))
        self.step = self._saved = checkpoint.step
        for name in ("validated", "since_best", "seconds", "inexact"):
            setattr(self, name, state[name])
        self.best = math.inf if state["best"] is None else state["best"]
        if differs:
            self.inexact.append({"step": self.step, "differs": differs})
        if processes.first() and state["experiment"] != mapping:
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
        while self.step < self.training.steps and not self._lost_patience():
            self._step(next(feed))
            looks = self.device.type == "cpu" or self.step % READ_EVERY == 0  # to look at a device is to wait for it
            stop, save = self._signals() if looks else (0, False)
            due = _divides(self.training.checkpoint_every, self.step)
            if stop or save or due or self.step % READ_EVERY == 0:
                self._read()
            if _divides(AGREE_EVERY, self.step):
                self._agree("weights", self.loop.checksum())
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
        if self.validated and math.isinf(self.best):
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
        lr = self.loop.lr
        try:
            loss, norm = self.loop.step(batch, self.step + 1)
        except Exception as error:
            self._read()
            if self.loop.whole:  # the step was not begun: what was done before it need not be lost
                with suppress(ResourceError):
                    self._save(alone=not self.loop.sharded)
                self._tell()
            if isinstance(error, NonFiniteStep):
                raise self._explained(error) from error
            raise
        self.step += 1
        self.valid_loss = None
        self._unread.append((self.step, lr, torch.stack((loss, norm))))

    def _read(self) -> None:
        """Reads the losses that are still on the device."""
        if not self._unread:
            return
        steps, rates, values = zip(*self._unread, strict=True)
        self._unread = []
        for step, lr, (loss, norm) in zip(steps, rates, torch.stack(values).tolist(), strict=True):
            # A scaler lets gradients of half precision overflow now and then, and makes no step of them.
            if not math.isfinite(loss) or not (math.isfinite(norm) or self.loop.accelerator.scaler):
                raise self._explained(NonFiniteStep(step, loss, norm))
            self._record({"step": step, "loss": loss, "grad_norm": norm, "lr": lr})

    def _explained(self, error: NonFiniteStep) -> NonFiniteError:
        """The error of a step, with a report in the run directory on where the numbers came from."""
        parts = {"network": self.experiment.network, "family": self.experiment.family, "loss": self.experiment.loss}
        names = ", ".join(f"{kind} {type(part).__module__}.{type(part).__name__}" for kind, part in parts.items())
        index = next(row_order(len(self.data), self.training.batch_size, seed=self.loop.seed, start=error.step - 1))
        found = diagnose(self.loop, self.data, index, error.step)
        where = ""
        if self.folder is not None and processes.first():
            path = self.folder / REPORTS / f"step-{error.step:08d}.json"
            try:
                write_atomically(path, to_json({"loss": error.loss, "grad_norm": error.norm, **found}) + "\n")
                where = f" Report: {path}."
            except ResourceError as problem:  # which is not why the training ends
                where = f" There is no report: {problem}."
        return NonFiniteError(
            f"{error}, of {names}; first in the {found['first']}.{where} The step was not made. "
            "Lower training.lr, or check the data and these parts"
        )

    def _record(self, metrics: Metrics) -> None:
        if not processes.first():
            return
        self._history.append(metrics)
        self._untold.append(metrics)

    def _tell(self) -> None:
        """Writes new metrics into the run directory and calls the callbacks."""
        if not self._untold:
            return
        if self.folder is not None:
            self._unlogged += self._untold
            try:
                append_metrics(self.folder, self._unlogged)
                self._unlogged = []
            except ResourceError as error:  # a log does not end a training; the lines are tried again with the next
                self._warn_at_first("metrics", str(error))
        moment = Moment(self.step, tuple(self._untold), self.model.eval(), self.folder)
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
                    self._warn(f"callback {name}: {type(error).__name__}: {error}{ending}")
        self.loop.model.train()

    def _start_trackers(self, scope: ExitStack) -> None:
        accelerator, training = self.loop.accelerator, self.training
        options = {key: value for key, _, value in self.experiment.options()}
        plain = {key: v if isinstance(v, (bool, int, float, str)) else str(v) for key, v in options.items()}
        try:
            accelerator.init_trackers("bfn", config=plain)
        except Exception as error:
            raise ResourceError(f"training.trackers: {', '.join(training.trackers)} did not start: {error}") from error
        scope.callback(accelerator.end_training)

        def tracker(moment: Moment) -> None:
            for metrics in moment.metrics:
                accelerator.log({k: v for k, v in metrics.items() if k != "step"}, step=int(metrics["step"]))

        self.callbacks = [*self.callbacks, tracker]

    def _validated_if_due(self) -> tuple[bool, int]:
        """Whether a validation that was due is the best so far, and the signal that ended it, or 0."""
        try:
            return self._validate_if_due(), 0
        except Interrupted as request:
            return False, int(request.number)

    def _validate_if_due(self) -> bool:
        """Prices the validation rows, with the weights that samples would have; whether they were never so low.

        The draws are the same each time, so that two validations differ by the weights alone.
        """
        every, step = self.training.validate_every, self.step
        if self.validated == step or not every or (step % every and step != self.training.steps):
            return False
        self._read()  # first, for a signal can end the validation
        estimate = Estimate.of(self._validation_losses())
        value = estimate.value if math.isfinite(estimate.value) else None
        improved = value is not None and value < self.best
        self._record({"step": step, "valid_loss": value, "valid_loss_stderr": estimate.stderr if value else None})
        self.validated, self.valid_loss = step, value
        self.since_best = 0 if improved else self.since_best + 1
        if improved and value is not None:
            self.best = value
        return improved

    @torch.no_grad()
    def _validation_losses(self) -> Tensor:
        model, n = self.model.eval(), len(self.valid)

        def price(block: int) -> Tensor:
            first = block * VALIDATION_ROWS
            rows = self.valid.rows(torch.arange(first, first + VALIDATION_ROWS, device=self.device).remainder_(n))
            return self.loop.loss(model, rows.x, **rows.condition)

        key = (self.loop.seed, "validation")
        losses: Tensor = in_blocks(n, VALIDATION_ROWS, price, key, self.device)
        self.loop.model.train()
        return losses

    def _lost_patience(self) -> bool:
        return 0 < self.training.patience <= self.since_best

    def _signals(self) -> tuple[int, bool]:
        """The signal that asked any process to stop, and whether one asked to save."""
        stop = processes.most(int(interrupts.pending() or 0), self.device)
        return stop, bool(processes.most(int(interrupts.take_save()), self.device))

    def _stop(self, number: signal.Signals) -> None:
        self._save(last=True)
        raise Interrupted(number, f"go on with: bfn train --resume {shlex.quote(str(self.folder))}")

    def _agree(self, what: str, value: object) -> None:
        """Checks that all processes have the same step and the same value."""
        answers = processes.everybody((self.step, value))
        for rank, answer in enumerate(answers):
            if answer != answers[0]:
                (step, value), (other_step, other) = answers[0], answer
                raise OutOfStepError(
                    f"the processes do not have the same {what}: process 0 has {value} at step {step}, "
                    f"process {rank} has {other} at step {other_step}"
                )

    def _save(self, last: bool = False, alone: bool = False) -> None:
        """Writes a checkpoint; what cannot be written is put up with a few times, but not at the end.

        All processes come here together, unless this one is alone.
        """
        if self.folder is None:
            return
        saved = int(processes.first() and self._saved == self.step)  # the one that writes knows, and tells the others
        if saved if alone else processes.most(saved, self.device):
            return
        if processes.first() or self.loop.sharded:
            state = {
                **self.origin,
                "experiment": self.experiment.to_mapping(),
                "validated": self.validated,
                "best": self.best if math.isfinite(self.best) else None,
                "since_best": self.since_best,
                "seconds": self.seconds,
                "inexact": self.inexact,
            }
            facts = {
                "bfn-toolkit": version("bfn-toolkit"),
                "plugins": providers(self.experiment),
                "conditions": self.seen,
            }
            checkpoint = self.loop.checkpoint(self.step, state, self.valid_loss, facts)
            try:
                if processes.first():
                    save_checkpoint(self.folder, checkpoint, self.training.keep)
                self._failures["save"] = 0
                self._saved = self.step
            except ResourceError as error:
                self._failures["save"] += 1
                if last or self.training.on_save_error == "stop" or self._failures["save"] == FAILURES:
                    raise
                self._warn(f"step {self.step} is not saved: {error}")
        if not alone:
            processes.wait()

    def _warn(self, message: str) -> None:
        if processes.first():
            warnings.warn(message, BFNWarning, stacklevel=2)

    def _warn_at_first(self, what: str, message: str) -> None:
        self._failures[what] += 1
        if self._failures[what] == 1:
            self._warn(message)


def _divides(every: int, step: int) -> bool:
    return every > 0 and step % every == 0


def _what_matters(experiment: Mapping[str, Any]) -> dict[str, Any]:
    """An experiment without the options that change nothing in the numbers."""
    training = {key: value for key, value in experiment["training"].items() if key not in HARMLESS}
    return {**experiment, "training": training}
