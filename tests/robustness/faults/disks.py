"""Faults of disks: full ones, flipped bits, files that changed places."""

from __future__ import annotations

import errno
import os
import random
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from bfn_toolkit.storage import files, folders


class Usage(NamedTuple):
    """What :func:`shutil.disk_usage` returns."""

    total: int
    used: int
    free: int


@contextmanager
def tiny_fs(folder: Path, mb: int) -> Iterator[Path]:
    """A file system of so many MB at ``folder``: a real one where that is allowed, else writes fail as they would."""
    folder.mkdir(parents=True, exist_ok=True)
    mounted = os.geteuid() == 0 and _succeeds("mount", "-t", "tmpfs", "-o", f"size={mb}m", "tmpfs", str(folder))
    if mounted:
        try:
            yield folder
        finally:
            subprocess.run(["umount", "-l", str(folder)], check=True)
    else:
        with simulated_fs(folder, mb):
            yield folder


def _succeeds(*command: str) -> bool:
    try:
        return subprocess.run(command, capture_output=True).returncode == 0
    except FileNotFoundError:
        return False


@contextmanager
def simulated_fs(folder: Path, mb: int) -> Iterator[Path]:
    """A folder in which this process can write so many MB."""
    whole, limit = files.write_data, mb * 2**20

    def used() -> int:
        return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())

    def write(file: Any, data: bytes) -> None:
        room = limit - used()
        inside = folder in Path(str(file.name)).parents or isinstance(file.name, int)
        if inside and len(data) > room:
            file.write(data[:room])
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        whole(file, data)

    with pytest.MonkeyPatch.context() as patch:
        for module in (files, folders):
            patch.setattr(module, "write_data", write)
        patch.setattr(files.shutil, "disk_usage", lambda _: Usage(limit, used(), max(0, limit - used())))
        yield folder


@contextmanager
def other_tmpdir_fs(folder: Path) -> Iterator[Path]:
    """Within it, temporary files are made on another file system than ``folder``, where there is one."""
    other = next((p for p in (Path("/dev/shm"), Path("/run")) if _is_other(p, folder)), None)
    if other is None:
        pytest.skip("there is no other file system that can be written to")
    with tempfile.TemporaryDirectory(dir=other) as name, pytest.MonkeyPatch.context() as patch:
        patch.setenv("TMPDIR", name)
        patch.setattr(tempfile, "tempdir", None)
        yield Path(name)


def _is_other(place: Path, folder: Path) -> bool:
    return place.is_dir() and os.access(place, os.W_OK) and place.stat().st_dev != folder.stat().st_dev


def flip_bit(path: Path, seed: int) -> int:
    """Flips one bit of a file and returns its number; the same call flips it back."""
    content = bytearray(path.read_bytes())
    bit = random.Random(seed).randrange(8 * len(content))
    content[bit // 8] ^= 1 << bit % 8
    path.write_bytes(content)
    return bit


def swap_files(a: Path, b: Path) -> None:
    """Two files change places."""
    content = a.read_bytes()
    a.write_bytes(b.read_bytes())
    b.write_bytes(content)


def zero_page(path: Path, size: int = 64) -> None:
    """A page in the middle of a file is lost."""
    content = bytearray(path.read_bytes())
    start = max(0, len(content) // 2 - size // 2)
    content[start : start + size] = bytes(len(content[start : start + size]))
    path.write_bytes(content)


def truncate(path: Path, share: float = 0.6) -> None:
    """The end of a file is lost."""
    os.truncate(path, int(path.stat().st_size * share))
