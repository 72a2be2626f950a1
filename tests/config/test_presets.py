"""The presets: those of the paper to the value and to the parameter, and small ones that take a step."""

from __future__ import annotations

import gzip
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from bfn_toolkit import BFN, Experiment, train
from bfn_toolkit.config.layers import preset_text, presets

RNG = np.random.default_rng(0)


def digits(folder: Path) -> Path:
    """Files as those of MNIST."""
    for part, count in (("train", 40), ("t10k", 10)):
        for kind, array in (
            ("images-idx3-ubyte", RNG.integers(0, 256, (count, 28, 28))),
            ("labels-idx1-ubyte", np.arange(count) % 10),
        ):
            header = struct.pack(f">BBBB{array.ndim}I", 0, 0, 8, array.ndim, *array.shape)
            data = header + array.astype(np.uint8).tobytes()
            (folder / f"{part}-{kind}.gz").write_bytes(gzip.compress(data))
    return folder


def colours(folder: Path) -> Path:
    np.save(folder / "x.npy", RNG.integers(0, 256, (40, 32, 32, 3)).astype(np.uint8))
    return folder / "x.npy"


def letters(folder: Path) -> Path:
    text = "".join(RNG.choice(list(" abcdefghijklmnopqrstuvwxyz"), 20_000))
    (folder / "text").write_text(text)
    return folder / "text"


DATA = {"mnist": digits, "cifar10": colours, "cifar10-16": colours, "text8": letters}
NOISE = {"name": "noise", "clip": 1.0, "t_min": 1e-6}
LOSS = {"name": "continuous-time", "weighting": "paper", "times": {"name": "uniform"}}
VDM = {
    "name": "unet-vdm",
    "width": 128,
    "blocks": 32,
    "heads": 1,
    "groups": 32,
    "attention_everywhere": False,
    "fourier": (5, 6),
    "dropout": 0.1,
}
TRAINING = {
    "optimizer": "adamw",
    "scheduler": "constant",
    "warmup": 0,
    "accumulate": 1,
    "clip_norm": 5.0,
    "ema_decay": 0.9999,
    "precision": "fp32",
    "known_rate": 0.0,
}


def adam(*betas: float) -> Mapping[str, object]:
    return {"betas": list(betas), "eps": 1e-8, "weight_decay": 0.01}


def cifar(bins: int, variance: float, head: Mapping[str, object]) -> Mapping[str, Any]:
    return {
        "dataset": {"name": "images", "bins": bins, "pixels": "bins", "binarise": "none", "flip": False},
        "family": {
            "name": "gaussian",
            "site_shape": (32, 32, 3),
            "axes": ("height", "width", "channel"),
            "sigma_1": pytest.approx(variance**0.5, rel=1e-12),
            "head": head,
        },
        "network": VDM,
        "loss": LOSS,
        "training": {
            **TRAINING,
            "steps": 1_000_000,
            "batch_size": 32,
            "lr": 2e-4,
            "optimizer_options": adam(0.9, 0.99),
        },
    }


PUBLISHED: dict[str, tuple[int, Mapping[str, Any]]] = {
    "mnist": (
        24_808_961,
        {
            "dataset": {"name": "images", "binarise": "dynamic", "flip": False},
            "family": {
                "name": "categorical",
                "site_shape": (28, 28),
                "axes": ("height", "width"),
                "classes": 2,
                "beta_1": 9.0,
                "skip": False,
                "entropy_linear": False,
            },
            "network": {
                "name": "unet-improved",
                "width": 128,
                "multipliers": (1, 2, 2),
                "blocks": 2,
                "attention": (8, 16),
                "heads": 4,
                "dropout": 0.5,
            },
            "loss": LOSS,
            "training": {
                **TRAINING,
                "steps": 1_000_000,
                "batch_size": 512,
                "lr": 1e-4,
                "optimizer_options": adam(0.9, 0.98),
            },
        },
    ),
    "cifar10": (30_722_188, cifar(256, 1e-6, NOISE)),
    "cifar10-16": (
        30_722_584,
        cifar(16, 1e-3, {"name": "discretised", "bins": 16, "form": "clipped", "point": NOISE}),
    ),
    "text8": (
        170_175_003,
        {
            "dataset": {
                "name": "text",
                "length": 256,
                "unit": "characters",
                "alphabet": "text8",
                "windows": "random",
                "split": "blocks",
                "valid_fraction": 0.05,
                "test_fraction": 0.05,
            },
            "family": {
                "name": "categorical",
                "site_shape": (256,),
                "classes": 27,
                "beta_1": 0.5625,
                "skip": False,
                "entropy_linear": False,
            },
            "network": {"name": "gpt", "width": 768, "depth": 24, "heads": 12, "dropout": 0.0},
            "loss": LOSS,
            "training": {
                **TRAINING,
                "steps": 10_000_000,
                "batch_size": 3328,
                "lr": 1e-4,
                "optimizer_options": adam(0.9, 0.98),
            },
        },
    ),
}


def check_values(found: Mapping[str, Any], expected: Mapping[str, Any], place: str = "") -> None:
    for name, value in expected.items():
        if isinstance(value, Mapping):
            check_values(found[name], value, f"{place}.{name}")
        else:
            have = tuple(found[name]) if isinstance(value, tuple) else found[name]
            assert have == value, f"{place}.{name}"


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_presets_have_the_published_values_and_parameters(tmp_path: Path, name: str) -> None:
    parameters, values = PUBLISHED[name]
    experiment = Experiment.from_path(DATA[name](tmp_path), preset=name)
    check_values(experiment.to_mapping(), values)
    with torch.device("meta"):
        model = BFN(experiment.family, experiment.network)
    assert sum(weight.numel() for weight in model.parameters()) == parameters


@pytest.mark.parametrize("name", DATA)
def test_small_presets_take_a_step(tmp_path: Path, name: str) -> None:
    overrides = [("training.steps", "1"), ("training.batch_size", "2"), ("training.warmup", "0")]
    experiment = Experiment.from_path(DATA[name](tmp_path), None, f"{name}-small", overrides)
    assert experiment.family.is_discrete == (PUBLISHED[name][1]["family"]["name"] == "categorical")
    assert len(train(experiment).metrics) == 1


@pytest.mark.parametrize("name", presets())
def test_presets_say_what_they_are_for_and_the_published_ones_their_source(name: str) -> None:
    first, *lines = preset_text(name).splitlines()
    assert first.startswith("# ")
    assert first.endswith(".")
    assert any(line.startswith("# Source: ") for line in lines) == (name in {*PUBLISHED, "post"})
