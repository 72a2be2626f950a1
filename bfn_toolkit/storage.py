"""Durable files: a reader, and whoever comes after a crash, sees all of a write or nothing of it.

A file is written beside its final name, flushed to disk and renamed.  A folder is written the same way: its files, then
``MANIFEST.json`` with the size and the SHA-256 of each, then one rename.  So a folder under its final name is complete,
and whatever happens to it afterwards is noticed when it is read.  Nothing is ever changed in place.

Leftovers of a crash have names that begin with ``.tmp-`` (being written) or ``.del-`` (being removed).
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import hashlib
import itertools
import json
import math
import os
import shutil
import socket
import stat
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

from bfn_toolkit.errors import ResourceError, RunDirectoryError

MANIFEST = "MANIFEST.json"
FORMAT = 1
SEAL = "seal"  # key, in manifests and descriptions, of the SHA-256 of everything else in them
MAX_JSON = 16 * 2**20  # bytes of any JSON file that is read
SPACE = 1.1  # free space asked for, in units of what is to be written
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class FullDiskError(ResourceError):
    """There is not enough space for a file."""


def resource_error(error: OSError, path: Path, needed: int | None = None) -> ResourceError:
    """The toolkit's error for an operating-system error in writing ``path``."""
    reason = error.strerror or str(error)
    if error.errno not in _FULL:
        return ResourceError(f"cannot write {path}: {reason}")
    size = "" if needed is None else f" (needed {shown_size(needed)}, free {shown_size(free_space(path))})"
    return FullDiskError(f"cannot write {path}: {reason}{size}; free some space or write elsewhere")


def shown_size(n: float) -> str:
    """A number of bytes as people write it."""
    power = min(4, (len(str(int(n))) - 1) // 3)
    return f"{n / 1000**power:.{1 if power else 0}f} {('bytes', 'kB', 'MB', 'GB', 'TB')[power]}"


def free_space(path: Path) -> int:
    """Bytes that may be written where ``path`` is, or will be."""
    here = next(p for p in (path, *path.absolute().parents) if p.exists())
    return shutil.disk_usage(here).free


def check_space(path: Path, size: int) -> None:
    """Checks that ``size`` bytes and a tenth more fit where ``path`` will be.

    Raises:
        FullDiskError: If they do not.
    """
    needed, free = int(size * SPACE), free_space(path)
    if needed > free:
        raise FullDiskError(
            f"cannot write {path}: needed {shown_size(needed)}, free {shown_size(free)}; "
            "free some space or write elsewhere"
        )


def write_atomically(path: Path, content: bytes | str) -> None:
    """Replaces a file by new content, in one step and durably.

    Raises:
        ResourceError: If the file cannot be written; what was there before is then still there.
    """
    data = content.encode() if isinstance(content, str) else content
    temporary = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(prefix=f".tmp-{path.name}-", dir=path.parent)
        with os.fdopen(handle, "wb") as file:
            _write(file, data)
        os.chmod(temporary, 0o666 & ~_umask())
        os.replace(temporary, path)
        sync_folder(path.parent)
    except OSError as error:
        if temporary is not None:
            Path(temporary).unlink(missing_ok=True)
        raise resource_error(error, path, len(data)) from error


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def _write(file: Any, data: bytes) -> None:
    file.write(data)
    file.flush()
    os.fsync(file.fileno())


def write_pieces(file: BinaryIO, pieces: Iterable[tuple[int, bytes]]) -> None:
    """Writes bytes at their places in an open file, durably."""
    for place, data in pieces:
        file.seek(place)
        _write(file, data)


def put_in_place(temporary: Path, path: Path) -> None:
    """Gives a file that is complete its final name, in one step and durably.

    Raises:
        ResourceError: If that is not possible.
    """
    try:
        os.replace(temporary, path)
        sync_folder(path.parent)
    except OSError as error:
        raise resource_error(error, path) from error


def remove_file(path: Path) -> None:
    """Removes a file, if it is there, durably.

    Raises:
        ResourceError: If that is not possible.
    """
    try:
        if path.exists():
            path.unlink()
            sync_folder(path.parent)
    except OSError as error:
        raise resource_error(error, path) from error


def sync_folder(folder: Path) -> None:
    """Makes the names in a folder durable."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_folder(folder: Path, files: Mapping[str, bytes], facts: Mapping[str, Any]) -> None:
    """Writes a folder of files with a manifest, in one step and durably; one that is there already is replaced.

    Arguments:
        folder: Its final name.
        files: Contents by name.
        facts: What the manifest says besides, readable without reading the files.
    Raises:
        ResourceError: If it cannot be written; what was there before is then still there.
    """
    size = sum(map(len, files.values()))
    temporary = folder.with_name(f".tmp-{folder.name}-{socket.gethostname()}-{os.getpid()}")
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        check_space(folder, size)
        remove_tree(temporary)
        temporary.mkdir()
        table = {name: {"size": len(data), "sha256": hashlib.sha256(data).hexdigest()} for name, data in files.items()}
        manifest = sealed({"format": FORMAT, **facts, "files": table})
        for name, data in {**files, MANIFEST: manifest.encode()}.items():
            with (temporary / name).open("xb") as file:
                _write(file, data)
        sync_folder(temporary)
        if not folder.exists():
            os.replace(temporary, folder)
        elif not _exchanged(temporary, folder):
            os.replace(folder, folder.with_name(_free_name(folder, ".del-")))
            os.replace(temporary, folder)
        sync_folder(folder.parent)
    except OSError as error:
        remove_tree(temporary)
        raise resource_error(error, folder, size) from error
    except ResourceError:
        remove_tree(temporary)
        raise
    remove_tree(temporary)  # now the folder that was replaced
    sweep(folder.parent, f".del-{folder.name}-")


def _exchanged(a: Path, b: Path) -> bool:
    """Lets two folders change names in one step, and returns whether the system can do that."""
    rename = getattr(ctypes.CDLL(None), "renameat2", None)
    here, exchange = -100, 2  # AT_FDCWD, RENAME_EXCHANGE of Linux
    return (
        rename is not None and rename(here, os.fsencode(a.absolute()), here, os.fsencode(b.absolute()), exchange) == 0
    )


def _free_name(folder: Path, prefix: str) -> str:
    names = (f"{prefix}{folder.name}-{i}" for i in itertools.count())
    return next(name for name in names if not folder.with_name(name).exists())


def remove_tree(folder: Path) -> None:
    """Removes a folder, if it is there; nothing that cannot be removed stops the caller."""
    shutil.rmtree(folder, ignore_errors=True)


def remove_folder(folder: Path) -> None:
    """Removes a folder so that a crash leaves it whole or out of sight."""
    gone = folder.with_name(_free_name(folder, ".del-"))
    with suppress(OSError):  # a folder that cannot be removed is only in the way
        os.replace(folder, gone)
        sync_folder(folder.parent)
    remove_tree(gone)


def sweep(parent: Path, *prefixes: str) -> None:
    """Removes what crashes left in a folder that nobody else writes to."""
    for prefix in prefixes or (".tmp-", ".del-"):
        for leftover in parent.glob(f"{prefix}*"):
            remove_tree(leftover) if leftover.is_dir() else leftover.unlink(missing_ok=True)


def sealed(facts: Mapping[str, Any]) -> str:
    """JSON text of facts, and of the SHA-256 of all that they say."""
    plain = json.loads(json.dumps(facts))
    return json.dumps({**plain, SEAL: _digest(plain)}, indent=2) + "\n"


def check_seal(facts: Mapping[str, Any], path: Path) -> None:
    """Checks that what was read from a file is what :func:`sealed` wrote.

    Raises:
        RunDirectoryError: If it is not.
    """
    if facts.get(SEAL) != _digest({key: value for key, value in facts.items() if key != SEAL}):
        raise RunDirectoryError(f"{path} is damaged: what it says does not have the SHA-256 that stands in it")


def _digest(facts: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


def to_json(value: Any) -> str:
    """JSON text in which what is not finite is null."""

    def plain(item: Any) -> Any:
        if isinstance(item, Mapping):
            return {key: plain(part) for key, part in item.items()}
        if isinstance(item, (list, tuple)):
            return [plain(part) for part in item]
        return None if isinstance(item, float) and not math.isfinite(item) else item

    return json.dumps(plain(value), indent=2)


def read_json(path: Path, most: int = MAX_JSON) -> Any:
    """Reads a JSON file of bounded size, in which no key stands twice.

    Raises:
        RunDirectoryError: If it is missing, too large or not such JSON.
    """
    try:
        content = read_regular(path, most)
        return parse_json(content)
    except (ValueError, RecursionError) as error:
        raise RunDirectoryError(f"{path} is not JSON as expected: {_why(error)}") from None


def _why(error: Exception) -> str:
    return "nested too deeply" if isinstance(error, RecursionError) else str(error)


def parse_json(content: bytes) -> Any:
    """Parses JSON; a key that stands twice is a ValueError."""

    def pairs(items: list[tuple[str, Any]]) -> dict[str, Any]:
        table = dict(items)
        if len(table) < len(items):
            raise ValueError("a key stands twice")
        return table

    return json.loads(content.decode(), object_pairs_hook=pairs)


def read_regular(path: Path, most: int | None = None) -> bytes:
    """The content of a regular file that is no link.

    Raises:
        RunDirectoryError: If it is missing, something else or larger than ``most`` bytes.
    """
    try:
        status = path.lstat()
        if not stat.S_ISREG(status.st_mode):
            raise RunDirectoryError(f"{path} is not a regular file, so it is outside the checkpoint")
        if most is not None and status.st_size > most:
            raise RunDirectoryError(f"{path} has {shown_size(status.st_size)}, more than {shown_size(most)}")
        return path.read_bytes()
    except FileNotFoundError:
        raise RunDirectoryError(f"{path} is missing") from None
    except OSError as error:
        raise RunDirectoryError(f"{path} cannot be read: {error.strerror}") from None


def read_manifest(folder: Path) -> dict[str, Any]:
    """The manifest of a folder, whose table of files is well formed.

    Raises:
        RunDirectoryError: If it is missing, malformed, names a file outside or is of another format.
    """
    path = folder / MANIFEST
    manifest = read_json(path)
    if not isinstance(manifest, dict):
        raise RunDirectoryError(f"{path} is not a manifest")
    if manifest.get("format") != FORMAT:
        written = manifest.get("bfn-toolkit", "another version")
        raise RunDirectoryError(
            f"{path} has format {manifest.get('format')}, written by {written}; this version reads format {FORMAT}. "
            "Upgrade bfn-toolkit"
        )
    check_seal(manifest, path)
    files = manifest.get("files")
    if not isinstance(files, dict) or not files:
        raise RunDirectoryError(f"{path} is not a manifest: it names no files")
    for name, entry in files.items():
        if not name or name in (".", "..", MANIFEST) or set(name) & set("/\\\0"):
            raise RunDirectoryError(f"{path}: {name!r} is outside the checkpoint")
        fits = isinstance(entry, dict) and isinstance(entry.get("sha256"), str) and isinstance(entry.get("size"), int)
        if not fits:
            raise RunDirectoryError(f"{path} is not a manifest: {name} has no size and SHA-256")
    return manifest


def read_folder(folder: Path) -> tuple[dict[str, Any], dict[str, bytes]]:
    """The manifest and the files of a folder, after checking every byte of them.

    Raises:
        RunDirectoryError: If a file is missing, damaged or not in the manifest.
    """
    manifest = read_manifest(folder)
    try:
        extra = set(os.listdir(folder)) - {*manifest["files"], MANIFEST}
    except OSError as error:  # it may just have been removed
        raise RunDirectoryError(f"{folder} cannot be read: {error.strerror}") from None
    if extra:
        raise RunDirectoryError(f"{folder} holds {', '.join(sorted(extra)[:5])}, which its manifest does not name")
    files = {}
    for name, entry in manifest["files"].items():
        data = read_regular(folder / name, entry["size"])
        if len(data) != entry["size"]:
            raise RunDirectoryError(f"{folder / name} is damaged: {len(data)} bytes, expected {entry['size']}")
        if hashlib.sha256(data).hexdigest() != entry["sha256"]:
            raise RunDirectoryError(f"{folder / name} is damaged: its SHA-256 is not the one that the manifest names")
        files[name] = data
    return manifest, files


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


_held: set[int] = set()  # files of the locks that this process has


def _let_go() -> None:
    """A forked child, such as a worker that fetches rows, holds nothing: it may live longer than its parent."""
    for handle in _held:
        os.close(handle)
    _held.clear()


os.register_at_fork(after_in_child=_let_go)
