"""The command line, end to end in temporary folders, and what it says to mistakes."""

import csv
import functools
import json
import operator
import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file

from bfn_gaussian_mixture import GaussianMixture
from bfn_toolkit import importance_bound, load_run
from bfn_toolkit.cli import BUG, main
from bfn_toolkit.cli.options import parse_overrides
from bfn_toolkit.cli.score_tables import scores_table
from bfn_toolkit.registry.registry import default_registry

SMALL = ["--training.steps", "6", "--dataset.count", "50", "--network.width", "16"]


@pytest.fixture(autouse=True)
def empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small run with all of its files."""
    path = tmp_path_factory.mktemp("runs") / "run"
    assert main(["train", "--out", str(path), *SMALL]) == 0
    return path


def fails(capsys: pytest.CaptureFixture[str], status: int, *words: str) -> Callable[..., str]:
    """Checks that a command ends with a status, all words on stderr, nothing on stdout and no traceback."""

    def check(*arguments: str) -> str:
        capsys.readouterr()
        assert main(list(arguments)) == status
        said = capsys.readouterr()
        assert said.out == ""
        assert "Traceback" not in said.err
        assert [word for word in words if word not in said.err] == []
        return said.err

    return check


def test_train_writes_a_complete_run(trained: Path) -> None:
    files = {str(path.relative_to(trained)) for path in trained.rglob("*") if path.is_file()}
    names = ("data", "schedule", "training", "samples", "flows")
    expected = {"experiment.toml", "metrics.jsonl", "model.safetensors", "model.json", "evaluation.json", "samples.npy"}
    state = {"MANIFEST.json", "state.json", "weights.safetensors", "optimizer.safetensors"}
    expected |= {f"figures/{name}.png" for name in names} | {f"checkpoints/step-00000006/{name}" for name in state}
    assert files == expected | {".lock", "SHA256SUMS", "report.html"}
    metrics = [json.loads(line) for line in (trained / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in metrics] == [1, 2, 3, 4, 5, 6]
    assert all(line["loss"] > 0 and line["grad_norm"] > 0 and line["lr"] > 0 for line in metrics)
    drawn = json.loads((trained / "evaluation.json").read_text())["samples"]["n"]  # as many as there was time for
    assert np.load(trained / "samples.npy", allow_pickle=False).shape == (drawn, 1)
    for name in names:
        assert (trained / "figures" / f"{name}.png").read_bytes().startswith(b"\x89PNG")


def test_experiment_of_a_run_repeats_it_to_the_bit(trained: Path) -> None:
    assert main(["train", "--config", str(trained / "experiment.toml"), "--out", "again", "--no-report"]) == 0
    assert Path("again/model.safetensors").read_bytes() == (trained / "model.safetensors").read_bytes()
    assert Path("again/experiment.toml").read_text() == (trained / "experiment.toml").read_text()


def test_another_seed_trains_another_model(trained: Path) -> None:
    assert main(["train", "--out", "other", "--no-report", "--seed", "1", *SMALL]) == 0
    assert Path("other/model.safetensors").read_bytes() != (trained / "model.safetensors").read_bytes()


def test_default_folders_are_numbered() -> None:
    for _ in range(2):
        assert main(["train", "--no-report", *SMALL]) == 0
    assert sorted(path.name for path in Path("runs").iterdir()) == ["001", "002"]


@pytest.mark.parametrize("name", ["samples.npy", "samples.safetensors", "samples.csv"])
def test_same_seed_gives_the_same_bytes(trained: Path, name: str) -> None:
    for folder, seed in (("a", "3"), ("b", "3"), ("c", "4")):
        out = f"{folder}/{name}"
        assert main(["sample", str(trained), "-n", "20", "--steps", "5", "--seed", seed, "--out", out]) == 0
    a, b, c = (Path(folder, name).read_bytes() for folder in "abc")
    assert a == b
    assert a != c


def test_the_default_seed_is_that_of_the_run(trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "--out", "seeded", "--seed", "5", *SMALL]) == 0
    capsys.readouterr()
    scores = json.loads(Path("seeded/evaluation.json").read_text())
    n = str(scores["samples"]["n"])  # as many as the report had the time for
    assert main(["evaluate", "seeded", "--json", "--draws", "1", "-n", n]) == 0
    again = json.loads(capsys.readouterr().out)
    for budgeted in ("by_steps", "by_steps_left_out"):  # as much of them as there was time for
        scores["samples"].pop(budgeted, None), again["samples"].pop(budgeted, None)
    for found in (scores, again):
        found["samples"]["memorisation"].pop("membership", None)
    assert again["samples"] == scores["samples"]
    for key in ("weights", "steps", "split", "unit"):
        assert again[key] == scores[key]


def test_formats_hold_the_same_samples(trained: Path) -> None:
    for name in ("x.npy", "x.safetensors", "x.csv"):
        assert main(["sample", str(trained), "-n", "7", "--steps", "3", "--out", name]) == 0
    array = np.load("x.npy", allow_pickle=False)
    assert np.array_equal(load_file("x.safetensors")["samples"], array)
    with open("x.csv", newline="") as file:
        rows = list(csv.reader(file))
    assert rows[0] == ["x1"]
    assert np.array_equal(np.array(rows[1:], dtype=np.float32), array)


@pytest.mark.parametrize("steps", ["inf", "5"])
def test_evaluate_prints_one_json_object(trained: Path, steps: str, capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--steps", steps, "--draws", "4", "-n", "50", "--sample-steps", "5", "--json"]
    assert main(["evaluate", str(trained), *options]) == 0
    scores = json.loads(capsys.readouterr().out)
    assert scores["steps"] == (steps if steps == "inf" else int(steps))
    for key in ("loss_nats", "loss_nats_stderr", "reconstruction_nats", "bits_per_dimension"):
        assert isinstance(scores[key], float)
    samples = scores["samples"]
    assert (samples["n"], samples["steps"], samples["sampler"]) == (50, 5, "ode-2")
    assert samples["w1"] >= 0
    assert sum(samples["mode_shares"].values()) == pytest.approx(1.0)


def test_evaluate_weighs_particles(trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = [str(trained), "--draws", "2", "-n", "20", "--sample-steps", "3", "--particles", "4", "--examples", "30"]
    assert main(["evaluate", *options, "--json"]) == 0
    weighted = json.loads(capsys.readouterr().out)["importance"]
    assert (weighted["steps"], weighted["particles"], weighted["examples"]) == (3, 4, 30)
    rows = GaussianMixture(count=50).split("test").rows(torch.arange(30))
    bound = importance_bound(load_run(trained), rows, n_steps=3, particles=4)
    assert weighted["total_nats"] == bound.total.value
    assert weighted["gain_nats_stderr"] == bound.gain.stderr
    assert main(["evaluate", *options, "--steps", "5"]) == 0
    out = capsys.readouterr().out
    assert "bound of 4 particles" in out
    assert "5 messages, 30 examples" in out


def test_evaluate_prints_a_table(trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["evaluate", str(trained), "--draws", "2", "-n", "20", "--sample-steps", "2"]) == 0
    out = capsys.readouterr().out
    assert "bits per dimension" in out
    assert "±" in out
    scores = json.loads((trained / "evaluation.json").read_text())
    assert scores["unit"] == ""
    scores_table({**scores, "unit": "standard deviations of each column"})
    assert "standard deviations of each column" in capsys.readouterr().out


def test_samples_of_the_plane_are_scored_by_sliced_w1_and_mmd(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "--out", "plane", "--dataset.means", "[[0.0, 0.5], [0.5, 0.0]]", *SMALL]) == 0
    capsys.readouterr()
    assert main(["evaluate", "plane", "--draws", "2", "-n", "30", "--sample-steps", "2", "--json"]) == 0
    assert {"sliced_w1", "mmd", "mode_shares"} <= json.loads(capsys.readouterr().out)["samples"].keys()


def test_plot_redraws_the_figures(trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plot", str(trained), "--out", "pictures", "--steps", "5", "-n", "50"]) == 0
    written = capsys.readouterr().out.split()
    assert len(written) == 5
    assert all(Path(path).is_file() for path in written)


def test_plugins_lists_every_part(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plugins", "--json"]) == 0
    listed = json.loads(capsys.readouterr().out)["plugins"]
    names = {(line["kind"], line["name"]) for line in listed}
    assert {(part.kind, part.name) for part in default_registry().entries()} <= names
    assert [line["name"] for line in listed if not line["description"]] == []
    assert main(["plugins"]) == 0
    lines = [re.split(r"\s{2,}", line) for line in capsys.readouterr().out.splitlines()]
    about = "Siren for data of any site shape, which it flattens."
    assert ["network", "siren", "bfn-toolkit", about] in lines


def test_plugins_prints_all_about_a_part(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plugins", "noise"]) == 0
    out = capsys.readouterr().out
    for line in (
        "head noise, from bfn-toolkit",
        "  clip: a number; 1.0\n      Bound of x_hat",
        "head of the family gaussian",
    ):
        assert line in out
    assert main(["plugins", "table", "--json"]) == 0
    parts = {part["kind"]: part for part in json.loads(capsys.readouterr().out)["parts"]}
    assert parts.keys() == {"dataset", "codec", "schedule"}
    path = next(option for option in parts["dataset"]["options"] if option["name"] == "path")
    assert (path["type"], path["default"]) == ("a path", "")
    assert "by default with preset table, family columns, network mlp, loss continuous-time" in parts["dataset"]["fits"]
    assert main(["plugins", "nois"]) == 2
    assert "Did you mean 'noise'?" in capsys.readouterr().err


def test_every_part_can_be_replaced_by_name() -> None:
    options = [
        "--family.head",
        "noise",
        "--loss",
        "discrete-time",
        "--loss.n_steps",
        "5",
        "--training.ema_decay",
        "0.9",
    ]
    assert main(["train", "--out", "run", "--no-report", *SMALL, *options]) == 0
    assert json.loads(Path("run/model.json").read_text())["weights"] == "ema"
    assert type(load_run("run").family.head).__name__ == "NoiseHead"


def test_preset_post_trains() -> None:
    assert main(["train", "--preset", "post", "--out", "run", "--no-report", "--training.steps", "3"]) == 0
    metrics = [json.loads(line) for line in Path("run/metrics.jsonl").read_text().splitlines()]
    assert [line["lr"] for line in metrics] == [1e-3] * 3


@pytest.mark.parametrize("command", ["train", "sample", "evaluate", "plot", "plugins"])
def test_every_command_has_help_with_an_example(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([command, "--help"]) == 0
    assert f"bfn {command}" in capsys.readouterr().out.split("Example")[1]


def test_options_are_a_file_for_config(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "--options", "--preset", "post", "--width", "8", "--batch-size", "7"]) == 0
    text = capsys.readouterr().out
    values = tomllib.loads(text)
    assert (values["network"]["width"], values["training"]["batch_size"]) == (8, 7)
    assert "# Number of optimiser steps. [an integer; default: 400]\nsteps = 200\n" in text
    Path("mine.toml").write_text(text)
    assert main(["train", "--options", "--config", "mine.toml"]) == 0
    assert capsys.readouterr().out == text


@pytest.mark.parametrize("words", [["--dataset", "lines"], ["none.txt", "--as", "lines"]])
def test_options_do_not_need_the_data(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", *words, "--options"]) == 0
    text = capsys.readouterr().out
    assert tomllib.loads(text)["dataset"]["name"] == "lines"
    assert ("# path = ..." in text) != ('path = "none.txt"' in text)
    assert tomllib.loads(text)["network"]["name"] == "transformer"  # of the preset with the name of the data set


def test_all_mistakes_are_reported_at_once(capsys: pytest.CaptureFixture[str]) -> None:
    Path("bad.toml").write_text("seed = 1.5\n[network]\nwidht = 3\n[training]\nsteps = 'ten'\n")
    said = fails(capsys, 2, "bad.toml:1: seed", "bad.toml:3: network.widht", "bad.toml:5: training.steps")
    assert len(said("train", "--config", "bad.toml").splitlines()) == 3


def test_an_existing_run_is_kept(trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = (trained / "model.json").stat().st_mtime_ns
    fails(capsys, 2, "--force")("train", "--out", str(trained), *SMALL)
    assert (trained / "model.json").stat().st_mtime_ns == before


def test_force_replaces_a_run_and_nothing_else(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "--out", "run", "--no-report", *SMALL]) == 0
    Path("run/notes.txt").write_text("mine")
    assert main(["train", "--out", "run", "--no-report", "--force", "--seed", "1", *SMALL]) == 0
    assert "seed = 1\n" in Path("run/experiment.toml").read_text()
    assert Path("run/notes.txt").read_text() == "mine"
    Path("mine").mkdir()
    Path("mine/thesis.txt").write_text("do not touch")
    fails(capsys, 2, "not a run directory")("train", "--out", "mine", "--force", *SMALL)
    assert Path("mine/thesis.txt").read_text() == "do not touch"


def test_an_existing_file_of_samples_is_kept(trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("x.npy").write_text("mine")
    fails(capsys, 2, "--force")("sample", str(trained), "--out", "x.npy")
    assert Path("x.npy").read_text() == "mine"
    assert main(["sample", str(trained), "-n", "2", "--steps", "2", "--out", "x.npy", "--force"]) == 0


def test_a_folder_that_cannot_be_written_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    Path("file").write_text("")
    fails(capsys, 7, "file/run")("train", "--out", "file/run", *SMALL)


def test_a_loss_that_is_not_finite_stops_the_run(capsys: pytest.CaptureFixture[str]) -> None:
    # One step of this size makes the next output overflow, weighted by up to 1e12.
    options = [
        "--training.lr",
        "1e3",
        "--training.optimizer",
        "sgd",
        "--training.clip_norm",
        "inf",
        "--loss.weighting",
        "paper",
    ]
    fails(capsys, 6, "step", "Lower training.lr")(
        "train", "--out", "run", *SMALL, *options, "--family.head", "data", "--family.sigma_1", "1e-6"
    )
    assert not Path("run/model.safetensors").exists()
    assert main(["checkpoint", "verify", "run"]) == 0  # of the step before
    capsys.readouterr()
    assert Path("run/nonfinite/step-00000002.json").exists()


def test_damage_is_detected_before_use(trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    copy = Path("copy")
    copy.mkdir()
    for path in trained.iterdir():
        if path.is_file():
            (copy / path.name).write_bytes(path.read_bytes())
    weights = bytearray((copy / "model.safetensors").read_bytes())
    weights[-5] ^= 1
    (copy / "model.safetensors").write_bytes(weights)
    fails(capsys, 4, "damaged")("sample", str(copy))
    (copy / "model.safetensors").write_bytes((trained / "model.safetensors").read_bytes())
    (copy / "experiment.toml").write_text((copy / "experiment.toml").read_text().replace("width = 16", "width = 8"))
    fails(capsys, 4, "network.width", "16 then, 8 now")("sample", str(copy))


def test_a_fault_of_ours_says_so(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("bfn_toolkit.registry.registry.default_registry", functools.partial(operator.truediv, 1, 0))
    assert main(["plugins"]) == BUG
    said = capsys.readouterr().err
    assert "Traceback" in said
    assert "report" in said


def test_overrides_take_both_forms() -> None:
    assert parse_overrides(["--a.b", "1", "--c=--d"]) == [("a.b", "1"), ("c", "--d")]


def test_a_closed_reader_is_no_error(trained: Path) -> None:
    command = f"{sys.executable} -m bfn_toolkit train --options | head -n 1"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, env=dict(os.environ))
    assert done.stderr == ""
