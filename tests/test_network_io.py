"""Sizes of networks by parts, and the views of their features."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, strategies as st

from bfn_categorical import Categorical
from bfn_gaussian import Gaussian
from bfn_toolkit import ConfigError, NetworkIO, PartIO, ProductFamily

PARTS = {
    "image": PartIO((3, 8, 6), ("channel", "height", "width"), 2, 1),
    "depth": PartIO((8, 6), ("height", "width"), 1, 3),
    "last": PartIO((8, 6, 2), ("height", "width", "channel"), 1, 2),
    "label": PartIO((), (), 10, 10, "classes", 10),
    "text": PartIO((5,), ("sequence",), 4, 4, "classes", 4),
    "position": PartIO((7, 3), ("set", "channel"), 1, 1),
    "type": PartIO((7,), ("set",), 3, 3, "classes", 3),
    "number": PartIO((1,)),
}
CHOICES = st.lists(st.sampled_from(list(PARTS)), min_size=1, unique=True)


def wire(io: NetworkIO, numbers: int) -> torch.Tensor:
    return torch.arange(3 * math.prod(io.site_shape) * numbers).reshape(3, *io.site_shape, numbers)


@given(CHOICES)
def test_parts_and_rows_are_a_change_of_form(names: list[str]) -> None:
    io = NetworkIO(parts={name: PARTS[name] for name in names})
    features, raw = wire(io, io.in_features), wire(io, io.out_features)
    assert torch.equal(io.join(io.split(features)), features)
    assert torch.equal(io.join(io.split(raw, "out_features")), raw)
    flat = io.flat()
    assert flat.pack(features).shape == (3, flat.in_numbers)
    assert torch.equal(flat.unpack(raw.reshape(3, flat.out_numbers)), raw)


@given(CHOICES, st.sampled_from([1, 2]))
def test_tokens_hold_every_number_once_and_come_back(names: list[str], patch: int) -> None:
    io = NetworkIO(parts={name: attrs_same(PARTS[name]) for name in names})  # as many raw numbers as features
    view, features = io.tokens(patch), wire(io, io.in_features)
    tokens = view.pack(features)
    assert [t.shape for t in tokens] == [(3, group.count, group.in_numbers) for group in view.groups]
    assert sorted(torch.cat([t.flatten() for t in tokens]).tolist()) == sorted(features.flatten().tolist())
    assert torch.equal(view.unpack(tokens), features)


@given(CHOICES)
def test_images_come_back(names: list[str]) -> None:
    io = NetworkIO(parts={name: attrs_same(PARTS[name]) for name in names})
    if not {"image", "depth", "last"} & set(names):
        with pytest.raises(ConfigError, match="no image"):
            io.image()
        return
    view, features = io.image(), wire(io, io.in_features)
    image, vector = view.pack(features)
    assert image.shape == (3, view.in_channels, 8, 6)
    assert (vector is None) == (view.in_vector == 0)
    assert torch.equal(view.unpack(image, vector), features)


def attrs_same(part: PartIO) -> PartIO:
    return PartIO(part.shape, part.axes, part.in_features, part.in_features)


def test_pixels_are_where_they_should_be() -> None:
    x = torch.arange(8 * 6 * 2).reshape(1, 8, 6, 2, 1)
    image, _ = NetworkIO((8, 6, 2), axes=("height", "width", "channel")).image().pack(x)
    assert image[0, 1, 5, 4] == x[0, 5, 4, 1, 0]
    patches = NetworkIO((8, 6)).tokens(2).pack(torch.arange(48).reshape(1, 8, 6, 1))[0]
    assert patches[0, 4].tolist() == [14, 15, 20, 21]  # rows 2 and 3, columns 2 and 3


def test_points_of_a_set_share_their_tokens_and_columns_do_not() -> None:
    atoms = ProductFamily(
        {
            "position": Gaussian((7, 3), axes=("set", "channel")),
            "type": Categorical((7,), classes=5, axes=("set",)),
            "energy": Gaussian(()),
        }
    )
    points, energy = atoms.network_io.tokens().groups
    assert (points.names, points.count, points.in_numbers, points.is_set) == (("position", "type"), 7, 3 + 5, True)
    assert (energy.count, energy.in_numbers) == (1, 1)
    table = NetworkIO(parts={"a": PartIO((1,)), "b": PartIO((1,))})
    assert [group.names for group in table.tokens().groups] == [("a",), ("b",)]


def test_spread_gives_each_feature_the_value_of_its_site() -> None:
    io = NetworkIO(parts={"x": PartIO((2, 3), (), 2), "y": PartIO((2,), (), 3)})
    t = {"x": torch.tensor([[0.1, 0.2]]), "y": torch.tensor([0.5])}
    spread = io.spread(t)
    assert spread.shape == (1, 2, 9)
    assert torch.equal(io.split(spread)["x"][0, 1], torch.full((3, 2), 0.2))
    assert torch.equal(io.split(spread)["y"], torch.full((1, 2, 3), 0.5))


def test_an_unclear_order_of_axes_is_an_error() -> None:
    for shape in ((8, 8, 3), (4, 4, 3)):
        with pytest.raises(ConfigError, match=r'axes=\("height", "width", "channel"\)'):
            NetworkIO(shape).image()
    assert NetworkIO((3, 8, 8)).image().in_channels == 3
    with pytest.raises(ConfigError, match="different sizes"):
        NetworkIO(parts={"a": PartIO((8, 8)), "b": PartIO((4, 4))}).image()
    with pytest.raises(ConfigError, match="do not divide"):
        NetworkIO((9, 9)).tokens(2)


def test_axes_are_checked() -> None:
    with pytest.raises(ValueError, match="each of the 2 axes"):
        Gaussian((8, 8), axes=("height",))
    with pytest.raises(ValueError, match="different names"):
        Categorical((8, 8), axes=("height", "hight"))
    with pytest.raises(ConfigError, match="needs a site_shape, or parts"):
        NetworkIO()


def test_coarse_numbers_are_the_last_of_each_site_and_all_of_a_part_without_them() -> None:
    io = NetworkIO(parts={"a": PartIO((2,), in_features=3, out_features=4, coarse=(1, 2)), "b": PartIO((1,))})
    assert io.flat().coarse("in_features").tolist() == [2, 5, 6]
    assert io.flat().coarse("out_features").tolist() == [2, 3, 6, 7, 8]
