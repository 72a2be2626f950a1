"""Validators for the fields of attrs classes, with messages that say what was expected and what was found."""

from __future__ import annotations

import difflib
import math
from collections.abc import Callable, Iterable
from typing import Any

import attrs

from bfn_toolkit.errors import ConfigError

Validator = Callable[[Any, "attrs.Attribute[Any]", Any], None]


def finite(_: Any, field: attrs.Attribute[Any], value: Any) -> None:
    """Accepts finite numbers, and arrays of them to any depth.

    Raises:
        ConfigError: If a number is infinite or NaN.
    """
    if isinstance(value, (tuple, list)):
        for part in value:
            finite(_, field, part)
    elif isinstance(value, float) and not math.isfinite(value):
        raise ConfigError(f"{field.name} must be finite, got {value}")


def integer(low: int, high: int) -> Validator:
    """Accepts integers from low to high, both included; no boolean."""

    def check(_: Any, field: attrs.Attribute[Any], value: Any) -> None:
        if isinstance(value, bool) or not isinstance(value, int):
            raise ConfigError(f"{field.name}: expected an integer, got {value!r}")
        if not low <= value <= high:
            raise ConfigError(f"expected {low} <= {field.name} <= {_power(high)}, got {_cut(value)}")

    return check


def number(low: float, high: float, *, above: bool = False, below: bool = False) -> Validator:
    """Accepts numbers from low to high; strictly above low, or below high, where that is asked for."""

    def check(_: Any, field: attrs.Attribute[Any], value: Any) -> None:
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            raise ConfigError(f"{field.name}: expected a number, got {value!r}")
        fits = (low < value if above else low <= value) and (value < high if below else value <= high)
        if not fits:  # NaN does not
            left, right = "<" if above else "<=", "<" if below else "<="
            finite = "a finite number, " if abs(value) == math.inf != high else ""
            raise ConfigError(f"expected {finite}{low:g} {left} {field.name} {right} {high:g}, got {_cut(value)}")

    return check


def one_of(*choices: str) -> Validator:
    """Accepts one of some words."""

    def check(_: Any, field: attrs.Attribute[Any], value: Any) -> None:
        if value not in choices:
            raise ConfigError(not_one_of(value, choices))

    return check


def not_one_of(value: object, choices: Iterable[object]) -> str:
    """Returns the message for a value that is none of the choices, with the nearest of them."""
    known = [str(choice) for choice in choices]
    close = difflib.get_close_matches(str(value), known, n=1)
    hint = f"; did you mean '{close[0]}'?" if close else ""
    return f"expected one of {', '.join(known)}, got {value!r}{hint}"


def _power(bound: int) -> str:
    """Large bounds as they are thought of: 2**63 - 1."""
    return f"2**{(bound + 1).bit_length() - 1} - 1" if bound >= 2**53 else str(bound)


def _cut(value: float) -> str:
    """Prints a number, but not hundreds of digits."""
    return f"an integer of {value.bit_length()} bits" if isinstance(value, int) and abs(value) >= 2**100 else str(value)
