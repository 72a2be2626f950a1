"""Models and training states in files: tensors in safetensors, everything else in JSON, and nothing pickled.

A *model* is what one samples from: ``model.safetensors``, and ``model.json``, written last, with its SHA-256.  A
*checkpoint* is what training goes on from, a folder ``checkpoints/step-NNNNNNNN`` written in one piece
(:mod:`~bfn_toolkit.storage`):

========================= =====================================================
``weights.safetensors``   weights and buffers of the network in training
``average.safetensors``   their moving average, where there is one
``optimizer.safetensors`` tensors of the optimiser's state
``state.json``            numbers of optimiser and schedule, versions, history
``MANIFEST.json``         step, validation loss, size and SHA-256 of each file
========================= =====================================================

Which checkpoint is the latest, or the best, is written nowhere: it is found out, among those that verify.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import attrs
import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import Tensor

from bfn_toolkit.errors import NonFiniteError, RunDirectoryError
from bfn_toolkit.storage import (
    FORMAT,
    MAX_JSON,
    check_seal,
    parse_json,
    read_folder,
    read_json,
    read_manifest,
    read_regular,
    remove_file,
    remove_folder,
    sealed,
    write_atomically,
    write_folder,
)

WEIGHTS, DESCRIPTION = "model.safetensors", "model.json"
CHECKPOINTS = "checkpoints"
MAX_TENSORS = 100_000

State = Mapping[str, Tensor]


@attrs.frozen(eq=False)
class Checkpoint:
    """A training state.

    Arguments:
        step: Optimiser steps done.
        weights: Weights and buffers of the network in training.
        average: Their moving average, or None.
        optimizer: Tensors of the optimiser's state.
        state: Everything else, as JSON has it.
        valid_loss: Loss on the validation rows at this step, or None.
        facts: What else the manifest is to say.
    """

    step: int
    weights: State
    average: State | None
    optimizer: State
    state: Mapping[str, Any]
    valid_loss: float | None = None
    facts: Mapping[str, Any] = attrs.field(factory=dict)


@attrs.frozen
class Listed:
    """A checkpoint folder, and what is wrong with it.

    Arguments:
        path: The folder.
        step: Its step.
        valid_loss: Its loss on the validation rows, if it has one.
        size: Bytes.
        fault: Why it cannot be used, or None.
    """

    path: Path
    step: int
    valid_loss: float | None
    size: int
    fault: str | None


def cpu_state(state: Mapping[str, Any]) -> dict[str, Tensor]:
    """Tensors of a state on the CPU, each with a memory of its own."""
    return {name: value.detach().cpu().contiguous().clone() for name, value in state.items()}


def save_model(folder: Path, weights: State, description: Mapping[str, Any]) -> None:
    """Writes weights and buffers, and a description of them, into a folder.

    A description that is there goes first: so weights never stand beside that of others, whenever a crash comes.

    Raises:
        NonFiniteError: If a weight is NaN or infinite; nothing is written then.
        ResourceError: If a file cannot be written.
    """
    content = packed(weights)
    remove_file(folder / DESCRIPTION)
    write_atomically(folder / WEIGHTS, content)
    header = {"format": FORMAT, "sha256": hashlib.sha256(content).hexdigest(), "torch": torch.__version__}
    write_atomically(folder / DESCRIPTION, sealed({**header, **description}))


def packed(state: State, *, finite: bool = True) -> bytes:
    """A safetensors file.

    Raises:
        NonFiniteError: If ``finite``, and a weight is not.
    """
    bad = [name for name, value in state.items() if value.is_floating_point() and not torch.isfinite(value).all()]
    if bad and finite:
        raise NonFiniteError(f"weights that are not finite are not saved: {', '.join(bad[:5])}")
    return save_tensors(cpu_state(state))


def verify_model(folder: Path) -> dict[str, Any]:
    """What is to be said of the model of a run: name, step, size and what is wrong with it."""
    row: dict[str, Any] = {"name": WEIGHTS, "step": None, "valid_loss": None, "bytes": 0, "fault": None}
    try:
        row["step"] = load_description(folder).get("step")
        content = _model_bytes(folder)
        _header(content, folder / WEIGHTS)
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
    return unpacked(_model_bytes(folder), folder / WEIGHTS, expected, allow_nonfinite=allow_nonfinite)


def unpacked(
    content: bytes, path: Path, expected: State | None = None, *, allow_nonfinite: bool = False
) -> dict[str, Tensor]:
    """Tensors of a safetensors file, after its header has been checked, and before anything is allocated.

    Arguments:
        content: The file.
        path: Its name, for messages.
        expected: Tensors of the names, shapes and dtypes that it must have.
        allow_nonfinite: Whether NaN and infinities may pass.
    Raises:
        RunDirectoryError: If it is no such file, or does not fit.
    """
    header = _header(content, path)
    if expected is not None:
        check_fit(path, misfits(expected, header))
    try:
        state: dict[str, Tensor] = load_tensors(content)
    except (SafetensorError, ValueError, RuntimeError) as error:
        raise RunDirectoryError(f"{path} is not a safetensors file: {error}") from None
    if expected is not None and not allow_nonfinite:
        floating = {name: value for name, value in state.items() if value.is_floating_point()}
        bad = {name: int((~torch.isfinite(value)).sum()) for name, value in floating.items()}
        check_fit(path, [f"{name}: {n} values are not finite (see --allow-nonfinite)" for name, n in bad.items() if n])
    return state


def check_header(content: bytes, path: Path, expected: State) -> None:
    """Checks the header of a safetensors file alone; ``expected`` may be tensors without memory.

    Raises:
        RunDirectoryError: If it is no such file, or does not fit.
    """
    check_fit(path, misfits(expected, _header(content, path)))


def misfits(expected: State, found: Mapping[str, tuple[Any, tuple[int, ...]]]) -> list[str]:
    """What differs between tensors and the dtypes and shapes that were found, a line for each."""
    wrong = [f"{name}: missing" for name in expected.keys() - found.keys()]
    wrong += [f"{name}: unknown" for name in found.keys() - expected.keys()]
    for name in expected.keys() & found.keys():
        want, (dtype, shape) = expected[name], found[name]
        if tuple(want.shape) != shape or dtype != want.dtype:
            wrong.append(f"{name}: {dtype} {shape}, expected {want.dtype} {tuple(want.shape)}")
    return wrong


def check_fit(path: Path, wrong: list[str]) -> None:
    """Raises what is wrong with a file, the first five.

    Raises:
        RunDirectoryError: If anything is.
    """
    if wrong:
        more = f" (and {len(wrong) - 5} more)" if len(wrong) > 5 else ""
        raise RunDirectoryError(f"{path} does not fit the network: {'; '.join(sorted(wrong)[:5])}{more}")


_DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}


def _header(content: bytes, path: Path) -> dict[str, tuple[Any, tuple[int, ...]]]:
    """Dtype and shape of each tensor of a safetensors file."""

    def refuse(why: str) -> RunDirectoryError:
        pickled = content[:4] == b"PK\x03\x04" or content[:2] == b"\x80\x02"
        hint = "; it looks like a pickle: bfn import-checkpoint reads those, and executes nothing" if pickled else ""
        return RunDirectoryError(f"{path} is not a safetensors file: {why}{hint}")

    length = int.from_bytes(content[:8], "little")
    if len(content) < 8 or length > min(MAX_JSON, len(content) - 8):
        raise refuse("its header does not fit")
    try:
        many = content.count(b"{", 8, 8 + length) > MAX_TENSORS + 2  # told before they are read, which takes seconds
        header = None if many else parse_json(content[8 : 8 + length])
        if not isinstance(header, dict):
            raise refuse(f"its header is no table of at most {MAX_TENSORS:,} tensors")
        header.pop("__metadata__", None)
        return {
            name: (_DTYPES.get(dtype := str(entry["dtype"]), dtype), tuple(map(int, entry["shape"])))
            for name, entry in header.items()
        }
    except (ArithmeticError, LookupError, TypeError, ValueError, RecursionError) as error:
        raise refuse(f"its header is malformed ({error})") from None


def checkpoint_folder(run: Path, step: int) -> Path:
    """Folder of the checkpoint of a step."""
    return run / CHECKPOINTS / f"step-{step:08d}"


def save_checkpoint(run: Path, checkpoint: Checkpoint, keep: int) -> None:
    """Writes a checkpoint of a run; afterwards, removes all but the last ``keep`` and the best.

    Raises:
        NonFiniteError: If a weight is NaN or infinite; nothing is written then.
        ResourceError: If it cannot be written; the checkpoints before it are then still there.
    """
    files = {
        "weights.safetensors": packed(checkpoint.weights),
        "optimizer.safetensors": packed(checkpoint.optimizer, finite=False),
        "state.json": (json.dumps(checkpoint.state, indent=2) + "\n").encode(),
    }
    if checkpoint.average is not None:
        files["average.safetensors"] = packed(checkpoint.average)
    facts = {**checkpoint.facts, "step": checkpoint.step, "valid_loss": checkpoint.valid_loss}
    write_folder(checkpoint_folder(run, checkpoint.step), files, facts)
    _retire(run, checkpoint.step, keep)


def _retire(run: Path, step: int, keep: int) -> None:
    """Removes checkpoints, after that of a step has been written.

    Those of later steps are left alone, and do not count: training went on from before them because they are damaged.
    """
    sound = [listed for listed in list_checkpoints(run) if listed.fault is None and listed.step <= step]
    best = _best(sound)
    for listed in sound[:-keep]:
        if listed is not best:
            remove_folder(listed.path)


def _folders(run: Path) -> Iterator[tuple[int, Path]]:
    for path in (run / CHECKPOINTS).glob("step-*"):
        if found := re.fullmatch(r"step-(\d{8,12})", path.name):
            yield int(found[1]), path


def list_checkpoints(run: Path, *, verify: bool = False) -> list[Listed]:
    """The checkpoints of a run in the order of their steps.

    Arguments:
        run: The run directory.
        verify: Whether to read and check every byte; otherwise only the manifests are read.
    """
    found = []
    for step, path in sorted(_folders(run)):
        valid_loss, size, fault = None, 0, None
        try:
            manifest = read_folder(path)[0] if verify else read_manifest(path)
            if manifest.get("step") != step:
                raise RunDirectoryError(f"{path} holds step {manifest.get('step')}")
            value = manifest.get("valid_loss")
            valid_loss = float(value) if isinstance(value, (int, float)) else None
            size = sum(entry["size"] for entry in manifest["files"].values())
        except RunDirectoryError as error:
            fault = str(error)
        except OSError as error:
            fault = f"{path} cannot be read: {error.strerror}"
        found.append(Listed(path, step, valid_loss, size, fault))
    return found


def _best(listed: list[Listed]) -> Listed | None:
    """The one with the least validation loss, the earliest of equals."""
    return min(_scored(listed), key=_by_loss, default=None)


def _scored(listed: list[Listed]) -> list[Listed]:
    return [one for one in listed if one.valid_loss is not None and math.isfinite(one.valid_loss)]


def _by_loss(one: Listed) -> tuple[float, int]:
    assert one.valid_loss is not None
    return one.valid_loss, one.step


def find_checkpoint(run: Path, which: str = "last") -> tuple[Listed | None, list[str]]:
    """The checkpoint that is meant, among those whose every byte verifies, and what was passed over and why.

    Arguments:
        run: The run directory.
        which: "last", "best" (the least validation loss) or a step.
    Raises:
        RunDirectoryError: If there are checkpoints, but none that can be used, or the one that is asked for cannot.
    """
    candidates = list_checkpoints(run)
    if which == "last":
        candidates.sort(key=lambda one: -one.step)
    elif which == "best":
        candidates = sorted(_scored(candidates), key=_by_loss)
        if not candidates:
            raise RunDirectoryError(
                f"{run} has no checkpoint with a validation loss; train with --training.validate_every 100"
            )
    else:
        candidates = [one for one in candidates if str(one.step) == which]
        if not candidates:
            steps = ", ".join(str(one.step) for one in list_checkpoints(run)) or "none"
            raise RunDirectoryError(f"{run} has no checkpoint of step {which}; expected last, best or one of: {steps}")
    passed: list[str] = []
    for one in candidates:
        if one.fault is None:
            try:
                read_folder(one.path)
                return one, passed
            except RunDirectoryError as error:
                passed.append(str(error))
        else:
            passed.append(one.fault)
    if passed:
        raise RunDirectoryError("\n".join([f"{run} has no checkpoint that can be used:", *passed]))
    return None, []


def load_checkpoint(folder: Path, expected: State, average: bool, *, allow_nonfinite: bool = False) -> Checkpoint:
    """Reads a checkpoint and checks all of it.

    Arguments:
        folder: The checkpoint.
        expected: Tensors of the names, shapes and dtypes that the weights must have.
        average: Whether there must be an average.
        allow_nonfinite: Whether NaN and infinities may pass.
    Raises:
        RunDirectoryError: If a file is missing or damaged, or does not fit the network.
    """
    manifest, files = read_folder(folder)
    needed = {"weights.safetensors", "optimizer.safetensors", "state.json"}
    needed |= {"average.safetensors"} if average else set()
    if files.keys() != needed:
        found, wanted = (", ".join(sorted(names)) for names in (files, needed))
        raise RunDirectoryError(f"{folder} holds {found}; expected {wanted}")

    def tensors(name: str, like: State | None) -> dict[str, Tensor]:
        return unpacked(files[name], folder / name, like, allow_nonfinite=allow_nonfinite)

    try:
        state = parse_json(files["state.json"])
    except (ValueError, RecursionError) as error:
        raise RunDirectoryError(f"{folder / 'state.json'} is not JSON as expected: {error}") from None
    return Checkpoint(
        step=manifest["step"],
        weights=tensors("weights.safetensors", expected),
        average=tensors("average.safetensors", expected) if average else None,
        optimizer=tensors("optimizer.safetensors", None),
        state=state,
        valid_loss=manifest.get("valid_loss"),
        facts={key: value for key, value in manifest.items() if key not in ("files", "format", "step", "valid_loss")},
    )
