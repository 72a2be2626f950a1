"""Datasets: batches of examples, split for training, validation and test.

A data set is a frozen attrs class: its fields say where the data come from (a generator, a file of the user's, a
package), and the data are a function of them.  Nothing is downloaded.
"""

from __future__ import annotations

import abc
from collections.abc import Mapping
from typing import ClassVar, Literal, TypeAlias

import attrs
import torch
from torch import Tensor

from bfn_toolkit.errors import DataError
from bfn_toolkit.randomness import seeded
from bfn_toolkit.shapes import Data, batch_size, map_data

Split: TypeAlias = Literal["train", "valid", "test", "all"]


@attrs.frozen(eq=False)
class Batch:
    """Examples and what they are conditioned on.

    Arguments:
        x: Data, with shape (B, *site), or a mapping from the names of parts to such.
        condition: Named tensors with B rows, handed to the network as keywords.
    """

    x: Data
    condition: Mapping[str, Tensor] = attrs.field(factory=dict)

    def __len__(self) -> int:
        return batch_size(self.x)

    def rows(self, index: Tensor) -> Batch:
        """The examples with these numbers."""
        condition = {name: value.index_select(0, index) for name, value in self.condition.items()}
        return Batch(map_data(lambda part: part.index_select(0, index), self.x), condition)

    def part(self, start: int, stop: int) -> Batch:
        """The examples from ``start`` to before ``stop``, sharing their memory."""
        condition = {name: value[start:stop] for name, value in self.condition.items()}
        return Batch(map_data(lambda part: part[start:stop], self.x), condition)

    def to(self, device: torch.device) -> Batch:
        """The same examples on a device."""
        condition = {name: value.to(device) for name, value in self.condition.items()}
        return Batch(map_data(lambda part: part.to(device), self.x), condition)


def split_rows(n: int, valid_fraction: float, seed: int) -> tuple[Tensor, Tensor]:
    """Row numbers for training and for validation: disjoint, shuffled, fixed by the seed.

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


class Dataset(abc.ABC):
    """Examples of one shape in splits.

    A class may have a ``default_config``: tables of an experiment, such as ``{"family": "categorical"}``, that suit it
    better than the default ones.  They lie beneath whatever the user says.
    """

    kind: ClassVar[str] = "dataset"
    default_config: ClassVar[Mapping[str, object]] = {}

    @property
    @abc.abstractmethod
    def site_shape(self) -> tuple[int, ...] | Mapping[str, tuple[int, ...]]:
        """Shape of one example, or the shapes of its parts."""

    @abc.abstractmethod
    def split(self, name: Split) -> Batch:
        """All examples of a split, in memory; "all" is the training and validation rows together."""

    @property
    def metadata(self) -> Mapping[str, object]:
        """What a family, its head or a network may want to know; fields of these names take them as their defaults."""
        return {} if isinstance(self.site_shape, Mapping) else {"site_shape": self.site_shape}

    def mode_shares(self, x: Data) -> Mapping[str, float] | None:
        """Share of the examples near each of the distribution's modes, where the data set knows its modes."""
        return None
