"""Self-conditioning: the network also sees the estimate of the evaluation before.

A network whose builder has ``self_conditioning = True`` gets more features at each site: after those of the beliefs,
the expected embedding of the data under its last output, or zeros if there is none.  In training, half of the steps
first evaluate it without a gradient, and give it that output.

Nothing of this is part of the model's mathematics: an output distribution may depend on its beliefs in any way.  So the
likelihood bound, which is computed with zeros, is a bound.

Source: Chen et al. 2022 (arXiv 2208.04202), there for diffusion of bits.
"""

from __future__ import annotations

from typing import Any

import attrs
import torch
from torch import Tensor

from bfn_toolkit.families import Family
from bfn_toolkit.network_io import NetworkIO
from bfn_toolkit.outputs import Output


def estimate_io(family: Family[Any]) -> NetworkIO:
    """Sizes that a network has to fit if it reads an estimate: those of the family, with more features."""
    own = family.network_io.parts
    parts = {}
    for part in family.walk():
        features = own[part.name].in_features + part.family.estimate_features
        parts[part.name] = attrs.evolve(own[part.name], in_features=features)
    return NetworkIO(parts=parts)


def with_estimate(family: Family[Any], io: NetworkIO, features: Tensor, previous: Output | None) -> Tensor:
    """The features of the beliefs, (B, *site, F), and the estimate of the data beside them, part by part."""
    own = family.network_io.split(features)
    told = {}
    for part in family.walk(previous):
        seen = own[part.name]
        if previous is None:
            estimate = seen.new_zeros(*seen.shape[:-1], part.family.estimate_features)
        else:
            estimate = part.family.estimate(part.values[0]).to(seen.dtype)
        told[part.name] = torch.cat([seen, estimate], -1)
    return io.join(told)
