"""The transformer: its formula, positions, patches, masks, conditions, and the ways to compute it."""

from __future__ import annotations

import copy
import math
import pickle
from typing import Any

import attrs
import pytest
import torch
from torch import Tensor, nn

from bfn_gaussian import Gaussian
from bfn_toolkit import BFN, ConfigError, NetworkIO, PartIO, seeded
from bfn_toolkit.randomness import Shard
from bfn_transformer import Transformer, TransformerModule
from bfn_transformer.transformer import attend, rotary_angles, rotated

TEXT = NetworkIO((6,), 3, 3, ("sequence",), "classes", 3)
BOTH = NetworkIO(
    parts={"image": PartIO((4, 6), ("height", "width"), 2, 1), "label": PartIO((), (), 3, 3, "classes", 3)}
)
SMALL = Transformer(width=8, depth=2, heads=2)


def built(config: Transformer = SMALL, io: NetworkIO = TEXT) -> TransformerModule:
    """A network in float64 and eval mode, none of whose layers is zero."""
    with seeded(0, "weights"):
        network = config.build(io).double()
        for weight in network.parameters():
            nn.init.normal_(weight, std=0.3)
    assert isinstance(network, TransformerModule)
    return network.eval()


def inputs(io: NetworkIO = TEXT, rows: int = 4) -> tuple[Tensor, Tensor]:
    with seeded(0, "inputs"):
        features = torch.randn(rows, *io.site_shape, io.in_features, dtype=torch.float64)
        return features, torch.rand(rows, dtype=torch.float64)


def test_a_fresh_network_returns_zeros() -> None:
    features, t = inputs(BOTH)
    assert (SMALL.build(BOTH)(features.float(), t.float()) == 0).all()


@torch.no_grad()
def test_forward_is_its_formula() -> None:
    network = built(Transformer(width=4, depth=1, heads=1, positions="learned"))
    w = dict(network.named_parameters())
    features, t = inputs(rows=1)

    def linear(name: str, h: Tensor) -> Tensor:
        return h @ w[f"{name}.weight"].T + w[f"{name}.bias"]

    def norm(h: Tensor) -> Tensor:
        centred = h - h.mean(1, keepdim=True)
        return centred / (centred.square().mean(1, keepdim=True) + 1e-5).sqrt()

    omega = 10.0 ** torch.linspace(0.0, 1.0, 16).double()
    waves = torch.cat([(t * omega).sin(), (t * omega).cos()])
    c = torch.nn.functional.silu(linear("time.2", torch.nn.functional.silu(linear("time.0", waves))))
    h = linear("stems.0.linear", features[0]) + w["stems.0.place"]
    a, b, g, a2, b2, g2 = linear("blocks.0.modulation", c).chunk(6)
    q, k, v = linear("blocks.0.qkv", (1 + a) * norm(h) + b).chunk(3, 1)
    h = h + g * linear("blocks.0.out", (q @ k.T / 2.0).softmax(1) @ v)
    inner = linear("blocks.0.mlp.0", (1 + a2) * norm(h) + b2)
    inner = 0.5 * inner * (1 + torch.erf(inner / math.sqrt(2.0)))
    h = h + g2 * linear("blocks.0.mlp.2", inner)
    a, b = linear("modulation", c).chunk(2)
    expected = linear("heads.0", (1 + a) * norm(h) + b)
    # The frequencies are float32 in the network: 10 radians of 1e-7 each.
    assert torch.allclose(network(features, t)[0], expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("io", "same"),
    [
        (TEXT, [((0, 2), (3, 5)), ((4, 1), (5, 2))]),
        (BOTH, [((0, 8), (13, 21)), ((7, 0), (16, 9))]),  # a row is 6 tokens: down 1 and right 2; up 1 and left 1
    ],
)
def test_rotary_scores_depend_on_the_distance_alone(io: NetworkIO, same: list[Any]) -> None:
    angles = rotary_angles(io.tokens(), 8)
    assert angles is not None
    with seeded(0, "vectors"):
        q, k = torch.randn(2, 1, 16, dtype=torch.float64)
    angles = angles.double()
    scores = rotated(q.expand(len(angles), -1), angles) @ rotated(k.expand(len(angles), -1), angles).T
    for a, b in same:
        assert float((scores[a] - scores[b]).abs()) < 1e-5  # angles are computed in float32
    count = io.tokens().groups[0].count
    assert len(torch.unique((scores[0, :count] * 1e4).round())) == count  # each distance has its own
    assert (angles[count:] == 0).all()  # of the label


def test_positions_are_those_of_the_axes() -> None:
    table = NetworkIO((5,), 1, 1, ("column",))
    points = NetworkIO((5, 3), 1, 1, ("set", "channel"))
    for positions, io, learned, rotary in (
        ("rotary", TEXT, False, True),
        ("learned", TEXT, True, False),
        ("both", TEXT, True, True),
        ("rotary", table, True, False),
        ("both", points, False, False),
    ):
        network = built(Transformer(width=8, heads=2, depth=1, positions=positions), io)
        assert (network.stems[0].place is not None, network.angles is not None) == (learned, rotary)


def test_patches_leave_at_most_256_tokens() -> None:
    for side, patch in ((8, 1), (16, 1), (28, 2), (64, 4), (17, 1)):
        view = SMALL.tokens(NetworkIO((side, side), axes=("height", "width")))
        assert (view.patch, view.count) == (patch, (side // patch) ** 2)
    assert SMALL.tokens(NetworkIO((3, 32, 32), axes=("channel", "height", "width"))).count == 256
    with pytest.raises(ConfigError, match="patches of 3 x 3 pixels do not divide an image of shape"):
        Transformer(patch=3).build(BOTH)
    with pytest.raises(ValueError, match="width 12 must be a multiple of 2 heads = 8"):
        Transformer(width=12)


@torch.no_grad()
def test_neighbours_are_a_convolution_of_sequences_alone() -> None:
    network, (features, _) = built(attrs.evolve(SMALL, neighbours=2)), inputs()
    stem = network.stems[0]
    kernel = stem.linear.weight.unflatten(1, (5, 3)).transpose(1, 2)
    expected = torch.nn.functional.conv1d(features.mT, kernel, stem.linear.bias, padding=2).mT + stem.place
    assert torch.allclose(stem(features), expected, rtol=0, atol=1e-12)
    image, label = built(attrs.evolve(SMALL, neighbours=2), BOTH).stems
    assert (image.linear.in_features, label.linear.in_features) == (2, 3)


@torch.no_grad()
@pytest.mark.parametrize("config", [SMALL, attrs.evolve(SMALL, neighbours=2)])
def test_a_token_without_any_data_is_not_seen(config: Transformer) -> None:
    network, (features, t) = built(config), inputs()
    mask = torch.ones_like(features, dtype=torch.bool)
    mask[:, 4:] = False
    masked = network(features, t, mask=mask)
    shorter = built(config, NetworkIO((4,), 3, 3, ("sequence",)))
    state = {name: value[:4] if name == "stems.0.place" else value for name, value in network.state_dict().items()}
    shorter.load_state_dict(state)
    assert torch.allclose(masked[:, :4], shorter(features[:, :4], t), rtol=0, atol=1e-12)


@torch.no_grad()
def test_the_times_of_a_token_are_its_own() -> None:
    network, (features, t) = built(), inputs()
    times = t[:, None, None].expand_as(features).clone()
    assert torch.allclose(network(features, times), network(features, t), rtol=0, atol=1e-12)
    times[:, 2] = 1.0
    with_words = built(Transformer(width=8, heads=2, depth=1, condition_shapes={"words": (2, 3)}))
    for net in (network, with_words):
        raw, mask = net(features, times), torch.ones_like(features, dtype=torch.bool)
        assert float((raw - net(features, t)).abs().amax((0, 2)).min()) > 1e-4  # by attention, all tokens learn of it
        assert torch.allclose(raw, net(features, times, mask=mask), rtol=0, atol=1e-12)


CONDITIONS = Transformer(
    width=8, depth=1, heads=2, labels=3, condition_shapes={"number": (), "place": (2,), "words": (3, 4)}
)


@torch.no_grad()
def test_conditions_of_any_shape_matter_row_by_row() -> None:
    network, (features, t) = built(CONDITIONS), inputs()
    assert CONDITIONS.conditions == ("label", "number", "place", "words")
    told = {"label": torch.tensor([0, 1, 2, -1]), "number": torch.rand(4)}
    told |= {"place": torch.rand(4, 2), "words": torch.rand(4, 3, 4)}
    silent = network(features, t)
    assert torch.allclose(network(features, t, label=torch.tensor([0, 1, 2, -1]))[3], silent[3], rtol=0, atol=1e-12)
    everything = network(features, t, **told)
    for name, value in told.items():
        changed = {**told, name: value.roll(1, 0)}
        assert float((network(features, t, **changed) - everything).abs().amax((1, 2)).min()) > 1e-6


@torch.no_grad()
def test_conditions_are_dropped_in_training_alone() -> None:
    config = Transformer(width=4, depth=1, heads=1, condition_shapes={"place": (2,)}, label_dropout=0.25)
    network, (features, t) = built(config), (part[:1].expand(4000, *part.shape[1:]) for part in inputs())
    place = torch.rand(1, 2).expand(4000, 2)
    told, silent = network(features[:1], t[:1], place=place[:1]), network(features[:1], t[:1])
    with seeded(0, "dropout"):
        rows = network.train()(features, t, place=place)
    dropped = (rows - silent).abs().amax((1, 2)) < 1e-9
    assert torch.equal(dropped, ~((rows - told).abs().amax((1, 2)) < 1e-9))
    assert abs(float(dropped.double().mean()) - 0.25) < 5 * (0.25 * 0.75 / 4000) ** 0.5


def test_a_condition_of_another_shape_is_refused_with_the_shape() -> None:
    model = BFN(Gaussian((2,)), CONDITIONS)
    model, x = copy.deepcopy(pickle.loads(pickle.dumps(model))), torch.zeros(3, 2)
    assert model.loss(x, condition={"place": torch.rand(3, 2), "number": torch.rand(3)}).shape == (3,)
    for name, value, words in (
        ("place", torch.rand(3, 3), r"'place' must have the shape \(B, 2\), .* found \(3, 3\)"),
        ("number", torch.rand(3, 1), r"'number' must have the shape \(B,\), .* found \(3, 1\)"),
        ("label", torch.full((3,), 3), "label 3 is beyond the labels 0 to 2"),
    ):
        with pytest.raises(ConfigError, match=words):
            model.loss(x, condition={name: value})


def gradients(config: Transformer, rows: list[int], *, pieces: int = 1) -> list[Tensor]:
    """Gradients of a mean over rows under dropout, in pieces as a training step computes them."""
    network, (features, t) = built(config).train(), inputs(rows=len(rows))
    size = len(rows) // pieces
    for start in range(0, len(rows), size):
        piece = slice(start, start + size)
        with seeded(0, "step"), Shard(start, size, len(rows)):
            loss = network(features[piece], t[piece], label=torch.tensor(rows)[piece] % 3).square().sum()
        loss.backward()
    return [weight.grad for weight in network.parameters() if weight.grad is not None]


def test_checkpointing_changes_no_gradient_also_under_dropout_and_in_pieces() -> None:
    plain, saving = (
        Transformer(width=8, depth=2, heads=2, labels=3, dropout=0.3, gradient_checkpointing=saves)
        for saves in (False, True)
    )
    expected = gradients(plain, [0, 1, 2, 3])
    for config, pieces in ((saving, 1), (plain, 2), (saving, 2)):
        for a, b in zip(expected, gradients(config, [0, 1, 2, 3], pieces=pieces), strict=True):
            assert torch.allclose(a, b, rtol=0, atol=1e-10 * float(expected[0].abs().max() + 1))


@torch.no_grad()
def test_bfloat16_is_near_and_keeps_the_weights() -> None:
    network = built(io=BOTH).float()
    features, t = (part.float() for part in inputs(BOTH))
    exact = network(features, t)
    with torch.autocast("cpu", torch.bfloat16):
        rounded = network(features, t)
    assert rounded.isfinite().all()
    assert float((rounded - exact).abs().max()) < 0.05 * float(exact.abs().max())


@torch.no_grad()
def test_it_compiles_as_one_graph() -> None:
    network, (features, t) = built(attrs.evolve(CONDITIONS, depth=1), BOTH), inputs(BOTH)
    compiled = torch.compile(network, backend="eager", fullgraph=True)
    mask, times = torch.rand(features.shape) < 0.7, torch.rand_like(features)
    for time, arguments in ((t, {}), (times, {"mask": mask, "label": torch.tensor([0, 1, 2, -1])})):
        expected = network(features, time, **arguments)
        assert torch.allclose(compiled(features, time, **arguments), expected, rtol=0, atol=1e-12)
    torch._dynamo.reset()


def test_a_training_step_with_checkpoints_compiles() -> None:
    config = Transformer(width=8, depth=1, heads=2, dropout=0.1, gradient_checkpointing=True)
    network, (features, t) = built(config).train(), inputs()
    torch.compile(network, backend="eager")(features, t).square().sum().backward()
    assert all(weight.grad is not None for weight in network.parameters())
    torch._dynamo.reset()


def test_attention_has_no_dropout_of_its_own() -> None:
    qkv = torch.randn(2, 3, 12)
    assert torch.equal(attend(qkv, 2, None), attend(qkv, 2, None))


def test_it_learns_to_look_at_another_token() -> None:
    with seeded(0, "fit"):
        network = Transformer(width=16, depth=2, heads=2).build(NetworkIO((4,), 1, 1, ("sequence",)))
        optimizer = torch.optim.Adam(network.parameters(), lr=1e-2)
        for _ in range(150):
            u, t = torch.randn(64, 4, 1), torch.rand(64)
            loss = (network(u, t) - u.roll(1, 1) * t[:, None, None]).square().mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    assert loss.item() < 0.08  # the mean square of the target is 1/3; 0.02 is reached
