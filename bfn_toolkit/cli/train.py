"""The command that trains."""

from __future__ import annotations

import itertools
import shlex
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import click

from bfn_toolkit.cli.completion import complete_presets, names_of_kind
from bfn_toolkit.cli.display import dry_run_table, echo, load_matplotlib, phases, say
from bfn_toolkit.cli.options import (
    PATH,
    POSITIVE,
    RUN,
    ExperimentCommand,
    column_options,
    make_plan,
    parse_overrides,
    path_and_options,
    trust_options,
)
from bfn_toolkit.cli.score_tables import scores_table
from bfn_toolkit.errors import BFNError, ConfigError
from bfn_toolkit.parallel import environment

if TYPE_CHECKING:
    from bfn_toolkit.config.experiment import Experiment
    from bfn_toolkit.runs.run import Run

Overrides: TypeAlias = Sequence[tuple[str, str]]


@click.command(
    cls=ExperimentCommand,
    context_settings={"ignore_unknown_options": True, "allow_extra_args": True},
    epilog="""\b
Examples:
  bfn train photos/                                 your data; also book.txt, table.csv, array.npz, ...
  bfn train people.csv --columns age,zip --types zip=category
  bfn train answers.npz --as classes-array          choose the data set that reads PATH; bfn plugins lists all
  bfn train                                         the defaults: points from four Gaussians
  bfn train --out runs/wide --width 256 --steps 1000
  bfn train book.txt --preset text8-small           with a preset; bfn presets lists them
  bfn train --config my.toml --seed 1               settings from a file, with one replaced
  bfn train --family.head noise --training.ema_decay 0.99
  bfn train --resume runs/wide                      continue where it stopped, bit-identically
  bfn train more.csv --init runs/001                fine-tune: start from the weights and settings of a model
  bfn train --processes 2 --training.batch_size 512 share each batch between two processes
  bfn train --options > my.toml                     every field, described, for --config my.toml""",
)
@click.option(
    "--as",
    "as_",
    metavar="NAME",
    shell_complete=names_of_kind("dataset"),
    help="Data set that reads PATH  [default: the one that recognises it]",
)
@click.option("--columns", metavar="A,B", help="Columns of PATH to learn  [default: all]")
@click.option(
    "--types",
    metavar="A=KIND",
    multiple=True,
    help="Kinds of columns of PATH: number, integer, category, date, ...; identifier or text leaves a column out.",
)
@click.option("--gaps", metavar="A,B", help="Further texts in PATH that stand for a missing value.")
@click.option("--config", type=PATH, help="TOML file of the experiment.")
@click.option("--preset", shell_complete=complete_presets, help="Preset to start from; bfn presets lists them.")
@click.option("--out", type=PATH, help="Run directory to make  [default: runs/001, runs/002, ...]")
@click.option("--force", is_flag=True, help="Replace the run that is in --out.")
@click.option("--resume", type=RUN, help="Run directory to continue.")
@click.option(
    "--allow-inexact", is_flag=True, help="With --resume: continue even if the result will not be bit-identical."
)
@click.option("--processes", type=POSITIVE, help="Number of processes on this machine  [default: 1]")
@trust_options
@click.option("--no-report", is_flag=True, help="Only train: write no samples, scores, figures or page.")
@click.option("--dry-run", is_flag=True, help="Only measure parameters, memory and time per step; write nothing.")
@click.option(
    "--options",
    "show_options",
    is_flag=True,
    help="Print this experiment as TOML for --config, with a description of each field, and stop.",
)
@click.pass_context
def train(ctx: click.Context, /, **options: Any) -> int | None:
    """Train a model on the data in PATH, then write samples, scores, figures and a page about it (report.html).

    PATH is a file or a folder, read by the data set that recognises it, like --dataset NAME --dataset.path PATH.
    Without PATH, the data are those of --dataset  [default: gaussian-mixture].

    Every field of the experiment is an option by its dotted name: --seed 1, --network siren, --network.width 256,
    --family.head noise, --training.lr 1e-3; bfn train --options describes them.  The most common ones have short names:
    --steps, --batch-size, --lr, --device and --init of the training, --width and --depth of the network.

    Samples, scores, figures and page take 20 % of the training time, but at least 5 s and at most 60 s.
    """
    path, words = path_and_options(ctx.args)
    overrides = [*parse_overrides(words), *column_options(options)]
    if options["show_options"]:
        echo(_options_toml(path, options, overrides), nl=False)
        return None
    folder, experiment = _experiment(path, options, overrides)

    from bfn_toolkit.parallel import processes as job
    from bfn_toolkit.runs.directory import check_out

    if options["dry_run"]:
        if options["resume"] or options["processes"] or environment.place()[1] > 1:
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
        arguments = ["train", *_without_processes(ctx), *place]
        return launch(options["processes"], arguments, experiment.training.timeout)
    if environment.place()[1] > 1 and not named:
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
    last = max((int(m["step"]) for m in run.metrics), default=0)
    return run.experiment.training.final == "best" and run.weights.step < last


def _report(run: Run) -> None:
    """Samples, scores, figures and a page about a trained run; a failure does not undo the training."""
    from bfn_toolkit.parallel import processes as job
    from bfn_toolkit.parallel.signals import Interrupted, listening

    folder = shlex.quote(str(run.path))
    later = f"bfn report {folder}"
    try:
        with listening(at_once=job.world_size() == 1):
            from bfn_toolkit.reports.report import complete_run, described
            from bfn_toolkit.runs.sampling import report_size

            try:
                with suppress(BFNError):  # then only the figures are missing
                    load_matplotlib()
                with phases() as show:
                    scores = complete_run(make_plan(run, n=report_size(run)), say, show=show)
                if job.is_main_process():
                    scores_table(scores)
            except (Interrupted, BrokenPipeError):
                raise
            except (Exception, SystemExit) as error:  # of a plugin, which may do anything
                say(f"no report: {described(error)}; later: {later}")
    except Interrupted as stop:
        raise Interrupted(stop.number, f"the model is complete, its report is not: {later}") from None


def _experiment(path: Path | None, options: Mapping[str, Any], overrides: Overrides) -> tuple[Path, Experiment]:
    """The run directory and the experiment that the path of the data and the options name."""
    from bfn_toolkit.config.experiment import Experiment

    _check_together(path, options)
    resume = options["resume"]
    if resume is None:
        config, preset = options["config"], options["preset"]
        if path is not None:
            experiment = Experiment.from_path(path, options["as_"], preset, overrides, config=config)
        else:
            experiment = Experiment.from_toml(config, preset, overrides)
        return options["out"] or _free_folder(), experiment
    from bfn_toolkit.runs.run import read_experiment

    experiment = read_experiment(resume, allow_plugin_mismatch=options["allow_plugin_mismatch"])
    return resume, Experiment.from_mapping(experiment.to_mapping(), overrides=overrides)


def _options_toml(path: Path | None, options: Mapping[str, Any], overrides: Overrides) -> str:
    """The experiment that the options name, as TOML with a description of each field; its data may be missing."""
    from bfn_toolkit.config.experiment import Experiment
    from bfn_toolkit.config.toml_files import read_toml

    _check_together(path, options)
    if options["resume"]:
        from bfn_toolkit.runs.records import EXPERIMENT
        from bfn_toolkit.runs.run import read_experiment

        read_experiment(options["resume"], allow_plugin_mismatch=options["allow_plugin_mismatch"])
        mapping, _ = read_toml(options["resume"] / EXPERIMENT, EXPERIMENT)
        return Experiment.options_toml(mapping=mapping, overrides=overrides)
    return Experiment.options_toml(path, options["as_"], options["preset"], overrides, config=options["config"])


def _check_together(path: Path | None, options: Mapping[str, Any]) -> None:
    """Checks that the options go together.

    Raises:
        ConfigError: If one lacks or excludes another.
    """
    if options["resume"] is None:
        if options["allow_inexact"]:
            raise ConfigError("--allow-inexact goes with --resume RUN")
        if options["as_"] is not None and path is None:
            raise ConfigError(f"--as {options['as_']} goes with a path: bfn train PATH --as {options['as_']}")
    elif path is not None:
        raise ConfigError(f"--resume continues a run on its own data; leave out {path}")
    elif any(options[name] for name in ("as_", "config", "preset", "out", "force")):
        raise ConfigError("--resume continues a run as it is; leave out --as, --config, --preset, --out and --force")


def _trained(folder: Path, experiment: Experiment, options: Mapping[str, Any], overrides: Overrides) -> Run:
    """The trained run, from its start or from where it stopped."""
    from bfn_toolkit.training.trainer import resume, train as start

    if options["resume"] is None:
        return start(experiment, folder, force=options["force"], progress=True)
    trust = {name: options[name] for name in ("allow_inexact", "allow_nonfinite", "allow_plugin_mismatch")}
    return resume(folder, overrides=overrides, progress=True, **trust)


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
