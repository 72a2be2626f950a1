"""The model of a run in files: ``model.safetensors``, and ``model.json``, written last, with its SHA-256."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from bfn_toolkit.errors import RunDirectoryError
from bfn_toolkit.storage.files import FORMAT, check_seal, read_json, read_regular, remove_file, sealed, write_atomically
from bfn_toolkit.storage.safetensors_files import State, dumps, header_of, loads

WEIGHTS, DESCRIPTION = "model.safetensors", "model.json"


def save_model(folder: Path, weights: State, description: Mapping[str, Any]) -> None:
    """Writes weights and buffers, and a description of them, into a folder.

    A description that is there goes first: so weights never stand beside that of others, whenever a crash comes.

    Raises:
        NonFiniteError: If a weight is NaN or infinite; nothing is written then.
        ResourceError: If a file cannot be written.
    """
    content = dumps(weights)
    remove_file(folder / DESCRIPTION)
    write_atomically(folder / WEIGHTS, content)
    header = {"format": FORMAT, "sha256": hashlib.sha256(content).hexdigest(), "torch": torch.__version__}
    write_atomically(folder / DESCRIPTION, sealed({**header, **description}))


def verify_model(folder: Path) -> dict[str, Any]:
    """What is to be said of the model of a run: name, step, size and what is wrong with it."""
    row: dict[str, Any] = {"name": WEIGHTS, "step": None, "valid_loss": None, "bytes": 0, "fault": None}
    try:
        row["step"] = load_description(folder).get("step")
        content = _model_bytes(folder)
        header_of(content, folder / WEIGHTS)
        row["bytes"] = len(content)
    except RunDirectoryError as error:
        row["fault"] = str(error)
    return row


def _model_bytes(folder: Path) -> bytes:
    content = read_regular(folder / WEIGHTS)
    if hashlib.sha256(content).hexdigest() != load_description(folder)["sha256"]:
        raise RunDirectoryError(f"{folder / WEIGHTS} is damaged: its SHA-256 is not the one that {DESCRIPTION} names")
    return content


def load_description(folder: Path) -> dict[str, Any]:
    """Reads ``model.json``.

    Raises:
        RunDirectoryError: If it is missing, malformed or of a newer format.
    """
    path = folder / DESCRIPTION
    description = read_json(path)
    if not isinstance(description, dict) or not isinstance(description.get("sha256"), str):
        raise RunDirectoryError(f"{path} is not a description of a model")
    if description.get("format") != FORMAT:
        found = description.get("format")
        raise RunDirectoryError(f"{path} has format {found}, this version reads format {FORMAT}; upgrade bfn-toolkit")
    check_seal(description, path)
    return description


def load_model(folder: Path, expected: State, *, allow_nonfinite: bool = False) -> dict[str, Tensor]:
    """Weights that :func:`save_model` wrote, checked to be what a network's own state is.

    Raises:
        RunDirectoryError: If a file is missing or damaged, or does not fit the network.
    """
    return loads(_model_bytes(folder), folder / WEIGHTS, expected, allow_nonfinite=allow_nonfinite)
