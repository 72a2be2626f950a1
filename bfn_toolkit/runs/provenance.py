"""The origin of numbers: machine, versions, plugins and data, as runs and models record them."""

from __future__ import annotations

import hashlib
import json
import re
import warnings
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import attrs
import torch

from bfn_toolkit.config.json_values import codec_from_json, codec_to_json
from bfn_toolkit.config.schema import parts_of
from bfn_toolkit.data.codec import Codec
from bfn_toolkit.data.conditions import ConditionSpec, SizeSpec
from bfn_toolkit.data.dataset import Rows
from bfn_toolkit.data.rows import pieces
from bfn_toolkit.errors import BFNWarning, ConfigError, PluginError, RunDirectoryError
from bfn_toolkit.parallel import processes
from bfn_toolkit.registry.registry import BUILT_IN, Registry, default_registry
from bfn_toolkit.shapes import leaves
from bfn_toolkit.storage.files import MAX_JSON

_WORD = r"[A-Za-z0-9][A-Za-z0-9._+!-]{0,99}"
HASHED = 2**28  # bytes of a split in a fingerprint


def environment(device: torch.device) -> dict[str, Any]:
    """Facts, other than the experiment, on which the bits of a result depend."""
    return {
        "bfn-toolkit": version("bfn-toolkit"),
        "torch": torch.__version__,
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        "capability": torch.backends.cpu.get_cpu_capability(),
        "threads": torch.get_num_threads(),
        "processes": processes.world_size(),
    }


def differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Differences between two environments, in words."""
    return [f"{key}: {before.get(key)} then, {now.get(key)} now" for key in now if before.get(key) != now[key]]


def providers(value: Any, registry: Registry | None = None) -> dict[str, dict[str, str]]:
    """Name, distribution and version of each part of an attrs value, such as an experiment, by key.

    Raises:
        ConfigError: If a part has no name in the registry.
    """
    return {
        key: {"name": part.name, "distribution": part.distribution, "version": part.version}
        for key, part in parts_of(value, registry or default_registry())
    }


def check_providers(recorded: Mapping[str, Mapping[str, str]], *, allow_mismatch: bool = False) -> None:
    """Compares the plugins that made a model with those that are installed; another version is a warning.

    Raises:
        PluginError: If one is missing, or, unless ``allow_mismatch``, of another major version.
        RunDirectoryError: If a recorded distribution or version is malformed: people would paste it into a shell.
    """
    for key, plugin in recorded.items():
        distribution, wanted = plugin["distribution"], plugin["version"]
        if wanted and not (re.fullmatch(_WORD, distribution) and re.fullmatch(_WORD, wanted)):
            raise RunDirectoryError(f"{key}: {distribution!r} {wanted!r} is not a name and version of a distribution")
        if not wanted:  # registered by a process, not installed
            continue
        try:
            found = version(distribution)
        except PackageNotFoundError:
            raise PluginError(
                f"{key}: '{plugin['name']}' comes from {distribution} {wanted}, which is not installed; "
                f"{_install(distribution, wanted)}"
            ) from None
        if found == wanted:
            continue
        said = f"{key}: '{plugin['name']}' was made with {distribution} {wanted}, and {found} is installed"
        if found.split(".")[0] != wanted.split(".")[0] and not allow_mismatch:
            raise PluginError(f"{said}; {_install(distribution, wanted)}, or pass --allow-plugin-mismatch")
        warnings.warn(said, BFNWarning, stacklevel=2)


def _install(distribution: str, version: str) -> str:
    if distribution == BUILT_IN:
        return f"install {distribution} {version} from its source"
    return f'write: pip install "{distribution}=={version}"'


def data_facts(dataset: Any, conditions: Mapping[str, ConditionSpec], sizes: SizeSpec | None) -> dict[str, Any]:
    """Facts about the data that a model keeps, as JSON values: conditions and sizes of the rows, codec, source.

    Raises:
        ConfigError: If the codec is not registered, or too large.
    """
    codec = codec_to_json(dataset.codec, default_registry())
    if len(json.dumps(codec)) > MAX_JSON // 2:
        raise ConfigError(
            f"the {type(dataset.codec).__name__} of the data has more than {MAX_JSON // 2:,} bytes as JSON"
        )
    seen = {name: attrs.asdict(spec) for name, spec in conditions.items()}
    counts = None if sizes is None else sizes.counts
    return {"conditions": seen, "sizes": counts, "codec": codec, "source": dict(dataset.source)}


def recorded_codec(facts: Mapping[str, Any], path: Path) -> Codec | None:
    """The codec among the facts about a model; None if there is none.

    Raises:
        RunDirectoryError: If it is malformed.
        PluginError: If its plugin cannot be loaded.
    """
    if facts.get("codec") is None:
        return None
    try:
        codec: Codec = codec_from_json(facts["codec"], default_registry())
    except ConfigError as error:
        raise RunDirectoryError(f"{path}: the codec of the data cannot be read: {error}") from error
    return codec


def fingerprint(*splits: Rows) -> str:
    """Digest of rows: of all, or of rows at equal distances that take :data:`HASHED` bytes, and of their stamp."""
    digest = hashlib.sha256()
    for rows in splits:
        digest.update(f"{len(rows)} rows".encode())
        read = 0
        for index, batch in pieces(rows, HASHED):
            read += len(index)
            named = [("x", batch.x), *sorted(batch.condition.items()), ("mask", batch.mask), ("weight", batch.weight)]
            for name, values in named:
                for leaf in leaves(values):
                    if leaf is not None:
                        digest.update(f"{name} {leaf.dtype} {tuple(leaf.shape)}".encode())
                        digest.update(leaf.detach().cpu().contiguous().view(torch.uint8).numpy().data)
        digest.update(rows.stamp.encode() if read < len(rows) else b"")
    return digest.hexdigest()
