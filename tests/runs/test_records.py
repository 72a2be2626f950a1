"""Every file of a run belongs to its experiment: damage, files of other runs and changed data are told."""

import json
import os
import random
import shutil
import tomllib
import warnings
from collections.abc import Callable
from pathlib import Path

import attrs
import numpy as np
import pytest
import torch
from faults.crashes import crash_at, signal_at
from faults.damages import rewrite_model
from faults.tiny import experiment

from bfn_gaussian_mixture import GaussianMixture
from bfn_toolkit import BFNError, ConfigError, DataError, Experiment, Run, RunDirectoryError, resume, train
from bfn_toolkit.cli import main
from bfn_toolkit.errors import BFNWarning, ResourceError
from bfn_toolkit.parallel.signals import Interrupted
from bfn_toolkit.runs import directory
from bfn_toolkit.runs.directory import check_out, start_run
from bfn_toolkit.runs.metrics_log import DAMAGED, METRICS, MetricsLog, StoredMetrics
from bfn_toolkit.runs.records import EVALUATION, read_evaluation, write_evaluation
from bfn_toolkit.runs.sample_files import sample_file
from bfn_toolkit.sharing.export import export_run
from bfn_toolkit.training import checkpointer
from bfn_toolkit.training.metrics import TrainingEvent

OPTIONS = {"steps": 4, "checkpoint_every": 2, "validate_every": 2}
FLIPS = 15  # of each file


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two runs of one architecture."""
    folder = tmp_path_factory.mktemp("runs")
    for name, seed in (("a", 0), ("b", 1)):
        run = train(attrs.evolve(experiment(**OPTIONS), seed=seed), folder / name)
        write_evaluation(run, {"total_nats": 0.1 + seed, "examples": 10, "none": float("nan")})
    return folder


@pytest.fixture
def run(runs: Path, tmp_path: Path) -> Path:
    """A copy of the first run."""
    return Path(shutil.copytree(runs / "a", tmp_path / "run"))


def contents(folder: Path) -> dict[str, bytes]:
    return {
        str(p.relative_to(folder)): p.read_bytes()
        for p in sorted(folder.rglob("*"))
        if p.name != ".lock" and p.is_file()
    }


def results(folder: Path, checkpoint: str) -> object:
    """Everything that is made of a run, or an error."""
    run = Run.open(folder, checkpoint=checkpoint)
    state = {name: value.tolist() for name, value in run.model.state_dict().items()}
    card = folder.parent / "card"
    export_run(run, card, force=True)
    facts = (repr(run.experiment), str(run.weights), (card / "README.md").read_text(), read_evaluation(folder))
    return state, facts, list(run.metrics), run.source_changes()


FILES = {
    "experiment.toml": "final",
    "model.json": "final",
    "SHA256SUMS": "final",
    "metrics.jsonl": "final",
    "evaluation.json": "final",
    "checkpoints/step-00000002/state.json": "2",
    "checkpoints/step-00000002/MANIFEST.json": "2",
}


@pytest.mark.parametrize("name", FILES)
def test_a_flipped_bit_is_refused_or_changes_nothing(name: str, run: Path) -> None:
    expected, path, rng = results(run, FILES[name]), run / name, random.Random(0)
    content, refused = path.read_bytes(), 0
    for _ in range(FLIPS):
        damaged = bytearray(content)
        damaged[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
        path.write_bytes(damaged)
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            try:
                found = results(run, FILES[name])
            except BFNError:
                refused += 1
                continue
        if name == METRICS:  # a figure of them is not worth a refusal
            assert found == (*expected[:2], [], [])  # type: ignore[index]
            assert "the metrics are left out" in str(said[0].message)
            refused += 1
        assert name == METRICS or found == expected
    assert refused > FLIPS // 2


SWAPS: dict[str, tuple[list[str], str]] = {
    "model": (["model.json", "model.safetensors", "SHA256SUMS"], "final"),
    "checkpoints": (["checkpoints"], "last"),
    "experiment": (["experiment.toml"], "final"),
    "experiment of checkpoints": (["experiment.toml"], "2"),
}


@pytest.mark.parametrize("what", SWAPS)
def test_files_of_another_run_are_refused(what: str, runs: Path, run: Path) -> None:
    names, checkpoint = SWAPS[what]
    for name in names:
        shutil.rmtree(run / name) if (run / name).is_dir() else (run / name).unlink()
        source = runs / "b" / name
        shutil.copytree(source, run / name) if source.is_dir() else shutil.copy(source, run / name)
    with pytest.raises(RunDirectoryError, match=r"is not that of .*: seed: \d then, \d now\. One of them"):
        Run.open(run, checkpoint=checkpoint)
    assert main(["checkpoint", "verify", str(run)]) == 4


def test_metrics_and_scores_of_another_run_are_left_out(runs: Path, run: Path) -> None:
    for name in (METRICS, EVALUATION):
        shutil.copy(runs / "b" / name, run / name)
    opened = Run.open(run)
    with pytest.warns(BFNWarning, match="the metrics are left out"):
        assert list(opened.metrics) == []
    export_run(opened, run.parent / "model")
    assert "total_nats" not in (run.parent / "model" / "README.md").read_text()
    export_run(Run.open(runs / "a"), run.parent / "other")
    assert "| total_nats | 0.1 |" in (run.parent / "other" / "README.md").read_text()


def test_comments_and_options_that_change_no_number_may_differ(run: Path) -> None:
    path = run / "experiment.toml"
    path.write_text("# of mine\n" + path.read_text().replace("keep = 3", "keep   = 7"))
    assert Run.open(run).experiment.training.keep == 3  # as it was trained


# Data


def on_a_file(path: Path, **changes: object) -> Experiment:
    words = {"steps": "2", "batch_size": "8", "device": "cpu"}
    options = [("network.width", "8"), *((f"training.{k}", v) for k, v in words.items())]
    return Experiment.from_path(path, overrides=[*options, *((k, str(v)) for k, v in changes.items())])


def write_array(path: Path, change: float = 0.0) -> None:
    values = np.random.default_rng(0).uniform(-1.0, 1.0, (40, 2)).astype(np.float32)
    values[7, 0] += change
    np.save(path, values)


def test_data_that_moved_are_found_and_others_refused(tmp_path: Path) -> None:
    write_array(tmp_path / "x.npy")
    train(on_a_file(tmp_path / "x.npy"), tmp_path / "run")
    place = tmp_path / "run" / "experiment.toml"
    (tmp_path / "x.npy").rename(tmp_path / "y.npy")
    assert Run.open(tmp_path / "run").weights.step == 2  # samples need no data
    with pytest.raises(DataError, match=r"write their new place into .*experiment\.toml"):
        Run.open(tmp_path / "run").rows("test")
    place.write_text(place.read_text().replace("x.npy", "y.npy"))
    assert len(Run.open(tmp_path / "run").rows("test")) == 4
    assert resume(tmp_path / "run").weights.step == 2
    write_array(tmp_path / "y.npy", change=0.5)
    with pytest.raises(RunDirectoryError, match=r"x\.npy.* then, .*y\.npy.* now; the place.*another sha256"):
        Run.open(tmp_path / "run")
    place.write_text(place.read_text().replace("y.npy", "gone.npy"))
    with pytest.raises(RunDirectoryError, match="cannot be read: No such file"):
        Run.open(tmp_path / "run")


@attrs.frozen
class Own(GaussianMixture):
    """Data of a user's plugin, which reads a file and does not say so."""

    path: Path | None = None

    def split(self, name: str) -> object:
        batch = super().split(name)  # type: ignore[arg-type]
        return batch if self.path is None else attrs.evolve(batch, x=batch.x + float(self.path.read_text()))


def test_changed_data_are_noticed_where_a_data_set_has_no_source(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = train(experiment(steps=2), tmp_path / "drawn")
    drawn = Run.open(tmp_path / "drawn")
    assert drawn.source_changes() == []
    monkeypatch.setattr(GaussianMixture, "split", lambda self, name: attrs.evolve(run_split(self, name), x=zeros(self)))
    with pytest.warns(BFNWarning, match="the data are drawn, and other rows come out"):
        Run.open(tmp_path / "drawn").rows("test")
    path = tmp_path / "shift.txt"
    path.write_text("0.0")
    read = attrs.evolve(drawn, experiment=attrs.evolve(run.experiment, dataset=Own(count=50, path=path)))
    with pytest.raises(DataError, match="not those that the model was trained on: other rows"):
        read.rows("test")


run_split = GaussianMixture.split


def zeros(dataset: GaussianMixture) -> torch.Tensor:
    return torch.zeros_like(run_split(dataset, "test").x)


# Resuming


def test_without_a_step_nothing_is_rewritten(run: Path) -> None:
    before = contents(run)
    assert resume(run).weights.step == 4
    assert resume(run, overrides=[("training.keep", "1")]).weights.step == 4
    for changes in ([("seed", "5")], [("training.lr", "0.5")], [("training.final", "best")], [("training.steps", "3")]):
        with pytest.raises(ConfigError, match=r"trained to its end, step 4, .* --training\.steps 8"):
            resume(run, overrides=changes, allow_inexact=True)
    assert contents(run) == before


def test_a_change_is_recorded_and_older_checkpoints_keep_their_experiment(run: Path) -> None:
    resume(run, overrides=[("training.steps", "6"), ("training.lr", "0.01")], allow_inexact=True)
    assert tomllib.loads((run / "experiment.toml").read_text())["training"]["lr"] == 0.01
    (entry,) = json.loads((run / "model.json").read_text())["inexact"]
    assert (entry["step"], entry["differs"]) == (
        4,
        ["training.steps: 4 then, 6 now", "training.lr: 0.003 then, 0.01 now"],
    )
    lr = [Run.open(run, checkpoint=which).experiment.training.lr for which in ("final", "6", "4", "2")]
    assert lr == [0.01, 0.01, 0.003, 0.003]
    text = (run / "experiment.toml").read_text()
    (run / "experiment.toml").write_text(text.replace("lr = 0.01", "lr = 0.003").replace("steps = 6", "steps = 4"))
    assert Run.open(run).experiment.training.lr == 0.01  # a crash came between the checkpoint and experiment.toml
    (run / "experiment.toml").write_text(text.replace("lr = 0.01", "lr = 0.02"))
    with pytest.raises(RunDirectoryError, match=r"training.lr: 0.01 then, 0.02 now"):
        Run.open(run)


def test_a_plugin_of_another_version_is_a_change(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        checkpointer, "providers", lambda value: {"network": {"name": "x", "distribution": "bfn-x", "version": "2.0"}}
    )
    state = json.loads((run / "checkpoints" / "step-00000004" / "state.json").read_text())
    now = {**state, "plugins": checkpointer.providers(None)}
    before = {**state, "plugins": {"network": {"name": "x", "distribution": "bfn-x", "version": "1.0"}}}
    from bfn_toolkit.runs.records import changed_settings

    assert changed_settings(before, now, GaussianMixture()) == ["bfn-x: 1.0 then, 2.0 now"]
    assert changed_settings(now, now, GaussianMixture()) == []


def test_a_finished_run_without_checkpoints_is_not_trained_again(run: Path) -> None:
    shutil.rmtree(run / "checkpoints")
    before = contents(run)
    with pytest.raises(RunDirectoryError, match="holds a model, but no checkpoint"):
        resume(run)
    assert contents(run) == before


@pytest.mark.parametrize("removed", [True, False])
def test_a_run_directory_that_vanishes_ends_the_training(removed: bool, tmp_path: Path) -> None:
    run = tmp_path / "run"

    def vanish(event: TrainingEvent) -> None:
        if event.step < 4:
            return
        if run.exists() and removed:
            shutil.rmtree(run)
        elif run.exists():
            run.rename(tmp_path / "renamed")

    with pytest.raises(ResourceError, match="was removed or renamed") as caught:
        train(experiment(steps=8, checkpoint_every=2), run, callbacks=[vanish])
    assert caught.value.exit_status == 7
    assert not run.exists()
    if not removed:
        assert resume(tmp_path / "renamed").weights.step == 8


def test_files_that_samples_are_written_to_are_left_alone(run: Path) -> None:
    with sample_file(run / "many.csv", 10, {"plan": 1}) as file:
        assert file.rows == 0
        rows = run / ".tmp-many.csv"
        resume(run)
        assert rows.exists()
        before = contents(run)
        with pytest.raises(RunDirectoryError, match=r"many\.csv is being written by another process"):
            train(experiment(steps=2), run, force=True)
        assert contents(run) == before
        file.rows, file.n = 10, 10
    (run / "samples-ancestral-n10-steps5-seed0.npy").touch()
    (run / "samples-of-mine.npy").touch()
    train(experiment(steps=2), run, force=True)
    assert [path.name for path in run.glob("samples*")] == ["samples-of-mine.npy"]


def test_a_crash_while_a_run_is_replaced_leaves_one_that_can_be_replaced(run: Path, tmp_path: Path) -> None:
    opened, k = set(), 1
    copy = Path(shutil.copytree(run, tmp_path / "copy"))
    while crash_at(k, lambda: start_run(copy, experiment(steps=2))):
        check_out(copy, force=True)
        with warnings.catch_warnings(action="ignore"):  # of a model that is left without its description
            try:
                opened.add(Run.open(copy).experiment.training.steps)
            except RunDirectoryError:
                opened.add(0)
        shutil.rmtree(copy)
        shutil.copytree(run, copy)
        k += 4
    assert opened == {0, 4}
    start_run(copy, experiment(steps=2))
    assert sorted(os.listdir(copy)) == [".lock", "experiment.toml"]


def test_a_run_that_cannot_be_replaced_stays(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = contents(run)

    def full(path: Path, content: str) -> None:
        raise ResourceError("no space left")

    monkeypatch.setattr(directory, "write_atomically", full)
    with pytest.raises(ResourceError):
        train(experiment(steps=2), run, force=True)
    assert contents(run) == before


def test_a_damaged_model_does_not_block_sound_checkpoints(run: Path) -> None:
    sound = contents(run)
    (run / "model.json").write_text("{")
    with pytest.raises(RunDirectoryError, match=r"damaged.*--checkpoint last.*bfn train --resume"):
        Run.open(run)
    assert Run.open(run, checkpoint="last").weights.step == 4
    resume(run)
    assert contents(run).keys() == sound.keys()
    assert Run.open(run).weights.step == 4
    (run / "model.safetensors").write_bytes(b"")
    with pytest.raises(RunDirectoryError, match=r"damaged.*--checkpoint last"):
        Run.open(run)


def test_a_stopped_run_is_exported(tmp_path: Path) -> None:
    with pytest.raises(Interrupted), signal_at(3, 15):
        train(experiment(steps=9), tmp_path / "run")
    assert main(["export", str(tmp_path / "run"), "--out", str(tmp_path / "model")]) == 0
    assert "weights after step 3 (step-00000003)" in (tmp_path / "model" / "README.md").read_text()


# Metrics


def test_what_is_read_of_the_metrics_is_what_the_weights_have_seen(run: Path) -> None:
    whole = (run / METRICS).read_text()
    for torn in ('{"step": 5, "loss": 0.', '{"step": 5, "loss": NaN}\nnonsense\n', "\0" * 10**6):
        (run / METRICS).write_text(whole + torn)
        metrics = Run.open(run).metrics
        assert [line["step"] for line in metrics if "loss" in line] == [1, 2, 3, 4]
        assert (len(metrics), metrics[-1], metrics[0]["step"]) == (6, list(metrics)[-1], 1)
        assert metrics[1:3] == tuple(metrics)[1:3]
    resume(run, overrides=[("training.steps", "5")], allow_inexact=True)
    assert [line["step"] for line in Run.open(run).metrics if "loss" in line] == [1, 2, 3, 4, 5]


DAMAGES: dict[str, Callable[[Path], object]] = {
    "fifo": lambda path: (path.unlink(), os.mkfifo(path)),
    "link": lambda path: (path.rename(path.parent / "x"), path.symlink_to("x")),
    "folder": lambda path: (path.unlink(), path.mkdir()),
    "gone": lambda path: path.unlink(),
    "cut": lambda path: path.write_bytes(path.read_bytes()[:-1]),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_metrics_that_cannot_be_read_cost_only_themselves(damage: str, run: Path) -> None:
    DAMAGES[damage](run / METRICS)
    opened = Run.open(run)
    with pytest.warns(BFNWarning, match=r"the metrics are left out.*metrics\.jsonl"):
        assert len(opened.metrics) == 0
    with pytest.warns(BFNWarning):
        resume(run, overrides=[("training.steps", "5")], allow_inexact=True)
    assert [line["step"] for line in Run.open(run).metrics if "loss" in line] == [5]
    assert (run / DAMAGED).is_symlink() or (run / DAMAGED).exists() or damage == "gone"


def test_many_lines_are_read_in_little_memory(tmp_path: Path) -> None:
    import tracemalloc

    log, n = MetricsLog(tmp_path), 5_000
    log.append([{"step": step, "loss": 0.5, "lr": 1e-3} for step in range(n)])
    stored = StoredMetrics(tmp_path, log.record())
    tracemalloc.start()
    assert sum(line["step"] for line in stored) == n * (n - 1) // 2
    assert tracemalloc.get_traced_memory()[1] < 2**20
    tracemalloc.stop()


def test_numbers_that_are_not_finite_are_null_in_files_and_come_back_in_states(tmp_path: Path) -> None:
    log = MetricsLog(tmp_path)
    log.append([{"step": 1, "loss": float("nan"), "grad_norm": float("inf")}])
    assert (tmp_path / METRICS).read_text() == '{"step": 1, "loss": null, "grad_norm": null}\n'
    options = {"scheduler": "ExponentialLR", "scheduler_options": {"gamma": 0.5}, "clip_norm": float("inf")}
    run = train(experiment(steps=2, **options), tmp_path / "run")

    def no_constant(text: str) -> object:
        raise ValueError(text)

    for path in (tmp_path / "run").rglob("*.json*"):
        for text in path.read_text().splitlines() if path.suffix == ".jsonl" else [path.read_text()]:
            json.loads(text, parse_constant=no_constant)
    assert Run.open(tmp_path / "run").experiment == run.experiment
    from bfn_toolkit.training.step import flatten, unflatten

    state = {"best": float("inf"), "worst": (-float("inf"), 1)}
    assert unflatten({}, json.loads(json.dumps(flatten(state)[1], allow_nan=False))) == state


def test_a_single_row_has_no_standard_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    one = attrs.evolve(experiment(steps=2, validate_every=1), dataset=GaussianMixture(count=2, valid_fraction=0.13))
    run = train(one, tmp_path / "run")
    assert len(run.experiment.dataset.split("valid").x) == 1
    found = [line for line in run.metrics if "valid_loss" in line]
    assert all(line["valid_loss"] > 0.0 and line["valid_loss_stderr"] is None for line in found)
    assert main(["evaluate", str(run.path), "-n", "4", "--sample-steps", "2", "--split", "valid", "--draws", "1"]) == 0
    assert "nan" not in capsys.readouterr().out


FORGED = (None, "x", [-1])
KEYS = ("step", "plugins", "experiment", "inexact", "metrics", "conditions", "sizes", "codec", "source", "data")


def test_facts_of_other_types_are_refused_or_not_used(run: Path) -> None:
    """Somebody has written them, under good digests."""
    facts, content, opened = json.loads((run / "model.json").read_text()), (run / "model.safetensors").read_bytes(), 0
    for key in KEYS:
        for value in FORGED:
            rewrite_model(run, content, **{**facts, key: value})
            try:
                found = Run.open(run)
                read, changes = (len(found.metrics), found.weights.step), found.source_changes()
            except BFNError:
                continue
            assert read == (6, 4), (key, value)
            assert changes == [] or key in ("data", "source"), (key, value)  # which refuses the rows, and no sample
            opened += 1
    assert opened < len(KEYS) * len(FORGED) / 3
