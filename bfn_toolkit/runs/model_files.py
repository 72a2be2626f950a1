"""The model of a run in files: ``model.safetensors``, ``SHA256SUMS``, and ``model.json``, which is written last."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from bfn_toolkit.errors import RunDirectoryError
from bfn_toolkit.storage.files import (
    FORMAT,
    MAX_JSON,
    digest,
    parse_file,
    read_checked,
    to_json,
    write_together,
)
from bfn_toolkit.storage.safetensors_files import State, dumps, loads

WEIGHTS, DESCRIPTION = "model.safetensors", "model.json"


def save_model(folder: Path, weights: State, description: Mapping[str, Any]) -> None:
    """Writes weights and buffers, and a description of them, into a folder; a crash leaves the old ones or these.

    Raises:
        NonFiniteError: If a weight is NaN or infinite; nothing is written then.
        ResourceError: If a file cannot be written.
    """
    content = dumps(weights)
    header = {"format": FORMAT, "sha256": digest(content), "torch": torch.__version__}
    text = to_json({**header, **description}) + "\n"
    files = {WEIGHTS: content, DESCRIPTION: text.encode()}
    write_together(folder, files)


def verify_model(folder: Path) -> dict[str, Any]:
    """Row of a table on the model of a run: name, step, size and fault."""
    row: dict[str, Any] = {"name": WEIGHTS, "step": None, "valid_loss": None, "bytes": 0, "fault": None}
    try:
        row["step"] = load_description(folder).get("step")
        content = read_checked(folder, WEIGHTS)
        loads(content, folder / WEIGHTS)
        row["bytes"] = len(content)
    except RunDirectoryError as error:
        row["fault"] = str(error)
    return row


def load_description(folder: Path) -> dict[str, Any]:
    """Reads ``model.json``.

    Raises:
        RunDirectoryError: If it is missing, malformed, damaged or of a newer format.
    """
    path = folder / DESCRIPTION
    description = parse_file(read_checked(folder, DESCRIPTION, MAX_JSON), path)
    if not isinstance(description, dict):
        raise RunDirectoryError(f"{path} is not a description of a model")
    if description.get("format") != FORMAT:
        found = description.get("format")
        raise RunDirectoryError(f"{path} has format {found}; this version reads format {FORMAT}. Upgrade bfn-toolkit")
    if not isinstance(description.get("step"), int):
        raise RunDirectoryError(f"{path} is not a description of a model: it has no step")
    return description


def load_model(folder: Path, expected: State, *, allow_nonfinite: bool = False) -> dict[str, Tensor]:
    """Weights that :func:`save_model` wrote, after checking that they fit the network.

    Raises:
        RunDirectoryError: If a file is missing or damaged, or does not fit the network.
    """
    load_description(folder)
    return loads(read_checked(folder, WEIGHTS), folder / WEIGHTS, expected, allow_nonfinite=allow_nonfinite)
