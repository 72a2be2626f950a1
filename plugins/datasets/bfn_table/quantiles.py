r"""The quantile function of a column of numbers, exact at the levels and on a lattice.

The line [0, K) has a knot at the middle of each level's interval, where the function is the level; between two middles
it is linear, and from one class to the next it passes halfway between their levels.  A class with one level is that
level alone: the function jumps at both of its ends.  Values are rounded to the *lattice* :math:`(a + i b) / c`,
i = 0, 1, ..., with integers a, b and c, on which all levels lie, such as tenths, whole days or full hours; the ends of
classes are between two of its points.
"""

from __future__ import annotations

from functools import cached_property
from typing import Any, Literal, TypeAlias

import attrs
import numpy as np

Array: TypeAlias = "np.ndarray[Any, Any]"

DECIMALS = 9  # largest number of decimals of numbers that lie on a lattice
EXACT = 2.0**52  # integers below it, and the middles between them, are doubles
SLACK = 2.0**-9  # largest error of a place on the lattice, in its steps
DIGITS = 2.0**-20  # width of a cell where there is no lattice, in distances of the quartiles of the levels
ULPS = 8.0  # least width of a level's interval, in units in the last place of float32 at the end of the line


@attrs.frozen(eq=False)
class Quantiles:
    """Quantile function with n knots.

    Arguments:
        values: Levels in increasing order, float64 (n,).
        edges: Ends of their intervals, float64 (n + 1,); those that are integers are the ends of classes.
    """

    values: Array
    edges: Array

    @cached_property
    def lattice(self) -> tuple[int, int, int]:
        """The integers a, b and c; b = 0 if there is no lattice."""
        for decimals in range(DECIMALS + 1):
            whole = np.rint(self.values * 10.0**decimals)
            if np.abs(whole).max() >= EXACT * (SLACK / 2.0 if decimals else 1.0):
                break
            if (whole / 10.0**decimals == self.values).all():
                first, *steps = np.diff(whole.astype(np.int64), prepend=0)
                return int(first), max(1, int(np.gcd.reduce(steps or [1]))), 10**decimals
        return 0, 0, 1

    @property
    def step(self) -> float:
        """Distance of two neighbours on the lattice; 0 without one."""
        return self.lattice[1] / self.lattice[2]

    def value(self, x: Array) -> Array:
        """Values at points (N,)."""
        low, high = self._ends
        k = np.floor(x).astype(np.int64).clip(0, len(low) - 1)
        half = self.step / 2.0
        inside: Array = np.interp(x, *self._knots_with_steps).clip(low[k], high[k])
        return self._rounded(inside).clip(self._rounded(low[k] + half), self._rounded(high[k] - half))

    def place(self, values: Array) -> Array:
        """The middle of the interval of the line that has each value, or the nearest: (N,)."""
        low, high = self._ends
        values = self._rounded(values.clip(self.values[0], self.values[-1]))
        k = (np.searchsorted(low, values, "right") - 1).clip(0)
        after = (k + 1).clip(max=len(low) - 1)
        between = values > high[k]  # beside a class of one level
        nearer = np.where(values - high[k] <= low[after] - values, high[k] - self.step / 2, low[after] + self.step / 2)
        values = self._rounded(np.where(between, nearer, values))
        return (self.start(values) + self.start(values, after=True)) / 2.0

    def start(self, values: Array, *, after: bool = False) -> Array:
        """End of the points with values below each value, or with ``after`` not above it: (N,)."""
        if not self.step:
            ends = _inverse(*self._knots_with_steps, values, "right" if after else "left")
            if not after:
                return ends
            near = ends.astype(np.float32)  # the first number of float32 behind the end
            behind = np.where(near > ends, near, np.nextafter(near, np.float32(np.inf)))
            return np.where(self.value(ends) == values, behind.astype(np.float64), ends)
        first, step, power = self.lattice
        place = (values * power - first) / step
        place = np.floor(place + SLACK) + 0.5 if after else np.ceil(place - SLACK) - 0.5
        return _inverse(*self._knots_with_steps, (first + place * step) / power, "left")

    def width(self, x: Array) -> Array:
        """Width of the interval of the line around each point that has its value (N,).

        Without a lattice, values that differ by less than :data:`DIGITS` count as one.
        """
        quarter = len(self.values) // 4
        half = (self.step or DIGITS * (self.values[-1 - quarter] - self.values[quarter])) / 2.0
        values, k = self.value(x), np.floor(x)
        start = _inverse(*self._knots, values - half, "left").clip(k, k + 1.0)
        width: Array = _inverse(*self._knots, values + half, "right").clip(k, k + 1.0) - start
        return width

    def _rounded(self, values: Array) -> Array:
        """The nearest points of the lattice."""
        first, step, power = self.lattice
        return (first + np.rint((values * power - first) / step) * step) / power if step else values

    @cached_property
    def _ends(self) -> tuple[Array, Array]:
        """Limits of the function at the beginning and at the end of each class."""
        first = np.flatnonzero(self.edges[:-1] == np.floor(self.edges[:-1]))
        last = np.append(first[1:], len(self.values)) - 1
        half = self.step / 2.0
        low, high = self.values[first] - half, self.values[last] + half
        meet = (first[1:] < last[1:]) & (first[:-1] < last[:-1])
        middle = self._rounded((self.values[first[1:]] + self.values[last[:-1]]) / 2.0)
        middle += np.where(middle < self.values[first[1:]], half, -half)
        low[1:] = np.where(meet, middle, low[1:])
        high[:-1] = np.where(meet, middle if half else np.nextafter(middle, -np.inf), high[:-1])
        return low, high

    @cached_property
    def _knots(self) -> tuple[Array, Array]:
        """Points and values of the knots."""
        return self._with_steps(np.zeros(len(self.values)))

    @cached_property
    def _knots_with_steps(self) -> tuple[Array, Array]:
        """The knots, with a step at each level that is wide enough for float32."""
        middles = (self.edges[1:] + self.edges[:-1]) / 2.0
        return self._with_steps(2.0 * np.spacing(middles.astype(np.float32)).astype(np.float64))

    def _with_steps(self, half: Array) -> tuple[Array, Array]:
        low, high = self._ends
        middles = (self.edges[1:] + self.edges[:-1]) / 2.0
        starts = np.arange(len(low), dtype=np.float64)
        x = np.concatenate([starts, middles - half, middles + half, starts + 1.0])
        values = np.concatenate([low, self.values, self.values, high])
        order = np.lexsort((values, x))
        return x[order], values[order]


def _inverse(x: Array, values: Array, wanted: Array, side: Literal["left", "right"]) -> Array:
    """The first ("left") or last ("right") point at which a function with these knots has each wanted value."""
    after = np.searchsorted(values, wanted, side).clip(1, len(values) - 1)
    rise = values[after] - values[after - 1]
    at_end = np.full(len(wanted), float(side == "right"))
    part = np.divide(wanted - values[after - 1], rise, where=rise > 0.0, out=at_end).clip(0.0, 1.0)
    inverse: Array = x[after - 1] + part * (x[after] - x[after - 1])
    return inverse
