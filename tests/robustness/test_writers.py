"""Each writer, with a crash or an error at every call to the system: the old state is left, or the new one."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import attrs
import pytest
import torch
from faults.system import Calls, Crash, at_each_call, counted, in_place
from faults.tiny import experiment

from bfn_gaussian import Gaussian
from bfn_siren import Siren
from bfn_toolkit import BFN, Experiment, ImageCodec, ResourceError, Run, seeded
from bfn_toolkit.runs.checkpoints import Checkpoint, find_checkpoint, load_checkpoint, save_checkpoint
from bfn_toolkit.runs.directory import describe, start_run
from bfn_toolkit.runs.metrics_log import MetricsLog, StoredMetrics
from bfn_toolkit.runs.model_files import load_model, save_model
from bfn_toolkit.runs.sampling import write_samples
from bfn_toolkit.sharing.import_weights import import_checkpoint
from bfn_toolkit.storage.files import digest, write_atomically

EXPERIMENT = experiment(steps=2)


@cache
def small(seed: int) -> dict[str, torch.Tensor]:
    with seeded(seed, "weights"):
        state: dict[str, torch.Tensor] = BFN(EXPERIMENT.family, EXPERIMENT.network).network.state_dict()
    return state


def numbers(state: Any) -> tuple[float, ...]:
    return tuple(float(state[name].sum()) for name in sorted(state))


@attrs.frozen
class Writer:
    """A writer.

    Arguments:
        write: Writes state number 0 or 1 into a folder.
        read: State of the folder.
    """

    write: Callable[[Path, int], object]
    read: Callable[[Path], object]
    before: bool = True  # whether state 0 is there


def checkpoint(folder: Path, number: int) -> None:
    tensors = small(number)
    save_checkpoint(folder, Checkpoint(10 + number, tensors, None, {"m": torch.ones(2)}, {}), keep=1)


def last_checkpoint(folder: Path) -> object:
    listed, passed = find_checkpoint(folder)
    assert listed is not None
    assert passed == []
    return numbers(load_checkpoint(listed.path, small(0), ema=False).weights)


def model(folder: Path, number: int) -> None:
    save_model(folder, small(number), describe(EXPERIMENT, number))


def metrics(folder: Path, number: int) -> None:
    MetricsLog.continued(folder, recorded(number)).append([{"step": number}])


def recorded(lines: int) -> dict[str, Any]:
    data = b"".join(b'{"step": %d}\n' % number for number in range(lines))
    return {"bytes": len(data), "sha256": digest(data)}


def lines_of(folder: Path) -> int:
    return max(lines for lines in (1, 2) if StoredMetrics(folder, recorded(lines)).fault is None)


def exported(folder: Path, number: int) -> None:
    network = Siren(width=4).build(Gaussian().network_io)
    with torch.no_grad():
        for value in network.parameters():
            value.fill_(float(number))
    BFN(Gaussian(), network, Siren(width=4)).save_pretrained(folder, force=True)


def imported(folder: Path, number: int) -> None:
    source = folder.parent / f"{number}.pt"
    if not source.exists():
        torch.save(small(number), source)
    import_checkpoint(source, folder, EXPERIMENT, force=True)


def begun(folder: Path, number: int) -> None:
    start_run(folder, attrs.evolve(EXPERIMENT, seed=number))
    if not number:
        model(folder, 0)


def run_state(folder: Path) -> object:
    seed = Experiment.from_toml(folder / "experiment.toml", base=None, complete=True).seed
    if (folder / "model.json").exists():
        return seed, numbers(load_model(folder, small(0)))
    return seed, "to be trained"


WRITERS = {
    "one file": Writer(lambda f, i: write_atomically(f / "x", f"{i}" * 9), lambda f: (f / "x").read_text()),
    "model": Writer(model, lambda f: numbers(load_model(f, small(0)))),
    "checkpoint, and prune": Writer(checkpoint, last_checkpoint),
    "metrics": Writer(metrics, lines_of),
    "export": Writer(exported, lambda f: numbers(BFN.from_pretrained(f).network.state_dict())),
    "import": Writer(imported, lambda f: numbers(Run.open(f).model.network.state_dict()), before=False),
    "samples": Writer(
        lambda f, i: write_samples(f / "x.npy", torch.full((3, 2), float(i))), lambda f: (f / "x.npy").read_bytes()
    ),
    "samples in a folder": Writer(
        lambda f, i: write_samples(f / "x", torch.full((2, 2, 2), i, dtype=torch.uint8), ImageCodec()),
        lambda f: tuple((f / "x" / name).read_bytes() for name in sorted(os.listdir(f / "x"))),
    ),
    "run that replaces another": Writer(begun, run_state),
}


# Between two renames a folder of samples has no name; it is complete, and the same command goes on.
HALF_WAY = {"run that replaces another": {(0, "to be trained")}, "samples in a folder": {"no such file"}}


ERRORS = (errno.ENOSPC, errno.EIO)
SLOW = ("export", "import")  # which take turns


@pytest.mark.parametrize(
    ("name", "faults"),
    [
        *((name, faults) for name in WRITERS if name not in SLOW for faults in ((None,), ERRORS)),
        *((name, (None, *ERRORS)) for name in SLOW),
    ],
)
def test_the_old_state_or_the_new_one_is_left(name: str, faults: Sequence[int | None], tmp_path: Path) -> None:
    writer, saved, folder = WRITERS[name], tmp_path / "saved", tmp_path / "folder"
    saved.mkdir()
    if writer.before:
        writer.write(saved, 0)
    old, found = writer.read(saved) if writer.before else None, []
    shutil.copytree(saved, folder)
    for call, error in at_each_call(lambda: writer.write(folder, 1), faults):
        try:
            state = writer.read(folder)
        except FileNotFoundError:
            state = "no such file" if writer.before else None
        except Exception as unreadable:
            state = f"{type(unreadable).__name__} at {call} {len(found) + 1}: {unreadable}" if writer.before else None
        found.append(state)
        assert error is None or isinstance(error, ResourceError), (call, error)
        if len(found) % 3 == 0 or not call:  # whatever was left, the same work can be done again
            writer.write(folder, 1)
            new = writer.read(folder)
        shutil.rmtree(folder)
        shutil.copytree(saved, folder)
    assert new != old
    assert set(found) - HALF_WAY.get(name, set()) == {old, new}
    assert sum(state not in (old, new) for state in found) <= 3
    order = [state == new for state in found]
    assert order[-1]
    assert errno.EIO in faults or order == sorted(order)  # once new, it stays so
    assert len(found) > 3


def test_the_counter_counts_and_a_crash_has_no_effect_afterwards(tmp_path: Path) -> None:
    with counted(Calls()) as calls:
        write_atomically(tmp_path / "x", "old")
    assert [name for name in calls.names if name != "mkdir"] == ["open", "write", "fsync", "chmod", "replace", "fsync"]
    with counted(Calls(at=len(calls.names) - 1)) as ended:
        try:
            write_atomically(tmp_path / "x", "new")
        finally:
            with pytest.raises(Crash):
                os.unlink(tmp_path / "x")
    assert ended.came
    assert (tmp_path / "x").read_text() == "old"


def test_a_file_that_is_written_in_place_is_seen_torn(tmp_path: Path) -> None:
    path, found = tmp_path / "x", set()
    for _ in at_each_call(lambda: in_place(path, b"new content")):
        found.add(path.read_bytes() if path.exists() else None)
        path.write_bytes(b"old")
    assert found >= {b"new c", b"new content"}
