"""Laws of conditions: what a network does not read is told before training, and refused when it is asked for."""

from __future__ import annotations

import json
from pathlib import Path

import attrs
import pytest
import torch

from bfn_gaussian import Gaussian
from bfn_mlp import MLP
from bfn_siren import Siren
from bfn_toolkit import (
    Batch,
    BFNWarning,
    ConfigError,
    ContinuousTimeLoss,
    Dataset,
    Experiment,
    NetworkBuilder,
    Run,
    Split,
    Training,
    seeded,
    train,
)
from bfn_toolkit.cli import main
from bfn_toolkit.cli.options import parse_conditions
from bfn_toolkit.data.conditions import recorded, seen_in
from bfn_toolkit.errors import RunDirectoryError
from bfn_toolkit.runs.conditions import check_conditions, warn_of_unread
from bfn_toolkit.runs.sampling import ResolvedPlan, SamplePlan
from bfn_toolkit.sharing.export import open_model
from bfn_transformer import Transformer

SMALL = {"dataset": "digits", "training": {"steps": 1, "batch_size": 64}}


def experiment(**network: object) -> Experiment:
    return Experiment.from_mapping({**SMALL, "network": network}, base="default")


class Mute(NetworkBuilder):
    """A builder that does not say what its network reads."""

    def build(self, io: object) -> object: ...  # type: ignore[override]


def test_training_warns_of_labels_that_the_network_does_not_read() -> None:
    with pytest.warns(BFNWarning, match=r"'siren' does not read the condition label .* train with --network .*mlp"):
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
    place = seen["place"].constant("place", told["place"][0].tolist(), 3)
    assert place.dtype == torch.float32
    assert torch.equal(place, told["place"][:1].expand(3, 2))
    for name, value in (
        *(("label", number) for number in (4.0, 0.5, float("nan"), [1, 2], "boot")),
        *(("place", wrong) for wrong in (0.5, [0.5], [0.5, 9.0], [[0.5, 0.5]], [0.5, "a"], [0.5, [0.5]])),
    ):
        with pytest.raises(ConfigError, match=rf"{name} must be .* from .*, as in the training rows, got"):
            seen[name].constant(name, value, 1)
    with pytest.raises(ConfigError, match=r"numbers of shape \(2,\), such as place=\[0\.\d+,0\.\d+\], from"):
        seen["place"].constant("place", 0.5, 1)
    assert recorded(None, Path()) is None
    wrong_fields: list[dict[str, object]] = [{"dtype": "Tensor"}, *({"counts": c} for c in ([1, 1], [1, -1, 1, 1], 4))]
    labels = [{}, None, *({**table["label"], **fields} for fields in wrong_fields)]
    for wrong in ([], *({"label": label} for label in labels)):
        with pytest.raises(RunDirectoryError, match="damaged"):
            recorded(wrong, Path())


LETTERS = "a,b,kind\n" + "".join(f"{i % 3},{i * i % 5},{i % 2}\n" for i in range(60))


@pytest.fixture
def moved(tmp_path: Path) -> Path:
    """A run of a table with labels, whose file is gone."""
    data, run = tmp_path / "letters.csv", tmp_path / "run"
    data.write_text(LETTERS)
    words = ["--dataset", "classes-array", "--dataset.path", str(data), "--dataset.label", "kind"]
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
        (["sample", "-n", "3", "--out", out, "--force"], 0, "those of config.json"),
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


def test_a_saved_model_draws_labels_as_often_as_they_were_in_training(tmp_path: Path) -> None:
    train(experiment(name="mlp", width=8), tmp_path / "run")
    run = Run.open(tmp_path / "run")
    run.save_pretrained(tmp_path / "model")
    saved = open_model(tmp_path / "model")
    assert saved.seen == run.seen
    n = 20_000
    drawn = ResolvedPlan.of(saved, SamplePlan(n=n, steps=1, seed=1)).draws.condition(torch.arange(n))
    assert drawn is not None
    rows = run.split("train").condition["label"]
    shares = torch.bincount(rows, minlength=10) / len(rows)
    found = torch.bincount(drawn["label"], minlength=10) / n
    assert bool(((found - shares).abs() < 5.0 * (shares * (1.0 - shares) / n).sqrt()).all())
    again = ResolvedPlan.of(saved, SamplePlan(n=n, steps=1, seed=1)).draws.condition(torch.arange(17, 40))
    assert again is not None
    assert torch.equal(again["label"], drawn["label"][17:40])  # a sample has its label whatever else is drawn


def test_counts_of_two_lots_of_rows_add_up() -> None:
    lots = [torch.tensor([3, 3, 5]), torch.tensor([-1, 4])]
    first, second = (seen_in({"label": lot})["label"] for lot in lots)
    assert first.plus(second) == second.plus(first) == seen_in({"label": torch.cat(lots)})["label"]
    assert first.counts == (2, 0, 1)
    far = seen_in({"label": torch.tensor([5000])})["label"]
    assert (far.plus(first).counts, far.plus(first).low, far.plus(first).high) == (None, 3.0, 5000.0)
    assert seen_in({"place": torch.rand(4)})["place"].counts is None


@attrs.frozen
class Placed(Dataset):
    """Points around a place, which is their condition."""

    @property
    def site_shape(self) -> tuple[int, ...]:
        return (2,)

    def split(self, name: Split) -> Batch:
        with seeded(0, name):
            place = torch.rand(60, 2)
            return Batch(place + 0.1 * torch.randn(60, 2), {"place": place})


def placed(network: NetworkBuilder, **training: int) -> Experiment:
    return Experiment(Placed(), Gaussian((2,)), network, ContinuousTimeLoss(), Training(batch_size=20, **training))


def test_a_vector_on_the_command_line_reaches_the_network() -> None:
    assert parse_conditions(["place=[0.25, 0.5]", "label=3", "side=none"]) == {
        "place": [0.25, 0.5],
        "label": "3",
        "side": None,
    }
    with pytest.raises(ConfigError, match=r"NAME=VALUE, NAME=\[NUMBER,NUMBER\] or NAME=none"):
        parse_conditions(["place"])
    network = Transformer(width=8, depth=1, heads=2, condition_shapes={"place": (2,)})
    run = train(placed(network, steps=5))
    draws = [
        ResolvedPlan.of(run, SamplePlan(n=3, steps=2, condition=parse_conditions([f"place={place}"]))).draw()
        for place in ("[0.25,0.5]", "[0.25,0.5]", "[0.75,0.5]", "none")
    ]
    assert torch.equal(draws[0], draws[1])
    assert not torch.equal(draws[0], draws[2])
    assert not torch.equal(draws[0], draws[3])
    with pytest.raises(ConfigError, match=r"place must be numbers of shape \(2,\)"):
        ResolvedPlan.of(run, SamplePlan(n=3, steps=2, condition={"place": 0.5}))


def test_a_network_whose_condition_has_another_shape_is_not_trained() -> None:
    network = Transformer(width=8, depth=1, heads=2, condition_shapes={"place": (3,)})
    with pytest.raises(ConfigError, match=r"'place' must have the shape \(B, 3\)"):
        train(placed(network, steps=1))
