"""Default sampler for a family and a number of steps.

docs/background/samplers.md shows the measurements behind the rules.
"""

from __future__ import annotations

import math
from typing import Any

from bfn_toolkit.errors import ConfigError
from bfn_toolkit.families import Family
from bfn_toolkit.sampling.ancestral import AncestralSampler
from bfn_toolkit.sampling.churn import ChurnSampler
from bfn_toolkit.sampling.sampler import Sampler
from bfn_toolkit.sampling.site_times import AnyOrderSampler
from bfn_toolkit.sampling.solvers import ODE2, SDE2

FEW = 50  # steps; with fewer, the bias of SDE2 is larger than the errors of the network that its noise corrects
MANY = 16  # sites; with as many, ODE2 is better at any number of steps
LONG = 64  # sites of more than two classes; with as many, churn gives better samples from FEW steps on
IMAGE = 256  # sites; with as many, the errors of the network outweigh the bias of SDE2 at any number of steps


STEPS = 100  # default number of messages, unless the family has one of its own


def default_steps(family: Family[Any]) -> int:
    """Default number of messages of samples."""
    return family.default_steps or STEPS


def default_sampler(family: Family[Any], n_steps: int) -> Sampler[Any]:
    """Default sampler for a family and a number of steps; :func:`default_reason` gives the reason.

    Arguments:
        family: The family whose data are sampled.
        n_steps: Number of steps.
    """
    return _choice(family, n_steps)[0]


def default_reason(family: Family[Any], n_steps: int) -> str:
    """Reason for :func:`default_sampler`, as text that follows the sampler's name."""
    return _choice(family, n_steps)[1]


def _choice(family: Family[Any], n_steps: int) -> tuple[Sampler[Any], str]:
    if family.one_by_one:
        io = family.network_io
        block = max(1, -(-math.prod(io.site_shape) // max(1, n_steps)))
        if block == 1 and any("sequence" in part.axes for part in io.parts.values()):
            return AnyOrderSampler(sequence="given"), "because networks know best what follows the beginning of a text"
        return AnyOrderSampler(block=block), "because the messages about a site tell all of it, or nothing"
    for part in family.walk():
        try:
            part.as_channel()
        except ConfigError:
            name = type(part.family).__name__
            return AncestralSampler(), f"because a solver needs a ChannelFamily, which {name} is not"
    real = [not part.family.is_discrete for part in family.walk()]
    sites = sum(math.prod(part.family.network_io.site_shape) for part in family.walk())
    second_order = "because it is second-order, and its noise corrects errors of the network"
    if all(real) and sites >= IMAGE:
        return SDE2(), second_order
    classes = [io.classes or 0 for part in family.walk() for io in part.family.network_io.parts.values()]
    if not any(real) and max(classes) > 2 and sites >= LONG and n_steps >= FEW:
        return ChurnSampler(), f"because {n_steps} steps are enough to draw again what was drawn from a poor output"
    if any(real) and n_steps < FEW:
        return ODE2(), f"because its bias for real-valued data is the smallest in as few as {n_steps} steps"
    if all(real) and sites >= MANY:
        return ODE2(), "because it is second-order, and data of many real numbers need no added noise"
    return SDE2() if any(real) else SDE2(slope="signal"), second_order
