"""The equivariant network: its formula, its symmetries, and what it refuses."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from bfn_egnn import EGNN, EGNNModule
from bfn_toolkit import ConfigError, NetworkIO, PartIO

POINTS = PartIO((6, 3), ("set", "channel"))
ATOMS = {"place": POINTS, "kind": PartIO((6,), ("set",), 4, 4, "classes", 4), "energy": PartIO(())}


def built(config: EGNN, io: NetworkIO) -> EGNNModule:
    torch.manual_seed(0)
    network = config.build(io)
    assert isinstance(network, EGNNModule)
    with torch.no_grad():
        for weight in network.parameters():  # those that start at 0 hide their inputs
            weight.add_(0.1 * torch.sin(torch.arange(weight.numel()).float()).reshape(weight.shape))
    return network.double().eval()


def inputs(io: NetworkIO, rows: int = 5) -> dict[str, Tensor]:
    torch.manual_seed(1)
    shapes = {name: (rows, *part.shape, part.in_features) for name, part in io.parts.items()}
    return {name: torch.randn(shape, dtype=torch.float64) for name, shape in shapes.items()}


def test_forward_is_its_formula() -> None:
    io, rows, n = NetworkIO((3, 2)), 4, 3
    network = built(EGNN(width=5, depth=1), io)
    (x,), t = inputs(io, rows).values(), torch.rand(rows, dtype=torch.float64)
    weights = dict(network.named_parameters())

    def linear(name: str, v: Tensor) -> Tensor:
        bias = weights.get(f"{name}.bias")
        return v @ weights[f"{name}.weight"].T + (0.0 if bias is None else bias)

    def silu(v: Tensor) -> Tensor:
        return v / (1.0 + torch.exp(-v))

    place = x[..., 0] - x[..., 0].mean(1, keepdim=True)
    time = torch.cat([(t.unsqueeze(1) * network.frequencies).sin(), (t.unsqueeze(1) * network.frequencies).cos()], 1)
    time = torch.cat([time, t.unsqueeze(1)], 1)
    moved = torch.zeros_like(place)
    for b in range(rows):
        h = [linear("first", torch.cat([place[b, i].square().sum().reshape(1), time[b]])) for i in range(n)]
        for i in range(n):
            step = torch.zeros(2, dtype=torch.float64)
            for j in range(n):
                if i != j:
                    way = place[b, i] - place[b, j]
                    pair = torch.cat([h[i], h[j], way.square().sum().reshape(1)])
                    hidden = silu(linear("layers.0.edge.0.0", pair))
                    m = silu(linear("layers.0.edge.0.2", hidden))
                    push = linear("layers.0.move.2", silu(linear("layers.0.move.0", m)))
                    step = step + way / (way.norm() + 1.0) * push / (n - 1)
            moved[b, i] = place[b, i] + torch.exp(-linear("scale", time[b])) * step
    expected = moved - moved.mean(1, keepdim=True)
    assert torch.allclose(network(x, t)[..., 0], expected, rtol=1e-12, atol=1e-12)


def test_reordered_points_give_a_reordered_result() -> None:
    io = NetworkIO(parts=ATOMS)
    network, x, t = built(EGNN(width=16, depth=3), io), inputs(io), torch.rand(5, dtype=torch.float64)
    order = torch.tensor([3, 1, 5, 0, 4, 2])
    out = io.split(network(io.join(x), t), "out_features")
    mixed = {"place": x["place"][:, order], "kind": x["kind"][:, order], "energy": x["energy"]}
    found = io.split(network(io.join(mixed), t), "out_features")
    for name, now in found.items():
        expected = out[name] if name == "energy" else out[name][:, order]
        assert torch.allclose(now, expected, rtol=0, atol=1e-12), name


def test_absent_points_are_as_if_they_were_not_there() -> None:
    io = NetworkIO(parts=ATOMS)
    few = NetworkIO(parts={**ATOMS, "place": PartIO((4, 3), ("set", "channel")), "kind": PartIO((4,), ("set",), 4, 4)})
    config = EGNN(width=16, depth=2)
    network, small = built(config, io), built(config, few)
    small.load_state_dict(network.state_dict())
    x, t = inputs(io), torch.rand(5, dtype=torch.float64)
    present = (torch.arange(6) < 4).expand(5, 6)
    mask = io.spread({"place": present, "kind": present, "energy": torch.ones(5, dtype=torch.bool)})
    features = torch.where(mask, io.join(x), 0.0)
    out = io.split(network(features, t, mask=mask), "out_features")
    cut = {"place": x["place"][:, :4], "kind": x["kind"][:, :4], "energy": x["energy"]}
    expected = few.split(small(few.join(cut), t), "out_features")
    assert torch.allclose(out["place"][:, :4], expected["place"], rtol=0, atol=1e-12)
    assert torch.allclose(out["kind"][:, :4], expected["kind"], rtol=0, atol=1e-12)
    assert torch.allclose(out["energy"], expected["energy"], rtol=0, atol=1e-12)
    assert not out["place"][:, 4:].any()


def test_times_of_the_points_that_are_equal_are_one_time() -> None:
    io = NetworkIO(parts=ATOMS)
    network, x, t = built(EGNN(width=16, depth=2), io), inputs(io), torch.rand(5, dtype=torch.float64)
    same = io.spread(dict.fromkeys(ATOMS, t))
    assert torch.allclose(network(io.join(x), same), network(io.join(x), t), rtol=0, atol=1e-12)
    other = network(io.join(x), io.spread({"place": t * 0.5, "kind": t, "energy": t}))
    assert not torch.allclose(other, network(io.join(x), t), rtol=0, atol=1e-3)


def test_a_fresh_network_returns_the_centred_points() -> None:
    io = NetworkIO((5, 3), axes=("set", "channel"))
    x = torch.randn(4, 5, 3, 1)
    raw = EGNN(width=16).build(io)(x, torch.rand(4))
    assert torch.allclose(raw, x - x.mean(1, keepdim=True), atol=0.05)


@pytest.mark.parametrize(
    ("io", "words"),
    [
        (NetworkIO((8,)), "one part of real coordinates"),
        (NetworkIO((5, 4)), "one part of real coordinates"),
        (NetworkIO((5, 3), kind="classes", classes=2), "one part of real coordinates"),
        (NetworkIO(parts={"a": POINTS, "b": POINTS}), "one part of real coordinates"),
        (NetworkIO((5, 3), 1, 2), "--family.head data"),
        (NetworkIO(parts={"a": POINTS, "b": PartIO((6, 3), kind="direction")}), "'b' of shape"),
    ],
)
def test_data_that_are_not_points_are_refused(io: NetworkIO, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        EGNN().build(io)
