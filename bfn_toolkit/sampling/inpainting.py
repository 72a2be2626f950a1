r"""Inpainting: samples with known values at some sites.

A sampler calls a model for its output distribution and moves the beliefs towards it.  Here the output is *clamped*: at
the known sites all of its probability is on the known values,

.. math:: p_O(x_d = \bar x_d \mid \theta; t) = 1 \text{ for known } d .

Then the messages about known sites are messages about these values, and the beliefs about them follow the flow

.. math:: \theta_d \sim p_F(\cdot \mid \bar x_d; t)

independently of the other sites; this is exact under every sampler that is exact for a constant output.  The network
sees such beliefs in training, and the last output reproduces the values bit-identically.  This holds for every family,
because a family treats all sites alike.

The other sites are drawn from the network's output under the messages so far.  Early draws, made before the known sites
carry information, are not revised.  So this *replacement* follows the conditional distribution only if sites are
independent, and more steps do not help; :mod:`~bfn_toolkit.guidance.particle_filter` corrects this.
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
from bfn_toolkit.families import Family, check_present
from bfn_toolkit.model import Condition, Model, ModelWrapper
from bfn_toolkit.outputs import Delta, Finite, Kernel, Output
from bfn_toolkit.product_family import JointOutput
from bfn_toolkit.shapes import Data, Times, as_tensor, expand, map_data

Given: TypeAlias = Any  # a pair (values, mask); for data of several parts a mapping from some parts to pairs


@attrs.frozen(eq=False)
class Clamped:
    """Output distribution with all of its probability on the known values at the known sites.

    Arguments:
        output: Distribution of the other sites.
        values: Values, with shape (B, *site), arbitrary where the mask is false; a mapping from some parts for data of
            several parts.
        mask: True where a value is known, of the same form.
    """

    output: Output
    values: Data
    mask: Data

    def __getitem__(self, name: str) -> Output:
        """The marginal of a part, for dependent parts."""
        part = self.output[name]  # type: ignore[index]
        return clamp(part, self.values[name], self.mask[name]) if name in self.mask else part

    def _with_values(self, other: Data, values: Data | None = None) -> Data:
        if isinstance(other, Mapping):
            known = {name: Clamped(self.output, self.values[name], mask) for name, mask in self.mask.items()}
            return {name: known[name]._with_values(part) if name in known else part for name, part in other.items()}
        values = self.values if values is None else values
        return torch.where(expand(self.mask, other), values.to(other.dtype), other)

    @property
    def mean(self) -> Data:
        """E[x], which is the known value at known sites."""
        return self._with_values(self.output.mean)

    @property
    def mode(self) -> Data:
        """The mode of the other sites, and the values."""
        return self._with_values(self.output.mode)

    def sample(self) -> Data:
        """A draw of the other sites, and the values."""
        return self._with_values(self.output.sample())

    def expect(self, function: Callable[[Tensor], Tensor]) -> Tensor:
        """E[function(x)], which is the function of the known value at known sites."""
        expected = self.output.expect(function)
        values = self._with_values(self.output.mode)  # in the function's domain at every site
        held: Tensor = self._with_values(expected, function(values))
        return held

    def log_prob(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Refused: the distribution has no density at known sites.

        Raises:
            ConfigError: Always.
        """
        raise ConfigError(
            f"a clamped {type(self.output).__name__} has no log-probability; call log_prob of the output inside"
        )

    def mix(self, kernel: Kernel) -> Distribution:
        """Refused, for the same reason.

        Raises:
            ConfigError: Always.
        """
        raise ConfigError(f"a clamped {type(self.output).__name__} has no receiver; call mix of the output inside")


@singledispatch
def clamp(output: Any, values: Data, mask: Data) -> Output:
    """Output distribution with all of its probability on the values where the mask is true.

    The result is a :class:`Clamped` output, unless the output's own class can represent it.  A plugin registers a
    faster form for its own output with ``clamp.register``.

    Arguments:
        output: Output distribution of all sites.
        values: Values, with shape (B, *site); a mapping by part for data of several parts.
        mask: True where a value is known, with the same shape.
    """
    return Clamped(output, values, mask)


@clamp.register
def _(output: Delta, values: Tensor, mask: Tensor) -> Output:
    return attrs.evolve(output, value=torch.where(mask, values.to(output.value.dtype), output.value))


@clamp.register
def _(output: Finite, values: Tensor, mask: Tensor) -> Output:
    if output.support is not None:  # known values need not be in the support
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
        values: Values, with shape (B, *site), 0 where unknown; for data of several parts a mapping from some of the
            parts to tensors.
        mask: True where a value is known, of the same form.
    """

    values: Data
    mask: Data

    @classmethod
    def of(cls, family: Family[Any], given: Given, rows: int) -> Observed:
        """Checks the known values of a user and broadcasts them.

        Arguments:
            family: Family of the data.
            given: The pair ``(values, mask)``, each with shape (B, *site), or (*site) if all examples share it; for
                data of several parts a mapping from the names of some parts to pairs.
            rows: Number of examples B.
        Raises:
            ConfigError: If ``given`` is malformed, or a shape or dtype does not fit.
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
        """Observed values of the rows ``index``, on the device of ``index``."""

        def chosen(part: Tensor) -> Tensor:
            return part[index.to(part.device)].to(index.device)

        return Observed(map_data(chosen, self.values), map_data(chosen, self.mask))

    def clamp(self, output: Output) -> Output:
        """The output with its known sites clamped to the values."""
        return clamp(output, self.values, self.mask)


def _form(given: object) -> str:
    return f"a {type(given).__name__}"


def _checked(family: Family[Any], given: Given, rows: int, name: str) -> tuple[Tensor, Tensor]:
    """Values and mask of one part, with shape (B, *site)."""
    which, site = f"known['{name}']" if name else "known", family.network_io.site_shape
    if not isinstance(given, (tuple, list)) or len(given) != 2:
        raise ConfigError(f"{which} must be a pair of tensors, (values, mask), found {_form(given)}")
    values, mask = (as_tensor(f"the {word} of {which}", v) for word, v in zip(("values", "mask"), given, strict=True))
    if mask.dtype != torch.bool:
        raise ConfigError(f"the mask of {which} must be of torch.bool, True where a value is known, found {mask.dtype}")
    for word, tensor in (("values", values), ("mask", mask)):
        if tuple(tensor.shape) not in {site, (rows, *site)}:
            raise ConfigError(
                f"the {word} of {which} must have shape {(rows, *site)}, or {site} for all examples alike, "
                f"found {tuple(tensor.shape)}"
            )
    values, mask = values.expand(rows, *site), mask.to(values.device).expand(rows, *site)
    if values.is_floating_point() == family.is_discrete:
        kind = "classes as torch.int64" if family.is_discrete else "floating-point numbers"
        raise ConfigError(f"the values of {which} must be {kind}, found {values.dtype}")
    try:
        check_present(family, values, mask)
    except DataError as error:
        raise DataError(f"{which}: {error}") from error
    return torch.where(mask, values, 0), mask


class InpaintedModel(ModelWrapper):
    """Model whose outputs are clamped to observed values.

    Samplers use it like any model; :meth:`~bfn_toolkit.FlowModel.sample` builds one from its argument ``known``.

    Arguments:
        model: The model for the other sites.
        observed: The values, one row per sample.
    """

    def __init__(self, model: Model, observed: Observed) -> None:
        super().__init__(model)
        self.observed = observed

    def output(self, params: Any, t: Times, condition: Condition | None = None, **told: Any) -> Output:
        """The model's output, clamped."""
        return self.observed.clamp(self.model.output(params, t, condition, **told))
