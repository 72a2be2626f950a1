"""Validators for the fields of attrs classes; each error names class and field, the expected and the actual value.

.. code-block:: python

    from attrs import field, frozen
    from bfn_toolkit import validators


    @frozen
    class Rings:
        count: int = field(default=3, validator=validators.integer(ge=1))
        radius: float = field(default=0.5, validator=validators.number(gt=0, lt=1))

``Rings(radius=2.0)`` reports "Rings.radius: expected 0 < radius < 1, got 2.0"; a configuration file reports the same
with its own key: "rings.toml:3: dataset.radius: expected 0 < radius < 1, got 2.0".
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeAlias

import attrs
from attrs.validators import optional as optional

from bfn_toolkit.errors import ConfigError, nearest

Validator: TypeAlias = "Callable[[Any, attrs.Attribute[Any], Any], None]"


def invalid(instance: object, field: attrs.Attribute[Any], problem: str) -> ConfigError:
    """Returns the error of a validator.

    Arguments:
        instance: The value that is being built.
        field: Its field.
        problem: Text with the expected and the actual value.
    """
    return ConfigError(f"{type(instance).__name__}.{field.name}: {problem}")


def integer(*, ge: int | None = None, le: int | None = None) -> Validator:
    """Accepts integers, but not booleans.

    Arguments:
        ge: Smallest accepted value.
        le: Largest accepted value.
    """
    return _within("an integer", int, None, ge, None, le)


def number(
    *, gt: float | None = None, ge: float | None = None, lt: float | None = None, le: float | None = None
) -> Validator:
    """Accepts finite integers and floats, but not booleans; infinity if a bound is ``le=inf`` or ``ge=-inf``.

    Arguments:
        gt: Exclusive lower bound.
        ge: Smallest accepted value.
        lt: Exclusive upper bound.
        le: Largest accepted value.
    """
    return _within("a number", (int, float), gt, ge, lt, le)


def _within(
    words: str, types: Any, gt: float | None, ge: float | None, lt: float | None, le: float | None
) -> Validator:
    def check(instance: Any, field: attrs.Attribute[Any], value: Any) -> None:
        if isinstance(value, bool) or not isinstance(value, types):
            raise invalid(instance, field, f"expected {words}, got {shown(value)}")
        above = ge <= value if ge is not None else (-math.inf if gt is None else gt) < value
        below = value <= le if le is not None else value < (math.inf if lt is None else lt)
        if not (above and below):  # NaN is neither
            low, high = gt if ge is None else ge, lt if le is None else le
            bounds = _range(field.name, low, "<" if ge is None else "<=", high, "<" if le is None else "<=")
            finite = isinstance(value, int) or math.isfinite(value)
            expected = ", ".join(filter(None, ("" if finite else "a finite number", bounds)))
            raise invalid(instance, field, f"expected {expected}, got {shown(value)}")

    return check


def finite(instance: Any, field: attrs.Attribute[Any], value: Any) -> None:
    """Accepts finite numbers, and nested tuples or lists of them.

    Raises:
        ConfigError: If a number is infinite or NaN.
    """
    if isinstance(value, (tuple, list)):
        for part in value:
            finite(instance, field, part)
    elif isinstance(value, float) and not math.isfinite(value):
        raise invalid(instance, field, f"expected finite numbers, got {value}")


def as_tuples(value: Any) -> Any:
    """Nested sequences and arrays as tuples; other values as they are."""
    value = value.tolist() if hasattr(value, "tolist") else value
    return tuple(map(as_tuples, value)) if isinstance(value, Sequence) and not isinstance(value, str) else value


def one_of(*choices: str) -> Validator:
    """Accepts one of the choices."""

    def check(instance: Any, field: attrs.Attribute[Any], value: Any) -> None:
        if value not in choices:
            raise invalid(instance, field, not_one_of(value, choices))

    return check


def instance_of(cls: type[Any]) -> Validator:
    """Accepts instances of a class."""

    def check(instance: Any, field: attrs.Attribute[Any], value: Any) -> None:
        if not isinstance(value, cls):
            article = "an" if cls.__name__[0] in "AEIOUaeiou" else "a"
            raise invalid(instance, field, f"expected {article} {cls.__name__}, got {shown(value)}")

    return check


def whole_number(
    name: str, value: Any, least: int = 1, most: int = 10**9, *, write: int | None = None, error: Any = ConfigError
) -> int:
    """Returns an argument of a call as an int: an integer of Python, numpy or torch, but not a boolean.

    Arguments:
        name: Name of the argument.
        value: Its value.
        least: Smallest accepted value.
        most: Largest accepted value.
        write: A value to advise.
        error: Class of the error.
    Raises:
        ConfigError: If it is something else, or out of range.
    """
    try:
        boolean = isinstance(value, bool) or str(getattr(value, "dtype", "")).endswith("bool")
        number = None if boolean else operator.index(value)
    except (TypeError, RuntimeError, ValueError):  # of arrays and tensors of several numbers
        number = None
    if number is None or not least <= number <= most:
        bounds = f"at least {least}" if number is None or number < least else f"at most {most}"
        advice = "" if write is None else f"; write {name}={write}"
        raise error(f"{name}: expected an integer of {bounds}, got {shown(value)}{advice}")
    return number


def not_one_of(value: object, choices: Iterable[object]) -> str:
    """Returns the message for a value that is not among the choices, with the nearest choice."""
    known = [str(choice) for choice in choices]
    close = nearest(str(value), known)
    hint = f"; did you mean '{close}'?" if close else ""
    return f"expected one of {', '.join(known)}, got {value!r}{hint}"


def _range(name: str, low: float | None, above: str, high: float | None, below: str) -> str:
    """A range as text: "0 < lr <= 1000", "width >= 1"."""
    if low is not None and high is not None:
        return f"{_bound(low)} {above} {name} {below} {_bound(high)}"
    if low is not None:
        return f"{name} {above.replace('<', '>')} {_bound(low)}"
    return f"{name} {below} {_bound(high)}" if high is not None else ""


def _bound(bound: float) -> str:
    """A bound as text; large ones as powers: 2**63 - 1."""
    if isinstance(bound, int):
        return f"2**{(bound + 1).bit_length() - 1} - 1" if bound >= 2**53 else str(bound)
    return f"{bound:g}"


def shown(value: object) -> str:
    """Prints a value in at most 80 characters; of tensors and arrays only the form."""
    if isinstance(value, int) and abs(value) >= 2**100:
        return f"an integer of {value.bit_length()} bits"
    shape, dtype = getattr(value, "shape", None), getattr(value, "dtype", None)
    if isinstance(shape, tuple) and shape and dtype is not None:
        return f"{dtype} of shape {tuple(shape)}"
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
