"""Datasets: batches of examples, split for training, validation and test.

A data set is a frozen attrs class: its fields specify the source of the data (a generator, a file of the user, a
package), and the data are a function of the fields.  Nothing is downloaded.
"""

from __future__ import annotations

import abc
from collections.abc import Callable, Mapping
from typing import ClassVar, Literal, TypeAlias

import attrs
import torch
from torch import Tensor

from bfn_toolkit.errors import DataError
from bfn_toolkit.randomness import seeded
from bfn_toolkit.shapes import Data, batch_size, map_data, named_parts

Split: TypeAlias = Literal["train", "valid", "test", "all"]


@attrs.frozen(eq=False)
class Batch:
    """Examples and their conditions.

    Arguments:
        x: Data, with shape (B, *site), or a mapping from the names of parts to tensors.
        condition: Tensors with B rows by name, which the network receives as keywords.
        mask: True where there is data: booleans of shape (B, *site), or of its leading axes; or a mapping from parts to
            such tensors, where a part without a mask is there as a whole.  None if nothing is missing.
        weight: Weights of the examples in the loss of a training, with shape (B,); None if all are equal.
    Raises:
        DataError: If a mask or a weight does not fit the data.
    """

    x: Data
    condition: Mapping[str, Tensor] = attrs.field(factory=dict)
    mask: Tensor | Mapping[str, Tensor] | None = None
    weight: Tensor | None = None

    def __attrs_post_init__(self) -> None:
        masks = {} if self.mask is None else self.mask
        parts = dict(named_parts(self.x))
        for name, mask in masks.items() if isinstance(masks, Mapping) else [(name, masks) for name in parts]:
            where = f"the mask of '{name}'" if name else "the mask"
            if name not in parts:
                raise DataError(f"{where}: the data have the parts {', '.join(parts) or 'none'}; name one of them")
            shape, found = tuple(parts[name].shape), tuple(mask.shape)
            if mask.dtype != torch.bool or not found or found != shape[: len(found)]:
                raise DataError(
                    f"{where} is {mask.dtype} of shape {found}; expected torch.bool of shape {shape}, or of its first "
                    "axes: true where there is data"
                )
        if self.weight is not None and self.weight.shape != (len(self),):
            raise DataError(f"weight has shape {tuple(self.weight.shape)}; expected ({len(self)},), one for each row")

    def __len__(self) -> int:
        return batch_size(self.x)

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
        return self.map(lambda values: values.index_select(0, index))

    def part(self, start: int, stop: int) -> Batch:
        """The rows from ``start`` up to, but not including, ``stop``, as views."""
        return self.map(lambda values: values[start:stop])

    def to(self, device: torch.device) -> Batch:
        """The same examples on a device."""
        return self.map(lambda values: values.to(device))


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
    """Examples of one shape, in splits.

    A class may have a ``default_config``: tables of an experiment, such as ``{"family": "categorical"}``, that suit it
    better than the general defaults.  All settings of the user override them.
    """

    kind: ClassVar[str] = "dataset"
    default_config: ClassVar[Mapping[str, object]] = {}

    @property
    @abc.abstractmethod
    def site_shape(self) -> tuple[int, ...] | Mapping[str, tuple[int, ...]]:
        """Shape of one example, or the shapes of its parts."""

    @abc.abstractmethod
    def split(self, name: Split) -> Batch:
        """All examples of a split, in memory; "all" means the training and validation rows together."""

    @property
    def metadata(self) -> Mapping[str, object]:
        """Facts for a family, its head or a network, whose fields of these names take them as defaults."""
        return {} if isinstance(self.site_shape, Mapping) else {"site_shape": self.site_shape}

    @property
    def unit(self) -> str:
        """Unit in which a likelihood is a density, if the numbers are not those of the source; otherwise ""."""
        return ""

    def mode_shares(self, x: Data) -> Mapping[str, float] | None:
        """Fraction of the examples near each mode of the distribution; None if the data set does not know its modes."""
        return None
