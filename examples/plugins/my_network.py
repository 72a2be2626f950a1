r"""tiny-mlp: a perceptron with one hidden layer, a network for bfn-toolkit.

.. math:: \text{raw} = W_2 \, \mathrm{silu}(W_1 [\text{features}, t, \text{condition}])
"""

import attrs
import torch
from attrs import field
from torch import Tensor, nn

from bfn_toolkit import Entry, NetworkBuilder, NetworkIO, hookimpl, validators


class TinyMLPModule(nn.Module):
    """The network itself; it sees all numbers of an example as one vector."""

    def __init__(self, config: "TinyMLP", io: NetworkIO) -> None:
        super().__init__()
        self.view, self.conditions = io.flat(), config.conditions
        self.first = nn.Linear(self.view.in_numbers + 1 + len(config.conditions), config.width)
        self.last = nn.Linear(config.width, self.view.out_numbers)

    def forward(self, features: Tensor, t: Tensor, /, **condition: Tensor) -> Tensor:
        """Raw numbers (B, *site, R) from features (B, *site, F), times (B,) and conditions (B,)."""
        values = [condition.get(name, torch.zeros_like(t)).to(t.dtype) for name in self.conditions]
        h = self.first(torch.cat([self.view.pack(features), torch.stack([t, *values], -1)], -1))
        return self.view.unpack(self.last(nn.functional.silu(h)))


@attrs.frozen
class TinyMLP(NetworkBuilder):
    """Perceptron for data of any site shape, with ``width`` hidden numbers.

    Arguments:
        width: Width of the hidden layer.
        conditions: Names of the conditions that it reads, each one number per example; a missing one counts as 0.
    """

    width: int = field(default=64, validator=validators.integer(ge=1))
    conditions: tuple[str, ...] = field(default=(), converter=tuple)

    def build(self, io: NetworkIO) -> nn.Module:
        """Builds the network with fresh weights."""
        return TinyMLPModule(self, io)


@hookimpl
def bfn_networks() -> list[Entry]:
    """The network."""
    return [Entry("tiny-mlp", TinyMLP, examples=(TinyMLP(), TinyMLP(width=8, conditions=("first",))))]
