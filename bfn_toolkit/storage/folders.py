"""Folders that are written whole, with a manifest of sizes and SHA-256."""

from __future__ import annotations

import ctypes
import hashlib
import itertools
import os
import shutil
import socket
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from bfn_toolkit.errors import ResourceError, RunDirectoryError
from bfn_toolkit.storage.files import (
    FORMAT,
    MANIFEST,
    check_seal,
    check_space,
    read_json,
    read_regular,
    resource_error,
    sealed,
    sync_folder,
    write_data,
)


def write_folder(folder: Path, files: Mapping[str, bytes], facts: Mapping[str, Any]) -> None:
    """Writes a folder of files with a manifest, in one step and durably; one that is there already is replaced.

    Arguments:
        folder: Its final name.
        files: Contents by name.
        facts: What the manifest says besides, readable without reading the files.
    Raises:
        ResourceError: If it cannot be written; what was there before is then still there.
    """
    size = sum(map(len, files.values()))
    temporary = folder.with_name(f".tmp-{folder.name}-{socket.gethostname()}-{os.getpid()}")
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        check_space(folder, size)
        remove_tree(temporary)
        temporary.mkdir()
        table = {name: {"size": len(data), "sha256": hashlib.sha256(data).hexdigest()} for name, data in files.items()}
        manifest = sealed({"format": FORMAT, **facts, "files": table})
        for name, data in {**files, MANIFEST: manifest.encode()}.items():
            with (temporary / name).open("xb") as file:
                write_data(file, data)
        sync_folder(temporary)
        if not folder.exists():
            os.replace(temporary, folder)
        elif not _exchanged(temporary, folder):
            os.replace(folder, folder.with_name(_free_name(folder, ".del-")))
            os.replace(temporary, folder)
        sync_folder(folder.parent)
    except OSError as error:
        remove_tree(temporary)
        raise resource_error(error, folder, size) from error
    except ResourceError:
        remove_tree(temporary)
        raise
    remove_tree(temporary)  # now the folder that was replaced
    sweep(folder.parent, f".del-{folder.name}-")


def _exchanged(a: Path, b: Path) -> bool:
    """Lets two folders change names in one step, and returns whether the system can do that."""
    rename = getattr(ctypes.CDLL(None), "renameat2", None)
    here, exchange = -100, 2  # AT_FDCWD, RENAME_EXCHANGE of Linux
    return (
        rename is not None and rename(here, os.fsencode(a.absolute()), here, os.fsencode(b.absolute()), exchange) == 0
    )


def _free_name(folder: Path, prefix: str) -> str:
    names = (f"{prefix}{folder.name}-{i}" for i in itertools.count())
    return next(name for name in names if not folder.with_name(name).exists())


def remove_tree(folder: Path) -> None:
    """Removes a folder, if it is there; nothing that cannot be removed stops the caller."""
    shutil.rmtree(folder, ignore_errors=True)


def sweep(parent: Path, *prefixes: str) -> None:
    """Removes what crashes left in a folder that nobody else writes to."""
    for prefix in prefixes or (".tmp-", ".del-"):
        for leftover in parent.glob(f"{prefix}*"):
            remove_tree(leftover) if leftover.is_dir() else leftover.unlink(missing_ok=True)


def remove_folder(folder: Path) -> None:
    """Removes a folder so that a crash leaves it whole or out of sight."""
    gone = folder.with_name(_free_name(folder, ".del-"))
    with suppress(OSError):  # a folder that cannot be removed is only in the way
        os.replace(folder, gone)
        sync_folder(folder.parent)
    remove_tree(gone)


def read_manifest(folder: Path) -> dict[str, Any]:
    """The manifest of a folder, whose table of files is well formed.

    Raises:
        RunDirectoryError: If it is missing, malformed, names a file outside or is of another format.
    """
    path = folder / MANIFEST
    manifest = read_json(path)
    if not isinstance(manifest, dict):
        raise RunDirectoryError(f"{path} is not a manifest")
    if manifest.get("format") != FORMAT:
        written = manifest.get("bfn-toolkit", "another version")
        raise RunDirectoryError(
            f"{path} has format {manifest.get('format')}, written by {written}; this version reads format {FORMAT}. "
            "Upgrade bfn-toolkit"
        )
    check_seal(manifest, path)
    files = manifest.get("files")
    if not isinstance(files, dict) or not files:
        raise RunDirectoryError(f"{path} is not a manifest: it names no files")
    for name, entry in files.items():
        if not name or name in (".", "..", MANIFEST) or set(name) & set("/\\\0"):
            raise RunDirectoryError(f"{path}: {name!r} is outside the checkpoint")
        fits = isinstance(entry, dict) and isinstance(entry.get("sha256"), str) and isinstance(entry.get("size"), int)
        if not fits:
            raise RunDirectoryError(f"{path} is not a manifest: {name} has no size and SHA-256")
    return manifest


def read_folder(folder: Path) -> tuple[dict[str, Any], dict[str, bytes]]:
    """The manifest and the files of a folder, after checking every byte of them.

    Raises:
        RunDirectoryError: If a file is missing, damaged or not in the manifest.
    """
    manifest = read_manifest(folder)
    try:
        extra = set(os.listdir(folder)) - {*manifest["files"], MANIFEST}
    except OSError as error:  # it may just have been removed
        raise RunDirectoryError(f"{folder} cannot be read: {error.strerror}") from None
    if extra:
        raise RunDirectoryError(f"{folder} holds {', '.join(sorted(extra)[:5])}, which its manifest does not name")
    files = {}
    for name, entry in manifest["files"].items():
        data = read_regular(folder / name, entry["size"])
        if len(data) != entry["size"]:
            raise RunDirectoryError(f"{folder / name} is damaged: {len(data)} bytes, expected {entry['size']}")
        if hashlib.sha256(data).hexdigest() != entry["sha256"]:
            raise RunDirectoryError(f"{folder / name} is damaged: its SHA-256 is not the one that the manifest names")
        files[name] = data
    return manifest, files
