"""Variables of other people's jobs: only a complete place in a job counts, and no option of accelerate does."""

import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

import pytest
from faults.tiny import experiment

from bfn_toolkit import BFNWarning, Training, train
from bfn_toolkit.cli import main
from bfn_toolkit.parallel import devices
from bfn_toolkit.parallel.devices import make_accelerator
from bfn_toolkit.parallel.environment import PLACE, ignored, own_variables, place

WHOLE = {"RANK": "1", "WORLD_SIZE": "4", "LOCAL_RANK": "0", "MASTER_ADDR": "node1", "MASTER_PORT": "29500"}
OPTIONS = {
    "ACCELERATE_MIXED_PRECISION": "fp8",
    "ACCELERATE_USE_DEEPSPEED": "true",
    "ACCELERATE_USE_FSDP": "true",
    "ACCELERATE_DYNAMO_BACKEND": "inductor",
    "ACCELERATE_GRADIENT_ACCUMULATION_STEPS": "x",
    "ACCELERATE_TORCH_DEVICE": "cuda:7",
    "FSDP_VERSION": "x",
    "OMPI_COMM_WORLD_SIZE": "4",
    "PMI_SIZE": "4",
    "PMI_RANK": "3",
}


def environment(monkeypatch: pytest.MonkeyPatch, values: Mapping[str, str]) -> None:
    for name in PLACE:
        monkeypatch.delenv(name, raising=False)
    for name, value in values.items():
        monkeypatch.setenv(name, value)


def test_a_complete_place_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    environment(monkeypatch, WHOLE)
    assert place() == (1, 4)
    assert ignored() == ""


@pytest.mark.parametrize(
    "change",
    [*({name: None} for name in WHOLE), {"RANK": "4"}, {"RANK": "x"}, {"WORLD_SIZE": ""}, {"LOCAL_RANK": "-1"}],
)
def test_a_place_that_is_incomplete_or_odd_does_not_count(
    change: Mapping[str, str | None], monkeypatch: pytest.MonkeyPatch
) -> None:
    environment(monkeypatch, {name: value for name, value in {**WHOLE, **change}.items() if value is not None})
    assert place() == (0, 1)
    assert ("is ignored" in ignored()) == ("WORLD_SIZE" in os.environ)


def test_options_of_accelerate_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    environment(monkeypatch, {**OPTIONS, "RANK": "3", "LOCAL_RANK": "3"})
    accelerator = make_accelerator(Training(device="cpu"))
    assert (accelerator.num_processes, accelerator.mixed_precision, str(accelerator.device)) == (1, "no", "cpu")
    assert accelerator.state.dynamo_plugin.backend.value == "NO"
    assert {name: os.environ[name] for name in OPTIONS} == OPTIONS


def test_variables_come_back_also_after_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    environment(monkeypatch, OPTIONS)
    with own_variables(ACCELERATE_TORCH_DEVICE="cpu"):
        assert os.environ["ACCELERATE_TORCH_DEVICE"] == "cpu"
        assert "PMI_SIZE" not in os.environ
    with suppress(ZeroDivisionError), own_variables():
        raise ZeroDivisionError
    assert {name: os.environ[name] for name in OPTIONS} == OPTIONS


def test_a_command_alone_in_the_shell_of_a_job_does_its_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    train(experiment(steps=1), tmp_path / "run")
    environment(monkeypatch, {"WORLD_SIZE": "4", "RANK": "3", "MASTER_ADDR": "node1"})
    assert main(["sample", str(tmp_path / "run"), "-n", "2", "--steps", "2", "--out", str(tmp_path / "s.npy")]) == 0
    assert (tmp_path / "s.npy").exists()
    out, err = capsys.readouterr()
    assert "s.npy" in out
    assert "WORLD_SIZE=4 is ignored (LOCAL_RANK, MASTER_PORT not set)" in err


def test_a_process_says_what_it_waits_for(monkeypatch: pytest.MonkeyPatch) -> None:
    environment(monkeypatch, {**WHOLE, "RANK": "0"})
    monkeypatch.setattr(devices, "WAITING", 0.0)
    said = pytest.warns(BFNWarning, match=r"waiting at node1:29500 for 3 other processes.*unset WORLD_SIZE")
    with said, devices._told_of_waiting(4) as timer:
        timer.join()
