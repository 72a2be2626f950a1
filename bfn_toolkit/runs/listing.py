"""Runs at a glance: their settings, scores and states, read from their files without torch.

The folders may be a stranger's: what is damaged, special or too large is named, and nothing is followed or executed.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import attrs

from bfn_toolkit.config.layers import dotted
from bfn_toolkit.config.recognition import EXPERIMENT
from bfn_toolkit.config.toml_files import Key, read_toml
from bfn_toolkit.errors import BFNError, RunDirectoryError
from bfn_toolkit.runs.metrics_log import StoredMetrics, is_record
from bfn_toolkit.storage.files import read_json
from bfn_toolkit.storage.locks import is_held
from bfn_toolkit.storage.sealed import read_sealed
from bfn_toolkit.untrusted import open_regular, tensors_header

DEPTH, MOST_RUNS = 3, 10_000  # folders down in which runs are looked for; number of them that are listed
MAX_METRICS, MAX_LINE = 2**30, 2**16  # bytes of metrics.jsonl and of a line in it that are read
FINISHED, RUNNING, STOPPED = "finished", "running", "stopped"


@attrs.frozen
class RunSummary:
    """A run at a glance; what is unknown is None.

    Arguments:
        path: The run directory.
        data: Name of the dataset, and of its file.
        family: Name of the family.
        network: Name of the network.
        weights: Number of weights and buffers of the model, or else of the newest checkpoint.
        step: Steps that are done.
        steps: Steps that were asked for.
        valid_loss: Last validation loss.
        best_valid_loss: Lowest validation loss.
        bound: Bound on -ln p(x) in nats, of the last evaluation.
        bound_stderr: Its standard error.
        date: Time of the last change, as ISO 8601.
        state: "finished", "running" or "stopped".
        faults: Files that are damaged, each with the reason.
        settings: All values of the experiment, by dotted key.
        scores: All numbers of the last evaluation, by dotted key.
    """

    path: Path
    data: str = ""
    family: str = ""
    network: str = ""
    weights: int | None = None
    step: int | None = None
    steps: int | None = None
    valid_loss: float | None = None
    best_valid_loss: float | None = None
    bound: float | None = None
    bound_stderr: float | None = None
    date: str = ""
    state: str = STOPPED
    faults: tuple[str, ...] = ()
    settings: Mapping[str, Any] = attrs.field(factory=dict, repr=False)
    scores: Mapping[str, float] = attrs.field(factory=dict, repr=False)


def is_run(folder: Path) -> bool:
    """Whether a folder is a run directory, which may be damaged."""
    return os.path.lexists(folder / EXPERIMENT)


def find_runs(folder: Path) -> Iterator[Path]:
    """Yields the run directories in a folder, or the folder itself if it is one.

    Raises:
        RunDirectoryError: If it is not a folder.
    """
    if not folder.is_dir():
        raise RunDirectoryError(f"{folder} is not a folder with runs; bfn train --out {folder / '001'} makes one")
    yield from _runs(folder, DEPTH)


def _runs(folder: Path, depth: int) -> Iterator[Path]:
    if is_run(folder):
        yield folder
    elif depth > 0:
        try:
            inner = sorted(Path(entry) for entry in os.scandir(folder) if entry.is_dir() and entry.name[0] != ".")
        except OSError:
            return
        for path in inner:
            yield from _runs(path, depth - 1)


def summarise(folder: Path) -> RunSummary:
    """Reads a run directory; what cannot be read is among its faults."""
    found: dict[str, Any] = {}
    faults = []
    readers = {
        EXPERIMENT: _read_experiment,
        "model": _read_model,
        "metrics.jsonl": _read_metrics,
        "evaluation.json": _read_evaluation,
        "date": _read_date,
    }
    for name, reader in readers.items():
        try:
            found |= reader(folder)
        except OSError as error:
            faults.append(f"{name}: {error.strerror}")
        except (BFNError, ValueError, RecursionError, OverflowError) as error:
            faults.append(str(error).replace(f"{folder}{os.sep}", ""))
    if is_held(folder / ".lock"):
        found["state"] = RUNNING
    return RunSummary(folder, faults=tuple(faults), **found)


def settings_that_differ(runs: Sequence[RunSummary]) -> dict[str, list[Any]]:
    """Returns the values of each setting in which runs differ; None where one does not have it."""
    return _differing([run.settings for run in runs])


def _differing(tables: Sequence[Mapping[str, Any]]) -> dict[str, list[Any]]:
    keys = dict.fromkeys(key for table in tables for key in table)
    rows = {key: [table.get(key) for table in tables] for key in keys}
    return {key: row for key, row in rows.items() if any(value != row[0] for value in row)}


def _read_experiment(folder: Path) -> dict[str, Any]:
    tree, _ = read_toml(folder / EXPERIMENT, str(folder / EXPERIMENT))
    settings = dict(_flat(tree))
    path = settings.get("dataset.path")
    names = {kind: _name(tree.get(kind)) for kind in ("dataset", "family", "network")}
    if not all(names.values()):
        raise RunDirectoryError(f"{EXPERIMENT} is not an experiment: it names no dataset, family or network")
    data = names.pop("dataset") + (f" {Path(path).name}" if isinstance(path, str) else "")
    return {**names, "data": data, "steps": _whole(settings.get("training.steps")), "settings": settings}


def _read_model(folder: Path) -> dict[str, Any]:
    if os.path.lexists(folder / "model.json"):
        description = read_json(folder / "model.json")
        step = description.get("step") if isinstance(description, Mapping) else None
        if _whole(step) is None:
            raise RunDirectoryError("model.json is not a description of a model: it has no step")
        return {"step": step, "weights": _count_weights(folder / "model.safetensors"), "state": FINISHED}
    try:
        steps = sorted(entry.name for entry in os.scandir(folder / "checkpoints") if entry.name.startswith("step-"))
    except FileNotFoundError:
        steps = []
    if not steps:
        return {}
    return {"weights": _count_weights(folder / "checkpoints" / steps[-1] / "weights.safetensors")}


def _description(folder: Path) -> Mapping[str, Any]:
    """The content of ``model.json``; nothing if it is damaged, which is reported elsewhere."""
    try:
        description = read_json(folder / "model.json")
    except RunDirectoryError:
        return {}
    return description if isinstance(description, Mapping) else {}


def _count_weights(path: Path) -> int:
    """Number of values in a file of weights, from its header, which must fit the size of the file."""
    try:
        with open_regular(path, follow=False) as file:
            size = os.fstat(file.fileno()).st_size
            tensors = [entry for name, entry in tensors_header(file, size).items() if name != "__metadata__"]
            end = file.tell() + max((entry["data_offsets"][1] for entry in tensors), default=0)
            count = _whole(sum(math.prod(entry["shape"]) for entry in tensors))
    except OSError as error:
        raise RunDirectoryError(f"{path.name}: {error.strerror}") from None
    except (TypeError, KeyError, IndexError, ValueError) as error:
        raise RunDirectoryError(f"{path.name} is damaged: its header is not that of weights ({error})") from None
    if end != size or count is None:
        raise RunDirectoryError(f"{path.name} is damaged: its header does not fit its {size:,} bytes")
    return count


def _read_metrics(folder: Path) -> dict[str, Any]:
    """The last step, and the last and the lowest validation loss."""
    path = folder / "metrics.jsonl"
    last, losses = b"", list[float]()
    if not os.path.lexists(path):
        return {}
    record: Any = _description(folder).get("metrics")
    with open_regular(path, follow=False) as file:
        if os.fstat(file.fileno()).st_size > MAX_METRICS:
            raise RunDirectoryError("metrics.jsonl has more than 1 GB")
        if is_record(record) and (fault := StoredMetrics(folder, record).fault):
            raise RunDirectoryError(fault)
        for number, line in enumerate(iter(lambda: file.readline(MAX_LINE), b""), 1):
            if not line.endswith(b"\n"):  # cut short by a crash, or no line of metrics
                if len(line) == MAX_LINE:
                    raise RunDirectoryError(f"metrics.jsonl:{number}: longer than {MAX_LINE // 1024} kB")
                break
            last = line
            if b'"valid_loss"' in line:
                loss = _number(_metrics(line, number).get("valid_loss"))
                if loss is not None:
                    losses = [min([loss, *losses[:1]]), loss]
    found: dict[str, Any] = {"best_valid_loss": losses[0], "valid_loss": losses[1]} if losses else {}
    step = _whole(_metrics(last, number).get("step")) if last else None
    return found if step is None else {**found, "step": step}


def _metrics(line: bytes, number: int) -> Mapping[str, Any]:
    try:
        metrics = json.loads(line)
    except (ValueError, RecursionError):
        metrics = None
    if not isinstance(metrics, Mapping):
        raise RunDirectoryError(f"metrics.jsonl:{number}: not an object of JSON")
    return metrics


def _read_evaluation(folder: Path) -> dict[str, Any]:
    if not os.path.lexists(folder / "evaluation.json"):
        return {}
    scores, model = read_sealed(folder / "evaluation.json"), _description(folder)
    judged = scores.get("weights")
    if isinstance(judged, Mapping) and "sha256" in model and judged.get("sha256") != model["sha256"]:
        raise RunDirectoryError("evaluation.json belongs to other weights than those of the model")
    numbers = ((key, _number(value)) for key, value in _flat(scores))
    flat = {key: number for key, number in numbers if number is not None}
    return {"scores": flat, "bound": flat.get("total_nats"), "bound_stderr": flat.get("total_nats_stderr")}


def _read_date(folder: Path) -> dict[str, Any]:
    """The last change of a file of the training."""
    times = []
    for name in (EXPERIMENT, "metrics.jsonl", "model.json"):
        try:
            times.append((folder / name).lstat().st_mtime)
        except FileNotFoundError:
            continue
    return {"date": datetime.fromtimestamp(max(times)).isoformat(" ", "seconds")} if times else {}


def _flat(value: Any, key: Key = ()) -> Iterator[tuple[str, Any]]:
    if isinstance(value, Mapping):
        for name, part in value.items():
            yield from _flat(part, (*key, name))
    else:
        yield dotted(key), value


def _name(table: Any) -> str:
    """The name of a part in a configuration, or ""."""
    name = table.get("name") if isinstance(table, Mapping) else table
    return name if isinstance(name, str) else ""


def _number(value: Any) -> float | None:
    """A finite number, or None."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or abs(value) > 1e300 or value != value:
        return None
    return float(value)


def _whole(value: Any) -> int | None:
    """A number that counts something, or None."""
    return value if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**63 else None
