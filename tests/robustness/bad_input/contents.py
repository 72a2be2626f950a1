"""Contents of data files, and a small table."""

from __future__ import annotations

import io
from typing import Any

import numpy as np

X = np.random.default_rng(0).normal([3.0, -1.0, 100.0], [1.0, 0.1, 20.0], (100, 3))


def csv_of(rows: Any, header: str | None = "a,b,c") -> str:
    lines = [",".join(str(v) for v in row) for row in rows]
    return "\n".join([*([header] if header else []), *lines, ""])


def npy_of(array: Any) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=True)
    return buffer.getvalue()


def npz_of(compressed: bool = False, **arrays: Any) -> bytes:
    buffer = io.BytesIO()
    (np.savez_compressed if compressed else np.savez)(buffer, **arrays)
    return buffer.getvalue()


def header_of(shape: tuple[int, ...], dtype: str = "<f8") -> bytes:
    """A .npy of this header and 64 bytes."""
    buffer = io.BytesIO()
    np.lib.format.write_array_header_1_0(buffer, {"shape": shape, "fortran_order": False, "descr": dtype})
    return buffer.getvalue() + bytes(64)


def with_value(row: int, column: int, value: object) -> Any:
    rows = X.astype(object)
    rows[row, column] = value
    return rows
