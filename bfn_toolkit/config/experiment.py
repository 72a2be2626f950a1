"""Experiment: the tree of values that a TOML file, the command line and Python all build.

.. code-block:: toml

    seed = 0
    dataset = "gaussian-mixture"            # short for {name = "gaussian-mixture"}

    [family]
    name = "gaussian"                       # chooses the class; the other keys are its fields
    head = {name = "noise", clip = 1.0}

    [network]
    name = "siren"

    [loss]
    name = "continuous-time"

    [training]
    steps = 400

The layers, from the bottom: the ``metadata`` of the dataset, for options of the same names in the family, its head and
the network; the preset "default"; the ``default_config`` of the dataset; family, network and loss of the model in
``training.init``; a preset; the file; the options of the command line.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import attrs
import tomli_w

from bfn_toolkit.config.annotated import annotated
from bfn_toolkit.config.layers import Configuration, Node
from bfn_toolkit.config.recognition import check_path, check_reader, dataset_for
from bfn_toolkit.config.schema import options_of
from bfn_toolkit.config.structure import dataset_metadata, default_config, metadata_of, names_of, structure
from bfn_toolkit.config.unstructure import destructure
from bfn_toolkit.errors import ConfigError, DataError
from bfn_toolkit.registry.registry import Registry, default_registry
from bfn_toolkit.validators import instance_of, integer, invalid, not_one_of, number, one_of

if TYPE_CHECKING:
    from bfn_toolkit.data.dataset import Dataset
    from bfn_toolkit.families import Family
    from bfn_toolkit.losses import Loss
    from bfn_toolkit.networks import NetworkBuilder

    FamilyOfAny = Family[Any]
else:  # the configuration reads types at run time, and does not wait for torch; the validators check the parts
    Dataset = FamilyOfAny = Loss = NetworkBuilder = Any

BASE = "default"  # the preset beneath every configuration


def _part(experiment: Any, field: attrs.Attribute[Any], value: object) -> None:
    kind = field.metadata["kind"]
    if getattr(value, "kind", None) != kind or isinstance(value, type):
        example = f"; write {value.__name__}()" if isinstance(value, type) else ""
        raise invalid(experiment, field, f"expected a {kind}, got {value!r:.60}{example}")


def _device(training: Any, field: attrs.Attribute[Any], value: object) -> None:
    if not (isinstance(value, str) and re.fullmatch(r"auto|cpu|mps|cuda(:\d{1,3})?", value)):
        gpu = re.fullmatch(r"(?i)(?:gpu|cuda|nvidia|rocm):?(\d{1,3})?", str(value))
        known = ("auto", "cpu", "cuda", "cuda:0", "mps")
        if gpu:
            right = f"cuda:{gpu[1]}" if gpu[1] else "cuda"
            raise invalid(training, field, f"expected one of {', '.join(known)}, got {value!r}; write {right}")
        raise invalid(training, field, not_one_of(value, known))


def _word(training: Any, field: attrs.Attribute[Any], value: object) -> None:
    if not (isinstance(value, str) and value):
        raise invalid(training, field, f"expected a name, got {value!r}")


def _warmup(training: Any, field: attrs.Attribute[Any], value: float) -> None:
    if isinstance(value, float):
        if not 0.0 <= value < 1.0:
            raise invalid(training, field, f"expected a number of steps, or a share of them below 1.0, got {value}")
        return
    integer(ge=0, le=10**12)(training, field, value)
    if value > training.steps:
        raise invalid(training, field, f"warmup = {value} is longer than steps = {training.steps}")


def _table(training: Any, field: attrs.Attribute[Any], value: object) -> None:
    if not (isinstance(value, Mapping) and all(isinstance(key, str) for key in value)):
        raise invalid(training, field, f"expected a table of options, got {value!r}")


def _names(value: Iterable[str]) -> tuple[str, ...]:
    return tuple(value)


def _model(value: Any) -> Any:
    """The absolute path of a model, which a run stores; a name such as zoo:digits stays."""
    is_path = isinstance(value, str) and value and not re.match(r"[A-Za-z][\w-]+:", value)
    return os.path.abspath(value) if is_path else value


def _options() -> Any:
    # A table cannot be hashed; without it, equal experiments still have equal hashes.
    return attrs.field(factory=dict, converter=dict, validator=_table, hash=False)


@attrs.frozen(kw_only=True)
class Training:
    """Settings of the training.

    Arguments:
        init: Model whose weights the training starts from, where names and shapes fit: a run directory, a saved model,
            or zoo:NAME; "" to start at random.
        steps: Number of optimiser steps.
        batch_size: Number of rows in a step, over all processes; at most the number of training rows.
        accumulate: Number of pieces of a step, computed one after another to save memory; at most one for each row.
        optimizer: Name of the optimiser: a class of ``torch.optim``, or "muon" for Muon with AdamW.
        optimizer_options: Options of that class, except the learning rate.
        lr: Learning rate at the start.
        scheduler: "cosine" lowers it to zero over the steps, "constant" keeps it; or a class of
            ``torch.optim.lr_scheduler``.
        scheduler_options: Options of that class.
        warmup: Steps over which the learning rate rises from 0; a number with a point is a share of all steps.
        known_rate: Share of the examples in which some sites are known: any number of them, at random.  Their values
            are an input of the network and no part of the loss, so that it learns to fill in the others.
        clip_norm: Largest norm of the gradient; inf for no clipping.
        ema_decay: Decay of the moving average of the weights; 0 for none.
        checkpoint_every: Steps between checkpoints; 0 for none but the last.
        keep: Number of checkpoints to keep, in addition to the best.
        on_save_error: "warn" stops at the third checkpoint in a row that cannot be written, "stop" at the first.
        validate_every: Steps between validations; 0 for none.
        validation_draws: Number of draws of the loss for each validation row, which are averaged.
        patience: Number of validations without a lower loss after which training stops; 0 for never.
        final: Weights of the finished model: those of the "last" step, or the "best", of the lowest validation loss.
        device: "auto", "cpu", "cuda", "cuda:N" or "mps".
        precision: Precision of the network; beliefs and loss are always float32.
        compile: Whether to compile the network.
        parallel: "ddp" copies the weights to every process, "fsdp" shards them among the processes.
        timeout: Seconds that processes wait for each other.
        workers: Number of processes that fetch rows; 0 (right for data in memory) fetches them in the training process.
        trackers: Experiment trackers of accelerate: "trackio", "tensorboard", "wandb", "mlflow", ...
    """

    init: str = attrs.field(default="", converter=_model, validator=instance_of(str))
    steps: int = attrs.field(default=400, validator=integer(ge=1, le=10**12))
    batch_size: int = attrs.field(default=4096, validator=integer(ge=1, le=2**31 - 1))
    accumulate: int = attrs.field(default=1, validator=integer(ge=1, le=2**31 - 1))
    optimizer: str = attrs.field(default="adam", validator=_word)
    optimizer_options: Mapping[str, Any] = _options()
    lr: float = attrs.field(default=3e-3, validator=number(gt=0, le=1e3))
    scheduler: str = attrs.field(default="cosine", validator=_word)
    scheduler_options: Mapping[str, Any] = _options()
    warmup: int | float = attrs.field(default=0, validator=_warmup)
    known_rate: float = attrs.field(default=0.0, validator=number(ge=0, le=1))
    clip_norm: float = attrs.field(default=1.0, validator=number(gt=0, le=math.inf))
    ema_decay: float = attrs.field(default=0.0, validator=number(ge=0, lt=1))
    checkpoint_every: int = attrs.field(default=1000, validator=integer(ge=0, le=10**12))
    keep: int = attrs.field(default=3, validator=integer(ge=1, le=10**6))
    on_save_error: Literal["warn", "stop"] = attrs.field(default="warn", validator=one_of("warn", "stop"))
    validate_every: int = attrs.field(default=0, validator=integer(ge=0, le=10**12))
    validation_draws: int = attrs.field(default=1, validator=integer(ge=1, le=10**6))
    patience: int = attrs.field(default=0, validator=integer(ge=0, le=10**6))
    final: Literal["last", "best"] = attrs.field(default="last", validator=one_of("last", "best"))
    device: str = attrs.field(default="auto", validator=_device)
    precision: Literal["fp32", "bf16", "fp16"] = attrs.field(default="fp32", validator=one_of("fp32", "bf16", "fp16"))
    compile: bool = attrs.field(default=False, validator=instance_of(bool))
    parallel: Literal["ddp", "fsdp"] = attrs.field(default="ddp", validator=one_of("ddp", "fsdp"))
    timeout: float = attrs.field(default=300.0, validator=number(ge=1, le=1e7))
    workers: int = attrs.field(default=0, validator=integer(ge=0, le=1024))
    trackers: tuple[str, ...] = attrs.field(default=(), converter=_names)

    @property
    def warmup_steps(self) -> int:
        """Number of steps of the warm-up."""
        return round(self.warmup * self.steps) if isinstance(self.warmup, float) else self.warmup


@attrs.frozen
class Experiment:
    """Data set, family, network, loss and training: everything that determines a run.

    Arguments:
        dataset: A :class:`~bfn_toolkit.Dataset`.
        family: A :class:`~bfn_toolkit.Family`.
        network: A :class:`~bfn_toolkit.NetworkBuilder`.
        loss: The :class:`~bfn_toolkit.Loss` to train with.
        training: Settings of the training.
        seed: Seed of every draw, in [0, 2**63).
    """

    dataset: Dataset = attrs.field(validator=_part, metadata={"kind": "dataset"})
    family: FamilyOfAny = attrs.field(validator=_part, metadata={"kind": "family", "metadata_from": "dataset"})
    network: NetworkBuilder = attrs.field(validator=_part, metadata={"kind": "network", "metadata_from": "dataset"})
    loss: Loss = attrs.field(validator=_part, metadata={"kind": "loss"})
    training: Training = attrs.field(factory=Training, validator=instance_of(Training))
    seed: int = attrs.field(default=0, validator=integer(ge=0, le=2**63 - 1))

    def _repr_pretty_(self, printer: Any, cycle: bool) -> None:
        """The expression that makes the experiment, as notebooks show it: a line for each part, without defaults of
        the training."""
        usual = attrs.asdict(Training(), recurse=False)
        changed = {k: v for k, v in attrs.asdict(self.training, recurse=False).items() if v != usual[k]}
        parts = {field.name: repr(getattr(self, field.name)) for field in attrs.fields(Experiment)}
        parts["training"] = f"Training({', '.join(f'{name}={value!r}' for name, value in changed.items())})"
        printer.text("".join(["Experiment(\n", *(f"    {name}={part},\n" for name, part in parts.items()), ")"]))

    @classmethod
    def from_toml(
        cls,
        path: str | Path | None,
        preset: str | None = None,
        overrides: Sequence[tuple[str, str]] = (),
        registry: Registry | None = None,
        *,
        base: str | None = BASE,
        complete: bool = False,
    ) -> Experiment:
        """Builds an experiment from layers: a base, a preset, a TOML file and the options of the command line.

        Arguments:
            path: The file, or None for the other layers alone.
            preset: Name of a preset beneath the file.
            overrides: Dotted keys and texts above the file: ``("network.width", "256")``.
            registry: Registry that resolves the names of parts; by default that of the installed plugins.
            base: Preset beneath everything; None for a complete file, such as that of a run.
            complete: Whether every option is present, so that metadata of the dataset (and its file) are not needed.
        Raises:
            ConfigErrors: All mistakes together, each with its place, the expected and the actual value.
            ConfigError: If a file cannot be read, or is not TOML.
            PluginError: If a part cannot be loaded.
        """
        registry = registry or default_registry()
        layers = _layers(base, preset, _file(path), overrides, registry)
        return structure(cls, layers, registry, complete=complete)

    @classmethod
    def from_mapping(
        cls,
        mapping: Mapping[str, Any],
        preset: str | None = None,
        overrides: Sequence[tuple[str, str]] = (),
        registry: Registry | None = None,
        *,
        base: str | None = None,
        complete: bool = False,
    ) -> Experiment:
        """Builds an experiment from plain values, which are complete unless there is a preset or a base.

        Arguments and errors are those of :meth:`from_toml`.
        """
        registry = registry or default_registry()
        layers = _layers(base, preset, lambda c: c.add_mapping(mapping), overrides, registry)
        return structure(cls, layers, registry, complete=complete)

    @classmethod
    def from_path(
        cls,
        path: str | Path,
        as_: str | None = None,
        preset: str | None = None,
        overrides: Sequence[tuple[str, str]] = (),
        registry: Registry | None = None,
        *,
        config: str | Path | None = None,
    ) -> Experiment:
        """Builds an experiment on a file or folder of data, as ``bfn train PATH`` does.

        It equals the experiment with the options ``--dataset NAME --dataset.path PATH``.

        Arguments:
            path: The file or folder.
            as_: Name of the data set that reads it; by default the one that the preset, the configuration or the
                overrides name, or else the one that is most certain to recognise the path.
            preset: Name of a preset.
            overrides: Dotted keys and texts, as in :meth:`from_toml`.
            registry: Registry that resolves the names of parts; by default that of the installed plugins.
            config: A TOML file above the preset.
        Raises:
            DataError: If there is no such file or folder, or no data set recognises it.
            ConfigError: If several recognise it, the data set reads no files, or its path is given twice; and all
                errors of :meth:`from_toml`.
        """
        registry = registry or default_registry()
        return structure(cls, _layers_of_path(Path(path), as_, preset, overrides, registry, config), registry)

    @classmethod
    def options_toml(
        cls,
        path: str | Path | None = None,
        as_: str | None = None,
        preset: str | None = None,
        overrides: Sequence[tuple[str, str]] = (),
        registry: Registry | None = None,
        *,
        config: str | Path | None = None,
        mapping: Mapping[str, Any] | None = None,
    ) -> str:
        """Returns an experiment as TOML in which comments describe each field, with its type and its default.

        The arguments are those of :meth:`from_path`, or of :meth:`from_toml` if there is no path, or ``mapping`` is a
        complete experiment.  The file of the data may be missing if the data set is named; what follows from the data
        is then left out.  A configuration that is read from the text is equal.

        Raises:
            ConfigErrors: All mistakes together.
            PluginError: If a part cannot be loaded.
        """
        registry = registry or default_registry()
        if mapping is not None:
            layers = _layers(None, None, lambda c: c.add_mapping(mapping), overrides, registry, lenient=True)
        elif path is not None:
            layers = _layers_of_path(Path(path), as_, preset, overrides, registry, config, lenient=True)
        else:
            layers = _layers(BASE, preset, _file(config), overrides, registry, lenient=True)
        return annotated(cls, layers, registry)

    def to_mapping(self, registry: Registry | None = None) -> dict[str, Any]:
        """Returns every field as plain values, from which :meth:`from_mapping` builds an equal experiment.

        Raises:
            ConfigError: If a part has no name in the registry.
        """
        return destructure(self, registry or default_registry(), names_of(metadata_of(self.dataset)))

    def to_toml(self, registry: Registry | None = None) -> str:
        """Returns :meth:`to_mapping` as TOML text.

        Raises:
            ConfigError: If a text, such as the name of a file, is not Unicode.
        """
        text = tomli_w.dumps(self.to_mapping(registry))
        try:
            text.encode()
        except UnicodeEncodeError as error:
            line = text.splitlines()[text.count("\n", 0, error.start)]
            raise ConfigError(f"{ascii(line)[1:-1]}: the name is not UTF-8, as TOML needs; rename the file") from None
        return text

    def options(self, registry: Registry | None = None) -> Iterator[tuple[str, str, object]]:
        """Yields the dotted key of each option, its type in words, and its value here.

        Raises:
            ConfigError: If a part has no name in the registry.
        """
        return options_of(self, registry or default_registry())


def _file(path: str | Path | None) -> Callable[[Configuration], None]:
    """Adds a TOML file to a configuration, if there is one."""
    return lambda configuration: None if path is None else configuration.add_file(Path(path))


def _layers_of_path(
    path: Path,
    as_: str | None,
    preset: str | None,
    overrides: Sequence[tuple[str, str]],
    registry: Registry,
    config: str | Path | None,
    *,
    lenient: bool = False,
) -> Configuration:
    """Layers of :meth:`Experiment.from_path`."""

    def values(configuration: Configuration) -> None:
        _file(config)(configuration)
        configuration.add_mapping({"dataset": {"name": name, "path": str(path)}}, str(path))

    by_option = _named_dataset(_layers(None, None, lambda _: None, overrides, registry))
    named = as_ or _named_dataset(_layers(None, preset, _file(config), overrides, registry)).get("name")
    try:
        check_path(path)
    except DataError as error:
        if lenient and not named:
            raise DataError(f"{error}; for the options alone, --as NAME says which data set will read it") from error
        if not lenient:
            raise
    if "path" in by_option:
        raise ConfigError(f"the data are {path}, and --dataset.path names others; leave out one of them")
    if as_ is not None and "name" in by_option:
        raise ConfigError(f"--as {as_} and --dataset both name the data set; leave out one of them")
    name = named if isinstance(named, str) else dataset_for(path, registry)
    check_reader(name, registry)
    return _layers(BASE, preset, values, overrides, registry, lenient=lenient)


def _named_dataset(configuration: Configuration) -> Mapping[str, Any]:
    """The table of the data set in a configuration; {} if there is none."""
    node = configuration.tree.value.get("dataset")
    value = None if node is None else node.plain()
    return value if isinstance(value, Mapping) else {"name": value} if value is not None else {}


def _layers(
    base: str | None,
    preset: str | None,
    values: Callable[[Configuration], None],
    overrides: Sequence[tuple[str, str]],
    registry: Registry,
    *,
    lenient: bool = False,
) -> Configuration:
    """Merges base, default configuration of the dataset, preset, values and options; later ones win.

    If ``lenient``, values and files of the dataset may be missing.
    """
    configuration = Configuration()
    if base is not None:
        configuration.add_preset(base)
    if preset is not None:
        configuration.add_preset(preset)
    values(configuration)
    configuration.add_options(overrides)
    if base is not None:
        user = configuration.above(1)
        # The dataset is built from its own options first, because what suits it depends on them.
        node = configuration.tree.value.get("dataset")
        suited = {} if node is None else dict(default_config(node, registry, lenient=lenient))
        recipe = suited.pop("preset", None)
        if recipe is not None:
            configuration.add_preset(str(recipe), at=1)
        at = 1 + (recipe is not None)
        configuration.add_mapping(suited, "default_config of the dataset", at=at)
        if init := _value(user, "training", "init"):
            from bfn_toolkit.sharing.initial import settings

            named = _value(user, "network", "name") or _value(user, "network")
            metadata = {} if node is None else dataset_metadata(node, registry, lenient=lenient)
            configuration.add_mapping(settings(init, named, metadata, registry), f"settings of {init}", at=at + 1)
    return configuration


def _value(node: Node | None, *key: str) -> str:
    """A text in a tree; "" if there is none."""
    for part in key:
        node = node.value.get(part) if node is not None and isinstance(node.value, Mapping) else None
    value = None if node is None else node.plain()
    return str(value) if isinstance(value, (str, int)) else ""
