"""The ``bfn`` command itself: its group, and the exit statuses of its errors."""

from __future__ import annotations

import io
import os
import sys
import traceback
import warnings
from collections.abc import Sequence
from contextlib import nullcontext, redirect_stdout
from importlib.metadata import version
from typing import Any

import click

from bfn_toolkit.cli.checkpoints import checkpoint, export, import_checkpoint
from bfn_toolkit.cli.display import complain, is_follower, say
from bfn_toolkit.cli.launcher import lost_contact, record
from bfn_toolkit.cli.options import Group
from bfn_toolkit.cli.plugins import check, new_plugin, plugins, presets
from bfn_toolkit.cli.sample import evaluate, plot, sample
from bfn_toolkit.cli.score import score
from bfn_toolkit.cli.train import train
from bfn_toolkit.errors import BFNError, BFNWarning, ResourceError
from bfn_toolkit.parallel.signals import Interrupted

BUG = 70  # exit status of a bug in the toolkit


@click.group(
    cls=Group,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="Start with:  bfn train --out runs/first",
    no_args_is_help=True,
)
@click.version_option(version("bfn-toolkit"), message="%(prog)s %(version)s")
def bfn() -> None:
    """Train, sample and evaluate Bayesian flow networks built from plugins."""


for command in (
    train,
    sample,
    score,
    evaluate,
    plot,
    plugins,
    presets,
    check,
    checkpoint,
    new_plugin,
    export,
    import_checkpoint,
):
    bfn.add_command(command)


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line and returns its exit status; the meaning of each is in :mod:`bfn_toolkit.errors`."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper) and "utf" not in stream.encoding.lower():
            stream.reconfigure(errors="backslashreplace")  # rather print a table without its plus-minus signs than fail
    with warnings.catch_warnings():
        warnings.simplefilter("always", BFNWarning)
        warnings.showwarning = _show_warning
        try:
            return _run(list(sys.argv[1:] if arguments is None else arguments))
        except (KeyboardInterrupt, click.Abort):
            say("interrupted")
            return 130
        except BrokenPipeError:
            # The reader has closed the pipe; otherwise Python would report that again when it flushes at exit.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return 141


def _run(arguments: list[str]) -> int:
    debug = "--debug" in arguments
    arguments = [argument for argument in arguments if argument != "--debug"]
    try:
        if "_BFN_COMPLETE" in os.environ:  # shell completion, which ends the process
            bfn.main(arguments, prog_name="bfn")
        # bfn.main would return status 1 for a pipe that its reader has closed.
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
        complain("This is a bug in bfn-toolkit: please report it with these lines.", traceback.format_exc())
        return BUG


def _leave_job() -> None:
    """Ends a job of several processes together; a single process has nothing to end and does not import torch."""
    if "WORLD_SIZE" in os.environ and "torch" in sys.modules:
        from bfn_toolkit.parallel.processes import shutdown

        shutdown()


def _show_warning(message: Warning | str, category: type[Warning], *place: Any, **_: Any) -> None:
    if issubclass(category, BFNWarning):
        say(f"warning: {message}")
    else:
        say(warnings.formatwarning(message, category, place[0], place[1]).rstrip())
