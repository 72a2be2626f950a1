"""Laws that every network obeys, and further claims of this one."""

import pytest
import torch
from bfn_toolkit import NetworkIO
from bfn_toolkit.testing import parametrize_networks

from bfn_residual_mlp import Block, ResidualMLP, TimeEmbedding


@parametrize_networks(ResidualMLP(), ResidualMLP(width=8, depth=1, frequencies=1), ResidualMLP(width=16, depth=5))
def test_law(law, network):
    law(network)


def test_a_fresh_network_says_nothing():
    torch.manual_seed(0)
    raw = ResidualMLP().build(NetworkIO((2, 3), in_features=2, out_features=4))(torch.randn(5, 2, 3, 2), torch.rand(5))
    assert torch.equal(raw, torch.zeros(5, 2, 3, 4))


def test_a_fresh_block_is_the_identity():
    torch.manual_seed(0)
    module = ResidualMLP(width=7, depth=1).build(NetworkIO((1,)))
    h = torch.randn(3, 7)
    assert torch.equal(module.blocks[0](h, module.time(torch.rand(3))), h)


def test_a_block_is_its_formula():
    torch.manual_seed(0)
    block, h, e = Block(7, 4).double(), torch.randn(3, 7).double(), torch.randn(3, 4).double()
    torch.nn.init.normal_(block.outer.weight)
    scaled, shifted = block.time.weight[:7], block.time.weight[7:]
    scale, shift = e @ scaled.T + block.time.bias[:7], e @ shifted.T + block.time.bias[7:]
    normed = (h - h.mean(-1, keepdim=True)) / (h.var(-1, correction=0, keepdim=True) + block.norm.eps).sqrt()
    inner = (normed * (1.0 + scale) + shift) @ block.inner.weight.T + block.inner.bias
    expected = h + (inner / (1.0 + torch.exp(-inner))) @ block.outer.weight.T
    torch.testing.assert_close(block(h, e), expected, rtol=1e-12, atol=1e-12)  # float64, sums of 7 numbers


def test_the_embedding_is_that_of_frequencies_from_1_to_100():
    t = torch.tensor([0.0, 0.3])
    angles = torch.tensor([[0.0, 0.0, 0.0], [0.3, 3.0, 30.0]])
    expected = torch.cat([angles.cos(), angles.sin()], -1)
    torch.testing.assert_close(TimeEmbedding(3)(t), expected, rtol=0.0, atol=1e-5)  # float32, at angles near 30


def test_a_network_in_float64_computes_in_float64():
    module = ResidualMLP(width=8).build(NetworkIO((2,))).double()
    assert module(torch.zeros(1, 2, 1, dtype=torch.float64), torch.ones(1, dtype=torch.float64)).dtype == torch.float64


@pytest.mark.parametrize("option", ["width", "depth", "frequencies"])
def test_a_size_below_1_is_refused(option):
    with pytest.raises(ValueError, match=option):
        ResidualMLP(**{option: 0})


def test_the_network_fits_a_function_that_changes_with_the_time():
    torch.manual_seed(0)
    u, t = 2.0 * torch.rand(512, 1, 1) - 1.0, torch.rand(512)
    target = torch.sin(3.0 * u + 6.0 * t.reshape(-1, 1, 1))
    module = ResidualMLP(width=32).build(NetworkIO((1,)))
    optimizer = torch.optim.Adam(module.parameters(), lr=0.01)
    for _ in range(150):
        loss = (module(u, t) - target).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss < 0.02  # 0.5 for a network that returns 0
