"""A case, and what is not as it says: nothing here asserts, so that ``python -O`` finds the same."""

from __future__ import annotations

import contextlib
import io
import os
import re
import shlex
import shutil
import stat
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, TypeAlias

import attrs

from bfn_toolkit.cli import BUG, main
from bfn_toolkit.errors import BFNError

Content: TypeAlias = "str | bytes | Callable[[Path], object]"  # of a file, or what makes it
Word: TypeAlias = "str | re.Pattern[str]"


@attrs.frozen
class Case:
    """One call, in an empty folder.

    Arguments:
        id: Row of the table, and what is wrong.
        call: A command line without "bfn", its arguments one by one, or a call in Python.
        status: Exit status; of a call in Python, that of the error.
        words: What stderr, or the error, must contain, in this order.
        files: Files in the folder.
        run: What is done to a trained run, of which the folder then holds a copy, "run".
        around: What holds during the call.
        prints: Raises if stdout is not as it should be; without it, a call that fails prints nothing there.
    """

    id: str
    call: str | Sequence[str] | Callable[[], object]
    status: int
    words: Sequence[Word]
    files: Mapping[str, Content] = attrs.field(factory=dict)
    run: Callable[[Path], object] | None = None
    around: Callable[[], AbstractContextManager[Any]] = contextlib.nullcontext
    prints: Callable[[str], object] | None = None


def case(id: str, call: Any, status: int, *words: Word, **more: Any) -> Case:
    """A case whose words need no brackets."""
    return Case(id, call, status, words, **more)


def faults_of(case: Case, folder: Path, trained: Path) -> list[str]:
    """What is not as a case says.

    Arguments:
        case: The case.
        folder: An empty folder.
        trained: A trained run.
    """
    with contextlib.chdir(folder):
        if case.run is not None:
            shutil.copytree(trained, "run")
            case.run(Path("run"))
        for name, content in case.files.items():
            put(Path(name), content)
        before, out, err = _listing(folder), io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err), case.around():
            status = _status(case.call)
        faults = [*_differences(case, status, out.getvalue(), err.getvalue())]
        if status in (2, 3, 5) and _listing(folder) != before:
            faults.append("files were written, changed or removed")
    return [f"{case.id}: {fault}\n{err.getvalue()}" for fault in faults]


def put(path: Path, content: Content) -> None:
    """Makes a file, and the folders that it is in."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if callable(content):
        content(path)
    else:
        path.write_bytes(content.encode() if isinstance(content, str) else content)


def _status(call: str | Sequence[str] | Callable[[], object]) -> int:
    if not callable(call):
        return main(shlex.split(call) if isinstance(call, str) else call)
    try:
        call()
    except BFNError as error:
        print(error, file=sys.stderr)
        return error.exit_status
    return 0


def _listing(folder: Path) -> list[tuple[str, int, int, int]]:
    """Name, kind, size and time of everything in a folder."""
    found = []
    for path in folder.rglob("*"):
        status = path.lstat()
        size = status.st_size if stat.S_ISREG(status.st_mode) else 0
        found.append((os.fspath(path), stat.S_IFMT(status.st_mode), size, status.st_mtime_ns))
    return sorted(found)


def _differences(case: Case, status: int, out: str, err: str) -> list[str]:
    faults = []
    if status != case.status:
        faults.append(f"ended with {status}, expected {case.status}")
    place = 0
    for word in case.words:
        found = (word if isinstance(word, re.Pattern) else re.compile(re.escape(word))).search(err, place)
        if found is None:
            faults.append(f"did not say {word!r}{' after the words before it' if place else ''}")
        else:
            place = found.end()
    if "Traceback" in err and status != BUG:
        faults.append("showed a traceback")
    if status == 3 and sum(not line.startswith("warning: ") for line in err.splitlines()) != 1:
        faults.append("told one fault in more than one line")
    if case.prints is not None:
        try:
            case.prints(out)
        except Exception as error:
            faults.append(f"printed {out[:200]!r}: {type(error).__name__}: {error}")
    elif status and out:
        faults.append(f"printed {out[:200]!r}")
    return faults
