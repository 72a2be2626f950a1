"""JSON files that hold the SHA-256 of their own content, so that damage is noticed when they are read."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bfn_toolkit.errors import RunDirectoryError
from bfn_toolkit.storage.files import digest, read_json, to_json, write_atomically

SEAL = "sha256"  # the key of the digest


def write_sealed(path: Path, record: Mapping[str, Any]) -> None:
    """Writes a record, and its digest under the key :data:`SEAL`.

    Raises:
        ResourceError: If it cannot be written; the old file is then unchanged.
    """
    write_atomically(path, to_json({**record, SEAL: _digest(record)}) + "\n")


def read_sealed(path: Path) -> dict[str, Any]:
    """Reads a record, without its digest.

    Raises:
        RunDirectoryError: If it is missing, malformed, or not as it was written.
    """
    record = read_json(path)
    if not isinstance(record, dict) or record.pop(SEAL, None) != _digest(record):
        raise RunDirectoryError(f"{path} is damaged: its content does not match its stored SHA-256")
    return record


def _digest(record: Mapping[str, Any]) -> str:
    """SHA-256 of a record, whatever the order of its keys."""
    return digest(json.dumps(json.loads(to_json(record)), sort_keys=True).encode())
