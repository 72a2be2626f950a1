"""The commands that draw samples: sample, evaluate and plot."""

from __future__ import annotations

import io
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import click

from bfn_toolkit.cli.display import echo, load_matplotlib, sampling, say, stdout_bytes
from bfn_toolkit.cli.options import (
    PATH,
    POSITIVE,
    RUN,
    Command,
    Integer,
    make_plan,
    number_option,
    open_run,
    place_of,
    plan_options,
)
from bfn_toolkit.cli.score_tables import scores_table
from bfn_toolkit.errors import ConfigError

if TYPE_CHECKING:
    from bfn_toolkit.runs.sampling import ResolvedPlan

_DEFAULT_STEPS = "[default: 100, or the fixed number of the family]"


@click.command(
    cls=Command,
    epilog="""\b
Examples:
  bfn sample runs/001
  bfn sample runs/001 -n 1000 --steps 100 --seed 0 --out samples.npy
  bfn sample runs/001 -n 50 --out samples.csv
  bfn sample runs/001 -n 5 --out -                  print them as text
  bfn sample runs/001 -n 64 --condition label=boot --out boots/   images, one file each; boots.png: one sheet
  bfn sample runs/001 -n 50 --condition label=3 --guidance 2
  bfn sample runs/001 --known gaps.csv --out filled.csv   empty cells are filled in
  bfn sample runs/001 -n 50 --condition species=Adelie --condition "body_mass_g>4000"   columns of a table
  bfn sample runs/001 -n 10000000 --out many.npy    the same command continues if it was interrupted
  bfn sample runs/001 -n 64 --trajectory way.npz    beliefs and outputs at each step""",
)
@click.argument("run", type=RUN)
@click.option("--steps", type=POSITIVE, help=f"Number of steps of the sampler  {_DEFAULT_STEPS}")
@click.option(
    "--out",
    type=PATH,
    help="File to write, in the units of your data: .csv or .txt, .npy, .safetensors, .png, or a folder of images, "
    "whichever the data allow; - prints text  [default: a file in RUN, named after the options]",
)
@click.option(
    "--trajectory",
    type=PATH,
    help="Also write the beliefs and the outputs of the network at each step, for the first 64 samples: .npz or "
    ".safetensors.",
)
@click.option("--force", is_flag=True, help="Replace existing files.")
@click.option(
    "--condition",
    metavar="NAME=VALUE",
    multiple=True,
    help="Value of a condition, such as label=3, label=boot or label=none; for a column of a table also with !=, "
    "<, <=, > or >=, in quotes (repeatable)  [default: as in the training rows]",
)
@click.option("--guidance", type=float, default=0.0, help="Weight of classifier-free guidance  [default: 0]")
@click.option(
    "--known",
    type=click.Path(path_type=Path),
    help="File whose gaps are filled in, in the units of your data: .csv with empty cells, .txt with _ for an unknown "
    "character, .npy or .safetensors with NaN (for classes: -1).",
)
@click.option("--draws", type=POSITIVE, help="Number of times that each row of --known is filled in  [default: 1]")
@click.option(
    "--size",
    type=POSITIVE,
    help="Number of sites (characters, points, ...) of a sample, for data of varying size  [default: as in the "
    "training rows]",
)
@number_option("1000, or the rows of --known")
@plan_options
def sample(run: Path, steps: int | None, out: Path | None, trajectory: Path | None, force: bool, **choice: Any) -> None:
    """Draw samples from the model of a RUN into a file; the same seed gives the same bytes.

    RUN is a run directory, a saved model, or a model of a zoo, such as zoo:digits.
    """
    from bfn_toolkit.data.formats import FolderFormat
    from bfn_toolkit.parallel.processes import is_main_process
    from bfn_toolkit.parallel.signals import listening
    from bfn_toolkit.runs.sample_files import format_of, text_format_of
    from bfn_toolkit.runs.sampling import draw_trajectory, stream_samples
    from bfn_toolkit.storage.arrays import check_format, write_arrays

    plan = make_plan(open_run(run, choice), steps, **choice)
    out = out or place_of(run, _file_name(plan, choice))
    to_stdout = str(out) == "-"
    is_folder = isinstance(plan.run.codec.formats.get(out.suffix), FolderFormat)
    for option, path in (("--out", None if to_stdout else out), ("--trajectory", trajectory)):
        if path is not None and path.is_dir() and not (path is out and is_folder):
            raise ConfigError(f"{path} is a directory; name a file in it: {option} {path / 'samples.npy'}")
        if path is not None and path.exists() and not force:
            raise ConfigError(f"{path} exists; choose another {option}, or replace it with --force")
    if to_stdout:
        text_format_of(plan.run.codec)
    else:
        format_of(out, plan.run.codec)
    if trajectory is not None:
        check_format(trajectory)
    to: Path | BinaryIO = out
    if to_stdout:
        to = stdout_bytes() if is_main_process() else io.BytesIO()
    with listening():
        _say_probability(plan)
        with sampling(plan.plan.n) as show:
            stream_samples(plan, to, say=say, show=show)
        if is_main_process() and not to_stdout:
            echo(str(out))
        if trajectory is not None:
            write_arrays(trajectory, draw_trajectory(plan).arrays)
            echo(str(trajectory), err=to_stdout)


def _say_probability(plan: ResolvedPlan) -> None:
    """Prints how probable the conditions on columns are under the model."""
    probability = plan.probability()
    if probability is not None:
        error = f" (standard error {probability.stderr:.1g})" if probability.stderr > 0.0 else ""
        given = ", given the known cells" if plan.plan.known else ""
        say(f"{' and '.join(plan.plan.where)}: probability {probability.value:.3g} under the model{given}{error}")


def _file_name(resolved: ResolvedPlan, choice: Mapping[str, Any]) -> str:
    """The default name of a file of samples: all options by which they differ from others of the run."""
    from bfn_toolkit.runs.sampling import samples_name

    plan = resolved.plan
    words = ["samples", resolved.sampler.replace(":", "-"), f"n{plan.n}", f"steps{plan.steps}", f"seed{plan.seed}"]
    words += [_word(condition) for condition in choice["condition"]]
    words += [f"guidance{plan.guidance:g}"] if plan.guidance else []
    words += [f"known-{plan.known.stem}"] if plan.known else []
    words += [f"size{plan.size}"] if plan.size else []
    words += [f"checkpoint-{choice['checkpoint']}"] if choice["checkpoint"] != "final" else []
    words += [choice["weights"]] if choice["weights"] != "auto" else []
    return "-".join(words) + Path(samples_name(resolved.run)).suffix


def _word(condition: str) -> str:
    """A condition as a part of a file's name."""
    for operator, word in (("!=", "-not-"), (">=", "-from-"), ("<=", "-to-"), (">", "-above-"), ("<", "-below-")):
        if operator in condition:
            condition = condition.replace(operator, word, 1)
            break
    else:
        condition = condition.replace("=", "", 1)
    return re.sub(r"[^\w.,+\[\]-]+", "_", condition)[:60]


class _Steps(click.ParamType[Any]):
    name = "N|inf"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int | str:
        if value == "inf":
            return "inf"
        steps: int = POSITIVE.convert(value, param, ctx)
        return steps


@click.command(
    cls=Command,
    epilog="""\b
Examples:
  bfn evaluate runs/001
  bfn evaluate runs/001 --steps 20 --json
  bfn evaluate runs/001 --density 1000
  bfn evaluate runs/001 --steps 20 --particles 64   a tighter bound, with 20 steps
  bfn evaluate runs/001 --split test --draws 100 -n 10000 --sample-steps 10
  bfn evaluate runs/002 --target species            for a table: predict this column, from samples and from rows""",
)
@click.argument("run", type=RUN)
@click.option(
    "--steps",
    type=_Steps(),
    help="Number of steps of the bound; inf: continuous time  [default: inf, or the fixed number of the family]",
)
@click.option(
    "--split",
    type=click.Choice(["train", "valid", "test", "all"]),
    default="test",
    show_default=True,
    help="Rows for the likelihood; samples are always compared with all data.",
)
@click.option(
    "--draws", type=POSITIVE, help="Number of Monte Carlo draws per example  [default: about a million in total]"
)
@click.option(
    "--density",
    type=Integer(min=0),
    default=0,
    metavar="N",
    help="Also compute the exact log-density of N examples (continuous data only).",
)
@click.option(
    "--particles",
    type=Integer(min=0),
    default=0,
    metavar="P",
    help="Also compute the tighter importance-weighted bound of P particles, in --steps steps, else in --sample-steps.",
)
@click.option(
    "--examples", type=POSITIVE, help="Number of examples for --particles  [default: about a million evaluations]"
)
@click.option("--sample-steps", type=POSITIVE, help=f"Number of steps of the sampler  {_DEFAULT_STEPS}")
@click.option(
    "--target", metavar="COLUMN", help="For a table: column to predict from the others  [default: chosen and printed]"
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of a table.")
@number_option("1000; for a table as many as it has rows, but at most 10,000")
@plan_options
def evaluate(
    run: Path,
    steps: int | str | None,
    split: Any,
    draws: int | None,
    density: int,
    particles: int,
    examples: int | None,
    sample_steps: int | None,
    target: str | None,
    as_json: bool,
    **choice: Any,
) -> None:
    """Evaluate the model of a RUN: likelihood bound with standard errors, and quality of its samples.

    RUN is a run directory, a saved model, or a model of a zoo, such as zoo:digits.
    """
    from bfn_toolkit.parallel.processes import is_main_process
    from bfn_toolkit.reports.report import evaluate as evaluate_run
    from bfn_toolkit.reports.tables import check_target
    from bfn_toolkit.runs.sampling import report_size
    from bfn_toolkit.storage.files import to_json

    if examples and not particles:
        raise ConfigError("--examples goes with --particles P")
    opened = open_run(run, choice)
    check_target(opened, target)
    plan = make_plan(opened, sample_steps, **{**choice, "n": choice["n"] or report_size(opened)})
    n_steps = None if isinstance(steps, str) else steps or opened.model.family.n_steps
    scores = evaluate_run(
        plan,
        n_steps=n_steps,
        split=split,
        draws=draws,
        density=density,
        particles=particles,
        examples=examples,
        target=target,
    )
    if not is_main_process():
        return
    if as_json:
        echo(to_json(scores))
    else:
        scores_table(scores, details=True)


@click.command(
    cls=Command,
    epilog="""\b
Examples:
  bfn plot runs/001 --steps 20
  bfn plot runs/001 --flows --sampler ode-2         only the flows, with this sampler
  bfn plot runs/001 --animate --steps 50            an animation: figures/flows.gif""",
)
@click.argument("run", type=RUN)
@click.option("--steps", type=POSITIVE, help=f"Number of steps of the sampler  {_DEFAULT_STEPS}")
@click.option("--out", type=PATH, help="Folder for the figures  [default: RUN/figures]")
@click.option("--flows", is_flag=True, help="Draw only the flows, with the chosen sampler.")
@click.option("--animate", is_flag=True, help="Draw only an animation from the prior to the samples: flows.gif.")
@number_option("1000")
@plan_options
def plot(run: Path, steps: int | None, out: Path | None, flows: bool, animate: bool, **choice: Any) -> None:
    """Draw the figures of a RUN: data, schedule, training, samples, flows; for a table columns, pairs and training."""
    from bfn_toolkit.reports.report import write_figures, write_film
    from bfn_toolkit.runs.directory import FIGURES
    from bfn_toolkit.storage.files import check_inside

    load_matplotlib()
    opened = open_run(run, choice)
    place = place_of(run, FIGURES)
    check_inside(place)
    plan = make_plan(opened, steps, **choice)
    folder = out or place
    if animate:
        echo(str(write_film(plan, folder)))
    if flows or not animate:
        samples, only = (None, ["flows"]) if flows else (plan.draw(), None)
        write_figures(plan, folder, samples, only, show=lambda path: echo(str(path)))
