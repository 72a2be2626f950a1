"""The data set that reads a path: the most certain one, unless one is named."""

from __future__ import annotations

import os
import socket
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import attrs
import numpy as np
import pytest

from bfn_toolkit import BFNWarning, ConfigError, DataError, Entry, Experiment, Recognised, hookimpl
from bfn_toolkit.config.recognition import dataset_for, description, recognitions
from bfn_toolkit.registry.registry import Registry


@attrs.frozen
class Reader:
    """Reads what has its letter in the name."""

    kind: ClassVar[str] = "dataset"
    letter: ClassVar[str]
    certainty: ClassVar[int]
    path: Path

    @classmethod
    def recognise(cls, path: Path) -> Recognised | None:
        return Recognised(f"the letter {cls.letter}", cls.certainty) if cls.letter in path.name else None


class A(Reader):
    letter, certainty = "a", 1


class B(Reader):
    letter, certainty = "b", 2


class C(Reader):
    letter, certainty = "c", 2


class Broken(Reader):
    @classmethod
    def recognise(cls, path: Path) -> Any:
        raise ZeroDivisionError("oh")


@attrs.frozen
class Generator:
    """Reads no file."""

    kind: ClassVar[str] = "dataset"


def registry(*classes: type[Any]) -> Registry:
    class Plugin:
        @staticmethod
        @hookimpl
        def bfn_datasets() -> Sequence[Entry]:
            return [Entry(cls.__name__.lower(), cls) for cls in classes]

    made = Registry()
    made.register(Plugin)
    return made


ALL = registry(A, B, C, Generator)


@pytest.mark.parametrize(("name", "chosen"), [("a", "a"), ("ab", "b"), ("ac", "c")])
def test_the_most_certain_reads(tmp_path: Path, name: str, chosen: str) -> None:
    path = tmp_path / name
    path.write_text("")
    assert dataset_for(Path(name), ALL) == chosen
    assert next(iter(recognitions(Path(name), ALL))) == chosen


def test_others_are_told() -> None:
    assert description(Path("ab"), "b", ALL) == "the letter b (as b; --as a says otherwise)"
    assert description(Path("abc"), "c", ALL) == "the letter c (as c; --as b|a says otherwise)"
    assert description(Path("a"), "a", ALL) == "the letter a (as a)"
    assert description(Path("x"), "a", ALL) == "(as a)"


def test_equal_ones_are_an_error() -> None:
    with pytest.raises(ConfigError, match=r"^abc: .*write --as b \(the letter b\), or --as c \(the letter c\)$"):
        dataset_for(Path("abc"), ALL)


def test_an_unknown_path_lists_those_that_read() -> None:
    with pytest.raises(DataError, match=r"--as a: Reads what has its letter in the name; --as b: ") as raised:
        dataset_for(Path("x"), ALL)
    assert "generator" not in str(raised.value)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"PK\x03\x04 zip", "a zip archive, .*unpack it"),
        (b"\x80\x04 pickle", "a pickle, which is never loaded, because it can run code"),
        (bytes(257) + b"ustar" + bytes(300), "a tar archive; unpack it"),
        (b"", "an empty file"),
        (None, "an empty folder"),
        ({"y.md": b"", "z.md": b""}, "a folder in which no data set finds its files .files: 2 .md; folders: 0"),
    ],
)
def test_it_is_told_why_nothing_reads_a_path(content: Any, words: str, tmp_path: Path) -> None:
    path = tmp_path / "x"
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        path.mkdir()
        for name, inside in (content or {}).items():
            (path / name).write_bytes(inside)
    with pytest.raises(DataError, match=f"x: {words}"):
        dataset_for(path, registry(C))


def test_a_broken_data_set_stops_nothing() -> None:
    with pytest.warns(BFNWarning, match="data set 'broken' cannot tell whether it reads a: ZeroDivisionError"):
        assert dataset_for(Path("a"), registry(A, Broken)) == "a"


def test_runs_and_configurations_are_no_data(tmp_path: Path) -> None:
    (tmp_path / "experiment.toml").write_text("")
    with pytest.raises(ConfigError, match="a run, not data; continue it with bfn train --resume"):
        dataset_for(tmp_path, ALL)
    with pytest.raises(ConfigError, match=r"write --config a.toml, or --as NAME"):
        dataset_for(Path("a.toml"), ALL)


def array(folder: Path, name: str = "x.npy") -> Path:
    path = folder / name
    np.save(path, np.arange(40.0).reshape(20, 2) / 2.0)
    return path


@pytest.mark.parametrize("named", ["by --as", "by itself", "by a preset", "by an option", "by a file"])
def test_a_path_equals_the_options(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, named: str) -> None:
    path = array(tmp_path, '5 = "é".npy')
    options = [("dataset.scale", "range"), ("seed", "3")]
    preset = config = as_ = None
    if named == "by --as":
        as_ = "array"
    elif named == "by a preset":
        monkeypatch.setattr("bfn_toolkit.config.layers.PRESETS", tmp_path)
        (tmp_path / "default.toml").write_text(
            '[family]\nname = "gaussian"\n[network]\nname = "mlp"\n[loss]\nname = "continuous-time"\n'
        )
        (tmp_path / "mine.toml").write_text('[dataset]\nname = "array"\nvalid_fraction = 0.2\n')
        preset = "mine"
    elif named == "by a file":
        config = tmp_path / "my.toml"
        config.write_text('dataset = {name = "array", valid_fraction = 0.2, path = "another.npy"}')
    elif named == "by an option":
        options.append(("dataset", "array"))
    found = Experiment.from_path(path, as_, preset, options, config=config)
    quoted = repr(str(path))
    more = [("dataset.path", quoted), *([] if ("dataset", "array") in options else [("dataset", "array")])]
    assert found == Experiment.from_toml(config, preset, [*options, *more])
    assert str(found.dataset.path) == str(path)
    assert found.dataset.valid_fraction == (0.2 if named in ("by a preset", "by a file") else 0.1)


def test_as_replaces_the_data_set_of_a_preset(tmp_path: Path) -> None:
    path = tmp_path / "x.npy"
    np.save(path, np.indices((3, 3, 3)).reshape(3, 27).T)
    config = tmp_path / "my.toml"
    config.write_text('dataset = {name = "array", scale = "range"}')
    assert Experiment.from_path(path).dataset.classes is None
    assert type(Experiment.from_path(path, config=config).dataset).__name__ == "NumberArray"
    assert type(Experiment.from_path(path, "classes-array", config=config).dataset).__name__ == "ClassArray"


@pytest.mark.parametrize(
    ("as_", "options", "words"),
    [
        ("arrya", [], r"no dataset named 'arrya'\. Did you mean 'array'\?"),
        ("digits", [], "data set 'digits' reads no file; those that do: .*table"),
        (None, [("dataset", "digits")], "data set 'digits' reads no file"),
        (None, [("dataset.path", "y.csv")], "--dataset.path names others; leave out one of them"),
        (None, [("dataset", '{name = "array", path = "y.csv"}')], "leave out one of them"),
        ("array", [("dataset", "array")], "--as array and --dataset both name the data set"),
        (None, [("dataset", "5")], "--dataset: no dataset named '5'"),
    ],
)
def test_contradictions_are_told(tmp_path: Path, as_: str | None, options: list[tuple[str, str]], words: str) -> None:
    with pytest.raises(ConfigError, match=words) as raised:
        Experiment.from_path(array(tmp_path), as_, overrides=options)
    assert "\n" not in str(raised.value)


def test_only_files_and_folders_are_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    os.mkfifo("fifo.csv")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind("socket.csv")
        for name in ("fifo.csv", "socket.csv", "/dev/zero"):
            for as_ in (None, "array"):
                with pytest.raises(DataError, match=f"^{name}: a FIFO, device or socket; expected a file or a folder"):
                    Experiment.from_path(name, as_)
    for name in ("missing.csv", "x\0.csv", "x" * 300):
        with pytest.raises(DataError, match="name a file or a folder"):
            Experiment.from_path(name)
