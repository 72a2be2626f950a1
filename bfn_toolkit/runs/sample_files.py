"""Files of samples that are larger than memory: written batch by batch, and continued after a kill.

The rows of an unfinished file are in ``.tmp-NAME`` beside it, and ``.tmp-NAME.json`` records the origin and the number
of the rows; both are flushed after each batch.  After the last row the file gets its name.  So a file under its name is
complete, and a process that dies loses one batch at most.

The bytes depend on the samples alone; :mod:`bfn_toolkit.data.formats` says what they are.
"""

from __future__ import annotations

import io
import json
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from bfn_toolkit.data.codec import Codec, IdentityCodec, raw_joined, raw_size
from bfn_toolkit.data.formats import Format, Raw
from bfn_toolkit.errors import ConfigError, ResourceError, RunDirectoryError
from bfn_toolkit.storage.files import (
    check_space,
    put_in_place,
    read_json,
    resource_error,
    write_atomically,
    write_pieces,
)
from bfn_toolkit.storage.folders import sweep
from bfn_toolkit.storage.locks import held


def format_of(path: Path, codec: Codec) -> Format:
    """Format of a file, by the ending of its name.

    Raises:
        ConfigError: If the codec has no format with this ending.
    """
    if path.suffix not in codec.formats:
        raise ConfigError(f"cannot tell the format of '{path.name}'; end its name in {', '.join(codec.formats)}")
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
    raise ConfigError(f"--out -: these samples are no text; name a file that ends in {endings}")


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


class SampleFile:
    """An unfinished file of samples; :func:`sample_file` opens one.

    Arguments:
        path: Final name of the file.
        n: Total number of samples.
        facts: JSON values that determine the samples; None if the file will not be continued.
        file: File with the rows so far.
        format_: The file format.
    """

    def __init__(self, path: Path, n: int, facts: Mapping[str, Any] | None, file: BinaryIO, format_: Format) -> None:
        self.path, self.n, self._facts, self._file, self.format = path, n, facts, file, format_
        self.rows, self._end = 0, 0
        self._held: list[Raw] = []  # rows of a format that writes all together
        self.other = False  # whether an unfinished file of other samples was there
        state = None if facts is None else self._state()
        if state is not None and state["facts"] == json.loads(json.dumps(facts)):
            self.rows, self._end = state["rows"], state["end"]
        else:
            self.other = state is not None
            file.truncate(0)

    def _state(self) -> dict[str, Any] | None:
        """Notes on the last batch of an earlier process, if its rows are all there."""
        try:
            state, again = read_json(_notes(self.path))
        except (RunDirectoryError, TypeError, ValueError):
            return None
        return state if state == again and self._file.seek(0, io.SEEK_END) >= state["end"] else None

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
            write_pieces(self._file, pieces)
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
    """A file of n rows of raw data, which gets its name at the end of the scope if all rows are there.

    If the scope ends earlier, the rows stay, and the next call with the same facts continues after them; without facts
    nothing stays.

    Raises:
        ConfigError: If the ending of the name is unknown.
        ResourceError: If the file cannot be written, or another process is writing it.
    """
    format_ = format_of(path, codec or IdentityCodec())
    lock, leftovers = path.with_name(f".tmp-{path.name}.lock"), (_rows(path), _notes(path))
    with ExitStack() as scope:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            scope.enter_context(held(lock, path, ResourceError))
            scope.callback(lock.unlink, missing_ok=True)  # while it is held, as filelock allows
            file = scope.enter_context(open(_rows(path), "r+b" if _rows(path).exists() else "w+b"))
        except OSError as error:
            raise resource_error(error, path) from error
        sweep(path.parent, f".tmp-{_notes(path).name}-")
        opened = SampleFile(path, n, facts, file, format_)
        try:
            yield opened
            assert opened.rows == n
            put_in_place(_rows(path), path)
            _notes(path).unlink(missing_ok=True)
        finally:
            if facts is None or opened.rows == 0:
                for leftover in leftovers:
                    leftover.unlink(missing_ok=True)
