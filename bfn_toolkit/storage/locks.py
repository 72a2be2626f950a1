"""The lock of a folder."""

from __future__ import annotations

import fcntl
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bfn_toolkit.errors import RunDirectoryError
from bfn_toolkit.storage.files import resource_error

_held: set[int] = set()  # files of the locks that this process has


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Holds a folder for this process: no second one may write to it.  The system lets go when the process ends.

    Raises:
        RunDirectoryError: If another process holds it.
    """
    path = folder / ".lock"
    try:
        handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    except OSError as error:
        raise resource_error(error, path) from error
    _held.add(handle)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.read(handle, 1000).decode(errors="replace").strip() or "unknown"
            raise RunDirectoryError(
                f"{folder} is being written by another process ({holder}); wait for it, or stop it first"
            ) from None
        except OSError:
            pass  # a file system without locks
        os.ftruncate(handle, 0)
        since = time.strftime("%Y-%m-%d %H:%M:%S")
        os.write(handle, f"process {os.getpid()} on {socket.gethostname()} since {since}\n".encode())
        yield
    finally:
        if handle in _held:  # and not in a forked child
            _held.discard(handle)
            os.close(handle)


def _let_go() -> None:
    """A forked child, such as a worker that fetches rows, holds nothing: it may live longer than its parent."""
    for handle in _held:
        os.close(handle)
    _held.clear()


os.register_at_fork(after_in_child=_let_go)
