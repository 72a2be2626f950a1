"""Files of the user's own: regular, the same at each reading, and with rows that are split once and for all.

What a file says is a function of the file and of the options of the data set, so it is read when it is first asked for
and kept.  A file that was written since then is refused, because an epoch of other rows would be of no experiment.
"""

from __future__ import annotations

import abc
import lzma
import os
import stat
import struct
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO, ClassVar, TypeAlias

import attrs
import torch
from attrs import field
from torch import Tensor

from bfn_toolkit import Batch, ConfigError, DataError, Dataset, ResourceError, Split, split_rows, validators

Fingerprint: TypeAlias = tuple[int, int, int, int]  # device, inode, bytes, nanoseconds of the last change

PACKED = 100  # an honest file is not packed more than so many times ...
UNPACKED = 256 * 10**6  # ... unless it is small: bytes
_DAMAGED = (EOFError, zlib.error, lzma.LZMAError, struct.error, zipfile.BadZipFile, NotImplementedError)


def fingerprint(path: Path) -> Fingerprint:
    """What tells a file from any other, and from itself before it was written again.

    Raises:
        DataError: If it is no regular file: a FIFO would block, and a device never end.
    """
    try:
        status = path.stat()
    except OSError as error:
        raise DataError(f"{path}: not a regular file: {error.strerror}") from error
    if not stat.S_ISREG(status.st_mode):
        raise DataError(f"{path}: not a regular file{', but a folder' if stat.S_ISDIR(status.st_mode) else ''}")
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns


@contextmanager
def reading(path: Path) -> Iterator[BinaryIO]:
    """Opens a regular file, and tells what goes wrong while it is read.

    Raises:
        DataError: If it is no regular file, truncated or damaged.
        ResourceError: If it may not be read, or what it holds does not fit into memory.
    """
    size = fingerprint(path)[2]
    try:
        with path.open("rb") as file:
            yield file
    except _DAMAGED as error:
        raise DataError(f"{path}: truncated or damaged: {error}") from error
    except PermissionError as error:
        raise ResourceError(f"{path}: may not be read: {error.strerror}") from error
    except OSError as error:  # of gzip, too
        raise DataError(f"{path}: cannot be read: {error.strerror or error}") from error
    except MemoryError as error:
        raise ResourceError(f"{path}: its {size:,} bytes hold more than fits into memory") from error


def check_unpacked(path: Path, what: str, unpacked: int, packed: int) -> None:
    """Refuses what would fill the memory from a small file.

    Raises:
        DataError: If it is both large and packed more than any data are.
    """
    if unpacked > max(UNPACKED, PACKED * packed):
        raise DataError(
            f"{path}: {what} has {unpacked / 1e6:,.0f} MB or more, packed into {packed / 1e6:,.1f} MB: above the size "
            f"limit of {UNPACKED // 10**6} MB for what is packed {PACKED} times or more; save it without compression"
        )


def partition(rows: int, valid_fraction: float, test_fraction: float, seed: int) -> Mapping[Split, Tensor]:
    """Row numbers of every split: disjoint, shuffled, fixed by the seed, and at least one each.

    Raises:
        DataError: If there are too few rows.
    """
    if rows < 3:
        raise DataError(f"cannot split {rows} row{'s' * (rows != 1)}; expected 3 or more: to train, validate and test")
    rest, test = split_rows(rows, max(test_fraction, 1.0 / rows), seed)
    train, valid = split_rows(len(rest), max(valid_fraction, 1.0 / len(rest)), seed)
    return {"train": rest[train], "valid": rest[valid], "test": test, "all": rest}


@attrs.frozen(eq=False)
class Content:
    """What a data set has read.

    Arguments:
        rows: All examples.
        splits: Row numbers of every split.
        metadata: The metadata of the data set.
    """

    rows: Batch
    splits: Mapping[Split, Tensor]
    metadata: Mapping[str, object]


def _absolute(path: str | Path) -> Path:
    return Path(os.path.abspath(Path(path).expanduser()))


def _a_file(dataset: FileDataset, _: attrs.Attribute[Path], path: Path) -> None:
    if "\0" in str(path):
        raise ConfigError("path: expected the name of a file, got one with a NUL character")
    if dataset.endings and not path.name.lower().endswith(dataset.endings):
        endings = ", ".join(dataset.endings)
        raise ConfigError(f"path: cannot tell the format of '{path.name}'; its name has to end in {endings}")


def _fraction(default: float) -> float:
    found: float = field(default=default, kw_only=True, validator=validators.number(gt=0, lt=1))
    return found


@attrs.frozen
class FileDataset(Dataset):
    """Examples in a file.

    Arguments:
        path: The file; a run keeps its absolute path.
        valid_fraction: Share of the rows that are not for the test that is held out for validation; at least one row.
        test_fraction: Share of the rows that is put aside for the test; at least one row.
        seed: Of the splits.
    Raises:
        DataError: From what reads the file, if there is none, or it is malformed or was written since.
    """

    endings: ClassVar[tuple[str, ...]] = ()  # of the names of files; all, if there are none

    path: Path = field(converter=_absolute, repr=lambda path: repr(str(path)), validator=_a_file)
    valid_fraction: float = _fraction(0.1)
    test_fraction: float = _fraction(0.1)
    seed: int = field(default=0, kw_only=True, validator=validators.integer(ge=0, le=2**63 - 1))
    _found: Fingerprint | None = field(init=False, eq=False, repr=False)

    def __attrs_post_init__(self) -> None:
        found = None
        with suppress(DataError):  # a run can be sampled without its file, and whoever reads it is told
            found = fingerprint(self.path)
        object.__setattr__(self, "_found", found)

    @property
    @abc.abstractmethod
    def content(self) -> Content:
        """What the file says, read once in a process."""

    def unchanged(self) -> Fingerprint:
        """The fingerprint of the file.

        Raises:
            DataError: If it was written since the data set was built.
        """
        found = fingerprint(self.path)
        if found != self._found:
            raise DataError(f"{self.path}: changed while it was in use: its fingerprint differs; start again")
        return found

    def partition(self, rows: int) -> Mapping[Split, Tensor]:
        """Row numbers of every split of so many rows.

        Raises:
            DataError: If there are too few.
        """
        try:
            return partition(rows, self.valid_fraction, self.test_fraction, self.seed)
        except DataError as error:
            raise DataError(f"{self.path}: {error}") from error

    @property
    def site_shape(self) -> tuple[int, ...]:
        """Shape of one example."""
        x = self.content.rows.x
        assert isinstance(x, torch.Tensor)
        return tuple(x.shape[1:])

    @property
    def metadata(self) -> Mapping[str, object]:
        """Site shape, and what else the file says."""
        return {"site_shape": self.site_shape, **self.content.metadata}

    def split(self, name: Split) -> Batch:
        """A copy of the rows of a split."""
        content = self.content
        return content.rows.rows(content.splits[name])
