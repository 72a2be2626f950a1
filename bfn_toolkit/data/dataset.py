"""Datasets: batches of examples, split for training, validation and test.

A data set is a frozen attrs class: its fields specify the source of the data (a generator, a file of the user, a
package), and the data are a function of the fields.  Nothing is downloaded.
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
    """Examples and their conditions.

    Arguments:
        x: Data, with shape (B, *site), or a mapping from the names of parts to tensors.
        condition: Tensors with B rows by name, which the network receives as keywords.
    """

    x: Data
    condition: Mapping[str, Tensor] = attrs.field(factory=dict)

    def __len__(self) -> int:
        return batch_size(self.x)

    def rows(self, index: Tensor) -> Batch:
        """The rows ``index``."""
        condition = {name: value.index_select(0, index) for name, value in self.condition.items()}
        return Batch(map_data(lambda part: part.index_select(0, index), self.x), condition)

    def part(self, start: int, stop: int) -> Batch:
        """The rows from ``start`` up to, but not including, ``stop``, as views."""
        condition = {name: value[start:stop] for name, value in self.condition.items()}
        return Batch(map_data(lambda part: part[start:stop], self.x), condition)

    def to(self, device: torch.device) -> Batch:
        """The same examples on a device."""
        condition = {name: value.to(device) for name, value in self.condition.items()}
        return Batch(map_data(lambda part: part.to(device), self.x), condition)


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


class Dataset(abc.ABC):
    """Examples of one shape, in splits."""

    kind: ClassVar[str] = "dataset"

    @property
    @abc.abstractmethod
    def site_shape(self) -> tuple[int, ...] | Mapping[str, tuple[int, ...]]:
        """Shape of one example, or the shapes of its parts."""

    @abc.abstractmethod
    def split(self, name: Split) -> Batch:
        """All examples of a split, in memory; "all" means the training and validation rows together."""

    @property
    def metadata(self) -> Mapping[str, object]:
        """Facts for a family, its head or a network, whose fields of these names take them as defaults.

        Facts about one part of a mapping stand under its name in ``"parts"``, where ``"name"`` is its family:
        ``{"parts": {"type": {"name": "categorical", "site_shape": (1,), "classes": 4}}}``.  From ``bins``, the number
        of equal bins of [-1, 1], follows the fact ``sigma_1``: a quarter of a bin.
        """
        return {} if isinstance(self.site_shape, Mapping) else {"site_shape": self.site_shape}

    @property
    def default_config(self) -> Mapping[str, object]:
        """Tables of an experiment, such as ``{"family": "categorical"}``, that suit these data.

        They lie above the general defaults and below all settings of the user.
        """
        return {}

    @property
    def unit(self) -> str:
        """Unit in which a likelihood is a density, if the numbers are not those of the source; otherwise ""."""
        return ""

    def mode_shares(self, x: Data) -> Mapping[str, float] | None:
        """Fraction of the examples near each mode of the distribution; None if the data set does not know its modes."""
        return None
