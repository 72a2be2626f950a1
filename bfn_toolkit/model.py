"""The model: the interface that losses and samplers use, and a wrapper around a model.

A model is a family with an output distribution p_O(x | theta; t), which may come from a network
(:class:`~bfn_toolkit.BFN`), a formula (:class:`~bfn_toolkit.Oracle`) or another model (:class:`ModelWrapper`).

Conditions travel as one mapping from names to tensors with one row per example.  They become keywords only at the call
of the network, so a condition may have any name.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Protocol, TypeAlias

import torch
from torch import Tensor, nn

from bfn_toolkit.families import Family
from bfn_toolkit.outputs import Output
from bfn_toolkit.shapes import Mask, Times

Condition: TypeAlias = Mapping[str, Tensor]


class Model(Protocol):
    """Family with an output distribution.  All members but ``family`` and ``output`` have defaults."""

    family: Family[Any]

    def output(
        self,
        params: Any,
        t: Times,
        condition: Condition | None = None,
        *,
        mask: Mask | None = None,
        previous: Output | None = None,
    ) -> Output:
        """Output distribution p_O(. | theta; t).

        A model that reads neither a mask nor the last output may leave out these two: they are passed only if there is
        one.

        Arguments:
            params: Beliefs theta.
            t: Time, with shape () or (B,); (B, *site) or by part where sites differ.
            condition: Conditions by name, each with B rows.
            mask: True where there is data; None if nothing is missing.
            previous: The output of the evaluation before, for self-conditioning.
        """

    @property
    def conditions(self) -> Collection[str] | None:
        """Names of the conditions that the model reads; None if it does not say."""
        return None

    @property
    def self_conditioning(self) -> bool:
        """Whether the model reads the output of the evaluation before."""
        return False

    def check_condition(self, condition: Condition | None, rows: int) -> None:
        """Checks the conditions for a batch of ``rows`` rows, at a public entry.

        Raises:
            ConfigError: If one is unknown, missing, of another length or outside its domain.
        """
        return None  # noqa: RET501 - without it the verb would be abstract

    def finite_guard(self) -> AbstractContextManager[Callable[[], bool]]:
        """Scope that yields a function: whether all numbers that the network has returned in the scope are finite."""
        return nullcontext(lambda: True)

    def parameters(self, recurse: bool = True) -> Iterator[nn.Parameter]:
        """The weights, whose device and dtype the beliefs take; none for a formula."""
        return iter(())


class ModelWrapper(nn.Module, Model):
    """Model that delegates everything to another model: derive from it and override :meth:`output`.

    Arguments:
        model: The wrapped model.
    """

    def __init__(self, model: Model) -> None:
        nn.Module.__init__(self)  # super() could be the __init__ of a sibling base class, which needs a family
        self.family = model.family
        self.model = model

    def output(self, params: Any, t: Times, condition: Condition | None = None, **told: Any) -> Output:
        """Output distribution of the wrapped model; ``told`` are mask and previous output, where there are any."""
        return self.model.output(params, t, condition, **told)

    @property
    def conditions(self) -> Collection[str] | None:
        """See :attr:`Model.conditions`."""
        return self.model.conditions

    @property
    def self_conditioning(self) -> bool:
        """See :attr:`Model.self_conditioning`."""
        return self.model.self_conditioning

    def check_condition(self, condition: Condition | None, rows: int) -> None:
        """See :meth:`Model.check_condition`."""
        self.model.check_condition(condition, rows)

    def finite_guard(self) -> AbstractContextManager[Callable[[], bool]]:
        """See :meth:`Model.finite_guard`."""
        return self.model.finite_guard()


def looks_at_values(model: object, device: torch.device) -> bool:
    """Whether checks read the values of tensors on a device; not in a step of a training, which would wait for it."""
    return device.type == "cpu" or not (getattr(model, "training", False) and torch.is_grad_enabled())


def dtype_of_beliefs(model: Model) -> torch.dtype | None:
    """The dtype in which a model works: float64 if all its real weights are, else float32; None without weights.

    A network may have some weights in other dtypes, such as complex ones or a layer in float64.  Half precision is
    returned if there is nothing finer.
    """
    found = {weight.dtype for weight in model.parameters() if weight.is_floating_point()}
    if not found:
        return None
    fine = found & {torch.float32, torch.float64}
    if not fine:
        return max(found, key=lambda dtype: torch.finfo(dtype).bits)
    return torch.float64 if found == {torch.float64} else torch.float32


def readable(model: Model, condition: Condition) -> dict[str, Tensor]:
    """The conditions that a model reads, of those that come with data."""
    names = model.conditions
    return {name: value for name, value in condition.items() if names is None or name in names}


def rows_of_condition(condition: Condition | None, index: Tensor) -> dict[str, Tensor] | None:
    """Rows ``index`` of each condition."""
    return None if condition is None else {name: value[index.to(value.device)] for name, value in condition.items()}
