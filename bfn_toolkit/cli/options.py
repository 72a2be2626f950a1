"""Options of the commands: their types, those of the experiment, and those of the commands about a run."""

from __future__ import annotations

import errno
import json
import os
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from bfn_toolkit.cli.display import say
from bfn_toolkit.config.layers import OptionText
from bfn_toolkit.errors import ConfigError

if TYPE_CHECKING:
    from bfn_toolkit.runs.run import Run
    from bfn_toolkit.runs.sampling import ResolvedPlan


class Integer(click.IntRange):
    """Integers in a range, in the digits 0 to 9; ``int`` would also accept 1_0 and digits of other scripts."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Returns the integer."""
        if isinstance(value, str) and not re.fullmatch(r"[+-]?[0-9]{1,30}", value):
            self.fail(f"{value!r} is not a valid integer.", param, ctx)
        return super().convert(value, param, ctx)


class PathType(click.ParamType[Any]):
    """Paths that can exist: not empty (as from an unset variable), without NUL, and not too long."""

    name = "path"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Path:
        """Returns the path."""
        if not str(value):
            self.fail("expected a path, got nothing.", param, ctx)
        try:
            os.lstat(value)
        except ValueError:
            self.fail(f"expected a path, got {str(value)[:40]!r} with a NUL character.", param, ctx)
        except OSError as error:
            if error.errno == errno.ENAMETOOLONG:
                self.fail(f"{str(value)[:40]!r}... is too long for a path ({len(str(value))} characters).", param, ctx)
        return Path(value)


class Command(click.Command):
    """A command that refuses repeated options, because only one of the values would count."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Parses arguments as click does.

        Raises:
            UsageError: If an option is repeated.
        """
        _, _, order = self.make_parser(ctx).parse_args(list(args))
        for param in order:
            if isinstance(param, click.Option) and order.count(param) > 1 and not (param.multiple or param.is_flag):
                raise click.UsageError(f"{param.opts[-1]}: given twice", ctx)
        return super().parse_args(ctx, args)


class Group(click.Group):
    """A group of :class:`Command` objects."""

    command_class = Command


PATH, POSITIVE, SEED = PathType(), Integer(min=1), Integer(min=0, max=2**63 - 1)


def parse_overrides(arguments: Sequence[str]) -> list[tuple[str, str]]:
    """Returns dotted keys and values from ``--network.width 256`` or ``--network.width=256``.

    Raises:
        ConfigError: If a value is missing or an argument is not an option.
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


def column_options(options: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Dotted keys and values of --columns A,B, --types A=KIND,B=KIND and --gaps A,B, which are options of the data set.

    Raises:
        ConfigError: If a kind has no column.
    """
    lists = {name: options[name].split(",") for name in ("columns", "gaps") if options[name] is not None}
    found = [(f"dataset.{name}", f"[{', '.join(map(_quoted, texts))}]") for name, texts in lists.items()]
    kinds: dict[str, str] = {}
    for text in options["types"]:
        for pair in re.split(r",(?=[^,=]+=)", text):
            column, equals, kind = pair.rpartition("=")
            if not equals:
                raise ConfigError(f"--types {text}: expected a column and its kind, such as zip=category")
            kinds[column.strip()] = kind.strip()
    if kinds:
        pairs = ", ".join(f"{_quoted(column)} = {_quoted(kind)}" for column, kind in kinds.items())
        found.append(("dataset.types", f"{{{pairs}}}"))
    return found


def _quoted(text: str) -> str:
    """A text as a string of TOML."""
    return json.dumps(text, ensure_ascii=False)


def path_and_options(words: Sequence[str]) -> tuple[Path | None, list[str]]:
    """Splits words into the path among them, None if there is none, and the options of the experiment."""
    i = 0
    while i < len(words) and words[i].startswith("--"):
        i += 1 if "=" in words[i] else 2
    if i >= len(words):
        return None, list(words)
    return PATH.convert(words[i], None, None), [*words[:i], *words[i + 1 :]]


def trust_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Adds the options that relax the checks of a run."""
    for option in (
        click.option("--allow-nonfinite", is_flag=True, help="Accept weights that are NaN or infinite."),
        click.option("--allow-plugin-mismatch", is_flag=True, help="Accept plugins of another major version."),
    ):
        command = option(command)
    return command


def model_options(command: Callable[..., None]) -> Callable[..., None]:
    """Adds the options of :func:`open_run`, and a seed."""
    for option in (
        click.option("--seed", type=SEED, help="Seed of the draws  [default: the seed of the run]"),
        click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda, cuda:N or mps."),
        click.option(
            "--checkpoint",
            default="final",
            show_default=True,
            metavar="final|last|best|STEP",
            help="Checkpoint of the training to use.",
        ),
        click.option(
            "--weights",
            type=click.Choice(["auto", "ema", "raw"]),
            default="auto",
            show_default=True,
            help="The moving average of the weights (ema) or the weights themselves (raw); auto: ema if there is one.",
        ),
        trust_options,
    ):
        command = option(command)
    return command


def plan_options(command: Callable[..., None]) -> Callable[..., None]:
    """Adds the options of :func:`open_run` and :func:`make_plan`."""
    for option in (
        click.option(
            "--sampler", help="Name of the sampler  [default: chosen from the family and the number of steps]"
        ),
        click.option("--verbose", is_flag=True, help="Print which sampler is used, and why."),
        click.option("-n", "n", type=POSITIVE, help="Number of samples  [default: 1000, or the rows of --known]"),
        model_options,
    ):
        command = option(command)
    return command


def open_run(path: Path, choice: Mapping[str, Any]) -> Run:
    """Opens the run of a command on its device; under torchrun, joins the processes of the job."""
    from bfn_toolkit.config.experiment import Training
    from bfn_toolkit.parallel.devices import make_accelerator
    from bfn_toolkit.sharing.export import open_model

    names = ("checkpoint", "weights", "allow_nonfinite", "allow_plugin_mismatch")
    run = open_model(path, **{name: choice[name] for name in names})
    run.model.to(make_accelerator(Training(device=choice["device"])).device)
    say(f"weights: {run.weights}")
    return run


def make_plan(run: Run, steps: int | None = None, **choice: Any) -> ResolvedPlan:
    """Returns the samples that the options of a command ask for, resolved once for all that the command does."""
    from bfn_toolkit.runs.conditions import is_on_column
    from bfn_toolkit.runs.sampling import STEPS, N, ResolvedPlan, SamplePlan, known_rows

    seed, family, known = choice.get("seed"), run.model.family, choice.get("known")
    draws, asked = choice.get("draws"), choice.get("condition", ())
    if draws and (choice.get("n") or known is None):
        raise ConfigError("--draws is the number of fillings of the rows of --known; without --known, write -n")
    where = [text for text in asked if is_on_column(run.codec, text)]
    plan = SamplePlan(
        n=choice.get("n") or (N if known is None else (draws or 1) * known_rows(run, known)),
        steps=steps or family.default_steps or STEPS,
        sampler=choice.get("sampler"),
        seed=run.experiment.seed if seed is None else seed,
        condition=parse_conditions([text for text in asked if text not in where]),
        guidance=choice.get("guidance", 0.0),
        where=where,
        known=known,
        size=choice.get("size"),
    )
    resolved = ResolvedPlan.of(run, plan)
    if choice.get("verbose"):
        sampler = resolved.draws.sampler
        nfe = f"{sampler.nfe(plan.steps)} evaluations of the network"
        say(f"sampler: {resolved.sampler}, {plan.reason(family)}; {nfe}")
        say(f"  {sampler}")
    return resolved


def parse_conditions(arguments: Sequence[str]) -> dict[str, str | list[Any] | None]:
    """Returns values by name: ``label=3``, ``label=boot``, ``place=[0.1, 0.2]``, and None from ``label=none``.

    Raises:
        ConfigError: If an argument has another form, or a name is repeated.
    """
    conditions: dict[str, str | list[Any] | None] = {}
    for argument in arguments:
        name, equals, value = argument.partition("=")
        if name in conditions:
            raise ConfigError(f"--condition {name}: given twice, but only one value can count")
        if not (name and equals and value):
            raise ConfigError(
                f"--condition takes NAME=VALUE, NAME=[NUMBER,NUMBER] or NAME=none, such as label=3, got '{argument}'"
            )
        parsed = OptionText(value).parsed()
        conditions[name] = None if value == "none" else parsed if isinstance(parsed, list) else value
    return conditions
