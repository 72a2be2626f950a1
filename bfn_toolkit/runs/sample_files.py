"""Files of samples that are larger than memory: written batch by batch, and continued after a kill.

The rows of an unfinished file are in ``.tmp-NAME`` beside it, and ``.tmp-NAME.json`` records the origin and the number
of the rows; both are flushed after each batch.  After the last row the file gets its name.  So a file under its name is
complete, and a process that dies loses one batch at most.

The bytes depend on the samples alone; they are those of :func:`numpy.save`, :func:`safetensors.torch.save` or a table.
"""

from __future__ import annotations

import abc
import io
import itertools
import json
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from safetensors.torch import save as save_tensors
from torch import Tensor

from bfn_toolkit.errors import ConfigError, ResourceError, RunDirectoryError
from bfn_toolkit.shapes import Data, batch_size, map_data
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


class Format(abc.ABC):
    """A file format for samples: a header, then the rows of each tensor."""

    @abc.abstractmethod
    def header(self, samples: Data, n: int) -> bytes:
        """Bytes before the rows; ``samples`` are some of the n samples.

        Raises:
            ConfigError: If the format cannot hold such samples.
        """

    @abc.abstractmethod
    def pieces(self, samples: Data, n: int, first: int, end: int) -> Iterator[tuple[int, bytes]]:
        """Places and bytes of samples from row ``first`` on, in a file that has ``end`` bytes so far."""


class ArrayFormat(Format):
    """A .npy file of samples that have no parts.

    ``open_memmap`` is not used: if the disk fills up, a memory map ends the process by SIGBUS, without a message.
    """

    def header(self, samples: Data, n: int) -> bytes:
        """Shape and type of the array."""
        if isinstance(samples, Mapping):
            raise ConfigError(f"samples of the parts {', '.join(samples)} are not a single array; write .safetensors")
        facts = np.lib.format.header_data_from_array_1_0(samples[:0].numpy())
        buffer = io.BytesIO()
        np.lib.format.write_array_header_1_0(buffer, {**facts, "shape": (n, *samples.shape[1:])})
        return buffer.getvalue()

    def pieces(self, samples: Data, n: int, first: int, end: int) -> Iterator[tuple[int, bytes]]:
        """The rows at the end."""
        yield end, _bytes(samples)


class TensorsFormat(Format):
    """A .safetensors file, with a tensor for each part; without parts, the tensor is named "samples"."""

    def header(self, samples: Data, n: int) -> bytes:
        """Shapes, types and places of the tensors: those of a file of one row, scaled to n rows."""
        one = save_tensors({name: part[:1].contiguous() for name, part in _named(samples, "samples").items()})
        size = int.from_bytes(one[:8], "little")
        table = json.loads(one[8 : 8 + size])
        for facts in table.values():
            facts["shape"][0] = n
            facts["data_offsets"] = [n * place for place in facts["data_offsets"]]
        text = json.dumps(table, separators=(",", ":"), ensure_ascii=False).encode()
        text += b" " * (-len(text) % 8)
        return len(text).to_bytes(8, "little") + text

    def pieces(self, samples: Data, n: int, first: int, end: int) -> Iterator[tuple[int, bytes]]:
        """The rows of each tensor where they belong."""
        header = self.header(samples, n)
        table = json.loads(header[8:])
        for name, part in _named(samples, "samples").items():
            data, start = _bytes(part), table[name]["data_offsets"][0]
            yield len(header) + start + first * (len(data) // len(part)), data


class TableFormat(Format):
    """A .csv file with a column for each number of flat samples."""

    def header(self, samples: Data, n: int) -> bytes:
        """Names of the columns."""
        parts = _named(samples, "x")
        for part in parts.values():
            if part.ndim != 2:
                raise ConfigError(f"samples of shape {tuple(part.shape[1:])} are not flat; write .npy or .safetensors")
        return _line(f"{name}{i + 1}" for name, part in parts.items() for i in range(part.shape[1]))

    def pieces(self, samples: Data, n: int, first: int, end: int) -> Iterator[tuple[int, bytes]]:
        """The rows at the end."""
        rows = zip(*(part.tolist() for part in _named(samples, "x").values()), strict=True)
        yield end, b"".join(_line(map(repr, itertools.chain(*row))) for row in rows)


FORMATS: Mapping[str, Format] = {".npy": ArrayFormat(), ".safetensors": TensorsFormat(), ".csv": TableFormat()}


def format_of(path: Path) -> Format:
    """Format of a file, by the ending of its name.

    Raises:
        ConfigError: If the ending is unknown.
    """
    if path.suffix not in FORMATS:
        raise ConfigError(f"cannot tell the format of '{path.name}'; end its name in {', '.join(FORMATS)}")
    return FORMATS[path.suffix]


def _named(samples: Data, name: str) -> Mapping[str, Tensor]:
    return samples if isinstance(samples, Mapping) else {name: samples}


def _bytes(part: Tensor) -> bytes:
    return part.contiguous().view(torch.uint8).numpy().tobytes()  # numpy has no bfloat16


def _line(cells: Iterator[str]) -> bytes:
    return (",".join(cells) + "\n").encode()


class SampleFile:
    """An unfinished file of samples; :func:`sample_file` opens one.

    Arguments:
        path: Final name of the file.
        n: Total number of samples.
        facts: JSON values that determine the samples; None if the file will not be continued.
        file: File with the rows so far.
    """

    def __init__(self, path: Path, n: int, facts: Mapping[str, Any] | None, file: BinaryIO) -> None:
        self.path, self.n, self._facts, self._file = path, n, facts, file
        self.format = format_of(path)
        self.rows, self._end = 0, 0
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

    def append(self, samples: Data) -> None:
        """Writes the next rows and records their number.

        Raises:
            ConfigError: If the format cannot hold such samples.
            ResourceError: If they cannot be written, or the remaining rows will not fit on the disk.
        """
        samples = map_data(lambda part: part.detach().cpu(), samples)
        count = batch_size(samples)
        header = self.format.header(samples, self.n) if self.rows == 0 else b""
        pieces = list(self.format.pieces(samples, self.n, self.rows, self._end or len(header)))
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
def sample_file(path: Path, n: int, facts: Mapping[str, Any] | None = None) -> Iterator[SampleFile]:
    """A file of n samples, which gets its name at the end of the scope if all rows are there.

    If the scope ends earlier, the rows stay, and the next call with the same facts continues after them; without facts
    nothing stays.

    Raises:
        ConfigError: If the ending of the name is unknown.
        ResourceError: If the file cannot be written, or another process is writing it.
    """
    format_of(path)
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
        opened = SampleFile(path, n, facts, file)
        try:
            yield opened
            assert opened.rows == n
            put_in_place(_rows(path), path)
            _notes(path).unlink(missing_ok=True)
        finally:
            if facts is None or opened.rows == 0:
                for leftover in leftovers:
                    leftover.unlink(missing_ok=True)
