"""The TOML of an experiment with a description of each field."""

from __future__ import annotations

import inspect
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import ClassVar, Literal

import attrs
import pytest

from bfn_toolkit.config.annotated import first_sentence, inline, parse_arguments
from bfn_toolkit.config.experiment import Experiment, Training
from bfn_toolkit.config.layers import ConfigErrors
from bfn_toolkit.errors import DataError
from bfn_toolkit.registry.hookspecs import Entry, hookimpl
from bfn_toolkit.registry.registry import Registry


@attrs.frozen
class Pages:
    """Pages of a book.  Nobody reads this sentence.

    Args:
        path (Path): The :class:`~pages.Book`, or ``None``
            if it is lost.
        title: Printed on the cover.
    """

    kind: ClassVar[str] = "dataset"
    path: Path
    title: str = "5"
    letters: int = attrs.field()

    @letters.default
    def _letters(self) -> int:
        return len(self.title)

    @property
    def metadata(self) -> Mapping[str, object]:
        if not self.path.exists():
            raise DataError(f"{self.path}: no such file")
        return {"size": len(self.path.read_text()), "need": 1.5}

    @property
    def default_config(self) -> Mapping[str, object]:
        return {"training": {"steps": 1000 + len(self.title)}}


@attrs.frozen
class Head:
    kind: ClassVar[str] = "head"
    scale: float = 1.0


@attrs.frozen
class Tall(Head):
    """A tall head."""

    bend: float | None = None
    name_of_nothing: str | None = None


@attrs.frozen
class Reader:
    """Reads.

    Arguments:
        need: Known from the pages alone.
    """

    kind: ClassVar[str] = "family"
    need: float
    size: int = 1
    head: Head = attrs.field(factory=Head)


@attrs.frozen
class Net:
    kind: ClassVar[str] = "network"
    options: Mapping[str, int] = attrs.field(factory=dict, hash=False)
    mode: Literal["a", "b"] = "a"


@attrs.frozen
class Loss:
    kind: ClassVar[str] = "loss"
    weighting: str = "unit"


class PLUGIN:
    @staticmethod
    @hookimpl
    def bfn_datasets() -> Sequence[Entry]:
        return [Entry("gaussian-mixture", Pages), Entry("pages", Pages)]

    @staticmethod
    @hookimpl
    def bfn_families() -> Sequence[Entry]:
        return [Entry("gaussian", Reader)]

    @staticmethod
    @hookimpl
    def bfn_heads() -> Sequence[Entry]:
        return [Entry("skip", Head), Entry("tall", Tall)]

    @staticmethod
    @hookimpl
    def bfn_networks() -> Sequence[Entry]:
        return [Entry("siren", Net)]

    @staticmethod
    @hookimpl
    def bfn_losses() -> Sequence[Entry]:
        return [Entry("continuous-time", Loss)]


@pytest.fixture
def registry() -> Registry:
    made = Registry()
    made.register(PLUGIN, "pages")
    return made


def test_the_text_builds_an_equal_experiment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, registry: Registry
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("book.txt").write_text("abc")
    options = [("family.head", "tall"), ("dataset.path", "book.txt"), ("dataset.title", "7"), ("network.mode", "b")]
    options += [("network.options", '{x = 1, "y z" = 2}'), ("training.clip_norm", "inf")]
    text = Experiment.options_toml(None, "pages", overrides=options, registry=registry)
    Path("mine.toml").write_text(text)
    expected = Experiment.from_toml(None, overrides=options, registry=registry)
    assert Experiment.from_toml("mine.toml", registry=registry) == expected
    assert expected.training.steps == 1001
    assert Experiment.options_toml(config="mine.toml", registry=registry) == text


def test_what_is_unknown_without_the_data_is_not_set(registry: Registry) -> None:
    text = Experiment.options_toml(registry=registry)
    values = tomllib.loads(text)
    assert values["training"]["steps"] == 1001  # the default configuration does not need the file
    assert values["dataset"] == {"name": "gaussian-mixture", "title": "5"}
    assert values["family"] == {"name": "gaussian", "head": {"name": "skip"}}
    lines = text.splitlines()
    expected = [
        "# Pages of a book.",
        "# The Book, or None if it is lost. [a path; required]",
        "# path = ...",
        '# Printed on the cover. [a string; default: "5"]',
        "# [an integer; default: follows from other fields]",
        "# Known from the pages alone. [a number; required]",
        "# need = ...",
        "# size = 1",
    ]
    assert [line for line in expected if line not in lines] == []


@pytest.mark.parametrize("path", ["none.txt", "5"])
def test_a_path_may_lead_nowhere_if_the_data_set_is_named(path: str, registry: Registry) -> None:
    text = Experiment.options_toml(path, "pages", registry=registry)
    assert tomllib.loads(text)["dataset"]["path"] == path
    assert "# need = ..." in text
    with pytest.raises(DataError, match=r"No such file"):
        Experiment.options_toml(path, registry=registry)


def test_other_mistakes_are_errors(registry: Registry) -> None:
    with pytest.raises(ConfigErrors) as raised:
        Experiment.options_toml(overrides=[("training.stpes", "3"), ("network.mode", "c")], registry=registry)
    assert set(raised.value.lines) == {
        "--network.mode: expected one of a, b, got 'c'",
        "--training.stpes: unknown key; did you mean --training.steps?",
    }


def test_every_field_of_the_training_is_described() -> None:
    described = parse_arguments(inspect.getdoc(Training) or "")
    assert described.keys() == attrs.fields_dict(Training).keys()


@pytest.mark.parametrize(
    "value", [1, 0.5, float("inf"), True, 'a "b" \\ \n\x1b', [1, [2.5, "x"]], {"a b": [], "c": {"d": 1}}]
)
def test_a_value_in_one_line_is_toml(value: object) -> None:
    text = inline(value)
    assert len(text.splitlines()) == 1
    assert tomllib.loads(f"x = {text}")["x"] == value


@pytest.mark.parametrize(
    ("text", "first"),
    [
        ("", ""),
        ("One. Two.", "One."),
        ("Of 3.5 m, e.g. this\none: all.\n\nMore.", "Of 3.5 m, e.g. this one: all."),
        ("``x`` of :class:`~a.b.C` and :math:`n^2`", "x of C and n^2"),
    ],
)
def test_first_sentences(text: str, first: str) -> None:
    assert first_sentence(text) == first
