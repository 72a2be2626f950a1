"""Digits: what the pixels are, and splits that do not overlap."""

from __future__ import annotations

import sys

import pytest
import torch
from sklearn.datasets import load_digits

import bfn_digits
from bfn_categorical import Categorical
from bfn_digits import Digits
from bfn_toolkit import ConfigError, Experiment

IMAGES = torch.from_numpy(load_digits().images)
LABELS = torch.from_numpy(load_digits().target)
FORMS = [Digits(), Digits("classes"), Digits("binary")]


@pytest.mark.parametrize("dataset", FORMS, ids=str)
def test_every_image_is_in_one_split(dataset: Digits) -> None:
    splits = [dataset.split(name) for name in ("train", "valid", "test")]
    assert [len(split) for split in splits] == [1348, 150, 299]
    assert len(dataset.split("all")) == 1498
    if dataset.pixels != "binary":  # of which two could be alike
        rows = torch.cat([split.x for split in splits]).flatten(1)
        assert len(rows.unique(dim=0)) == 1797


def test_the_test_is_the_same_for_every_seed() -> None:
    one, other = Digits(seed=1), Digits(seed=2, valid_fraction=0.3)
    assert torch.equal(one.split("test").x, other.split("test").x)
    assert torch.equal(one.split("all").x, other.split("all").x)
    assert not torch.equal(one.split("train").x[:100], other.split("train").x[:100])


def test_labels_belong_to_their_images() -> None:
    known = {tuple(image.flatten().tolist()): int(label) for image, label in zip(IMAGES, LABELS, strict=True)}
    for name in ("train", "valid", "test", "all"):
        rows = Digits("classes").split(name)
        assert rows.condition["label"].dtype == torch.int64
        found = [known[tuple(image)] for image in rows.x.flatten(1).double().tolist()]
        assert rows.condition["label"].tolist() == found
        assert set(found) == set(range(10))


def test_pixels_are_bin_centres_levels_or_black_and_white() -> None:
    levels = IMAGES[torch.arange(1797) % 6 == 5]
    bins, classes, binary = (dataset.split("test").x for dataset in FORMS)
    assert (bins.dtype, classes.dtype, binary.dtype) == (torch.float32, torch.int64, torch.int64)
    assert torch.equal(classes, levels.long())
    assert torch.equal(binary, (levels > 8).long())
    assert torch.allclose(bins.double(), (2 * levels + 1) / 17 - 1, rtol=0, atol=16 * 2.0**-24)
    assert classes.unique().tolist() == list(range(17))


def test_facts_are_of_the_data() -> None:
    bins, classes, binary = (dataset.metadata for dataset in FORMS)
    assert abs(((2 * IMAGES + 1) / 17 - 1).square().mean() - bins["data_variance"]) <= 1e-6
    assert (bins["bins"], classes["classes"], binary["classes"]) == (17, 17, 2)
    assert all(facts["labels"] == LABELS.max() + 1 for facts in (bins, classes, binary))
    assert all(facts["site_shape"] == (8, 8) for facts in (bins, classes, binary))


def test_the_recipe_is_for_bins_and_labels() -> None:
    experiment = Experiment.from_mapping({"dataset": "digits"}, base="default")
    assert experiment.family.sigma_1 == 0.5 / 17  # a quarter of a bin
    assert experiment.network.labels == 10
    assert experiment.family.site_shape == (8, 8)
    assert experiment.family.head.bins == 17


@pytest.mark.parametrize(("pixels", "classes"), [("classes", 17), ("binary", 2)])
def test_classes_ask_for_another_family(pixels: str, classes: int) -> None:
    experiment = Experiment.from_mapping({"dataset": {"name": "digits", "pixels": pixels}}, base="default")
    assert isinstance(experiment.family, Categorical)
    assert (experiment.network.labels, experiment.family.classes) == (10, classes)
    experiment.family.check_data(experiment.dataset.split("train").x)


def test_what_is_missing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    bfn_digits._digits.cache_clear()
    with pytest.raises(ConfigError, match=r"pip install scikit-learn"):
        Digits().split("train")
    assert Digits().metadata["site_shape"] == (8, 8)  # without the images


def test_pixels_are_one_of_three() -> None:
    with pytest.raises(ValueError, match="pixels"):
        Digits("grey")
