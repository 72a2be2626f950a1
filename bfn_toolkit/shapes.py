"""Shapes: the only place that reshapes for broadcasting.

Data, messages and means have shape ``(B, *site)``: the batch, then the data's own shape.  Times and accuracies have
shape ``(B,)``, one per example, or ``()``, one for all.  Losses have shape ``(B,)``, summed over the sites.

Data of several parts (:class:`~bfn_toolkit.ProductFamily`) are a mapping from the names of the parts to their data.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeAlias, TypeVar

import attrs
import torch
from torch import Tensor

Data: TypeAlias = Any  # a tensor (B, *site), or a mapping from parts to tensors, as the family requires


def leaves(x: Data) -> list[Tensor]:
    """The tensors of data, in the order of the parts."""
    return [leaf for part in x.values() for leaf in leaves(part)] if isinstance(x, Mapping) else [x]


def named_parts(x: Data) -> list[tuple[str, Tensor]]:
    """The parts of data by name; data without parts have the name ""."""
    return list(x.items()) if isinstance(x, Mapping) else [("", x)]


def map_data(function: Callable[[Tensor], Any], x: Data) -> Any:
    """Applies a function to each tensor: a mapping of the same parts, or one value if there are no parts."""
    return {name: map_data(function, part) for name, part in x.items()} if isinstance(x, Mapping) else function(x)


def part_of(value: Any, name: str) -> Any:
    """A part's share of data, params, accuracies, times or distributions; a value without parts is shared by all.

    The name "" stands for the only part of a family that is not a product.
    """
    return value[name] if name and not isinstance(value, Tensor) else value


def device_of(x: Data) -> torch.device:
    """Device of data."""
    return leaves(x)[0].device


def dtype_of(x: Data) -> torch.dtype:
    """Floating dtype of data: that of the first real-valued tensor, or torch's default if all are classes."""
    real = (leaf.dtype for leaf in leaves(x) if leaf.is_floating_point())
    return next(real, torch.get_default_dtype())


def as_shape(value: Iterable[int]) -> tuple[int, ...]:
    """A site shape as a tuple, which unlike a list can be hashed."""
    return tuple(value)


def batch_size(x: Data) -> int:
    """Number of examples B of data of shape (B, ...)."""
    return leaves(x)[0].shape[0]


def expand(a: Tensor, like: Tensor) -> Tensor:
    """Appends axes of length one, so that ``a`` of shape (B,) broadcasts against ``like`` of shape (B, *site).

    A scalar tensor, and one that already has all the axes, are returned unchanged.
    """
    if a.ndim == 0 or a.ndim == like.ndim:
        return a
    return a.reshape(*a.shape, *(1,) * (like.ndim - a.ndim))


def same_for_all(number: float, like: Tensor) -> Tensor:
    """A tensor (B,) with one number for all rows of ``like``, which :func:`coefficient` finds again."""
    rows = torch.full((len(like),), number, device=like.device, dtype=like.dtype)
    rows.number = number  # type: ignore[attr-defined]
    return rows


def coefficient(rows: Tensor) -> Tensor | float:
    """The number that is the same for all rows if :func:`same_for_all` made them, and otherwise the rows.

    Arithmetic with a number takes no operation of torch, and waits for no device.
    """
    return getattr(rows, "number", rows)


def by_row(x: Tensor) -> Tensor:
    """The numbers of each example in one row: (B, *site) to (B, D), and (B,) to (B, 1)."""
    return x.reshape(len(x), -1)


def per_example(v: Tensor) -> Tensor:
    """Sums over the sites: (B, *site) to (B,)."""
    return v if v.ndim == 1 else v.sum(tuple(range(1, v.ndim)))


def times_like(t: Any, features: Tensor) -> Tensor:
    """The times as a network sees them: shape (B,), on the device and in the dtype of ``features``.

    For times by part this is their mean.
    """
    if isinstance(t, Mapping):
        t = torch.stack(list(t.values())).mean(0)
    moved: Tensor = t.to(features.device, features.dtype, non_blocking=True)
    return moved.expand(features.shape[0])


P = TypeVar("P")


def select(mask: Tensor, a: P, b: P) -> P:
    """Params with the rows of ``a`` where ``mask``, of shape (B,), is true, and of ``b`` elsewhere."""
    names = [field.name for field in attrs.fields(type(a))]  # type: ignore[arg-type]
    pairs = ((name, getattr(a, name), getattr(b, name)) for name in names)
    return type(a)(**{name: torch.where(expand(mask, u), u, v) for name, u, v in pairs})
