"""Hypothesis strategies: small, composable, shrinking towards the simplest case.

A :class:`Case` determines an example of any family: the number of rows, the accuracies of the messages that led to the
beliefs, and a seed for the data and the messages.  Beliefs come from actual updates, so a flow can produce them, and a
family needs to declare nothing.
"""

from __future__ import annotations

import math
import os
from typing import Any

import attrs
import hypothesis
import torch
from hypothesis import HealthCheck, strategies as st

from bfn_toolkit.families import Family, SteppedFamily
from bfn_toolkit.shapes import Data
from bfn_toolkit.testing.draws import seeded


def register_profiles() -> None:
    """Registers the profiles "dev" and "ci", and loads "ci" if the environment variable CI is set.

    Both have no deadline, because torch's first call is slow; "ci" is derandomised.
    """
    quiet = [HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much]
    for name, derandomize in (("dev", False), ("ci", True)):
        hypothesis.settings.register_profile(name, deadline=None, suppress_health_check=quiet, derandomize=derandomize)
    hypothesis.settings.load_profile("ci" if os.environ.get("CI") else "dev")


def accuracies(low: float = 1e-3, high: float = 1e3) -> st.SearchStrategy[float]:
    """Accuracies, log-uniform in [low, high], shrinking to 1."""
    return st.floats(math.log10(low), math.log10(high)).map(lambda power: 10.0**power)


def times() -> st.SearchStrategy[float]:
    """Times in [0, 1], including both ends."""
    return st.one_of(st.sampled_from([0.0, 1.0, 0.5, 2.0**-24, 1e-6, 1.0 - 2.0**-24]), st.floats(0.0, 1.0))


@attrs.frozen
class Case:
    """Example of a family, as the numbers that determine it.

    Arguments:
        rows: Number of examples B.
        accuracies: Accuracies of the messages that led from the prior to the beliefs.
        seed: Seed of the data and the messages.
    """

    rows: int = 1
    accuracies: tuple[float, ...] = ()
    seed: int = 0

    def data(self, family: Family[Any]) -> Data:
        """Data of the family, drawn from its prior; real numbers are in float64."""
        return data(family, self.rows, self.seed)

    def beliefs(self, family: Family[Any]) -> Any:
        """Beliefs about the data after the messages."""
        x, params = self.data(family), family.prior(self.rows, dtype=torch.float64)
        for i, accuracy in enumerate(self.accuracies):
            params = family.update(params, self.message(family, x, accuracy, i), self.alpha(family, accuracy))
        return params

    def message(self, family: Family[Any], x: Data, accuracy: float, number: int) -> Data:
        """Message about x, seeded by its index ``number``."""
        with seeded(self.seed, "message", number):
            return family.sender(x, self.alpha(family, accuracy)).sample()

    def alpha(self, family: Family[Any], accuracy: float) -> Any:
        """The accuracy, or the nearest one that the family has: see :func:`accuracy_near`."""
        return accuracy_near(family, self.rows, accuracy)


def is_stepped(family: Any) -> bool:
    """Whether the family, or a part of it, has a fixed table of messages."""
    return isinstance(family, SteppedFamily) or (isinstance(family, Family) and family.n_steps is not None)


def accuracy_near(family: Family[Any], rows: int, accuracy: float) -> Any:
    """An accuracy that the family has, for all rows: (B,), or a mapping by part for a product with a table.

    Arguments:
        family: The family.
        rows: Number of rows B.
        accuracy: The accuracy that is asked for.  A family with a table of messages has only those of the table, and
            gets the nearest one.
    """
    if is_stepped(family) and family.has_parts:
        return {name: accuracy_near(part, rows, accuracy) for name, part in family.parts.items()}
    if is_stepped(family):
        grid = family.times(family.n_steps or 1)
        table = family.accuracy(grid[:-1], grid[1:])
        nearest = table.argmax() if math.isinf(accuracy) else (table.log() - math.log(accuracy)).abs().argmin()
        return table[nearest].expand(rows)
    return torch.full((rows,), accuracy, dtype=torch.float64)


def data(family: Family[Any], rows: int, seed: int = 0) -> Data:
    """Data of a family with shape (rows, *site): draws of its input distribution before any message."""
    with seeded(seed, "data"):
        return family.input(family.prior(rows, dtype=torch.float64)).sample()


def cases(messages: int = 3) -> st.SearchStrategy[Case]:
    """Cases of up to four rows and ``messages`` messages."""
    return st.builds(
        Case,
        rows=st.integers(1, 4),
        accuracies=st.lists(accuracies(), max_size=messages).map(tuple),
        seed=st.integers(0, 2**16),
    )
