"""The command that lists and compares runs."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs
import click

from bfn_toolkit.cli.display import aligned, echo, say
from bfn_toolkit.cli.options import RUN, Command
from bfn_toolkit.errors import RunDirectoryError

if TYPE_CHECKING:
    from bfn_toolkit.runs.listing import RunSummary

_SCORES = (
    "total_nats",
    "bits_per_dimension",
    "log_density_nats",
    "importance.total_nats",
    "samples.w1",
    "samples.sliced_w1",
    "samples.mmd",
)


@click.command(
    cls=Command,
    epilog="""\b
Examples:
  bfn runs                                          the runs in runs/, newest first
  bfn runs sweep old/runs --sort loss               the runs in these folders, best first
  bfn runs runs/001 runs/002                        their differing settings, and their scores
  bfn runs --json""",
)
@click.argument("folders", nargs=-1, type=RUN, metavar="[FOLDER...]")
@click.option(
    "--sort",
    type=click.Choice(["date", "loss", "bound", "name"]),
    default="date",
    show_default=True,
    help="Order: newest, lowest validation loss, lowest bound, or name first.",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of a table.")
def runs(folders: tuple[Path, ...], sort: str, as_json: bool) -> None:
    """List the runs in FOLDERs, by default in runs/; or compare several RUNs: their settings and scores.

    No code in a run is executed, and a damaged run is listed with the reason.
    """
    from bfn_toolkit.runs.listing import MOST_RUNS, find_runs, is_run, settings_that_differ, summarise
    from bfn_toolkit.storage.files import to_json

    if not folders and not Path("runs").is_dir():
        raise RunDirectoryError("there is no folder runs/ here; name another: bfn runs FOLDER, or make one: bfn train")
    compares = len(folders) > 1 and all(map(is_run, folders))
    paths = itertools.chain.from_iterable(map(find_runs, folders or [Path("runs")]))
    found = [summarise(path) for path in itertools.islice(paths, MOST_RUNS)]
    if next(paths, None) is not None:
        say(f"these are the first {MOST_RUNS:,} runs; name a folder with fewer")
    if not compares:
        found = _sorted(found, sort)
    differing = settings_that_differ(found) if compares else {}
    if as_json:
        hidden = set() if compares else {"settings", "scores"}
        rows = [{k: v for k, v in attrs.asdict(run).items() if k not in hidden} for run in found]
        rows = [{**row, "path": str(row["path"])} for row in rows]
        echo(to_json({"runs": rows, **({"differing": differing} if compares else {})}))
    elif compares:
        _comparison(found, differing)
    elif found:
        aligned([_HEADINGS, *map(_row, found)])
    else:
        say("no runs here; bfn train makes one")


def _sorted(found: Sequence[RunSummary], sort: str) -> list[RunSummary]:
    keys: dict[str, Callable[[RunSummary], Any]] = {
        "loss": lambda run: math.inf if run.best_valid_loss is None else run.best_valid_loss,
        "bound": lambda run: math.inf if run.bound is None else run.bound,
        "name": lambda run: str(run.path),
        "date": lambda run: run.date,
    }
    return sorted(found, key=keys[sort], reverse=sort == "date")


_HEADINGS = ("run", "data", "family", "network", "weights", "steps", "loss", "best", "bound", "date", "state")


def _row(run: RunSummary) -> list[str]:
    bound = "" if run.bound is None else f"{run.bound:.5g}"
    if run.bound is not None and run.bound_stderr is not None:
        bound += f" \N{PLUS-MINUS SIGN} {run.bound_stderr:.2g}"
    weights = "" if run.weights is None else f"{run.weights:,}"
    date = run.date[:16]
    loss, best = ("" if value is None else f"{value:.5g}" for value in (run.valid_loss, run.best_valid_loss))
    cells = (
        str(run.path),
        run.data,
        run.family,
        run.network,
        weights,
        _steps(run),
        loss,
        best,
        bound,
        date,
        _state(run),
    )
    return [cell or "-" for cell in cells]


def _steps(run: RunSummary) -> str:
    done, asked = ("?" if number is None else f"{number:,}" for number in (run.step, run.steps))
    return f"{done}/{asked}"


def _state(run: RunSummary) -> str:
    return f"damaged: {'; '.join(run.faults)}" if run.faults else run.state


def _comparison(found: Sequence[RunSummary], differing: dict[str, list[Any]]) -> None:
    """Prints the settings in which runs differ, then their scores, a column for each."""
    rows = [["", *(str(run.path) for run in found)]]
    rows += [[key, *("-" if value is None else str(value) for value in row)] for key, row in differing.items()]
    if not differing:
        rows.append(["the settings are equal", *("" for _ in found)])
    rows += [["state", *map(_state, found)], ["steps done", *map(_steps, found)]]
    for name, field in (
        ("weights", "weights"),
        ("validation loss", "valid_loss"),
        ("lowest of them", "best_valid_loss"),
    ):
        rows.append([name, *(_figure(getattr(run, field)) for run in found)])
    for key in _SCORES:
        if any(key in run.scores for run in found):
            rows.append([key, *(_score(run, key) for run in found)])
    aligned(rows)


def _score(run: RunSummary, key: str) -> str:
    error = run.scores.get(f"{key}_stderr")
    return _figure(run.scores.get(key)) + (f" \N{PLUS-MINUS SIGN} {error:.2g}" if error is not None else "")


def _figure(value: float | None) -> str:
    return "-" if value is None else f"{value:,}" if isinstance(value, int) else f"{value:.5g}"
