"""Damages of a checkpoint folder, each with what is said of it, as a regular expression."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

from bfn_toolkit.storage.files import MANIFEST, write_together
from faults.disks import swap_files, truncate, zero_page


def rewrite_manifest(folder: Path, **changes: object) -> None:
    """Writes a manifest that says something else: what somebody writes, not what a disk does."""
    manifest = json.loads((folder / MANIFEST).read_text())
    (folder / MANIFEST).write_text(json.dumps({**manifest, **changes}))


def rewrite_model(run: Path, content: bytes, **facts: object) -> None:
    """Writes another model under good digests, which whoever makes one can compute."""
    described = {**json.loads((run / "model.json").read_text()), **facts}
    write_together(run, {"model.safetensors": content, "model.json": json.dumps(described).encode()})


def replace_by_the_one_before(folder: Path) -> None:
    """A checkpoint stands under the name of another."""
    shutil.rmtree(folder)
    shutil.copytree(before(folder), folder)


def rename_in_manifest(name: str) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        files = json.loads((folder / MANIFEST).read_text())["files"]
        rewrite_manifest(folder, files={name if old == "state.json" else old: entry for old, entry in files.items()})

    return damage


def before(folder: Path) -> Path:
    """The checkpoint before."""
    return max(path for path in folder.parent.iterdir() if path < folder)


def symlink(folder: Path) -> None:
    path = folder / "weights.safetensors"
    path.rename(folder.parents[1] / "elsewhere")
    path.symlink_to(folder.parents[1] / "elsewhere")


def fifo(folder: Path) -> None:
    (folder / "weights.safetensors").unlink()
    os.mkfifo(folder / "weights.safetensors")


DAMAGES: dict[str, tuple[Callable[[Path], object], str]] = {
    "truncation": (lambda f: truncate(f / "weights.safetensors"), r"weights\.safetensors is damaged: \d+ bytes"),
    "zero page": (lambda f: zero_page(f / "weights.safetensors"), r"weights\.safetensors is damaged: its content"),
    "swapped files": (
        lambda f: swap_files(f / "weights.safetensors", f / "optimizer.safetensors"),
        r"(weights|optimizer)\.safetensors",
    ),
    "swap of equals": (
        lambda f: swap_files(f / "weights.safetensors", before(f) / "weights.safetensors"),
        r"weights\.safetensors is damaged: its content",
    ),
    "manifest of another step": (
        lambda f: swap_files(f / MANIFEST, before(f) / MANIFEST),
        r"state\.json is damaged",
    ),
    "another step": (replace_by_the_one_before, r"step-\d+ holds step \d+"),
    "missing file": (lambda f: (f / "state.json").unlink(), r"state\.json is missing"),
    "missing manifest": (lambda f: (f / MANIFEST).unlink(), r"MANIFEST\.json is missing"),
    "empty manifest": (lambda f: (f / MANIFEST).write_text(""), r"MANIFEST\.json is not JSON"),
    "extra file": (lambda f: (f / "extra").touch(), "holds extra, which its manifest does not name"),
    "symlink": (symlink, r"weights\.safetensors cannot be read: not a regular file, but a (link|FIFO)"),
    "fifo": (fifo, r"weights\.safetensors cannot be read: not a regular file, but a (link|FIFO)"),
    "format 99": (
        lambda f: rewrite_manifest(f, format=99),
        r"format 99, written by \S+; this version reads format 1\. Upgrade",
    ),
    "path upwards": (rename_in_manifest("../state.json"), r"'\.\./state\.json' is outside"),
    "absolute path": (rename_in_manifest("/etc/passwd"), r"'/etc/passwd' is outside"),
    "parent": (rename_in_manifest(".."), r"'\.\.' is outside"),
    "NUL": (rename_in_manifest("a\0b"), "outside"),
    "no files": (lambda f: rewrite_manifest(f, files={}), "names no files"),
    "negative size": (
        lambda f: rewrite_manifest(f, files={"state.json": {"size": -1, "sha256": ""}}),
        r"which its manifest does not name|more than",
    ),
    "deep manifest": (lambda f: (f / MANIFEST).write_text("[" * 10**5 + "]" * 10**5), "nested too deeply"),
    "manifest of 17 MB": (lambda f: (f / MANIFEST).write_text(" " * 17 * 2**20 + "{}"), "more than 16.8 MB"),
    "duplicate key": (
        lambda f: (f / MANIFEST).write_text((f / MANIFEST).read_text().replace("{", '{"format": 1, ', 1)),
        "a key is repeated",
    ),
    "edited": (
        lambda f: (f / "state.json").write_text(
            (f / "state.json").read_text().replace('"valid_loss": null', '"valid_loss": 1234')
        ),
        r"state\.json (is damaged|has)",
    ),
}
