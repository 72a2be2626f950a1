"""The model: what losses and samplers ask, and a model around a model.

A model is a family with an output distribution, p_O(x | theta; t), from wherever it comes: a network
(:class:`~bfn_toolkit.BFN`), a formula (:class:`~bfn_toolkit.Oracle`), or another model, led somewhere
(:class:`ModelWrapper`).

Conditions travel as one mapping, from their names to tensors whose rows are those of the batch, and become keywords at
the call of the network alone.  So a condition may have any name.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Protocol, TypeAlias

import torch
from torch import Tensor, nn

from bfn_toolkit.families import Family
from bfn_toolkit.outputs import Output

Condition: TypeAlias = Mapping[str, Tensor]


class Model(Protocol):
    """A family with an output distribution.  All but these two have defaults, for those who inherit them."""

    family: Family[Any]

    def output(self, params: Any, t: Tensor, condition: Condition | None = None) -> Output:
        """Output distribution p_O(. | theta; t), with t of shape (B,) or ()."""

    @property
    def conditions(self) -> Collection[str] | None:
        """Names of the conditions that the model reads; None where it does not say."""
        return None

    def check_condition(self, condition: Condition | None, rows: int) -> None:
        """Checks conditions for a batch of so many rows, at a public entry.

        Raises:
            ConfigError: If one is unknown, missing, of another length or outside its domain.
        """
        return None  # noqa: RET501 - without it the verb would be abstract

    def finite_guard(self) -> AbstractContextManager[Callable[[], bool]]:
        """Scope whose value tells, when called, whether all numbers that the network has returned in it are finite."""
        return nullcontext(lambda: True)

    def halve_micro_batch(self) -> bool:
        """Halves the rows that the network sees together; returns False where that is impossible."""
        return False

    def parameters(self, recurse: bool = True) -> Iterator[nn.Parameter]:
        """The weights, which say where beliefs live and in which precision; none for a formula."""
        return iter(())


class ModelWrapper(nn.Module, Model):
    """A model around a model, to which it delegates everything: derive from it, and override :meth:`output`.

    Arguments:
        model: The model inside.
    """

    def __init__(self, model: Model) -> None:
        nn.Module.__init__(self)  # and not that of a class beside this one, which would ask for a family
        self.family = model.family
        self.model = model

    def output(self, params: Any, t: Tensor, condition: Condition | None = None) -> Output:
        """Output distribution of the model inside."""
        return self.model.output(params, t, condition)

    @property
    def conditions(self) -> Collection[str] | None:
        """See :attr:`Model.conditions`."""
        return self.model.conditions

    def check_condition(self, condition: Condition | None, rows: int) -> None:
        """See :meth:`Model.check_condition`."""
        self.model.check_condition(condition, rows)

    def finite_guard(self) -> AbstractContextManager[Callable[[], bool]]:
        """See :meth:`Model.finite_guard`."""
        return self.model.finite_guard()

    def halve_micro_batch(self) -> bool:
        """See :meth:`Model.halve_micro_batch`."""
        return self.model.halve_micro_batch()


def readable(model: Model, condition: Condition) -> dict[str, Tensor]:
    """The conditions that a model reads, of those that come with data."""
    names = model.conditions
    return {name: value for name, value in condition.items() if names is None or name in names}


def rows_of_condition(condition: Condition | None, index: Tensor) -> dict[str, Tensor] | None:
    """The rows with these numbers, of each condition."""
    return None if condition is None else {name: value[index.to(value.device)] for name, value in condition.items()}


def split_condition(condition: Condition | None, size: int, pieces: int) -> list[dict[str, Tensor]]:
    """Conditions of consecutive pieces of so many rows."""
    columns = {name: torch.split(value, size) for name, value in (condition or {}).items()}
    return [{name: column[i] for name, column in columns.items()} for i in range(pieces)]
