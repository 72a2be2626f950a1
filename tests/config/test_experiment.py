"""Laws of the configuration: one tree from three sources, strict, all mistakes at once, exact round trips."""

from __future__ import annotations

import math
import os
import pickle
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar, Literal

import attrs
import pytest
from hypothesis import given, strategies as st

from bfn_toolkit import AccuracySchedule, GeometricSchedule, QuadraticSchedule, validators
from bfn_toolkit.config.experiment import Experiment, Training
from bfn_toolkit.config.layers import ConfigErrors, presets
from bfn_toolkit.errors import ConfigError, DataError, PluginError, UnknownPlugin
from bfn_toolkit.registry.hookspecs import Entry, hookimpl
from bfn_toolkit.registry.registry import Registry
from bfn_toolkit.validators import finite


class Dataset:
    kind: ClassVar[str] = "dataset"


class Family:
    kind: ClassVar[str] = "family"


class Head:
    kind: ClassVar[str] = "head"


class Network:
    kind: ClassVar[str] = "network"


class Loss:
    kind: ClassVar[str] = "loss"


@attrs.frozen
class Bumps(Dataset):
    means: tuple[float, ...] | tuple[tuple[float, ...], ...] = (-0.5, 0.5)
    std: float | tuple[float, ...] = 0.05
    path: Path | None = None
    title: str = "bumps"
    fails: Literal["never", "with-data-error", "with-bug"] = "never"

    def __attrs_post_init__(self) -> None:
        if self.fails == "with-data-error":
            raise DataError("no rows")
        if self.fails == "with-bug":
            raise ZeroDivisionError("division by zero")

    @property
    def metadata(self) -> Mapping[str, object]:
        return {"site_shape": (1,), "variance": 0.25, "classes": 3}


@attrs.frozen
class Plain(Dataset):
    """A dataset without metadata."""


@attrs.frozen
class Wide(Bumps):
    width: int = 3


@attrs.frozen
class Point(Head):
    variance: float | None = None
    clip: float = attrs.field(default=1.0, validator=validators.number(gt=0, le=math.inf))


@attrs.frozen
class Noise(Head):
    scale: float = attrs.field(default=2.0, validator=finite)


@attrs.frozen
class Normal(Family):
    site_shape: tuple[int, ...] = attrs.field()
    sigma: float = attrs.field(default=0.01, validator=validators.number(gt=0, lt=1))
    head: Head = attrs.field(factory=Point)


@attrs.frozen
class Joint(Family):
    parts: Mapping[str, Family] = attrs.field()
    heads: tuple[Head, ...] = ()


@attrs.frozen
class Mlp(Network):
    width: int = attrs.field(default=16, validator=validators.integer(ge=1))
    depth: int = 2
    bias: bool = False
    classes: int | None = None
    size: tuple[int, int] = (1, 1)
    variance: float | None = attrs.field(default=1.0, kw_only=True)


@attrs.frozen
class Cnn(Network):
    width: int = 8
    kernel: int = 3


@attrs.frozen
class Squared(Loss):
    weighting: Literal["paper", "unit"] = "paper"


@attrs.frozen
class Unnamed(Loss):
    """A loss that no plugin registers."""


class PLUGIN:
    """What the default preset names, without torch."""

    @staticmethod
    @hookimpl
    def bfn_datasets() -> Sequence[Entry]:
        return [Entry("gaussian-mixture", Bumps), Entry("plain", Plain), Entry("wide", Wide)]

    @staticmethod
    @hookimpl
    def bfn_families() -> Sequence[Entry]:
        return [Entry("gaussian", Normal), Entry("joint", Joint)]

    @staticmethod
    @hookimpl
    def bfn_heads() -> Sequence[Entry]:
        return [Entry("skip", Point), Entry("noise", Noise)]

    @staticmethod
    @hookimpl
    def bfn_networks() -> Sequence[Entry]:
        return [Entry("siren", Mlp), Entry("cnn", Cnn)]

    @staticmethod
    @hookimpl
    def bfn_losses() -> Sequence[Entry]:
        return [Entry("continuous-time", Squared)]


def registry() -> Registry:
    made = Registry()
    made.register(PLUGIN)
    return made


REGISTRY = registry()
WHOLE = {"dataset": "gaussian-mixture", "family": "gaussian", "network": "siren", "loss": "continuous-time"}


def build(changes: Mapping[str, Any] | None = None, *options: tuple[str, str]) -> Experiment:
    return Experiment.from_mapping({**WHOLE, **(changes or {})}, overrides=options, registry=REGISTRY)


def with_options(*options: tuple[str, str]) -> Experiment:
    return Experiment.from_toml(None, overrides=options, registry=REGISTRY)


def mistakes(changes: Mapping[str, Any] | None = None, *options: tuple[str, str]) -> tuple[str, ...]:
    with pytest.raises(ConfigErrors) as raised:
        build(changes, *options)
    return raised.value.lines


def from_text(path: Path, text: str | bytes) -> Experiment:
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return Experiment.from_toml(path, registry=REGISTRY)


# --- one tree from three sources


def test_toml_options_and_python_build_the_same_tree(tmp_path: Path) -> None:
    text = '[network]\nwidth = 256\n[family]\nhead = "noise"\nsigma = 0.1\n[training]\nsteps = 7\n'
    by_toml = from_text(tmp_path / "x.toml", text)
    by_options = with_options(
        ("network.width", "256"), ("family.head", "noise"), ("family.sigma", "0.1"), ("training.steps", "7")
    )
    by_python = Experiment(
        dataset=Bumps(),
        family=Normal(site_shape=(1,), sigma=0.1, head=Noise()),
        network=Mlp(width=256, classes=3, variance=0.25),
        loss=Squared("unit"),
        training=Training(steps=7),
    )
    by_python = attrs.evolve(by_python, training=attrs.evolve(by_toml.training, steps=7))  # the rest is the preset's
    assert by_toml == by_options == by_python
    assert hash(by_toml) == hash(by_python)
    assert pickle.loads(pickle.dumps(by_toml)) == by_toml


def test_defaults_of_training() -> None:
    assert attrs.asdict(Training()) == {
        "init": "",
        "steps": 400,
        "batch_size": 4096,
        "accumulate": 1,
        "optimizer": "adam",
        "optimizer_options": {},
        "lr": 3e-3,
        "scheduler": "cosine",
        "scheduler_options": {},
        "warmup": 0,
        "known_rate": 0.0,
        "clip_norm": 1.0,
        "ema_decay": 0.0,
        "checkpoint_every": 1000,
        "keep": 3,
        "on_save_error": "warn",
        "validate_every": 0,
        "validation_draws": 1,
        "patience": 0,
        "final": "last",
        "device": "auto",
        "precision": "fp32",
        "compile": False,
        "parallel": "ddp",
        "timeout": 300.0,
        "workers": 0,
        "trackers": (),
    }


def test_the_default_preset_is_complete() -> None:
    assert with_options().loss == Squared("unit")
    assert {"default", "post"} <= set(presets())


# --- all mistakes at once


def test_all_mistakes_are_reported_at_once_in_file_order(tmp_path: Path) -> None:
    path = tmp_path / "x.toml"
    text = """seed = -1
training.steps = "5"
training.lr = 0
[network]
widht = 5
depth = 5.7
width = 0
[family.head]
name = "nois"
[dataset]
std = [1, "a"]
"""
    with pytest.raises(ConfigErrors) as raised:
        from_text(path, text)
    assert raised.value.exit_status == 2
    assert raised.value.lines == (
        f"{path}:1: seed: expected 0 <= seed <= 2**63 - 1, got -1",
        f'{path}:2: training.steps: expected an integer, got "5" (a string); write 5 without quotes',
        f"{path}:3: training.lr: expected 0 < lr <= 1000, got 0.0",
        f"{path}:5: network.widht: unknown key; did you mean 'width'?",
        f"{path}:6: network.depth: expected an integer, got 5.7",
        f"{path}:7: network.width: expected width >= 1, got 0",
        f"{path}:9: family.head.name: no head named 'nois'. Did you mean 'noise'? Installed: noise, skip.",
        f'{path}:11: dataset.std[1]: expected a number, got "a" (a string)',
    )


def test_mistakes_of_options_name_the_option() -> None:
    with pytest.raises(ConfigErrors) as raised:
        with_options(
            ("step", "5"),
            ("trainng.lr", "5"),
            ("network.widht", "3"),
            ("family", "gausian"),
            ("training.steps", "abc"),
            ("training.lr", "1"),
            ("training.lr", "2"),
            ("dataset", "{titel='x'}"),
        )
    assert set(raised.value.lines) == {
        "--step: unknown key; did you mean --training.steps?",
        "--trainng.lr: unknown key; did you mean --training.lr?",
        "--network.widht: unknown key; did you mean --network.width?",
        "--family: no family named 'gausian'. Did you mean 'gaussian'? Installed: gaussian, joint.",
        '--training.steps: expected an integer, got "abc" (a string)',
        "--training.lr: given twice",
        "--dataset: dataset.titel: unknown key; did you mean --dataset.title?",
    }


def test_short_options_stand_for_the_only_field_of_their_name() -> None:
    assert with_options(("steps", "5"), ("batch-size", "6"), ("lr", "0.5"), ("width", "3")) == with_options(
        ("training.steps", "5"), ("training.batch_size", "6"), ("training.lr", "0.5"), ("network.width", "3")
    )


def test_a_short_option_of_two_tables_is_refused_with_their_names() -> None:
    assert with_options(("width", "3")).network.width == 3
    with pytest.raises(ConfigErrors) as raised:
        with_options(("width", "3"), ("dataset", "wide"))
    assert raised.value.lines == ("--width: several tables have this field; write --dataset.width or --network.width",)
    with pytest.raises(ConfigErrors, match=r"--training\.steps: given twice"):
        with_options(("steps", "3"), ("training.steps", "3"))


@pytest.mark.parametrize(
    ("option", "meant"),
    [
        ("trainng.lr", "training.lr"),
        ("netwrk.widht", "network.width"),
        ("family.clip", "family.head.clip"),
        ("training.opt", "training.optimizer"),
        ("seeds", "seed"),
        ("step", "training.steps"),
        ("batch_siz", "training.batch_size"),
        ("depht", "network.depth"),
        ("dataset.wdith", None),
        ("dataset.depth", None),
        ("network.lr", None),
        ("n", None),
        ("gpu", None),
        ("foo.steps", None),
        ("training.path", None),
        ("a.b.c.d", None),
    ],
)
def test_suggestions_share_the_meaning(option: str, meant: str | None) -> None:
    with pytest.raises(ConfigErrors) as raised:
        with_options((option, "1"))
    hint = f"; did you mean --{meant}?" if meant else ""
    assert raised.value.lines == (f"--{option}: unknown key{hint}",)


def test_missing_parts_and_options_are_named() -> None:
    with pytest.raises(ConfigErrors) as raised:
        Experiment.from_mapping({"dataset": "plain", "family": {"name": "gaussian"}, "network": {}}, registry=REGISTRY)
    assert set(raised.value.lines) == {
        "family.site_shape: missing; expected an array of integers",
        "network.name: missing; expected one of cnn, siren",
        "loss: missing; expected a loss: a name, or a table with a name",
    }


def test_all_missing_parts_are_named_at_once() -> None:
    with pytest.raises(ConfigErrors) as raised:
        Experiment.from_mapping({}, registry=REGISTRY)
    assert {line.partition(":")[0] for line in raised.value.lines} == {"dataset", "family", "network", "loss"}


def test_a_wrong_dataset_does_not_make_the_family_look_wrong() -> None:
    assert mistakes({"dataset": {"name": "gaussian-mixture", "std": "x"}}) == (
        'dataset.std: expected a number or an array of numbers, got "x" (a string)',
    )


def test_many_mistakes_stay_readable_and_fast() -> None:
    lines = mistakes({f"unknown-{n}": n for n in range(20_000)})
    assert len(lines) == 51
    assert lines[-1] == "... and 19950 more"


def test_an_unknown_plugin_is_a_config_error() -> None:
    assert issubclass(UnknownPlugin, ConfigError)
    assert mistakes({"loss": "gone"}) == ("loss.name: no loss named 'gone'. Installed: continuous-time.",)


# --- strict types

INTEGER, NUMBER, BOOLEAN = "network.depth", "training.lr", "network.bias"
TYPES = [  # key, value, and the problem or None
    (INTEGER, 5.0, "expected an integer, got 5.0"),
    (INTEGER, True, "expected an integer, got true (a boolean)"),
    (INTEGER, "5", 'expected an integer, got "5" (a string); write 5 without quotes'),
    (INTEGER, [5], "expected an integer, got an array of length 1"),
    (INTEGER, {}, "expected an integer, got a table"),
    (NUMBER, True, "expected a number, got true (a boolean)"),
    (NUMBER, "1e-4", 'expected a number, got "1e-4" (a string); write 1e-4 without quotes'),
    (NUMBER, math.nan, "expected a finite number, got nan"),
    (NUMBER, 10**400, "below 1.8e308"),
    (BOOLEAN, 1, "expected true or false, got 1"),
    (BOOLEAN, "true", 'expected true or false, got "true" (a string); write true without quotes'),
    ("dataset.title", 5, "expected a string, got 5"),
    ("dataset.title", "x" * 1000, None),
    ("training.steps", 0, "expected 1 <= steps"),
    ("training.steps", 10**30, "<= 1000000000000, got"),
    ("training.steps", 10**5000, "bits"),
    ("training.lr", math.inf, "expected a finite number, 0 < lr <= 1000, got inf"),
    ("training.lr", 1e6, "expected 0 < lr <= 1000"),
    ("training.clip_norm", 0.0, "expected 0 < clip_norm <= inf"),
    ("training.clip_norm", math.inf, None),
    ("training.ema_decay", 1.0, "expected 0 <= ema_decay < 1"),
    ("training.batch_size", 0, "expected 1 <= batch_size"),
    ("training.checkpoint_every", -1, "expected 0 <= checkpoint_every"),
    ("training.parallel", "dpp", "expected one of ddp, fsdp, got 'dpp'; did you mean 'ddp'?"),
    ("training.parallel", 1, "expected one of ddp, fsdp, got 1"),
    ("training.scheduler", 1, "expected a string, got 1"),
    ("training.precision", "fp8", "expected one of fp32, bf16"),
    ("training.device", "gpu", "expected one of auto, cpu"),
    ("training.device", "cuda:7", None),
    ("training.optimizer", "", "expected a name"),
    ("training", 3, "training: expected a table, got 3"),
    ("network", 3, "network: expected a network: a name, or a table with a name, got 3"),
    ("seed", 2**63, "expected 0 <= seed"),
    ("seed", 2**63 - 1, None),
    ("network.size", [1, 2], None),
    ("network.size", [1], "expected an array of length 2 of integers, got an array of length 1"),
    ("network.size", [1, 2.0], "network.size[1]: expected an integer, got 2.0"),
    ("dataset.means", [[0.0, 1], [2, 3]], None),
    ("dataset.means", [[0.0, 1], [2, "x"]], "dataset.means[1][1]: expected a number"),
    ("dataset.means", "x", "expected an array of numbers or an array of arrays of numbers"),
    ("dataset.std", 1, None),
    ("dataset.std", [1, 2.5], None),
    ("dataset.path", "some/where", None),
    ("dataset.path", 3, "expected a string, got 3"),
    ("network.classes", "none", None),
    ("network.classes", 2.5, "expected an integer, got 2.5"),
    ("family.sigma", 2.0, "family.sigma: expected 0 < sigma < 1, got 2.0"),
    ("family.head.clip", 0.0, "family.head.clip: expected 0 < clip <= inf, got 0.0"),
    ("family.head.clip", math.inf, None),
]


def nested(key: str, value: object) -> dict[str, Any]:
    """WHOLE with one value changed."""
    tree: dict[str, Any] = {name: {"name": part} for name, part in WHOLE.items()}
    tree["family"]["head"] = {"name": "skip"}
    table, *rest = key.split(".")
    if not rest:
        return {**tree, key: value}
    inner = tree.setdefault(table, {})
    for part in rest[:-1]:
        inner = inner[part]
    inner[rest[-1]] = value
    return tree


@pytest.mark.parametrize(("key", "value", "problem"), TYPES, ids=[key for key, _, _ in TYPES])
def test_types_are_strict(key: str, value: object, problem: str | None) -> None:
    if problem is None:
        made = build(nested(key, value))
        assert Experiment.from_mapping(made.to_mapping(REGISTRY), registry=REGISTRY) == made
    else:
        (line,) = mistakes(nested(key, value))
        assert line.startswith(key)
        assert problem in line


def test_infinite_is_refused_where_the_field_says_so() -> None:
    assert mistakes({"family": {"name": "gaussian", "head": {"name": "noise", "scale": math.inf}}}) == (
        "family.head.scale: expected finite numbers, got inf",
    )


def test_integers_stand_for_numbers_and_become_floats() -> None:
    lr = build({"training": {"lr": 1}}).training.lr
    assert lr == 1.0
    assert isinstance(lr, float)


@pytest.mark.parametrize(
    ("key", "text", "expected"),
    [
        ("dataset.title", "5", "5"),
        ("dataset.title", "true", "true"),
        ("dataset.title", "two words", "two words"),
        ("dataset.title", "'5'", "5"),
        ("dataset.title", "", ""),
        ("dataset.title", "a\nb = 3", "a\nb = 3"),
        ("dataset.path", "a/b", Path("a/b")),
        ("dataset.std", "0.5", 0.5),
        ("dataset.std", "[1, 2]", (1.0, 2.0)),
        ("network.bias", "true", True),
        ("network.width", "1_000", 1000),
        ("network.classes", "none", None),
        ("family.head.clip", "inf", math.inf),
        ("loss.weighting", "paper", "paper"),
    ],
)
def test_options_are_read_as_toml_or_as_text(key: str, text: str, expected: object) -> None:
    value: Any = with_options((key, text))
    for part in key.split("."):
        value = getattr(value, part)
    assert value == expected
    assert type(value) is type(expected)


@pytest.mark.parametrize(
    ("key", "text"),
    [
        ("training.steps", "5.0"),
        ("training.steps", "٥"),
        ("training.lr", "nan"),
        ("training.lr", ""),
        ("seed", "1\nx=2"),
    ],
)
def test_options_are_as_strict_as_files(key: str, text: str) -> None:
    with pytest.raises(ConfigErrors, match=f"--{key}: expected a"):
        with_options((key, text))


@pytest.mark.parametrize(
    "arguments",
    [{"steps": 0}, {"steps": True}, {"steps": 5.0}, {"lr": math.nan}, {"warmup": 401}, {"device": "cuda:x"}],
    ids=str,
)
def test_training_is_as_strict_in_python(arguments: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=r"expected|longer"):
        Training(**arguments)


# --- layers


def test_later_layers_win_key_by_key(tmp_path: Path) -> None:
    path = tmp_path / "x.toml"
    path.write_text("[training]\nsteps = 5\nlr = 0.5\n")
    made = Experiment.from_toml(path, overrides=[("training.lr", "0.25")], registry=REGISTRY)
    assert made.training == Training(steps=5, lr=0.25)
    assert made.loss == Squared("unit")


def test_a_preset_lies_between_base_and_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "default.toml").write_text("\n".join(f'{key} = "{name}"' for key, name in WHOLE.items()))
    (tmp_path / "mine.toml").write_text("[training]\nsteps = 5\nlr = 0.5\n")
    (tmp_path / "x.toml").write_text("[training]\nlr = 0.25\n")
    monkeypatch.setattr("bfn_toolkit.config.layers.PRESETS", tmp_path)
    assert Experiment.from_toml(tmp_path / "x.toml", "mine", (), REGISTRY).training == Training(steps=5, lr=0.25)
    with pytest.raises(ConfigError, match=r"no preset named 'min'\. Did you mean 'mine'\?"):
        Experiment.from_toml(None, preset="min", registry=REGISTRY)


@pytest.mark.parametrize("network", ['network = "cnn"', '[network]\nname = "cnn"'])
def test_another_name_drops_the_options_of_earlier_layers(tmp_path: Path, network: str) -> None:
    path = tmp_path / "x.toml"
    path.write_text(network)
    mapping = {**WHOLE, "network": {"name": "siren", "width": 99, "depth": 4}}
    made = Experiment.from_mapping(mapping, overrides=[("network", "cnn")], registry=REGISTRY)
    assert made.network == Cnn()
    assert from_text(path, network).network == Cnn()


@pytest.mark.parametrize("name", ["network", "network.name"])
def test_the_same_name_keeps_the_options_of_earlier_layers(name: str) -> None:
    made = build({"network": {"name": "siren", "width": 99}}, (name, "siren"), ("network.depth", "4"))
    assert (made.network.width, made.network.depth) == (99, 4)


@pytest.mark.parametrize("order", [1, -1])
def test_the_order_of_options_does_not_matter(order: int) -> None:
    for name in ("network", "network.name"):
        options = [("network.kernel", "5"), (name, "cnn")][::order]
        assert build(None, *options).network == Cnn(kernel=5)


def test_without_a_base_a_file_stands_alone(tmp_path: Path) -> None:
    path = tmp_path / "x.toml"
    path.write_text('dataset = "plain"\n')
    with pytest.raises(ConfigErrors, match=f"{path}: loss: missing"):
        Experiment.from_toml(path, registry=REGISTRY, base=None)


# --- metadata


def test_metadata_fill_what_is_left_out() -> None:
    made = build()
    assert made.family == Normal(site_shape=(1,), head=Point(variance=0.25))
    assert made.network == Mlp(classes=3, variance=0.25)


def test_metadata_yield_to_what_is_given() -> None:
    family = {"name": "gaussian", "site_shape": [2, 2], "head": {"name": "skip", "variance": 9}}
    made = build({"family": family, "network": {"name": "siren", "classes": "none"}})
    assert made.family == Normal(site_shape=(2, 2), head=Point(variance=9.0))
    assert made.network.classes is None


def test_metadata_reach_nested_parts() -> None:
    parts = {"a": {"name": "gaussian", "head": "noise"}, "b": "gaussian"}
    made = build({"family": {"name": "joint", "parts": parts, "heads": ["skip", {"name": "skip", "clip": 2}]}})
    assert made.family.parts == {"a": Normal((1,), head=Noise()), "b": Normal((1,), head=Point(variance=0.25))}
    assert made.family.heads == (Point(0.25), Point(0.25, 2.0))


def test_a_dataset_needs_no_metadata() -> None:
    made = build({"dataset": "plain", "family": {"name": "gaussian", "site_shape": [1]}})
    assert made.family.head == Point(variance=None)


@attrs.frozen
class Confused(Dataset):
    """A dataset whose metadata are wrong."""

    @property
    def metadata(self) -> Mapping[str, object]:
        return {"site_shape": "wide", "variance": {"name": "skip"}, "clip": 0.0}


def test_wrong_metadata_are_told_with_their_place(tmp_path: Path) -> None:
    made = registry()
    hook = hookimpl(lambda: [Entry("confused", Confused)], specname="bfn_datasets")
    made.register(SimpleNamespace(hook=hook), name="confused")
    path = tmp_path / "x.toml"
    path.write_text('dataset = "confused"\n[family]\nsigma = 2.0\n[network]\nvariance = 1\n')
    with pytest.raises(ConfigErrors) as raised:
        Experiment.from_toml(path, registry=made)
    assert raised.value.lines == (
        'metadata of the dataset: family.site_shape: expected an array of integers, got "wide" (a string)',
        "metadata of the dataset: family.head.variance: expected a number, got a table",
        "metadata of the dataset: family.head.clip: expected 0 < clip <= inf, got 0.0",
        f"{path}:3: family.sigma: expected 0 < sigma < 1, got 2.0",
    )


@attrs.frozen
class Opinionated(Dataset):
    """A dataset whose default settings follow from its field, and may be wrong."""

    mistake: str = "stpes"

    @property
    def default_config(self) -> Mapping[str, Any]:
        if self.mistake == "bug":
            raise ZeroDivisionError
        return {"training": {self.mistake: 3, "lr": 0.5}, "family": "gaussian"}


def opinionated() -> Registry:
    made = registry()
    hook = hookimpl(lambda: [Entry("opinionated", Opinionated)], specname="bfn_datasets")
    made.register(SimpleNamespace(hook=hook), name="opinionated")
    return made


def test_wrong_default_settings_are_told_with_their_place() -> None:
    options = [("dataset", "opinionated"), ("family.site_shape", "[1]"), ("training.lr", "0")]
    with pytest.raises(ConfigErrors) as raised:
        Experiment.from_toml(None, overrides=options, registry=opinionated())
    assert raised.value.lines == (
        "default_config of the dataset: training.stpes: unknown key; did you mean 'steps'?",
        "--training.lr: expected 0 < lr <= 1000, got 0.0",
    )


def test_default_settings_are_those_of_the_instance(tmp_path: Path) -> None:
    path = tmp_path / "x.toml"
    path.write_text('dataset = {name = "opinionated", mistake = "steps"}\n[family]\nsite_shape = [1]\n')
    made = opinionated()
    assert Experiment.from_toml(path, registry=made).training.steps == 3
    options = [("dataset.mistake", "keep"), ("training.lr", "0.25")]  # options choose the instance and override it
    training = Experiment.from_toml(path, overrides=options, registry=made).training
    assert (training.keep, training.lr, training.steps) == (3, 0.25, Training().steps)


def test_a_wrong_dataset_has_no_default_settings_and_is_told_once() -> None:
    options = [("dataset", "opinionated"), ("dataset.mistake", "steps"), ("dataset.colour", "red")]
    with pytest.raises(ConfigErrors) as raised:
        Experiment.from_toml(None, overrides=options, registry=opinionated())
    assert raised.value.lines == ("--dataset.colour: unknown key",)
    with pytest.raises(PluginError, match=r"Opinionated\.default_config raised ZeroDivisionError"):
        Experiment.from_toml(None, overrides=[*options[:1], ("dataset.mistake", "bug")], registry=opinionated())


@attrs.frozen
class Mixture(Dataset):
    """A dataset of three parts, with metadata for each."""

    @property
    def metadata(self) -> Mapping[str, object]:
        parts = {
            "a": {"name": "gaussian", "site_shape": (1,), "variance": 0.5, "bins": 10, "classes": 7},
            "b": {"name": "gaussian", "site_shape": (2, 2), "clip": 3.0},
        }
        return {"parts": parts, "classes": 4}


@attrs.frozen
class Fine(Family):
    """A family that resolves the data."""

    site_shape: tuple[int, ...] = attrs.field()
    sigma_1: float = 0.5


def mixture(**parts: Any) -> Experiment:
    made = registry()
    datasets = hookimpl(lambda: [Entry("mixture", Mixture)], specname="bfn_datasets")
    families = hookimpl(lambda: [Entry("fine", Fine)], specname="bfn_families")
    made.register(SimpleNamespace(datasets=datasets, families=families), name="mixture")
    mapping = {"dataset": "mixture", "family": {"name": "joint", **({"parts": parts} if parts else {})}}
    experiment = Experiment.from_mapping(mapping, base="default", registry=made)
    assert Experiment.from_mapping(experiment.to_mapping(made), registry=made) == experiment
    return experiment


def test_metadata_of_a_part_reach_its_family_and_its_head() -> None:
    made = mixture()
    a, b = made.family.parts["a"], made.family.parts["b"]
    assert (a.site_shape, a.head) == ((1,), Point(variance=0.5))
    assert (b.site_shape, b.head) == ((2, 2), Point(clip=3.0))
    assert made.network.classes == 4  # those of all data


def test_metadata_of_a_part_reach_another_family_and_another_head_and_yield_to_what_is_given() -> None:
    made = mixture(a={"name": "gaussian", "head": "noise"}, b={"head": {"clip": 5.0}})
    assert made.family.parts["a"] == Normal((1,), head=Noise())
    assert made.family.parts["b"] == Normal((2, 2), head=Point(clip=5.0))


def test_the_resolution_is_a_quarter_of_a_bin() -> None:
    made = mixture(a="fine", b="fine")
    assert made.family.parts == {"a": Fine((1,), sigma_1=0.05), "b": Fine((2, 2), sigma_1=0.5)}
    assert mixture(a={"name": "fine", "sigma_1": 0.3}).family.parts["a"].sigma_1 == 0.3


def test_a_part_without_a_family_is_told(tmp_path: Path) -> None:
    with pytest.raises(ConfigErrors) as raised:
        mixture(b={"name": "cube"}, c="fine")
    assert raised.value.lines == (
        "family.parts.b.name: no family named 'cube'. Installed: fine, gaussian, joint.",
        "family.parts.c.site_shape: missing; expected an array of integers",
    )


# --- round trips


def test_experiments_round_trip_exactly(tmp_path: Path) -> None:
    for made in (
        build(),
        Experiment(
            dataset=Bumps(means=((0.1, 1e-300), (1 / 3, -0.0)), path=Path("a b"), title='quo"te\n\x00é'),
            family=Joint(parts={"a": Normal((1,)), "b c": Normal((2,), head=Point(clip=math.inf))}, heads=(Noise(),)),
            network=Mlp(classes=None, variance=None),
            loss=Squared(),
            training=Training(clip_norm=math.inf, lr=1 / 3),
            seed=2**63 - 1,
        ),
    ):
        assert Experiment.from_mapping(made.to_mapping(REGISTRY), registry=REGISTRY) == made
        path = tmp_path / "experiment.toml"
        path.write_text(made.to_toml(REGISTRY), encoding="utf-8")
        assert Experiment.from_toml(path, registry=REGISTRY, base=None) == made


@given(
    st.builds(
        Training,
        steps=st.integers(1, 10**12),
        batch_size=st.integers(1, 2**31 - 1),
        optimizer=st.text(st.characters(codec="utf-8"), min_size=1),
        lr=st.floats(0, 1e3, exclude_min=True),
        scheduler=st.sampled_from(["cosine", "constant"]),
        clip_norm=st.floats(0, exclude_min=True),
        ema_decay=st.floats(0, 1, exclude_max=True),
        checkpoint_every=st.integers(0, 10**12),
        validate_every=st.integers(0, 10**12),
        device=st.sampled_from(["auto", "cpu", "cuda", "cuda:3", "mps"]),
        precision=st.sampled_from(["fp32", "bf16"]),
    )
)
def test_training_round_trips_exactly(training: Training) -> None:
    import tomllib

    made = attrs.evolve(build(), training=training)
    assert Experiment.from_mapping(tomllib.loads(made.to_toml(REGISTRY)), registry=REGISTRY) == made


def test_every_field_is_written() -> None:
    mapping = build().to_mapping(REGISTRY)
    assert mapping["training"].keys() == {field.name for field in attrs.fields(Training)}
    assert mapping["family"] == {
        "name": "gaussian",
        "site_shape": [1],
        "sigma": 0.01,
        "head": {"name": "skip", "variance": 0.25, "clip": 1.0},
    }


def test_a_part_without_a_name_cannot_be_written() -> None:
    with pytest.raises(ConfigError, match=r"Unnamed is not registered as a loss.*bfn_losses"):
        attrs.evolve(build(), loss=Unnamed()).to_toml(REGISTRY)


@attrs.frozen
class Scheduled:
    """A family whose schedule is a default."""

    kind = "family"
    site_shape: tuple[int, ...] = (1,)
    schedule: AccuracySchedule = attrs.field(factory=lambda: GeometricSchedule(sigma_1=0.05))


def test_an_option_of_a_default_part_needs_no_name() -> None:
    registry = Registry.from_entry_points()
    hook = hookimpl(lambda: [Entry("scheduled", Scheduled)], specname="bfn_families")
    registry.register(SimpleNamespace(hook=hook), name="scheduled")

    def schedule(*overrides: tuple[str, str]) -> Any:
        mapping = {"family": "scheduled"}
        return Experiment.from_mapping(mapping, overrides=overrides, registry=registry, base="default").family.schedule

    assert schedule() == GeometricSchedule(sigma_1=0.05)
    assert schedule(("family.schedule.sigma_1", "0.2")) == GeometricSchedule(sigma_1=0.2)
    quadratic = (("family.schedule.name", "quadratic"), ("family.schedule.beta_1", "3.0"))
    assert schedule(*quadratic) == QuadraticSchedule(beta_1=3.0)


def test_options_are_described() -> None:
    described = {key: (words, value) for key, words, value in build().options(REGISTRY)}
    assert described["training.steps"] == ("an integer", 400)
    assert described["family.head.clip"] == ("a number", 1.0)
    assert described["network.classes"] == ('an integer or "none"', 3)
    assert described["loss.weighting"][0] == "one of paper, unit"


# --- errors of plugins


def test_errors_of_data_keep_their_exit_status() -> None:
    with pytest.raises(DataError, match="no rows"):
        build({"dataset": {"name": "gaussian-mixture", "fails": "with-data-error"}})


def test_a_bug_in_a_constructor_names_the_plugin() -> None:
    with pytest.raises(
        PluginError, match=r"dataset: dataset 'gaussian-mixture' of \(this process\).*ZeroDivisionError"
    ):
        build({"dataset": {"name": "gaussian-mixture", "fails": "with-bug"}})


# --- limits

BAD_FILES = {
    "not-toml": ("[training]\nsteps = \n", r":2:9: not TOML: Invalid value"),
    "no-last-newline": ("steps = ", r":1:9: not TOML"),
    "duplicate-key": (
        "[training]\nlr = 1\n\nlr = 2\n",
        r":4:7: not TOML: Cannot overwrite a value; first set on line 2",
    ),
    "duplicate-table": ("[a]\n[b]\n[a]\n", r":3:3: not TOML.*first set on line 1"),
    "unclosed": ("a = [1,\n2\n", r"not TOML"),
    "yaml": ("steps: 5\n", r":1:\d+: not TOML"),
    "nul": ("seed = 1\n\x00\n", r":2:1: not TOML"),
    "not-utf8": (b"seed = 1\n# \xff\n", r"not UTF-8 at byte 11"),
    "large": (b"#" * 1_000_001, r"larger than 1 MB"),
    "nested-arrays": ("a = " + "[" * 100_000, r"nested too deeply"),
    "nested-tables": ("a = " + "{a = " * 10_000, r"nested too deeply"),
    "dotted-keys": ("a." * 200_000 + "a = 1", r":1: nested too deeply"),
    "dotted-header": ("[" + "a." * 200_000 + "a]", r":1: nested too deeply"),
    "digits": ("seed = " + "9" * 5000, r"limit"),
    "spaces": (" " * 900_000 + "x", r"not TOML"),
    "empty-header": ("[" + " " * 900_000, r"not TOML"),
}


@pytest.mark.parametrize("fault", BAD_FILES)
def test_a_bad_file_is_one_readable_line(tmp_path: Path, fault: str) -> None:
    text, problem = BAD_FILES[fault]
    with pytest.raises(ConfigError, match=problem) as raised:
        from_text(tmp_path / "x.toml", text)
    assert str(raised.value).startswith(str(tmp_path / "x.toml"))
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    "text", ["", "\ufeffseed = 3\n", "seed = 3\r\n[training]\r\nsteps = 5\r\n", "# " + "." * 200, "'seed' = 3"]
)
def test_odd_files_are_read(tmp_path: Path, text: str) -> None:
    assert from_text(tmp_path / "x.toml", text).seed == (3 if "3" in text else 0)


def test_only_regular_files_are_read(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    finished = threading.Event()

    def read() -> None:
        for name in ("fifo", "absent", ".", "a\0b", "x" * 5000):
            with pytest.raises(ConfigError):
                Experiment.from_toml(tmp_path / name, registry=REGISTRY)
        finished.set()

    threading.Thread(target=read, daemon=True).start()
    assert finished.wait(10)


def test_deep_mappings_are_refused() -> None:
    deep: dict[str, Any] = {}
    deep["training"] = deep
    with pytest.raises(ConfigError, match="nested too deeply"):
        build(deep)
    with pytest.raises(ConfigError, match="nested too deeply"):
        with_options((".".join("a" * 5000), "1"))
