r"""Known parts: samples some of whose sites are given.

A sampler asks a model for its output distribution, and makes beliefs that tend to what it is told.  So where the output
is *pinned*, all of its probability on the given values at the known sites,

.. math:: p_O(x_d = \bar x_d \mid \theta; t) = 1 \text{ for known } d ,

the messages about known sites are messages about the values, and the beliefs about them follow the flow

.. math:: \theta_d \sim p_F(\cdot \mid \bar x_d; t)

on a path of their own: exactly, under every sampler that is exact for a constant output.  The network sees such beliefs
in training, and the last output gives the values to the bit.  That holds for every family, because a family's verbs
are those of all sites alike.

The other sites are drawn from what the network expects given the messages so far.  What they became before the known
sites told enough is not taken back, so that this *replacement* follows the conditional distribution only where sites
are independent, and more steps do not mend it; :mod:`~bfn_toolkit.guidance.particle_filter` does.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import singledispatch
from typing import Any, TypeAlias

import attrs
import torch
from torch import Tensor
from torch.distributions import Distribution

from bfn_toolkit.errors import ConfigError, DataError
from bfn_toolkit.families import Family
from bfn_toolkit.model import Condition, Model, ModelWrapper
from bfn_toolkit.outputs import Delta, Finite, Kernel, Output
from bfn_toolkit.product_family import JointOutput
from bfn_toolkit.randomness import seeded
from bfn_toolkit.shapes import Data, expand, map_data

Given: TypeAlias = Any  # values and mask; for data of several parts a mapping from some of them to such pairs


@attrs.frozen(eq=False)
class Clamped:
    """An output distribution with all of its probability on given values at some sites.

    Arguments:
        output: The distribution of the other sites.
        values: The values, with shape (B, *site), arbitrary where the mask is false.
        mask: Where the values are known, with the same shape.
    """

    output: Output
    values: Tensor
    mask: Tensor

    def _with_values(self, other: Tensor, values: Tensor | None = None) -> Tensor:
        values = self.values if values is None else values
        return torch.where(expand(self.mask, other), values.to(other.dtype), other)

    @property
    def mean(self) -> Tensor:
        """E[x]: the values where they are known."""
        return self._with_values(self.output.mean)

    @property
    def mode(self) -> Tensor:
        """The mode of the other sites, and the values."""
        return self._with_values(self.output.mode)

    def sample(self) -> Tensor:
        """A draw of the other sites, and the values."""
        return self._with_values(self.output.sample())

    def expect(self, function: Callable[[Tensor], Tensor]) -> Tensor:
        """E[function(x)]: the function at the values where they are known."""
        expected = self.output.expect(function)
        values = self._with_values(self.output.mode)  # in the function's domain at every site
        return self._with_values(expected, function(values))

    def log_prob(self, x: Tensor) -> Tensor:
        """Not defined: the distribution has no density at known sites.

        Raises:
            ConfigError: Always.
        """
        raise ConfigError(f"a pinned {type(self.output).__name__} has no log-probability; ask the output itself for it")

    def mix(self, kernel: Kernel) -> Distribution:
        """Not defined, for the same reason.

        Raises:
            ConfigError: Always.
        """
        raise ConfigError(f"a pinned {type(self.output).__name__} has no receiver; ask the output itself for it")


@singledispatch
def clamp(output: Any, values: Data, mask: Data) -> Output:
    """The output distribution with all of its probability on the values where the mask is true.

    A :class:`Clamped` one, unless the output's own form can say it; a plugin registers what is faster for an output of
    its own by ``clamp.register``.

    Arguments:
        output: Output distribution of all sites.
        values: The values, with shape (B, *site); by the names of the parts for data of several.
        mask: Where they are known, of the same shape.
    """
    return Clamped(output, values, mask)


@clamp.register
def _(output: Delta, values: Tensor, mask: Tensor) -> Output:
    return attrs.evolve(output, value=torch.where(mask, values.to(output.value.dtype), output.value))


@clamp.register
def _(output: Finite, values: Tensor, mask: Tensor) -> Output:
    if output.support is not None:  # whose values need not be those that are known
        return Clamped(output, values, mask)
    index = torch.where(mask, values, 0).unsqueeze(-1)
    certain = torch.full_like(output.logits, -torch.inf).scatter_(-1, index, 0.0)
    return Finite(None, torch.where(mask.unsqueeze(-1), certain, output.logits))


@clamp.register
def _(output: JointOutput, values: Data, mask: Data) -> Output:
    return JointOutput(
        {name: clamp(part, values[name], mask[name]) if name in mask else part for name, part in output.parts.items()}
    )


@attrs.frozen(eq=False)
class Observed:
    """Values at some of the sites of every example.

    Arguments:
        values: Values, with shape (B, *site), 0 where they are not known; for data of several parts a mapping from some
            of the parts to such tensors.
        mask: Where they are known, of the same form.
    """

    values: Data
    mask: Data

    @classmethod
    def of(cls, family: Family[Any], given: Given, rows: int) -> Observed:
        """Checks what a user gives, and broadcasts it.

        Arguments:
            family: Whose data they are.
            given: The pair ``(values, mask)``, each with shape (B, *site), or (*site) for all examples alike; for data
                of several parts a mapping from the names of some of them to such pairs.
            rows: Number of examples B.
        Raises:
            ConfigError: If it has another form, or a shape or dtype that does not fit.
            DataError: If a known value is outside the family's domain.
        """
        if isinstance(given, Observed):
            return given
        if not family.has_parts:
            return cls(*_checked(family, given, rows, ""))
        if not isinstance(given, Mapping) or not given or not given.keys() <= family.parts.keys():
            found = f"the parts {', '.join(map(str, given))}" if isinstance(given, Mapping) else _form(given)
            parts = ", ".join(family.parts)
            raise ConfigError(
                f"known must map some of the parts {parts} to pairs of values and mask, found {found or 'nothing'}; "
                f"write known={{'{next(iter(family.parts))}': (values, mask)}}"
            )
        pairs = {name: _checked(family.parts[name], pair, rows, name) for name, pair in given.items()}
        return cls({name: pair[0] for name, pair in pairs.items()}, {name: pair[1] for name, pair in pairs.items()})

    def rows(self, index: Tensor) -> Observed:
        """The examples with these numbers, on the device of the numbers."""

        def chosen(part: Tensor) -> Tensor:
            return part[index.to(part.device)].to(index.device)

        return Observed(map_data(chosen, self.values), map_data(chosen, self.mask))

    def clamp(self, output: Output) -> Output:
        """The output with the values where they are known."""
        return clamp(output, self.values, self.mask)


def _form(given: object) -> str:
    return f"a {type(given).__name__}"


def _checked(family: Family[Any], given: Given, rows: int, name: str) -> tuple[Tensor, Tensor]:
    """Values and mask of one part, with shape (B, *site)."""
    which, site = f"known['{name}']" if name else "known", family.network_io.site_shape
    if not isinstance(given, (tuple, list)) or len(given) != 2 or not all(isinstance(v, Tensor) for v in given):
        raise ConfigError(f"{which} must be a pair of tensors, (values, mask), found {_form(given)}")
    values, mask = given
    if mask.dtype != torch.bool:
        raise ConfigError(f"the mask of {which} must be of torch.bool, True where a value is known, found {mask.dtype}")
    for word, tensor in (("values", values), ("mask", mask)):
        if tuple(tensor.shape) not in {site, (rows, *site)}:
            raise ConfigError(
                f"the {word} of {which} must have shape {(rows, *site)}, or {site} for all examples alike, "
                f"found {tuple(tensor.shape)}"
            )
    values, mask = values.expand(rows, *site), mask.to(values.device).expand(rows, *site)
    with seeded("known"):  # any data of the family, to stand where nothing is known
        example = family.input(family.prior(rows)).sample().clamp(-1, 1).to(values.device)
    if values.is_floating_point() == family.is_discrete:
        kind = "classes as torch.int64" if family.is_discrete else "floating-point numbers"
        raise ConfigError(f"the values of {which} must be {kind}, found {values.dtype}")
    try:
        family.check_data(torch.where(mask, values, example.to(values.dtype)))
    except DataError as error:
        raise DataError(f"{which}: {error}") from error
    return torch.where(mask, values, 0), mask


class InpaintedModel(ModelWrapper):
    """A model with observed values: its outputs are clamped to them.

    Samplers take it for a model; :meth:`~bfn_toolkit.FlowModel.sample` makes one of its argument ``known``.

    Arguments:
        model: The model that is asked about the other sites.
        observed: The values, with as many rows as are sampled.
    """

    def __init__(self, model: Model, observed: Observed) -> None:
        super().__init__(model)
        self.observed = observed

    def output(self, params: Any, t: Tensor, condition: Condition | None = None) -> Output:
        """The model's output, clamped."""
        return self.observed.clamp(self.model.output(params, t, condition))
