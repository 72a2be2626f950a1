"""Files are opened so that none blocks, never ends, or leads to another that is changed."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
import torch
from faults.files import safetensors

from bfn_toolkit import ConfigError, ImageCodec, RunDirectoryError, array_header, open_regular, tensors_header
from bfn_toolkit.config.toml_files import read_toml
from bfn_toolkit.data.column_codecs import IdentityCodec
from bfn_toolkit.runs.sample_files import sample_file
from bfn_toolkit.runs.sampling import write_samples
from bfn_toolkit.storage.files import read_regular
from bfn_toolkit.storage.folders import write_folder


def _socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as bound:
        bound.bind(str(path))


KINDS: dict[str, tuple[Callable[[Path], object], str]] = {
    "a FIFO": (os.mkfifo, "not a regular file, but a FIFO"),
    "a folder": (Path.mkdir, "not a regular file, but a folder"),
    "a device": (lambda path: path.symlink_to("/dev/zero"), "not a regular file, but a device"),
    "a socket": (_socket, "not a regular file, but a socket"),
    "a link to itself": (lambda path: path.symlink_to(path), "symbolic links"),
    "a file of the system": (lambda path: path.symlink_to("/proc/self/status"), "claims 0 bytes and has more"),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("ending", [".npy", ".safetensors", ".csv", ".toml"])
def test_what_is_no_plain_file_is_refused_at_once(
    kind: str, ending: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)  # the name of a socket is short
    make, words = KINDS[kind]
    path = Path("x" + ending)
    make(path)
    with pytest.raises(OSError, match=words):
        open_regular(path)
    with pytest.raises(RunDirectoryError):
        read_regular(path)
    with pytest.raises(ConfigError, match=words):
        read_toml(path, "x") if ending == ".toml" else IdentityCodec().formats[ending].read(path)


def test_a_link_is_followed_where_it_is_the_users(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"data")
    (tmp_path / "link").symlink_to(tmp_path / "x")
    with open_regular(tmp_path / "link") as file:
        assert file.read() == b"data"
    with pytest.raises(OSError, match="a link, which is not followed"):
        open_regular(tmp_path / "link", follow=False)


def test_headers_are_bounded() -> None:
    huge = b"\x93NUMPY\x02\x00" + (2**31).to_bytes(4, "little") + b" " * 2**18
    for content in (huge, b"\x93NUMPY\x09\x00", b"\x80\x04N.", b""):
        with pytest.raises(ValueError):  # noqa: PT011 - in numpy's words
            array_header(BytesIO(content))
    with pytest.raises(ValueError, match="does not fit"):
        tensors_header(BytesIO(safetensors({}, b"", 2**40)), 100)
    buffer = BytesIO()
    np.save(buffer, np.zeros((2, 3), np.float32))
    buffer.seek(0)
    assert array_header(buffer) == ((2, 3), False, np.dtype(np.float32))


LINKS: dict[str, Callable[[Path, Path], object]] = {"symbolic": Path.symlink_to, "hard": Path.hardlink_to}


@pytest.mark.parametrize("link", LINKS)
def test_pictures_are_not_written_through_links(link: str, tmp_path: Path) -> None:
    victim, raw = tmp_path / "victim", torch.zeros(2, 2, 2, dtype=torch.uint8)
    victim.write_text("mine")
    (tmp_path / ".tmp-x").mkdir()
    LINKS[link](tmp_path / ".tmp-x" / "0001.png", victim)
    write_samples(tmp_path / "x", raw, ImageCodec())
    assert victim.read_text() == "mine"
    assert sorted(os.listdir(tmp_path / "x")) == ["0001.png", "0002.png"]


def test_an_unfinished_folder_that_is_a_link_is_not_emptied(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "diary").touch()
    (tmp_path / ".tmp-x").symlink_to(tmp_path / "mine")
    with pytest.raises(RunDirectoryError, match="a link"), sample_file(tmp_path / "x", 1, codec=ImageCodec()):
        pass
    assert os.listdir(tmp_path / "mine") == ["diary"]


def test_names_of_unfinished_folders_cannot_be_guessed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    real = os.replace
    monkeypatch.setattr(os, "replace", lambda a, b: (seen.append(Path(a).name), real(a, b)))
    for _ in range(2):
        write_folder(tmp_path / "x", {"a": b"1"})
    unfinished = [name for name in seen if name.startswith(".tmp-")]
    assert len(set(unfinished)) == len(unfinished) == 2
    assert oct((tmp_path / "x").stat().st_mode & 0o777) == oct(0o777 & ~_umask())


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
