"""A bug in a part of a user: status 5, with part, line and arguments, and no half-made run."""

from __future__ import annotations

import functools
import json
import operator
import os
from pathlib import Path

import pytest
import user_parts

from bfn_toolkit.cli import BUG, main
from bfn_toolkit.registry import default_registry

TRAIN = (
    "train --no-report --network user-network --family user-family --dataset user-data --loss user-loss "
    "--dataset.count 60 --training.steps 3 --training.batch_size 16 --training.device cpu "
    "--training.checkpoint_every 1 --out"
)


@pytest.fixture
def parts(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Registers the parts of a user for one test; returns an empty working directory."""
    registry = default_registry()
    monkeypatch.setattr(registry, "plugins", list(registry.plugins))
    monkeypatch.setattr(registry, "_loaded", dict(registry._loaded))
    registry.register(user_parts)
    user_parts.UserLoss.calls.clear()
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("fault", "part", "words"),
    [
        (
            "build:zero",
            "network 'user-network'",
            "division by zero; build was given io = NetworkIO(",
        ),
        (
            "forward:torch",
            "network 'user-network'",
            "forward was given features = float32 (16, 1, 1), t = float32 (16,)",
        ),
        ("features:recursion", "family 'user-family'", "params = GaussianParams(mean=float32 (16, 1), "),
        ("split:key", "dataset 'user-data'", "KeyError: 'missing'; split was given name = 'train'"),
        ("metadata:attribute", "UserData.metadata raised AttributeError", "'NoneType' object has no attribute 'value'"),
        ("loss:exit", "loss 'user-loss'", "SystemExit: 3"),
    ],
)
def test_a_bug_of_a_user_is_told_with_part_line_and_arguments(
    parts: Path, fault: str, part: str, words: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("FAULT", fault)
    assert main([*TRAIN.split(), "runs/a"]) == 5
    said = capsys.readouterr().err
    assert f"error: {part}" in said
    assert "user_parts.py, line " in said
    assert words in said
    assert "Traceback" not in said
    assert "bug in bfn-toolkit" not in said
    assert list(parts.iterdir()) == []


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ("build:none", "UserNetwork.build returned a NoneType; expected a torch.nn.Module"),
        ("forward:none", "Net returned NoneType, expected a tensor of shape (16, 1, 1)"),
        ("features:none", "UserFamily.features returned a NoneType, expected a tensor of shape (B, 1, 1)"),
        ("split:none", "UserData returned a NoneType for its training rows; expected a Batch"),
        ("loss:none", "UserLoss returned a NoneType; expected a floating number for each row"),
    ],
)
def test_a_part_that_returns_something_else_is_named(
    parts: Path, fault: str, words: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("FAULT", fault)
    assert main([*TRAIN.split(), "runs/a"]) == 5
    assert words in capsys.readouterr().err
    assert list(parts.iterdir()) == []


def test_a_directory_that_was_there_stays_and_so_do_the_steps_before_a_bug(
    parts: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (parts / "mine").mkdir()
    monkeypatch.setenv("FAULT", "forward:zero")
    assert main([*TRAIN.split(), "mine"]) == 5
    assert [path for path in (parts / "mine").iterdir() if path.name != ".lock"] == []
    monkeypatch.setenv("FAULT", "later:zero")
    assert main([*TRAIN.split(), "mine"]) == 5
    assert list((parts / "mine" / "checkpoints").iterdir()) != []
    monkeypatch.delenv("FAULT")
    capsys.readouterr()
    assert main(["train", "--resume", "mine", "--no-report"]) == 0


def test_what_parts_print_does_not_reach_the_results(
    parts: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    assert main([*TRAIN.split(), "a"]) == 0
    monkeypatch.setenv("FAULT", "speech")
    capfd.readouterr()
    assert main(["evaluate", "a", "--steps", "2", "-n", "20", "--json"]) == 0
    told = capfd.readouterr()
    assert json.loads(told.out)
    assert "at run time" in told.err
    assert "by a descriptor" in told.err
    os.write(1, b"afterwards")
    assert capfd.readouterr().out == "afterwards"  # the descriptor is as it was


def test_a_fault_of_our_own_beside_parts_of_a_user_is_ours(
    parts: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("bfn_toolkit.cli.plugins.presets_list", functools.partial(operator.getitem, {}))
    assert main(["presets"]) == BUG
    assert "Traceback" in capsys.readouterr().err
