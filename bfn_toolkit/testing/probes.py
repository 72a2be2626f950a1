"""Helpers of the laws: beliefs by their log-densities, params by their tensors."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import attrs
import torch
from torch import Tensor
from torch.distributions import Distribution
from torch.utils._python_dispatch import TorchDispatchMode

from bfn_toolkit.families import Family
from bfn_toolkit.shapes import Data, batch_size, leaves, map_data
from bfn_toolkit.testing.cases import data
from bfn_toolkit.testing.draws import seeded

EXACT = 1e-9  # tolerance in float64, relative to the largest number that enters
MANY = 20_000  # rows in a statistical law


def is_stepped(family: Any) -> bool:
    """Whether the family, or a part of it, has a fixed table of messages."""
    return isinstance(family, Family) and family.n_steps is not None


def probe(family: Family[Any], params: Any, x: Data) -> Tensor:
    """Log-densities (B, 4) that beliefs give to the data and to three random points."""
    points = [x, *(data(family, batch_size(x), seed) for seed in (101, 102, 103))]
    belief = family.input(params)
    return torch.stack([belief.log_prob(point) for point in points], -1)


def scale(*values: Tensor) -> Tensor:
    """Largest magnitude in each row, plus 1."""
    return 1.0 + torch.stack([value.abs().flatten(1).amax(1) for value in values]).amax(0).unsqueeze(-1)


def tensors(params: Any) -> dict[str, Tensor]:
    """The tensors of params by field, including nested params."""
    if isinstance(params, Tensor):
        return {"": params}
    if not isinstance(params, dict):
        params = {field.name: getattr(params, field.name) for field in attrs.fields(type(params))}
    return {f"{name}.{key}".rstrip("."): value for name, part in params.items() for key, value in tensors(part).items()}


def rows_of(params: Any, index: Tensor) -> Any:
    """The rows ``index`` of params or data."""
    if isinstance(params, Tensor):
        return params[index]
    if isinstance(params, dict):
        return {name: rows_of(part, index) for name, part in params.items()}
    return type(params)(*(rows_of(getattr(params, f.name), index) for f in attrs.fields(type(params))))


def repeat(value: Any, rows: int) -> Any:
    """The first row of data or params, repeated."""
    return rows_of(value, torch.zeros(rows, dtype=torch.long))


def columns(x: Data) -> Tensor:
    """All numbers of data side by side, with shape (B, D), in float64."""
    return torch.cat([leaf.double().reshape(len(leaf), -1) for leaf in leaves(x)], 1)


def cast(x: Data, dtype: torch.dtype, device: str = "cpu") -> Data:
    """Data on a device, with real numbers in a dtype."""
    return map_data(lambda leaf: leaf.to(device, dtype if leaf.is_floating_point() else leaf.dtype), x)


def raw_numbers(family: Family[Any], rows: int, dtype: torch.dtype = torch.float64, seed: int = 0) -> Tensor:
    """Raw numbers as an untrained network might return them."""
    io = family.network_io
    with seeded(seed, "raw"):
        return torch.randn(rows, *io.site_shape, io.out_features, dtype=dtype)


def alphas(rows: int, accuracy: float) -> Tensor:
    """One accuracy for all rows."""
    return torch.full((rows,), accuracy, dtype=torch.float64)


class DrawnDtypes(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Scope that collects the floating dtypes of all random numbers drawn in it."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.dtypes: set[torch.dtype] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if torch.Tag.nondeterministic_seeded in func.tags and result.is_floating_point():
            self.dtypes.add(result.dtype)
        return result


def reads_values(distribution: Distribution) -> bool:
    """Whether a draw reads values, as rejection sampling does; for a distribution on the meta device."""
    try:
        distribution.sample()
    except RuntimeError as error:
        return "item() cannot be called on meta" in str(error)
    return False


def steps_of(family: Family[Any]) -> int:
    """A number of steps that the family allows."""
    return family.n_steps or 4


def fold(family: Family[Any], x: Data, accuracy: list[Any]) -> Any:
    """The prior after messages of these accuracies, by sender and update only."""
    params = family.prior(batch_size(x), dtype=torch.float64)
    for alpha in accuracy:
        params = family.update(params, family.sender(x, alpha).sample(), alpha)
    return params


def fold_one(family: Family[Any]) -> Any:
    """Beliefs of one row after one message of accuracy 1/2."""
    with seeded(0, "one"):
        return fold(family, data(family, 1), [alphas(1, 0.5)])


def tame(log_ratio: Callable[[float], Tensor], accuracy: float) -> Tensor:
    """Log density ratios at the largest accuracy for which their standard deviation is below 1.

    Then the mean of the ratios is nearly normal for any number of sites; at a large accuracy a few rows in a million
    would dominate it.

    Arguments:
        log_ratio: Function from an accuracy to the log ratios.
        accuracy: First accuracy; halved up to fourteen times.
    """
    values = log_ratio(accuracy)
    for _ in range(14):
        if not float(values.std()) > 1.0:  # NaN is left to the judge
            break
        accuracy /= 2
        values = log_ratio(accuracy)
    return values
