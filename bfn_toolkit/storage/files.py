"""Durable files: a reader sees all of a write or nothing of it, also after a crash.

A file is written beside its final name, flushed to disk and renamed.  A folder is written the same way: its files, then
``MANIFEST.json`` with the size and the SHA-256 of each, then one rename.  So a folder under its final name is complete,
and later damage is noticed when it is read.  Nothing but a file that grows is changed in place (:func:`open_in_place`).

A folder may be a stranger's.  What lies where we write is never followed: a link is refused, or removed as a link.

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
from bfn_toolkit.untrusted import open_regular, parse_json

MANIFEST = "MANIFEST.json"
FORMAT = 1
SUMS = "SHA256SUMS"  # of the files of a model, in the form that `sha256sum -c` reads
NEXT = ".new-"  # beginning of the names of files that are about to replace others together
MAX_JSON = 16 * 2**20  # bytes of any JSON file that is read
SPACE = 1.1  # required free space, as a multiple of the size to write
# From network file systems that flush on their own terms.
_WITHOUT_SYNC = (errno.EINVAL, errno.EBADF, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP)
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_READ_ONLY = (errno.EROFS, errno.EACCES, errno.EPERM)


class FullDiskError(ResourceError):
    """There is not enough space for a file."""


def resource_error(error: OSError, path: Path, needed: int | None = None) -> ResourceError:
    """The toolkit's error for an operating-system error in writing ``path``."""
    reason = error.strerror or str(error)
    if error.errno not in _FULL:
        hint = "; choose a place that may be written to" if error.errno in _READ_ONLY else ""
        return ResourceError(f"cannot write {path}: {reason}{hint}")
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
        os.chmod(temporary, 0o666 & ~umask())
        os.replace(temporary, path)
        sync_folder(path.parent)
    except OSError as error:
        if temporary is not None:
            Path(temporary).unlink(missing_ok=True)
        raise resource_error(error, path, len(data)) from error


def umask() -> int:
    """The mask of this process for the modes of new files."""
    mask = os.umask(0)
    os.umask(mask)
    return mask


def write_data(file: Any, data: bytes) -> None:
    """Writes all of the data and flushes it to the disk."""
    file.write(data)
    file.flush()
    _sync(file.fileno())


def write_pieces(file: BinaryIO, pieces: Iterable[tuple[int, bytes]]) -> None:
    """Writes bytes at their places in an open file, durably."""
    for place, data in pieces:
        file.seek(place)
        write_data(file, data)


def open_in_place(path: Path) -> BinaryIO:
    """Opens a file of ours to read and change it, and makes it if it is missing.

    Raises:
        RunDirectoryError: If something else has its name: a link, of either kind, would lead to a file of the user's.
        OSError: If it cannot be opened.
    """
    check_ours(path)
    flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK
    handle = os.open(path, flags, 0o666)
    try:
        check_ours(path, os.fstat(handle))
    except BaseException:
        os.close(handle)
        raise
    return os.fdopen(handle, "r+b", buffering=0)


def check_ours(path: Path, status: os.stat_result | None = None) -> None:
    """Checks that a file that we change in place is a regular file with one name, or missing.

    Raises:
        RunDirectoryError: If it is not.
    """
    try:
        status = status or path.lstat()
    except FileNotFoundError:
        return
    if not (stat.S_ISREG(status.st_mode) and status.st_nlink == 1):
        raise RunDirectoryError(f"{path} is a link or a special file, which is not written to; remove it")


def check_inside(folder: Path) -> None:
    """Checks that a folder of ours within another is not a link, through which files elsewhere would change.

    Raises:
        RunDirectoryError: If it is.
    """
    if folder.is_symlink():
        raise RunDirectoryError(f"{folder} is a link, which is not followed; move the folder that it names here")


def discard(path: Path) -> None:
    """Removes a file, a folder or a link, if it is there; never what a link leads to."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def sync_folder(folder: Path) -> None:
    """Makes the names in a folder durable, where its file system can."""
    try:
        handle = os.open(folder, os.O_RDONLY)
    except PermissionError:  # a folder that can be written to, but not read
        return
    try:
        _sync(handle)
    finally:
        os.close(handle)


def _sync(handle: int) -> None:
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in _WITHOUT_SYNC:
            raise


def write_together(folder: Path, files: Mapping[str, bytes]) -> None:
    """Writes files that are read together, with ``SHA256SUMS``, so that a crash leaves all of the old or of the new.

    They are written beside those that they replace, the digests last.  From then on :func:`read_checked` reads the new
    ones, while they get their names.  Digests cover exact bytes, so any flipped bit is noticed, here and by
    ``sha256sum -c``.

    Arguments:
        folder: Folder of the files.
        files: Contents by name.
    Raises:
        ResourceError: If a file cannot be written; the old ones are then unchanged.
    """
    names = (*files, SUMS)
    put_together(folder, names)  # what a crash has left
    sums = "".join(f"{digest(data)}  {name}\n" for name, data in files.items())
    try:
        for name, data in {**files, SUMS: sums.encode()}.items():
            write_atomically(folder / f"{NEXT}{name}", data)
    except ResourceError:
        if not (folder / f"{NEXT}{SUMS}").exists():
            for name in files:
                (folder / f"{NEXT}{name}").unlink(missing_ok=True)
        raise
    put_together(folder, names)


def put_together(folder: Path, names: Iterable[str]) -> None:
    """Gives files that :func:`write_together` has written their names, if a crash came before: the digests last.

    Raises:
        ResourceError: If that is not possible.
    """
    if not (folder / f"{NEXT}{SUMS}").exists():
        return
    try:
        for name in names:
            if (folder / f"{NEXT}{name}").exists():
                os.replace(folder / f"{NEXT}{name}", folder / name)
        sync_folder(folder)
    except OSError as error:
        raise resource_error(error, folder) from error


def read_checked(folder: Path, name: str, most: int | None = None) -> bytes:
    """The content of a file that :func:`write_together` wrote.

    Raises:
        RunDirectoryError: If it is missing, larger than ``most`` bytes or damaged.
    """
    new = (folder / f"{NEXT}{SUMS}").exists()
    path = folder / f"{NEXT}{name}"
    path = path if new and path.exists() else folder / name
    content = read_regular(path, most)
    sums = read_regular(folder / f"{NEXT if new else ''}{SUMS}", MAX_JSON).decode(errors="replace")
    check_digest(path, content, {found[2]: found[1] for found in re.finditer(r"(?m)^(\w+)  (.+)$", sums)}.get(name))
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


def to_json(value: Any, indent: int | None = 2) -> str:
    """JSON text, with null for numbers that are not finite."""

    def plain(item: Any) -> Any:
        if isinstance(item, Mapping):
            return {key: plain(part) for key, part in item.items()}
        if isinstance(item, (list, tuple)):
            return [plain(part) for part in item]
        return None if isinstance(item, float) and not math.isfinite(item) else item

    return json.dumps(plain(value), indent=indent, allow_nan=False)


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


def read_regular(path: Path, most: int | None = None) -> bytes:
    """The content of a regular file that is not a link.

    Raises:
        RunDirectoryError: If it is missing, not such a file or larger than ``most`` bytes.
    """
    try:
        with open_regular(path, follow=False) as file:
            size = os.fstat(file.fileno()).st_size
            if most is not None and size > most:
                raise RunDirectoryError(f"{path} has {shown_size(size)}, more than {shown_size(most)}")
            return file.read(size)
    except FileNotFoundError:
        raise RunDirectoryError(f"{path} is missing") from None
    except OSError as error:
        raise RunDirectoryError(f"{path} cannot be read: {error.strerror}") from None
    except MemoryError:
        raise ResourceError(f"{path} has {shown_size(size)}, which does not fit into memory") from None
