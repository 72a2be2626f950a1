"""Locks on folders and files that one process at a time may write to."""

from __future__ import annotations

import errno
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from bfn_toolkit.errors import BFNError, RunDirectoryError
from bfn_toolkit.storage.files import check_ours, read_regular, resource_error
from bfn_toolkit.untrusted import open_regular

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
        path: The lock file, which names its holder.
        what: File or folder that it protects.
        error: Class of the error if another process holds it.
    Raises:
        RunDirectoryError: If a link or a special file is there, which would be written to.
    """
    from filelock import FileLock, Timeout  # takes time, and most programs lock nothing

    def sign(handle: int) -> None:
        check_ours(path, os.fstat(handle))
        _sign(handle)

    check_ours(path)
    lock = FileLock(path, fallback_to_soft=False, on_acquired=sign)
    try:
        lock.acquire(blocking=False)
    except Timeout:
        raise error(
            f"{what} is being written by another process ({_holder(path)}); wait for it, or stop it first"
        ) from None
    except OSError as problem:
        if problem.errno not in _WITHOUT_LOCKS:
            raise resource_error(problem, what) from problem
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
    """Writes the holder of a lock into its file; on a full disk the lock holds without."""
    since = time.strftime("%Y-%m-%d %H:%M:%S")
    with suppress(OSError):
        os.ftruncate(handle, 0)
        os.write(handle, f"process {os.getpid()} on {socket.gethostname()} since {since}\n".encode())


def is_held(path: Path) -> bool:
    """Whether a process holds a lock file now; False if that cannot be told."""
    from fcntl import LOCK_NB, LOCK_SH, flock

    try:
        with open_regular(path, follow=False) as file:
            flock(file, LOCK_SH | LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False
