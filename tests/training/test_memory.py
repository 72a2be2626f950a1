"""A lack of memory in a training: status 7, its place, what helps against it, and the steps before it saved."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import attrs
import pytest
import torch
from faults.numbers import oom_above
from faults.tiny import experiment
from torch import nn

from bfn_siren import Siren
from bfn_toolkit import BFNWarning, Experiment, NetworkBuilder, ResourceError, train
from bfn_toolkit.cli import main
from bfn_toolkit.errors import is_out_of_memory
from bfn_toolkit.runs.checkpoints import find_checkpoint
from bfn_toolkit.training.checkpointer import Checkpointer
from bfn_toolkit.training.step import TrainStep

LACKS = [
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has 1 GiB"),
    RuntimeError("[enforce fail at alloc_cpu.cpp:127] DefaultCPUAllocator: can't allocate memory: you tried to"),
    RuntimeError("MPS backend out of memory (MPS allocated: 9.0 GB). Tried to allocate 256 bytes"),
    RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    MemoryError(),
    MemoryError("std::bad_alloc"),
    RuntimeError("std::bad_alloc"),
    OSError(12, "Cannot allocate memory"),
]


def failing(monkeypatch: pytest.MonkeyPatch, name: str, error: Exception, at: int) -> None:
    """A verb of the training step fails when it is called for the ``at``-th time."""
    whole, calls = getattr(TrainStep, name), iter(range(1, at))

    def short(*arguments: Any) -> Any:
        if next(calls, None) is None:
            raise error
        return whole(*arguments)

    monkeypatch.setattr(TrainStep, name, short)


def few(**training: object) -> Experiment:
    return experiment(steps=6, batch_size=16, **training)


@pytest.mark.parametrize("error", LACKS, ids=repr)
@pytest.mark.filterwarnings("ignore::bfn_toolkit.BFNWarning")
def test_a_lack_of_memory_in_a_step_is_status_7_and_the_steps_before_it_are_saved(
    error: Exception, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    failing(monkeypatch, "gradients", error, at=4)
    with pytest.raises(ResourceError, match=r"out of memory in step 4: .+; write --training\.accumulate 4") as caught:
        train(few(accumulate=2), tmp_path / "run")
    assert caught.value.exit_status == 7
    assert caught.value.__cause__ is error
    found, _ = find_checkpoint(tmp_path / "run")
    assert found is not None
    assert found.step == 3


def test_other_errors_are_no_lack_of_memory() -> None:
    others = [RuntimeError("mat1 and mat2"), ValueError("out of memory"), OSError(2, "No such file"), KeyError("x")]
    assert not any(map(is_out_of_memory, others))


@pytest.mark.parametrize(("rows", "advice"), [(8, "accumulate 2"), (0, "a smaller network")])
def test_the_advice_is_one_that_helps(rows: int, advice: str) -> None:
    hungry = attrs.evolve(few(accumulate=1 if rows else 16), network=oom_above(rows, Siren(width=8)))
    with pytest.raises(ResourceError, match=advice):
        train(hungry)
    if rows:
        train(attrs.evolve(hungry, training=few(accumulate=2).training))


def test_a_lack_of_memory_in_the_optimiser_says_what_it_holds(monkeypatch: pytest.MonkeyPatch) -> None:
    def short(*_: object, **__: object) -> None:
        raise LACKS[0]

    monkeypatch.setattr(torch.optim.Adam, "step", short)
    with pytest.raises(ResourceError, match=r"in step 1: CUDA out of memory.*--training\.optimizer sgd"):
        train(few())


@attrs.frozen
class Huge(NetworkBuilder):
    """A network of 2^62 bytes, which no machine has."""

    def build(self, io: object) -> nn.Module:
        return nn.Linear(2**30, 2**30)


def test_a_lack_of_memory_while_a_network_is_built_is_status_7() -> None:
    with pytest.raises(ResourceError, match=r"out of memory before the first step.*smaller network"):
        train(attrs.evolve(few(), network=Huge()))


def test_a_lack_of_memory_in_a_validation_saves_the_steps_before_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from bfn_toolkit.training.validation import Validation

    def short(*_: object) -> None:
        raise ResourceError("out of memory for a single row")

    monkeypatch.setattr(Validation, "losses", short)
    with pytest.warns(BFNWarning, match="after step 4"), pytest.raises(ResourceError, match="single row"):
        train(few(validate_every=4), tmp_path / "run")
    found, _ = find_checkpoint(tmp_path / "run")
    assert found is not None
    assert found.step == 4


@pytest.mark.parametrize("failure", [MemoryError, ZeroDivisionError, lambda: ResourceError("disk")])
def test_the_first_error_is_told_before_the_save_and_the_save_does_not_hide_it(
    failure: Callable[[], Exception],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    told: list[str] = []

    def fail(*_: object, **__: object) -> None:
        told.append(capsys.readouterr().err)
        raise failure()

    failing(monkeypatch, "gradients", LACKS[1], at=3)
    monkeypatch.setattr(Checkpointer, "save", fail)
    options = ["--dataset.count", "50", "--network.width", "8", "--training.device", "cpu", "--training.steps", "6"]
    assert main(["train", "--out", str(tmp_path / "run"), "--no-report", *options]) == 7
    assert "after step 2: out of memory in step 3: [enforce fail" in told[0]
    said = capsys.readouterr().err
    assert "warning: step 2 is not saved" in said
    assert said.splitlines()[-1].startswith("error: out of memory in step 3")
