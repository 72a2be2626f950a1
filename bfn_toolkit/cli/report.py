"""The command that writes the page about a run."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import Any

import click

from bfn_toolkit.cli.completion import complete_devices
from bfn_toolkit.cli.display import echo, load_matplotlib, phases, say
from bfn_toolkit.cli.options import PATH, POSITIVE, RUN, Command, make_plan, open_run, trust_options
from bfn_toolkit.errors import BFNError, ConfigError, RunDirectoryError


@click.command(
    cls=Command,
    epilog="""\b
Examples:
  bfn report runs/001                               runs/001/report.html
  bfn report runs/001 --compare runs/002 --compare runs/003 --out three.html
  bfn report runs/001 --seconds 600                 scores as exact as ten minutes allow, if it has none""",
)
@click.argument("run", type=RUN)
@click.option(
    "--compare",
    type=RUN,
    multiple=True,
    metavar="RUN",
    help="Another run, whose curves, scores and differing settings are shown beside those of RUN (repeatable).",
)
@click.option("--out", type=PATH, help="File to write  [default: report.html in RUN]")
@click.option(
    "--seconds",
    type=POSITIVE,
    help="Time for samples, and for scores if they are missing  [default: as after a training]",
)
@click.option(
    "--device",
    shell_complete=complete_devices,
    default="auto",
    show_default=True,
    help="Device: auto, cpu, cuda, cuda:N or mps.",
)
@trust_options
def report(run: Path, compare: tuple[Path, ...], out: Path | None, seconds: int | None, **choice: Any) -> None:
    """Write a page about a RUN: one HTML file with its data, samples, likelihood, curves, settings and advice.

    The scores are those of the last evaluation.  A finished run that was never evaluated is evaluated first.
    """
    from bfn_toolkit.parallel.processes import is_main_process
    from bfn_toolkit.parallel.signals import listening
    from bfn_toolkit.reports.report import write_report
    from bfn_toolkit.runs.records import EXPERIMENT
    from bfn_toolkit.runs.run import check_run
    from bfn_toolkit.runs.sampling import report_size

    if (run / "config.json").is_file() and not (run / EXPERIMENT).exists():
        raise RunDirectoryError(
            f"{run} is a saved model, without metrics, scores or data; name the run directory that it came from: "
            "bfn report RUN"
        )
    for folder in (run, *compare):
        check_run(folder)
    if out is not None and out.is_dir():
        raise ConfigError(f"{out} is a directory; name a file in it: --out {out / 'report.html'}")
    with suppress(BFNError):  # then only the figures are missing
        load_matplotlib()
    opened = open_run(run, {**choice, "checkpoint": "final", "weights": "auto"})
    plan = make_plan(opened, n=report_size(opened))
    with listening(), phases() as show:
        path = write_report(plan, say, out, compare, seconds=seconds, show=show)
    if is_main_process():
        echo(str(path))
