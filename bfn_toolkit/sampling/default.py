"""The sampler for a family and a number of steps, where nobody names one.

docs/background/samplers.md has the measurements behind the rules.
"""

from __future__ import annotations

import math
from typing import Any

from bfn_toolkit.errors import ConfigError
from bfn_toolkit.families import Family
from bfn_toolkit.sampling.ancestral import AncestralSampler
from bfn_toolkit.sampling.sampler import Sampler
from bfn_toolkit.sampling.solvers import ODE2, SDE2

FEW = 10  # steps: below, the noise that SDE2 renews costs real numbers more than it corrects
MANY = 16  # sites: from there on it does so at any number of steps


def default_sampler(family: Family[Any], n_steps: int) -> Sampler[Any]:
    """The sampler for a family and a number of steps: :func:`default_reason` tells why.

    Arguments:
        family: The family whose data are sampled.
        n_steps: Number of steps.
    """
    return _choice(family, n_steps)[0]


def default_reason(family: Family[Any], n_steps: int) -> str:
    """The reason for :func:`default_sampler`, in words that follow its name."""
    return _choice(family, n_steps)[1]


def _choice(family: Family[Any], n_steps: int) -> tuple[Sampler[Any], str]:
    for part in family.walk():
        try:
            part.as_channel()
        except ConfigError:
            name = type(part.family).__name__
            return AncestralSampler(), f"because a solver needs a ChannelFamily, which {name} is not"
    real = [not part.family.is_discrete for part in family.walk()]
    if all(real) and n_steps < FEW:
        return ODE2(), f"because real numbers need no noise on the way in as few as {n_steps} steps"
    if all(real) and sum(math.prod(part.family.network_io.site_shape) for part in family.walk()) >= MANY:
        return ODE2(), "because it is of second order, and many real numbers need no noise on the way"
    reason = "because it is of second order, and corrects on the way what the network got wrong"
    return SDE2() if any(real) else SDE2(slope="signal"), reason
