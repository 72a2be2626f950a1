"""Locks: one writer, who is named; let go however the process ends."""

from __future__ import annotations

import os
import signal
import socket
from collections.abc import Callable
from pathlib import Path

import filelock
import pytest
from faults.crashes import forked

from bfn_toolkit.errors import ResourceError, RunDirectoryError
from bfn_toolkit.storage.locks import held, locked


def test_a_second_writer_is_told_who_the_first_is(tmp_path: Path) -> None:
    with locked(tmp_path):
        holder = rf"process {os.getpid()} on {socket.gethostname()} since \d{{4}}-"

        def second() -> None:
            with pytest.raises(RunDirectoryError, match=holder), locked(tmp_path):
                pass

        second()
        assert forked(second) == 0
    with locked(tmp_path):
        pass


def test_a_kill_lets_go(tmp_path: Path) -> None:
    def killed() -> None:
        with locked(tmp_path):
            os.kill(os.getpid(), signal.SIGKILL)

    assert forked(killed) == -signal.SIGKILL
    with locked(tmp_path):
        pass


@pytest.mark.parametrize("link", [Path.symlink_to, Path.hardlink_to, lambda place, _: os.mkfifo(place)])
def test_a_link_in_place_of_the_lock_is_not_written_to(link: Callable[[Path, Path], None], tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_text("mine")
    link(tmp_path / ".lock", victim)
    for _ in range(2):
        with pytest.raises(RunDirectoryError, match="a link or a special file"), locked(tmp_path):
            pass
    assert victim.read_text() == "mine"


def test_a_link_that_comes_while_the_lock_is_opened_is_not_written_to(tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_text("mine")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(filelock, "FileLock", lambda path, **k: (path.hardlink_to(victim), original(path, **k))[1])
        with pytest.raises(RunDirectoryError, match="a link or a special file"), locked(tmp_path):
            pass
    assert victim.read_text() == "mine"
    (tmp_path / ".lock").unlink()
    with locked(tmp_path):
        pass


original = filelock.FileLock


def test_a_file_system_without_locks_is_written_without_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import errno
    import fcntl

    def refuse(*_: object) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", refuse)
    with held(tmp_path / "x.lock", tmp_path / "x", ResourceError):
        pass
