"""Windows of a text: which of them belong to which split, and their rows."""

from __future__ import annotations

from typing import Any, TypeAlias

import attrs
import numpy as np
import torch
from torch import Tensor

from bfn_toolkit import ArrayRows, Batch, DataError, Rows, Split, seeded

Array: TypeAlias = "np.ndarray[Any, Any]"

TRAIN, VALID, TEST = 0, 1, 2
PIECE = 2**20  # units that are read together


@attrs.frozen(eq=False)
class Windows:
    """Windows of L units that do not overlap, and their splits.

    Arguments:
        length: Number L.
        splits: TRAIN, VALID or TEST for each window, as uint8 (W,).
        bounds: Numbers of the windows with which the second and third block of a text begin.
        shifts: Units left out before the windows of each block.
    """

    length: int
    splits: Tensor
    bounds: Tensor
    shifts: Tensor
    _index: dict[Split, Tensor] = attrs.field(factory=dict, init=False)

    def index(self, name: Split) -> Tensor:
        """Numbers of the windows of a split, as int32."""
        if name not in self._index:
            kind = {"train": TRAIN, "valid": VALID, "test": TEST}
            mask = self.splits != TEST if name == "all" else self.splits == kind[name]
            self._index[name] = mask.nonzero().flatten().int()
        return self._index[name]

    def starts(self, windows: Tensor) -> Tensor:
        """Places of the first units of windows."""
        return windows * self.length + self.shifts[torch.bucketize(windows, self.bounds, right=True)]

    def is_followed(self, windows: Tensor) -> Tensor:
        """Whether a window and the one after it are training windows."""
        after = (windows + 1).clamp_max(len(self.splits) - 1)
        return (after > windows) & (self.splits[windows] == TRAIN) & (self.splits[after] == TRAIN)


def held_out(size: int, length: int, valid_fraction: float, test_fraction: float, seed: int) -> Windows:
    """Windows of a text of N units, of which some are held out at random.

    Raises:
        DataError: If there are too few.
    """
    n = size // length
    n_test, n_valid = (max(1, round(n * fraction)) for fraction in (test_fraction, valid_fraction))
    _check_rows(n, length, n - n_test - n_valid)
    splits = torch.zeros(n, dtype=torch.uint8)
    with seeded(seed, "split"):
        order = torch.randperm(n, dtype=torch.int32 if n < 2**31 else torch.int64)
    splits[order[:n_test].long()] = TEST
    splits[order[n_test : n_test + n_valid].long()] = VALID
    nothing = torch.zeros(0, dtype=torch.int64)
    return Windows(length, splits, nothing, torch.zeros(1, dtype=torch.int64))


def blocks(size: int, length: int, valid_fraction: float, test_fraction: float) -> Windows:
    """Windows of the beginning of a text for training, of the next block for validation, and of the last for the test.

    Raises:
        DataError: If there are too few.
    """
    n_valid, n_test = (max(length, round(size * fraction)) for fraction in (valid_fraction, test_fraction))
    starts = [0, size - n_test - n_valid, size - n_test]
    counts = [(end - start) // length for start, end in zip(starts, [*starts[1:], size], strict=True)]
    _check_rows(size // length, length, counts[0])
    bounds = torch.tensor([counts[0], counts[0] + counts[1]])
    splits = torch.tensor([TRAIN, VALID, TEST], dtype=torch.uint8).repeat_interleave(torch.tensor(counts))
    shifts = torch.tensor(starts) - torch.tensor([0, *bounds.tolist()]) * length
    return Windows(length, splits, bounds, shifts)


def _check_rows(n: int, length: int, n_train: int) -> None:
    if n < 3:
        raise DataError(
            f"cannot split {n} row{'s' * (n != 1)} of length = {length}; expected 3 or more: for training, validation "
            "and test"
        )
    if n_train < 1:
        raise DataError(f"no training row is left of {n}; lower valid_fraction or test_fraction")


@attrs.frozen(eq=False)
class WindowRows(Rows):
    """Windows of a text as it is stored.

    With ``wide``, a row is a window and all units but one of the window after it, so that a window of L units can begin
    at each of its first L places; -1 stands for the units of a window that is not a training window.

    Arguments:
        text: The L units that begin at each place of the text, a row for each.
        windows: The windows of the text.
        index: Numbers of the windows of the split; None for all.
        wide: Whether rows have 2L - 1 units.
    """

    text: ArrayRows
    windows: Windows
    index: Tensor | None
    wide: bool

    def __len__(self) -> int:
        return len(self.windows.splits if self.index is None else self.index)

    def __getitem__(self, index: Tensor) -> Batch:
        windows, length = index.long(), self.windows.length
        windows = windows if self.index is None else self.index[windows].long()
        starts = self.windows.starts(windows)
        if not self.wide:
            return self.text[starts]
        after = (starts + length - 1).clamp_max_(len(self.text) - 1)
        x = self.text[torch.cat([starts, after])].x
        assert isinstance(x, Tensor)
        x = x.to(torch.promote_types(x.dtype, torch.int16))
        before, after = x.tensor_split(2)
        after = after[:, 1:].where(self.windows.is_followed(windows).unsqueeze(1), -1)
        return Batch(torch.cat([before, after], 1))

    @property
    def stamp(self) -> str:
        """Stamp of the file, if it is mapped into memory."""
        return self.text.stamp


def every_window(text: Array, length: int) -> ArrayRows:
    """The L units that begin at each place of a text, without a copy of it."""
    shape = len(text) - length + 1, length
    if isinstance(text, np.memmap):
        return ArrayRows(np.ndarray(shape, text.dtype, text, strides=(text.itemsize,) * 2))
    return ArrayRows(torch.from_numpy(text).as_strided(shape, (1, 1)))  # a tensor is pickled as it is stored


def missing(text: Array, windows: Windows, classes: int) -> list[int]:
    """Numbers below ``classes`` that no training window has."""
    seen, index = np.zeros(classes, np.bool_), windows.index("train")
    for some in torch.split(index, max(1, PIECE // windows.length)):
        starts = windows.starts(some.long()).numpy()
        part = _slice(text, int(starts[0]), int(starts[-1]) + windows.length)
        seen[np.unique(part[(starts - starts[0])[:, None] + np.arange(windows.length)])] = True
        if seen.all():
            break
    return [int(number) for number in np.flatnonzero(~seen)]


def _slice(text: Array, start: int, stop: int) -> Array:
    """Units of a text; of a memory map they are read from the file, so that no pages stay mapped."""
    if not isinstance(text, np.memmap):
        return text[start:stop]
    return np.fromfile(str(text.filename), text.dtype, stop - start, offset=text.offset + start)
