"""Helpers of the laws: beliefs by their log-densities, params by their tensors."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import attrs
import torch
from torch import Tensor
from torch.distributions import Distribution
from torch.utils._python_dispatch import TorchDispatchMode

from bfn_toolkit.families import Family
from bfn_toolkit.outputs import Output
from bfn_toolkit.shapes import Data, batch_size, leaves, map_data
from bfn_toolkit.testing.cases import accuracy_near, data, is_stepped
from bfn_toolkit.testing.draws import seeded

EXACT = 1e-9  # tolerance in float64, relative to the largest number that enters
MANY = 20_000  # rows in a statistical law
POINTS = 16  # different points at which densities are compared


def probe(family: Family[Any], params: Any, x: Data) -> Tensor:
    """Log-densities (B, 4) that beliefs give to the data and to three of a few random points."""
    rows = batch_size(x)
    few = torch.arange(rows) % POINTS
    points = [x, *(rows_of(data(family, min(rows, POINTS), seed), few) for seed in (101, 102, 103))]
    belief = family.input(params)
    return torch.stack([belief.log_prob(point) for point in points], -1)


def scale(*values: Tensor) -> Tensor:
    """Largest finite magnitude in each row, plus 1."""
    sizes = [torch.where(value.isinf(), 0.0, value.abs()).flatten(1).amax(1) for value in values]
    return 1.0 + torch.stack(sizes).amax(0).unsqueeze(-1)


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
    if isinstance(params, Mapping):
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


class SameNoise(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Scope in which random numbers are drawn in float64 and rounded: float32 and float64 get the same noise."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        if torch.Tag.nondeterministic_seeded not in func.tags or "int" in func.__name__ or "perm" in func.__name__:
            return func(*args, **kwargs)
        tensors = [arg for arg in args if isinstance(arg, Tensor) and arg.is_floating_point()]
        dtype = kwargs.get("dtype") or (tensors[0].dtype if tensors else torch.get_default_dtype())
        if "dtype" in kwargs or not tensors:
            kwargs["dtype"] = torch.float64
        wide = [arg.double() if isinstance(arg, Tensor) and arg.is_floating_point() else arg for arg in args]
        drawn = func(*wide, **kwargs)
        if func._schema.is_mutable:
            return args[0].copy_(drawn)
        return drawn.to(dtype) if drawn.is_floating_point() else drawn


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


def some_times(family: Family[Any], *t: float) -> Tensor:
    """Times (B,), for a family with a table the nearest of its steps."""
    times = torch.tensor(t, dtype=torch.float64)
    if not is_stepped(family):
        return times
    grid = family.times(steps_of(family))
    return grid[(times.unsqueeze(-1) - grid).abs().argmin(-1)]


def fold(family: Family[Any], x: Data, accuracy: list[Any]) -> Any:
    """The prior after messages of these accuracies, by sender and update only."""
    params = family.prior(batch_size(x), dtype=torch.float64)
    for alpha in accuracy:
        params = family.update(params, family.sender(x, alpha).sample(), alpha)
    return params


def fold_one(family: Family[Any], accuracy: float = 0.5, seed: int = 0) -> Any:
    """Beliefs of one row after one message about ``data(family, 1, seed)``."""
    with seeded(0, "one"):
        return fold(family, data(family, 1, seed), [accuracy_near(family, 1, accuracy)])


def divergence(family: Family[Any], x: Data, output: Output, alpha: Any) -> Tensor:
    """Numbers (B,) whose mean is KL(p_S || p_R), by the family's sender and receiver; for a batch of equal rows.

    With r = p_R / p_S the means of r - 1 - ln r and of -ln r are both the divergence, but the standard deviation of the
    first is of the order of the divergence, not of its square root; at large accuracies the second is used.  If the
    messages repeat, as those of an erasure channel do, the receiver may send what the sender cannot, so that E[r] is
    not 1; then the sum over the messages is exact.
    """
    sender, receiver, rows = family.sender(x, alpha), family.receiver(output, alpha), batch_size(x)
    y = sender.sample()
    messages = together(y, family.sender(x, accuracy_near(family, rows, 1.0)).sample())  # rare ones among them
    kinds, which = torch.unique(columns(messages), dim=0, return_inverse=True)
    if len(kinds) > rows // 10:
        log_r = receiver.log_prob(y) - sender.log_prob(y)
        if repeats(y):
            return -log_r
        small = float(-log_r.mean()) < 2.0 * float(log_r.var()) < 0.5  # nearly normal: a mean of half the variance
        return log_r.expm1() - log_r if small else -log_r
    first = torch.full((len(kinds),), 2 * rows).scatter_reduce(0, which, torch.arange(2 * rows), "amin")
    y = rows_of(messages, torch.cat([first, first[:1].expand(rows - len(first))]))
    log_p, log_q = (law.log_prob(y)[: len(first)] for law in (sender, receiver))
    return (log_p.exp() * (log_p - log_q)).sum().expand(rows)


def bridge(p: Distribution | Output, q: Distribution | Output) -> Tensor:
    """Numbers (B,) within [-1, 1] whose mean is 0 if both densities are those of the draws, and of one mass.

    Both E_p[q / (p + q)] and E_q[p / (p + q)] are the integral of p q / (p + q).
    """
    x, y = p.sample(), q.sample()
    return (q.log_prob(x) - p.log_prob(x)).sigmoid() - (p.log_prob(y) - q.log_prob(y)).sigmoid()


def repeats(x: Data) -> bool:
    """Whether messages or data are of a finite alphabet: integers, or numbers that recur."""
    finite = not all(leaf.is_floating_point() for leaf in leaves(x))
    return finite or len(torch.unique(columns(x), dim=0)) <= batch_size(x) // 10


def together(a: Data, b: Data) -> Data:
    """The rows of a, then those of b."""
    return {name: together(part, b[name]) for name, part in a.items()} if isinstance(a, Mapping) else torch.cat([a, b])


def tame(log_ratio: Callable[[float], Tensor], accuracy: float) -> Tensor:
    """Log density ratios at the largest accuracy for which the standard deviation of each column is below 1.

    Then the mean of the ratios is nearly normal for any number of sites; at a large accuracy a few rows in a million
    would dominate it.

    Arguments:
        log_ratio: Function from an accuracy to the log ratios.
        accuracy: First accuracy; halved up to fourteen times.
    """
    values = log_ratio(accuracy)
    for _ in range(14):
        if (
            not float(values.std(0).max()) > 1.0
        ):  # NaN is left to the judge; -inf is a ratio of 0, and does not dominate
            break
        accuracy /= 2
        values = log_ratio(accuracy)
    return values
