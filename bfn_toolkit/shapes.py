"""Shapes: the only place that reshapes for broadcasting.

Data, messages and means have shape ``(B, *site)``: the batch, then the data's own shape.  Times and accuracies have
shape ``(B,)``, one per example, or ``()``, one for all.  Losses have shape ``(B,)``, summed over the sites.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TypeVar

import attrs
import torch
from torch import Tensor


def as_shape(value: Iterable[int]) -> tuple[int, ...]:
    """A site shape as a tuple, which unlike a list can be hashed."""
    return tuple(value)


def batch_size(x: Tensor) -> int:
    """Number of examples B of a tensor of shape (B, ...)."""
    return x.shape[0]


def expand(a: Tensor, like: Tensor) -> Tensor:
    """Appends axes of length one, so that ``a`` of shape (B,) broadcasts against ``like`` of shape (B, *site).

    A scalar tensor, and one that has all the axes already, are returned as they are.
    """
    if a.ndim == 0 or a.ndim == like.ndim:
        return a
    return a.reshape(*a.shape, *(1,) * (like.ndim - a.ndim))


def per_example(v: Tensor) -> Tensor:
    """Sums over the sites: (B, *site) to (B,)."""
    return v if v.ndim == 1 else v.sum(tuple(range(1, v.ndim)))


def times_like(t: Tensor, features: Tensor) -> Tensor:
    """The times as a network sees them: shape (B,), on the device and in the dtype of ``features``."""
    return t.to(features.device, features.dtype, non_blocking=True).expand(features.shape[0])


P = TypeVar("P")


def select(mask: Tensor, a: P, b: P) -> P:
    """Params of ``a`` in the rows where ``mask``, of shape (B,), is true, and of ``b`` elsewhere."""
    names = [field.name for field in attrs.fields(type(a))]  # type: ignore[arg-type]
    pairs = ((name, getattr(a, name), getattr(b, name)) for name in names)
    return type(a)(**{name: torch.where(expand(mask, u), u, v) for name, u, v in pairs})
