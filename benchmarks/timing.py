"""Ratios of CPU time that hold on a busy machine.

All variants run in one process on one thread.  Each round visits all of them, in an order of its own, and divides each
time by the base's time of the same round: what slows the machine for a while slows both.  The figure is the median of
these ratios over the rounds, with a bootstrap interval of the median.
"""

from __future__ import annotations

import ctypes
import gc
import random
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TypeVar

RESAMPLES = 2000
V = TypeVar("V")


@dataclass(frozen=True)
class Ratio:
    """Median of paired ratios, and its 95 % interval."""

    value: float
    low: float
    high: float

    def scaled(self, factor: float) -> Ratio:
        """The same in another unit."""
        return Ratio(self.value * factor, self.low * factor, self.high * factor)


@dataclass(frozen=True)
class Variant:
    """One thing to time.

    Arguments:
        run: What to run.
        repeats: How often in a visit, so that a visit is long against the clock.
        units: How many things of the base's kind one run does; its time is divided by it.
    """

    run: Callable[[], object]
    repeats: int = 1
    units: int = 1


def keep_pages() -> None:
    """Has glibc keep freed memory: else some variants pay for page faults, by the luck of what lies atop the heap."""
    try:
        libc = ctypes.CDLL(None)
        libc.mallopt(-1, 2**31 - 1)  # M_TRIM_THRESHOLD
        libc.mallopt(-3, 2**25)  # M_MMAP_THRESHOLD
    except (OSError, AttributeError):  # another C library
        return


def median_ratio(times: list[float], base: list[float], seed: int = 0) -> Ratio:
    """Median over the rounds of time / base, with its bootstrap interval."""
    ratios = [a / b for a, b in zip(times, base, strict=True)]
    draw = random.Random(seed)
    medians = sorted(statistics.median(draw.choices(ratios, k=len(ratios))) for _ in range(RESAMPLES))
    return Ratio(statistics.median(ratios), medians[int(0.025 * RESAMPLES)], medians[int(0.975 * RESAMPLES)])


def process_time(variant: Variant) -> float:
    """CPU nanoseconds of this process for one unit."""
    start = time.process_time_ns()
    for _ in range(variant.repeats):
        variant.run()
    return (time.process_time_ns() - start) / (variant.repeats * variant.units)


def interleave(
    variants: Mapping[str, V],
    rounds: int,
    *,
    clock: Callable[[V], float],
    warm_up: int = 3,
    seed: int = 0,
) -> dict[str, list[float]]:
    """Time of each variant in each round, as the clock has it."""
    order, shuffle = list(variants), random.Random(seed)
    times: dict[str, list[float]] = {name: [] for name in order}
    for _ in range(warm_up):
        for name in order:
            clock(variants[name])
    gc.collect()
    gc.disable()  # a collection would fall on whichever variant is running
    try:
        for _ in range(rounds):
            shuffle.shuffle(order)
            for name in order:
                times[name].append(clock(variants[name]))
            gc.collect(0)
    finally:
        gc.enable()
    return times


def ratios(times: Mapping[str, list[float]], base: str) -> dict[str, Ratio]:
    """Ratio of every variant to the base."""
    return {name: median_ratio(values, times[base]) for name, values in times.items()}
