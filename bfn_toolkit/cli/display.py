"""Output of the commands: tables, progress and lines.  Rich is imported where it is needed."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import click

LAUNCHED = "BFN_LAUNCHED"  # set by our launcher, which reports the errors of its processes

if TYPE_CHECKING:
    from bfn_toolkit.config.experiment import Experiment
    from bfn_toolkit.testing.kit import Verdict
    from bfn_toolkit.training.dry_run import DryRun
    from bfn_toolkit.training.metrics import TrainingEvent
    from bfn_toolkit.training.step import TrainStep


def is_follower() -> bool:
    """Whether this is one of several processes, but not the one that prints."""
    return os.environ.get("RANK", "0") != "0"


def say(line: str) -> None:
    """Prints a line to stderr."""
    if not is_follower():
        click.echo(line, err=True)


def complain(message: str, details: str = "") -> None:
    """Prints an error to stderr, line by line, unless our launcher reports it."""
    if LAUNCHED in os.environ:
        return
    who = f"process {os.environ['RANK']}: " if "RANK" in os.environ else ""
    lines = message.splitlines() or [""]
    click.echo(details + "\n".join(f"{who}error: {line}" for line in lines), err=True)


@contextmanager
def progress(steps: int) -> Iterator[Callable[[TrainingEvent], None]]:
    """Shows a bar with loss and rate on a terminal, and prints about ten lines elsewhere."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeRemainingColumn

    console = Console(stderr=True)
    if not console.is_terminal:
        every = max(1, steps // 10)
        validated = -every  # step of the last line about it

        def line(event: TrainingEvent) -> None:
            nonlocal validated
            for m in event.metrics:
                step = int(m["step"])
                if "valid_loss" in m:
                    if step < min(steps, validated + every):
                        continue
                    validated = step
                    bound = f"  bound {_estimate(m, 'valid_nats')} nats" if "valid_nats" in m else ""
                    say(f"step {step}/{steps}  validation loss {_estimate(m)}{bound}")
                elif step % every == 0 or step == steps:
                    say(f"step {step}/{steps}  loss {m['loss']:.4f}  gradient norm {m['grad_norm']:.3f}")

        yield line
        return
    columns = (
        SpinnerColumn(),
        TextColumn("training"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("loss {task.fields[loss]:.4f}  {task.fields[rate]:.0f} steps/s"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console) as bar:
        task = bar.add_task("training", total=steps, loss=float("nan"), rate=0.0)

        def advance(event: TrainingEvent) -> None:
            for m in event.metrics:
                if "loss" in m:
                    rate = bar.tasks[0].speed or 0.0
                    bar.update(task, completed=int(m["step"]), loss=m["loss"], rate=rate)

        yield advance


@contextmanager
def sampling(n: int, what: str = "samples") -> Iterator[Callable[[int], None]]:
    """Shows a bar of the samples written on a terminal, and prints a line at every tenth of them elsewhere."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    console = Console(stderr=True)
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
def phases() -> Iterator[Callable[[str], object]]:
    """Shows the part of the report that is in progress on a terminal."""
    from rich.console import Console

    console = Console(stderr=True)
    if is_follower() or not console.is_terminal:
        yield lambda name: None
        return
    with console.status("report") as status:
        yield lambda name: status.update(f"report: {name}")


def _estimate(metrics: Mapping[str, Any], name: str = "valid_loss") -> str:
    value, error = metrics[name], metrics[f"{name}_stderr"]
    return "not finite" if value is None else f"{value:.4f} ± {error:.4f}"


def _table(title: str, rows: Sequence[tuple[str, str]]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(title=title, title_justify="left", show_header=False)
    for row in rows:
        table.add_row(*row)
    Console().print(table)


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
    return f"{value:{form}} ({floor[key]:{form}})" if key in floor else f"{value:{form}}"


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
        return f"{scores[key]:.4f} ± {scores[f'{key}_stderr']:.4f}"

    rows, title = [], []
    if "total_nats" in scores:
        steps = scores["steps"]
        messages = "L inf, messages in continuous time" if steps == "inf" else f"L {steps}, messages"
        rows += [
            (messages, estimate("loss_nats") + " nats"),
            ("L r, reconstruction", estimate("reconstruction_nats") + " nats"),
            ("bound on -ln p(x)", estimate("total_nats") + " nats"),
            ("", f"{estimate('bits_per_dimension')} bits per {scores['dimension']}"),
        ]
        for name, costs in scores.get("baselines", {}).items():
            bits = f"{costs['bits_per_dimension']:.4f} bits, {costs['total_nats']:.4f} nats"
            rows.append((_BASELINES[name].format(scores["dimension"]), bits))
        if scores["unit"]:
            rows.append(("unit of the density", scores["unit"]))
        for name, part in scores["parts"].items():
            rows.append((f"  of {name}", f"{part['total_nats']:.4f} ± {part['total_nats_stderr']:.4f} nats"))
        title.append(f"likelihood of {scores['examples']:,} {scores['split']} examples")
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
        floor = samples.get("floor", {})
        rows += _distance_rows(samples, floor, unit=samples.get("unit", ""))
        rows += [
            (f"share of mode {mode}", _beside(share, ".3f", floor.get("mode_shares", {}), mode))
            for mode, share in samples.get("mode_shares", {}).items()
        ]
        if floor:
            rows.append(("  in brackets: those of", f"{floor['n']:,} {floor['rows']}"))
        title.append(f"{samples['n']:,} samples in {samples['steps']} {samples['sampler']} steps")
    if rows:
        _table("; ".join(title), rows)
    for text in scores.get("samples", {}).get("first", ()):
        click.echo(_one_line(text))
    if table := scores.get("samples", {}).get("table"):
        for word, text in _table_lines(table, details):
            click.echo(f"{word:<8}{text}")


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


def _one_line(text: str) -> str:
    """The beginning of a text, with escapes for what cannot be printed."""
    shown = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
    return shown if len(shown) <= LETTERS else f"{shown[: LETTERS - 1]}\N{HORIZONTAL ELLIPSIS}"


def plan_line(experiment: Experiment, step: TrainStep) -> str:
    """Family, network, device and steps of a training, in a line."""
    from bfn_toolkit.parallel.processes import world_size
    from bfn_toolkit.registry.registry import default_registry

    registry, family, training = default_registry(), experiment.family, experiment.training
    names = [registry.name_of("family", type(part)) for part in family.parts.values()]
    product = "product of " if family.has_parts else ""
    network = registry.name_of("network", type(experiment.network))
    size = parameters(sum(weight.numel() for weight in step.parameters))
    device = f"{world_size()} x {step.device}" if world_size() > 1 else str(step.device)
    steps = f"{training.steps:,} steps of {training.batch_size:,}"
    return f"plan   {product}{', '.join(dict.fromkeys(names))}; {network}, {size}; {device}; {steps}"


def parameters(n: int) -> str:
    """A number of parameters in words: "1.2 M parameters"."""
    return f"{n / 1e6:.3g} M parameters" if n >= 100_000 else f"{n:,} parameters"


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


def plugins_table(parts: Sequence[Mapping[str, str]]) -> None:
    """Prints the registered components."""
    from rich.console import Console
    from rich.table import Column, Table

    table = Table("kind", Column("name", no_wrap=True), "module", "distribution", "version")
    for part in parts:
        table.add_row(*part.values())
    Console().print(table)


def presets_list(texts: Mapping[str, str]) -> None:
    """Prints name, description and source of presets from their TOML."""
    indent = max(map(len, texts), default=0) + 2
    for name, text in texts.items():
        first, *lines = text.splitlines()
        click.echo(f"{name:<{indent}}{first.removeprefix('# ')}")
        for line in lines:
            if line.startswith("# Source: "):
                click.echo(f"{'':<{indent}}{line.removeprefix('# Source: ')}")


def checkpoints_table(rows: Sequence[Mapping[str, Any]], *, verified: bool) -> None:
    """Prints checkpoints and their faults."""
    from rich.console import Console
    from rich.table import Table

    table = Table("name", "step", "validation loss", "bytes", "verified" if verified else "readable")
    for row in rows:
        loss = "" if row["valid_loss"] is None else f"{row['valid_loss']:.4f}"
        table.add_row(row["name"], str(row["step"]), loss, f"{row['bytes']:,}", row["fault"] or "yes")
    Console().print(table)


def verdicts_table(title: str, lines: Sequence[Verdict]) -> None:
    """Prints verdict and figure of each law, then the faults of the broken ones."""
    from rich.console import Console
    from rich.table import Table

    table = Table("law", "verdict", "figure")
    for line in lines:
        verdict = line.verdict if line.reason is None else f"{line.verdict}: {line.reason}"
        table.add_row(line.law.name, verdict, "" if line.figure is None else f"{line.figure:.2g}")
    click.echo(title)
    Console().print(table)
    for line in lines:
        if line.fault is not None and not line.passed:
            click.echo(str(line.fault))
