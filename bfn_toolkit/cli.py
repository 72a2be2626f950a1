"""The ``bfn`` command.  Torch and the plugins are imported inside the commands that need them."""

from __future__ import annotations

import io
import itertools
import json
import os
import shlex
import sys
import tempfile
import traceback
import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext, redirect_stdout
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from bfn_toolkit.arguments import PATH, Group, Integer
from bfn_toolkit.errors import BFNError, BFNWarning, ConfigError, ResourceError
from bfn_toolkit.interrupts import Interrupted
from bfn_toolkit.launch import lost_contact, record
from bfn_toolkit.terminal import (
    checkpoints_table,
    complain,
    is_follower,
    plugins_table,
    progress,
    sampling,
    say,
    scores_table,
    verdicts_table,
)

if TYPE_CHECKING:
    from bfn_toolkit.report import SamplePlan
    from bfn_toolkit.runs import Run

BUG = 70  # exit status of a fault of ours

_POSITIVE = Integer(min=1)
_STEPS = "[default: 100, or what the family is tied to]"
_SEED = Integer(min=0, max=2**63 - 1)


@click.group(
    cls=Group,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="Start with:  bfn train --out runs/first",
    no_args_is_help=True,
)
@click.version_option(version("bfn-toolkit"), message="%(prog)s %(version)s")
def bfn() -> None:
    """Train, sample and judge Bayesian flow networks made of plugins."""


def parse_overrides(arguments: Sequence[str]) -> list[tuple[str, str]]:
    """Dotted keys and values from ``--network.width 256`` or ``--network.width=256``.

    Raises:
        ConfigError: If a value is missing or an argument is no option.
    """
    overrides, rest = [], list(arguments)
    while rest:
        token = rest.pop(0)
        if not token.startswith("--") or token == "--":
            raise ConfigError(f"unexpected argument '{token}'; options are written --network.width 256")
        key, equals, value = token[2:].partition("=")
        if not equals:
            if not rest or rest[0].startswith("--"):
                raise ConfigError(f"--{key} needs a value")
            value = rest.pop(0)
        overrides.append((key, value))
    return overrides


def _free_folder() -> Path:
    return next(path for i in itertools.count(1) if not (path := Path("runs") / f"{i:03d}").exists())


def _trust_options(command: Callable[..., Any]) -> Callable[..., Any]:
    for option in (
        click.option("--allow-nonfinite", is_flag=True, help="Take weights that are NaN or infinite."),
        click.option("--allow-plugin-mismatch", is_flag=True, help="Take plugins of another major version."),
    ):
        command = option(command)
    return command


@bfn.command(
    context_settings={"ignore_unknown_options": True, "allow_extra_args": True},
    epilog="""\b
Examples:
  bfn train                                         four Gaussians, a Siren, Gaussian updates
  bfn train --out runs/wide --network.width 256 --training.steps 1000
  bfn train --preset post                           the recipe of the blog post
  bfn train --config my.toml --seed 1               a file, with one value replaced
  bfn train --family.head noise --training.ema_decay 0.99
  bfn train --resume runs/wide                      go on where it stopped, to the same bits
  bfn train --processes 2 --training.batch_size 512 share each batch among two processes
  bfn train --options                               every option, its type and its default""",
)
@click.option("--config", type=PATH, help="Experiment in a TOML file.")
@click.option("--preset", help="Named experiment beneath the file: default, post.")
@click.option("--out", type=PATH, help="Run directory to make  [default: runs/001, runs/002, ...]")
@click.option("--force", is_flag=True, help="Replace the run that is in --out.")
@click.option("--resume", type=PATH, help="Run directory to go on with.")
@click.option("--allow-inexact", is_flag=True, help="With --resume: even where it cannot be to the same bits.")
@click.option("--processes", type=_POSITIVE, help="Start so many processes on this machine  [default: 1]")
@_trust_options
@click.option("--no-report", is_flag=True, help="Only train: no samples, scores and figures.")
@click.option("--options", "show_options", is_flag=True, help="Print the options of this experiment and stop.")
@click.pass_context
def train(
    ctx: click.Context,
    config: Path | None,
    preset: str | None,
    out: Path | None,
    force: bool,
    resume: Path | None,
    allow_inexact: bool,
    processes: int | None,
    allow_nonfinite: bool,
    allow_plugin_mismatch: bool,
    no_report: bool,
    show_options: bool,
) -> int | None:
    """Train a model, then sample, score and draw it.

    Every field of the experiment is an option by its dotted name: --seed 1, --network siren, --network.width 256,
    --family.head noise, --training.lr 1e-3.
    """
    overrides = parse_overrides(ctx.args)
    from bfn_toolkit.experiment import Experiment, load_experiment

    if resume is not None and (config or preset or out or force):
        raise ConfigError("--resume goes on with a run as it is; leave out --config, --preset, --out and --force")
    if resume is None and allow_inexact:
        raise ConfigError("--allow-inexact goes with --resume RUN")
    if resume is not None:
        from bfn_toolkit.runs import read_experiment

        folder, experiment = resume, read_experiment(resume, allow_plugin_mismatch=allow_plugin_mismatch)
        experiment = Experiment.from_mapping(experiment.to_mapping(), overrides=overrides)
    else:
        folder, experiment = out or _free_folder(), load_experiment(config, preset, overrides)
    if show_options:
        for key, type_, value in experiment.options():
            click.echo(f"--{key}  {type_}  [{value}]")
        return None

    from bfn_toolkit import processes as job
    from bfn_toolkit.runs import check_out
    from bfn_toolkit.trainer import resume as resume_training
    from bfn_toolkit.trainer import train as run_training

    if resume is None and job.first():
        check_out(folder, force=force, dataset=experiment.dataset)
    if processes is not None and processes > 1:
        from bfn_toolkit.launch import launch

        place = [] if out or resume else ["--out", str(folder)]
        return launch(processes, ["train", *_without_processes(ctx), *place])
    if "WORLD_SIZE" in os.environ and not (out or resume):
        raise ConfigError("processes that another program starts need a common --out RUN (or --resume RUN)")
    with progress(experiment.training.steps) as show:
        if resume is None:
            run = run_training(experiment, folder, force=force, callbacks=[show])
        else:
            run = resume_training(
                folder,
                overrides=overrides,
                allow_inexact=allow_inexact,
                allow_nonfinite=allow_nonfinite,
                allow_plugin_mismatch=allow_plugin_mismatch,
                callbacks=[show],
            )
    say(f"run: {folder}")
    if not no_report:
        from bfn_toolkit.interrupts import listening
        from bfn_toolkit.report import complete_run

        with listening():
            scores = complete_run(run, _plan(run), say)
        if job.first():
            scores_table(scores)
    return None


def _without_processes(ctx: click.Context) -> list[str]:
    """The arguments of the command line as they were, but for --processes."""
    arguments = list(ctx.obj[1:])
    for i, argument in enumerate(arguments):
        if argument == "--processes":
            return arguments[:i] + arguments[i + 2 :]
        if argument.startswith("--processes="):
            return arguments[:i] + arguments[i + 1 :]
    return arguments


def parse_conditions(arguments: Sequence[str]) -> dict[str, float | None]:
    """Values by name from ``label=3``; None from ``label=none``.

    Raises:
        ConfigError: If an argument has another form.
    """
    conditions: dict[str, float | None] = {}
    for argument in arguments:
        name, _, value = argument.partition("=")
        try:
            conditions[name] = None if value == "none" else float(value)
        except ValueError:
            raise ConfigError(
                f"--condition takes NAME=NUMBER or NAME=none, such as label=3, got '{argument}'"
            ) from None
    return conditions


def _plan_options(command: Callable[..., None]) -> Callable[..., None]:
    for option in (
        click.option("--seed", type=_SEED, help="Seed of the draws  [default: that of the run]"),
        click.option("--sampler", help="Sampler, by name  [default: what suits family and steps]"),
        click.option("--verbose", is_flag=True, help="Say which sampler is used, and why."),
        click.option("-n", "n", type=_POSITIVE, default=1000, show_default=True, help="Number of samples."),
        click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda, cuda:N or mps."),
        click.option(
            "--checkpoint",
            default="final",
            show_default=True,
            metavar="final|last|best|STEP",
            help="Which state of the training.",
        ),
        click.option(
            "--weights",
            type=click.Choice(["auto", "average", "raw"]),
            default="auto",
            show_default=True,
            help="The moving average of the weights, or the weights themselves; auto: the average where there is one.",
        ),
        _trust_options,
    ):
        command = option(command)
    return command


def _open(path: Path, choice: Mapping[str, Any]) -> Run:
    """The run of a command, on its device; under torchrun, among the processes of the job."""
    from bfn_toolkit.devices import make_accelerator
    from bfn_toolkit.runs import Run, is_pretrained

    which = {name: choice[name] for name in ("checkpoint", "weights")}
    trust = {name: choice[name] for name in ("allow_nonfinite", "allow_plugin_mismatch")}
    if is_pretrained(path):
        if which != {"checkpoint": "final", "weights": "auto"}:
            raise ConfigError(f"{path} is a saved model, which has one state; leave out --checkpoint and --weights")
        run = Run.of_pretrained(path, **trust)
    else:
        run = Run.open(path, **which, **trust)
    run.model.to(make_accelerator(device=choice["device"]).device)
    say(f"weights: {run.weights}")
    return run


def _plan(
    run: Run,
    steps: int | None = None,
    *,
    n: int = 1000,
    sampler: str | None = None,
    seed: int | None = None,
    verbose: bool = False,
    condition: Sequence[str] = (),
    guidance: float = 0.0,
    known: Path | None = None,
    **_: Any,
) -> SamplePlan:
    """The samples that the options of a command ask for."""
    from bfn_toolkit.report import STEPS, SamplePlan

    steps = steps or run.model.family.n_steps or STEPS
    plan = SamplePlan(
        n=n,
        steps=steps,
        sampler=sampler,
        seed=run.experiment.seed if seed is None else seed,
        condition=parse_conditions(condition),
        guidance=guidance,
        known=known,
    )
    if verbose:
        name, chosen, reason = plan.choose(run.model.family)
        say(f"sampler: {name}, {reason}; {chosen.evaluations(steps)} evaluations of the network")
        say(f"  {chosen}")
    return plan


@bfn.command(
    epilog="""\b
Examples:
  bfn sample runs/001
  bfn sample runs/001 -n 1000 --steps 100 --seed 0 --out samples.npy
  bfn sample runs/001 -n 50 --out samples.csv
  bfn sample runs/001 -n 50 --condition label=3 --guidance 2
  bfn sample runs/001 -n 10000000 --out many.npy    after a kill, the same command goes on
  bfn sample runs/001 -n 64 --trajectory way.npz    beliefs and outputs at each evaluation""",
)
@click.argument("run", type=PATH)
@click.option("--steps", type=_POSITIVE, help=f"Number of messages  {_STEPS}")
@click.option(
    "--out",
    type=PATH,
    help="File to write: .npy, .safetensors or .csv  [default: one named after the options, in RUN]",
)
@click.option(
    "--trajectory",
    type=PATH,
    help="File for the beliefs and outputs on the way to the first 64 samples: .npz or .safetensors.",
)
@click.option("--force", is_flag=True, help="Replace the files.")
@click.option(
    "--condition",
    metavar="NAME=VALUE",
    multiple=True,
    help="Value of a condition, such as label=3, or none; repeat it for others  [default: as in the training rows]",
)
@click.option("--guidance", type=float, default=0.0, help="Weight of guidance by the conditions  [default: 0]")
@click.option(
    "--known",
    type=click.Path(path_type=Path),
    help="File of known values, .npy or .safetensors; NaN (or -1, for classes) where a value is not known.",
)
@_plan_options
def sample(run: Path, steps: int | None, out: Path | None, trajectory: Path | None, force: bool, **choice: Any) -> None:
    """Draw samples of a RUN into a file; the same seed gives the same bytes."""
    from bfn_toolkit.interrupts import listening
    from bfn_toolkit.processes import first
    from bfn_toolkit.report import draw_trajectory, samples_name, stream_samples
    from bfn_toolkit.sample_files import format_of
    from bfn_toolkit.trajectories import check_format, write_arrays

    opened = _open(run, choice)
    plan = _plan(opened, steps, **choice)
    suffix = Path(samples_name(opened)).suffix
    name, _, _ = plan.choose(opened.model.family)
    told = [f"{key}{value}" for key, _, value in (pair.partition("=") for pair in choice["condition"])]
    words = ["samples", name.replace(":", "-"), f"n{plan.n}", f"steps{plan.steps}", f"seed{plan.seed}", *told]
    words += [f"guidance{plan.guidance:g}"] if plan.guidance else []
    words += [f"known-{plan.known.stem}"] if plan.known else []
    out = out or run / f"{'-'.join(words)}{suffix}"
    for option, path in (("--out", out), ("--trajectory", trajectory)):
        if path is not None and path.is_dir():
            raise ConfigError(f"{path} is a directory; name a file in it: {option} {path / 'samples.npy'}")
        if path is not None and path.exists() and not force:
            raise ConfigError(f"{path} exists; choose another {option}, or replace it with --force")
    format_of(out)
    if trajectory is not None:
        check_format(trajectory)
    with listening():
        with sampling(plan.n) as show:
            stream_samples(opened, plan, out, say=say, show=show)
        if first():
            click.echo(str(out))
        if trajectory is not None:
            write_arrays(trajectory, draw_trajectory(opened, plan).arrays)
            click.echo(str(trajectory))


class _Steps(click.ParamType[Any]):
    name = "N|inf"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int | str:
        if value == "inf":
            return "inf"
        steps: int = _POSITIVE.convert(value, param, ctx)
        return steps


@bfn.command(
    epilog="""\b
Examples:
  bfn evaluate runs/001
  bfn evaluate runs/001 --steps 20 --json
  bfn evaluate runs/001 --density 1000
  bfn evaluate runs/001 --split test --draws 100 -n 10000 --sample-steps 10""",
)
@click.argument("run", type=PATH)
@click.option("--steps", type=_Steps(), help="Messages of the bound  [default: inf, or what the family is tied to]")
@click.option(
    "--split",
    type=click.Choice(["train", "valid", "test", "all"]),
    default="test",
    show_default=True,
    help="Whose likelihood; samples are always held against all data.",
)
@click.option("--draws", type=_POSITIVE, help="Draws for each example  [default: about a million in all]")
@click.option(
    "--density",
    type=Integer(min=0),
    default=0,
    help="Exact log-density of so many examples, of continuous data.",
)
@click.option("--sample-steps", type=_POSITIVE, help=f"Number of messages of a sample  {_STEPS}")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of a table.")
@_plan_options
def evaluate(
    run: Path,
    steps: int | str | None,
    split: Any,
    draws: int | None,
    density: int,
    sample_steps: int | None,
    as_json: bool,
    **choice: Any,
) -> None:
    """Judge a RUN: likelihood bound with standard errors, and quality of its samples."""
    from bfn_toolkit.processes import first
    from bfn_toolkit.report import evaluate as evaluate_run
    from bfn_toolkit.storage import to_json

    opened = _open(run, choice)
    plan = _plan(opened, sample_steps, **choice)
    n_steps = None if isinstance(steps, str) else steps or opened.model.family.n_steps
    scores = evaluate_run(opened, plan, n_steps=n_steps, split=split, draws=draws, density=density)
    if not first():
        return
    if as_json:
        click.echo(to_json(scores))
    else:
        scores_table(scores)


@bfn.command(
    epilog="""\b
Examples:
  bfn plot runs/001 --steps 20
  bfn plot runs/001 --flows --sampler ode-2         the flows alone, by a sampler
  bfn plot runs/001 --animate --steps 50            a film: figures/flows.gif""",
)
@click.argument("run", type=PATH)
@click.option("--steps", type=_POSITIVE, help=f"Number of messages of a sample  {_STEPS}")
@click.option("--out", type=PATH, help="Folder for the figures  [default: RUN/figures]")
@click.option("--flows", is_flag=True, help="Draw the flows alone, by the sampler that is used.")
@click.option("--animate", is_flag=True, help="Draw a film alone, from the prior to the samples: flows.gif.")
@_plan_options
def plot(run: Path, steps: int | None, out: Path | None, flows: bool, animate: bool, **choice: Any) -> None:
    """Draw the figures of a RUN: data, smoke test, schedule, training, samples and flows."""
    from bfn_toolkit.report import draw_samples, write_figures, write_film
    from bfn_toolkit.runs import FIGURES

    opened = _open(run, choice)
    plan = _plan(opened, steps, **choice)
    folder = out or run / FIGURES
    paths = [write_film(opened, folder, plan)] if animate else []
    if flows:
        paths += write_figures(opened, folder, None, plan, only=["flows"])
    elif not animate:
        paths += write_figures(opened, folder, draw_samples(opened, plan), plan)
    for path in paths:
        click.echo(str(path))


@bfn.command(epilog="Example:  bfn plugins --json")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of tables.")
@click.option("--verbose", is_flag=True, help="Show the tracebacks of what failed.")
def plugins(as_json: bool, verbose: bool) -> None:
    """List the installed plugins, and what failed to load and why."""
    from bfn_toolkit.registry import default_registry

    registry = default_registry()
    found = [
        {
            "kind": item.kind,
            "name": item.name,
            "module": item.module,
            "distribution": item.distribution,
            "version": item.version,
        }
        for item in registry.entries()
    ]
    failed = [
        {
            "entry_point": failure.entry_point,
            "distribution": failure.distribution,
            "version": failure.version,
            "reason": failure.reason,
            **({"traceback": failure.traceback} if verbose else {}),
        }
        for failure in registry.failures
    ]
    if as_json:
        click.echo(json.dumps({"plugins": found, "failures": failed, "problems": list(registry.problems)}, indent=2))
        return

    plugins_table(found)
    for failure in failed:
        click.echo(f"failed: {failure['entry_point']} of {failure['distribution']}: {failure['reason']}")
        if verbose:
            click.echo(failure["traceback"])
    for problem in registry.problems:
        click.echo(f"problem: {problem}")


def _expectations(texts: Sequence[str]) -> dict[str, str]:
    expected = {}
    for text in texts:
        law, equals, reason = text.partition("=")
        if not equals or not reason.strip():
            raise ConfigError(f"--expect {text}: give the reason: --expect '{law}=why it is known to be broken'")
        expected[law.strip()] = reason.strip()
    return expected


@bfn.command(
    epilog="""\b
Examples:
  bfn check gaussian
  bfn check my_plugin.py:MyFamily --law bayes-rule --examples 500
  bfn check my_package.my_module:instance --expect "accuracies-add=they do not, by design\"""",
)
@click.argument("subjects", nargs=-1, required=True, metavar="SUBJECT...")
@click.option("--law", "laws", multiple=True, help="Try this law only; may be given again.")
@click.option("--examples", type=_POSITIVE, help="Examples of each law that searches for one.")
@click.option("--expect", multiple=True, metavar="LAW=REASON", help="A law that is known to be broken, and why.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of tables.")
def check(
    subjects: tuple[str, ...], laws: tuple[str, ...], examples: int | None, expect: tuple[str, ...], as_json: bool
) -> int:
    """Test SUBJECTs by the laws of their kind; exit status 1 if one does not hold.

    A subject is a name that bfn plugins lists, module:attribute or path/file.py:attribute, where the attribute is an
    instance, or a class or factory that needs no arguments.
    """
    expected = _expectations(expect)
    # Hypothesis keeps what it learns of a code base in the folder it runs in, if it is not told another one.
    os.environ.setdefault("HYPOTHESIS_STORAGE_DIRECTORY", str(Path(tempfile.gettempdir()) / "bfn-check-hypothesis"))
    from bfn_toolkit.registry import default_registry
    from bfn_toolkit.testing.kit import verdicts
    from bfn_toolkit.testing.subjects import find_subjects

    found = [(name, subject) for name in subjects for subject in find_subjects(name, default_registry())]
    report, passed = [], True
    for name, subject in found:
        lines = list(verdicts(subject, laws=laws, examples=examples, expected=expected))
        passed = passed and all(line.passed for line in lines)
        report.append(
            {
                "subject": name,
                "instance": repr(subject),
                "laws": [
                    {
                        "law": v.law.name,
                        "verdict": v.verdict,
                        "figure": v.figure,
                        "fault": v.fault and str(v.fault),
                        "reason": v.reason,
                    }
                    for v in lines
                ],
            }
        )
        if not as_json:
            verdicts_table(repr(subject), lines)
    if as_json:
        click.echo(json.dumps({"passed": passed, "subjects": report}, indent=2))
    return 0 if passed else 1


@bfn.group(epilog="Example:  bfn checkpoint verify runs/001")
def checkpoint() -> None:
    """Look after the checkpoints of a run."""


def _checkpoints_of(run: Path, as_json: bool, *, verify: bool) -> bool:
    from bfn_toolkit.checkpoint import DESCRIPTION, list_checkpoints, verify_model
    from bfn_toolkit.errors import RunDirectoryError
    from bfn_toolkit.runs import EXPERIMENT

    if not (run / EXPERIMENT).is_file():
        raise RunDirectoryError(f"{run} is not a run directory: it holds no {EXPERIMENT}")
    listed = list_checkpoints(run, verify=verify)
    rows = [
        {"name": one.path.name, "step": one.step, "valid_loss": one.valid_loss, "bytes": one.size, "fault": one.fault}
        for one in listed
    ]
    if verify and (run / DESCRIPTION).exists():
        rows.append(verify_model(run))
    if as_json:
        click.echo(json.dumps({"run": str(run), "checkpoints": rows}, indent=2))
    else:
        checkpoints_table(rows, verified=verify)
    return all(row["fault"] is None for row in rows)


@checkpoint.command("list", epilog="Example:  bfn checkpoint list runs/001")
@click.argument("run", type=PATH)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of a table.")
def list_command(run: Path, as_json: bool) -> None:
    """List the checkpoints of a RUN: step, validation loss, size."""
    _checkpoints_of(run, as_json, verify=False)


@checkpoint.command(epilog="Example:  bfn checkpoint verify runs/001")
@click.argument("run", type=PATH)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of a table.")
def verify(run: Path, as_json: bool) -> int:
    """Read every byte of the checkpoints and the model of a RUN; exit status 4 if one is damaged."""
    return 0 if _checkpoints_of(run, as_json, verify=True) else 4


@bfn.command(
    epilog="""\b
Examples:
  bfn new-plugin ring --kind family
  bfn new-plugin my-net --kind network --out ~/projects/my-net""",
)
@click.argument("name")
@click.option(
    "--kind",
    type=click.Choice(["network", "family", "dataset", "sampler"]),
    required=True,
    help="What the plugin adds.",
)
@click.option("--out", type=PATH, help="Folder to make  [default: bfn-NAME]")
@click.option("--force", is_flag=True, help="Write into a folder that holds something; other files are left alone.")
def new_plugin(name: str, kind: str, out: Path | None, force: bool) -> None:
    """Write a package with a NAMEd part that works, its tests and its entry point, to start from."""
    from bfn_toolkit.registry import default_registry
    from bfn_toolkit.scaffold import new_plugin as write

    folder = out or Path(f"bfn-{name}")
    for path in write(name, kind, folder, default_registry(), force=force):
        click.echo(str(path))
    place = shlex.quote(str(folder))
    use = "bfn sample RUN --sampler" if kind == "sampler" else f"bfn train --{kind}"
    say(f"next:\n  pip install -e {place}\n  bfn check {name}\n  pytest {place}\n  {use} {name}")


@bfn.command(
    epilog="""\b
Examples:
  bfn export runs/first --out my-model
  bfn export runs/first --out my-model --license mit --weights raw""",
)
@click.argument("run", type=PATH)
@click.option("--out", type=PATH, required=True, help="Directory to make.")
@click.option("--license", "license_", help="Licence, as the Hub names it: mit, apache-2.0, ...")
@click.option("--force", is_flag=True, help="Replace the model that is in --out.")
@click.option("--checkpoint", default="final", show_default=True, metavar="final|last|best|STEP", help="Which state.")
@click.option("--weights", type=click.Choice(["auto", "average", "raw"]), default="auto", show_default=True)
@_trust_options
def export(run: Path, out: Path, license_: str | None, force: bool, **choice: Any) -> None:
    """Write the model of a RUN as people share models: config.json, model.safetensors, README.md."""
    from bfn_toolkit.runs import Run

    Run.open(run, **choice).save_pretrained(out, card={"license": license_} if license_ else None, force=force)
    click.echo(str(out))


def _file_and_options(words: Sequence[str]) -> tuple[Path, list[str]]:
    """The one word that is neither an option of the experiment nor the value of one, and the other words."""
    i = 0
    while i < len(words) and words[i].startswith("--"):
        i += 1 if "=" in words[i] else 2
    if i >= len(words):
        raise ConfigError("name the file to import: bfn import-checkpoint FILE --out RUN")
    return Path(words[i]), [*words[:i], *words[i + 1 :]]


@bfn.command(
    context_settings={"ignore_unknown_options": True},
    epilog="""\b
Examples:
  bfn import-checkpoint model.pt --out runs/theirs --config theirs.toml
  bfn import-checkpoint model.pt --out runs/theirs --network.width 256 --key ema --cast""",
)
@click.argument("words", nargs=-1, type=click.UNPROCESSED, metavar="FILE")
@click.option("--out", type=PATH, required=True, help="Run directory to make.")
@click.option("--force", is_flag=True, help="Replace the run that is in --out.")
@click.option("--config", type=PATH, help="Experiment in a TOML file.")
@click.option("--preset", help="Named experiment beneath the file.")
@click.option("--key", help="Which weights of the file to take: model, ema, ...")
@click.option("--cast", is_flag=True, help="Cast weights of another floating-point type.")
@click.option("--drop", multiple=True, metavar="PATTERN", help="Leave out tensors of such names; may be given again.")
@click.option("--max-size", type=_POSITIVE, metavar="BYTES", help="Largest file  [default: 16 times the network]")
def import_checkpoint(
    words: tuple[str, ...], out: Path, config: Path | None, preset: str | None, **choice: Any
) -> None:
    """Take the weights of a FILE of another program (.pt, .safetensors) over into a run directory.

    Fields of the experiment are options, as for bfn train: --network.width 256.  Nothing in the file is executed.
    """
    path, options = _file_and_options(words)
    from bfn_toolkit.experiment import load_experiment

    experiment = load_experiment(config, preset, parse_overrides(options))
    from bfn_toolkit.foreign import import_checkpoint as import_file

    found = import_file(path, out, experiment, **choice)
    say(f"kept: {len(found.kept)} tensors under '{found.key}'")
    for what, names in (("cast", found.cast), ("dropped", found.dropped), ("fits too: --key", found.others)):
        if names:
            more = f" and {len(names) - 10} more" if len(names) > 10 else ""
            say(f"{what}: {', '.join(names[:10])}{more}")
    click.echo(str(out))


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line and returns its exit status; the meaning of each is in :mod:`bfn_toolkit.errors`."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper) and "utf" not in stream.encoding.lower():
            stream.reconfigure(errors="backslashreplace")  # a table is worth more than its plus-minus signs
    with warnings.catch_warnings():
        warnings.simplefilter("always", BFNWarning)
        warnings.showwarning = _show_warning
        try:
            return _run(list(sys.argv[1:] if arguments is None else arguments))
        except (KeyboardInterrupt, click.Abort):
            say("interrupted")
            return 130
        except BrokenPipeError:
            # The reader has what it wanted; Python would complain once more when it flushes at exit.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return 141


def _run(arguments: list[str]) -> int:
    debug = "--debug" in arguments
    arguments = [argument for argument in arguments if argument != "--debug"]
    try:
        if "_BFN_COMPLETE" in os.environ:  # completion by the shell, which ends the process
            bfn.main(arguments, prog_name="bfn")
        # bfn.main would make status 1 of a reader that has what it wanted.
        with (
            redirect_stdout(None) if is_follower() else nullcontext(),
            bfn.make_context("bfn", arguments, obj=tuple(arguments)) as context,
        ):
            status = bfn.invoke(context)
        _leave_job()
        return status if isinstance(status, int) else 0
    except click.exceptions.Exit as request:
        return request.exit_code
    except (click.Abort, BrokenPipeError):
        raise
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except Interrupted as stop:
        say(str(stop))
        return stop.exit_status
    except BFNError as error:
        record(error)
        if debug:
            traceback.print_exc()
        complain(str(error))
        return error.exit_status
    except Exception as error:
        if (lost := lost_contact(error)) is not None:
            record(ResourceError(lost))
            complain(lost)
            return ResourceError.exit_status
        record(error)
        complain("This is a bug of bfn-toolkit: please report it with these lines.", traceback.format_exc())
        return BUG


def _leave_job() -> None:
    """Ends a job of several processes together; a job of one has nothing to end, and need not import torch."""
    if "WORLD_SIZE" in os.environ and "torch" in sys.modules:
        from bfn_toolkit.processes import leave

        leave()


def _show_warning(message: Warning | str, category: type[Warning], *place: Any, **_: Any) -> None:
    if issubclass(category, BFNWarning):
        say(f"warning: {message}")
    else:
        say(warnings.formatwarning(message, category, place[0], place[1]).rstrip())
