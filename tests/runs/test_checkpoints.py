"""Checkpoints and models in files: whole or not there, and damage is noticed before it is used."""

import hashlib
import json
import math
import random
import re
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from faults.crashes import crash_at
from faults.damages import DAMAGES, rewrite_manifest, rewrite_model
from faults.disks import flip_bit, other_tmpdir_fs, simulated_fs, tiny_fs
from faults.files import hostile_files
from faults.tiny import equal_states, experiment
from torch import nn

from bfn_toolkit import Run, RunDirectoryError, train
from bfn_toolkit.cli import main
from bfn_toolkit.errors import BFNWarning, NonFiniteError, ResourceError
from bfn_toolkit.runs import checkpoints, metrics_log, model_files
from bfn_toolkit.runs.checkpoints import Checkpoint, find_checkpoint, list_checkpoints, load_checkpoint, save_checkpoint
from bfn_toolkit.runs.directory import describe
from bfn_toolkit.runs.model_files import load_model, save_model
from bfn_toolkit.storage import files, folders
from bfn_toolkit.storage.files import MANIFEST, SUMS
from bfn_toolkit.storage.folders import read_folder, sweep
from bfn_toolkit.storage.safetensors_files import cpu_state
from bfn_toolkit.training.trainer import resume

Fill = Callable[[object], None]
NETWORK = nn.Linear(3, 2)


def of_step(step: int, valid_loss: float | None = None) -> Checkpoint:
    """A checkpoint of which every part tells its step."""
    state = {name: torch.full_like(value, float(step)) for name, value in NETWORK.state_dict().items()}
    optimizer = {"state": torch.full((3,), float(step))}
    return Checkpoint(step, state, state, optimizer, {"optimizer": step}, valid_loss, {"bfn-toolkit": "0"})


def load(folder: Path) -> Checkpoint:
    return load_checkpoint(folder, NETWORK.state_dict(), ema=True)


def consistent(run: Path) -> int:
    """Step of the latest checkpoint, after checking that all of its parts are of it."""
    listed, _ = find_checkpoint(run)
    assert listed is not None
    found = load(listed.path)
    expected = of_step(listed.step)
    assert found.step == found.state["optimizer"] == listed.step
    assert equal_states(found.weights, expected.weights)
    assert found.ema is not None
    assert equal_states(found.ema, expected.weights)
    assert equal_states(found.optimizer, expected.optimizer)
    return listed.step


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """Checkpoints of the steps 10, 20 and 30."""
    for step in (10, 20, 30):
        save_checkpoint(tmp_path / "run", of_step(step), keep=3)
    return tmp_path / "run"


@pytest.mark.parametrize("keep", [1, 2])
def test_a_crash_at_every_step_of_a_save_leaves_the_old_checkpoint_or_the_new_one(keep: int, tmp_path: Path) -> None:
    saved, run = tmp_path / "saved", tmp_path / "run"
    save_checkpoint(saved, of_step(10), keep)
    found, k, ended = [], 1, False
    while not ended:
        shutil.copytree(saved, run)
        ended = not crash_at(k, lambda: save_checkpoint(run, of_step(20), keep))
        found.append(consistent(run))
        sweep(run / "checkpoints")
        assert consistent(run) == found[-1]
        assert all(path.name.startswith("step-") for path in (run / "checkpoints").iterdir())
        shutil.rmtree(run)
        k += 1
    assert found == sorted(found)
    assert set(found) == {10, 20}
    assert k > 20


def test_a_crash_at_every_step_of_a_replacement_leaves_the_one_or_the_other(tmp_path: Path) -> None:
    """The same step is saved again, with a validation loss; there is no other checkpoint."""
    saved, run = tmp_path / "saved", tmp_path / "run"
    save_checkpoint(saved, of_step(10), keep=1)
    losses, k, ended = [], 1, False
    while not ended:
        shutil.copytree(saved, run)
        ended = not crash_at(k, lambda: save_checkpoint(run, of_step(10, 0.5), keep=1))
        assert consistent(run) == 10
        losses.append(list_checkpoints(run, verify=True)[0].valid_loss)
        shutil.rmtree(run)
        k += 1
    assert set(losses) == {None, 0.5}


def test_a_crash_at_every_step_of_the_final_save_leaves_a_model_that_opens(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    run = train(experiment(steps=6, checkpoint_every=3), folder)
    first = Run.open(folder, checkpoint="3").model.network.state_dict()
    states = {3: cpu_state(first), 6: cpu_state(run.model.network.state_dict())}
    found, k, ended = [], 1, False
    while not ended:
        save_model(folder, states[3], describe(run.experiment, 3))  # of a training that was made longer afterwards
        ended = not crash_at(k, lambda: save_model(folder, states[6], describe(run.experiment, 6)))
        opened = Run.open(folder)
        assert equal_states(opened.model.network.state_dict(), states[opened.weights.step])
        found.append((opened.weights.step, opened.weights.source))
        sweep(folder)
        k += 1
    assert found[-1] == (6, "final")
    assert set(found) == {(3, "final"), (6, "final")}
    assert [step for step, _ in found] == sorted(step for step, _ in found)  # once new, it stays so


def test_a_save_that_removes_first_is_rejected(tmp_path: Path) -> None:
    """The mutant: what accelerate's total_limit=1 does."""
    saved, run = tmp_path / "saved", tmp_path / "run"
    save_checkpoint(saved, of_step(10), keep=1)

    def removing_first() -> None:
        shutil.rmtree(run / "checkpoints")
        save_checkpoint(run, of_step(20), keep=1)

    shutil.copytree(saved, run)
    assert crash_at(12, removing_first)
    with pytest.raises(AssertionError):
        consistent(run)


def test_temporary_files_are_made_on_the_file_system_of_the_run(run: Path) -> None:
    with other_tmpdir_fs(run) as other:
        save_checkpoint(run, of_step(40), keep=3)
        save_model(run, NETWORK.state_dict(), {"step": 1})
        assert list(other.iterdir()) == []
    assert consistent(run) == 40


def test_a_thousand_flipped_bits_are_refused_or_change_nothing_that_is_read(tmp_path: Path) -> None:
    """Which bits change nothing is known: those of the version in the manifest, which is for a message only."""
    save_checkpoint(tmp_path, of_step(10, 0.25e-7), keep=1)
    save_model(tmp_path, NETWORK.state_dict(), {"step": 10, "plugins": {}, "seconds": 1e-9})
    folder = tmp_path / "checkpoints" / "step-00000010"
    files = [*sorted(folder.iterdir()), *(tmp_path / name for name in ("model.safetensors", "model.json", SUMS))]
    assert len(files) == 8
    (manifest, whole), described = read_folder(folder), json.loads((tmp_path / "model.json").read_text())
    harmless = 0
    for seed in range(1000):
        path = files[seed % len(files)]
        flip_bit(path, seed)
        fault = ""
        try:
            load(folder) if path.parent == folder else load_model(tmp_path, NETWORK.state_dict())
        except RunDirectoryError as error:
            fault = str(error)
        if fault:
            assert path.name in fault or path.name in (MANIFEST, SUMS)
        else:
            assert path.name == MANIFEST
            found, same = read_folder(folder)
            assert (found["files"], same) == (manifest["files"], whole)
            assert json.loads((tmp_path / "model.json").read_text()) == described
            harmless += 1
        flip_bit(path, seed)
    assert harmless < 10
    load(folder)


def test_a_reader_that_does_not_check_is_rejected(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The mutant: without digests, a flipped bit of a weight is read as another weight."""
    folder = run / "checkpoints" / "step-00000030"
    path = folder / "weights.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(RunDirectoryError, match="SHA-256"):
        load(folder)

    class Blind:
        def hexdigest(self) -> str:
            return entry["sha256"]

    entry = json.loads((folder / MANIFEST).read_text())["files"]["weights.safetensors"]
    with monkeypatch.context() as patch:
        patch.setattr(files.hashlib, "sha256", lambda _: Blind())
        table = json.loads((folder / MANIFEST).read_text())["files"]
        rewrite_manifest(folder, files={name: {**e, "sha256": entry["sha256"]} for name, e in table.items()})
        assert not equal_states(load(folder).weights, of_step(30).weights)


@pytest.mark.parametrize("damage", DAMAGES)
def test_damage_is_named_and_the_checkpoint_before_is_used(damage: str, run: Path) -> None:
    make, named = DAMAGES[damage]
    make(run / "checkpoints" / "step-00000030")
    found, passed = find_checkpoint(run)
    assert found is not None
    assert found.step in (10, 20)
    assert any(re.search(named, fault) for fault in passed), passed
    with pytest.raises(RunDirectoryError, match=named):
        find_checkpoint(run, "30")
    shutil.rmtree(run / "checkpoints" / "step-00000010")
    shutil.rmtree(run / "checkpoints" / "step-00000020")
    with pytest.raises(RunDirectoryError, match=rf"no checkpoint that can be used:\n.*({named})"):
        find_checkpoint(run)


def test_retention_keeps_the_last_ones_and_the_best(tmp_path: Path) -> None:
    for step, loss in ((1, 0.9), (2, 0.1), (3, math.nan), (4, None), (5, 0.5), (6, 0.3)):
        save_checkpoint(tmp_path, of_step(step, loss), keep=2)
    assert [one.step for one in list_checkpoints(tmp_path, verify=True)] == [2, 5, 6]


@pytest.mark.parametrize("damage", ["zero page", "missing manifest"])
def test_retention_never_removes_the_only_good_one(damage: str, run: Path) -> None:
    """A damaged checkpoint of a later step, before which training went on, removes no good one."""
    DAMAGES[damage][0](run / "checkpoints" / "step-00000030")
    for step in (21, 22, 23):
        save_checkpoint(run, of_step(step), keep=1)
        assert consistent(run) == step


def test_non_finite_weights_are_not_saved_and_not_loaded(run: Path) -> None:
    bad = {**of_step(40).weights, "weight": torch.full((2, 3), math.nan)}
    broken = Checkpoint(40, bad, None, {}, {})
    with pytest.raises(NonFiniteError, match="weight"):
        save_checkpoint(run, broken, keep=1)
    assert [one.step for one in list_checkpoints(run)] == [10, 20, 30]

    with pytest.MonkeyPatch.context() as patch:
        dumps = checkpoints.dumps
        for module in (checkpoints, model_files):
            patch.setattr(module, "dumps", lambda state, finite=True: dumps(state, finite=False))
        save_checkpoint(run, broken, keep=1)
        save_model(run, bad, {"step": 1})
    folder = run / "checkpoints" / "step-00000040"
    with pytest.raises(RunDirectoryError, match=r"weights\.safetensors.*weight: 6 values are not finite"):
        load_checkpoint(folder, NETWORK.state_dict(), ema=False)
    with pytest.raises(RunDirectoryError, match=r"model\.safetensors.*weight: 6 values are not finite"):
        load_model(run, NETWORK.state_dict())
    taken = load_checkpoint(folder, NETWORK.state_dict(), ema=False, allow_nonfinite=True)
    assert taken.weights["weight"].isnan().all()


def test_another_architecture_is_refused_with_five_tensors_that_differ(run: Path) -> None:
    wide = nn.Sequential(*(nn.Linear(3, 3) for _ in range(5)))
    with pytest.raises(
        RunDirectoryError, match=r"weights\.safetensors does not fit the network: .*\(and 7 more\)"
    ) as error:
        load_checkpoint(run / "checkpoints" / "step-00000030", wide.state_dict(), ema=True)
    assert str(error.value).count(";") == 4
    with pytest.raises(RunDirectoryError, match=r"weight: torch.float32 \(2, 3\), expected torch.float32 \(3, 2\)"):
        load_checkpoint(run / "checkpoints" / "step-00000030", nn.Linear(2, 3).state_dict(), ema=True)
    with pytest.raises(RunDirectoryError, match=r"expected torch\.float64"):
        load_checkpoint(run / "checkpoints" / "step-00000030", nn.Linear(3, 2).double().state_dict(), ema=True)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("trained") / "run"
    train(experiment(steps=4, checkpoint_every=2), folder)
    return folder


@pytest.fixture
def copy(trained: Path, tmp_path: Path) -> Path:
    shutil.copytree(trained, tmp_path / "copy")
    return tmp_path / "copy"


def test_hostile_models_are_refused_quickly_and_nothing_is_executed(
    copy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Under a good digest, which whoever makes such a file can compute; each within two seconds of a slow machine."""
    for name, content in hostile_files(str(tmp_path / "executed")):
        rewrite_model(copy, content)
        start = time.process_time()
        assert main(["sample", str(copy), "-n", "1", "--out", str(tmp_path / "x.npy")]) == 4, name
        assert time.process_time() - start < 2.0, name
        said = capsys.readouterr().err
        assert "model.safetensors" in said, name
        assert "Traceback" not in said, name
        assert len(said) < 2000, name
    assert not (tmp_path / "executed").exists()


def test_hostile_states_are_refused(copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """state.json of another shape, under good digests."""
    folder = copy / "checkpoints" / "step-00000004"
    shutil.rmtree(copy / "checkpoints" / "step-00000002")
    whole = json.loads((folder / "state.json").read_text())
    files = json.loads((folder / MANIFEST).read_text())["files"]
    states: list[object] = [[], {}, 1, {**whole, "optimizer": []}, {**whole, "scheduler": {"table:": 3}}]
    states += [{**whole, "optimizer": "tensor:nowhere"}, {**whole, "environment": 1}]
    for state in states:
        content = json.dumps(state).encode()
        (folder / "state.json").write_bytes(content)
        entry = {"size": len(content), "sha256": hashlib.sha256(content).hexdigest()}
        rewrite_manifest(folder, files={**files, "state.json": entry})
        assert main(["train", "--resume", str(copy), "--no-report"]) == 4, state
        said = capsys.readouterr().err
        assert "step-00000004" in said
        assert "Traceback" not in said


def test_a_flipped_bit_ends_commands_with_status_4(copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["checkpoint", "verify", str(copy)]) == 0
    flip_bit(copy / "model.safetensors", 0)
    assert main(["sample", str(copy), "-n", "1"]) == 4
    assert main(["checkpoint", "verify", str(copy)]) == 4
    flip_bit(copy / "model.safetensors", 0)
    for folder in (copy / "checkpoints").iterdir():
        flip_bit(folder / "optimizer.safetensors", 1)
    capsys.readouterr()
    assert main(["train", "--resume", str(copy), "--no-report"]) == 4
    said = capsys.readouterr().err
    assert said.count("optimizer.safetensors is damaged") == 2
    assert main(["checkpoint", "verify", str(copy)]) == 4


def test_other_tools_can_check_the_digests(copy: Path) -> None:
    for line in (copy / SUMS).read_text().splitlines():  # as sha256sum -c does
        digest, name = line.split("  ")
        assert hashlib.sha256((copy / name).read_bytes()).hexdigest() == digest
    assert (copy / SUMS).read_text().split()[1::2] == ["model.safetensors", "model.json"]


@pytest.mark.parametrize("file_system", [tiny_fs, simulated_fs])
def test_a_full_disk_costs_no_checkpoint_and_says_what_it_needs(
    file_system: Callable[..., object], tmp_path: Path
) -> None:
    """64 MB, of which a good checkpoint takes 40, and the next would take as much."""
    big = {"weight": torch.rand(40 * 2**18)}
    with file_system(tmp_path / "disk", 64) as disk:
        save_checkpoint(disk, Checkpoint(1, big, None, {}, {}), keep=1)
        with pytest.raises(ResourceError, match=r"step-00000002: needed 46\.\d MB, free 2\d\.\d MB; free some space"):
            save_checkpoint(disk, Checkpoint(2, big, None, {}, {}), keep=1)

        with pytest.MonkeyPatch.context() as patch:  # somebody else fills the disk after the look at it
            patch.setattr(folders, "check_space", lambda *_: None)
            with pytest.raises(ResourceError, match=r"step-00000002: No space left on device \(needed 41\.9 MB, free"):
                save_checkpoint(disk, Checkpoint(2, big, None, {}, {}), keep=1)
        assert [path.name for path in (disk / "checkpoints").iterdir()] == ["step-00000001"]
        assert load_checkpoint(disk / "checkpoints" / "step-00000001", big, ema=False).step == 1


@pytest.fixture
def full(monkeypatch: pytest.MonkeyPatch) -> Fill:
    """Makes the disk full for what is asked for after this."""

    def fill(is_full: object) -> None:
        monkeypatch.setattr(files, "free_space", lambda _: 100 if is_full else 2**40)

    return fill


def test_training_goes_on_when_a_save_fails_and_the_next_one_holds(
    tmp_path: Path, full: Callable[[object], None]
) -> None:
    run = tmp_path / "run"
    with pytest.warns(BFNWarning, match=r"step 3 is not saved: cannot write .*needed .* free 100 bytes"):
        train(experiment(steps=6, checkpoint_every=1), run, callbacks=[lambda moment: full(moment.step == 3)])
    assert [one.step for one in list_checkpoints(run, verify=True)] == [4, 5, 6]


def test_a_last_save_that_fails_ends_training_with_status_7(tmp_path: Path, full: Fill) -> None:
    run = tmp_path / "run"
    with (
        pytest.warns(BFNWarning, match="step [56] is not saved"),
        pytest.raises(ResourceError, match="needed") as caught,
    ):
        train(experiment(steps=6, checkpoint_every=1), run, callbacks=[lambda moment: full(moment.step >= 5)])
    assert caught.value.exit_status == 7
    assert [one.step for one in list_checkpoints(run, verify=True)][-1] == 4
    full(False)
    assert resume(run).weights.step == 6


def test_a_full_disk_tears_no_line_of_the_metrics(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write = metrics_log._write_all
    calls: list[int] = []

    def torn(file: object, data: bytes) -> None:
        calls.append(len(data))
        if len(calls) == 2:
            write(file, data[: len(data) // 2])  # type: ignore[arg-type]
            raise OSError(28, "No space left on device")
        write(file, data)  # type: ignore[arg-type]

    train(experiment(steps=6, checkpoint_every=2), tmp_path / "whole")
    monkeypatch.setattr(metrics_log, "_write_all", torn)
    with pytest.warns(BFNWarning, match="metrics.jsonl: No space left"):
        train(experiment(steps=6, checkpoint_every=2), tmp_path / "run")
    assert (tmp_path / "run" / "metrics.jsonl").read_bytes() == (tmp_path / "whole" / "metrics.jsonl").read_bytes()


def test_a_reader_sees_whole_checkpoints_while_training_writes_and_removes_them(tmp_path: Path) -> None:
    """Each callback opens the run in the middle of training."""
    steps = []
    train(
        experiment(steps=30, checkpoint_every=1, keep=1),
        tmp_path / "run",
        callbacks=[
            lambda moment: (
                steps.append(Run.open(tmp_path / "run", checkpoint="last").weights.step) if moment.step > 1 else None
            )
        ],
    )
    assert steps == list(range(1, 30))


def test_random_damage_of_a_random_kind_is_never_read(run: Path) -> None:
    """Bytes are cut, added, zeroed or turned round, in any file of the newest checkpoint."""
    chooser, folder = random.Random(0), run / "checkpoints" / "step-00000030"
    for _ in range(200):
        path = chooser.choice(sorted(folder.iterdir()))
        content = path.read_bytes()
        cut, n = chooser.randrange(len(content)), chooser.randrange(1, 50)
        damaged = chooser.choice(
            (
                content[:cut],
                content + content[:n],
                content[:cut] + bytes(n) + content[cut + n :],
                content[:cut] + content[cut : cut + n][::-1] + content[cut + n :],
            )
        )
        if damaged != content:
            path.write_bytes(damaged)
            assert consistent(run) == 20, path
            path.write_bytes(content)
    assert consistent(run) == 30
