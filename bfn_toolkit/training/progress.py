"""The way of a training on the screen: its plan, a bar or lines in a log, and what came of it.

On a terminal and in a notebook with ipywidgets there is a bar; elsewhere there is a line every few seconds.  Nothing
here reads from the device: the losses are those that the metrics have read.
"""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs
import click

from bfn_toolkit.config.experiment import Experiment
from bfn_toolkit.errors import ConfigError, printable
from bfn_toolkit.parallel import processes
from bfn_toolkit.registry import default_registry
from bfn_toolkit.runs.wording import clock, shown_parameters, with_error
from bfn_toolkit.training.metrics import TrainingEvent
from bfn_toolkit.training.step import TrainStep

if TYPE_CHECKING:
    from rich.console import Console

REFRESH = 0.1  # seconds between two states of a bar
SHORTEST, LONGEST = 5.0, 60.0  # seconds between two lines of a log, which grow with the time of the training


@attrs.define(eq=False)
class Progress:
    """Steps, losses and times of a training, and lines of them in a log.

    Arguments:
        steps: Number of steps of the training.
        first: Steps that were done before, in a training that is resumed.
        limit: Whether the training may end earlier.
    """

    steps: int
    first: int = 0
    limit: bool = False
    step: int = attrs.field(default=attrs.Factory(lambda self: self.first, takes_self=True))
    validation: str = ""
    stopped: str | None = None  # reason of a callback
    _losses: list[float] = attrs.field(factory=list)  # since the last line
    _loss: str = ""
    _began: float = attrs.field(factory=time.monotonic)
    _shown: float = 0.0  # seconds from the beginning to the last line

    def advance(self, step: int) -> None:
        """Notes that a step is done; its numbers may still be on the device."""
        self.step = step
        self._show()

    def __call__(self, event: TrainingEvent) -> None:
        """Notes the numbers of an event of the training."""
        self._losses += [m["loss"] for m in event.metrics if "loss" in m]
        for m in event.metrics:
            if "valid_loss" in m:
                nats = (
                    f", bound {with_error(m['valid_nats'], m['valid_nats_stderr'])} nats" if "valid_nats" in m else ""
                )
                self.validation = f"validation {with_error(m['valid_loss'], m['valid_loss_stderr'])}{nats}"
        self.stopped = event.stopped or self.stopped
        self._show(last=event.step >= self.steps)

    @property
    def seconds(self) -> float:
        """Time since the beginning."""
        return time.monotonic() - self._began

    @property
    def pace(self) -> str:
        """Speed, time since the beginning, and estimate of the time that is left."""
        done, seconds = self.step - self.first, self.seconds
        if not done or not seconds:
            return ""
        rate = done / seconds
        speed = f"{rate:,.3g} steps/s" if rate >= 1.0 else f"{1.0 / rate:,.3g} s/step"
        left = (self.steps - self.step) / rate
        return f"{speed}  {clock(seconds)}" + (f", {'at most ' * self.limit}{clock(left)} left" if left else "")

    def numbers(self) -> str:
        """The mean of the losses since the last call, or its result where there is none, and the validation."""
        if self._losses:
            self._loss, self._losses = f"loss {math.fsum(self._losses) / len(self._losses):.4f}", []
        return "  ".join(filter(None, (self._loss, self.validation)))

    def _show(self, *, last: bool = False) -> None:
        seconds = self.seconds
        wait = min(LONGEST, max(SHORTEST, seconds / 20.0))
        if (last and self._losses) or seconds - self._shown >= wait:
            self._shown = seconds
            share = f"({100 * self.step // self.steps} %)"
            say("  ".join(filter(None, (f"step {self.step:,}/{self.steps:,} {share}", self.numbers(), self.pace))))


@attrs.define(eq=False)
class _Bar(Progress):
    """The same as a bar."""

    draw: Any = attrs.field(kw_only=True)

    def _show(self, *, last: bool = False) -> None:
        if last or self._losses or self.seconds - self._shown >= REFRESH:
            self._shown = self.seconds
            self.draw(self.step, self.pace, self.numbers() if self._losses else None, last=last)


@contextmanager
def progress(experiment: Experiment, step: TrainStep, rows: int, folder: Path | None, first: int) -> Iterator[Progress]:
    """Prints the plan of a training; shows its progress, from the step after ``first``; then prints how long it took.

    Arguments:
        experiment: The experiment.
        step: The training step.
        rows: Number of training rows.
        folder: The run directory, or None.
        first: Number of steps that are done.
    """
    from rich.console import Console

    for line in plan(experiment, step, rows, folder, first):
        say(line)
    training = experiment.training
    settings = training.steps, first, training.patience > 0
    console = Console(stderr=True)
    if not processes.is_main_process() or not (console.is_terminal or _in_notebook(console)):
        shown = Progress(*settings)
        yield shown
    else:
        with _bar(console, *settings) as shown:
            yield shown
    if done := shown.step - first:
        numbers = shown.numbers()
        say(f"done   {done:,} steps in {clock(shown.seconds)}{'; ' * bool(numbers)}{numbers}")
    elif first:
        say(f"done   already, at step {first:,}; for more steps: --training.steps {2 * first} --allow-inexact")
    if shown.stopped is not None:
        say(f"       stopped at step {shown.step:,} of {shown.steps:,}: {shown.stopped}")
    if click.get_current_context(silent=True) is None:  # a command has another last line
        again = "" if folder is None else f", Run.open({str(folder)!r}) opens the run again"
        say(f"next   run.model.sample(16) draws samples{again}")


@contextmanager
def _bar(console: Console, steps: int, first: int, limit: bool) -> Iterator[_Bar]:
    from rich.progress import BarColumn, MofNCompleteColumn, Progress as Columns, SpinnerColumn, TextColumn

    text = TextColumn("{task.fields[text]}", markup=False)
    with Columns(SpinnerColumn(), BarColumn(24), MofNCompleteColumn(), text, console=console) as bar:
        task = bar.add_task("training", total=steps, completed=first, text="")
        known = ""

        def draw(step: int, pace: str, numbers: str | None, *, last: bool) -> None:
            nonlocal known
            known = known if numbers is None else numbers
            bar.update(task, completed=step, text="  ".join(filter(None, (known, pace))), refresh=last)

        shown = _Bar(steps, first, limit, draw=draw)
        yield shown
        draw(shown.step, shown.pace, None, last=True)


def _in_notebook(console: Console) -> bool:
    return console.is_jupyter and find_spec("ipywidgets") is not None


def plan(experiment: Experiment, step: TrainStep, rows: int, folder: Path | None, first: int = 0) -> list[str]:
    """The plan of a training in lines: data, parts, steps, device, seed and place."""
    family, training = experiment.family, experiment.training
    names = dict.fromkeys(name_of("family", part) for part in family.parts.values())
    product = "product of " if family.has_parts else ""
    network = name_of("network", experiment.network)
    trained, total = (sum(w.numel() for w in ws) for ws in (step.parameters, step.unwrapped.parameters()))
    size = shown_parameters(total)
    size += f" ({100 * trained / total:.3g} % of them trained)" if trained < total else ""
    device = f"{processes.world_size()} x {step.device}" if processes.world_size() > 1 else str(step.device)
    steps = f"{training.steps:,} steps of {training.batch_size:,} rows"
    place = "kept in memory" if folder is None else f"in {folder}"
    parts = f"{product}{', '.join(names)}; {network}, {size}"
    return [
        f"plan   {name_of('dataset', experiment.dataset)}, {rows:,} rows; {parts}",
        f"       {f'from step {first:,} to ' * bool(first)}{steps}; {device}; seed {experiment.seed}; {place}",
    ]


def name_of(kind: str, part: object) -> str:
    """The name of a component as configurations have it; the name of its class if it is not registered."""
    try:
        return default_registry().name_of(kind, type(part))
    except ConfigError:
        return type(part).__qualname__


def say(line: str) -> None:
    """Prints a line to stderr, in the first process; in a notebook, which shows stderr as an error, to stdout."""
    if processes.is_main_process():
        with suppress(OSError):  # nobody can read it, as after the terminal is closed
            # Either of which rich replaces while a bar is shown.
            click.echo(printable(line), sys.stdout if _in_cell() else sys.stderr)


def _in_cell() -> bool:
    """Whether a cell of a notebook called, and not a command."""
    shell = getattr(sys.modules.get("IPython"), "get_ipython", lambda: None)()
    return hasattr(shell, "kernel") and click.get_current_context(silent=True) is None
