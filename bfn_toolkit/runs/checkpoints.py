"""Checkpoints, from which training continues: tensors in safetensors, everything else in JSON, and nothing pickled.

A checkpoint is a folder ``checkpoints/step-NNNNNNNN``, written in one piece (:mod:`~bfn_toolkit.storage.files`):

========================= =====================================================
``weights.safetensors``   weights and buffers of the network in training
``ema.safetensors``       their moving average, where there is one
``optimizer.safetensors`` tensors of the optimiser's state
``state.json``            step, validation loss, numbers of optimiser and schedule
``MANIFEST.json``         size and SHA-256 of each file
========================= =====================================================

The latest and the best checkpoint are not recorded: they are computed among those that verify.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import attrs
from torch import Tensor

from bfn_toolkit.errors import RunDirectoryError
from bfn_toolkit.storage.files import parse_file, to_json
from bfn_toolkit.storage.folders import (
    named_folders,
    read_file,
    read_folder,
    read_manifest,
    remove_folder,
    write_folder,
)
from bfn_toolkit.storage.safetensors_files import State, dumps, loads

CHECKPOINTS, STATE = "checkpoints", "state.json"


@attrs.frozen(eq=False)
class Checkpoint:
    """A training state.

    Arguments:
        step: Optimiser steps done.
        weights: Weights and buffers of the network in training.
        ema: Their moving average, or None.
        optimizer: Tensors of the optimiser's state.
        state: Everything else, as JSON has it.
        valid_loss: Loss on the validation rows at this step, or None.
        facts: Other entries of ``state.json``: plugins, versions, conditions.
        digests: Of one that was read, SHA-256 of the files of the weights ("raw") and of their average ("ema").
    """

    step: int
    weights: State
    ema: State | None
    optimizer: State
    state: Mapping[str, Any]
    valid_loss: float | None = None
    facts: Mapping[str, Any] = attrs.field(factory=dict)
    digests: Mapping[str, str] = attrs.field(factory=dict)


@attrs.frozen
class CheckpointInfo:
    """A checkpoint folder and its fault, if it has one.

    Arguments:
        path: The folder.
        step: Number of optimiser steps.
        valid_loss: Loss on the validation rows at this step, or None.
        size: Size in bytes.
        fault: Reason why it cannot be used, or None.
    """

    path: Path
    step: int
    valid_loss: float | None
    size: int
    fault: str | None


def checkpoint_folder(run: Path, step: int) -> Path:
    """Folder of the checkpoint of a step."""
    return run / CHECKPOINTS / f"step-{step:08d}"


def save_checkpoint(run: Path, checkpoint: Checkpoint, keep: int) -> None:
    """Writes a checkpoint of a run; afterwards, removes all but the last ``keep`` and the best.

    Raises:
        NonFiniteError: If a weight is NaN or infinite; nothing is written then.
        ResourceError: If it cannot be written; earlier checkpoints are then unchanged.
    """
    facts = {**checkpoint.facts, "step": checkpoint.step, "valid_loss": checkpoint.valid_loss}
    files = {
        "weights.safetensors": dumps(checkpoint.weights),
        "optimizer.safetensors": dumps(checkpoint.optimizer, finite=False),
        STATE: (to_json({**facts, **checkpoint.state}) + "\n").encode(),
    }
    if checkpoint.ema is not None:
        files["ema.safetensors"] = dumps(checkpoint.ema)
    write_folder(checkpoint_folder(run, checkpoint.step), files)
    _retire(run, checkpoint.step, keep)


def _retire(run: Path, step: int, keep: int) -> None:
    """Removes old checkpoints after that of a step has been written.

    Checkpoints of later steps stay and do not count: they are damaged, so training continued from an earlier one.
    """
    sound = [listed for listed in list_checkpoints(run) if listed.fault is None and listed.step <= step]
    best = _best(sound)
    for listed in sound[:-keep]:
        if listed is not best:
            remove_folder(listed.path)


def read_state(folder: Path, manifest: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Reads ``state.json`` of a checkpoint, after checking its digest.

    Raises:
        RunDirectoryError: If it is missing or damaged, or belongs to another step.
    """
    path = folder / STATE
    state = parse_file(read_file(folder, STATE, manifest or read_manifest(folder)), path)
    if not isinstance(state, dict) or not isinstance(state.get("step"), int):
        raise RunDirectoryError(f"{path} is not the state of a checkpoint: it has no step")
    if folder.name.partition(".")[0] != f"step-{state['step']:08d}":
        raise RunDirectoryError(f"{folder} holds step {state['step']}")
    return state


def list_checkpoints(run: Path, *, verify: bool = False) -> list[CheckpointInfo]:
    """The checkpoints of a run in the order of their steps.

    Arguments:
        run: The run directory.
        verify: Whether to read and check every byte; otherwise only the manifests and ``state.json`` are read.
    """
    found = []
    folders = named_folders(run / CHECKPOINTS, r"step-\d{8,12}")
    for step, path in sorted((int(name.removeprefix("step-")), path) for name, path in folders):
        valid_loss, size, fault = None, 0, None
        try:
            manifest = read_folder(path)[0] if verify else read_manifest(path)
            value = read_state(path, manifest).get("valid_loss")
            valid_loss = float(value) if isinstance(value, (int, float)) else None
            size = sum(entry["size"] for entry in manifest["files"].values())
        except RunDirectoryError as error:
            fault = str(error)
        except OSError as error:
            fault = f"{path} cannot be read: {error.strerror}"
        found.append(CheckpointInfo(path, step, valid_loss, size, fault))
    return found


def _best(listed: list[CheckpointInfo]) -> CheckpointInfo | None:
    """Checkpoint with the lowest validation loss, the earliest of equals."""
    return min(_scored(listed), key=_by_loss, default=None)


def _scored(listed: list[CheckpointInfo]) -> list[CheckpointInfo]:
    return [one for one in listed if one.valid_loss is not None and math.isfinite(one.valid_loss)]


def _by_loss(one: CheckpointInfo) -> tuple[float, int]:
    assert one.valid_loss is not None
    return one.valid_loss, one.step


def find_checkpoint(run: Path, which: str = "last") -> tuple[CheckpointInfo | None, list[str]]:
    """Finds a checkpoint whose every byte verifies; also returns the faults of those that were passed over.

    Arguments:
        run: The run directory.
        which: "last", "best" (the lowest validation loss) or a step.
    Raises:
        RunDirectoryError: If no checkpoint is the best or of the step, or none that fits ``which`` can be used.
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


def load_checkpoint(folder: Path, expected: State, ema: bool, *, allow_nonfinite: bool = False) -> Checkpoint:
    """Reads a checkpoint and checks all of it.

    Arguments:
        folder: The checkpoint.
        expected: Tensors with the expected names, shapes and dtypes of the weights.
        ema: Whether a moving average is expected.
        allow_nonfinite: Whether to accept NaN and infinities.
    Raises:
        RunDirectoryError: If a file is missing or damaged, or does not fit the network.
    """
    manifest, files = read_folder(folder)
    needed = {"weights.safetensors", "optimizer.safetensors", STATE}
    needed |= {"ema.safetensors"} if ema else set()
    if files.keys() != needed:
        found, wanted = (", ".join(sorted(names)) for names in (files, needed))
        raise RunDirectoryError(f"{folder} holds {found}; expected {wanted}")

    def tensors(name: str, like: State | None) -> dict[str, Tensor]:
        return loads(files[name], folder / name, like, allow_nonfinite=allow_nonfinite)

    state = read_state(folder, manifest)
    return Checkpoint(
        step=state["step"],
        weights=tensors("weights.safetensors", expected),
        ema=tensors("ema.safetensors", expected) if ema else None,
        optimizer=tensors("optimizer.safetensors", None),
        state=state,
        valid_loss=state.get("valid_loss"),
        facts=state,
        digests={
            kind: manifest["files"][name]["sha256"]
            for kind, name in (("raw", "weights.safetensors"), ("ema", "ema.safetensors"))
            if name in files
        },
    )
