"""Laws of conditions: what a network does not read is told before training, and refused when it is asked for."""

from __future__ import annotations

import json
from pathlib import Path

import attrs
import pytest
import torch

from bfn_mlp import MLP
from bfn_siren import Siren
from bfn_toolkit import BFNWarning, ConfigError, Experiment, NetworkBuilder, train
from bfn_toolkit.cli import main
from bfn_toolkit.data.conditions import recorded, seen_in
from bfn_toolkit.errors import RunDirectoryError
from bfn_toolkit.runs.conditions import check_conditions, warn_of_unread

SMALL = {"dataset": "digits", "training": {"steps": 1, "batch_size": 64}}


def experiment(**network: object) -> Experiment:
    return Experiment.from_mapping({**SMALL, "network": network}, base="default")


class Mute(NetworkBuilder):
    """A builder that does not say what its network reads."""

    def build(self, io: object) -> object: ...  # type: ignore[override]


def test_training_warns_of_labels_that_the_network_does_not_read() -> None:
    with pytest.warns(BFNWarning, match=r"'siren' does not read the condition label .* train with: --network mlp"):
        train(experiment(name="siren", width=8))
    with pytest.warns(BFNWarning, match="'mlp' does not read .* it does with other options"):
        train(experiment(name="mlp", width=8, labels=0))


@pytest.mark.parametrize("network", [MLP(labels=3), Mute()])
def test_what_is_read_or_not_said_is_not_warned_of(network: NetworkBuilder) -> None:
    warn_of_unread(network, ["label"])
    check_conditions(network, ["label"], ["label"])


def test_a_condition_of_nobody_is_refused_with_what_there_is() -> None:
    for network, told, words in (
        (
            MLP(labels=3),
            ("label", "angle"),
            r"has label, angle and the network reads label\. Did you mean",
        ),
        (Siren(), (), r"the data set has none and the network reads none\.$"),
        (Mute(), ("angle",), r"the data set has angle\.$"),
    ):
        with pytest.raises(ConfigError, match=words):
            check_conditions(network, ["labl"], told)


def test_samples_that_could_not_follow_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = str(tmp_path / "run")
    small = ("--training.steps", "1", "--network.width", "8", "--no-report")
    assert main(["train", "--dataset", "digits", "--network", "siren", "--out", run, *small]) == 0
    assert capsys.readouterr().err.count("does not read the condition label") == 1
    for options in (["--condition", "label=3"], ["--guidance", "1"]):
        assert main(["sample", run, "-n", "2", "--steps", "2", *options]) == 2
        assert "'siren' of this run does not read the condition 'label'" in capsys.readouterr().err
    assert main(["sample", run, "-n", "2", "--steps", "2"]) == 0


def test_what_was_seen_goes_into_a_file_and_comes_back() -> None:
    told = {"label": torch.tensor([3, 0]), "place": torch.rand(4, 2), "side": torch.tensor([True, False])}
    seen = seen_in(told)
    table = json.loads(json.dumps({name: attrs.asdict(facts) for name, facts in seen.items()}))
    assert recorded(table, Path("model.json")) == seen
    assert seen["label"].constant("label", 2.0, 3).tolist() == [2, 2, 2]
    assert seen["side"].constant("side", 1.0, 2).dtype == torch.bool
    for name, value in (("label", 4.0), ("label", 0.5), ("label", float("nan")), ("place", 0.5)):
        with pytest.raises(ConfigError, match=name):
            seen[name].constant(name, value, 1)
    assert recorded(None, Path()) is None
    for wrong in ([], {"label": {}}, {"label": {**table["label"], "dtype": "Tensor"}}, {"label": None}):
        with pytest.raises(RunDirectoryError, match="damaged"):
            recorded(wrong, Path())


LETTERS = "a,b,kind\n" + "".join(f"{i % 3},{i * i % 5},{i % 2}\n" for i in range(60))


@pytest.fixture
def moved(tmp_path: Path) -> Path:
    """A run of a table with labels, whose file is gone."""
    data, run = tmp_path / "letters.csv", tmp_path / "run"
    data.write_text(LETTERS)
    words = ["--dataset", "classes-table", "--dataset.path", str(data), "--dataset.label", "kind"]
    small = ["--training.steps", "2", "--network.width", "8", "--no-report", "--training.checkpoint_every", "1"]
    assert main(["train", *words, *small, "--out", str(run)]) == 0
    data.rename(tmp_path / "moved.csv")
    return run


@pytest.mark.filterwarnings("ignore:.*duplicates:bfn_toolkit.BFNWarning")
def test_a_run_whose_file_is_gone_is_sampled_exported_and_drawn(
    moved: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = str(tmp_path / "x.npy")
    for options in (["--condition", "label=1"], ["--condition", "label=none", "--checkpoint", "1"]):
        assert main(["sample", str(moved), "-n", "3", "--steps", "2", "--out", out, "--force", *options]) == 0
    assert main(["export", str(moved), "--out", str(tmp_path / "model")]) == 0
    assert main(["plot", str(moved), "--flows", "--steps", "2"]) == 0
    capsys.readouterr()
    for words, status, told in (
        (["sample", "-n", "3", "--condition", "label=2"], 2, "from 0 to 1, as in the training rows"),
        (["sample", "-n", "3"], 3, "conditions without a value are drawn from the data; add: --condition label=none"),
        (["evaluate"], 3, f"restore them, or write their new place into {moved / 'experiment.toml'}"),
        (["plot"], 3, "restore them"),
    ):
        assert main([words[0], str(moved), *words[1:]]) == status
        assert told in capsys.readouterr().err
    model = tmp_path / "model"
    for words, status, told in (
        (["sample", "-n", "3", "--condition", "label=1", "--out", out, "--force"], 0, "those of config.json"),
        (["sample", "-n", "3", "--condition", "label=2"], 2, "from 0 to 1, as in the training rows"),
        (["sample", "-n", "3"], 3, "add: --condition label=none"),
        (["sample", "-n", "3", "--weights", "raw"], 2, "has one state; leave out --checkpoint and --weights"),
        (["plot", "--flows", "--steps", "2"], 0, "those of config.json"),
        (["evaluate"], 3, "use the run directory that it came from"),
        (["export", "--out", str(tmp_path / "again")], 4, "a saved model, which bfn sample"),
    ):
        assert main([words[0], str(model), *words[1:]]) == status
        assert told in capsys.readouterr().err
    toml = moved / "experiment.toml"
    toml.write_text(toml.read_text().replace("letters.csv", "moved.csv"))
    assert main(["evaluate", str(moved), "-n", "3", "--draws", "1"]) == 0


def test_a_saved_model_gives_the_samples_of_its_run(moved: Path, tmp_path: Path) -> None:
    assert main(["export", str(moved), "--out", str(tmp_path / "model")]) == 0
    for source in (moved, tmp_path / "model"):
        words = ["-n", "7", "--steps", "3", "--condition", "label=1", "--out", str(tmp_path / f"{source.name}.npy")]
        assert main(["sample", str(source), *words]) == 0
    assert (tmp_path / "run.npy").read_bytes() == (tmp_path / "model.npy").read_bytes()
