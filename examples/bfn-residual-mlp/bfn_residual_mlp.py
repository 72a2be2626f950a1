r"""residual-mlp: a residual perceptron modulated by the time, a network for bfn-toolkit.

With the time embedding e and the layer norm n, each block adds to the hidden state h:

.. math::
    e(t) &= (\cos \omega_j t, \, \sin \omega_j t)_j, \qquad \omega_j \text{ geometric from 1 to 100} \\
    h_{l+1} &= h_l + B_l \, \mathrm{silu}\big(A_l \, (n(h_l) \odot (1 + S_l e(t)) + T_l e(t))\big)

All B, and the last layer, start at zero.  So a fresh network returns zeros, and its output distribution is that of the
beliefs alone.

Source: He et al. 2015 (arXiv 1512.03385) for the blocks, Vaswani et al. 2017 (arXiv 1706.03762) for the embedding,
Peebles and Xie 2022 (arXiv 2212.09748) for the modulation and the zeros.
"""

import math

import attrs
import torch
from attrs import field
from bfn_toolkit import Entry, NetworkBuilder, NetworkIO, hookimpl, validators
from torch import Tensor, nn
from torch.nn import functional as F


class TimeEmbedding(nn.Module):
    """Cosines and sines of the time: (B,) to (B, 2 * frequencies)."""

    omega: Tensor

    def __init__(self, frequencies: int) -> None:
        super().__init__()
        self.register_buffer("omega", torch.logspace(0.0, 2.0, frequencies), persistent=False)

    def forward(self, t: Tensor) -> Tensor:
        """The embedding of each time."""
        angle = t.unsqueeze(-1) * self.omega
        return torch.cat([angle.cos(), angle.sin()], -1)


class Block(nn.Module):
    """One residual block; it starts as the identity."""

    def __init__(self, width: int, embedding: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width, elementwise_affine=False)  # the time scales and shifts instead
        self.time = nn.Linear(embedding, 2 * width)
        self.inner = nn.Linear(width, width)
        self.outer = nn.Linear(width, width)
        nn.init.zeros_(self.outer.weight)
        nn.init.zeros_(self.outer.bias)

    def forward(self, h: Tensor, e: Tensor) -> Tensor:
        """New hidden state (B, width) from the old one and the embedded times (B, 2 * frequencies)."""
        scale, shift = self.time(e).chunk(2, -1)
        change: Tensor = self.outer(F.silu(self.inner(self.norm(h) * (1.0 + scale) + shift)))
        return h + change


class ResidualMLPModule(nn.Module):
    """The network itself; see :class:`ResidualMLP`."""

    def __init__(self, config: "ResidualMLP", io: NetworkIO) -> None:
        super().__init__()
        size, width = math.prod(io.site_shape), config.width
        self.raw = io.out_features
        self.time = TimeEmbedding(config.frequencies)
        self.first = nn.Linear(size * io.in_features, width)
        self.blocks = nn.ModuleList(Block(width, 2 * config.frequencies) for _ in range(config.depth))
        self.last = nn.Linear(width, size * io.out_features)
        nn.init.zeros_(self.last.weight)
        nn.init.zeros_(self.last.bias)

    def forward(self, features: Tensor, t: Tensor, /, **condition: Tensor) -> Tensor:
        """Raw numbers (B, *site, R) from features (B, *site, F) and times (B,); conditions are ignored."""
        h, e = self.first(features.flatten(1)), self.time(t)
        for block in self.blocks:
            h = block(h, e)
        raw: Tensor = self.last(h)
        return raw.reshape(*features.shape[:-1], self.raw)


@attrs.frozen
class ResidualMLP(NetworkBuilder):
    """Residual perceptron for data of any site shape, which it flattens.

    Arguments:
        width: Size of the hidden state.
        depth: Number of blocks.
        frequencies: Number of frequencies in the time embedding.
    """

    width: int = field(default=128, validator=validators.integer(ge=1))
    depth: int = field(default=3, validator=validators.integer(ge=1))
    frequencies: int = field(default=16, validator=validators.integer(ge=1))
    conditions = ()  # names of the conditions that forward reads

    def build(self, io: NetworkIO) -> nn.Module:
        """Builds the network with fresh weights."""
        return ResidualMLPModule(self, io)


@hookimpl
def bfn_networks() -> list[Entry]:
    """The network."""
    return [Entry("residual-mlp", ResidualMLP, examples=(ResidualMLP(), ResidualMLP(width=8, depth=1, frequencies=3)))]
