r"""Polynomials: of which degree a function of the data is, found by running it once on a tensor that keeps count.

For :math:`x \sim N(\mu, \sigma^2)` Gauss-Hermite quadrature with n points is exact for polynomials of degree 2n - 1,
and not for other functions,

.. math:: E[f(x)] = \sum_{i=1}^n \omega_i f(\mu + \sigma z_i), \qquad \deg f < 2 n,

so an expectation that is to be exact has to know the degree.  Sums keep the larger degree, products add them, and an
operation that is not known to give a polynomial is refused by its name.  No value is read.

On angles the count is of degrees in (cos x, sin x), of which an output on the circle has the first moments.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from bfn_toolkit.errors import ConfigError
from bfn_toolkit.shapes import expand

_SIZES = {"shape", "ndim", "dtype", "device", "requires_grad", "size", "dim", "numel", "is_floating_point", "__len__"}
_CONSTANT = {"zeros_like", "ones_like", "full_like", "new_zeros", "new_ones", "new_full"}  # no number of x in them
_LAYOUT = {"unsqueeze", "squeeze", "reshape", "view", "flatten", "movedim", "expand", "stack", "cat", "__getitem__"}
_AFFINE = {"add", "sub", "subtract", "__rsub__", "neg", "negative", "clone", "contiguous", "to", "double", "float"}
_SHAPED_LIKE = {"expand_as", "type_as", "broadcast_tensors"}


def value_and_degree(function: Callable[[Tensor], Tensor], x: Tensor, *, angles: bool = False) -> tuple[Tensor, int]:
    """The function at x, and its degree: as a polynomial of x or, for angles, of (cos x, sin x).

    A function of degree 1 may mix the sites.  Of a higher degree it has to act on each site by itself.

    Arguments:
        function: The function, of tensor operations.
        x: Where it is run.
        angles: Whether x are angles.
    Returns:
        The value, and a bound on the degree.
    Raises:
        ConfigError: If the function does something that is not known to give a polynomial.

    >>> value_and_degree(lambda x: 3.0 * x.square() - x, torch.tensor([2.0]))
    (tensor([10.]), 2)
    """
    traced = _Polynomial.of(x, degree=None if angles else 1, shape=x.shape)
    value = function(traced)
    if not isinstance(value, _Polynomial):
        return value, 0
    if value.degree is None:
        raise ConfigError("an angle has no mean, because it has no end; take the mean of its cosine and sine")
    return value.as_subclass(Tensor), value.degree


def normal_expectation(
    function: Callable[[Tensor], Tensor], mean: Tensor, components: Iterable[tuple[Tensor, Tensor, Tensor]]
) -> Tensor:
    """E[function(x)] under a mixture of normal distributions, exact: at the mean for an affine function.

    Arguments:
        function: A polynomial.
        mean: Mean of the mixture, with shape (B, *site).
        components: Weight, mean (B, *site) and standard deviation of each; weight and deviation have shape (B,) or
            that of the mean.
    Raises:
        ConfigError: If the function is not known to be a polynomial.
    """
    value, degree = value_and_degree(function, mean)
    if degree <= 1:
        return value
    total = torch.zeros_like(value)
    for weight, centre, scale in components:
        for z, share in _gauss_hermite(degree // 2 + 1):
            term = function(centre + z * expand(scale, centre))
            total = total + share * expand(weight, term) * term
    return total


@lru_cache
def _gauss_hermite(n: int) -> list[tuple[float, float]]:
    """Points and weights under N(0, 1)."""
    from numpy.polynomial.hermite_e import hermegauss

    points, weights = hermegauss(n)
    return list(zip(points.tolist(), (weights / weights.sum()).tolist(), strict=True))


class _Polynomial(Tensor):
    """A tensor whose numbers are polynomials of x.

    Attributes:
        degree: Of the polynomials; None for an angle itself, up to signs and shifts.
        shape_of_x: Shape of x.
        moved: Whether a number may stand at another place than the x it depends on.
        mixed: Whether a number may depend on x at several sites.
    """

    degree: int | None
    shape_of_x: torch.Size
    moved: bool
    mixed: bool

    @classmethod
    def of(
        cls, value: Tensor, degree: int | None, shape: torch.Size, *, moved: bool = False, mixed: bool = False
    ) -> _Polynomial:
        """Marks a tensor."""
        marked = value.as_subclass(cls)
        marked.degree, marked.shape_of_x, marked.mixed = degree, shape, mixed
        marked.moved = moved or value.shape != shape
        return marked

    @classmethod
    def __torch_function__(
        cls, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        name = func.__name__ if func.__name__ != "__get__" else func.__self__.__name__  # type: ignore[attr-defined]
        with torch._C.DisableTorchFunctionSubclass():
            if name in _SIZES:
                return func(*args, **kwargs)
            operands = [a for a in _flat(args) if isinstance(a, _Polynomial)]
            if len(operands) < len([a for a in _flat((*args, *kwargs.values())) if isinstance(a, _Polynomial)]):
                raise ConfigError(_refusal(f"{name} of a keyword argument"))
            degree = _degree(name, args, operands)
            mixed = _mixed(name, degree, operands)
            result = func(*args, **kwargs)
            if degree == 0:
                return result
            shape, moved = operands[0].shape_of_x, name in _LAYOUT or any(operand.moved for operand in operands)
            return _map(lambda value: cls.of(value, degree, shape, moved=moved, mixed=mixed), result)


def _flat(values: Iterable[Any]) -> list[Any]:
    return [leaf for value in values for leaf in (_flat(value) if isinstance(value, (tuple, list)) else [value])]


def _map(function: Callable[[Tensor], Tensor], result: Any) -> Any:
    if isinstance(result, (tuple, list)):
        return type(result)(_map(function, value) for value in result)
    if not result.is_floating_point():
        raise ConfigError(_refusal("a conversion to integers"))
    if not result.ndim:  # it could leave as a Python number, unseen
        raise ConfigError(_refusal("a single number of x"))
    return function(result)


def _degree(name: str, args: tuple[Any, ...], operands: list[_Polynomial]) -> int | None:
    """Degree of an operation's result."""
    degrees, first = [operand.degree for operand in operands], args[0]
    if name in _CONSTANT or (name in _SHAPED_LIKE and name != "broadcast_tensors" and first is not operands[0]):
        return 0
    if None in degrees:  # an angle: shifted, laid out, or turned into cosine and sine
        if name in ("cos", "sin"):
            return 1
        if len(operands) == 1 and name in _LAYOUT | _AFFINE | _SHAPED_LIKE:
            return None
    else:
        known = [degree for degree in degrees if degree is not None]
        if name in _LAYOUT | _AFFINE | _SHAPED_LIKE:
            return max(known)
        if name in ("mul", "multiply"):
            return sum(known)
        if name == "square":
            return 2 * known[0]
        if name == "pow" and first is operands[0] and isinstance(args[1], int) and args[1] >= 0:
            return args[1] * known[0]
        if name in ("div", "divide", "true_divide") and len(operands) == 1 and first is operands[0]:
            return known[0]
    raise ConfigError(_refusal(name))


def _mixed(name: str, degree: int | None, operands: list[_Polynomial]) -> bool:
    """Whether the result may depend on several sites; refuses what then is not a sum over the sites."""
    joined = len(operands) > 1 and name not in ("stack", "cat") and any(operand.moved for operand in operands)
    mixed = joined or any(operand.mixed for operand in operands)
    if mixed and degree is not None and degree > max(operand.degree or 0 for operand in operands):
        raise ConfigError(_refusal(f"a product ({name}) that may be of different sites"))
    return mixed


def _refusal(name: str) -> str:
    return (
        f"the expectation of a function is exact here for polynomials that act on each site by itself, found {name}; "
        "average function(output.sample()) over draws instead"
    )
