"""Several processes on this machine, started and watched by torch's elastic launcher, as torchrun does."""

from __future__ import annotations

import logging
import os
import signal
import sys
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from bfn_toolkit.cli.display import LAUNCHED, say


def launch(processes: int, arguments: Sequence[str]) -> int:
    """Runs ``bfn ARGUMENTS`` in several processes and returns the exit status.

    If one fails, the others are ended, and the first failure is printed with its reason.  Signals that training
    listens to are passed on.
    """
    from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs, SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    config = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=processes,
        run_id=uuid.uuid4().hex,
        rdzv_backend="c10d",
        rdzv_endpoint="localhost:0",
        max_restarts=0,
        monitor_interval=0.1,
        logs_specs=DefaultLogsSpecs(),
    )
    logging.disable(logging.ERROR)  # the failure is printed below, once
    os.environ[LAUNCHED] = "1"
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // processes)))
    try:
        with _passing_on():
            elastic_launch(config, sys.executable)("-m", "bfn_toolkit", *arguments)
    except ChildFailedError as error:
        rank, failure = error.get_first_failure()
        say(f"error: process {rank} of {processes} failed first: {_message(failure)}")
        status = int(failure.exitcode)
        return status if status >= 0 else 128 - status
    except SignalException as error:
        return 128 + int(error.sigval)
    finally:
        logging.disable(logging.NOTSET)
        del os.environ[LAUNCHED]
    return 0


def _message(failure: Any) -> str:
    message = failure.message if isinstance(failure.message, str) else failure.message.get("message", "")
    if failure.exitcode < 0:
        return f"it was ended by {signal.Signals(-failure.exitcode).name}"
    return " ".join(str(message).split()) or f"exit status {failure.exitcode}"


@contextmanager
def _passing_on() -> Iterator[None]:
    """Passes SIGUSR1 and SIGUSR2 to the processes; the launcher itself passes SIGINT and SIGTERM."""
    import psutil

    def pass_on(number: int, _: object) -> None:
        for child in psutil.Process().children():
            child.send_signal(number)

    numbers = [getattr(signal, name) for name in ("SIGUSR1", "SIGUSR2") if hasattr(signal, name)]
    before = {number: signal.signal(number, pass_on) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def record(error: BaseException) -> None:
    """Writes an error to the file that the launcher of this process reads, if it has one."""
    if "TORCHELASTIC_ERROR_FILE" in os.environ:
        from torch.distributed.elastic.multiprocessing.errors import get_error_handler

        get_error_handler().record_exception(error)


def lost_contact(error: BaseException) -> str | None:
    """Message for an error that the end of another process of the job caused; None for other errors."""
    if "RANK" not in os.environ or not isinstance(error, RuntimeError):
        return None
    text = " ".join(str(error).split())
    signs = ("Connection closed", "Connection reset", "Timed out", "timeout", "Broken pipe", "NCCL")
    return f"lost contact with the other processes: {text[:200]}" if any(sign in text for sign in signs) else None
