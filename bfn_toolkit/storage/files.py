"""Durable files: a reader sees all of a write or nothing of it, also after a crash.

A file is written beside its final name, flushed to disk and renamed.  A folder is written the same way: its files, then
``MANIFEST.json`` with the size and the SHA-256 of each, then one rename.  So a folder under its final name is complete,
and later damage is noticed when it is read.  Nothing is ever changed in place.

Leftovers of a crash have names that begin with ``.tmp-`` (being written) or ``.del-`` (being removed).
"""

from __future__ import annotations

import errno
import hashlib
import json
import math
import os
import re
import shutil
import stat
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, BinaryIO

from bfn_toolkit.errors import ResourceError, RunDirectoryError

MANIFEST = "MANIFEST.json"
FORMAT = 1
SUMS = "SHA256SUMS"  # of the files of a model, in the form that `sha256sum -c` reads
MAX_JSON = 16 * 2**20  # bytes of any JSON file that is read
SPACE = 1.1  # required free space, as a multiple of the size to write
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
    """A number of bytes in words: "1.5 MB"."""
    power = min(4, (len(str(int(n))) - 1) // 3)
    return f"{n / 1000**power:.{1 if power else 0}f} {('bytes', 'kB', 'MB', 'GB', 'TB')[power]}"


def free_space(path: Path) -> int:
    """Number of bytes that may be written where ``path`` is, or will be."""
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
        ResourceError: If the file cannot be written; the old file is then unchanged.
    """
    data = content.encode() if isinstance(content, str) else content
    temporary = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(prefix=f".tmp-{path.name}-", dir=path.parent)
        with os.fdopen(handle, "wb") as file:
            write_data(file, data)
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


def write_data(file: Any, data: bytes) -> None:
    """Writes all of the data and flushes it to the disk."""
    file.write(data)
    file.flush()
    os.fsync(file.fileno())


def write_pieces(file: BinaryIO, pieces: Iterable[tuple[int, bytes]]) -> None:
    """Writes bytes at their places in an open file, durably."""
    for place, data in pieces:
        file.seek(place)
        write_data(file, data)


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


def write_together(folder: Path, files: Mapping[str, bytes]) -> None:
    """Writes files that are read together, with ``SHA256SUMS`` before the last of them.

    If a crash leaves old files beside new ones, the digests do not match.  Digests cover exact bytes, so any flipped
    bit is noticed, here and by ``sha256sum -c``.

    Arguments:
        folder: Folder of the files.
        files: Contents by name.
    Raises:
        ResourceError: If a file cannot be written.
    """
    sums = "".join(f"{digest(data)}  {name}\n" for name, data in files.items())
    *others, last = files.items()
    for name, data in (*others, (SUMS, sums.encode()), last):
        write_atomically(folder / name, data)


def read_checked(folder: Path, name: str, most: int | None = None) -> bytes:
    """The content of a file that :func:`write_together` wrote.

    Raises:
        RunDirectoryError: If it is missing, larger than ``most`` bytes or damaged.
    """
    content = read_regular(folder / name, most)
    sums = read_regular(folder / SUMS, MAX_JSON).decode(errors="replace")
    check_digest(
        folder / name, content, {found[2]: found[1] for found in re.finditer(r"(?m)^(\w+)  (.+)$", sums)}.get(name)
    )
    return content


def check_digest(path: Path, content: bytes, expected: object) -> None:
    """Checks the content of a file.

    Raises:
        RunDirectoryError: If its SHA-256 differs.
    """
    if digest(content) != expected:
        raise RunDirectoryError(f"{path} is damaged: its content does not match its stored SHA-256")


def digest(content: bytes) -> str:
    """SHA-256 in hexadecimal."""
    return hashlib.sha256(content).hexdigest()


def to_json(value: Any) -> str:
    """JSON text, with null for numbers that are not finite."""

    def plain(item: Any) -> Any:
        if isinstance(item, Mapping):
            return {key: plain(part) for key, part in item.items()}
        if isinstance(item, (list, tuple)):
            return [plain(part) for part in item]
        return None if isinstance(item, float) and not math.isfinite(item) else item

    return json.dumps(plain(value), indent=2)


def read_json(path: Path, most: int = MAX_JSON) -> Any:
    """Reads a JSON file of bounded size, without repeated keys.

    Raises:
        RunDirectoryError: If it is missing, too large or malformed.
    """
    return parse_file(read_regular(path, most), path)


def parse_file(content: bytes, path: Path) -> Any:
    """Parses the content of a JSON file.

    Raises:
        RunDirectoryError: If it is not JSON, or a key is repeated.
    """
    try:
        return parse_json(content)
    except (ValueError, RecursionError) as error:
        why = "nested too deeply" if isinstance(error, RecursionError) else error
        raise RunDirectoryError(f"{path} is not JSON as expected: {why}") from None


def parse_json(content: bytes) -> Any:
    """Parses JSON; a repeated key is a ValueError."""

    def pairs(items: list[tuple[str, Any]]) -> dict[str, Any]:
        table = dict(items)
        if len(table) < len(items):
            raise ValueError("a key is repeated")
        return table

    return json.loads(content.decode(), object_pairs_hook=pairs)


def read_regular(path: Path, most: int | None = None) -> bytes:
    """The content of a regular file that is not a link.

    Raises:
        RunDirectoryError: If it is missing, not such a file or larger than ``most`` bytes.
    """
    try:
        status = path.lstat()
        if not stat.S_ISREG(status.st_mode):
            raise RunDirectoryError(f"{path} is not a regular file (links are not followed)")
        if most is not None and status.st_size > most:
            raise RunDirectoryError(f"{path} has {shown_size(status.st_size)}, more than {shown_size(most)}")
        return path.read_bytes()
    except FileNotFoundError:
        raise RunDirectoryError(f"{path} is missing") from None
    except OSError as error:
        raise RunDirectoryError(f"{path} cannot be read: {error.strerror}") from None
