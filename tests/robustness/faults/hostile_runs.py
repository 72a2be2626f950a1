"""Run directories that somebody made to do harm: each with its plant, and a naive program in which the fault fires.

A plant gets a copy of a trained run, and a folder of files of the user's, which nobody may change.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import attrs

from bfn_toolkit.storage.files import MANIFEST
from bfn_toolkit.storage.folders import read_folder, write_folder
from faults.damages import rewrite_manifest, rewrite_model
from faults.files import safetensors

SAMPLE, RESUME, PLOT = (
    "sample {run} -n 2 --out {run}/x.npy",
    "train --resume {run} --no-report",
    "plot {run} --flows -n 2",
)
VERIFY, LIST, EXPORT = "checkpoint verify {run}", "checkpoint list {run}", "export {run} --out {run}/shared"
ESCAPE = "\x1b]0;owned\x07\x9b31m\u202ea[/b]\r"


@attrs.frozen
class Hostile:
    """A hostile run.

    Arguments:
        plant: Makes a run hostile; its arguments are the run and the folder of the user's files.
        fires: A naive program that the fault harms: whether it does.
        command: Command that meets it.
        statuses: Exit statuses that are right.
    """

    plant: Callable[[Path, Path], object]
    fires: Callable[[Path, Path], bool]
    command: str
    statuses: tuple[int, ...] = (4,)


def edit(path: Path, pattern: str, text: str) -> None:
    """Replaces a part of a file, which has to be there."""
    changed, count = re.subn(pattern, text.replace("\\", "\\\\"), path.read_text(), count=1)
    assert count == 1
    path.write_text(changed)


def linked(name: str, target: str = "diary.txt", *, hard: bool = False) -> Callable[[Path, Path], None]:
    """A link from a name in the run to a file or folder of the user's."""

    def plant(run: Path, mine: Path) -> None:
        path = run / name
        if path.exists():
            path.unlink()
        path.hardlink_to(mine / target) if hard else path.symlink_to(mine / target)

    return plant


def moved(name: str) -> Callable[[Path, Path], None]:
    """A folder of the run is a link to one of the user's, in which the same lies."""

    def plant(run: Path, mine: Path) -> None:
        (run / name).mkdir(exist_ok=True)
        shutil.move(run / name, mine / name)
        for leftover in (".tmp-mine", ".del-mine"):
            (mine / name / leftover).mkdir()
        (run / name).symlink_to(mine / name)

    return plant


def writes_through(name: str) -> Callable[[Path, Path], bool]:
    """A program that opens the file to write it changes the user's."""

    def fires(run: Path, mine: Path) -> bool:
        before = snapshot(mine)
        (run / name).write_text("harm")
        return snapshot(mine) != before

    return fires


def removes_through(name: str) -> Callable[[Path, Path], bool]:
    """A program that tidies the folder up removes files of the user's."""

    def fires(run: Path, mine: Path) -> bool:
        before = snapshot(mine)
        for path in (run / name).iterdir():
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        return snapshot(mine) != before

    return fires


def special(name: str) -> Callable[[Path, Path], None]:
    """A FIFO in the place of a file."""

    def plant(run: Path, mine: Path) -> None:
        (run / name).unlink(missing_ok=True)
        os.mkfifo(run / name)

    return plant


def would_wait(name: str) -> Callable[[Path, Path], bool]:
    """A program that opens the file would wait for ever."""
    return lambda run, mine: stat.S_ISFIFO((run / name).stat().st_mode)


def snapshot(folder: Path) -> dict[str, object]:
    """Names and contents of everything in a folder."""
    found = sorted(folder.rglob("*"))
    return {str(path): path.read_bytes() if path.is_file() else path.is_dir() for path in found}


def prints(*names: str) -> Callable[[Path, Path], bool]:
    """A program that prints the file's texts as they are prints the escape."""

    def texts(value: Any) -> str:
        if isinstance(value, dict):
            return "".join(map(texts, [*value, *value.values()]))
        return "".join(map(texts, value)) if isinstance(value, list) else str(value)

    def read(path: Path) -> str:
        text = path.read_text()
        return texts(json.loads(text)) if path.suffix == ".json" else text.encode().decode("unicode_escape")

    return lambda run, mine: any("\x1b" in read(run / name) for name in names)


def toml(pattern: str, text: str) -> Callable[[Path, Path], None]:
    """Another line of ``experiment.toml``, which model and checkpoints claim to be of, under good digests."""

    def plant(run: Path, mine: Path) -> None:
        edit(run / "experiment.toml", pattern, text)
        changed = (run / "experiment.toml").read_text()
        rewrite_model(run, (run / "model.safetensors").read_bytes(), experiment=changed)
        for folder in (run / "checkpoints").iterdir():
            _, files = read_folder(folder)
            state = {**json.loads(files["state.json"]), "experiment": changed}
            write_folder(folder, {**files, "state.json": json.dumps(state).encode()})

    return plant


def larger(run: Path, mine: Path) -> bool:
    """A program that builds the network that is described takes more than a gigabyte, or a million layers."""
    text = (run / "experiment.toml").read_text()
    width, depth = (int(m[1]) if (m := re.search(rf"(?m)^{name} = (\d+)$", text)) else 2 for name in ("width", "depth"))
    return 4 * width**2 * depth > 10**9 or depth >= 10**6


def last(name: str) -> str:
    return f"checkpoints/step-00000004/{name}"


def never_ends(run: Path, mine: Path) -> bool:
    with (run / "model.safetensors").open("rb") as file:
        return len(file.read(2**20)) == 2**20


def endless(run: Path, mine: Path) -> None:
    (run / "model.safetensors").unlink()
    (run / "model.safetensors").symlink_to("/dev/zero")


def escape_in_manifest(run: Path, mine: Path) -> None:
    files = json.loads((run / last(MANIFEST)).read_text())["files"]
    rewrite_manifest(run / last(""), files={**files, ESCAPE: {"size": 1, "sha256": ""}})


def escape_in_a_name(run: Path, mine: Path) -> None:
    (run / last(ESCAPE.replace("/", "-"))).touch()


ESCAPED = json.dumps(ESCAPE)
HOSTILE: dict[str, Hostile] = {
    "lock through a link": Hostile(linked(".lock"), writes_through(".lock"), RESUME),
    "lock through a second name": Hostile(linked(".lock", hard=True), writes_through(".lock"), RESUME),
    "metrics through a link": Hostile(linked("metrics.jsonl"), writes_through("metrics.jsonl"), RESUME, (0, 4)),
    "metrics through a second name": Hostile(
        linked("metrics.jsonl", hard=True), writes_through("metrics.jsonl"), RESUME, (0, 4)
    ),
    "samples through a link": Hostile(linked(".tmp-x.npy"), writes_through(".tmp-x.npy"), SAMPLE),
    "samples through a second name": Hostile(linked(".tmp-x.npy", hard=True), writes_through(".tmp-x.npy"), SAMPLE),
    "samples in a FIFO": Hostile(special(".tmp-x.npy"), would_wait(".tmp-x.npy"), SAMPLE),
    "notes through a link": Hostile(linked(".tmp-x.npy.json"), writes_through(".tmp-x.npy.json"), SAMPLE, (0, 4)),
    "lock of samples through a link": Hostile(linked(".tmp-x.npy.lock"), writes_through(".tmp-x.npy.lock"), SAMPLE),
    "finished samples through a link": Hostile(linked("x.npy"), writes_through("x.npy"), SAMPLE + " --force", (0,)),
    "leftover that is a link": Hostile(linked(".tmp-old", "photos"), removes_through(".tmp-old"), RESUME, (0,)),
    "removal that is a link": Hostile(linked(".del-old", "photos"), removes_through(".del-old"), RESUME, (0,)),
    "checkpoints elsewhere": Hostile(moved("checkpoints"), removes_through("checkpoints"), RESUME),
    "figures elsewhere": Hostile(moved("figures"), removes_through("figures"), PLOT),
    "model that never ends": Hostile(endless, never_ends, SAMPLE),
    **{
        f"FIFO for {name}": Hostile(special(name), would_wait(name), command, statuses)
        for name, command, statuses in (
            ("experiment.toml", SAMPLE, (4,)),
            ("experiment.toml", RESUME, (4,)),
            ("model.json", SAMPLE, (4,)),
            ("SHA256SUMS", SAMPLE, (4,)),
            ("model.safetensors", SAMPLE, (4,)),
            ("model.safetensors", VERIFY, (4,)),
            ("metrics.jsonl", SAMPLE, (0, 4)),
            ("evaluation.json", EXPORT, (0, 4)),
            (last("MANIFEST.json"), LIST, (0, 4)),
            (last("weights.safetensors"), VERIFY, (4,)),
        )
    },
    "wide network": Hostile(toml(r"width = 8", "width = 100000"), larger, SAMPLE),
    "deep network": Hostile(toml(r"depth = \d+", "depth = 1000000"), larger, SAMPLE),
    "wide network to resume": Hostile(toml(r"width = 8", "width = 100000"), larger, RESUME),
    "huge header": Hostile(
        lambda run, mine: (run / "model.safetensors").write_bytes(safetensors(b" " * 10, b"", 2**40)),
        lambda run, mine: int.from_bytes((run / "model.safetensors").read_bytes()[:8], "little") > 2**30,
        SAMPLE,
    ),
    "escape in a name of a part": Hostile(
        toml(r'name = "siren"', f"name = {ESCAPED}"), prints("experiment.toml"), SAMPLE
    ),
    "escape in a key": Hostile(toml(r"width = 8", f"width = 8\n{ESCAPED} = 1"), prints("experiment.toml"), SAMPLE),
    "escape in a value": Hostile(toml(r"width = 8", f"width = {ESCAPED}"), prints("experiment.toml"), SAMPLE),
    "escape in a manifest": Hostile(escape_in_manifest, prints(last(MANIFEST)), LIST, (0, 4)),
    "escape in a name of a file": Hostile(
        escape_in_a_name, lambda run, mine: any("\x1b" in name for name in os.listdir(run / last(""))), VERIFY
    ),
}
