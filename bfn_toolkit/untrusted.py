"""Files that may come from strangers: opened so that none blocks or never ends, and their claims read before use."""

from __future__ import annotations

import errno
import json
import os
import stat
from io import BufferedReader
from pathlib import Path
from typing import Any, BinaryIO

MAX_HEADER = 16 * 2**20  # bytes of the header of a safetensors file
MAX_TENSORS = 100_000


def open_regular(path: str | Path, *, follow: bool = True) -> BufferedReader:
    """Opens a regular file to read its bytes; a FIFO, which could block, or a device, which may never end, is refused.

    Arguments:
        path: The file.
        follow: Whether it may be a link to a regular file.
    Raises:
        OSError: If it is something else or cannot be opened.
    """
    # The kind is looked at before, because opening a device can have effects, and after, because it may have changed.
    _check_regular(os.stat(path, follow_symlinks=follow))
    handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | (0 if follow else os.O_NOFOLLOW))
    try:
        status = os.fstat(handle)
        _check_regular(status)
        if not status.st_size and os.read(handle, 1):  # as in /proc, where some never end
            raise OSError(errno.EINVAL, "not a plain file: it claims 0 bytes and has more; save its content to a file")
    except BaseException:
        os.close(handle)
        raise
    return os.fdopen(handle, "rb")


def _check_regular(status: os.stat_result) -> None:
    if not stat.S_ISREG(status.st_mode):
        kind = next((word for is_kind, word in _KINDS if is_kind(status.st_mode)), "a special file")
        raise OSError(errno.EINVAL, f"not a regular file, but {kind}")


_KINDS = (
    (stat.S_ISDIR, "a folder"),
    (stat.S_ISLNK, "a link, which is not followed"),
    (stat.S_ISFIFO, "a FIFO"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
)


def tensors_header(file: BinaryIO, size: int) -> dict[str, Any]:
    """The table of a safetensors file: dtype, shape and place of each tensor by its name.

    It refuses repeated names, and so many of them that reading takes seconds; the library safetensors accepts both.

    Arguments:
        file: The file, at its start.
        size: Its size in bytes.
    Raises:
        ValueError: If it is not such a file, or too large.
    """
    start = file.read(8)
    length = int.from_bytes(start, "little")
    if len(start) < 8 or length > min(MAX_HEADER, size - 8):
        raise ValueError("its header does not fit")
    header = file.read(length)
    if header.count(b"{") > MAX_TENSORS + 2:
        raise ValueError(f"it has more than {MAX_TENSORS:,} tensors")
    table = parse_json(header)
    if not isinstance(table, dict):
        raise ValueError("its header is not a table")
    return table


def parse_json(content: bytes) -> Any:
    """Parses JSON; a repeated key is a ValueError."""

    def pairs(items: list[tuple[str, Any]]) -> dict[str, Any]:
        table = dict(items)
        if len(table) < len(items):
            raise ValueError("a key is repeated")
        return table

    return json.loads(content.decode(), object_pairs_hook=pairs)
