"""``metrics.jsonl``: the measurements of a training, one JSON object a line.

Lines are only appended.  Checkpoints and ``model.json`` record the number and the SHA-256 of the bytes until then, so
that a reader of these weights has their lines, as they were written, and one that continues knows where to.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import warnings
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from functools import cached_property
from itertools import islice, zip_longest
from pathlib import Path
from typing import Any, BinaryIO, overload

import attrs

from bfn_toolkit.errors import BFNWarning, ResourceError, RunDirectoryError
from bfn_toolkit.storage.files import open_in_place, resource_error, to_json
from bfn_toolkit.untrusted import open_regular

METRICS, DAMAGED = "metrics.jsonl", "metrics-damaged.jsonl"
MAX_LINE = 2**16  # bytes
PIECE = 2**20  # bytes that are read together
NOTHING = {"bytes": 0, "sha256": hashlib.sha256().hexdigest()}  # the record before the first line

Line = Mapping[str, Any]


def is_record(value: Any) -> bool:
    """Whether a value is the number and the SHA-256 of some lines."""
    return isinstance(value, Mapping) and isinstance(value.get("bytes"), int) and isinstance(value.get("sha256"), str)


@attrs.define(eq=False)
class MetricsLog:
    """The file of a run in training.

    Arguments:
        folder: The run directory.
        size: Bytes of the lines so far.
        is_damaged: Whether the file that is there is not that of the run; the first new line sets it aside.
    """

    folder: Path
    size: int = 0
    is_damaged: bool = False
    _digest: Any = attrs.field(factory=hashlib.sha256)

    @classmethod
    def continued(cls, folder: Path, record: Mapping[str, Any]) -> MetricsLog:
        """The file of a run that continues after a record; later lines are dropped, and other content is set aside."""
        stored = StoredMetrics(folder, record)
        log = cls(folder)
        if stored.is_intact:
            log.size, log._digest = record["bytes"], stored.hashed()
        else:
            log.is_damaged = True
        return log

    def append(self, metrics: Sequence[Line]) -> None:
        """Appends lines, all of them or none; numbers that are not finite are null.

        Raises:
            ResourceError: If they cannot be written.
        """
        path = self.folder / METRICS
        data = "".join(to_json(line, indent=None) + "\n" for line in metrics).encode()
        try:
            if self.is_damaged and os.path.lexists(path):
                os.replace(path, self.folder / DAMAGED)
            self.is_damaged = False
            with open_in_place(path) as file:
                if file.seek(0, io.SEEK_END) < self.size:
                    raise ResourceError(f"{path} has lost lines since they were written; no others are written")
                try:
                    file.truncate(self.size)  # what a failed write, or a training before a kill, has left
                    file.seek(self.size)
                    _write_all(file, data)
                except OSError:
                    file.truncate(self.size)
                    raise
        except OSError as error:
            raise resource_error(error, path) from error
        self.size += len(data)
        self._digest.update(data)

    def record(self) -> dict[str, Any]:
        """Number and SHA-256 of the bytes so far, which are made durable."""
        with suppress(OSError), open_regular(self.folder / METRICS, follow=False) as file:
            os.fsync(file.fileno())
        return {"bytes": self.size, "sha256": self._digest.hexdigest()}


def _write_all(file: BinaryIO, data: bytes) -> None:
    while data:  # a write can be short, just before a disk is full
        data = data[file.write(data) or 0 :]


@attrs.define(eq=False, slots=False)
class StoredMetrics(Sequence[Line]):
    """The lines of ``metrics.jsonl`` until a record, read one by one when they are needed.

    If the file is not as it was written, that is a warning, and there are no lines.

    Arguments:
        folder: The run directory.
        record: Their number of bytes, and their SHA-256.
    """

    folder: Path
    record: Mapping[str, Any] = attrs.field(repr=False)

    @cached_property
    def fault(self) -> str | None:
        """Reason why the lines of the record are not there; None if they are."""
        try:
            if self.hashed().hexdigest() == self.record["sha256"]:
                return None
        except RunDirectoryError as error:
            return str(error)
        return f"{self.folder / METRICS} is damaged, or of another run: it does not match the SHA-256 of its lines"

    @cached_property
    def is_intact(self) -> bool:
        """Whether the lines of the record are there; if not, that is a warning."""
        if self.fault is not None:
            warnings.warn(f"the metrics are left out: {self.fault}", BFNWarning, stacklevel=3)
        return self.fault is None

    def hashed(self) -> Any:
        """The SHA-256 of the bytes of the record.

        Raises:
            RunDirectoryError: If they cannot be read.
        """
        found, left = hashlib.sha256(), self.record["bytes"]
        if left:
            with self._open() as file:
                while left > 0 and (piece := file.read(min(left, PIECE))):
                    found.update(piece)
                    left -= len(piece)
        return found

    def _open(self) -> BinaryIO:
        """The file, which must be a regular one, because others block or never end."""
        path = self.folder / METRICS
        try:
            return open_regular(path, follow=False)
        except OSError as error:
            raise RunDirectoryError(f"{path} cannot be read: {error.strerror}") from None

    def __iter__(self) -> Iterator[Line]:
        left = self.record["bytes"]
        if not left or not self.is_intact:
            return
        with self._open() as file:
            while left > 0:
                text = file.readline(min(left, MAX_LINE))
                left -= len(text)
                try:
                    line = json.loads(text)
                except (ValueError, RecursionError):
                    line = None
                if not isinstance(line, dict) or not isinstance(line.get("step"), int):
                    raise RunDirectoryError(f"{self.folder / METRICS} holds a line that is not a measurement")
                yield line

    def __len__(self) -> int:
        return sum(1 for _ in self)

    @overload
    def __getitem__(self, index: int) -> Line: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Line]: ...
    def __getitem__(self, index: int | slice) -> Line | Sequence[Line]:
        if isinstance(index, slice):
            return tuple(self)[index]
        found = deque(self, maxlen=-index) if index < 0 else list(islice(self, index, index + 1))
        if len(found) < max(1, -index):
            raise IndexError("there are fewer lines")
        return found[0]

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and all(a == b for a, b in zip_longest(self, other))

    __hash__ = None  # type: ignore[assignment]
