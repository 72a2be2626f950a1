r"""Siren network (plugin): a multilayer perceptron with sine activations, bandwidth :math:`\omega`.

.. math:: h_1 = \sin(\omega W_1 [\text{features}, t]), \quad h_{l+1} = \sin(\omega W_l h_l), \quad \text{raw} = W h_L

Weights start uniform: in (-1/2, 1/2) for the first layer, and in (-l, l) with
:math:`l = \sqrt{6 / \text{fan-in}} / \omega` for the others, which keeps the pre-activations standard normal at every
depth.

Source: Sitzmann et al. 2020 (arXiv 2006.09661); the defaults are those of https://proger.github.io/posts/bfn/normal.html.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

import attrs
import torch
from attrs import field
from torch import Tensor, nn

from bfn_toolkit import Entry, NetworkBuilder, NetworkIO, hookimpl, validators


class SirenModule(nn.Module):
    """The network itself; see :class:`Siren`."""

    def __init__(self, config: Siren, io: NetworkIO) -> None:
        super().__init__()
        self.bandwidth = config.bandwidth
        self.shared = config.channels is not None and len(io.site_shape) > 1
        size = math.prod(io.site_shape[-1:] if self.shared else io.site_shape)
        if self.shared and size != config.channels:
            raise ValueError(
                f"channels={config.channels} needs data of shape (..., {config.channels}), not {io.site_shape}"
            )
        widths = [size * io.in_features + 1, *[config.width] * config.depth]
        self.hidden = nn.ModuleList(nn.Linear(i, o, config.bias) for i, o in pairwise(widths))
        self.last = nn.Linear(config.width, size * io.out_features, config.bias)
        self.raw = io.out_features
        for layer in [*self.hidden, self.last]:
            first = layer is self.hidden[0]
            limit = 0.5 if first else math.sqrt(6 / config.width) / config.bandwidth
            nn.init.uniform_(layer.weight, -limit, limit)

    def forward(self, features: Tensor, t: Tensor, /, **_: Tensor) -> Tensor:
        """Raw numbers (B, *site, R) from features (B, *site, F) and times (B,)."""
        shape = (*features.shape[:-1], self.raw)
        if self.shared:  # every position of the leading axes is a separate example
            t = t.repeat_interleave(math.prod(features.shape[1:-2]))
            features = features.flatten(0, -3)
        h = torch.cat([features.flatten(1), t.unsqueeze(-1)], -1)
        for layer in self.hidden:
            h = torch.sin(self.bandwidth * layer(h))
        out: Tensor = self.last(h)
        return out.reshape(shape)


@attrs.frozen
class Siren(NetworkBuilder):
    """Siren for data of any site shape, which it flattens.  It ignores conditions.

    Arguments:
        width: Width of the hidden layers.
        depth: Number of sine layers.
        bandwidth: Factor omega inside each sine; larger values fit faster oscillations.
        bias: Whether the layers have biases.
        channels: Size of the last axis of the site, if the network is to be applied at each position of the other axes
            with shared weights; None to apply it to all positions together.
    """

    width: int = field(default=128, validator=validators.integer(ge=1))
    depth: int = field(default=2, validator=validators.integer(ge=1))
    bandwidth: float = field(default=10.0, validator=validators.number(gt=0))
    bias: bool = False
    channels: int | None = field(default=None, validator=validators.optional(validators.integer(ge=1)))

    @property
    def conditions(self) -> tuple[str, ...]:
        """Returns no names."""
        return ()

    def build(self, io: NetworkIO) -> nn.Module:
        """Builds the network with fresh weights."""
        return SirenModule(self, io)


@hookimpl
def bfn_networks() -> Sequence[Entry]:
    """The network."""
    return [Entry("siren", Siren, (Siren(), Siren(width=16, depth=3, bias=True)))]
