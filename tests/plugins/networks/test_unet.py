"""The U-Net: images of any size and order of axes, other parts, conditions, masks, times by site, memory."""

from __future__ import annotations

from typing import Any

import attrs
import pytest
import torch
from torch import Tensor

from bfn_categorical import Categorical
from bfn_directional import Circle
from bfn_gaussian import Gaussian, NoiseHead
from bfn_gaussian_heads import DiscretisedHead, MixtureHead
from bfn_toolkit import BFN, ConfigError, NetworkIO, PartIO, ProductFamily, seeded
from bfn_unet import ImprovedUNet, UNet, UNetModule, VDMUNet

SMALL = UNet(width=8, heads=2, groups=2)
IMAGE = NetworkIO((2, 5, 7), 1, 2)
LABELLED = NetworkIO(parts={"image": PartIO((5, 7), (), 2, 3), "label": PartIO((), (), 10, 10, "classes", 10)})


def moved(network: Any, scale: float = 0.3) -> UNetModule:
    """The network in float64 and eval mode; no weight is 0 any more."""
    assert isinstance(network, UNetModule)
    with seeded(1, "weights"), torch.no_grad():
        for weight in network.parameters():
            weight.add_(scale * torch.randn_like(weight) / max(1, weight[0].numel()) ** 0.5)
    return network.double().eval()


def built(config: Any = SMALL, io: NetworkIO = IMAGE) -> UNetModule:
    with seeded(0, "weights"):
        return moved(config.build(io))


def inputs(io: NetworkIO = IMAGE, rows: int = 4, seed: int = 0) -> tuple[Tensor, Tensor]:
    with seeded(seed, "inputs"):
        features = torch.randn(rows, *io.site_shape, io.in_features, dtype=torch.float64)
        return features, torch.rand(rows, dtype=torch.float64)


@pytest.mark.parametrize("size", [(1, 1), (2, 3), (5, 7), (8, 8), (17, 16)])
@pytest.mark.parametrize(
    "config", [SMALL, attrs.evolve(SMALL, patch=2, multipliers=(1, 2, 3)), VDMUNet(16, 1, groups=8)]
)
def test_images_have_any_size(config: Any, size: tuple[int, int]) -> None:
    for shape in (size, (1, *size)):
        io = NetworkIO(shape, 2, 3)
        raw = built(config, io)(*inputs(io))
        assert raw.shape == (4, *shape, 3)
        assert torch.isfinite(raw).all()
        assert len(torch.unique(raw)) == raw.numel()


def test_the_order_of_the_axes_changes_nothing_but_the_order() -> None:
    axes = ("channel", "height", "width")
    first = NetworkIO((2, 5, 7), 1, 2, axes)
    features, t = inputs(first)
    expected = built(SMALL, first)(features, t)
    for order in ((1, 2, 0), (2, 1, 0), (1, 0, 2)):
        io = NetworkIO(tuple((2, 5, 7)[i] for i in order), 1, 2, tuple(axes[i] for i in order))
        network = built(SMALL, io)
        network.load_state_dict(built(SMALL, first).state_dict())
        turn = (0, *(1 + i for i in order), 4)
        assert torch.allclose(network(features.permute(turn), t), expected.permute(turn), rtol=0, atol=1e-12)


@pytest.mark.parametrize("io", [NetworkIO((7,)), NetworkIO((4, 4, 2)), NetworkIO((4, 4), kind="direction")])
def test_data_that_are_no_images_are_refused_with_the_axes_to_write(io: NetworkIO) -> None:
    with pytest.raises(ConfigError, match=r"axes"):
        SMALL.build(io)


@pytest.mark.parametrize("io", [IMAGE, LABELLED])
def test_a_fresh_network_returns_zeros(io: NetworkIO) -> None:
    features, t = inputs(io)
    assert (SMALL.build(io)(features.float(), t.float()) == 0).all()


def test_parts_that_are_not_images_enter_and_leave() -> None:
    network = built(SMALL, LABELLED)
    features, t = inputs(LABELLED)
    leaf = features.requires_grad_()
    parts = LABELLED.split(network(leaf, t), "out_features")
    for name, part in parts.items():
        (gradient,) = torch.autograd.grad(part.square().sum(), leaf, retain_graph=True)
        moved_by = LABELLED.split(gradient)
        assert {other for other, value in moved_by.items() if (value != 0).all()} == set(parts), name


@torch.no_grad()
def test_conditions_of_any_shape_matter_row_by_row_and_may_be_missing() -> None:
    shapes = {"text": (3, 2), "weight": (), "map": (5, 7), "photo": (3, 5, 7), "last": (5, 7, 2)}
    config = attrs.evolve(SMALL, labels=3, condition_shapes=shapes)
    network, (features, t) = built(config), inputs()
    assert network.images == ["map", "photo", "last"]
    with seeded(0, "conditions"):
        values = {name: torch.randn(4, *shape) for name, shape in shapes.items()} | {
            "label": torch.tensor([0, 1, 2, -1])
        }
    assert set(config.conditions) == set(values)
    whole, silent = network(features, t, **values), network(features, t)
    for name, value in values.items():
        fewer = {k: v for k, v in values.items() if k != name}
        assert not torch.allclose(network(features, t, **fewer)[:3], whole[:3])
        other = value.clone()
        other[1] = 2 - other[1] if name != "label" else 0
        change = (network(features, t, **{**values, name: other}) - whole).flatten(1).abs().amax(1)
        assert change[1] > 1e-6
        assert float(change[[0, 2, 3]].max()) < 1e-12
    assert torch.equal(network(features, t, another=features), silent)
    photo = values["photo"].double()
    turned = attrs.evolve(config, condition_shapes={**shapes, "photo": (5, 7, 3)}).build(IMAGE).double().eval()
    turned.load_state_dict(network.state_dict())
    assert torch.equal(turned(features, t, **{**values, "photo": photo.movedim(1, -1)}), whole)


def test_conditions_are_dropped_in_training_alone() -> None:
    config = attrs.evolve(SMALL, labels=2, condition_shapes={"v": (2,), "m": (2, 2)}, label_dropout=0.25)
    io = NetworkIO((2, 2))
    network = built(config, io)
    features, t = (value[:1].expand(2000, *value.shape[1:]) for value in inputs(io))
    values = {"label": torch.zeros(2000, dtype=torch.int64), "v": torch.ones(2000, 2), "m": torch.ones(2000, 2, 2)}
    with torch.no_grad():
        for name, value in values.items():
            whole = network.eval()(features, t, **{name: value}).flatten(1)
            assert float((whole - whole[0]).abs().max()) < 1e-12
            with seeded(0, "dropping"):
                rows = network.train()(features, t, **{name: value}).flatten(1)
            # The conditions that are not given are missing in both; a dropped one is like a missing one.
            missing = network.eval()(features[:1], t[:1]).flatten(1)
            dropped = (rows - whole[0]).abs().amax(1) > 1e-9
            assert abs(float(dropped.double().mean()) - 0.25) < 5 * (0.25 * 0.75 / 2000) ** 0.5
            assert float((rows[dropped] - missing).abs().max()) < 1e-12


def test_times_by_site_are_read_where_there_are_data() -> None:
    io = LABELLED
    network = built(attrs.evolve(SMALL, site_times=True, masks=True), io)
    features, t = inputs(io)
    same = t[:, None].expand(features.shape)
    shared = network(features, t)
    assert torch.allclose(network(features, same), shared, rtol=0, atol=1e-12)
    mask = torch.ones(features.shape, dtype=torch.bool)
    assert torch.equal(network(features, t, mask=mask), shared)
    late = io.split(same.clone())
    late["image"][:, 2, 3] = 1.0
    assert not torch.allclose(network(features, io.join(late)), shared)
    label_late = {**io.split(same), "label": torch.ones(4, 10, dtype=torch.float64)}
    assert not torch.allclose(network(features, io.join(label_late)), shared)
    there = io.split(mask.clone())
    there["image"][:, 2, 3] = False
    gaps = io.join(there)
    masked = network(features, same, mask=gaps)
    assert not torch.allclose(masked, shared)
    noise = torch.where(gaps, features, 7.0), torch.where(gaps, same, 0.1)
    assert torch.allclose(network(noise[0], noise[1], mask=gaps), masked, rtol=0, atol=1e-12)


@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_gradient_checkpointing_gives_the_same_gradients(dropout: float) -> None:
    config, gradients = attrs.evolve(SMALL, dropout=dropout, attention=(1,)), []
    for again in (False, True):
        network = built(attrs.evolve(config, gradient_checkpointing=again)).train()
        with seeded(0, "dropout"):
            network(*inputs()).square().sum().backward()
        gradients.append([weight.grad for weight in network.parameters()])
    assert all(a is not None and torch.equal(a, b) for a, b in zip(*gradients, strict=True))


@pytest.mark.filterwarnings("ignore")  # torch's compiler warns of itself
def test_the_compiler_takes_it_as_one_graph() -> None:
    config = attrs.evolve(SMALL, labels=3, condition_shapes={"v": (2,), "m": (5, 7)}, site_times=True, masks=True)
    network = built(attrs.evolve(config, gradient_checkpointing=True), LABELLED)
    features, t = inputs(LABELLED)
    condition = {"label": torch.tensor([0, 1, 2, -1]), "v": torch.ones(4, 2).double()}
    compiled = torch.compile(network, fullgraph=True, backend="aot_eager")(features, t, **condition)
    assert torch.allclose(compiled, network(features, t, **condition), rtol=0, atol=1e-12)
    compiled.square().sum().backward()
    assert {name for name, w in network.named_parameters() if w.grad is None} == {"embeddings.0.missing"}  # all have v


@pytest.mark.parametrize("config", [SMALL, ImprovedUNet(32, (1, 2), 1), VDMUNet(16, 1, groups=8)])
def test_bfloat16_is_near(config: Any) -> None:
    network = built(config).float().train(False)
    features, t = (value.float() for value in inputs())
    with torch.autocast("cpu", torch.bfloat16):
        near = network(features, t)
        near.float().square().sum().backward()
    assert all(torch.isfinite(weight.grad).all() for weight in network.parameters() if weight.grad is not None)
    exact = network(features, t)
    difference = (near.float() - exact).detach().abs().max() / exact.detach().abs().max()
    assert float(difference) < 0.05  # rounding of 0.4 % in some ten layers


FAMILIES = {
    "skip": Gaussian((5, 7)),
    "noise": Gaussian((7, 5, 3), head=NoiseHead(), axes=("height", "width", "channel")),
    "discretised": Gaussian((3, 4, 4), 1e-3, DiscretisedHead(bins=16)),
    "mixture": Gaussian((4, 4), 0.1, MixtureHead(components=2)),
    "bits": Categorical((4, 4)),
    "classes": Categorical((4, 5, 2), 5, axes=("width", "height", "channel")),
    "angles": Circle((4, 5), axes=("height", "width")),
    "labelled": ProductFamily({"image": Gaussian((4, 4)), "label": Categorical((), 3)}),
}


@pytest.mark.parametrize("name", FAMILIES)
def test_every_family_of_images_trains_and_samples(name: str) -> None:
    family = FAMILIES[name]
    with seeded(0, "model"):
        model = BFN(family, attrs.evolve(SMALL, site_times=True, masks=True, self_conditioning=True))
        moved(model.network).float()
        x = model.sample(3, n_steps=3)
        loss = model.loss(x)
        loss.mean().backward()
    assert torch.isfinite(loss).all()
    assert all(w.grad is not None and torch.isfinite(w.grad).all() for w in model.network.parameters())


def test_labels_of_the_data_are_learned_with_their_images() -> None:
    """A stripe at one of three columns: the beliefs about the image tell the label."""
    family = ProductFamily({"image": Gaussian((3, 4), 0.1), "label": Categorical((), 3)})
    label = torch.arange(30) % 3
    image = torch.full((30, 3, 4), -1.0)
    image[torch.arange(30), :, label] = 1.0
    x = {"image": image, "label": label}
    with seeded(0, "training"):
        model = BFN(family, SMALL)
        before = model.loss(x).mean()
        optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3)
        for _ in range(100):
            optimizer.zero_grad()
            model.loss(x).mean().backward()
            optimizer.step()
        drawn = model.eval().sample(100, n_steps=20)
    stripes = torch.stack([drawn["image"][:, :, i].mean(1) for i in range(3)], 1)
    assert model.loss(x).mean() < before / 2
    assert float((stripes.argmax(1) == drawn["label"]).double().mean()) > 0.95  # a third by chance
