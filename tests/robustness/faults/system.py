"""The calls to the system by which files are written, counted, so that a test can end or fail the work at each of them.

Nothing is forked.  A crash is an exception that no handler of ours catches, and after it no call has an effect, as
after the end of a process: what ``finally`` would clean up stays.
"""

from __future__ import annotations

import builtins
import io
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

CALLS = (
    *("open", "mkdir", "rmdir", "unlink", "remove", "rename", "replace", "link", "symlink"),
    *("write", "truncate", "ftruncate", "chmod", "fchmod", "fsync", "fdatasync"),
)


class Crash(BaseException):
    """The end of a process."""


class Calls:
    """Counts calls, and ends or fails one of them.

    Arguments:
        at: Number of the call, from 1; 0 for none.
        fault: The fault: None for a crash in the middle of it, else the number of an error of the system.
    """

    def __init__(self, at: int = 0, fault: int | None = None) -> None:
        self.at, self.fault, self.names, self.dead = at, fault, list[str](), False

    def step(self, name: str) -> bool:
        """Notes a call; whether this is the one in the middle of which the process ends."""
        if self.dead:
            raise Crash
        self.names.append(name)
        if len(self.names) != self.at:
            return False
        if self.fault is not None:
            raise OSError(self.fault, os.strerror(self.fault))
        self.dead = True
        return True

    @property
    def came(self) -> bool:
        """Whether there were as many calls."""
        return 0 < self.at <= len(self.names)


@contextmanager
def counted(calls: Calls) -> Iterator[Calls]:
    """Scope in which calls are counted; it takes the crash."""
    real_open = io.open

    class File(io.FileIO):
        def write(self, data: Any) -> int:
            if calls.dead:
                return len(data)  # what a buffer would still write when it is thrown away
            if calls.step("write"):
                super().write(memoryview(data)[: len(data) // 2])
                raise Crash
            return super().write(data)

        def truncate(self, size: int | None = None) -> int:
            if calls.step("truncate"):
                raise Crash
            return super().truncate(size)

    def opened(file: Any, mode: str = "r", buffering: int = -1, *more: Any, **options: Any) -> Any:
        if not set(mode) & set("wxa+"):
            return real_open(file, mode, buffering, *more, **options)
        if isinstance(file, (str, os.PathLike)) and calls.step("open"):
            raise Crash
        raw = File(file, mode.replace("b", ""))
        if buffering == 0:
            return raw
        buffered = io.BufferedRandom(raw) if "+" in mode else io.BufferedWriter(raw)
        return buffered if "b" in mode else io.TextIOWrapper(buffered, **options)

    def stepped(name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            writes = name != "open" or (args[1] if len(args) > 1 else kwargs["flags"]) & (os.O_CREAT | os.O_WRONLY)
            if writes and calls.step(name):
                raise Crash
            return None if name in ("fsync", "fdatasync") else real(*args, **kwargs)

        return call

    with pytest.MonkeyPatch.context() as patch:
        for name in CALLS:
            patch.setattr(os, name, stepped(name, getattr(os, name)))
        patch.setattr(io, "open", opened)
        patch.setattr(builtins, "open", opened)
        try:
            yield calls
        except Crash:
            assert calls.dead


def at_each_call(
    work: Callable[[], object], faults: Sequence[int | None] = (None,)
) -> Iterator[tuple[str, BaseException | None]]:
    """Runs ``work`` again and again: it crashes at its first call, at its second, ..., and at last it runs to its end.

    With other faults, these come in turn in place of the crash.

    Yields the name of the call, "" at the end, and the error that came of it, if any.  The caller restores the state
    between two runs.
    """
    for k in range(1, 10**6):
        error = None
        with counted(Calls(k, faults[k % len(faults)])) as calls:
            try:
                work()
            except Exception as raised:
                error = raised
        yield (calls.names[k - 1] if calls.came else ""), error
        if not calls.came:
            return


def in_place(path: Path, content: bytes) -> None:
    """Writes as this toolkit does not: a crash tears the file."""
    with path.open("wb") as file:
        file.write(content)
