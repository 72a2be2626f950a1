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
from typing import Any

import attrs
import torch
from torch import Tensor

from bfn_toolkit.errors import ConfigError, RunDirectoryError
from bfn_toolkit.shapes import Mask, as_shape, expand, leaves


def _dtype(_: object, field: attrs.Attribute[str], name: object) -> None:
    if not isinstance(name, str) or not isinstance(getattr(torch, name, None), torch.dtype):
        raise ValueError(f"{field.name}: expected the name of a dtype, got {name!r}")


MOST_VALUES = 1000  # of a condition, whose rows are counted


def _counts(value: Sequence[int]) -> tuple[int, ...]:
    counts = tuple(int(count) for count in value)
    if min(counts, default=0) < 0 or not sum(counts):
        raise ValueError(f"expected numbers of rows, got {counts}")
    return counts


@attrs.frozen
class ConditionSpec:
    """Summary of a condition in the training rows.

    Arguments:
        dtype: Name of its dtype.
        shape: Shape of one value.
        low: Smallest value.
        high: Largest value.
        counts: Number of rows of each value from ``low`` to ``high``; None for vectors, numbers that are not integers,
            and more than 1,000 values.
    """

    dtype: str = attrs.field(validator=_dtype)
    shape: tuple[int, ...] = attrs.field(converter=as_shape)
    low: float = attrs.field(converter=float)
    high: float = attrs.field(converter=float)
    counts: tuple[int, ...] | None = attrs.field(default=None, converter=attrs.converters.optional(_counts))

    @counts.validator
    def _check_counts(self, _: object, counts: tuple[int, ...] | None) -> None:
        if counts is not None and len(counts) != self.high - self.low + 1:
            raise ValueError(f"counts: expected {self.high - self.low + 1:g} numbers of rows, got {len(counts)}")

    @classmethod
    def of(cls, values: Tensor) -> ConditionSpec:
        """Summary of values (B, *shape)."""
        numbers = values.double()
        low, high = numbers.min().item(), numbers.max().item()
        name = str(values.dtype).removeprefix("torch.")
        counts = None
        if values.ndim == 1 and not values.is_floating_point() and high - low < MOST_VALUES:
            counts = torch.bincount(values.long() - int(low)).tolist()
        return cls(name, tuple(values.shape[1:]), low, high, counts)

    def plus(self, other: ConditionSpec) -> ConditionSpec:
        """Summary of the rows of both."""
        low, high, counts = min(self.low, other.low), max(self.high, other.high), None
        if self.counts is not None and other.counts is not None and high - low < MOST_VALUES:
            counts = [0] * (int(high - low) + 1)
            for spec in (self, other):
                for place, count in enumerate(spec.counts or (), int(spec.low - low)):
                    counts[place] += count
        return attrs.evolve(self, low=low, high=high, counts=counts)

    def draw(self, n: int) -> Tensor:
        """Values for n samples, each with its share of the training rows, from torch's generator."""
        values = torch.multinomial(torch.tensor(self.counts, dtype=torch.float64), n, replacement=True)
        return (values + int(self.low)).to(getattr(torch, self.dtype))

    def constant(self, name: str, value: float | Sequence[Any], n: int) -> Tensor:
        """One value for n samples, with shape (n, *shape), within the range of the training rows.

        Arguments:
            name: Name of the condition, for messages.
            value: A number, or nested lists of numbers of the condition's shape.
            n: Number of samples.
        Raises:
            ConfigError: If the value has another shape or type, or a number is outside the range.
        """
        integers = not getattr(torch, self.dtype).is_floating_point
        kind = ("integers" if integers else "numbers") if self.shape else ("an integer" if integers else "a number")
        form = f" of shape {self.shape}, such as {name}={_example(self.shape, self.low)}," if self.shape else ""
        expected = f"{name} must be {kind}{form} from {self.low:g} to {self.high:g}, as in the training rows"
        try:
            numbers = torch.tensor(value, dtype=torch.float64)
        except (TypeError, ValueError, RuntimeError):
            raise ConfigError(f"{expected}, got {value!r}") from None
        if tuple(numbers.shape) != self.shape:
            raise ConfigError(f"{expected}, got {value!r} of shape {tuple(numbers.shape)}")
        wrong = ~((self.low <= numbers) & (numbers <= self.high))
        if integers:
            wrong |= numbers != numbers.floor()
        if bool(wrong.any()):
            raise ConfigError(f"{expected}, got {numbers[wrong][0].item():g}")
        return numbers.to(getattr(torch, self.dtype)).expand(n, *self.shape)


def _example(shape: tuple[int, ...], number: float) -> str:
    """A value of the shape as it is written on the command line."""
    inner = _example(shape[1:], number) if shape else f"{number:g}"
    return f"[{','.join([inner] * shape[0])}]" if shape else inner


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


def recorded_sizes(counts: Any, path: Path) -> SizeSpec | None:
    """Reads the sizes of the training rows from a file's list; None if there is none.

    Raises:
        RunDirectoryError: If the list is malformed.
    """
    try:
        return None if counts is None else SizeSpec(counts)
    except (TypeError, ValueError) as error:
        raise RunDirectoryError(f"{path} is damaged: its sizes cannot be read: {error}") from None
