"""Parts as JSON values: as in TOML, except that JSON has no infinity."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import attrs

from bfn_toolkit.config.layers import Configuration, OptionText
from bfn_toolkit.config.structure import structure
from bfn_toolkit.config.unstructure import destructure
from bfn_toolkit.registry.registry import Registry


@attrs.frozen
class _Coded:
    codec: Any = attrs.field(metadata={"kind": "codec"})


def codec_to_json(codec: Any, registry: Registry) -> dict[str, Any]:
    """A codec as plain values: its registered name and its fields.

    Raises:
        ConfigError: If it is not registered, or a field cannot be written.
    """
    table: dict[str, Any] = without_infinities(destructure(_Coded(codec), registry)["codec"])
    return table


def codec_from_json(table: Any, registry: Registry) -> Any:
    """The inverse of :func:`codec_to_json`; a name reaches a registered codec or nothing.

    Raises:
        ConfigErrors: If the table is not one of a codec.
        PluginError: If the codec cannot be loaded.
    """
    configuration = Configuration()
    configuration.add_mapping({"codec": with_infinities(table)})
    return structure(_Coded, configuration, registry).codec


def without_infinities(value: Any) -> Any:
    """Plain values in which a string stands for an infinity, as on the command line."""
    if isinstance(value, Mapping):
        return {key: without_infinities(part) for key, part in value.items()}
    if isinstance(value, list):
        return [without_infinities(part) for part in value]
    return str(value) if isinstance(value, float) and math.isinf(value) else value


def with_infinities(value: Any) -> Any:
    """The inverse; the type of the field decides whether "inf" is a number or a string."""
    if isinstance(value, Mapping):
        return {key: with_infinities(part) for key, part in value.items()}
    if isinstance(value, list):
        return [with_infinities(part) for part in value]
    return OptionText(value) if value in ("inf", "-inf") else value
