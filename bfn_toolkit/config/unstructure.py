"""Attrs values to plain values, from which :mod:`bfn_toolkit.config.structure` restores equal ones."""

from __future__ import annotations

import math
import types
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, get_args

import attrs

from bfn_toolkit.config.layers import dotted
from bfn_toolkit.config.schema import NONE, default_of, fields_of, kind_of, shown
from bfn_toolkit.config.toml_files import Key
from bfn_toolkit.errors import ConfigError
from bfn_toolkit.registry.registry import Registry


def destructure(
    value: Any, registry: Registry, metadata: Iterable[str] = (), *, kind: str | None = None, brief: bool = False
) -> dict[str, Any]:
    """Writes an attrs value as tables.

    A field that is None is left out if that is its default, and written as "none" otherwise.

    Arguments:
        value: An attrs value.
        registry: Registry that knows the names of parts.
        metadata: Names that the metadata of a dataset would fill in.
        kind: Kind of part, for a table with the ``name`` of the part.
        brief: Leave out the options that have the default of their class.
    Raises:
        ConfigError: If a part has no name, or a value cannot be written to a configuration.
    """
    return _Writer(registry, frozenset(metadata), brief).table(value, kind, ())


def plain_value(value: Any, registry: Registry, kind: str | None = None) -> Any:
    """Writes the value of one field in brief: a table, an array or a scalar.

    Raises:
        ConfigError: As :func:`destructure`.
    """
    return _Writer(registry, frozenset(), True).plain(value, kind, ())


@attrs.frozen
class _Writer:
    registry: Registry
    metadata: frozenset[str]
    brief: bool

    def table(self, value: Any, kind: str | None, key: Key) -> dict[str, Any]:
        table: dict[str, Any] = {"name": self.registry.name_of(kind, type(value))} if kind else {}
        for name, (field, type_) in fields_of(type(value)).items():
            part, at = getattr(value, field.name), (*key, name)
            if self.brief and part == default_of(field):
                continue
            if part is not None:
                table[name] = self.plain(part, kind_of(type_), at)
            elif field.default is not None or name in self.metadata:
                members = get_args(type_)
                if types.NoneType not in members or str in members:
                    raise ConfigError(f"{dotted(at)}: None cannot be written to a configuration here")
                table[name] = NONE
        return table

    def plain(self, value: Any, kind: str | None, key: Key) -> Any:
        if isinstance(value, (bool, str)):
            return value
        if isinstance(value, int):
            return int(value)
        if isinstance(value, float) and not math.isnan(value):
            return float(value)
        if attrs.has(type(value)):
            return self.table(value, kind or kind_of(type(value)), key)
        if isinstance(value, Path):
            return str(value)
        if isinstance(value, Mapping):
            return {name: self.plain(part, None, (*key, name)) for name, part in value.items()}
        if isinstance(value, (list, tuple)):
            return [self.plain(part, None, (*key, n)) for n, part in enumerate(value)]
        raise ConfigError(f"{dotted(key)}: {shown(value)} cannot be written to a configuration")
