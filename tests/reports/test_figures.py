"""Figures draw what the family says an example is, and a family of a plugin may say something else."""

from __future__ import annotations

import io
from typing import Any

import attrs
import numpy as np
import pytest
import torch
from torch import Tensor

from bfn_categorical import Categorical
from bfn_directional import Circle, Rotations, Sphere
from bfn_gaussian import Gaussian
from bfn_mlp import MLP
from bfn_toolkit import (
    BFN,
    Batch,
    Codec,
    ExampleKind,
    Family,
    ImageCodec,
    ProductFamily,
    TableCodec,
    TextCodec,
    mask_of_sizes,
    seeded,
)
from bfn_toolkit.reports.figures import data_figure, flow_paths, flows_figure, samples_figure

KINDS = [
    (Gaussian(site_shape=(1,)), ExampleKind.NUMBER),
    (Gaussian(site_shape=(2,)), ExampleKind.POINTS),
    (Gaussian(site_shape=(8, 8)), ExampleKind.IMAGE),
    (Gaussian(site_shape=(20, 3)), ExampleKind.POINTS),
    (Gaussian(site_shape=(20, 4), axes=("set", "channel")), ExampleKind.POINTS),
    (Gaussian(site_shape=(20, 3), axes=("set", "channel")), ExampleKind.SET),
    (Gaussian(site_shape=(9, 8, 3), axes=("height", "width", "channel")), ExampleKind.IMAGE),
    (Gaussian(site_shape=(9, 8, 4), axes=("height", "width", "channel")), ExampleKind.POINTS),
    (Gaussian(site_shape=(3, 8, 9)), ExampleKind.IMAGE),
    (Categorical(site_shape=(2, 3), axes=("height", "width")), ExampleKind.IMAGE),
    (Categorical(site_shape=(8, 8)), ExampleKind.IMAGE),
    (Categorical(site_shape=(1,)), ExampleKind.CLASS),
    (Categorical(site_shape=(9,)), ExampleKind.SEQUENCE),
    (Circle(), ExampleKind.NUMBER),
    (Sphere(site_shape=(5, 3)), ExampleKind.POINTS),
    (Rotations(site_shape=(4, 3, 3)), ExampleKind.POINTS),
    (ProductFamily({"u": Gaussian(), "k": Categorical()}), ExampleKind.ROW),
]


@pytest.mark.parametrize(("family", "kind"), KINDS, ids=lambda value: str(value))
def test_the_kind_of_an_example_follows_from_family_and_shape(family: Family[Any], kind: ExampleKind) -> None:
    assert family.example_kind is kind


@attrs.frozen
class Table(Gaussian):
    """Numbers in a grid that are no picture."""

    @property
    def example_kind(self) -> ExampleKind:
        return ExampleKind.POINTS


def drawn(axis: Any) -> str:
    """Which artists a panel has."""
    names = ("images", "patches", "collections")
    return ", ".join(name for name in names if getattr(axis, name))


@pytest.mark.parametrize(
    ("family", "artists"),
    [
        (Gaussian(site_shape=(8, 8)), "images"),
        (Table(site_shape=(8, 8)), "collections"),
        (Gaussian(site_shape=(1,)), "patches"),
        (Gaussian(site_shape=(3,)), "collections"),
        (Categorical(site_shape=(5,)), "patches"),
    ],
    ids=lambda value: str(value),
)
def test_samples_are_drawn_as_the_family_says(family: Family[Any], artists: str) -> None:
    with seeded(0):
        x: Tensor = family.input(family.prior(30)).sample()
    for figure in (data_figure(family, x), samples_figure(family, x, x, 10)):
        assert {drawn(axis) for axis in figure.axes} == {artists}


def test_a_product_has_a_row_of_panels_for_each_part() -> None:
    family = ProductFamily({"u": Gaussian(site_shape=(2,)), "k": Categorical(classes=3)})
    with seeded(0):
        x = family.input(family.prior(30)).sample()
    figure = samples_figure(family, x, x, 10)
    assert [drawn(axis) for axis in figure.axes] == ["collections", "collections", "patches", "patches"]
    assert figure.axes[0].get_title().startswith("u (30")
    assert torch.equal(x["k"], family.join(x)["k"])


def test_data_of_a_codec_are_drawn_in_the_users_units_and_names() -> None:
    with seeded(0):
        x = torch.randn(50, 2)
    codec = TableCodec(shift=(170.0, 70.0), scale=(10.0, 5.0), names=("height_$cm$", "weight"))
    figure = samples_figure(Gaussian(site_shape=(2,)), x, x, 10, codec)
    for axis in figure.axes:
        assert (axis.get_xlabel(), axis.get_ylabel()) == (r"height_\$cm\$", "weight")
        points = torch.as_tensor(axis.collections[0].get_offsets())
        assert torch.equal(points, codec.decode(x))
    text = TextCodec("ab\n", length=4)
    lines, axis = data_figure(Categorical(site_shape=(4,), classes=3), torch.randint(3, (20, 4)), text).axes
    assert len(lines.texts) == 1
    assert [label.get_text() for label in axis.get_xticklabels()] == ["a", "b", r"'\n'"]
    figure.savefig(io.BytesIO())  # matplotlib reads the names when it draws


@pytest.mark.parametrize("axes", [("height", "width", "channel"), ("channel", "height", "width")])
def test_colours_are_drawn_as_they_are(axes: tuple[str, ...]) -> None:
    """A red, a green and a blue picture, whatever the order of the axes."""
    x = -torch.ones(3, 6, 5, 3)
    for i in range(3):
        x[i, ..., i] = 1.0
    x = x.permute(0, 3, 1, 2) if axes[0] == "channel" else x
    family = Gaussian(site_shape=x.shape[1:], axes=axes)
    labels = Batch(x, {"label": torch.tensor([2, 0, 1])})
    (axis,) = data_figure(family, labels, ImageCodec(256, categories={"label": ("red $", "green", "blue")})).axes
    sheet = np.asarray(axis.images[0].get_array())
    assert [text.get_text() for text in axis.texts] == ["blue", "red $", "green"]
    pixels = sheet.reshape(-1, 3)
    for colour in np.eye(3):
        assert int((pixels == colour).all(1).sum()) == 30  # 6 x 5 pixels each
    axis.figure.savefig(io.BytesIO())


def test_the_largest_number_of_a_grey_image_is_white() -> None:
    x = torch.linspace(-0.5, 0.9, 64).reshape(1, 8, 8)
    (axis,) = data_figure(Gaussian(site_shape=(8, 8)), x).axes
    image = axis.images[0]
    shown = image.to_rgba(image.get_array())
    assert shown[-1, -2].tolist() == pytest.approx([1.0] * 4)
    assert shown[1, 0].tolist() == pytest.approx([0.0, 0.0, 0.0, 1.0])


def test_texts_are_drawn_without_formulas_and_missing_ends() -> None:
    text = TextCodec("ab$\N{SNOWMAN}\n\N{CJK UNIFIED IDEOGRAPH-4E2D}", length=4)
    x = torch.tensor([[0, 2, 2, 1], [3, 4, 0, 0], [5, 0, 0, 0]])
    rows = Batch(x, mask=torch.tensor([4, 2, 1]).unsqueeze(1) > torch.arange(4))
    family = Categorical(site_shape=(4,), classes=6)
    figure = samples_figure(family, rows, rows, 10, text)
    lines, bars = figure.axes[0], figure.axes[2]
    assert lines.texts[0].get_text().splitlines() == ["a$$b", "\N{SNOWMAN}\\n", "\N{WHITE SQUARE}"]
    heights = [bar.get_height() for bar in bars.patches]
    assert heights == pytest.approx([1 / 7, 1 / 7, 2 / 7, 1 / 7, 1 / 7, 1 / 7])  # of the seven that are present
    figure.savefig(io.BytesIO())


@pytest.mark.parametrize("dimensions", [2, 3])
def test_sets_are_drawn_without_the_places_that_are_empty(dimensions: int) -> None:
    family = ProductFamily(
        {
            "positions": Gaussian(site_shape=(4, dimensions), axes=("set", "channel")),
            "types": Categorical(site_shape=(4,), classes=3, axes=("set",)),
        }
    )
    with seeded(0):
        sizes = torch.randint(1, 5, (9,))
        there = torch.arange(4) < sizes.unsqueeze(1)
        x = {"positions": torch.randn(9, 4, dimensions), "types": torch.randint(3, (9, 4))}
    x["positions"][~there] = torch.nan
    figure = samples_figure(family, Batch(x, mask=there), Batch(x, mask=there), 10)
    for axis in figure.axes[:2]:
        drawn_points = max(len(collection.get_offsets()) for collection in axis.collections)
        assert drawn_points == int(sizes.sum())
        assert [text.get_text() for text in axis.texts] == [f"n = {size}" for size in sizes.tolist()]
        assert len(axis.get_legend().get_texts()) == len(x["types"][there].unique())
    figure.savefig(io.BytesIO())


FLOWS = [
    (Gaussian(site_shape=(4, 5, 3), axes=("height", "width", "channel")), None, "images"),
    (Categorical(site_shape=(4, 4)), None, "images"),
    (Gaussian(site_shape=(4, 2), axes=("set", "channel")), None, "collections"),
    (Categorical(site_shape=(6,), classes=3), TextCodec("abc", length=6), "texts"),
    (Categorical(site_shape=(6,), classes=3), None, "images"),
    (Categorical(site_shape=(1,), classes=25), None, "images"),
    (Gaussian(site_shape=(1,)), None, "lines"),
    (Circle(), None, "lines"),
    (Gaussian(site_shape=(2,)), None, "collections, lines"),
    (Sphere(site_shape=(5, 3)), None, "collections, lines"),
    (
        ProductFamily({"u": Gaussian(site_shape=(2,)), "k": Categorical(classes=3)}),
        None,
        "collections, images, lines",
    ),
]


@pytest.mark.parametrize(("family", "codec", "artists"), FLOWS, ids=lambda value: type(value).__name__)
def test_flows_show_what_the_network_expects(family: Family[Any], codec: Codec | None, artists: str) -> None:
    model = BFN(family, MLP(width=4)).eval()
    mask = None
    if not family.has_parts:
        mask = mask_of_sizes(family, torch.arange(flow_paths(family, codec)) % family.network_io.site_shape[0] + 1)
    figure = flows_figure(model, 5, codec=codec, mask=mask)
    kinds, expected = ("images", "collections", "lines"), set(artists.split(", "))
    assert {kind for kind in kinds if any(getattr(axis, kind) for axis in figure.axes)} == expected - {"texts"}
    assert "texts" not in expected or figure.axes[0].texts
    figure.savefig(io.BytesIO())
