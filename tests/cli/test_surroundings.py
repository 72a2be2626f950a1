"""Commands in odd surroundings: closed or full streams, names that are not UTF-8, full disks, missing devices."""

import errno
import os
import sys
from pathlib import Path
from typing import TextIO

import pytest
from faults.crashes import forked
from faults.tiny import experiment

from bfn_toolkit import ConfigError, Training, load_run, train
from bfn_toolkit.cli import main
from bfn_toolkit.cli.entry import _open_streams
from bfn_toolkit.errors import ResourceError, shortage
from bfn_toolkit.parallel.devices import resolve_device
from bfn_toolkit.storage import files
from bfn_toolkit.storage.files import write_atomically
from bfn_toolkit.storage.folders import write_folder
from bfn_toolkit.storage.locks import locked

ODD = os.fsdecode(b"odd \xff")
SMALL = ["--network.width", "4", "--training.steps", "1", "--training.device", "cpu", "--no-report"]


def test_a_run_and_its_samples_may_have_names_that_are_not_utf8(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, out = tmp_path / ODD, tmp_path / f"{ODD}.npy"
    assert main(["train", "--dataset.count", "10", "--out", str(run), *SMALL]) == 0
    assert main(["sample", str(run), "-n", "2", "--steps", "2", "--out", str(out)]) == 0
    assert out.exists()
    assert load_run(run).family is not None
    assert main(["sample", str(tmp_path / f"{ODD} missing")]) == 4


def test_data_whose_name_is_not_utf8_are_refused_before_anything_is_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The experiment is kept in TOML, which is UTF-8."""
    table = tmp_path / f"{ODD}.csv"
    table.write_text("a,b\n" + "\n".join(f"{i}.5,{i % 7}" for i in range(40)))
    assert main(["train", str(table), "--out", str(tmp_path / "run"), *SMALL]) == 2
    assert 'odd \\udcff.csv": the name is not UTF-8, as TOML needs; rename the file' in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("number", [errno.EINVAL, errno.EBADF, errno.ENOTSUP])
def test_a_file_system_that_does_not_flush_is_no_error(
    number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(files.os, "fsync", refuse)
    write_atomically(tmp_path / "file", "new")
    write_folder(tmp_path / "folder", {"a": b"1"})
    assert (tmp_path / "file").read_text() == "new"


def test_a_disk_that_fails_to_flush_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_: int) -> None:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(files.os, "fsync", fail)
    with pytest.raises(ResourceError, match="Input/output error"):
        write_atomically(tmp_path / "file", "new")
    assert not (tmp_path / "file").exists()


def test_a_lock_holds_without_its_signature(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a full disk."""
    from bfn_toolkit.errors import RunDirectoryError

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "write", full)
    with locked(tmp_path):
        monkeypatch.undo()
        with pytest.raises(RunDirectoryError, match=r"another process \(unknown\)"), locked(tmp_path):
            pass


@pytest.mark.parametrize("name", ["cuda", "cuda:7", "mps"])
def test_a_device_that_is_missing_is_named_with_those_that_are_there(name: str) -> None:
    import torch

    if torch.device(name).type == "cuda" and torch.cuda.device_count() > (torch.device(name).index or 0):
        pytest.skip("it is there")
    with pytest.raises(
        ResourceError, match=rf"no device '{name}'; found: cpu.*; write one of these, or auto"
    ) as caught:
        resolve_device(name)
    assert caught.value.exit_status == 7


@pytest.mark.parametrize("name", ["gpu", "meta", "xpu", "cuda:", "cuda:-1", "", "CUDA"])
def test_a_name_that_no_device_has_is_a_mistake(name: str) -> None:
    with pytest.raises(ConfigError, match="expected one of auto, cpu, cuda"):
        Training(device=name)


def test_streams_that_are_closed_or_full_do_not_stop_a_training(tmp_path: Path) -> None:
    """A closed stderr must not become the number of a file either."""

    def full(number: int) -> TextIO:
        os.dup2(os.open("/dev/full", os.O_WRONLY), number)
        return open(number, "w", closefd=False)

    def work() -> None:
        for number in range(3):
            os.close(number)
        _open_streams()
        assert os.open(tmp_path / "next", os.O_CREAT | os.O_WRONLY) > 2
        sys.stderr = full(2)
        trained = main(["train", "--dataset.count", "10", "--out", str(tmp_path / "run"), *SMALL])
        sys.stdout = full(1)
        (tmp_path / "status").write_text(f"{trained} {main(['plugins', '--json'])}")

    assert forked(work) == 0
    assert (tmp_path / "status").read_text() == "0 7"
    assert load_run(tmp_path / "run").family is not None


def test_what_is_used_up_is_a_lack_of_resources_wherever_it_is_noticed() -> None:
    for number in (errno.ENOSPC, errno.EMFILE, errno.ENOMEM):
        found = shortage(OSError(number, os.strerror(number)))
        assert found is not None
        assert found.exit_status == 7
    assert shortage(OSError(errno.ENOENT, "No such file")) is None
    assert shortage(ZeroDivisionError()) is None


def test_an_experiment_that_cannot_be_written_leaves_no_directory(tmp_path: Path) -> None:
    import attrs
    from faults.numbers import oom_above

    from bfn_siren import Siren

    with pytest.raises(ConfigError):
        train(attrs.evolve(experiment(), network=oom_above(99, Siren(width=4))), tmp_path / "run")
    assert not (tmp_path / "run").exists()
