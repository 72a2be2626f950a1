"""Locks on folders and files that one process at a time may write to."""

from __future__ import annotations

import errno
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bfn_toolkit.errors import BFNError, RunDirectoryError
from bfn_toolkit.storage.files import read_regular, resource_error

_WITHOUT_LOCKS = (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP)  # from file systems without locks


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Locks a folder for this process: no other may write to it.

    Raises:
        RunDirectoryError: If another process holds it.
    """
    with held(folder / ".lock", folder, RunDirectoryError):
        yield


@contextmanager
def held(path: Path, what: Path, error: type[BFNError]) -> Iterator[None]:
    """Holds a lock file until the scope or the process ends, even by a kill; a forked child does not hold it.

    Arguments:
        path: The lock file, which names its holder.  A link there is not followed.
        what: File or folder that it protects.
        error: Class of the error if another process holds it.
    """
    from filelock import FileLock, Timeout  # takes time, and most programs lock nothing

    lock = FileLock(path, fallback_to_soft=False, on_acquired=_sign)
    try:
        lock.acquire(blocking=False)
    except Timeout:
        raise error(
            f"{what} is being written by another process ({_holder(path)}); wait for it, or stop it first"
        ) from None
    except OSError as problem:
        if problem.errno not in _WITHOUT_LOCKS:
            raise resource_error(problem, path) from problem
    try:
        yield
    finally:
        lock.release()


def _holder(path: Path) -> str:
    try:
        return read_regular(path, 1000).decode(errors="replace").strip() or "unknown"
    except RunDirectoryError:  # it has just been removed
        return "unknown"


def _sign(handle: int) -> None:
    """Writes the holder of a lock into its file."""
    since = time.strftime("%Y-%m-%d %H:%M:%S")
    os.ftruncate(handle, 0)
    os.write(handle, f"process {os.getpid()} on {socket.gethostname()} since {since}\n".encode())
