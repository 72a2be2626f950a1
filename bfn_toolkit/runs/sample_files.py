"""Files of samples that are larger than memory: written batch by batch, and continued after a kill.

The rows of an unfinished file are in ``.tmp-NAME`` beside it, and ``.tmp-NAME.json`` records the origin and the number
of the rows; both are flushed after each batch.  After the last row the file gets its name.  So a file under its name is
complete, and a process that dies loses one batch at most.  A folder with a file for each row is written the same way.

The bytes depend on the samples alone; :mod:`bfn_toolkit.data.formats` says what they are.
"""

from __future__ import annotations

import io
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, BinaryIO, TypeAlias

from bfn_toolkit.data.codec import Codec, raw_joined, raw_size
from bfn_toolkit.data.column_codecs import IdentityCodec
from bfn_toolkit.data.formats import FolderFormat, Format, Raw, writable
from bfn_toolkit.errors import ConfigError, ResourceError, RunDirectoryError
from bfn_toolkit.storage.files import (
    check_inside,
    check_space,
    discard,
    open_in_place,
    read_json,
    resource_error,
    sync_folder,
    write_atomically,
    write_data,
    write_pieces,
)
from bfn_toolkit.storage.folders import put_in_place, remove_tree, sweep
from bfn_toolkit.storage.locks import held


def format_of(path: Path, codec: Codec) -> Format:
    """Format of a file, by the ending of its name.

    Raises:
        ConfigError: If the codec has no format with this ending.
    """
    if path.suffix not in codec.formats:
        raise ConfigError(f"cannot tell the format of '{path.name}'; end its name in {', '.join(writable(codec))}")
    return codec.formats[path.suffix]


def text_format_of(codec: Codec) -> Format:
    """The first format of a codec that is text.

    Raises:
        ConfigError: If it has none.
    """
    for format_ in codec.formats.values():
        if format_.text:
            return format_
    endings = ", ".join(filter(None, codec.formats))  # that of a folder is empty
    raise ConfigError(f"--out -: these samples are not text; name a file that ends in {endings}")


class SampleStream:
    """Samples as text in a stream, such as stdout; nothing is kept if it ends early.

    Arguments:
        stream: The stream, which takes bytes.
        n: Total number of samples.
        codec: The codec of the samples.
    Raises:
        ConfigError: If the codec has no format that is text.
    """

    other = False

    def __init__(self, stream: BinaryIO, n: int, codec: Codec) -> None:
        self.rows, self.n, self._stream, self.format = 0, n, stream, text_format_of(codec)

    def append(self, raw: Raw) -> None:
        """Writes the next rows.

        Raises:
            ConfigError: If the format cannot hold such rows.
        """
        header = self.format.header(raw, self.n) if self.rows == 0 else b""
        pieces = self.format.pieces(raw, self.n, self.rows, len(header))
        self._stream.write(header + b"".join(data for _, data in pieces))
        self._stream.flush()
        self.rows += raw_size(raw)


class _OneFile:
    """All rows in one open file."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file

    def holds(self, rows: int, end: int) -> bool:
        """Whether so many rows, with so many bytes, are there."""
        return self._file.seek(0, io.SEEK_END) >= end

    def clear(self) -> None:
        """Removes all rows."""
        self._file.truncate(0)

    def write(self, first: int, pieces: Sequence[tuple[int, bytes]]) -> None:
        """Writes the rows from number ``first`` on, durably."""
        write_pieces(self._file, pieces)


class _FileEach:
    """A folder with a file for each row."""

    def __init__(self, folder: Path, n: int, format_: FolderFormat) -> None:
        self._folder, self._n, self._format = folder, n, format_

    def _path(self, row: int) -> Path:
        return self._folder / self._format.name(row, self._n)

    def holds(self, rows: int, end: int) -> bool:
        """Whether so many rows, with so many bytes, are there."""
        try:
            return sum(self._path(row).stat().st_size for row in range(rows)) == end
        except OSError:
            return False

    def clear(self) -> None:
        """Removes all rows."""
        for path in self._folder.iterdir():
            path.unlink()

    def write(self, first: int, pieces: Sequence[tuple[int, bytes]]) -> None:
        """Writes the rows from number ``first`` on, durably."""
        for row, (_, data) in enumerate(pieces, first):
            discard(self._path(row))
            with self._path(row).open("xb") as file:
                write_data(file, data)
        sync_folder(self._folder)


_Store: TypeAlias = _OneFile | _FileEach


class SampleFile:
    """An unfinished file of samples; :func:`sample_file` opens one.

    Arguments:
        path: Final name of the file.
        n: Total number of samples.
        facts: JSON values that determine the samples; None if the file will not be continued.
        store: The rows so far.
        format_: The file format.
    """

    def __init__(self, path: Path, n: int, facts: Mapping[str, Any] | None, store: _Store, format_: Format) -> None:
        self.path, self.n, self._facts, self._store, self.format = path, n, facts, store, format_
        self.rows, self._end = 0, 0
        self._held: list[Raw] = []  # rows of a format that writes all together
        self.other = False  # whether an unfinished file of other samples was there
        state = None if facts is None else self._state()
        if state is not None and state["facts"] == json.loads(json.dumps(facts)):
            self.rows, self._end = state["rows"], state["end"]
        else:
            self.other = state is not None
            store.clear()

    def _state(self) -> dict[str, Any] | None:
        """Notes on the last batch of an earlier process, if its rows are all there."""
        try:
            state, again = read_json(_notes(self.path))
        except (RunDirectoryError, TypeError, ValueError):
            return None
        return state if state == again and self._store.holds(state["rows"], state["end"]) else None

    def append(self, raw: Raw) -> None:
        """Writes the next rows and records their number.

        Raises:
            ConfigError: If the format cannot hold such rows.
            ResourceError: If they cannot be written, or the remaining rows will not fit on the disk.
        """
        count = raw_size(raw)
        if self.format.whole and count < self.n:
            self._held.append(raw)
            if sum(map(raw_size, self._held)) < self.n:
                return
            raw, count = raw_joined(self._held), self.n
        header = self.format.header(raw, self.n) if self.rows == 0 else b""
        pieces = list(self.format.pieces(raw, self.n, self.rows, self._end or len(header)))
        size = sum(len(data) for _, data in pieces)
        check_space(self.path, len(header) + size * (self.n - self.rows) // count)
        if header:
            pieces.insert(0, (0, header))
        try:
            self._store.write(self.rows, pieces)
        except OSError as error:
            raise resource_error(error, self.path, size) from error
        self.rows += count
        self._end = max(place + len(data) for place, data in pieces)
        if self._facts is not None:
            state = {"facts": self._facts, "rows": self.rows, "end": self._end}
            write_atomically(_notes(self.path), json.dumps([state, state]))  # twice: a flipped bit makes them differ


def _rows(path: Path) -> Path:
    return path.with_name(f".tmp-{path.name}")


def _notes(path: Path) -> Path:
    return path.with_name(f".tmp-{path.name}.json")


@contextmanager
def sample_file(
    path: Path, n: int, facts: Mapping[str, Any] | None = None, codec: Codec | None = None
) -> Iterator[SampleFile]:
    """A file or folder of n rows of raw data, which gets its name at the end of the scope if all rows are there.

    If the scope ends earlier, the rows stay, and the next call with the same facts continues after them; without facts
    nothing stays.

    Raises:
        ConfigError: If the ending of the name is unknown, or a folder of this name holds other files.
        ResourceError: If the file cannot be written, or another process is writing it.
    """
    format_ = format_of(path, codec or IdentityCodec())
    if isinstance(format_, FolderFormat):
        _check_folder(path, format_)
    lock, leftovers = path.with_name(f".tmp-{path.name}.lock"), (_rows(path), _notes(path))
    with ExitStack() as scope:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            scope.enter_context(held(lock, path, ResourceError))
            scope.callback(remove_tree, lock)  # while it is held, as filelock allows
            store: _Store
            if isinstance(format_, FolderFormat):
                check_inside(_rows(path))
                _rows(path).mkdir(exist_ok=True)
                store = _FileEach(_rows(path), n, format_)
            else:
                store = _OneFile(scope.enter_context(open_in_place(_rows(path))))
            sweep(path.parent, f".tmp-{_notes(path).name}-", f".del-{path.name}-")
            opened = SampleFile(path, n, facts, store, format_)
        except OSError as error:
            raise resource_error(error, path) from error
        try:
            yield opened
            assert opened.rows == n
            put_in_place(_rows(path), path)
            remove_tree(_notes(path))
        finally:
            if facts is None or opened.rows == 0:
                for leftover in leftovers:
                    remove_tree(leftover)


def _check_folder(path: Path, format_: FolderFormat) -> None:
    """Refuses to replace anything but a folder of samples."""
    if path.is_dir():
        other = next((name for name in sorted(os.listdir(path)) if not format_.is_name(name)), None)
        if other is not None:
            raise ConfigError(f"{path} holds {other}, which is not a sample; choose another folder")
    elif path.exists():
        raise ConfigError(f"{path} is a file; choose another name for the folder")
