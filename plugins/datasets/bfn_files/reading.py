"""Files of the user: only regular files, unchanged between readings, with fixed splits.

The content of a data set is a function of the file and of the options, so it is read on first use and cached.  A file
that was written since then is refused, because epochs with different rows would belong to no single experiment.
"""

from __future__ import annotations

import abc
import hashlib
import lzma
import os
import stat
import struct
import warnings
import zipfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import lru_cache
from pathlib import Path
from typing import BinaryIO, ClassVar, TypeAlias

import attrs
import torch
from attrs import field
from torch import Tensor

from bfn_toolkit import (
    Batch,
    BFNWarning,
    ConfigError,
    DataError,
    Dataset,
    ResourceError,
    Rows,
    Split,
    open_regular,
    split_rows,
    validators,
)

Fingerprint: TypeAlias = tuple[int, int, int, int]  # device, inode, bytes, nanoseconds of the last change

SHOWN = 5  # largest number of names in a message
PACKED = 100  # largest compression ratio of an honest file ...
UNPACKED = 256 * 10**6  # ... unless its unpacked size is at most this many bytes
BLOCK, BLOCKS = 2**20, 2**10  # size in bytes, and largest number, of the blocks of a file that are hashed
READERS = {  # data set that reads a file by its ending, where another one was named
    **dict.fromkeys((".npy", ".npz", ".safetensors"), "array"),
    **dict.fromkeys((".csv", ".csv.gz", ".tsv", ".tsv.gz", ".parquet"), "table"),
    ".txt": "text",
    ".xyz": "points",
    ".ply": "points",
}
_DAMAGED = (EOFError, zlib.error, lzma.LZMAError, struct.error, zipfile.BadZipFile, NotImplementedError)


def fingerprint(path: Path) -> Fingerprint:
    """Fingerprint of a file, which differs for other files and changes when the file is written.

    Raises:
        DataError: If it is not a regular file: a FIFO would block, and a device would never end.
    """
    try:
        status = path.stat()
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from error
    if not stat.S_ISREG(status.st_mode):
        raise DataError(f"{path}: not a regular file{', but a folder' if stat.S_ISDIR(status.st_mode) else ''}")
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns


@contextmanager
def reading(path: Path) -> Iterator[BinaryIO]:
    """Opens a regular file, and turns faults while it is read into errors for the user.

    Raises:
        DataError: If it is not a regular file, or is truncated or damaged.
        ResourceError: If it may not be read, or its content does not fit into memory.
    """
    size = fingerprint(path)[2]
    try:
        with open_regular(path) as file:
            yield file
    except _DAMAGED as error:
        raise DataError(f"{path}: truncated or damaged: {error}") from error
    except PermissionError as error:
        raise ResourceError(f"{path}: may not be read: {error.strerror}") from error
    except OSError as error:  # also from gzip
        raise DataError(f"{path}: cannot be read: {str(error.strerror or error).strip()}") from error
    except MemoryError as error:
        raise ResourceError(f"{path}: its {size:,} bytes hold more than fits into memory") from error


@lru_cache(maxsize=2)
def sha256_of(path: Path, found: Fingerprint) -> str:
    """SHA-256 of a file; of one above 1 GiB, that of blocks at equal distances."""
    digest, size = hashlib.sha256(), found[2]
    with reading(path) as file:
        for start in range(0, size, max(BLOCK, size // BLOCKS)):
            file.seek(start)
            digest.update(file.read(BLOCK))
    return digest.hexdigest()


def check_unpacked(path: Path, what: str, unpacked: int, packed: int) -> None:
    """Refuses a small file that would unpack to an enormous size.

    Raises:
        DataError: If the unpacked size is large and the compression ratio is too high for real data.
    """
    if unpacked > max(UNPACKED, PACKED * packed):
        raise DataError(
            f"{path}: {what} has {unpacked / 1e6:,.0f} MB or more, packed into {packed / 1e6:,.1f} MB: above the size "
            f"limit of {UNPACKED // 10**6} MB for compression ratios above {PACKED}; save it without compression"
        )


def partition(rows: int, valid_fraction: float, test_fraction: float, seed: int) -> Mapping[Split, Tensor]:
    """Row indices of every split: disjoint, shuffled, fixed by the seed, and at least one each.

    Raises:
        DataError: If there are too few rows.
    """
    if rows < 3:
        raise DataError(
            f"cannot split {rows} row{'s' * (rows != 1)}; expected 3 or more: for training, validation and test"
        )
    rest, test = split_rows(rows, max(test_fraction, 1.0 / rows), seed)
    train, valid = split_rows(len(rest), max(valid_fraction, 1.0 / len(rest)), seed)
    return {"train": rest[train], "valid": rest[valid], "test": test, "all": rest}


def few(names: Sequence[str]) -> str:
    """The first names, and dots where there are more."""
    return ", ".join(names[:SHOWN]) + (", ..." if len(names) > SHOWN else "")


def warn_of_missing(path: Path, what: str, train: Tensor, classes: int) -> None:
    """Warns of classes that occur in no training row."""
    missing = (train.flatten().bincount(minlength=classes) == 0).nonzero().flatten()
    if len(missing):
        numbers = few([str(number) for number in missing[: SHOWN + 1].tolist()])
        warnings.warn(f"{path}: no training row has the {what} {numbers}", BFNWarning, stacklevel=2)


@attrs.frozen(eq=False)
class Content:
    """Content of a data set.

    Arguments:
        rows: All examples.
        splits: Row indices of every split.
        metadata: The metadata of the data set.
    """

    rows: Rows
    splits: Mapping[Split, Tensor]
    metadata: Mapping[str, object]


def absolute(path: str | Path) -> Path:
    """The absolute path, which a run stores."""
    return Path(os.path.abspath(Path(path).expanduser()))


def _a_file(dataset: FileDataset, _: attrs.Attribute[Path], path: Path) -> None:
    if "\0" in str(path):
        raise ConfigError("path: expected the name of a file, got one with a NUL character")
    if dataset.endings and not path.name.lower().endswith(dataset.endings):
        reader = next((name for ending, name in READERS.items() if path.name.lower().endswith(ending)), "")
        more = f"; --dataset {reader} reads this one" if reader else ""
        endings = ", ".join(dataset.endings)
        raise ConfigError(f"path: cannot tell the format of '{path.name}'; its name must end in {endings}{more}")


def fraction(default: float) -> float:
    """A field for the fraction of a split."""
    value: float = field(default=default, kw_only=True, validator=validators.number(gt=0, lt=1))
    return value


@attrs.frozen
class FileDataset(Dataset):
    """Examples in a file.

    Arguments:
        path: The file; a run stores its absolute path.
        valid_fraction: Fraction held out for validation, of the rows outside the test set; at least one row.
        test_fraction: Fraction of the rows held out for the test set; at least one row.
        seed: Seed of the splits.
    Raises:
        DataError: When the file is read, if it does not exist, is malformed, or was written since.
    """

    endings: ClassVar[tuple[str, ...]] = ()  # accepted endings of file names; empty for all

    path: Path = field(converter=absolute, repr=lambda path: repr(str(path)), validator=_a_file)
    valid_fraction: float = fraction(0.1)
    test_fraction: float = fraction(0.1)
    seed: int = field(default=0, kw_only=True, validator=validators.integer(ge=0, le=2**63 - 1))
    _found: Fingerprint | None = field(init=False, eq=False, repr=False)

    def __attrs_post_init__(self) -> None:
        current = None
        with suppress(DataError):  # a run can be sampled without its file; reading it raises later
            current = self.fingerprint()
        object.__setattr__(self, "_found", current)

    @property
    @abc.abstractmethod
    def content(self) -> Content:
        """Content of the file, read once per process."""

    def fingerprint(self) -> Fingerprint:
        """The present fingerprint of the file.

        Raises:
            DataError: If it is not a regular file.
        """
        return fingerprint(self.path)

    def unchanged(self) -> Fingerprint:
        """The fingerprint of the file.

        Raises:
            DataError: If it was written since the data set was built.
        """
        current = self.fingerprint()
        if current != self._found:
            raise DataError(f"{self.path}: changed while it was in use: its fingerprint differs; start again")
        return current

    def partition(self, rows: int) -> Mapping[Split, Tensor]:
        """Row indices of every split of ``rows`` rows.

        Raises:
            DataError: If there are too few rows.
        """
        try:
            return partition(rows, self.valid_fraction, self.test_fraction, self.seed)
        except DataError as error:
            raise DataError(f"{self.path}: {error}") from error

    @property
    def source(self) -> Mapping[str, object]:
        """Rows and SHA-256 of the file."""
        return {"rows": len(self.content.rows), "sha256": sha256_of(self.path, self.unchanged())}

    @property
    def site_shape(self) -> tuple[int, ...]:
        """Shape of one example."""
        rows = self.content.rows
        assert isinstance(rows, Batch)
        assert isinstance(rows.x, torch.Tensor)
        x = rows.x
        return tuple(x.shape[1:])

    @property
    def metadata(self) -> Mapping[str, object]:
        """Site shape, and the metadata of the file's content."""
        return {"site_shape": self.site_shape, **self.content.metadata}

    def split(self, name: Split) -> Batch:
        """A copy of the rows of a split."""
        content = self.content
        return content.rows[content.splits[name]]
