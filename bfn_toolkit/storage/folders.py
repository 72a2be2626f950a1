"""Folders that are written whole, with a manifest of sizes and SHA-256."""

from __future__ import annotations

import glob
import itertools
import json
import os
import re
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path
from typing import Any

from bfn_toolkit.errors import ResourceError, RunDirectoryError
from bfn_toolkit.storage.files import (
    FORMAT,
    MANIFEST,
    check_digest,
    check_inside,
    check_space,
    digest,
    discard,
    read_json,
    read_regular,
    resource_error,
    sync_folder,
    umask,
    write_data,
)

NEW = ".new"  # ending of a folder that replaces another, until that one is removed


def write_folder(folder: Path, files: Mapping[str, bytes]) -> None:
    """Writes a folder of files with a manifest, in one step and durably; an existing folder is replaced.

    Every entry of the manifest is compared with a file when it is read, so the manifest needs no digest of its own;
    other facts belong in a file, whose digest is in the manifest.

    Arguments:
        folder: Final name of the folder.
        files: Contents by name.
    Raises:
        ResourceError: If it cannot be written; the old folder is then unchanged.
    """
    size = sum(map(len, files.values()))
    temporary = None
    try:
        check_inside(folder.parent)
        folder.parent.mkdir(parents=True, exist_ok=True)
        check_space(folder, size)
        temporary = Path(tempfile.mkdtemp(prefix=f".tmp-{folder.name}-", dir=folder.parent))
        table = {name: {"size": len(data), "sha256": digest(data)} for name, data in files.items()}
        manifest = json.dumps({"format": FORMAT, "bfn-toolkit": version("bfn-toolkit"), "files": table}, indent=2)
        for name, data in {**files, MANIFEST: manifest.encode()}.items():
            with (temporary / name).open("xb") as file:
                write_data(file, data)
        os.chmod(temporary, 0o777 & ~umask())
        sync_folder(temporary)
        _put_in_place(temporary, folder)
    except (OSError, ResourceError) as error:
        if temporary is not None:
            remove_tree(temporary)
        if isinstance(error, ResourceError):
            raise
        raise resource_error(error, folder, size) from error
    sweep(folder.parent, f".del-{folder.name}-")


def _put_in_place(temporary: Path, folder: Path) -> None:
    """Gives a complete folder its name.  If that is taken, the folder meanwhile ends in NEW, which readers know."""
    if folder.exists():
        beside = folder.with_name(folder.name + NEW)
        remove_tree(beside)
        os.replace(temporary, beside)
        sync_folder(folder.parent)
        remove_folder(folder)
        temporary = beside
    os.replace(temporary, folder)
    sync_folder(folder.parent)


def named_folders(parent: Path, pattern: str) -> Iterator[tuple[str, Path]]:
    """Names that match a regular expression, with their folders, which end in NEW if a crash interrupted a write."""
    for path in sorted(parent.glob("*")):
        name = path.name.removesuffix(NEW)
        if re.fullmatch(pattern, name) and (path.name == name or not path.with_name(name).exists()):
            yield name, path


def _free_name(folder: Path, prefix: str) -> str:
    names = (f"{prefix}{folder.name}-{i}" for i in itertools.count())
    return next(name for name in names if not folder.with_name(name).exists())


def remove_tree(folder: Path) -> None:
    """Removes a folder, if it is there; ignores errors."""
    with suppress(OSError):
        discard(folder)


def sweep(parent: Path, *prefixes: str) -> None:
    """Removes leftovers of crashes from a folder that nobody else writes to."""
    for prefix in prefixes or (".tmp-", ".del-"):
        for leftover in parent.glob(f"{glob.escape(prefix)}*"):
            remove_tree(leftover)


def put_in_place(temporary: Path, path: Path) -> None:
    """Gives a complete file or folder its final name, durably, in place of what has it.

    Raises:
        ResourceError: If that is not possible.
    """
    gone = path.with_name(_free_name(path, ".del-"))
    try:
        if path.is_dir():  # which a rename does not replace
            os.replace(path, gone)
        os.replace(temporary, path)
        sync_folder(path.parent)
    except OSError as error:
        raise resource_error(error, path) from error
    remove_tree(gone)


def remove_folder(folder: Path) -> None:
    """Removes a folder so that a crash leaves it complete or hidden."""
    gone = folder.with_name(_free_name(folder, ".del-"))
    with suppress(OSError):  # a folder that cannot be removed does no harm
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
    files = manifest.get("files")
    if not isinstance(files, dict) or not files:
        raise RunDirectoryError(f"{path} is not a manifest: it names no files")
    for name, entry in files.items():
        if not name or name in (".", "..", MANIFEST) or set(name) & set("/\\\0"):
            raise RunDirectoryError(f"{path}: {name!r} is outside the folder")
        fits = isinstance(entry, dict) and isinstance(entry.get("sha256"), str) and isinstance(entry.get("size"), int)
        if not fits:
            raise RunDirectoryError(f"{path} is not a manifest: {name} has no size and SHA-256")
    return manifest


def read_file(folder: Path, name: str, manifest: Mapping[str, Any]) -> bytes:
    """A file of a folder, after checking every byte of it.

    Raises:
        RunDirectoryError: If it is missing, damaged or not in the manifest.
    """
    entry = manifest["files"].get(name)
    if entry is None:
        raise RunDirectoryError(f"{folder / MANIFEST} does not name {name}")
    data = read_regular(folder / name, entry["size"])
    if len(data) != entry["size"]:
        raise RunDirectoryError(f"{folder / name} is damaged: {len(data)} bytes, expected {entry['size']}")
    check_digest(folder / name, data, entry["sha256"])
    return data


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
    return manifest, {name: read_file(folder, name, manifest) for name in manifest["files"]}
