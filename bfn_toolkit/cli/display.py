"""Output of the commands: tables, progress and lines.  Rich is imported where it is needed."""

from __future__ import annotations

import io
import logging
import math
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
    """A console that takes texts as they are: ``[bold]`` in a name is no markup."""
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


def _number(value: float | None, form: str = ".4f") -> str:
    return "not finite" if value is None or not math.isfinite(value) else f"{value:{form}}"


def with_error(value: float | None, stderr: float | None) -> str:
    """A mean and its standard error, which a single row does not have."""
    known = value is not None and stderr is not None and math.isfinite(value) and math.isfinite(stderr)
    return f"{_number(value)} ± {stderr:.4f}" if known else _number(value)


def _table(title: str, rows: Sequence[tuple[str, str]]) -> None:
    from rich.table import Table

    table = Table(title=printable(title), title_justify="left", show_header=False)
    for row in rows:
        table.add_row(*map(printable, row))
    _console().print(table)


LETTERS = 100  # of a text that is printed
COLUMNS = 20  # largest number of columns whose distances are printed
_DISTANCES = {
    "w1": "W1 to the data",
    "sliced_w1": "sliced W1 to the data",
    "mmd": "MMD squared to the data",
    "w1_lengths": "W1 of the distances in a set",
    "tv_site": "total variation to the data, one site",
    "tv_pair": "total variation to the data, neighbours",
}


_BASELINES = {
    "independent": "  each {} by itself",
    "pairs": "  each {} from the one before",
    "neighbours": "  from left and upper neighbours",
}


def _beside(value: Any, form: str, floor: Mapping[str, Any], key: str) -> str:
    """A number, and that of data in its place."""
    return _number(value, form) + (f" ({_number(floor[key], form)})" if key in floor else "")


def _distance_rows(
    scores: Mapping[str, Any], floor: Mapping[str, Any], prefix: str = "", unit: str = ""
) -> list[tuple[str, str]]:
    units = {key: f" {unit}" for key in ("w1", "sliced_w1", "w1_lengths") if unit}
    rows = [
        (prefix + name, _beside(scores[key], ".4f", floor, key) + units.get(key, ""))
        for key, name in _DISTANCES.items()
        if key in scores
    ]
    columns = list(scores.get("columns", {}).items())[:COLUMNS]
    rows += [(f"  W1 of {name}", _beside(value, ".4g", floor.get("columns", {}), name)) for name, value in columns]
    for part, inner in scores.get("parts", {}).items():
        rows += _distance_rows(inner, floor.get("parts", {}).get(part, {}), f"{prefix}{part}: ", unit)
    return rows


def scores_table(scores: Mapping[str, Any], *, details: bool = False) -> None:
    """Prints the scores of :func:`~bfn_toolkit.reports.report.evaluate`.

    Arguments:
        scores: The scores.
        details: Whether to print the worst columns and pairs of a table.
    """

    def estimate(key: str, scores: Mapping[str, Any] = scores) -> str:
        return with_error(scores[key], scores[f"{key}_stderr"])

    rows, title = [], []
    if "total_nats" in scores:
        steps, dimension = scores["steps"], scores.get("dimension", "dimension")
        messages = "L inf: messages, in continuous time" if steps == "inf" else f"L {steps}: the {steps} messages"
        rows += [
            (messages, estimate("loss_nats") + " nats"),
            ("L r: data after the last message", estimate("reconstruction_nats") + " nats"),
            ("sum: bound on -ln p(x)", estimate("total_nats") + " nats"),
            ("", f"{estimate('bits_per_dimension')} bits per {dimension}"),
        ]
        rows += [
            (f"  of {name}", f"{estimate('total_nats', part)} nats") for name, part in scores.get("parts", {}).items()
        ]
        if "entropy_nats" in scores:
            exact = scores["entropy_nats_stderr"] == 0.0
            entropy = f"{scores['entropy_nats']:.4f}" if exact else estimate("entropy_nats")
            rows.append(("  entropy: less only by chance", f"{entropy} nats"))
        for name, costs in scores.get("baselines", {}).items():
            cost = f"{estimate('total_nats', costs)} nats, {_number(costs['bits_per_dimension'])} bits"
            rows.append((_BASELINES[name].format(dimension), cost))
        if scores["unit"]:
            rows.append(("unit of the density", scores["unit"]))
        title.append(f"cost of {scores['examples']:,} {scores['split']} examples, lower is better")
    if weighted := scores.get("importance"):
        rows += [
            (f"bound of {weighted['particles']:,} particles", estimate("total_nats", weighted) + " nats"),
            (
                f"  {weighted['steps']:,} messages, {weighted['examples']:,} examples",
                estimate("bits_per_dimension", weighted) + " bits per dimension",
            ),
            ("  below that of one particle", estimate("gain_nats", weighted) + " nats"),
            ("  effective particles", f"{weighted['effective_particles']:.1f}"),
        ]
    if "log_density_nats" in scores:
        rows.append((f"ln p(x) of {scores['log_density_examples']:,} examples", estimate("log_density_nats") + " nats"))
        rows.append(("", f"{scores['log_density_solver_error']:.4f} error of the solver"))
    if samples := scores.get("samples"):
        floor, exact = samples.get("floor", {}), samples.get("mode_probabilities", {})
        rows += _distance_rows(samples, floor, unit=samples.get("unit", ""))
        for mode, share in samples.get("mode_shares", {}).items():
            right = f"; should be {exact[mode]:.3f}" if mode in exact else ""
            rows.append((f"share of mode {mode}", _beside(share, ".3f", floor.get("mode_shares", {}), mode) + right))
        if floor:
            rows.append(("  in brackets: in place of the samples", f"{floor['n']:,} {floor['rows']}"))
        better = "" if "table" in samples else ", distances: lower is better"
        title.append(f"{samples['n']:,} samples in {samples['steps']} {samples['sampler']} steps{better}")
    if rows:
        _table("; ".join(title), rows)
    for text in scores.get("samples", {}).get("first", ()):
        echo(_one_line(text))
    if table := scores.get("samples", {}).get("table"):
        for word, text in _table_lines(table, details):
            echo(f"{word:<8}{text}")


WORST = 5  # columns of a table, and pairs of them, that are printed


def _table_lines(table: Mapping[str, Any], details: bool) -> Iterator[tuple[str, str]]:
    """Scores of the samples of a table as lines, each with its first word."""

    def pair(scores: Mapping[str, Any], form: str = ".3f") -> str:
        samples, real = ("unknown" if scores[who] is None else f"{scores[who]:{form}}" for who in ("samples", "real"))
        return f"{samples} ({real})"

    rows = table["rows"]
    yield "", f"against {rows['held_out']:,} held-out rows; in brackets: training rows in the place of the samples"
    kinds = {"w1": "numbers: W1 {} sd", "tv": "categories: total variation {}", "gaps": "share of gaps {}"}
    parts = [text.format(pair(table[key])) for key, text in kinds.items() if table[key]["real"] is not None]
    yield "columns", "   ".join(parts)
    columns = [
        (name, key, scores)
        for name, column in table["columns"].items()
        for key, scores in column.items()
        if key != "gaps"
    ]
    columns.sort(key=lambda column: (column[2]["real"] or 0.0) - (column[2]["samples"] or 0.0))
    for name, key, scores in columns[: WORST * details]:
        yield "", f"{name}: {pair(scores)}{' sd' * (key == 'w1')}"
    if pairs := table["pairs"]:
        yield (
            "pairs",
            f"association off by {pair(pairs['mean'])}; independent columns {pairs['mean']['independent']:.3f}",
        )
        for found in pairs["worst"][: WORST * details]:
            values = f"{found['samples']:.2f} in samples, {found['data']:.2f} in data"
            yield "", f"{' and '.join(found['columns'])}: {values}, off by {pair(found['error'])}"
    if test := table.get("two_samples"):
        by = f", most by {', '.join(list(test['columns'])[:3])}" if test["columns"] else ""
        yield (
            "told",
            f"from real rows: AUC {test['samples']:.3f} \N{PLUS-MINUS SIGN} {test['stderr']:.3f} (0.5: not at all){by}",
        )
    if target := table.get("target"):
        yield "target", f"{target['column']}, learned from samples: {target['metric']} {pair(target)}"
    if "left_out" in table:
        yield "", table["left_out"]
    if table["valid"]["samples"] < 1.0:
        yield "valid", f"{table['valid']['samples']:.2%} of the samples; not so: {', '.join(table['valid']['invalid'])}"
    closest = f"closest training row: {pair(table['nearest'])}"
    yield "copies", f"of training rows: {pair(table['copies'], '.2%')}   {closest}"
    if private := table["membership"]:
        value = f"AUC {private['auc']:.3f} \N{PLUS-MINUS SIGN} {private['stderr']:.3f} (0.5: not at all)"
        yield "prices", f"tell training rows: {value}"
        for row in private["named"][: WORST if details else 3]:
            times = f"{row['repeats']} times in the training, " if row["repeats"] > 1 else ""
            yield "", f"{row['row']}: {times}cheaper than {row['cheaper_than']:.1%} of held-out rows"
    for line in table["advice"]:
        yield "try", line


def _one_line(text: str, letters: int = LETTERS) -> str:
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
    _table("dry run; nothing is written", rows)


def aligned(rows: Sequence[Sequence[str]]) -> None:
    """Prints rows in columns, of which the last may be of any length."""
    rows = [[_one_line(cell) for cell in row[:-1]] + [_one_line(row[-1], 1000)] for row in rows]
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
            echo(f"  goes with: {line}")


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
