"""The residual multilayer perceptron: sizes, its formula, and the labels."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from bfn_mlp import MLP, MLPModule
from bfn_toolkit import Network, NetworkIO, seeded

SILU = torch.nn.functional.silu


def built(config: MLP, io: NetworkIO = NetworkIO((2, 3), 2, 1)) -> MLPModule:  # noqa: B008 - a value
    """A network in float64 and eval mode whose last layer is no longer zero."""
    with seeded(0, "weights"):
        network = config.build(io)
        nn.init.normal_(network.last.weight)
    assert isinstance(network, MLPModule)
    return network.double().eval()


def inputs(io: NetworkIO = NetworkIO((2, 3), 2, 1), rows: int = 5) -> tuple[Tensor, Tensor]:  # noqa: B008 - a value
    with seeded(0, "inputs"):
        features = torch.randn(rows, *io.site_shape, io.in_features, dtype=torch.float64)
        return features, torch.rand(rows, dtype=torch.float64)


@pytest.mark.parametrize("site", [(), (1,), (5,), (2, 3), (2, 3, 4)])
@pytest.mark.parametrize(("features", "raw"), [(1, 1), (2, 3)])
@pytest.mark.parametrize("config", [MLP(width=16), MLP(width=8, depth=1, labels=3, dropout=0.1)])
def test_raw_numbers_have_the_shape_of_the_site(config: MLP, site: tuple[int, ...], features: int, raw: int) -> None:
    io = NetworkIO(site, features, raw)
    network = built(config, io)
    assert isinstance(network, Network)
    out = network(*inputs(io))
    assert out.shape == (5, *site, raw)
    assert out.dtype == torch.float64
    assert torch.isfinite(out).all()


def test_a_fresh_network_returns_zeros() -> None:
    network = MLP(width=16).build(NetworkIO((2, 3), 2, 1))
    assert (network(torch.randn(4, 2, 3, 2), torch.rand(4)) == 0).all()


def test_forward_is_its_formula() -> None:
    network = built(MLP(width=6, depth=2, labels=3))
    weights = dict(network.named_parameters())
    features, t = inputs()
    label = torch.tensor([0, 2, 1, -1, 2])

    def norm(h: Tensor) -> Tensor:
        centred = h - h.mean(1, keepdim=True)
        return centred / (centred.square().mean(1, keepdim=True) + 1e-5).sqrt()  # gains are 1 and shifts 0 at first

    def linear(name: str, h: Tensor) -> Tensor:
        return h @ weights[f"{name}.weight"].T + weights[f"{name}.bias"]

    omega = 10.0 ** torch.linspace(0.0, 1.0, 16).double()
    waves = torch.cat([(t.unsqueeze(1) * omega).sin(), (t.unsqueeze(1) * omega).cos()], 1)
    h = linear("first", torch.cat([features.reshape(5, 12), waves], 1)) + weights["label.weight"][[0, 2, 1, 3, 2]]
    for block in ("blocks.0", "blocks.1"):
        h = h + linear(f"{block}.3", SILU(linear(f"{block}.1", norm(h))))
    expected = linear("last", h).reshape(5, 2, 3, 1)
    # The frequencies are float32 in the network: 10 radians of 1e-7 each.
    assert torch.allclose(network(features, t, label=label), expected, rtol=0, atol=1e-5)


@torch.no_grad()
def test_labels_matter_row_by_row_and_no_label_is_one_of_its_own() -> None:
    network = built(MLP(width=8, labels=3))
    features, t = (part[:1].expand(5, *part.shape[1:]) for part in inputs())
    rows = network(features, t, label=torch.tensor([0, 1, 2, -1, -7])).flatten(1)
    distance = torch.cdist(rows[:4], rows[:4]) + torch.eye(4)
    assert float(distance.min()) > 1e-3  # four labels, four results
    same = 1e-12  # a Linear layer's rows differ by eps between layouts
    assert float((rows[3] - rows[4]).abs().max()) <= same
    assert float((network(features, t).flatten(1) - rows[3]).abs().max()) <= same


def test_conditions_that_it_was_not_built_for_are_ignored() -> None:
    network = built(MLP(width=8))
    out = network(*inputs())
    assert torch.equal(network(*inputs(), label=torch.tensor([0, 1, 2, 3, 4]), mask=torch.zeros(5)), out)


@torch.no_grad()
def test_labels_and_hidden_numbers_are_left_out_in_training_alone() -> None:
    label = torch.zeros(4000, dtype=torch.int64)
    features, t = (part[:1].expand(4000, *part.shape[1:]) for part in inputs())
    network = built(MLP(width=8, labels=2, label_dropout=0.25))
    alike = network(features, t, label=label).flatten(1)
    assert float((alike - alike[0]).abs().max()) <= 1e-12
    with seeded(0, "labels"):
        rows = network.train()(features, t, label=label).flatten(1)
    none = (rows - alike[0]).abs().amax(1) > 1e-6
    assert abs(float(none.double().mean()) - 0.25) < 5 * (0.25 * 0.75 / 4000) ** 0.5
    dropping = built(MLP(width=8, dropout=0.5))
    assert torch.equal(dropping(*inputs()), dropping(*inputs()))
    assert not torch.equal(dropping.train()(*inputs()), dropping.eval()(*inputs()))


def test_every_label_is_learned() -> None:
    network = built(MLP(width=8, labels=4))
    network(*inputs(), label=torch.tensor([0, 1, 2, 3, -1])).square().sum().backward()
    assert network.label is not None
    assert bool((network.label.weight.grad.abs().sum(1) > 0).all())


def test_it_fits_a_function_of_features_and_time() -> None:
    with seeded(0, "fit"):
        network = MLP(width=32, depth=2).build(NetworkIO((1,)))
        optimizer = torch.optim.Adam(network.parameters(), lr=1e-2)
        for _ in range(150):
            u, t = torch.rand(256, 1, 1) * 2 - 1, torch.rand(256)
            target = torch.sin(3 * u) * (0.5 + t[:, None, None])
            loss = (network(u, t) - target).square().mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    assert loss.item() < 0.01  # the variance of the target is 0.6; about 0.001 is reached
