"""Curves of a training as charts: the measurements read in one pass, smoothed, with the raw ones pale behind.

A chart is a few polylines in the coordinates of its own box, which the template writes as SVG.
"""

from __future__ import annotations

import math
from array import array
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeAlias

import attrs
import numpy as np
from numpy.typing import NDArray

from bfn_toolkit.reports.page.blocks import Chart, Line

Points: TypeAlias = NDArray[np.float64]  # (2, N): x and y
Ends: TypeAlias = tuple[float, float]

WIDTH, HEIGHT = 320.0, 170.0  # of the area of a chart, in its own units
MOST = 600  # largest number of points of a line
WINDOW = 40  # a smoothed curve is a mean over one in so many of its points
TRIM = 0.01  # share of the raw points beyond each end that may leave the chart
LOGARITHMIC = 10.0  # ratio of the ends of an axis from which it has powers

TITLES = {
    "loss": "loss",
    "valid_loss": "validation loss",
    "valid_nats": "bound on the validation rows, in nats",
    "grad_norm": "norm of the gradient, before clipping",
    "lr": "learning rate",
}


def read_curves(metrics: Iterable[Mapping[str, Any]]) -> dict[str, Points]:
    """Steps and values (2, N) of each measurement, NaN where they are not finite; a million lines are read one by one.

    Arguments:
        metrics: The lines of ``metrics.jsonl``.
    """
    found = {key: array("d") for key in (*TITLES, "valid_loss_stderr")}
    for line in metrics:
        for key, numbers in found.items():
            if key in line:
                value = line[key]
                numbers.extend((line["step"], math.nan if value is None else value))
    return {key: np.array(numbers).reshape(-1, 2).T for key, numbers in found.items() if numbers}


def smoothed(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Means over a window around each value, which is shorter at the ends; what is not finite does not count."""
    half = max(1, len(values) // WINDOW) // 2
    known = np.isfinite(values)
    sums = np.concatenate([[0.0], np.cumsum(np.where(known, values, 0.0))])
    counts = np.concatenate([[0], np.cumsum(known)])
    place = np.arange(len(values))
    reach = np.minimum(half, np.minimum(place, len(values) - 1 - place))
    low, high = place - reach, place + reach + 1
    with np.errstate(invalid="ignore"):
        means: NDArray[np.float64] = (sums[high] - sums[low]) / (counts[high] - counts[low])
    return means


def thinned(points: Points) -> Points:
    """At most :data:`MOST` points, among them the lowest and the highest of each stretch, so that no peak is lost."""
    points = points[:, np.isfinite(points).all(0)]
    n = points.shape[1]
    if n <= MOST:
        return points
    stretches = np.array_split(np.arange(n), MOST // 2)
    values = points[1]
    kept = {stretch[pick(values[stretch])] for stretch in stretches for pick in (np.argmin, np.argmax)}
    return points[:, sorted(kept)]


@attrs.frozen
class Axis:
    """One direction of a chart.

    Arguments:
        ends: Smallest and largest number.
        length: Length in the units of the chart.
        is_log: Whether equal ratios have equal lengths.
        is_down: Whether it runs from the bottom to the top of the page.
    """

    ends: Ends
    length: float
    is_log: bool = False
    is_down: bool = False

    @classmethod
    def of(cls, ends: Ends, length: float, *, room: float = 0.0, is_down: bool = False, log: bool = True) -> Axis:
        """The axis of numbers between two ends, with some room beyond them, as a share of its length."""
        low, high = ends
        is_log = log and low > 0.0 and high > LOGARITHMIC * low
        if is_log:
            more = (high / low) ** room
            return cls((low / more, high * more), length, True, is_down)
        more = room * (high - low) if high > low else 0.5 * abs(low) or 0.5
        return cls((low - more, high + more), length, False, is_down)

    def place(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        """Places of numbers along the axis."""
        low, high = (math.log(end) if self.is_log else end for end in self.ends)
        with np.errstate(invalid="ignore", divide="ignore"):
            share = ((np.log(values) if self.is_log else values) - low) / (high - low)
        return self.length * (1.0 - share if self.is_down else share)

    def ticks(self, most: int = 6) -> list[tuple[float, str]]:
        """Places and labels of round numbers."""
        numbers = _powers(*self.ends) if self.is_log else _round_numbers(*self.ends, most)
        places = self.place(np.array(numbers, np.float64)).tolist()
        return [(round(place, 1), _label(number)) for place, number in zip(places, numbers, strict=True)]


def _round_numbers(low: float, high: float, most: int) -> list[float]:
    """Multiples of 1, 2 or 5 times a power of ten, at most so many."""
    size = 10.0 ** math.floor(math.log10((high - low) / most))
    step = next(size * factor for factor in (1.0, 2.0, 5.0, 10.0) if (high - low) / (size * factor) <= most)
    return [step * i for i in range(math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9) + 1)]


def _powers(low: float, high: float) -> list[float]:
    """Powers of ten, and where there are few, also 2 and 5 times these."""
    exponents = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    every = max(1, (exponents.stop - exponents.start) // 5)
    for factors in ((1.0,), (1.0, 3.0), (1.0, 2.0, 5.0)):
        found = [factor * 10.0**k for k in exponents[::every] for factor in factors]
        found = [number for number in found if low <= number <= high]
        if len(found) >= 3:
            break
    return found


def _label(number: float) -> str:
    if abs(number) >= 1e4 and number % 1e3 == 0.0:
        return f"{number / 1e6:g} M" if abs(number) >= 1e6 else f"{number / 1e3:g} k"
    if number == 0.0 or abs(number) >= 1e-3:
        return f"{round(number, 9):,g}".replace("-", "\N{MINUS SIGN}")
    return f"{number:.0e}".replace("e-0", "e-").replace("e-", "e\N{MINUS SIGN}")


@attrs.frozen(eq=False)
class Curve:
    """A line of a chart, in its own numbers.

    Arguments:
        name: Its name in the legend; "" for none.
        points: Its points (2, N).
        colour: Number of its colour.
        style: See :class:`~bfn_toolkit.reports.page.blocks.Line`.
    """

    name: str
    points: Points
    colour: int = 0
    style: str = "line"


def chart(
    title: str, curves: Sequence[Curve], x_label: str = "step", *, log_x: bool = False, log_y: bool = True
) -> Chart | None:
    """Curves in one pair of axes; None if no point is finite."""
    curves = [attrs.evolve(curve, points=thinned(curve.points)) for curve in curves]
    curves = [curve for curve in curves if curve.points.size]
    if not curves:
        return None
    lows, highs = zip(*(_reach(curve) for curve in curves), strict=True)
    steps = np.concatenate([curve.points[0] for curve in curves])
    x = Axis.of((float(steps.min()), float(steps.max())), WIDTH, log=log_x, room=0.0)
    y = Axis.of((min(lows), max(highs)), HEIGHT, room=0.06, is_down=True, log=log_y)
    lines = [_line(curve, x, y) for curve in curves]
    return Chart(title, lines, x.ticks(4), y.ticks(), x_label)


def _reach(curve: Curve) -> Ends:
    """The ends of the numbers that have to be seen."""
    values = curve.points[1]
    if curve.style == "raw":
        low, high = np.quantile(values, [TRIM, 1.0 - TRIM])
        return float(low), float(high)
    return float(values.min()), float(values.max())


def _line(curve: Curve, x: Axis, y: Axis) -> Line:
    pairs = np.stack([x.place(curve.points[0]), y.place(curve.points[1])], 1)
    pairs = pairs[np.isfinite(pairs).all(1)].clip(-1e4, 1e4).round(1)
    places = [(u, v) for u, v in pairs.tolist()]
    dots = places if curve.style == "dots" or len(places) == 1 else []
    return Line(curve.name, " ".join(f"{u:g},{v:g}" for u, v in places), curve.colour, curve.style, dots)


def training_charts(curves: Mapping[str, Points]) -> list[Chart]:
    """Charts of one training: loss with validation, gradient norm, learning rate."""
    loss = _with_raw(curves, "loss", "training")
    if "valid_loss" in curves:
        loss.append(Curve("validation", curves["valid_loss"], 1, "dots"))
    charts = [chart(TITLES["loss"], loss)]
    if "valid_nats" in curves:
        charts.append(chart(TITLES["valid_nats"], [Curve("", curves["valid_nats"], 1, "dots")]))
    charts.append(chart(TITLES["grad_norm"], _with_raw(curves, "grad_norm")))
    if "lr" in curves:
        charts.append(chart(TITLES["lr"], [Curve("", curves["lr"], 2)], log_y=False))
    return [one for one in charts if one is not None]


def _with_raw(curves: Mapping[str, Points], key: str, name: str = "") -> list[Curve]:
    """A measurement smoothed, and as it was measured behind it."""
    if key not in curves:
        return []
    steps, values = curves[key]
    return [Curve("", curves[key], 0, "raw"), Curve(name, np.stack([steps, smoothed(values)]), 0)]


def compared_charts(runs: Mapping[str, Mapping[str, Points]]) -> list[Chart]:
    """Charts of several trainings, a colour for each."""
    charts = []
    for key, title in TITLES.items():
        lines = []
        for i, (name, curves) in enumerate(runs.items()):
            if key in curves:
                steps, values = curves[key]
                is_valid = key.startswith("valid")
                points = curves[key] if is_valid or key == "lr" else np.stack([steps, smoothed(values)])
                lines.append(Curve(name, points, i, "dots" if is_valid else "line"))
        charts.append(chart(title, lines, log_y=key != "lr"))
    return [one for one in charts if one is not None]
