"""Arguments of the public calls: arrays and lists become tensors, and everything is checked once, before any work.

Where a check reads values, it waits for the device.  So the values of what lies on an accelerator are not looked at in
a step of a training: the model is then in training, and gradients are recorded.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import attrs
import torch
from torch import Tensor

from bfn_toolkit.data.dataset import Batch, Rows
from bfn_toolkit.errors import ConfigError, DataError
from bfn_toolkit.families import Family, check_present
from bfn_toolkit.model import Condition, Model, looks_at_values, readable
from bfn_toolkit.shapes import Data, Mask, as_tensor, batch_size, leaves, map_data
from bfn_toolkit.validators import shown


def data_and_mask(model: Model, x: Data, mask: Mask | None = None) -> tuple[Data, Mask | None]:
    """Data and their mask as tensors, checked against family and weights of a model.

    Raises:
        ConfigError: If they are not tensors or arrays, or lie on another device or have another dtype than the weights.
        DataError: If they have the wrong shape or kind, or values outside the family's domain.
    """
    device, dtype = _place(model)

    def tensor(value: object) -> Tensor:
        return as_tensor("x", value, device=device, dtype=dtype)

    x = map_data(tensor, x)
    if mask is not None:
        mask = map_data(lambda value: as_tensor("mask", value, device=device), mask)
        if leaves(x) and any(leaf.device != leaves(x)[0].device for leaf in leaves(mask)):
            raise ConfigError(f"mask: it must be on the device of the data; write mask.to('{leaves(x)[0].device}')")
    check_data(model, Batch(x, mask=mask) if _has_rows(model.family, x) else x)
    return x, mask


def check_data(model: Model, data: Data | Batch) -> None:
    """Checks tensors against family and weights of a model; errors are those of :func:`data_and_mask`."""
    x, mask = (data.x, data.mask) if isinstance(data, Batch) else (data, None)
    device, dtype = _place(model)
    for leaf in leaves(x):
        if device is not None and leaf.device != device:
            raise ConfigError(
                f"x: the data are on {leaf.device}, and the model is on {device}; "
                f"write x.to('{device}'), or model.to('{leaf.device}')"
            )
    x = map_data(Tensor.detach, x)
    try:
        if device is None or looks_at_values(model, device):
            check_present(model.family, x, mask)
        else:
            check_present(model.family, map_data(_without_rows, x), None)
    except DataError as error:
        raise DataError(f"x: {error}{_one_example(model.family, x)}") from error
    if not batch_size(x):
        raise DataError("x: expected at least one example, found none")
    for leaf in leaves(x):
        real = leaf.is_floating_point() and dtype is not None
        if real and leaf.dtype != dtype and leaf.dtype not in {weight.dtype for weight in model.parameters()}:
            raise ConfigError(
                f"x: the data are {leaf.dtype}, and the weights of the model {dtype}; write x.to({dtype})"
                + (", or model.double()" if leaf.dtype == torch.float64 else "")
            )


def conditions(model: Model, condition: object, rows: int, *, move: bool = False) -> Condition | None:
    """Conditions as tensors, checked against a model; real numbers have the dtype of its weights.

    Arguments:
        model: The model.
        condition: Tensors, arrays or lists by name, each with ``rows`` rows, or None.
        rows: Number of examples.
        move: Whether conditions on another device than the model are moved there.
    Raises:
        ConfigError: If one is unknown, missing, of another length, not finite or outside its domain, or lies on another
            device.
    """
    if condition is None or not isinstance(condition, Mapping):
        model.check_condition(condition, rows)  # type: ignore[arg-type]
        return None
    device, dtype = _place(model)
    made: dict[str, Tensor] = {}
    for name, value in condition.items():
        if not isinstance(name, str):
            raise ConfigError(f"condition: expected names of conditions as keys, got {shown(name)}")
        tensor = as_tensor(f"condition[{name!r}]", value, device=device)
        if device is not None and tensor.device != device and not move:
            raise ConfigError(
                f"condition[{name!r}]: the values are on {tensor.device}, and the model is on {device}; "
                f"write .to('{device}')"
            )
        if tensor.is_floating_point():
            if looks_at_values(model, tensor.device) and not bool(tensor.isfinite().all()):
                raise ConfigError(
                    f"condition[{name!r}]: expected finite numbers, found {tensor[~tensor.isfinite()][0]}"
                )
            tensor = tensor.to(dtype)
        made[name] = tensor.to(device)
    model.check_condition(made, rows)
    return made


def rows_of(model: Model, data: object, *, gaps: bool = False) -> Rows:
    """Examples for an evaluation: rows, or a tensor or arrays of data, checked where they are in memory.

    Arguments:
        model: The model.
        data: The examples.
        gaps: Whether NaN, and -1 for classes, stand for what is missing.
    Raises:
        ConfigError: If it is neither, or a condition does not fit the model.
        DataError: If there is no row, or data do not fit the family.
    """
    if not isinstance(data, Rows):
        device, dtype = _place(model)
        x = map_data(lambda value: as_tensor("data", value, device=device, dtype=dtype), data)
        if not _has_rows(model.family, x):
            check_data(model, x)
        data = Batch(x)
    if not len(data):
        raise DataError("data: expected at least one example, found none")
    if isinstance(data, Batch):
        check_data(model, attrs.evolve(data, mask=map_data(_there, data.x)) if gaps else data)
        conditions(model, readable(model, data.condition), len(data))
    return data


def _there(x: Tensor) -> Tensor:
    return ~x.isnan() if x.is_floating_point() else x >= 0


def _place(model: Model) -> tuple[torch.device | None, torch.dtype | None]:
    """Device and dtype of the weights; None without weights."""
    weight = next(model.parameters(), None)
    if weight is None:
        return None, None
    return weight.device, weight.dtype if weight.is_floating_point() else None


def _without_rows(leaf: Tensor) -> Tensor:
    """A tensor on the CPU with the same shape and dtype but no row."""
    return leaf.new_empty((0, *leaf.shape[1:]) if leaf.ndim else (), device="cpu")


def _has_rows(family: Family[Any], x: Data) -> bool:
    """Whether the data have the form of the family, so that a mask can be compared with them."""
    return isinstance(x, Mapping) == family.has_parts and all(leaf.ndim for leaf in leaves(x)) and bool(leaves(x))


def _one_example(family: Family[Any], x: Data) -> str:
    """Advice where data have the shape of one example."""
    lone = isinstance(x, Tensor) and not family.has_parts and tuple(x.shape) == family.network_io.site_shape
    return "; write x.unsqueeze(0) for one example" if lone else ""
