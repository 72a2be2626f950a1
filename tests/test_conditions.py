"""Laws of conditions: what a network does not read is told before training, and refused when it is asked for."""

from __future__ import annotations

from pathlib import Path

import pytest

from bfn_mlp import MLP
from bfn_siren import Siren
from bfn_toolkit import BFNWarning, ConfigError, Experiment, NetworkBuilder, train
from bfn_toolkit.cli import main
from bfn_toolkit.conditions import check_conditions, warn_of_unread

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
