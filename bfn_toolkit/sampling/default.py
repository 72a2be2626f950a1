"""The sampler for a family and a number of steps, where nobody names one."""

from __future__ import annotations

import math
from typing import Any

from bfn_toolkit.families import ChannelFamily, Family
from bfn_toolkit.randomness import seeded
from bfn_toolkit.sampling.ancestral import AncestralSampler
from bfn_toolkit.sampling.sampler import Sampler
from bfn_toolkit.sampling.solvers import ODE2, SDE2

FEW = 10  # evaluations: below, the noise that SDE2 renews costs real numbers more than it corrects
MANY = 16  # sites: from there on it does so at any number of evaluations


def default_sampler(family: Family[Any], n_steps: int) -> tuple[Sampler[Any], str]:
    """The sampler for a number of steps, and why.

    Arguments:
        family: Whose beliefs are sampled.
        n_steps: How many steps there will be.
    Returns:
        The sampler, and the reason in words that can follow its name.
    """
    parts = family.parts.values()
    others = [type(part).__name__ for part in parts if not isinstance(part, ChannelFamily)]
    if others:
        return AncestralSampler(), f"because {', '.join(others)} is no ChannelFamily, which a solver needs"
    real = [_is_real(part) for part in parts]
    if all(real) and n_steps < FEW:
        return ODE2(), f"because {n_steps} steps are few, and real numbers then need no noise on the way"
    if all(real) and sum(math.prod(part.network_io.site_shape) for part in parts) >= MANY:
        return ODE2(), "because it is of second order, and many real numbers need no noise on the way"
    reason = "because it is of second order, and corrects on the way what the network got wrong"
    return SDE2() if any(real) else SDE2(slope="signal"), reason


def _is_real(family: Family[Any]) -> bool:
    """Whether the data are real numbers."""
    with seeded("real"):
        return family.input(family.prior(1)).sample().is_floating_point()
