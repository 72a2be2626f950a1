"""Each fault really happens: a test of a fault that never fires would pass for ever."""

import errno
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pytest
import torch

from bfn_gaussian import Gaussian
from bfn_siren import Siren
from bfn_toolkit import BFN, NonFiniteError, train
from bfn_toolkit.storage.files import write_atomically
from faults import parts
from faults.crashes import crash_at, forked, kill_after, signal_at, wait_for
from faults.disks import flip_bit, other_tmpdir_fs, simulated_fs, swap_files, tiny_fs, truncate, zero_page
from faults.files import hostile_files
from faults.numbers import GlobalDrawError, nan_at, no_global_rng, oom_above
from faults.ranks import two_ranks
from faults.tiny import experiment

PLACES = ["data", "output of the network", "loss", "gradient"]


def test_a_crash_comes_at_each_step_and_after_the_last_there_is_none(tmp_path: Path) -> None:
    path = tmp_path / "file"
    write_atomically(path, "old")
    found, k = [], 1
    while crash_at(k, lambda: write_atomically(path, "new")):
        found.append(path.read_text())
        k += 1
    assert found == sorted(found, reverse=True)  # once new, it stays so
    assert {"old", "new"} <= set(found)
    assert len(found) > 5
    assert path.read_text() == "new"


def test_a_crash_that_leaves_a_torn_file_is_seen(tmp_path: Path) -> None:
    path = tmp_path / "file"

    def in_place() -> None:  # the way that this toolkit does not write
        from bfn_toolkit.storage import files

        with path.open("wb") as file:
            files.write_data(file, b"new content")

    found, k = set(), 1
    while crash_at(k, in_place):
        found.add(path.read_bytes() if path.exists() else None)
        k += 1
    assert found >= {None, b"new c"}


def test_an_error_of_the_work_is_no_crash() -> None:
    with pytest.raises(AssertionError, match="ended with 70"):
        crash_at(1, lambda: 1 / 0)
    assert forked(lambda: None) == 0


def test_a_process_is_killed_after_a_while() -> None:
    sleeper = [sys.executable, "-S", "-c", "import time; time.sleep(60)"]
    process = subprocess.Popen(sleeper, text=True)
    assert kill_after(0.05, process) == -signal.SIGKILL
    process = subprocess.Popen([sys.executable, "-S", "-c", ""], text=True)
    assert kill_after(30.0, process) == 0


def test_waiting_ends() -> None:
    with pytest.raises(TimeoutError):
        wait_for(lambda: False, 0.05)


def test_a_signal_comes_at_its_step() -> None:
    came: list[int] = []
    before = signal.signal(signal.SIGUSR2, lambda number, _: came.append(number))
    try:
        with signal_at(2, signal.SIGUSR2, signal.SIGUSR2):
            train(experiment(steps=3))
    finally:
        signal.signal(signal.SIGUSR2, before)
    assert came == [signal.SIGUSR2] * 2


@pytest.mark.parametrize("file_system", [tiny_fs, simulated_fs])
def test_a_tiny_file_system_is_full(file_system: object, tmp_path: Path) -> None:
    with file_system(tmp_path / "disk", 1) as disk:  # type: ignore[operator]
        write_atomically(disk / "a", bytes(2**19))
        with pytest.raises(Exception, match="No space left"):
            write_atomically(disk / "b", bytes(2**20))
        assert shutil.disk_usage(disk).free < 2**20
        assert [path.name for path in disk.iterdir()] == ["a"]


def test_the_other_file_system_cannot_be_renamed_from(tmp_path: Path) -> None:
    with other_tmpdir_fs(tmp_path) as other:
        handle, name = tempfile.mkstemp()
        os.close(handle)
        assert Path(name).parent == other
        with pytest.raises(OSError, match="cross-device") as caught:
            os.replace(name, tmp_path / "file")
        assert caught.value.errno == errno.EXDEV


def test_files_are_damaged(tmp_path: Path) -> None:
    a, b = tmp_path / "a", tmp_path / "b"
    a.write_bytes(b"\xff" * 1000)
    b.write_bytes(b"b")
    bit = flip_bit(a, 0)
    assert a.read_bytes()[bit // 8] == 0xFF ^ 1 << bit % 8
    assert flip_bit(a, 0) == bit
    assert a.read_bytes() == b"\xff" * 1000
    assert len({flip_bit(a, seed) for seed in range(100)}) > 90
    zero_page(a)
    assert a.read_bytes().count(0) >= 64
    truncate(a)
    assert len(a.read_bytes()) == 600
    swap_files(a, b)
    assert a.read_bytes() == b"b"


@pytest.mark.parametrize("where", PLACES)
def test_nan_comes_at_its_step_and_place(where: str) -> None:
    steps = []
    with pytest.raises(NonFiniteError, match=f"step 3: .*first in the {where}"):
        train(experiment(nan_at(3, where), checkpoint_every=1), callbacks=[lambda moment: steps.append(moment.step)])  # type: ignore[arg-type]
    assert steps == [1, 2]


def test_memory_ends_above_the_rows() -> None:
    model = BFN(Gaussian(), oom_above(4, Siren(width=8)))
    model.network(torch.zeros(4, 1, 1), torch.zeros(4))
    with pytest.raises(RuntimeError, match="can't allocate memory"):
        model.network(torch.zeros(5, 1, 1), torch.zeros(5))
    assert model.network.refusals == 1


def test_global_draws_are_seen() -> None:
    draws = (lambda: random.random(), lambda: np.random.rand(), lambda: random.shuffle([1]), lambda: torch.rand(1))
    for draw in draws:
        with pytest.raises(GlobalDrawError), no_global_rng():
            draw()
    with no_global_rng():
        random.Random(0).random()
        np.random.default_rng(0).random()


def test_two_ranks_know_each_other_and_tell_their_errors() -> None:
    def meet(rank: int) -> tuple[int, float]:
        import torch.distributed as dist

        dist.init_process_group("gloo")
        number = torch.tensor(float(rank + 1))
        dist.all_reduce(number)
        dist.barrier()
        if rank:
            raise ValueError("of rank 1")
        return dist.get_world_size(), float(number)

    first, second = two_ranks(meet)
    assert first == (2, 3.0)
    assert isinstance(second, ValueError)


def test_hostile_pickles_would_do_harm(tmp_path: Path) -> None:
    import pickle

    name, content = next(hostile_files(str(tmp_path / "executed")))
    assert name == "pickle"
    pickle.loads(content)
    assert (tmp_path / "executed").is_dir()


def test_the_parts_are_registered_once() -> None:
    parts.register()
    parts.register()
