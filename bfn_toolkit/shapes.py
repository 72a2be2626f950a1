"""Shapes: the only place that reshapes for broadcasting.

Data, messages and means have shape ``(B, *site)``: the batch, then the data's own shape.  Times and accuracies have
shape ``(B,)``, one per example, or ``()``, one for all; where sites differ, ``(B, *site)`` or the leading axes of it.
So have masks, which are true where there is data.  Losses have shape ``(B,)``, summed over the sites that are present.

Data of several parts (:class:`~bfn_toolkit.ProductFamily`) are a mapping from the names of the parts to their data.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterable, Mapping
from typing import Annotated, Any, TypeAlias, TypeVar

import attrs
import torch
from torch import Tensor

from bfn_toolkit.errors import ConfigError
from bfn_toolkit.validators import shown

# A tensor (B, *site), or a mapping from parts to tensors, as the family requires.  The classes are for the border.
Data: TypeAlias = Annotated[Any, Tensor, Mapping]
# A tensor (), (B,) or (B, *site), or the leading axes of it, or a mapping from parts to these.
Times: TypeAlias = Annotated[Any, Tensor, Mapping]
# True where there is data: (B, *site), or the leading axes of it, or a mapping from some parts.
Mask: TypeAlias = Annotated[Any, Tensor, Mapping]


def as_tensor(
    name: str, value: object, *, device: torch.device | None = None, dtype: torch.dtype | None = None
) -> Tensor:
    """A tensor as it is; an array or numbers in lists as a tensor on a device, integers as torch.int64.

    Arguments:
        name: Name of the argument.
        value: Its value.
        device: Device of arrays and lists.
        dtype: Dtype of arrays and lists of real numbers; by default that of torch.
    Raises:
        ConfigError: If the value is neither.
    """
    if isinstance(value, Tensor):
        if value.layout is not torch.strided:
            raise ConfigError(f"{name}: expected a dense tensor, got one of layout {value.layout}; write .to_dense()")
        if value.is_meta and (device is None or device.type != "meta"):
            raise ConfigError(f"{name}: a tensor on the device meta holds no numbers")
        return value
    try:
        if not (hasattr(value, "__array__") or isinstance(value, (list, tuple, range, int, float))):
            raise TypeError
        if not isinstance(value, (list, tuple, range, int, float)):
            import numpy as np

            array = np.array(value)  # a copy: an array may be read-only, or have strides that torch does not know
            wide = array.dtype.kind == "u" and array.dtype.itemsize > 1  # torch has few operations of these
            value = array.astype(np.int64 if wide else array.dtype.newbyteorder("="), copy=False)
        tensor = torch.as_tensor(value)
    except (TypeError, ValueError, RuntimeError, OverflowError):
        raise ConfigError(f"{name}: expected a tensor or an array of numbers, got {shown(value)}") from None
    if tensor.is_floating_point():
        tensor = tensor.to(dtype or torch.get_default_dtype())
    elif tensor.dtype != torch.bool:
        tensor = tensor.long()
    return tensor.to(device)


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
    return value[name] if name and value is not None and not isinstance(value, Tensor) else value


def device_of(x: Data) -> torch.device:
    """Device of data."""
    return leaves(x)[0].device


def dtype_of(x: Data) -> torch.dtype:
    """Floating dtype of data: that of the first real-valued tensor, or torch's default if all are classes."""
    real = (leaf.dtype for leaf in leaves(x) if leaf.is_floating_point())
    return next(real, torch.get_default_dtype())


def widest(device: torch.device) -> torch.dtype:
    """The widest floating dtype of a device: float64, but float32 on Apple's GPUs."""
    return torch.float32 if device.type == "mps" else torch.float64


def in_float64(x: Tensor) -> Tensor:
    """The numbers in float64, on the CPU if their device has none."""
    return (x if widest(x.device) == torch.float64 else x.cpu()).double()


def as_shape(value: Iterable[int]) -> tuple[int, ...]:
    """A site shape as a tuple, which unlike a list can be hashed."""
    return tuple(map(operator.index, value))


def batch_size(x: Data) -> int:
    """Number of examples B of data of shape (B, ...)."""
    return leaves(x)[0].shape[0]


def expand(a: Tensor, like: Tensor) -> Tensor:
    """Appends axes of length one, so that ``a`` of shape (B,) broadcasts against ``like`` of shape (B, *site).

    A scalar tensor, and one that already has all the axes or more, are returned unchanged.
    """
    if a.ndim == 0 or a.ndim >= like.ndim:
        return a
    return a.reshape(*a.shape, *(1,) * (like.ndim - a.ndim))


def same_for_all(number: float, like: Tensor) -> Tensor:
    """A tensor (B,) with one number for all rows of ``like``, which :func:`coefficient` finds again."""
    rows = torch.full(like.shape[:1], number, device=like.device, dtype=like.dtype)
    rows.number = number  # type: ignore[attr-defined]
    return rows


def coefficient(rows: Tensor) -> Tensor | float:
    """The number that is the same for all rows if :func:`same_for_all` made them, and otherwise the rows.

    Arithmetic with a number takes no operation of torch, and waits for no device.
    """
    return getattr(rows, "number", rows)


def fit(a: Tensor, ndim: int) -> Tensor:
    """A tensor by site so that it broadcasts against one with ``ndim`` axes: :func:`expand`, or its first values.

    It may have more axes than a tensor with one number for each direction, which is a vector or a matrix of the data;
    then it is the same along the direction, and its first value counts.
    """
    while a.ndim > ndim:
        a = a[..., 0]
    return a if a.ndim in (0, ndim) else a.reshape(*a.shape, *(1,) * (ndim - a.ndim))


def plus(a: Tensor, b: Tensor) -> Tensor:
    """Sum of accuracies, of which one may differ by site."""
    return expand(a, b) + expand(b, a)


def by_row(x: Tensor) -> Tensor:
    """The numbers of each example in one row: (B, *site) to (B, D), and (B,) to (B, 1)."""
    return x.reshape(x.shape[0], -1)


def per_example(v: Tensor, mask: Tensor | None = None) -> Tensor:
    """Sums over the sites that are present: (B, *site) to (B,)."""
    if mask is not None:
        v = torch.where(fit(mask, v.ndim), v, 0.0)
    return v if v.ndim == 1 else v.sum(tuple(range(1, v.ndim)))


def weighted(v: Tensor, weight: Tensor, mask: Tensor | None = None) -> Tensor:
    """Sums v (B, *site) times a weight, (), (B,) or (B, *site), over the sites that are present."""
    if weight.ndim < 2:  # one product for each example, not for each site
        return per_example(v, mask) * weight
    return per_example(v * fit(weight, v.ndim), mask)


def by_example(t: Tensor, rows: int) -> Tensor:
    """Times with a row for each example: () to (B,)."""
    return t if t.ndim else t.expand(rows)


def shared_time(t: Times) -> Times:
    """The one time of all parts, where a mapping has no other; every other value is returned as it is."""
    if isinstance(t, Tensor) or not isinstance(t, Mapping):
        return t
    first, *others = t.values()
    scalar = first.ndim == 0 and first.device.type == "cpu"  # on other devices, comparing waits for the device
    same = (other is first or (scalar and other.ndim == 0 and torch.equal(other, first)) for other in others)
    return first if all(same) else t


def times_like(t: Tensor, features: Tensor) -> Tensor:
    """Times (B,) or () as a network sees them: shape (B,), on the device and in the dtype of ``features``."""
    moved: Tensor = t.to(features.device, features.dtype, non_blocking=True)
    return moved.expand(features.shape[0])


P = TypeVar("P")


def select(mask: Tensor, a: P, b: P) -> P:
    """Params of ``a`` where ``mask``, of shape (B,) or (B, *site), is true, and of ``b`` elsewhere."""
    names = [field.name for field in attrs.fields(type(a))]  # type: ignore[arg-type]
    pairs = ((name, getattr(a, name), getattr(b, name)) for name in names)
    return type(a)(**{name: torch.where(expand(mask, u), expand(u, mask), expand(v, mask)) for name, u, v in pairs})
