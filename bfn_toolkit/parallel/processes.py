"""The processes of one job: the number of this one, and their communication.

A job of one process has rank 0 of 1, and nothing here costs it anything.  Jobs of many are started by torchrun (or by
``bfn train --processes N``, which calls it); communication is that of :mod:`torch.distributed`.
"""

from __future__ import annotations

import itertools
import os
import signal
import socket
import time
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from bfn_toolkit.errors import BFNWarning, OutOfStepError
from bfn_toolkit.parallel import environment, signals
from bfn_toolkit.shapes import Data, map_data


def world_size() -> int:
    """Number of processes."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    """Number of this process, from 0; before the processes are connected, that of the launcher."""
    met = dist.is_available() and dist.is_initialized()
    return dist.get_rank() if met else environment.place()[0]


def is_main_process() -> bool:
    """Whether this process is the first, which writes and prints."""
    return rank() == 0


def all_gather(x: Data) -> Data:
    """The rows of all processes, in the order of their ranks; each must have the same number."""
    if world_size() == 1:
        return x

    def together(part: Tensor) -> Tensor:
        parts = [torch.empty_like(part) for _ in range(world_size())]
        dist.all_gather(parts, part.contiguous())
        return torch.cat(parts)

    return map_data(together, x)


def all_reduce_sum(x: Tensor) -> Tensor:
    """The sum over all processes; x itself where there is one."""
    if world_size() > 1:
        dist.all_reduce(x)
    return x


def shutdown() -> None:
    """Leaves the job; the first process leaves last, because the others may still be connected to it."""
    if world_size() == 1:
        return
    barrier()
    store = _store()
    if store is None:
        return
    if is_main_process():
        store.wait([f"left/{other}" for other in range(1, world_size())])
    else:
        store.set(f"left/{rank()}", "")
    dist.destroy_process_group()


def all_reduce_max(number: int, device: torch.device | str = "cpu") -> int:
    """The largest number of any process."""
    if world_size() == 1:
        return number
    largest = torch.tensor(number, device=device)
    dist.all_reduce(largest, dist.ReduceOp.MAX)
    return int(largest)


def check_signals(device: torch.device | str = "cpu", *, together: bool = False) -> None:
    """Raises an error if a signal has asked any process to stop.

    Arguments:
        device: Device of the communication.
        together: Whether all processes call it together; if not, it does nothing in a job of several.
    Raises:
        Interrupted: If one has.
    """
    if world_size() > 1 and not together:
        return
    number = all_reduce_max(int(signals.pending() or 0), device)
    if number:
        raise signals.Interrupted(signal.Signals(number))


def all_gather_object(value: Any) -> Sequence[Any]:
    """The values of all processes, in the order of their ranks."""
    if world_size() == 1:
        return [value]
    answers: list[Any] = [None] * world_size()
    dist.all_gather_object(answers, value)
    return answers


def check_in_sync(what: str, value: object, step: int) -> None:
    """Checks that all processes have the same step and the same value.

    Raises:
        OutOfStepError: If they differ.
    """
    answers = all_gather_object((step, value))
    for other, answer in enumerate(answers):
        if answer != answers[0]:
            (first_step, wanted), (found_step, found) = answers[0], answer
            raise OutOfStepError(
                f"the processes do not have the same {what}: process 0 has {wanted} at step {first_step}, "
                f"process {other} has {found} at step {found_step}"
            )


def warn(message: str) -> None:
    """Warns in the first process."""
    if is_main_process():
        warnings.warn(message, BFNWarning, stacklevel=2)


def barrier() -> None:
    """Waits until all processes have called it."""
    if world_size() > 1:
        dist.barrier()


@contextmanager
def others_waiting() -> Iterator[None]:
    """Scope for slow work of the first process; at its end, the others wait for it.

    All processes enter it together.  ``training.timeout`` does not limit the wait: it ends when the first process
    leaves the scope, or when its connection is lost.  Inside, the processes must not communicate.
    """
    if world_size() == 1:
        yield
        return
    store, key = _store(), f"waited/{next(_waits)}"
    try:
        yield
    finally:
        if is_main_process() and store is not None:
            store.set(key, "")
    if store is None:
        barrier()
        return
    pause = 1e-3
    while not store.check([key]):
        time.sleep(pause)
        pause = min(0.1, 1.5 * pause)


_waits = itertools.count()


def _store() -> Any:
    """The table that the processes of the job share; None if its host has ended, as a launcher that was killed."""
    address = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    try:
        socket.create_connection(address, timeout=10.0).close()
    except OSError:
        return None
    return dist.TCPStore(*address, world_size(), is_master=False, wait_for_workers=False)  # type: ignore[attr-defined]
