"""A training that starts from a model: its weights, its settings, what is told, and what is recorded."""

from __future__ import annotations

import json
import shutil
import signal
from pathlib import Path
from typing import Any

import attrs
import pytest
import torch
from faults.crashes import signal_at

from bfn_categorical import Categorical
from bfn_digits import Digits
from bfn_gaussian import Gaussian
from bfn_gaussian_mixture import GaussianMixture
from bfn_mlp import MLP
from bfn_toolkit import (
    BFN,
    ConfigError,
    ContinuousTimeLoss,
    Experiment,
    Run,
    RunDirectoryError,
    Training,
    resume,
    train,
)
from bfn_toolkit.cli import main
from bfn_toolkit.errors import BFNWarning
from bfn_toolkit.parallel.signals import Interrupted
from bfn_toolkit.storage.files import digest
from bfn_toolkit.training.trainer import prepared

SMALL = MLP(width=8, depth=1)


def small(network: MLP = SMALL, *, family: Any = None, **training: Any) -> Experiment:
    options = {"steps": 6, "batch_size": 16, "ema_decay": 0.5, "device": "cpu", "checkpoint_every": 3, **training}
    options["init"] = str(options.get("init", ""))
    family = family or Gaussian(site_shape=(1,), sigma_1=0.05)
    return Experiment(GaussianMixture(), family, network, ContinuousTimeLoss(), Training(**options))


def first_state(experiment: Experiment) -> dict[str, torch.Tensor]:
    return dict(prepared(experiment)[0].unwrapped.state_dict())


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model") / "run"
    train(small(), folder)
    return folder


@pytest.fixture(scope="module")
def whole(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run from the model that nothing stopped."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    train(small(init=model), folder)
    return folder


def weights(run: Path) -> bytes:
    return (run / "model.safetensors").read_bytes()


@pytest.mark.parametrize("saved", [False, True])
def test_the_first_weights_and_their_average_are_those_of_the_model(model: Path, saved: bool, tmp_path: Path) -> None:
    place = model
    if saved:
        place = tmp_path / "saved"
        Run.open(model).save_pretrained(place)
    step, _ = prepared(small(init=place))
    expected = Run.open(model).model.network.state_dict()
    assert step.ema is not None
    for state in (step.unwrapped.state_dict(), step.ema.module.state_dict()):
        assert state.keys() == expected.keys()
        assert all(torch.equal(state[name], value) for name, value in expected.items())
    assert not torch.equal(first_state(small())["first.weight"], expected["first.weight"])


def test_two_runs_from_one_model_are_identical(model: Path, whole: Path, tmp_path: Path) -> None:
    train(small(init=str(model)), tmp_path / "again")
    assert weights(tmp_path / "again") == weights(whole)
    assert (tmp_path / "again/metrics.jsonl").read_bytes() == (whole / "metrics.jsonl").read_bytes()
    in_memory = train(small(init=model)).model.network.state_dict()
    assert all(
        torch.equal(value, in_memory[name]) for name, value in Run.open(whole).model.network.state_dict().items()
    )


def test_the_model_and_its_digest_are_recorded(model: Path, whole: Path) -> None:
    recorded = json.loads((whole / "model.json").read_text())["init"]
    assert recorded == {"model": str(model), "sha256": digest(weights(model)), "fresh": []}
    assert Run.open(whole).experiment.training.init == str(model)


def test_resume_is_exact_and_needs_the_model_no_more(model: Path, whole: Path, tmp_path: Path) -> None:
    gone = tmp_path / "gone"
    shutil.copytree(model, gone)
    with pytest.raises(Interrupted), signal_at(2, signal.SIGTERM):
        train(small(init=gone), tmp_path / "run")
    shutil.rmtree(gone)
    resume(tmp_path / "run")
    assert weights(tmp_path / "run") == weights(whole)
    facts = [json.loads((run / "model.json").read_text())["init"] for run in (tmp_path / "run", whole)]
    assert facts[0] == {**facts[1], "model": str(gone)}


def test_a_run_without_a_checkpoint_starts_again_from_the_model(model: Path, whole: Path, tmp_path: Path) -> None:
    (tmp_path / "experiment.toml").write_text(small(init=model).to_toml())
    resume(tmp_path)
    assert weights(tmp_path) == weights(whole)


def test_other_shapes_are_fresh_and_told(model: Path) -> None:
    wanted = small(MLP(width=8, depth=2, labels=3), init=model)
    fresh = first_state(attrs.evolve(wanted, training=attrs.evolve(wanted.training, init="")))
    with pytest.warns(
        BFNWarning, match=r"of \d+ tensors, .* % of the numbers; fresh: .*label.weight nothing in the model"
    ) as w:
        found = first_state(wanted)
    assert "network.depth is 1 in the model, 2 here; to keep it: --network.depth 1" in str(w[0].message)
    theirs = Run.open(model).model.network.state_dict()
    for name, value in found.items():
        assert torch.equal(value, theirs.get(name, fresh[name])), name
    assert not torch.equal(fresh["first.weight"], found["first.weight"])


def test_a_model_of_which_nothing_fits_is_an_error_with_the_reason(model: Path) -> None:
    with pytest.raises(
        ConfigError, match=r"1 of 10 tensors fit.*\(8, 33\) in the model, \(9, 33\) here.*--network.width 8"
    ):
        prepared(small(MLP(width=9, depth=1), init=model))


def test_another_meaning_is_told(model: Path) -> None:
    with pytest.warns(
        BFNWarning, match=r"family.sigma_1 is 0.05 in the model, 0.1 here; to keep it: --family.sigma_1 0.05"
    ):
        prepared(small(init=model, family=Gaussian(site_shape=(1,), sigma_1=0.1)))


def test_another_alphabet_is_told(tmp_path: Path) -> None:
    for name, letters in {"a": "abcd", "b": "abce"}.items():
        (tmp_path / f"{name}.txt").write_text(letters * 60)
    options = [("steps", "1"), ("batch_size", "8"), ("device", "cpu"), ("width", "8"), ("depth", "1")]
    options += [("network", "mlp"), ("dataset.length", "6")]
    train(Experiment.from_path(tmp_path / "a.txt", overrides=options), tmp_path / "run")
    wanted = Experiment.from_path(tmp_path / "b.txt", overrides=[*options, ("init", str(tmp_path / "run"))])
    with pytest.warns(BFNWarning, match='the classes are .*"c", "d".* in the model.*--dataset.alphabet "abcd"'):
        prepared(wanted)


def test_the_settings_of_the_model_lie_beneath_the_options(model: Path) -> None:
    found = Experiment.from_toml(None, overrides=[("init", str(model)), ("network.depth", "2")])
    assert found.network == MLP(width=8, depth=2)
    assert found.family.sigma_1 == 0.05
    assert found.training.ema_decay == 0.0
    other = Experiment.from_toml(None, overrides=[("init", str(model)), ("network", "siren")])
    assert other.network == Experiment.from_toml(None, overrides=[("network", "siren")]).network


def test_what_the_data_state_is_theirs(tmp_path: Path) -> None:
    """Shape, bins and labels follow the data, also in the parts of a family."""
    wide = MLP(width=8, depth=1, labels=4)
    family = Categorical(site_shape=(2,), classes=3)
    BFN(family, wide).save_pretrained(tmp_path / "saved")
    found = Experiment.from_toml(
        None, overrides=[("init", str(tmp_path / "saved")), ("dataset", "digits"), ("family", "categorical")]
    )
    assert isinstance(found.dataset, Digits)
    assert found.network == MLP(width=8, depth=1, labels=10)
    assert found.family.site_shape == (8, 8)


def test_mistakes_are_refused_with_the_line_to_write(model: Path, whole: Path, tmp_path: Path) -> None:
    with pytest.raises(RunDirectoryError, match=r"training.init: .*nowhere is not a run directory: it does not exist"):
        prepared(small(init=tmp_path / "nowhere"))
    with pytest.raises(ConfigError, match=r"--init names the weights that a new training starts from"):
        resume(whole, overrides=[("init", str(model))])
    with pytest.raises(ConfigError, match="choose another --out"):
        train(small(init=model), model, force=True)
    damaged = tmp_path / "damaged"
    shutil.copytree(model, damaged)
    content = bytearray(weights(damaged))
    content[-1] ^= 1
    (damaged / "model.safetensors").write_bytes(content)
    with pytest.raises(RunDirectoryError, match=r"training.init: .*model.safetensors is damaged"):
        prepared(small(init=damaged))


def test_the_command_has_the_short_option(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--steps", "1", "--device", "cpu", "--no-report", "--out", str(tmp_path / "run")]
    assert main(["train", "--init", str(model), *options]) == 0
    assert f"init   {model}: 10 of 10 tensors, 100 % of the numbers\n" in capsys.readouterr().err
    assert Run.open(tmp_path / "run").experiment.network == SMALL
