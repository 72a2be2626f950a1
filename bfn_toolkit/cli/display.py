"""Output of the commands: tables, progress and lines.  Rich is imported where it is needed."""

from __future__ import annotations

import io
import logging
import os
import sys
import textwrap
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, chdir, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, cast

import click

from bfn_toolkit.cli.results import results
from bfn_toolkit.errors import printable
from bfn_toolkit.parallel import environment

LAUNCHED = "BFN_LAUNCHED"  # set by our launcher, which reports the errors of its processes

if TYPE_CHECKING:
    from rich.console import Console

    from bfn_toolkit.testing.kit import Verdict
    from bfn_toolkit.training.dry_run import DryRun


def is_follower() -> bool:
    """Whether this is one of several processes, but not the one that prints."""
    return environment.place()[0] > 0


def echo(text: str, *, err: bool = False, nl: bool = True) -> None:
    """Prints a text, with escapes for what a terminal would obey; everything that is printed comes through here."""
    # Rich replaces sys.stderr while a bar is shown, which click does not see by itself.
    click.echo(printable(text), sys.stderr if err else results(), nl=nl)


def say(line: str) -> None:
    """Prints a line to stderr, above a bar that is shown there."""
    if not is_follower():
        _print(line)


def complain(message: str, details: str = "") -> None:
    """Prints an error to stderr, line by line, unless our launcher reports it."""
    if LAUNCHED in os.environ:
        return
    rank, size = environment.place()
    who = f"process {rank}: " if size > 1 else ""
    lines = message.split("\n")
    _print(details + "\n".join(f"{who}error: {line}" for line in lines))


def _print(text: str) -> None:
    """Prints to stderr; work goes on where nobody can read it, as after the terminal is closed."""
    with suppress(OSError):
        echo(text, err=True)


class _Shown(io.RawIOBase):
    """Text on a terminal, which takes the bytes of a stream."""

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        results().write(printable(bytes(data).decode(errors="backslashreplace")))
        return len(data)


def stdout_bytes() -> BinaryIO:
    """Stdout for data: bytes as they are, and on a terminal what can be shown of them."""
    stream = results()
    return cast(BinaryIO, _Shown()) if stream.isatty() else cast(BinaryIO, stream.buffer)


def _console(*, stderr: bool = False) -> Console:
    """A console that takes texts as they are: ``[bold]`` in a name is not markup."""
    from rich.console import Console

    return Console(file=None if stderr else results(), stderr=stderr, markup=False, emoji=False)


@contextmanager
def sampling(n: int, what: str = "samples") -> Iterator[Callable[[int], None]]:
    """Shows a bar of the samples written on a terminal, and prints a line at every tenth of them elsewhere."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    console = _console(stderr=True)
    if is_follower() or not console.is_terminal:
        tenths = 0

        def line(rows: int) -> None:
            nonlocal tenths
            if tenths < (tenths := 10 * rows // n) < 10:
                say(f"{rows:,} of {n:,} {what}")

        yield line
        return
    columns = (TextColumn(what), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console) as bar:
        task = bar.add_task("sampling", total=n)
        yield lambda rows: bar.update(task, completed=rows)


@contextmanager
def phases() -> Iterator[Callable[[str, float], None]]:
    """Shows a bar of the report with the part that is in progress on a terminal."""
    from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    console = _console(stderr=True)
    if is_follower() or not console.is_terminal:
        yield lambda name, done: None
        return
    columns = (
        SpinnerColumn(),
        TextColumn("report"),
        BarColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.description}", markup=False),
    )
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task("", total=1.0)
        yield lambda name, done: bar.update(task, description=printable(name), completed=done)


def load_matplotlib() -> None:
    """Imports matplotlib for the figures of this process alone.

    The import reads a matplotlibrc of the user and MPLBACKEND, and fails if one of them is damaged, or names what is
    not installed here, as those of a notebook do.  Our figures need neither.

    Raises:
        ResourceError: If matplotlib cannot be imported.
    """
    from bfn_toolkit.errors import ResourceError

    logging.getLogger("matplotlib").setLevel(logging.ERROR)  # it warns of a home that it cannot write to
    own = {"MATPLOTLIBRC": os.devnull, "MPLBACKEND": "agg"}
    before = {name: os.environ.get(name) for name in own}
    os.environ.update(own)
    try:
        with ExitStack() as scope:
            with suppress(OSError):  # of a working directory that is gone
                scope.enter_context(chdir(Path(__file__).parent))  # the first matplotlibrc is one that lies there
            import matplotlib  # noqa: F401
    except Exception as error:
        raise ResourceError(f"no figures, because matplotlib does not load: {error}") from error
    finally:
        for name, value in before.items():
            del os.environ[name]
            if value is not None:
                os.environ[name] = value


LETTERS = 100  # of a text that is printed


def print_table(title: str, rows: Sequence[tuple[str, str]]) -> None:
    """Prints rows of a word and a value, with a title."""
    from rich.table import Table

    table = Table(title=printable(title), title_justify="left", show_header=False)
    for row in rows:
        table.add_row(*map(printable, row))
    _console().print(table)


def one_line(text: str, letters: int = LETTERS) -> str:
    """The beginning of a text, with escapes for what cannot be printed."""
    shown = printable(text).replace("\n", "\\n").replace("\t", "\\t")
    return shown if len(shown) <= letters else f"{shown[: letters - 1]}\N{HORIZONTAL ELLIPSIS}"


def duration(seconds: float) -> str:
    """A time in words: "3.2 hours"."""
    for unit, length in (("days", 86400.0), ("hours", 3600.0), ("minutes", 60.0)):
        if seconds >= 2.0 * length:
            return f"{seconds / length:,.3g} {unit}" if seconds < 999.0 * length else f"{seconds / length:,.0f} {unit}"
    return f"{seconds:.2g} s" if seconds < 10.0 else f"{seconds:.0f} s"


def dry_run_table(run: DryRun) -> None:
    """Prints what a dry run measured."""
    from bfn_toolkit.storage.files import shown_size

    memory = run.weights + run.gradients + run.optimizer + run.average
    where = "of the process" if run.device in ("cpu", "mps") else f"on {run.device}"
    rows = [
        ("parameters", f"{run.parameters:,}"),
        ("weights", shown_size(run.weights)),
        ("gradients", shown_size(run.gradients)),
        ("state of the optimiser", shown_size(run.optimizer)),
        ("moving average", shown_size(run.average)),
        ("all of these", shown_size(memory)),
        (f"largest memory {where}, with {run.rows:,} rows", shown_size(run.peak)),
        (f"a step of {run.rows:,} rows", duration(run.seconds)),
        (f"{run.steps:,} steps of {run.batch:,} rows", f"about {duration(run.total_seconds)}"),
    ]
    print_table("dry run; nothing is written", rows)


def aligned(rows: Sequence[Sequence[str]]) -> None:
    """Prints rows in columns, of which the last may be of any length."""
    rows = [[one_line(cell) for cell in row[:-1]] + [one_line(row[-1], 1000)] for row in rows]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)][:-1]
    for row in rows:
        cells = [f"{cell:<{width}}" for cell, width in zip(row, widths, strict=False)]
        echo("  ".join([*cells, row[-1]]).rstrip())


def part_pages(parts: Sequence[Mapping[str, Any]]) -> None:
    """Prints all about registered components."""
    for number, part in enumerate(parts):
        origin = f"{part['distribution']} {part['version']}".strip()
        echo(f"{chr(10) * (number > 0)}{part['kind']} {part['name']}, from {origin} (module {part['module']})\n")
        if part["docstring"]:
            echo(f"{textwrap.indent(part['docstring'], '  ')}\n")
        for option in part["options"]:
            echo(f"  {option['name']}: {option['type']}; {option['default'] or 'required'}")
            echo(textwrap.fill(option["description"], 100, initial_indent="      ", subsequent_indent="      "))
        for line in part["fits"]:
            echo(f"  works with: {line}")


def presets_list(texts: Mapping[str, str]) -> None:
    """Prints name, description and source of presets from their TOML."""
    indent = max(map(len, texts), default=0) + 2
    for name, text in texts.items():
        first, *lines = text.splitlines()
        echo(f"{name:<{indent}}{first.removeprefix('# ')}")
        for line in lines:
            if line.startswith("# Source: "):
                echo(f"{'':<{indent}}{line.removeprefix('# Source: ')}")


def checkpoints_table(rows: Sequence[Mapping[str, Any]], *, verified: bool) -> None:
    """Prints checkpoints and their faults."""
    from rich.table import Table

    table = Table("name", "step", "validation loss", "bytes", "verified" if verified else "readable")
    for row in rows:
        loss = "" if row["valid_loss"] is None else f"{row['valid_loss']:.4f}"
        cells = (
            row["name"],
            "" if row["step"] is None else str(row["step"]),
            loss,
            f"{row['bytes']:,}",
            row["fault"] or "yes",
        )
        table.add_row(*map(printable, cells))
    _console().print(table)


def verdicts_table(title: str, lines: Sequence[Verdict]) -> None:
    """Prints verdict and figure of each law, then the faults of the broken ones."""
    from rich.table import Table

    table = Table("law", "verdict", "figure")
    for line in lines:
        verdict = line.verdict if line.reason is None else f"{line.verdict}: {line.reason}"
        table.add_row(line.law.name, printable(verdict), "" if line.figure is None else f"{line.figure:.2g}")
    echo(title)
    _console().print(table)
    for line in lines:
        if line.fault is not None and not line.passed:
            echo(str(line.fault))
