"""The ``bfn`` command itself: its group, and the exit statuses of its errors."""

from __future__ import annotations

import io
import os
import sys
import traceback
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext, redirect_stdout, suppress
from importlib.metadata import version
from typing import Any

import click
from click.exceptions import NoArgsIsHelpError

from bfn_toolkit.cli.checkpoints import checkpoint, export, import_checkpoint
from bfn_toolkit.cli.completion import completion
from bfn_toolkit.cli.display import complain, echo, is_follower, say
from bfn_toolkit.cli.launcher import end_with_launcher, lost_contact, record
from bfn_toolkit.cli.memory import limited_memory
from bfn_toolkit.cli.options import Group, usage_message
from bfn_toolkit.cli.plugins import check, new_plugin, plugins, presets
from bfn_toolkit.cli.report import report
from bfn_toolkit.cli.results import no_results, results, stdout_for_results
from bfn_toolkit.cli.runs import runs
from bfn_toolkit.cli.sample import evaluate, plot, sample
from bfn_toolkit.cli.score import score
from bfn_toolkit.cli.train import train
from bfn_toolkit.cli.zoo import zoo
from bfn_toolkit.errors import BFNError, BFNWarning, PluginError, ResourceError, shortage
from bfn_toolkit.parallel import environment
from bfn_toolkit.parallel.signals import Interrupted

BUG = 70  # exit status of a bug in the toolkit


def _show_version(ctx: click.Context, param: click.Parameter, value: bool) -> None:
    if value:
        echo(f"bfn {version('bfn-toolkit')}")
        ctx.exit()


@click.group(
    cls=Group,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="Start with:  bfn train --out runs/first",
    no_args_is_help=True,
)
@click.option(
    "--version", is_flag=True, expose_value=False, is_eager=True, callback=_show_version, help="Print the version."
)
def bfn() -> None:
    """Train, sample and evaluate Bayesian flow networks, generative models for tables, images, texts and more."""


for command in (
    train,
    sample,
    score,
    evaluate,
    plot,
    report,
    runs,
    zoo,
    plugins,
    presets,
    check,
    checkpoint,
    new_plugin,
    export,
    import_checkpoint,
    completion,
):
    bfn.add_command(command)


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line and returns its exit status; the meaning of each is in :mod:`bfn_toolkit.errors`."""
    if arguments is None:
        os.environ["MPLBACKEND"] = "agg"  # that of a notebook which starts us may not be installed here
    _open_streams()
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # rather an odd character than none, also in names that are not UTF-8
            with suppress(OSError):  # it is flushed first, and may be full
                stream.reconfigure(errors="backslashreplace")
    end_with_launcher()
    with warnings.catch_warnings(), _safe_children(), limited_memory():
        warnings.simplefilter("always", BFNWarning)
        warnings.showwarning = _show_warning
        try:
            with stdout_for_results():
                return _run(list(sys.argv[1:] if arguments is None else arguments))
        except (KeyboardInterrupt, click.Abort):
            say("interrupted")
            return 130
        except BrokenPipeError:
            # The reader has closed the pipe; otherwise Python would report that again when it flushes at exit.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return 141


@contextmanager
def _safe_children() -> Iterator[None]:
    """Scope in which Python processes that this one starts do not import from the working directory.

    ``python -m`` and ``python -c``, which start the processes of a job and data-loader workers, put it first.
    """
    before = os.environ.get("PYTHONSAFEPATH")
    os.environ["PYTHONSAFEPATH"] = "1"
    try:
        yield
    finally:
        if before is None:
            del os.environ["PYTHONSAFEPATH"]
        else:
            os.environ["PYTHONSAFEPATH"] = before


def _open_streams() -> None:
    """Opens descriptors 0 to 2 where they are closed, so that no file of a run gets the number of stderr."""
    handle = os.open(os.devnull, os.O_RDWR)
    while handle < 3:
        handle = os.dup(handle)
    os.close(handle)


def _run(arguments: list[str]) -> int:
    debug = "--debug" in arguments
    arguments = [argument for argument in arguments if argument != "--debug"]
    try:
        if "_BFN_COMPLETE" in os.environ:
            return _complete(arguments)
        # bfn.main would return status 1 for a pipe that its reader has closed.
        with (
            no_results() if is_follower() else nullcontext(),
            bfn.make_context("bfn", arguments, obj=tuple(arguments)) as context,
        ):
            status = bfn.invoke(context)
        _leave_job()
        return status if isinstance(status, int) else 0
    except click.exceptions.Exit as request:
        return request.exit_code
    except (click.Abort, BrokenPipeError, KeyboardInterrupt):
        raise
    except NoArgsIsHelpError as error:
        error.show()
        return error.exit_code
    except click.ClickException as error:
        complain(usage_message(error))
        return error.exit_code
    except Interrupted as stop:
        say(str(stop))
        return stop.exit_status
    except BaseException as error:
        if debug:
            traceback.print_exc()
        if (known := _known(error)) is not None:
            record(known)
            complain(str(known))
            return known.exit_status
        if not isinstance(error, Exception):
            raise
        # Either our own fault, or a part that returned what its kind does not allow.
        from bfn_toolkit.cli.user_code import parts_at_hand

        record(error)
        parts = parts_at_hand(error)
        complain(_unknown(parts), traceback.format_exc())
        return PluginError.exit_status if parts else BUG


def _known(error: BaseException) -> BFNError | None:
    """The error to report in place of an exception; None for a bug of ours."""
    short = error if isinstance(error, ResourceError) else shortage(error)
    if short is not None:  # wherever it happened
        return short
    from bfn_toolkit.cli.user_code import bug_in_user_code  # takes time

    if (bug := bug_in_user_code(error)) is not None:
        return PluginError(bug)
    if isinstance(error, BFNError):
        return error
    if (lost := lost_contact(error)) is not None:
        return ResourceError(lost)
    return None


def _unknown(parts: Sequence[str]) -> str:
    """Advice on an exception in our own code, which worked with these parts of users."""
    if not parts:
        return "This is a bug in bfn-toolkit: please report it with these lines."
    return (
        f"This happened with {' and '.join(parts)}; bfn check NAME tests a component against the laws of its kind. "
        "If it passes, please report these lines."
    )


def _complete(arguments: list[str]) -> int:
    """Prints the completions that a shell asks for in the environment; an error must not disturb the prompt."""
    try:
        with redirect_stdout(results()):
            bfn.main(arguments, prog_name="bfn")
    except Exception:
        return 1
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else 1
    return 0


def _leave_job() -> None:
    """Ends a job of several processes together; a single process has nothing to end and does not import torch."""
    if environment.place()[1] > 1 and "torch" in sys.modules:
        from bfn_toolkit.parallel.processes import shutdown

        shutdown()


def _show_warning(message: Warning | str, category: type[Warning], *place: Any, **_: Any) -> None:
    if issubclass(category, BFNWarning):
        say(f"warning: {message}")
    else:
        say(warnings.formatwarning(message, category, place[0], place[1]).rstrip())
