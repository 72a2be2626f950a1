"""Figures draw what the family says an example is, and a family of a plugin may say something else."""

from __future__ import annotations

import io
from typing import Any

import attrs
import pytest
import torch
from torch import Tensor

from bfn_categorical import Categorical
from bfn_directional import Circle, Rotations, Sphere
from bfn_gaussian import Gaussian
from bfn_toolkit import ExampleKind, Family, ProductFamily, TableCodec, TextCodec, seeded
from bfn_toolkit.reports.figures import data_figure, samples_figure

KINDS = [
    (Gaussian(site_shape=(1,)), ExampleKind.NUMBER),
    (Gaussian(site_shape=(2,)), ExampleKind.POINTS),
    (Gaussian(site_shape=(8, 8)), ExampleKind.IMAGE),
    (Gaussian(site_shape=(20, 3)), ExampleKind.POINTS),
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
    (axis,) = data_figure(Categorical(site_shape=(4,), classes=3), torch.randint(3, (20, 4)), text).axes
    assert [label.get_text() for label in axis.get_xticklabels()] == ["a", "b", r"'\n'"]
    figure.savefig(io.BytesIO())  # matplotlib reads the names when it draws
