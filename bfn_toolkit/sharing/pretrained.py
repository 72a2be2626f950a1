"""Saved models: directories of ``config.json``, ``model.safetensors`` and a card, ``README.md``.

The names are those of the Hugging Face Hub.  ``config.json`` holds family, network and codec as an experiment does,
under their registered names, and the provider of each.  ``SHA256SUMS`` has the digests of both, for this module
and for ``sha256sum -c``.

A directory is not trusted.  Nothing in it is executed, and nothing is fetched: a name in it reaches an installed plugin
or nothing.  The plugins are checked first, then the configuration, then the weights against their digest and against a
network on the meta device.  Only then is memory allocated for the network of ``config.json``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import attrs
import torch
from torch import nn

from bfn_toolkit.config.json_values import with_infinities, without_infinities
from bfn_toolkit.config.layers import Configuration
from bfn_toolkit.config.schema import parts_of, shown
from bfn_toolkit.config.structure import structure
from bfn_toolkit.config.unstructure import destructure
from bfn_toolkit.data.conditions import ConditionSpec, SizeSpec, recorded, recorded_sizes
from bfn_toolkit.errors import BFNError, ConfigError, PluginError, RunDirectoryError, UnknownPlugin
from bfn_toolkit.registry.hookspecs import KINDS
from bfn_toolkit.registry.registry import default_registry
from bfn_toolkit.runs import blueprints
from bfn_toolkit.runs.model_files import WEIGHTS
from bfn_toolkit.runs.provenance import check_providers
from bfn_toolkit.sharing.model_card import CARD as CARD, CONFIG as CONFIG, Card
from bfn_toolkit.storage.files import (
    MAX_JSON,
    check_space,
    parse_file,
    read_checked,
    read_json,
    resource_error,
    to_json,
    write_atomically,
    write_together,
)
from bfn_toolkit.storage.safetensors_files import State, dumps, loads, shape_mismatches

MODEL_TYPE = "bfn"
FORMAT = 1
_FLOATS = {str(t).removeprefix("torch."): t for t in (torch.float64, torch.float32, torch.bfloat16, torch.float16)}


@attrs.frozen
class Architecture:
    """The part of an experiment that determines the meaning of the weights.

    Arguments:
        family: A :class:`~bfn_toolkit.Family`.
        network: A :class:`~bfn_toolkit.NetworkBuilder`.
        codec: The :class:`~bfn_toolkit.Codec` of the data; None if it is not known.
    """

    family: Any = attrs.field(metadata={"kind": "family"})
    network: Any = attrs.field(metadata={"kind": "network"})
    codec: Any = attrs.field(default=None, metadata={"kind": "codec"})

    def build(
        self, dtype: torch.dtype, device: str = "cpu", within: Sequence[blueprints.Size] | None = None
    ) -> nn.Module:
        """A network with fresh weights, as :func:`~bfn_toolkit.runs.blueprints.build` makes it."""
        network = blueprints.build(self.family, self.network, within, device)
        own = _dtype_of(network.state_dict())
        return network if own is None else network.to(dtype)  # to() would make complex weights real

    def blueprint(self, dtype: torch.dtype) -> State:
        """State of the network, on the meta device where possible."""
        try:
            network = self.build(dtype, "meta")
        except Exception:  # a network may compute while it is built, which fails on the meta device
            network = self.build(dtype)
        state: State = network.state_dict()
        return state


@attrs.frozen(eq=False)
class Saved:
    """A saved model.

    Arguments:
        architecture: Family, builder of the network, and codec of the data.
        network: The network with its weights, on the CPU.
        conditions: Summary of each condition in the training rows, where known.
        sizes: Sizes of the training rows, if they differ and are known.
    """

    architecture: Architecture
    network: nn.Module
    conditions: Mapping[str, ConditionSpec]
    sizes: SizeSpec | None


def architecture_of(family: Any, network: nn.Module, builder: Any, codec: Any) -> Architecture:
    """The family, the builder and the codec of a model.

    Raises:
        ConfigError: If it was made from a bare module, without a builder.
    """
    if builder is None:
        name = type(network).__name__
        raise ConfigError(
            f"a model made from a bare module cannot be saved, because nothing says how to make its {name} again; "
            "write BFN(family, builder) with a NetworkBuilder, such as Siren(width=64)"
        )
    return Architecture(family, builder, codec)


def save(
    architecture: Architecture,
    network: nn.Module,
    directory: str | Path,
    card: Mapping[str, Any] | None,
    *,
    force: bool,
    seen: Mapping[str, ConditionSpec] | None = None,
    sizes: SizeSpec | None = None,
) -> None:
    """Writes a model and its card; :meth:`bfn_toolkit.BFN.save_pretrained` says more.

    Arguments are the same, and where known ``seen``, a summary of each condition in the training rows, and ``sizes``.
    Adapters are added to the weights that they adapt (:attr:`NetworkBuilder.base <bfn_toolkit.NetworkBuilder.base>`).

    Raises:
        ConfigError: If a part has no name, the weights are of another network, or the directory is not empty.
        NonFiniteError: If a weight is NaN or infinite.
        ResourceError: If a file cannot be written.
    """
    folder = Path(directory)
    check_place(folder, CONFIG, force)
    written = Card.of(card or {})
    weights = architecture.network.base_state(network)
    architecture = attrs.evolve(architecture, network=architecture.network.base)
    options = destructure(architecture, default_registry())
    dtype = _dtype_of(weights) or torch.float32
    wrong = shape_mismatches(architecture.blueprint(dtype), weights)
    if wrong:
        raise ConfigError(f"the weights are not those of the model's builder: {'; '.join(sorted(wrong)[:5])}")
    content = dumps(weights)
    config = {
        "model_type": MODEL_TYPE,
        "architectures": ["BFN"],
        "library_name": "bfn-toolkit",
        "format": FORMAT,
        "bfn-toolkit": version("bfn-toolkit"),
        "torch": torch.__version__,
        "dtype": str(dtype).removeprefix("torch."),
        **{key: without_infinities(value) for key, value in options.items()},
        "plugins": _parts(architecture),
        "conditions": {name: attrs.asdict(facts) for name, facts in (seen or {}).items()},
        "sizes": None if sizes is None else sizes.counts,
    }
    numbers = sum(value.numel() for value in weights.values())
    text = written.render(folder.absolute().name, config, numbers, architecture.family.n_steps)
    check_space(folder, len(content))
    write_atomically(folder / CARD, text)
    write_together(folder, {WEIGHTS: content, CONFIG: (to_json(config) + "\n").encode()})


def load(directory: str | Path, *, allow_nonfinite: bool = False, allow_plugin_mismatch: bool = False) -> Saved:
    """Reads a model; :meth:`bfn_toolkit.BFN.from_pretrained` says more.

    Raises:
        RunDirectoryError: If it is not such a directory, or a file of it is damaged.
        PluginError: If a plugin of it is not installed, or only in another major version.
    """
    folder = Path(directory)
    if not folder.is_dir():
        raise RunDirectoryError(
            f"{folder} is not a directory; BFN.save_pretrained(directory) and 'bfn export RUN --out DIR' make one"
        )
    path = folder / CONFIG
    config = _read_config(path)
    check_providers(config["plugins"], allow_mismatch=allow_plugin_mismatch)
    _check_names(config["plugins"])
    architecture = _read_architecture(config, path)
    dtype = _FLOATS[config["dtype"]]
    try:
        within = blueprints.saved_sizes(folder)
        expected = architecture.build(dtype, "meta", within).state_dict()
        most = MAX_JSON + sum(value.numel() * value.element_size() for value in expected.values())
        content = read_checked(folder, WEIGHTS, most)
        state = loads(content, folder / WEIGHTS, expected, allow_nonfinite=allow_nonfinite)
        network = architecture.build(dtype, within=within)
    except BFNError:
        raise
    except Exception as error:
        raise RunDirectoryError(f"{path}: its network cannot be built: {type(error).__name__}: {error}") from error
    network.load_state_dict(state)
    conditions, sizes = recorded(config.get("conditions"), path), recorded_sizes(config.get("sizes"), path)
    return Saved(architecture, network, conditions or {}, sizes)


def _dtype_of(weights: State) -> torch.dtype | None:
    """The dtype of all floating-point weights; None if there are several, or some are complex."""
    found = {value.dtype for value in weights.values() if value.is_floating_point() or value.is_complex()}
    return found.pop() if len(found) == 1 and found < set(_FLOATS.values()) else None


def check_place(folder: Path, file: str, force: bool) -> None:
    """Checks that a directory holds only hidden files, such as those of a clone, or a model to replace.

    Arguments:
        folder: The directory.
        file: Name of the JSON file by whose "model_type" a model is known.
        force: Whether to replace it.
    Raises:
        ConfigError: If it holds anything else.
    """
    try:
        if not folder.exists() or (folder.is_dir() and all(path.name[0] == "." for path in folder.iterdir())):
            return
        ours = folder.is_dir() and _model_type(folder / file) == MODEL_TYPE
    except OSError as error:
        raise resource_error(error, folder) from error
    if not ours:
        raise ConfigError(
            f"{folder} exists and is not such a model ({file}), so it is left alone; choose another directory"
        )
    if not force:
        raise ConfigError(
            f"{folder} holds a model already; choose another directory, or replace it (force=True, --force)"
        )


def _model_type(path: Path) -> object:
    try:
        config = read_json(path)
    except RunDirectoryError:
        return None
    return config.get("model_type") if isinstance(config, dict) else None


def _read_config(path: Path) -> dict[str, Any]:
    """``config.json``, of our model type and format, with tables where tables are expected."""
    config = parse_file(read_checked(path.parent, CONFIG, MAX_JSON), path)
    if not isinstance(config, dict) or config.get("model_type") != MODEL_TYPE:
        found = config.get("model_type") if isinstance(config, dict) else None
        raise RunDirectoryError(
            f'{path} is not of bfn-toolkit: expected the model_type "{MODEL_TYPE}", got {shown(found)}'
        )
    if config.get("format") != FORMAT:
        found, written = shown(config.get("format")), shown(config.get("bfn-toolkit"))
        raise RunDirectoryError(
            f"{path} has format {found}, written by bfn-toolkit {written}; this version reads format {FORMAT}. "
            "Upgrade bfn-toolkit"
        )
    plugins = config.get("plugins")
    sound = (
        isinstance(plugins, dict)
        and all(isinstance(part, dict) and _WORDS.issubset(part) for part in plugins.values())
        and all(isinstance(part[word], str) for part in plugins.values() for word in _WORDS)
        and {part["kind"] for part in plugins.values()} <= KINDS.keys()
        and config.get("dtype") in _FLOATS
    )
    if not sound:
        raise RunDirectoryError(f"{path} is damaged: its plugins or its dtype are malformed")
    return config


_WORDS = frozenset({"kind", "name", "distribution", "version"})


def _parts(architecture: Architecture) -> dict[str, dict[str, str]]:
    """Kind, name, distribution and version of each part, by its key."""
    parts = parts_of(architecture, default_registry())
    return {key: {word: getattr(part, word) for word in sorted(_WORDS)} for key, part in parts}


def _check_names(plugins: Mapping[str, Mapping[str, str]]) -> None:
    """Checks that each part is registered here, once its distribution is known to be installed."""
    for key, part in plugins.items():
        installed = f"{part['distribution']}:" if part["version"] else ""
        try:
            default_registry().get(part["kind"], installed + part["name"])
        except UnknownPlugin as error:
            whose = f"{part['distribution']} {part['version']}".rstrip()
            raise PluginError(f"{key}: '{part['name']}' came from {whose}, but here: {error}") from None


def _read_architecture(config: Mapping[str, Any], path: Path) -> Architecture:
    configuration = Configuration()
    try:
        configuration.add_mapping(
            with_infinities({key: config[key] for key in ("family", "network", "codec") if key in config})
        )
        architecture = structure(Architecture, configuration, default_registry())
        found = _parts(architecture)
    except ConfigError as error:
        raise RunDirectoryError(f"{path}: {error}") from error
    recorded = config["plugins"]
    if found.keys() != recorded.keys() or any(
        found[key][word] != recorded[key][word] for key in found for word in ("kind", "name", "distribution")
    ):
        raise RunDirectoryError(f"{path} is damaged: its plugins are not those of its family, network and codec")
    return architecture
