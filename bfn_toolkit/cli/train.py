"""The command that trains."""

from __future__ import annotations

import itertools
import os
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import click

from bfn_toolkit.cli.display import dry_run_table, phases, plan_line, progress, say, scores_table
from bfn_toolkit.cli.options import (
    PATH,
    POSITIVE,
    Command,
    column_options,
    make_plan,
    parse_overrides,
    path_and_options,
    trust_options,
)
from bfn_toolkit.errors import BFNError, ConfigError

if TYPE_CHECKING:
    from bfn_toolkit.config.experiment import Experiment
    from bfn_toolkit.runs.run import Run
    from bfn_toolkit.training.step import TrainStep

Overrides: TypeAlias = Sequence[tuple[str, str]]


@click.command(
    cls=Command,
    context_settings={"ignore_unknown_options": True, "allow_extra_args": True},
    epilog="""\b
Examples:
  bfn train photos/                                 data of yours: also book.txt, table.csv, array.npz, ...
  bfn train people.csv --columns age,zip --types zip=category
  bfn train answers.npz --as classes-array          name the data set that reads them: bfn plugins lists all
  bfn train                                         four Gaussians, a Siren, Gaussian updates
  bfn train --out runs/wide --network.width 256 --training.steps 1000
  bfn train book.txt --preset text8-small           a recipe: bfn presets lists them
  bfn train --config my.toml --seed 1               a file, with one value replaced
  bfn train --family.head noise --training.ema_decay 0.99
  bfn train --resume runs/wide                      continue where it stopped, bit-identically
  bfn train --processes 2 --training.batch_size 512 share each batch among two processes
  bfn train --options                               every option, its type and its default""",
)
@click.option("--as", "as_", metavar="NAME", help="Data set that reads PATH  [default: the one that recognises it]")
@click.option("--columns", metavar="A,B", help="Columns of PATH to learn  [default: all]")
@click.option(
    "--types",
    metavar="A=KIND",
    multiple=True,
    help="Kinds of columns of PATH: number, integer, category, date, ...; identifier or text leaves a column out.",
)
@click.option("--gaps", metavar="A,B", help="Further texts in PATH that stand for a missing value.")
@click.option("--config", type=PATH, help="Experiment in a TOML file.")
@click.option("--preset", help="Preset that the file builds on; bfn presets lists them.")
@click.option("--out", type=PATH, help="Run directory to make  [default: runs/001, runs/002, ...]")
@click.option("--force", is_flag=True, help="Replace the run that is in --out.")
@click.option("--resume", type=PATH, help="Run directory to continue.")
@click.option(
    "--allow-inexact", is_flag=True, help="With --resume: continue even if the result will not be bit-identical."
)
@click.option("--processes", type=POSITIVE, help="Number of processes on this machine  [default: 1]")
@trust_options
@click.option("--no-report", is_flag=True, help="Only train; no samples, scores or figures.")
@click.option("--dry-run", is_flag=True, help="Only measure parameters, memory and time in a step; write nothing.")
@click.option("--options", "show_options", is_flag=True, help="Print the options of this experiment and stop.")
@click.pass_context
def train(ctx: click.Context, /, **options: Any) -> int | None:
    """Train a model on the data in PATH, then sample, score and draw it, in 20 % of the training time, but 5 to 60 s.

    PATH is a file or a folder, and the data set that recognises it reads it, as --dataset NAME --dataset.path PATH
    would.  Without PATH, the data are those of --dataset  [default: gaussian-mixture].

    Every field of the experiment is an option by its dotted name: --seed 1, --network siren, --network.width 256,
    --family.head noise, --training.lr 1e-3.
    """
    path, words = path_and_options(ctx.args)
    overrides = [*parse_overrides(words), *column_options(options)]
    folder, experiment = _experiment(path, options, overrides)
    if options["show_options"]:
        for key, type_, value in experiment.options():
            click.echo(f"--{key}  {type_}  [{value}]")
        return None

    from bfn_toolkit.parallel import processes as job
    from bfn_toolkit.runs.directory import check_out

    if options["dry_run"]:
        if options["resume"] or options["processes"] or "WORLD_SIZE" in os.environ:
            raise ConfigError("--dry-run measures a new training in one process; leave out --resume and --processes")
        from bfn_toolkit.training.dry_run import dry_run

        _read_line(path, experiment)
        dry_run_table(dry_run(experiment))
        return None
    named = options["out"] or options["resume"]
    if not options["resume"] and job.is_main_process():
        check_out(folder, force=options["force"], dataset=experiment.dataset)
    if (options["processes"] or 1) > 1:
        from bfn_toolkit.cli.launcher import launch

        place = [] if named else ["--out", str(folder)]
        return launch(options["processes"], ["train", *_without_processes(ctx), *place])
    if "WORLD_SIZE" in os.environ and not named:
        raise ConfigError("processes that another program starts need a common --out RUN (or --resume RUN)")
    _read_line(path, experiment)
    run = _trained(folder, experiment, options, overrides)
    best = f" (the weights of step {run.weights.step}: lowest validation loss)" if _is_earlier(run) else ""
    say(f"run: {folder}{best}")
    if not options["no_report"]:
        _report(run)
    from bfn_toolkit.runs.sampling import samples_name

    name = "sheet.png" if ".png" in run.codec.formats else samples_name(run)  # what can be looked at
    say(f"next   bfn sample {shlex.quote(str(folder))} -n 20 --out {name}")
    return None


def _read_line(path: Path | None, experiment: Experiment) -> None:
    """Says as what the path of the data is read, and what was found there."""
    from bfn_toolkit.config.recognition import description
    from bfn_toolkit.registry.registry import default_registry

    if path is not None:
        registry = default_registry()
        name = registry.name_of("dataset", type(experiment.dataset))
        say(f"read   {path}: {description(path, name, registry)}")
        for line in getattr(experiment.dataset, "summary", ()):
            say(f"       {line}")


def _is_earlier(run: Run) -> bool:
    return run.experiment.training.final == "best" and run.weights.step < max(int(m["step"]) for m in run.metrics)


def _report(run: Run) -> None:
    """Samples, scores and figures of a trained run; a failure does not undo the training."""
    from bfn_toolkit.parallel import processes as job
    from bfn_toolkit.parallel.signals import Interrupted, listening
    from bfn_toolkit.reports.report import complete_run
    from bfn_toolkit.runs.sampling import report_size

    with listening(), phases() as show:
        try:
            scores = complete_run(make_plan(run, n=report_size(run)), say, show=show)
        except Interrupted:
            raise
        except BFNError as error:
            say(f"no report: {error}; later: bfn evaluate {run.path}, bfn plot {run.path}")
            return
    if job.is_main_process():
        scores_table(scores)


def _experiment(path: Path | None, options: Mapping[str, Any], overrides: Overrides) -> tuple[Path, Experiment]:
    """The run directory and the experiment that the path of the data and the options name."""
    from bfn_toolkit.config.experiment import Experiment

    resume = options["resume"]
    if resume is None:
        if options["allow_inexact"]:
            raise ConfigError("--allow-inexact goes with --resume RUN")
        config, preset, name = options["config"], options["preset"], options["as_"]
        if path is not None:
            experiment = Experiment.from_path(path, name, preset, overrides, config=config)
        elif name is None:
            experiment = Experiment.from_toml(config, preset, overrides)
        else:
            raise ConfigError(f"--as {name} goes with a path: bfn train PATH --as {name}")
        return options["out"] or _free_folder(), experiment
    if path is not None:
        raise ConfigError(f"--resume continues a run on its own data; leave out {path}")
    if any(options[name] for name in ("as_", "config", "preset", "out", "force")):
        raise ConfigError("--resume continues a run as it is; leave out --as, --config, --preset, --out and --force")
    from bfn_toolkit.runs.run import read_experiment

    experiment = read_experiment(resume, allow_plugin_mismatch=options["allow_plugin_mismatch"])
    return resume, Experiment.from_mapping(experiment.to_mapping(), overrides=overrides)


def _trained(folder: Path, experiment: Experiment, options: Mapping[str, Any], overrides: Overrides) -> Run:
    """The trained run, from its start or from where it stopped."""
    from bfn_toolkit.training.trainer import resume, train as start

    def started(step: TrainStep) -> None:
        say(plan_line(experiment, step))

    with progress(experiment.training.steps) as show:
        if options["resume"] is None:
            return start(experiment, folder, force=options["force"], callbacks=[show], started=started)
        trust = {name: options[name] for name in ("allow_inexact", "allow_nonfinite", "allow_plugin_mismatch")}
        return resume(folder, overrides=overrides, callbacks=[show], started=started, **trust)


def _free_folder() -> Path:
    return next(path for i in itertools.count(1) if not (path := Path("runs") / f"{i:03d}").exists())


def _without_processes(ctx: click.Context) -> list[str]:
    """The arguments of the command line as they were, but for --processes."""
    arguments = list(ctx.obj[1:])
    for i, argument in enumerate(arguments):
        if argument == "--processes":
            return arguments[:i] + arguments[i + 2 :]
        if argument.startswith("--processes="):
            return arguments[:i] + arguments[i + 1 :]
    return arguments
