"""Files of a model: weights in safetensors, everything else in JSON, written so that a reader sees all or nothing.

A file is written beside its final name, flushed to disk and renamed.  ``model.json`` is written last and carries the
SHA-256 of ``model.safetensors``, so that a damaged or half-replaced pair is refused.  Nothing is pickled.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import nn

from bfn_toolkit.errors import NonFiniteError, ResourceError, RunDirectoryError

FORMAT = 1
WEIGHTS, DESCRIPTION = "model.safetensors", "model.json"


def resource_error(error: OSError, path: Path) -> ResourceError:
    """The toolkit's error for an operating-system error in writing ``path``."""
    reason = error.strerror or str(error)
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        reason += "; free some space or write elsewhere"
    return ResourceError(f"cannot write {path}: {reason}")


def write_atomically(path: Path, content: bytes | str) -> None:
    """Replaces a file by new content, in one step and durably.

    Raises:
        ResourceError: If the file cannot be written; what was there before is then still there.
    """
    temporary = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
        with os.fdopen(handle, "wb") as file:
            file.write(content.encode() if isinstance(content, str) else content)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o666 & ~_umask())
        os.replace(temporary, path)
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
    except OSError as error:
        if temporary is not None:
            Path(temporary).unlink(missing_ok=True)
        raise resource_error(error, path) from error


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def save_model(folder: Path, network: nn.Module, description: Mapping[str, Any]) -> None:
    """Writes the weights and buffers of a network, and a description of them, into a folder.

    Raises:
        NonFiniteError: If a weight is NaN or infinite; nothing is written then.
    """
    state = {name: value.detach().cpu().contiguous() for name, value in network.state_dict().items()}
    bad = [name for name, value in state.items() if value.is_floating_point() and not torch.isfinite(value).all()]
    if bad:
        raise NonFiniteError(f"weights that are not finite are not saved: {', '.join(bad[:5])}")
    content = save_tensors(state)
    write_atomically(folder / WEIGHTS, content)
    header = {"format": FORMAT, "sha256": hashlib.sha256(content).hexdigest(), "torch": torch.__version__}
    write_atomically(folder / DESCRIPTION, json.dumps({**header, **description}, indent=2) + "\n")


def load_description(folder: Path) -> dict[str, Any]:
    """Reads ``model.json``.

    Raises:
        RunDirectoryError: If it is missing, malformed or of a newer format.
    """
    path = folder / DESCRIPTION
    try:
        description = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise RunDirectoryError(f"{folder} holds no {DESCRIPTION}: its training did not end") from None
    except (OSError, ValueError, RecursionError) as error:
        raise RunDirectoryError(f"{path} cannot be read: {error}") from None
    if not isinstance(description, dict) or not isinstance(description.get("sha256"), str):
        raise RunDirectoryError(f"{path} is not a description of a model")
    if description.get("format") != FORMAT:
        found = description.get("format")
        raise RunDirectoryError(f"{path} has format {found}, this version reads format {FORMAT}; upgrade bfn-toolkit")
    return description


def load_weights(folder: Path, network: nn.Module) -> None:
    """Loads weights that :func:`save_model` wrote into a network of the same architecture, after checking all of them.

    Raises:
        RunDirectoryError: If a file is missing or damaged, or does not fit the network.
    """
    description, path = load_description(folder), folder / WEIGHTS
    try:
        content = path.read_bytes()
    except OSError as error:
        raise RunDirectoryError(f"{path} cannot be read: {error.strerror}") from None
    if hashlib.sha256(content).hexdigest() != description["sha256"]:
        raise RunDirectoryError(f"{path} is damaged: its SHA-256 is not the one that {DESCRIPTION} names")
    try:
        state = load_tensors(content)
    except SafetensorError as error:
        raise RunDirectoryError(f"{path} is not a safetensors file: {error}") from None
    expected = network.state_dict()
    wrong = [f"{name}: missing" for name in expected.keys() - state.keys()]
    wrong += [f"{name}: unknown" for name in state.keys() - expected.keys()]
    for name in expected.keys() & state.keys():
        want, found = expected[name], state[name]
        if want.shape != found.shape or want.dtype != found.dtype:
            wrong.append(f"{name}: {found.dtype} {tuple(found.shape)}, expected {want.dtype} {tuple(want.shape)}")
        elif found.is_floating_point() and not torch.isfinite(found).all():
            wrong.append(f"{name}: {int((~torch.isfinite(found)).sum())} values are not finite")
    if wrong:
        more = f" (and {len(wrong) - 5} more)" if len(wrong) > 5 else ""
        raise RunDirectoryError(f"{path} does not fit the network: {'; '.join(sorted(wrong)[:5])}{more}")
    network.load_state_dict(state)
