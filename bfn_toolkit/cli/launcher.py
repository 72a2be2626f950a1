"""Several processes on this machine, started and watched by torch's elastic launcher, as torchrun does.

They meet on the loopback interface only, import nothing from the working directory, and end with their launcher.
"""

from __future__ import annotations

import logging
import math
import os
import signal
import socket
import sys
import threading
import time
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from bfn_toolkit.cli.display import LAUNCHED, say
from bfn_toolkit.cli.results import stdout_for_children
from bfn_toolkit.parallel import environment

HERE = "127.0.0.1"
GRACE = 10  # seconds that a process has for its last save when its launcher is gone

_ENDING = ("SIGTERM", "SIGINT", "SIGHUP", "SIGQUIT")  # passed on by torch's launcher


def _is_heard(name: str) -> bool:
    """Whether this system has a signal, and this process was not told to ignore it, as by nohup."""
    return hasattr(signal, name) and signal.getsignal(getattr(signal, name)) != signal.SIG_IGN


def launch(processes: int, arguments: Sequence[str], timeout: float) -> int:
    """Runs ``bfn ARGUMENTS`` in several processes and returns the exit status.

    If one fails, the others are ended, and the first failure is printed with its reason.  Signals that training
    listens to are passed on.  A process that does not end is killed after ``timeout`` seconds, at most 30.
    """
    from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs, SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.elastic.rendezvous import rendezvous_handler_registry
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    rendezvous_handler_registry.register(_RENDEZVOUS, _rendezvous)
    ending: dict[str, Any] = {  # of which torch 2.6 has none
        "shutdown_timeout": math.ceil(min(30.0, timeout)),
        "signals_to_handle": ",".join(name for name in _ENDING if _is_heard(name)),
    }
    config = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=processes,
        run_id=uuid.uuid4().hex,
        rdzv_backend=_RENDEZVOUS,
        rdzv_endpoint=HERE,
        local_addr=HERE,
        max_restarts=0,
        monitor_interval=0.1,
        logs_specs=DefaultLogsSpecs(),
        **{name: value for name, value in ending.items() if name in LaunchConfig.__dataclass_fields__},
    )
    logging.disable(logging.ERROR)  # the failure is printed below, once
    wishes = {"OMP_NUM_THREADS": str(max(1, (os.cpu_count() or 1) // processes)), **_loopback_only()}
    variables = {
        **{name: wish for name, wish in wishes.items() if name not in os.environ},
        LAUNCHED: str(os.getpid()),
    }
    os.environ |= variables
    try:
        with _passing_on(), stdout_for_children():
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
        for name in variables:
            del os.environ[name]
    return 0


_RENDEZVOUS = "bfn-loopback"


def _rendezvous(parameters: Any) -> Any:
    """A meeting place that only this machine reaches; those of torch listen on all interfaces."""
    import torch.distributed as dist
    from torch.distributed.elastic.rendezvous import RendezvousInfo, RendezvousStoreInfo
    from torch.distributed.elastic.rendezvous.static_tcp_rendezvous import StaticTCPRendezvous

    stores: Any = dist

    listener = socket.create_server((HERE, 0), backlog=1024)
    port = listener.getsockname()[1]
    store = stores.TCPStore(HERE, port, is_master=True, wait_for_workers=False, master_listen_fd=listener.detach())

    class Loopback(StaticTCPRendezvous):
        def get_backend(self) -> str:
            return _RENDEZVOUS

        def next_rendezvous(self) -> RendezvousInfo:
            return RendezvousInfo(stores.PrefixStore(self.run_id, store), 0, 1, RendezvousStoreInfo(HERE, port))

    return Loopback(HERE, port, 0, 1, parameters.run_id, timeout=60)


def _loopback_only() -> dict[str, str]:
    """Variables that keep the connections between the processes on the loopback interface."""
    names = [name for _, name in socket.if_nameindex() if name in ("lo", "lo0")]
    return {variable: names[0] for variable in ("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME") if names}


def end_with_launcher() -> None:
    """Ends this process soon after the launcher that started it, however that ended.

    It gets SIGTERM, on which training saves a checkpoint, and SIGALRM, which ends it, after :data:`GRACE` seconds.
    """
    if LAUNCHED not in os.environ:
        return
    launcher = int(os.environ[LAUNCHED])

    def watch() -> None:
        while os.getppid() == launcher:
            time.sleep(0.5)
        signal.alarm(GRACE)  # of the system, which ends also what hangs on its way out
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=watch, daemon=True).start()


def _message(failure: Any) -> str:
    message = failure.message if isinstance(failure.message, str) else failure.message.get("message", "")
    if failure.exitcode < 0:
        return f"it was ended by {signal.Signals(-failure.exitcode).name}"
    return " ".join(str(message).split()) or f"exit status {failure.exitcode}"


@contextmanager
def _passing_on() -> Iterator[None]:
    """Passes SIGUSR1 and SIGUSR2 to the processes; torch's launcher passes the others."""
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
    if environment.place()[1] == 1 or not isinstance(error, RuntimeError):
        return None
    text = " ".join(str(error).split())
    signs = ("Connection closed", "Connection reset", "Timed out", "timeout", "Broken pipe", "NCCL")
    return f"lost contact with the other processes: {text[:200]}" if any(sign in text for sign in signs) else None
