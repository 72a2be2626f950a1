"""Ends of a process: in the middle of writing, after a while, by a signal."""

from __future__ import annotations

import io
import os
import signal
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from bfn_toolkit.storage import files, folders
from bfn_toolkit.training.step import TrainStep

CRASHED = 77  # exit status of a child that ended where it was told to
TESTS = Path(__file__).parents[2]
SYSTEM = ("replace", "rename", "fsync", "mkdir", "open", "unlink", "rmdir", "chmod")


def forked(work: Callable[[], object]) -> int:
    """Runs ``work`` in a forked child, without the output and the handlers of this process; its exit status."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # pytest-timeout has a thread, which holds no lock of ours
        pid = os.fork()
    if pid == 0:
        status = 70
        try:
            os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
            work()
            status = 0
        finally:
            os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def crash_at(k: int, work: Callable[[], object]) -> bool:
    """Runs ``work`` in a child that ends before its k-th step in writing files; whether it got so far.

    The steps are the calls to the system that change names or flush files, and the middle of each write.
    """

    def instrumented() -> None:
        counter = iter(range(1, k))

        def step() -> None:
            if next(counter, None) is None:
                os._exit(CRASHED)

        for name in SYSTEM:
            setattr(os, name, _after(step, getattr(os, name)))
        io.open = _after(step, io.open)  # type: ignore[assignment]
        whole = files.write_data

        def torn(file: Any, data: bytes) -> None:
            start = file.tell()
            file.write(data[: len(data) // 2])
            file.flush()
            step()
            file.seek(start)
            whole(file, data)

        files.write_data = folders.write_data = torn
        work()

    status = forked(instrumented)
    assert status in (0, CRASHED), f"the child ended with {status}"
    return status == CRASHED


def _after(step: Callable[[], None], function: Callable[..., Any]) -> Callable[..., Any]:
    def stepped(*args: Any, **kwargs: Any) -> Any:
        step()
        return function(*args, **kwargs)

    return stepped


def child_environment(site: Path) -> dict[str, str]:
    """Variables for a process that imports this source tree and finds the plugin of :mod:`faults.parts`."""
    info = site / "bfn_faults-1.dist-info"
    info.mkdir(parents=True, exist_ok=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: bfn-faults\nVersion: 1\n")
    (info / "entry_points.txt").write_text("[bfn_toolkit]\nfaults = faults.parts\n")
    here = [entry for entry in sys.path if Path(entry).is_relative_to(TESTS.parent)]  # plugins of this tree too
    path = os.pathsep.join(map(str, (TESTS, TESTS / "robustness", site, TESTS.parent, *here)))
    return {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1"}


def start(arguments: Sequence[str], site: Path, cwd: Path | None = None) -> subprocess.Popen[str]:
    """Starts ``bfn ARGUMENTS`` from this source tree, in a session of its own, in a working directory."""
    return subprocess.Popen(
        [sys.executable, "-m", "bfn_toolkit", *arguments],
        env=child_environment(site),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        cwd=cwd,
    )


def kill_after(seconds: float, process: subprocess.Popen[str], number: int = signal.SIGKILL) -> int:
    """Sends a signal to a process after a while, if it still runs, and returns its exit status."""
    try:
        return process.wait(seconds)
    except subprocess.TimeoutExpired:
        process.send_signal(number)
        return process.wait(60)
    finally:
        for stream in (process.stdout, process.stderr):
            if stream is not None and number == signal.SIGKILL:
                stream.close()


def wait_for(condition: Callable[[], bool], seconds: float = 60.0) -> None:
    """Waits until a condition holds.

    Raises:
        TimeoutError: If it does not within so many seconds.
    """
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            raise TimeoutError("what was waited for did not happen")
        time.sleep(0.02)


@contextmanager
def signal_at(step: int, *numbers: int) -> Iterator[None]:
    """Within it, this process gets signals at the end of a step of training."""
    whole = TrainStep.step

    def interrupted(loop: TrainStep, batch: Any, at: int) -> Any:
        result = whole(loop, batch, at)
        if at == step:
            for number in numbers:
                os.kill(os.getpid(), number)
        return result

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(TrainStep, "step", interrupted)
        yield
