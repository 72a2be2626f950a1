"""Datasets: batches of examples, split for training, validation and test.

A data set is a frozen attrs class: its fields specify the source of the data (a generator, a file of the user, a
package), and the data are a function of the fields.  Nothing is downloaded.

There are two forms.  Small data are a batch in memory for each split (:meth:`Dataset.split`).  Large data are rows by
number, as they are stored (:meth:`Dataset.rows`), which are read batch by batch and made ready for the model on its
device (:meth:`Dataset.prepare`).
"""

from __future__ import annotations

import abc
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal, Self, TypeAlias

import attrs
import torch
from torch import Tensor

from bfn_toolkit.data.codec import Codec
from bfn_toolkit.data.column_codecs import IdentityCodec
from bfn_toolkit.errors import DataError, PluginError
from bfn_toolkit.randomness import seeded
from bfn_toolkit.shapes import Data, as_tensor, batch_size, device_of, leaves, map_data, named_parts
from bfn_toolkit.validators import integer

Split: TypeAlias = Literal["train", "valid", "test", "all"]
_WIDE = (torch.uint16, torch.uint32, torch.uint64)  # dtypes that torch's index_select does not have


class Rows(abc.ABC):
    """The rows of a split by number, in the dtype in which they are stored; data in memory are a :class:`Batch`.

    :class:`ArrayRows <bfn_toolkit.ArrayRows>` reads memory-mapped files.  Workers receive a copy by pickle where
    processes are spawned, so a class that opens a file opens it by path when it is unpickled.
    """

    __slots__ = ()

    @abc.abstractmethod
    def __len__(self) -> int:
        """Number of rows."""

    @abc.abstractmethod
    def __getitem__(self, index: Tensor) -> Batch:
        """The rows ``index``, integers of shape (n,) in any order, as a batch on the CPU."""

    @property
    def stamp(self) -> str:
        """Text that changes when the rows do, such as size and time of the last change of a file; "" if unknown.

        A run is resumed on the same data.  Of large data only a part is compared, and this.
        """
        return ""


def _data(value: Any) -> Any:
    """Arrays and lists, also by name, as tensors."""
    return map_data(lambda part: as_tensor("data", part), value)


def _data_or_none(value: Any) -> Any:
    return None if value is None else _data(value)


@attrs.frozen(eq=False)
class Batch(Rows):
    """Examples and their conditions; arrays and lists become tensors.

    Arguments:
        x: Data, with shape (B, *site), or a mapping from the names of parts to tensors.
        condition: Tensors with B rows by name, which the network receives as keywords.
        mask: True where there is data: booleans of shape (B, *site), or of its leading axes; or a mapping from parts to
            such tensors, where a part without a mask is there as a whole.  None if nothing is missing.
        weight: Weights of the examples in the loss of a training, with shape (B,); None if all are equal.
    Raises:
        DataError: If a mask or a weight does not fit the data.
    """

    x: Data = attrs.field(converter=_data)
    condition: Mapping[str, Tensor] = attrs.field(factory=dict, converter=_data)
    mask: Tensor | Mapping[str, Tensor] | None = attrs.field(default=None, converter=_data_or_none)
    weight: Tensor | None = attrs.field(default=None, converter=_data_or_none)

    def __attrs_post_init__(self) -> None:
        rows = tuple(leaves(self.x)[0].shape[:1])
        for name, value in self.condition.items():
            if value.shape[:1] != rows:
                count = f"{len(value)} rows" if value.ndim else "a single value"
                raise DataError(f"the condition '{name}' has {count}, and the data have {len(self)} rows")
        if self.mask is not None:
            _check_mask(self.mask, dict(named_parts(self.x)))
        if self.weight is not None and self.weight.shape != rows:
            raise DataError(f"weight has shape {tuple(self.weight.shape)}; expected ({len(self)},), one for each row")

    def __len__(self) -> int:
        return batch_size(self.x)

    def __getitem__(self, index: Tensor) -> Batch:
        return self.rows(index.to(device_of(self.x)))

    def map(self, function: Callable[[Tensor], Tensor]) -> Batch:
        """Applies a function to each tensor."""
        return Batch(
            map_data(function, self.x),
            {name: function(value) for name, value in self.condition.items()},
            None if self.mask is None else map_data(function, self.mask),
            None if self.weight is None else function(self.weight),
        )

    def rows(self, index: Tensor) -> Batch:
        """The rows ``index``."""
        return self.map(lambda values: take(values, index))

    def part(self, start: int, stop: int) -> Batch:
        """The rows from ``start`` up to, but not including, ``stop``, as views."""
        return self.map(lambda values: values[start:stop])

    def to(self, device: torch.device) -> Batch:
        """The same examples on a device."""
        return self.map(lambda values: values.to(device))


def _check_mask(mask: Tensor | Mapping[str, Tensor], parts: Mapping[str, Tensor]) -> None:
    for name, part in mask.items() if isinstance(mask, Mapping) else [(name, mask) for name in parts]:
        where = f"the mask of '{name}'" if name else "the mask"
        if name not in parts:
            raise DataError(f"{where}: the data have the parts {', '.join(parts) or 'none'}; name one of them")
        shape, found = tuple(parts[name].shape), tuple(part.shape)
        if part.dtype != torch.bool or not found or found != shape[: len(found)]:
            raise DataError(
                f"{where} is {part.dtype} of shape {found}; expected torch.bool of shape {shape}, or of its "
                "first axes: true where there is data"
            )


def take(values: Tensor, index: Tensor) -> Tensor:
    """The rows ``index`` of a tensor, as a copy."""
    return values[index] if values.dtype in _WIDE else values.index_select(0, index)


def split_rows(n: int, valid_fraction: float, seed: int) -> tuple[Tensor, Tensor]:
    """Row indices for training and for validation: disjoint, shuffled, fixed by the seed.

    Raises:
        DataError: If either part would be empty.
    """
    n_valid = round(n * valid_fraction)
    if not 0 < n_valid < n:
        part = "training" if n_valid else "validation"
        raise DataError(f"valid_fraction={valid_fraction} leaves no {part} rows of {n}")
    with seeded(seed, "split"):
        rows = torch.randperm(n)
    return rows[n_valid:], rows[:n_valid]


@attrs.frozen
class Recognised:
    """A file or folder that a data set can read.

    Arguments:
        description: The content in words, which are printed after the path, such as "60,000 grey images of 28 x 28".
        certainty: 3 if only this data set reads the format, 2 if the content looks like its data, 1 if the content
            could be read so.  The data set of the highest certainty reads it; it is an error if two are equal.
    """

    description: str
    certainty: int = attrs.field(default=2, validator=integer(ge=1, le=3))


class Dataset(abc.ABC):
    """Examples of one shape, in splits.

    A class defines :meth:`split`, or :meth:`rows` and, where the stored rows are not ready for the model,
    :meth:`prepare`.
    """

    kind: ClassVar[str] = "dataset"
    instead: ClassVar[str] = ""  # advice for options that others have, such as the data set to take for them

    def __new__(cls, *_: Any, **__: Any) -> Self:
        """Refuses a class whose data are missing, or would be prepared twice."""
        if cls.rows is Dataset.rows:
            if cls.split is Dataset.split:
                raise PluginError(f"{cls.__name__} has no data; write split(self, name), or rows(self, name)")
            if cls.prepare is not Dataset.prepare:
                raise PluginError(
                    f"{cls.__name__} prepares rows, but split(self, name) returns prepared data; write "
                    "rows(self, name) in its place, with the stored data"
                )
        return super().__new__(cls)

    @classmethod
    def recognise(cls, path: Path) -> Recognised | None:
        """Says whether the class reads a file or folder of a user, by its content; None if it does not.

        It looks at a few rows at most, and raises nothing for damaged files: what their names promise counts, and the
        error comes when they are read.  A class that reads files has the field ``path``.
        """
        return None

    @property
    @abc.abstractmethod
    def site_shape(self) -> tuple[int, ...] | Mapping[str, tuple[int, ...]]:
        """Shape of one example, or the shapes of its parts."""

    def split(self, name: Split) -> Batch:
        """All examples of a split, in memory; "all" means the training and validation rows together.

        By default the prepared :meth:`rows`.
        """
        rows = self.rows(name)
        with seeded(0, "prepare", name):
            return self.prepare(rows[torch.arange(len(rows))])

    def rows(self, name: Split) -> Rows:
        """The rows of a split as they are stored, for :meth:`prepare`; by default those of :meth:`split`."""
        return self.split(name)

    def prepare(self, batch: Batch) -> Batch:
        """Makes stored rows ready for the model, on its device: as numbers of the declared shape, scaled, cropped.

        It keeps the number and the order of the rows, and changes nothing in place.  Draws, such as those of a random
        flip, have the rows on axis 0.  In training they are new in each step and a function of seed and step; elsewhere
        they are the same each time.
        """
        return batch

    def places(self, name: Split, index: Tensor) -> list[str]:
        """Places of rows of a split in the source, in words, such as "people.csv:17"."""
        return [f"{name} row {i + 1}" for i in index.tolist()]

    @property
    def metadata(self) -> Mapping[str, object]:
        """Facts for a family, its head or a network, whose fields of these names take them as defaults.

        Facts about one part of a mapping stand under its name in ``"parts"``, where ``"name"`` is its family:
        ``{"parts": {"type": {"name": "categorical", "site_shape": (1,), "classes": 4}}}``.  From ``bins``, the number
        of equal bins of [-1, 1], follows the fact ``sigma_1``: a quarter of a bin.
        """
        return {} if isinstance(self.site_shape, Mapping) else {"site_shape": self.site_shape}

    @property
    def codec(self) -> Codec:
        """The way from the user's data to these examples and back, which is saved with every model of these data."""
        return IdentityCodec()

    @property
    def source(self) -> Mapping[str, object]:
        """Facts that change with the source of the data, such as the rows and the SHA-256 of a file, as plain values.

        They are saved with a run, whose data are refused once they differ.  {} if the data are a function of the
        fields alone.
        """
        return {}

    @property
    def default_config(self) -> Mapping[str, object]:
        """Tables of an experiment, such as ``{"family": "categorical"}``, that suit these data.

        They lie above the general defaults and below all settings of the user.  ``{"preset": NAME}`` stands for the
        tables of a preset, beneath the others.
        """
        return {}

    @property
    def summary(self) -> Sequence[str]:
        """Lines that ``bfn train PATH`` prints first: what was found in the file, and how it is understood."""
        return ()

    @property
    def unit(self) -> str:
        """Unit in which a likelihood is a density, if the numbers are not those of the source; otherwise ""."""
        return ""

    def mode_shares(self, x: Data) -> Mapping[str, float] | None:
        """Fraction of the examples near each mode of the distribution; None if the data set does not know its modes."""
        return None

    def mode_probabilities(self) -> Mapping[str, float] | None:
        """The :meth:`mode_shares` that are expected of new rows, by the same names; None if they are not known."""
        return None

    def entropy(self) -> tuple[float, float] | float | None:
        """Entropy of a row in nats, given its conditions, with or without a standard error; None if it is not known.

        No model has a lower expected price of a row.
        """
        return None
