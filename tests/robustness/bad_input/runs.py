"""F: run directories and what is in them."""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from faults.damages import DAMAGES, rewrite_manifest, rewrite_model
from faults.disks import flip_bit, truncate
from faults.files import hostile_files
from safetensors.torch import load_file, save

from bad_input.cases import Case, Word, case
from bad_input.configurations import as_it_is
from bfn_toolkit.storage.locks import locked

NEWEST = Path("checkpoints", "step-00000004")
DRAW = "-n 2 --steps 2 --out x.csv"
GO_ON = "train --resume run --no-report"


def sample(id: str, damage: Callable[[Path], object], status: int, *words: Word, options: str = "") -> Case:
    """Samples of a run to which something was done; nothing that a file says is executed."""
    return case(id, f"sample run {DRAW} {options}", status, *words, run=damage)


def go_on(id: str, damage: Callable[[Path], object], status: int, *words: Word, options: str = "") -> Case:
    """Training on from a run to which something was done."""
    return case(id, f"{GO_ON} {options}", status, *words, run=damage)


def with_facts(**facts: object) -> Callable[[Path], object]:
    """Other facts about the model."""
    return lambda run: rewrite_model(run, (run / "model.safetensors").read_bytes(), **facts)


def with_tensors(change: Callable[[torch.Tensor], torch.Tensor]) -> Callable[[Path], object]:
    """Other weights, all of them changed in one way."""

    def rewrite(run: Path) -> None:
        state = {name: change(value) for name, value in load_file(run / "model.safetensors").items()}
        rewrite_model(run, save(state))

    return rewrite


def with_state(**facts: object) -> Callable[[Path], object]:
    """Another state.json in the newest checkpoint, under a good digest."""

    def rewrite(run: Path) -> None:
        folder = run / NEWEST
        state = json.loads((folder / "state.json").read_text())
        content = json.dumps({**state, "environment": {**state["environment"], **facts}, **facts}).encode()
        (folder / "state.json").write_bytes(content)
        files = json.loads((folder / "MANIFEST.json").read_text())["files"]
        entry = {"size": len(content), "sha256": hashlib.sha256(content).hexdigest()}
        rewrite_manifest(folder, files={**files, "state.json": entry})

    return rewrite


def replaced(old: str, new: str) -> Callable[[Path], object]:
    """Another experiment."""

    def rewrite(run: Path) -> None:
        text = (run / "experiment.toml").read_text()
        if old not in text:
            raise ValueError(f"there is no {old!r} to replace")
        (run / "experiment.toml").write_text(text.replace(old, new))

    return rewrite


def emptied(run: Path) -> None:
    """Neither a model nor a checkpoint, but what a crash left of the first."""
    shutil.rmtree(run / "checkpoints")
    (run / "checkpoints" / ".tmp-step-00000002").mkdir(parents=True)
    for name in ("model.safetensors", "model.json"):
        (run / name).unlink()


def all_damaged(run: Path) -> None:
    for folder in (run / "checkpoints").iterdir():
        flip_bit(folder / "weights.safetensors", 0)


def newest_damaged(run: Path) -> None:
    flip_bit(run / NEWEST / "optimizer.safetensors", 0)


@contextlib.contextmanager
def held() -> Iterator[None]:
    """Another writer has the run directory."""
    with locked(Path("run")):
        yield


def stale_lock(run: Path) -> None:
    """The writer that this names holds nothing any more."""
    (run / ".lock").write_text("process 1 on another-host since 2020-01-01 00:00:00\n")


EXECUTED = "executed"  # the folder that a pickle makes when it is read


def hostile_row(name: str) -> str:
    return "F9" if "path" in name else "F7" if "pickle" in name or "torch" in name else "F8"


def hostile(content: bytes) -> Callable[[Path], object]:
    return lambda run: rewrite_model(run, content)


OUTSIDE = ("symlink", "fifo", "path upwards", "absolute path", "parent", "NUL")

CASES: list[Case] = [
    case("F1-missing", "sample run", 4, "run is not a run directory: it does not exist", "bfn train --out run"),
    case("F1-empty", "sample run", 4, "holds no experiment.toml", files={"run": lambda path: path.mkdir()}),
    case("F1-a-file", "sample run", 4, "it is not a directory", files={"run": ""}),
    sample("F1-leftovers", emptied, 4, "holds neither model.json nor checkpoints", "bfn train --resume run"),
    case("F1-resume-missing", GO_ON, 4, "run is not a run directory: it does not exist"),
    case("F1-verify-missing", "checkpoint verify run", 4, "run is not a run directory"),
    sample(
        "F1-no-such-step",
        as_it_is,
        4,
        "no checkpoint of step 3",
        "last, best or one of: 2, 4",
        options="--checkpoint 3",
    ),
    sample("F1-no-best", as_it_is, 4, "no checkpoint with a validation loss", options="--checkpoint best"),
    sample("F1-no-average", as_it_is, 2, "no moving average", options="--weights ema"),
    *(
        sample(
            f"F{9 if name in OUTSIDE else 2}-{name.replace(' ', '-')}",
            lambda run, make=make: make(run / NEWEST),
            4,
            re.compile(said),
            options="--checkpoint 4",
        )  # type: ignore[misc]
        for name, (make, said) in DAMAGES.items()
    ),
    sample(
        "F2-model-cut", lambda run: truncate(run / "model.safetensors"), 4, "model.safetensors is damaged: its content"
    ),
    sample("F2-model-bit", lambda run: flip_bit(run / "model.safetensors", 0), 4, "model.safetensors is damaged"),
    sample("F2-model-gone", lambda run: (run / "model.safetensors").unlink(), 4, "model.safetensors is missing"),
    sample("F2-description-empty", lambda run: (run / "model.json").write_text(""), 4, "model.json is damaged"),
    sample("F2-description-step", with_facts(step="4"), 4, "model.json is not a description"),
    sample("F2-sums-gone", lambda run: (run / "SHA256SUMS").unlink(), 4, "SHA256SUMS is missing"),
    sample("F2-metrics-no-json", lambda run: (run / "metrics.jsonl").write_text("{\n"), 0, "weights"),
    go_on(
        "F2-metrics-of-a-resume",
        lambda run: (run / "metrics.jsonl").write_text("{\n"),
        0,
        "the metrics are left out: run/metrics.jsonl is damaged",
    ),
    sample("F2-experiment-no-toml", lambda run: (run / "experiment.toml").write_text("a ="), 4, "experiment.toml:1:"),
    sample(
        "F2-experiment-empty", lambda run: (run / "experiment.toml").write_text(""), 4, "experiment.toml is not that of"
    ),
    case("F2-verify", "checkpoint verify run --json", 4, run=newest_damaged, prints=json.loads),
    sample(
        "F3-sample-of-the-older",
        newest_damaged,
        0,
        "warning: skipped: ",
        "optimizer.safetensors is damaged",
        "step 2",
        options="--checkpoint last",
    ),
    go_on("F3-resume-from-the-older", newest_damaged, 0, "warning: skipped: ", "optimizer.safetensors is damaged"),
    go_on("F3-all-damaged", all_damaged, 4, "no checkpoint that can be used", "step-00000004", "step-00000002"),
    sample("F4-model-of-format-99", with_facts(format=99), 4, "model.json has format 99", "Upgrade bfn-toolkit"),
    sample(
        "F5-width",
        replaced("width = 8", "width = 16"),
        4,
        "run/experiment.toml is not that of run/model.json: network.width: 8 then, 16 now",
    ),
    sample(
        "F5-shape",
        with_tensors(lambda value: value.unsqueeze(0)),
        4,
        "does not fit the network: ",
        "expected torch.float32",
    ),
    sample("F5-dtype", with_tensors(lambda value: value.double()), 4, "does not fit the network: ", "torch.float64"),
    go_on("F5-resume-of-another-width", replaced("width = 8", "width = 16"), 4, "does not fit the network"),
    sample("F6-nan", with_tensors(lambda value: value * torch.nan), 4, "values are not finite", "--allow-nonfinite"),
    sample(
        "F6-nan-allowed", with_tensors(lambda value: value * torch.nan), 6, "not finite", options="--allow-nonfinite"
    ),
    *(
        sample(f"{hostile_row(name)}-{name.replace(' ', '-')}", hostile(content), 4, "model.safetensors")
        for name, content in hostile_files(EXECUTED)
    ),
    go_on(
        "F10-option",
        as_it_is,
        2,
        "--training.lr would change the run",
        "--allow-inexact",
        options="--training.lr 0.5",
    ),
    go_on("F10-data", with_state(data="other"), 4, "cannot be resumed bit-exactly", "data", "--allow-inexact"),
    go_on("F10-torch", with_state(torch="1.0"), 4, "torch: 1.0 then", "--allow-inexact"),
    go_on("F10-threads", with_state(threads=64), 4, "threads: 64 then, ", "now", "--allow-inexact"),
    go_on("F10-processes", with_state(processes=8), 4, "processes: 8 then, 1 now", "--allow-inexact"),
    go_on("F10-allowed", with_state(processes=8), 0, "run: run", options="--allow-inexact"),
    case("F10-allowed-without-resume", "train --allow-inexact", 2, "--allow-inexact goes with --resume RUN"),
    case(
        "F11-two-writers",
        GO_ON,
        4,
        "is being written by another process (process ",
        " on ",
        " since ",
        "stop it first",
        run=as_it_is,
        around=held,
    ),
    go_on("F12-lock-that-nobody-holds", stale_lock, 0, "run: run"),
]
