"""Masks: booleans that are true where there is data.

A mask has the shape of the data, (B, *site), or of its leading axes; for data of several parts it is one tensor with
the axes that all share, or a mapping from some parts to tensors, where the others are present as a whole.  Losses and
log-densities sum over the sites that are present, and missing numbers (padding, gaps) may be anything, even NaN.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from functools import singledispatch
from typing import Any

import torch
from torch import Tensor
from torch.distributions import Distribution, Independent, kl_divergence, register_kl

from bfn_toolkit.errors import PluginError
from bfn_toolkit.shapes import Data, Mask, expand, fit


def mask_by_part(x: Data, mask: Mask | None) -> Any:
    """The mask in the form of the data: for data of several parts a mapping from each part to its mask or None."""
    if not isinstance(x, Mapping):
        return mask
    return {name: mask.get(name) if isinstance(mask, Mapping) else mask for name in x}


def mask_of(x: Data, mask: Mask | None) -> Data:
    """The mask with the shape of the data, part by part; true everywhere if there is none."""
    if isinstance(x, Mapping):
        return {name: mask_of(x[name], part) for name, part in mask_by_part(x, mask).items()}
    there = torch.ones((), dtype=torch.bool, device=x.device) if mask is None else expand(mask, x)
    return there.expand(x.shape)


def present(x: Data, mask: Mask | None) -> Data:
    """The data, with 0 where they are missing."""
    if mask is None:
        return x
    if isinstance(x, Mapping):
        return {name: present(x[name], part) for name, part in mask_by_part(x, mask).items()}
    return torch.where(expand(mask, x), x, torch.zeros((), dtype=x.dtype, device=x.device))


def free_sites(mask: Any, held: Any) -> Any:
    """A mask without the sites that are held at a time; both have the form of :func:`mask_by_part`."""
    if isinstance(mask, Mapping):
        return {name: free_sites(part, held and held[name]) for name, part in mask.items()}
    if held is None:
        return mask
    free = held < 0.0
    return free if mask is None else expand(mask, free) & expand(free, mask)


def told(verb: Callable[..., Any], *arguments: Any, **sites: Any) -> Any:
    """Calls a verb with a mask, or with held times of sites, where there are any.

    Raises:
        PluginError: If the verb does not know one of them.
    """
    there = {name: value for name, value in sites.items() if value is not None}
    if there:
        parameters = inspect.signature(verb).parameters
        missing = next((name for name in there if name not in parameters), None)
        if missing and all(parameter.kind is not parameter.VAR_KEYWORD for parameter in parameters.values()):
            name = getattr(verb, "__qualname__", type(verb).__name__)
            why, where = {
                "mask": ("the data have a mask", "missing sites, where it is false"),
                "held": ("training.known_rate is above 0", "sites whose time is held, where it is not negative"),
            }[missing]
            raise PluginError(
                f"{why}, and {name} has no argument '{missing}'; "
                f"write {name}({', '.join([*parameters, missing])}=None), and leave out the {where}"
            )
    return verb(*arguments, **there)


class Present(Distribution):
    """Distribution whose log-density is 0 at the missing sites.

    Arguments:
        base: Distribution with a log-density at each site.
        mask: True where there is data; broadcasts against the batch shape of ``base``.
    """

    arg_constraints = {}  # noqa: RUF012 - the name and form that torch prescribes

    def __init__(self, base: Distribution, mask: Tensor) -> None:
        self.base, self.mask = base, mask
        super().__init__(base.batch_shape, base.event_shape, validate_args=False)

    def expand(self, batch_shape: Sequence[int], _instance: Any = None) -> Present:
        """The same distribution for more examples."""
        return Present(self.base.expand(torch.Size(batch_shape)), self.mask)

    def log_prob(self, value: Tensor) -> Tensor:
        """Log-density of the base, and 0 at the missing sites."""
        return torch.where(self.mask, self.base.log_prob(value), 0.0)

    def sample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        """Draws of the base."""
        draws: Tensor = self.base.sample(torch.Size(sample_shape))
        return draws


@register_kl(Present, Present)  # type: ignore[no-untyped-call, untyped-decorator]
def _kl_present(p: Present, q: Present) -> Tensor:
    return torch.where(p.mask, kl_divergence(p.base, q.base), 0.0)


@singledispatch
def marginal(distribution: Any, mask: Mask) -> Distribution:
    """The distribution of the sites that are present, for log-densities and divergences; its draws have all sites.

    A plugin registers a rule for its own distribution with ``marginal.register``.

    Arguments:
        distribution: Distribution with batch shape (B,).
        mask: True where there is data.
    Raises:
        PluginError: If no rule is registered for this class.
    """
    raise PluginError(
        f"the data have a mask, and the marginals of a {type(distribution).__name__} are not known; register a "
        "function of (distribution, mask) with bfn_toolkit.marginal.register, or build it with "
        "torch.distributions.Independent"
    )


@marginal.register(Independent)
def _(distribution: Independent[Any], mask: Tensor) -> Distribution:
    base, axes = distribution.base_dist, distribution.reinterpreted_batch_ndims
    return Independent(Present(base, fit(mask, len(base.batch_shape))), axes, validate_args=False)
