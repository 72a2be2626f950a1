"""The options of an attrs class: its fields and their types, also in words."""

from __future__ import annotations

import types
import typing
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin

import attrs

from bfn_toolkit.config.layers import dotted
from bfn_toolkit.config.toml_files import Key
from bfn_toolkit.errors import PluginError
from bfn_toolkit.registry.hookspecs import KINDS
from bfn_toolkit.registry.registry import Registered, Registry

NONE = "none"  # stands for None, which TOML does not have
ANY_OF = {kind: type(kind, (), {"kind": kind}) for kind in KINDS}  # type of a field whose metadata state its kind
_FACTORY: Any = attrs.Factory
_WORDS: dict[Any, tuple[str, str]] = {
    int: ("an integer", "integers"),
    float: ("a number", "numbers"),
    bool: ("true or false", "booleans"),
    str: ("a string", "strings"),
    Path: ("a path", "paths"),
    types.NoneType: (f'"{NONE}"', f'"{NONE}"'),
}


def kind_of(type_: Any) -> str | None:
    """Returns the kind of part that a type stands for, or None."""
    kind = getattr(get_origin(type_) or type_, "kind", None)
    return kind if isinstance(kind, str) and kind in KINDS else None


def fields_of(cls: type[Any]) -> dict[str, tuple[attrs.Attribute[Any], Any]]:
    """Returns key, field and type of each option.

    Raises:
        PluginError: If the annotations name types that cannot be found.
    """
    try:
        hints = typing.get_type_hints(cls)
    except Exception as error:
        raise PluginError(
            f"{cls.__module__}.{cls.__qualname__}: its annotations cannot be read ({error}); "
            "import the types of its fields outside of 'if TYPE_CHECKING'"
        ) from error
    fields: dict[str, tuple[attrs.Attribute[Any], Any]] = {}
    for field in attrs.fields(cls):
        if field.init:
            kind = field.metadata.get("kind")
            fields[field.alias or field.name] = field, ANY_OF[kind] if kind else hints.get(field.name, Any)
    return fields


def default_of(field: attrs.Attribute[Any]) -> Any:
    """Returns the default, or attrs.NOTHING if there is none or it depends on other fields."""
    default: Any = field.default
    if isinstance(default, _FACTORY):
        return attrs.NOTHING if default.takes_self else default.factory()
    return default


def options_of(value: Any, registry: Registry, key: Key = ()) -> Iterator[tuple[str, str, object]]:
    """Yields the dotted key, the type in words and the value of each option of an attrs value and its parts.

    The value of a part is its registered name.
    """
    for name, (field, type_) in fields_of(type(value)).items():
        yield from _option(getattr(value, field.name), type_, registry, (*key, name))


def _option(value: Any, type_: Any, registry: Registry, key: Key) -> Iterator[tuple[str, str, object]]:
    if attrs.has(type(value)):
        if kind := kind_of(type_):
            yield dotted(key), words(type_), registry.name_of(kind, type(value))
        yield from options_of(value, registry, key)
    elif isinstance(value, Mapping):
        inner = get_args(type_)[1] if len(get_args(type_)) == 2 else Any
        for name, part in value.items():
            yield from _option(part, inner, registry, (*key, name))
    else:
        yield dotted(key), words(type_), value


def parts_of(value: Any, registry: Registry, key: Key = ()) -> Iterator[tuple[str, Registered]]:
    """Yields the dotted key and the provider of each part in an attrs value.

    Raises:
        ConfigError: If a part has no name in the registry.
    """
    if isinstance(value, Mapping):
        for name, part in value.items():
            yield from parts_of(part, registry, (*key, name))
    elif attrs.has(type(value)):
        kind = kind_of(type(value))
        if kind and key:
            yield dotted(key), registry.get(kind, registry.name_of(kind, type(value)))
        for name, (field, _) in fields_of(type(value)).items():
            yield from parts_of(getattr(value, field.name), registry, (*key, name))


def is_union(type_: Any) -> bool:
    """Whether a type is a union, such as an optional type."""
    return get_origin(type_) in (Union, types.UnionType)


def is_sequence(type_: Any) -> bool:
    """Whether a type stands for arrays."""
    return (get_origin(type_) or type_) in (tuple, list, Sequence)


def is_mapping(type_: Any) -> bool:
    """Whether a type stands for tables whose keys the user chooses."""
    return (get_origin(type_) or type_) in (dict, Mapping)


def words(type_: Any, many: bool = False) -> str:
    """Returns a type in words: "an integer", "an array of numbers"."""
    kind, origin, members = kind_of(type_), get_origin(type_), get_args(type_)
    if type_ in _WORDS:
        return _WORDS[type_][many]
    if kind:
        return f"names or tables of a {kind}" if many else f"a {kind}: a name, or a table with a name"
    if origin is Literal:
        return "one of " + ", ".join(str(choice) for choice in members)
    if is_union(type_):
        return " or ".join(words(member, many) for member in members)
    if is_sequence(type_):
        inner = f" of {words(members[0], many=True)}" if members else ""
        length = f" of length {len(members)}" if origin is tuple and ... not in members else ""
        return ("arrays" if many else "an array") + length + inner
    if type_ is Any:
        return "values" if many else "a value"
    return "tables" if many else "a table"


def shown(value: object) -> str:
    """Returns a short form of a value, with its type where that helps."""
    if isinstance(value, bool):
        return f"{str(value).lower()} (a boolean)"
    if isinstance(value, str):
        return f'"{value[:40]}{"..." if len(value) > 40 else ""}" (a string)'
    if isinstance(value, int) and value.bit_length() > 100:
        return f"an integer of {value.bit_length()} bits"
    if isinstance(value, (int, float)):
        return str(value)
    if isinstance(value, Mapping):
        return "a table"
    if isinstance(value, (list, tuple)):
        return f"an array of length {len(value)}"
    return f"a {type(value).__name__}"
