"""The benchmark of real data: what is kept and measured again, its goals, its page, and the peer for strings."""

from __future__ import annotations

import itertools
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from benchmarks.data import __main__ as command, common, images
from benchmarks.data.autoregressive import Autoregressive
from benchmarks.data.goals import Goal
from bfn_transformer.transformer import Transformer

ROOT = Path(__file__).parents[2]


@pytest.fixture
def measured(tmp_path, monkeypatch):
    """Calls the command with two measurements; returns which of them it measured."""
    monkeypatch.setattr(common, "RESULTS", tmp_path / "results")
    monkeypatch.setattr(common.Cache, "since", 0.0)
    for module in (common, command):
        monkeypatch.setattr(module, "CACHE", tmp_path / "cache")
    done: list[str] = []

    def measure(name):
        if done.count(name) == 0 and name == "fails once":
            done.append(name)
            raise KeyboardInterrupt
        done.append(name)
        return {"value": 1.0}

    runs = {name: common.Run(lambda quick, name=name: measure(name), 1.0) for name in ("first", "fails once", "last")}
    monkeypatch.setattr(command, "subjects", lambda: [SimpleNamespace(RUNS=runs, section=lambda results: "")])

    def call(*words):
        monkeypatch.setattr(sys, "argv", ["benchmarks.data", *words])
        done.clear() if "--again" in words else None
        before = len(done)
        try:
            command.main()
        except KeyboardInterrupt:
            return [*done[before:], "interrupted"]
        return done[before:]

    return call


def test_an_interrupted_benchmark_goes_on_with_what_is_missing(measured, capsys):
    assert measured() == ["first", "fails once", "interrupted"]
    assert measured() == ["fails once", "last"]
    assert measured() == []
    assert measured("--only", "last", "--again") == ["last"]
    assert set(common.saved()) == {"first", "fails once", "last"}
    assert common.saved()["last"]["version"] == common.version()
    measured("--list")
    assert "saved, of " in capsys.readouterr().out


def test_what_another_process_measures_or_makes_is_left_to_it(measured, tmp_path, capsys):
    (tmp_path / "cache").mkdir()
    with common.alone(tmp_path / "cache" / "last"):
        assert measured("--only", "last") == []
    assert "another process" in capsys.readouterr().err
    made = []
    for _ in range(2):
        path = common.Cache.made(tmp_path / "file", lambda path: made.append(path.write_text("x")))
    assert (path.read_text(), len(made)) == ("x", 1)


@pytest.mark.parametrize(
    ("limit", "reached", "error", "at_least", "words"),
    [
        (3.0, 2.9, 0.0, False, "met"),
        (3.0, 3.0, 0.0, False, "met"),
        (3.0, 2.9, 0.2, False, "met (within the error)"),
        (3.0, 3.3, 0.0, False, "missed by 0.30, 10.0%"),
        (0.9, 0.81, 0.1, True, "missed by 0.09, 10.0% (within the error)"),
        (0.9, None, 0.0, True, "not measured"),
    ],
)
def test_a_goal_is_met_or_missed_by_so_much(limit, reached, error, at_least, words):
    assert Goal("what", limit, reached, error, at_least=at_least).verdict() == words


def test_the_page_is_that_of_the_saved_results(tmp_path):
    page = tmp_path / "reference" / "results.md"
    page.parent.mkdir()
    page.write_text(command.page())
    assert page.read_text() == (ROOT / "docs" / "reference" / "results.md").read_text()
    assert page.read_text().count("\n| ") > 100


def test_probabilities_of_all_strings_of_an_autoregressive_transformer_have_the_sum_1():
    torch.manual_seed(0)
    network = Autoregressive(Transformer(width=16, depth=2, heads=2, neighbours=1), classes=3, length=4, end=2)
    x = torch.tensor(list(itertools.product(range(3), repeat=4)))
    ended = (x == 2).cummax(1).values
    x = x[~(ended & (x != 2)).any(1)]
    with torch.inference_mode():
        prices = network.double()(x)
    assert prices.neg().exp().sum() == pytest.approx(1.0, abs=1e-12)
    assert prices.std() > 0.1
    assert network.draw(5).shape == (5, 4)


def test_frechet_distance_of_a_shift_is_its_square():
    x = torch.randn(100, 3, generator=torch.Generator().manual_seed(0))
    assert images.frechet(x, x + torch.tensor([1.0, 2.0, 0.0])) == pytest.approx(5.0, abs=1e-6)
