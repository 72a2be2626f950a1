"""Conditions: what the data tell of an example besides, and whether a network hears it.

A network that does not know a condition takes no notice of it: it trains as ever, and its samples are those of all
conditions together.  So a builder can say which ones its network reads (:attr:`NetworkBuilder.conditions
<bfn_toolkit.NetworkBuilder.conditions>`), and what it does not read is told before the time is spent.

What the training rows had of each condition (:class:`ConditionSpec`) is kept beside the weights, so that samples can
be asked for where the data are not.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import attrs
import torch
from torch import Tensor

from bfn_toolkit.errors import ConfigError, RunDirectoryError
from bfn_toolkit.shapes import as_shape


def _dtype(_: object, field: attrs.Attribute[str], name: object) -> None:
    if not isinstance(name, str) or not isinstance(getattr(torch, name, None), torch.dtype):
        raise ValueError(f"{field.name}: expected the name of a dtype, got {name!r}")


@attrs.frozen
class ConditionSpec:
    """What the training rows had of a condition.

    Arguments:
        dtype: Name of its dtype.
        shape: Shape of one value.
        low: Least number.
        high: Largest number.
    """

    dtype: str = attrs.field(validator=_dtype)
    shape: tuple[int, ...] = attrs.field(converter=as_shape)
    low: float = attrs.field(converter=float)
    high: float = attrs.field(converter=float)

    @classmethod
    def of(cls, values: Tensor) -> ConditionSpec:
        """That of values (B, *shape)."""
        numbers = values.double()
        name = str(values.dtype).removeprefix("torch.")
        return cls(name, tuple(values.shape[1:]), numbers.min().item(), numbers.max().item())

    def constant(self, name: str, value: float, n: int) -> Tensor:
        """One value for n samples, within what the network has seen.

        Raises:
            ConfigError: If it is not.
        """
        if self.shape:
            raise ConfigError(f"the condition '{name}' has shape {self.shape} and cannot be set to one number")
        dtype: torch.dtype = getattr(torch, self.dtype)
        integers = not dtype.is_floating_point
        if not self.low <= value <= self.high or (integers and value != int(value)):
            kind, numbers = "an integer" if integers else "a number", f"from {self.low:g} to {self.high:g}"
            raise ConfigError(f"{name} must be {kind} {numbers}, as in the training rows, got {value:g}")
        return torch.full((n,), value).to(dtype)


def seen_in(condition: Mapping[str, Tensor]) -> dict[str, ConditionSpec]:
    """What some rows have of each condition."""
    return {name: ConditionSpec.of(values) for name, values in condition.items()}


def recorded(table: object, path: Path) -> dict[str, ConditionSpec] | None:
    """What a file says of the conditions of the training rows; None if it says nothing.

    Raises:
        RunDirectoryError: If it says something else.
    """
    if table is None:
        return None
    try:
        if not isinstance(table, Mapping):
            raise TypeError(f"expected a table, got {type(table).__name__}")
        return {name: ConditionSpec(**facts) for name, facts in table.items()}
    except (TypeError, ValueError) as error:
        raise RunDirectoryError(f"{path} is damaged: its conditions are not as they are written: {error}") from None
