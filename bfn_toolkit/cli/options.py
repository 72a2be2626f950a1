"""Options of the commands: their types, those of the experiment, and those of the commands about a run."""

from __future__ import annotations

import errno
import json
import os
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs
import click

from bfn_toolkit.cli.completion import FieldsCommand, complete_devices, complete_runs, names_of_kind
from bfn_toolkit.cli.display import echo, say
from bfn_toolkit.config.layers import SHORT, OptionText
from bfn_toolkit.errors import ConfigError, did_you_mean, nearest
from bfn_toolkit.validators import not_one_of

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

    from bfn_toolkit.runs.run import Run
    from bfn_toolkit.runs.sampling import ResolvedPlan


class Integer(click.IntRange):
    """Integers in a range, in the digits 0 to 9; ``int`` would also accept 1_0 and digits of other scripts."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Returns the integer."""
        if isinstance(value, str) and not re.fullmatch(r"[+-]?[0-9]{1,30}", value):
            self.fail(f"expected an integer, got {value!r}", param, ctx)
        number = int(value)
        if number < (self.min or 0) or (self.max is not None and number > self.max):
            range_ = f"at least {self.min}" if self.max is None else f"{self.min} to {self.max}"
            self.fail(f"expected an integer, {range_}, got {value}", param, ctx)
        return number


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

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem[Any]]:
        """Asks the shell for files."""
        from click.shell_completion import CompletionItem

        return [CompletionItem(incomplete, type="file")]


class RunType(PathType):
    """Paths of run directories and of saved models, and names of models of a zoo, as :func:`open_run` takes them."""

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem[Any]]:
        """Returns run directories nearby, and the models of zoos."""
        return complete_runs(incomplete)


def _show_help(ctx: click.Context, param: click.Parameter, value: bool) -> None:
    if value and not ctx.resilient_parsing:
        echo(ctx.get_help())
        ctx.exit()


class Helpful(click.Command):
    """A command whose help is printed with results, and may contain descriptions by plugins."""

    def get_help_option(self, ctx: click.Context) -> click.Option | None:
        """The option ``--help``, which prints where results are printed."""
        option = super().get_help_option(ctx)
        if option is not None:
            option.callback = _show_help
        return option


class Command(Helpful):
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


class ExperimentCommand(FieldsCommand, Command):
    """A command whose further options are the fields of the experiment."""


class Group(Helpful, click.Group):
    """A group of :class:`Command` objects, whose help shows the first sentence about each in full."""

    command_class = Command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Finds the command that the first word names.

        Raises:
            UsageError: If there is none.
        """
        known = self.list_commands(ctx)
        if args[0] not in known and not args[0].startswith("-"):
            raise click.UsageError(f"{args[0]!r}: no such command.{did_you_mean(args[0], known)}", ctx)
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Writes a line or more about each command."""
        found = [(name, self.get_command(ctx, name)) for name in self.list_commands(ctx)]
        rows = [(name, _about(command)) for name, command in found if command is not None and not command.hidden]
        with formatter.section("Commands"):
            formatter.write_dl(rows)


def _about(command: click.Command) -> str:
    """The first paragraph of the help of a command, without its last point."""
    return " ".join((command.help or "").partition("\n\n")[0].split()).removesuffix(".")


def usage_message(error: click.ClickException) -> str:
    """Returns an error that click found in a command line, in the form of all others."""
    ctx = error.ctx if isinstance(error, click.UsageError) else None
    problem = error.format_message()
    if isinstance(error, click.NoSuchOption):
        problem = f"{error.option_name}: no such option{_meant(error.option_name, _names(ctx))}"
    elif isinstance(error, click.BadOptionUsage):
        problem = f"{error.option_name}: {problem.rpartition(chr(39))[2].strip()}"
    elif isinstance(error, click.BadParameter) and error.param is not None:
        param, problem = error.param, error.message
        wrong = re.match(r"'(.*?)' is not one of ", problem)
        if isinstance(error, click.MissingParameter):
            problem = "missing"
        elif wrong and isinstance(param.type, click.Choice):
            problem = not_one_of(wrong[1], param.type.choices)
        problem = f"{param.opts[-1] if isinstance(param, click.Option) else param.human_readable_name}: {problem}"
    if problem[1:2].islower():
        problem = problem[0].lower() + problem[1:].rstrip(".")
    return problem if ctx is None or problem.endswith("?") else f"{problem}; see {ctx.command_path} --help"


def _names(ctx: click.Context | None) -> list[str]:
    """Options of a command, without their hyphens."""
    params = ctx.command.get_params(ctx) if ctx else []
    return [name.lstrip("-") for param in params if isinstance(param, click.Option) for name in param.opts]


def _meant(option: str, known: Iterable[str]) -> str:
    near = nearest(option.lstrip("-"), known)
    return f"; did you mean {'--' if len(near) > 1 else '-'}{near}?" if near else ""


PATH, RUN, POSITIVE, SEED = PathType(), RunType(), Integer(min=1), Integer(min=0, max=2**63 - 1)


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
        _check_option(key)
        if not equals:
            if not rest or rest[0].startswith("--"):
                raise ConfigError(f"--{key} needs a value")
            value = rest.pop(0)
        overrides.append((key, value))
    return overrides


def _check_option(key: str) -> None:
    """Refuses a slip in the name of an option of the command, which would be taken for a field of the experiment.

    Raises:
        ConfigError: If there is one.
    """
    from bfn_toolkit.config.experiment import Experiment

    options = _names(click.get_current_context(silent=True))
    near = nearest(key, [*attrs.fields_dict(Experiment), *SHORT, *options])
    if near in options and key.replace("-", "_") not in (*attrs.fields_dict(Experiment), *SHORT):
        raise ConfigError(f"--{key}: no such option; did you mean --{near}?")


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
    """Splits words into the path among them, None if there is none, and the options of the experiment.

    Raises:
        ConfigError: If a word with one hyphen is the name of no file.
    """
    i = 0
    while i < len(words) and words[i].startswith("--"):
        i += 1 if "=" in words[i] else 2
    if i >= len(words):
        return None, list(words)
    if words[i].startswith("-") and not os.path.lexists(words[i]):
        raise ConfigError(f"{words[i]}: no such option; fields of the experiment are written --network.width 256")
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
        click.option("--seed", type=SEED, help="Random seed  [default: the seed of the run]"),
        click.option(
            "--device",
            shell_complete=complete_devices,
            default="auto",
            show_default=True,
            help="Device: auto, cpu, cuda, cuda:N or mps.",
        ),
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
    """Adds the options of :func:`open_run` and :func:`make_plan`, without the number of samples."""
    for option in (
        click.option(
            "--sampler",
            shell_complete=names_of_kind("sampler"),
            help="Name of the sampler  [default: chosen from the family and the number of steps]",
        ),
        click.option("--verbose", is_flag=True, help="Print which sampler is used, and why."),
        model_options,
    ):
        command = option(command)
    return command


def number_option(default: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """The option -n, whose default differs among the commands."""
    return click.option("-n", "n", type=POSITIVE, help=f"Number of samples  [default: {default}]")


def open_run(path: Path, choice: Mapping[str, Any]) -> Run:
    """Opens the run of a command on its device; under torchrun, joins the processes of the job."""
    from bfn_toolkit.config.experiment import Training
    from bfn_toolkit.parallel.devices import make_accelerator
    from bfn_toolkit.sharing.export import open_model

    names = ("checkpoint", "weights", "allow_nonfinite", "allow_plugin_mismatch")
    try:
        training = Training(device=choice["device"])
    except ConfigError as error:
        raise ConfigError(str(error).replace("Training.device", "--device", 1)) from error
    run = open_model(path, **{name: choice[name] for name in names})
    run.model.to(make_accelerator(training).device)
    say(f"weights: {run.weights}")
    return run


def place_of(run: Path, name: str) -> Path:
    """Path for the output of a command: in the run; for a model of a zoo here, with the model's name in front."""
    from bfn_toolkit.sharing.zoo import is_zoo_model

    return Path(f"{str(run).partition(':')[2]}-{name}") if is_zoo_model(run) else run / name


def make_plan(run: Run, steps: int | None = None, **choice: Any) -> ResolvedPlan:
    """Returns the samples that the options of a command ask for, resolved once for all that the command does."""
    from bfn_toolkit.runs.conditions import is_on_column
    from bfn_toolkit.runs.sampling import N, ResolvedPlan, SamplePlan, known_rows
    from bfn_toolkit.sampling.default import default_steps

    seed, family, known = choice.get("seed"), run.model.family, choice.get("known")
    draws, asked = choice.get("draws"), choice.get("condition", ())
    if draws and (choice.get("n") or known is None):
        raise ConfigError("--draws is how many times the rows of --known are filled in; without --known, write -n")
    where = [text for text in asked if is_on_column(run.codec, text)]
    plan = SamplePlan(
        n=choice.get("n") or (N if known is None else (draws or 1) * known_rows(run, known)),
        steps=steps or default_steps(family),
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
