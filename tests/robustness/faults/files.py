"""Files that somebody made to do harm; written when they are needed, so that none of them lies in the repository."""

from __future__ import annotations

import json
import os
import pickle
import zipfile
from collections.abc import Iterator
from io import BytesIO
from typing import Any


class Payload:
    """A pickle that, when it is read, makes a directory."""

    def __init__(self, path: str) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return os.mkdir, (self.path,)


def safetensors(header: object, data: bytes = b"", length: int | None = None) -> bytes:
    """A safetensors file with any header."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return (len(text) if length is None else length).to_bytes(8, "little") + text + data


def hostile_files(payload: str) -> Iterator[tuple[str, bytes]]:
    """Files under the name of a safetensors file, each with the name of what is wrong with it.

    Arguments:
        payload: The directory that a pickle makes when it is executed.
    """

    def entry(start: int, stop: int, shape: object = (2,), dtype: object = "F32") -> dict[str, object]:
        return {"dtype": dtype, "shape": shape, "data_offsets": [start, stop]}

    yield "pickle", pickle.dumps(Payload(payload))
    yield "pickle of an old protocol", pickle.dumps(Payload(payload), protocol=0)
    good = safetensors({"a": entry(0, 8)}, bytes(8))
    yield "empty", b""
    yield "three bytes", b"abc"
    yield "header of 2**63 bytes", safetensors({"a": entry(0, 8)}, bytes(8), 2**63)
    yield "header of 2**64 - 1 bytes", safetensors({"a": entry(0, 8)}, bytes(8), 2**64 - 1)
    yield "header longer than the file", safetensors({"a": entry(0, 8)}, bytes(8), 1000)
    yield "header of 17 MB", safetensors(b'{"a":' + b" " * 17 * 2**20 + b"1}")
    yield "truncated", good[:-1]
    yield "bytes that follow", good + b"x"
    yield "overlap", safetensors({"a": entry(0, 8), "b": entry(4, 12)}, bytes(12))
    yield "hole", safetensors({"a": entry(0, 8), "b": entry(12, 20)}, bytes(20))
    yield (
        "duplicate key",
        safetensors(
            b'{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}',
            bytes(8),
        ),
    )
    for n in (150_000, 300_000):  # the header of the first is below 16 MB
        table = b",".join(b'"%x":{"dtype":"U8","shape":[0],"data_offsets":[0,0]}' % i for i in range(n))
        yield f"{n} tensors", safetensors(b"{" + table + b"}")
    yield "deep JSON", safetensors(b'{"a":' + b"[" * 100_000 + b"]" * 100_000 + b"}")
    yield "huge integer", safetensors(b'{"a":' + b"9" * 100_000 + b"}")
    yield "not UTF-8", safetensors(b'{"\xff":1}')
    yield "no table", safetensors([1, 2])
    yield "entry is a number", safetensors({"a": 1})
    yield "shape is infinite", safetensors(b'{"a":{"dtype":"F32","shape":[Infinity],"data_offsets":[0,8]}}', bytes(8))
    yield "negative shape", safetensors({"a": entry(0, 8, (-2,))}, bytes(8))
    yield "overflowing shape", safetensors({"a": entry(0, 8, (2**62, 2**62))}, bytes(8))
    yield "unknown dtype", safetensors({"a": entry(0, 8, (2,), "F99")}, bytes(8))
    yield "dtype is a list", safetensors({"a": entry(0, 8, (2,), [])}, bytes(8))
    yield "name of a path", safetensors({"../../a": entry(0, 8)}, bytes(8))
    archive = BytesIO()
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("archive/data.pkl", pickle.dumps(Payload(payload)))
    yield "torch archive", archive.getvalue()
