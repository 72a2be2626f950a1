"""Conditions: additional values for each example, such as labels, that a network may read.

A network that does not read a condition ignores it silently: it trains as usual, and its samples are unconditional.  So
a builder can declare the conditions that its network reads (:attr:`NetworkBuilder.conditions
<bfn_toolkit.NetworkBuilder.conditions>`), and others are reported before training starts.

A summary of each condition in the training rows (:class:`ConditionSpec`) is stored beside the weights, so that
conditional samples can be drawn without the data.  So are the sizes of sets and sequences (:class:`SizeSpec`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import zip_longest
from pathlib import Path

import attrs
import torch
from torch import Tensor

from bfn_toolkit.errors import ConfigError, RunDirectoryError
from bfn_toolkit.shapes import Mask, as_shape, expand, leaves


def _dtype(_: object, field: attrs.Attribute[str], name: object) -> None:
    if not isinstance(name, str) or not isinstance(getattr(torch, name, None), torch.dtype):
        raise ValueError(f"{field.name}: expected the name of a dtype, got {name!r}")


@attrs.frozen
class ConditionSpec:
    """Summary of a condition in the training rows.

    Arguments:
        dtype: Name of its dtype.
        shape: Shape of one value.
        low: Smallest value.
        high: Largest value.
    """

    dtype: str = attrs.field(validator=_dtype)
    shape: tuple[int, ...] = attrs.field(converter=as_shape)
    low: float = attrs.field(converter=float)
    high: float = attrs.field(converter=float)

    @classmethod
    def of(cls, values: Tensor) -> ConditionSpec:
        """Summary of values (B, *shape)."""
        numbers = values.double()
        name = str(values.dtype).removeprefix("torch.")
        return cls(name, tuple(values.shape[1:]), numbers.min().item(), numbers.max().item())

    def constant(self, name: str, value: float, n: int) -> Tensor:
        """One value for n samples, within the range of the training rows.

        Raises:
            ConfigError: If the value is outside the range or has the wrong type.
        """
        if self.shape:
            raise ConfigError(f"the condition '{name}' has shape {self.shape} and cannot be set to one number")
        dtype: torch.dtype = getattr(torch, self.dtype)
        integers = not dtype.is_floating_point
        if not self.low <= value <= self.high or (integers and value != int(value)):
            kind, numbers = "an integer" if integers else "a number", f"from {self.low:g} to {self.high:g}"
            raise ConfigError(f"{name} must be {kind} {numbers}, as in the training rows, got {value:g}")
        return torch.full((n,), value).to(dtype)


def _counts(value: Sequence[int]) -> tuple[int, ...]:
    return tuple(int(count) for count in value)


@attrs.frozen
class SizeSpec:
    """Sizes of the training rows: of those sites along the first axis that are present, the first ones.

    Arguments:
        counts: Number of rows of each size, from 0.
    """

    counts: tuple[int, ...] = attrs.field(converter=_counts)

    @classmethod
    def of(cls, mask: Mask | None) -> SizeSpec | None:
        """Summary of masks (B, N, ...); None if there are none, or one has gaps elsewhere than at the end."""
        if mask is None:
            return None
        parts = [part if part.ndim > 1 else part.unsqueeze(1) for part in leaves(mask)]
        most = parts[0].shape[1]
        sizes = parts[0].flatten(2).all(2).sum(1) if parts[0].ndim > 2 else parts[0].sum(1)
        first = torch.arange(most, device=sizes.device) < sizes.unsqueeze(1)
        if any(part.shape[1] != most or not torch.equal(part, expand(first, part).expand_as(part)) for part in parts):
            return None
        return cls(torch.bincount(sizes, minlength=most + 1).tolist())

    def plus(self, other: SizeSpec) -> SizeSpec:
        """Summary of the rows of both."""
        return SizeSpec([a + b for a, b in zip_longest(self.counts, other.counts, fillvalue=0)])

    def draw(self, n: int) -> Tensor:
        """Sizes of n samples, each with its share of the training rows, from torch's generator: int64, (n,)."""
        return torch.multinomial(torch.tensor(self.counts, dtype=torch.float64), n, replacement=True)


def seen_in(condition: Mapping[str, Tensor]) -> dict[str, ConditionSpec]:
    """Summary of each condition of some rows."""
    return {name: ConditionSpec.of(values) for name, values in condition.items()}


def recorded(table: object, path: Path) -> dict[str, ConditionSpec] | None:
    """Reads the conditions of the training rows from a file's table; None if there is none.

    Raises:
        RunDirectoryError: If the table is malformed.
    """
    if table is None:
        return None
    try:
        if not isinstance(table, Mapping):
            raise TypeError(f"expected a table, got {type(table).__name__}")
        return {name: ConditionSpec(**fields) for name, fields in table.items()}
    except (TypeError, ValueError) as error:
        raise RunDirectoryError(f"{path} is damaged: its conditions cannot be read: {error}") from None
