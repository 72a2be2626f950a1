"""Plain values to attrs values, strictly; all mistakes are reported together.

A field whose type has a ``kind`` (:class:`~bfn_toolkit.Family`, :class:`~bfn_toolkit.OutputHead`, ...) holds a *part*:
a table whose ``name`` selects its class in the registry.  There are two silent conversions only: an integer may stand
for a number, and a string may name a part.

The lowest layers of a part's table are the options of the default part of its field and, above them, the metadata of
the dataset.  Where the dataset states metadata for each part of a product, these are the metadata of its family.
"""

from __future__ import annotations

import inspect
import math
import os
import re
import types
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, TypeVar, cast, get_args, get_origin

import attrs

from bfn_toolkit.config.layers import (
    Configuration,
    Mistake,
    Node,
    OptionText,
    Place,
    as_part,
    dotted,
    merged,
    placed,
    presets,
)
from bfn_toolkit.config.schema import (
    ANY_OF,
    NONE,
    default_of,
    fields_of,
    is_mapping,
    is_sequence,
    is_union,
    kind_of,
    shown,
    words,
)
from bfn_toolkit.config.toml_files import Key
from bfn_toolkit.config.unstructure import destructure
from bfn_toolkit.errors import BFNError, ConfigError, PluginError, UnknownPlugin
from bfn_toolkit.registry.registry import Registered, Registry
from bfn_toolkit.validators import not_one_of

T = TypeVar("T")
METADATA = Place("metadata of the dataset")
WRONG: Any = object()  # stands for a value that could not be read


def structure(cls: type[T], configuration: Configuration, registry: Registry, *, complete: bool = False) -> T:
    """Builds an attrs value from a configuration.

    Arguments:
        cls: Class of the value.  A field with the metadata ``kind`` holds a part of that kind; one with the metadata
            ``metadata_from`` takes defaults from the ``metadata`` of the field of that name.
        configuration: The layers above these defaults.
        registry: Registry that resolves the names of parts.
        complete: Whether every option is present, so that the metadata of the dataset are not needed.
    Raises:
        ConfigErrors: All mistakes together.
        PluginError: If a part cannot be loaded, or raises an error that is not about its options.
    """
    reader = _Reader(registry, complete)
    value = reader.read(configuration.tree, cls)
    errors = configuration.errors(reader.mistakes, reader.known)
    if errors:
        raise errors
    return cast(T, value)


def default_config(node: Node, registry: Registry, *, lenient: bool = False) -> Mapping[str, object]:
    """Returns the default configuration of the dataset in a node; {} if it has none, or is wrong.

    Arguments:
        node: The dataset in a configuration.
        registry: Registry that resolves the names of parts.
        lenient: Whether the dataset may lack values and files.  Then it is that of a draft or, if that needs the data,
            the preset with the name of the dataset.
    Raises:
        PluginError: As :func:`structure`.
    """
    reader = _Reader(registry, False, lenient)
    dataset = reader.read(node, ANY_OF["dataset"])
    table = reader.tables.get(node.key)
    if table is None or (dataset is WRONG and not lenient):
        return {}
    try:
        draft = _draft(table.cls, table.values)
        return mapping_of(dataset, "default_config") if dataset is not WRONG else dict(draft.default_config)
    except Exception:
        if not (lenient and (dataset is WRONG or _lacks_files(table.values))):
            raise
        name = registry.name_of("dataset", table.cls)
        return {"preset": name} if name in presets() else {}


def dataset_metadata(node: Node, registry: Registry, *, lenient: bool = False) -> Mapping[str, object]:
    """Returns the metadata of the dataset in a node; {} if they are unknown.

    Arguments are those of :func:`default_config`.

    Raises:
        PluginError: As :func:`structure`.
    """
    dataset = _Reader(registry, False, lenient).read(node, ANY_OF["dataset"])
    return {} if dataset is WRONG else metadata_of(dataset)


def mapping_of(dataset: Any, name: str) -> Mapping[str, object]:
    """Returns a property of a dataset that is a mapping, {} if it has none.

    Raises:
        PluginError: If it cannot be computed, or is not a mapping.
    """
    try:
        # An AttributeError in a property is an error, so the default is not left to getattr.
        value = {} if inspect.getattr_static(dataset, name, None) is None else getattr(dataset, name)
    except BFNError:
        raise
    except Exception as error:
        raise PluginError(f"{type(dataset).__name__}.{name} raised {type(error).__name__}: {error}") from error
    if not isinstance(value, Mapping):
        raise PluginError(f"{type(dataset).__name__}.{name}: expected a mapping, got {shown(value)}")
    return value


def metadata_of(dataset: Any) -> Mapping[str, object]:
    """Returns the metadata of a dataset, with those that follow from others; {} if it has none.

    Raises:
        PluginError: If they cannot be computed, or are not a mapping.
    """
    return _completed(mapping_of(dataset, "metadata"))


def names_of(metadata: Mapping[str, object]) -> set[str]:
    """Returns the names of all metadata, also of those for single parts."""
    parts = metadata.get("parts")
    inner = parts.values() if isinstance(parts, Mapping) else ()
    return set(metadata).union(*(part for part in inner if isinstance(part, Mapping)))


def _completed(metadata: Mapping[str, object]) -> Mapping[str, object]:
    """Adds the resolution of data in bins of [-1, 1], a quarter of a bin, for all data and for each part."""
    bins, parts = metadata.get("bins"), metadata.get("parts")
    more: dict[str, object] = {}
    if isinstance(bins, int) and bins > 0:
        more["sigma_1"] = metadata.get("sigma_1", 0.5 / bins)
    if isinstance(parts, Mapping):
        more["parts"] = {name: _completed(part) if isinstance(part, Mapping) else part for name, part in parts.items()}
    return {**metadata, **more}


@attrs.frozen(eq=False)
class Table:
    """A table of a configuration as it was read.

    Arguments:
        cls: Class whose fields are its keys.
        node: The table, merged with metadata of the dataset and default parts; without the name of the part.
        registered: The part, if it is one.
        values: Values of the keys that are right, before the class converts them.
        built: The value of the table; None if it is wrong or incomplete.
        metadata: Metadata of the dataset for it; None if they are unknown.
    """

    cls: type[Any]
    node: Node
    registered: Registered | None
    metadata: Mapping[str, object] | None
    values: Mapping[str, Any]
    built: Any = None


def tables_of(cls: type[Any], configuration: Configuration, registry: Registry) -> dict[Key, Table]:
    """Returns all tables of a configuration that may lack required values and the files of its dataset.

    Raises:
        ConfigErrors: All other mistakes together.
        PluginError: As :func:`structure`.
    """
    reader = _Reader(registry, False, lenient=True)
    reader.read(configuration.tree, cls)
    errors = configuration.errors(reader.mistakes, reader.known)
    if errors:
        raise errors
    return reader.tables


class _Reader:
    """One pass over a tree, which notes every mistake and continues.

    Arguments:
        registry: Registry that resolves the names of parts.
        complete: Whether every option is present.
        lenient: Whether values and files may be missing; then default parts are read as well.
    """

    def __init__(self, registry: Registry, complete: bool, lenient: bool = False) -> None:
        self.tables: dict[Key, Table] = {}
        self.mistakes: list[Mistake] = []
        self._registry, self._complete, self._lenient = registry, complete, lenient
        self._metadata: Mapping[str, object] | None = {}  # None: unknown, because the dataset is wrong
        self._instead = ""  # advice of the dataset for options that it, or its family, lacks

    @property
    def known(self) -> list[Key]:
        """All possible keys of the tree."""
        return [(*key, name) for key, table in self.tables.items() for name in fields_of(table.cls)]

    def read(self, node: Node, type_: Any) -> Any:
        """Returns a value of the type, or WRONG."""
        if kind_of(type_):
            return self._part(node, type_)
        if type_ in (bool, int, float, str, Path):
            return self._scalar(node, type_)
        if type_ in (Any, object) or isinstance(type_, TypeVar):
            return node.plain()
        if isinstance(type_, type) and attrs.has(type_):
            return self._attrs(node, type_)
        if is_union(type_):
            return self._union(node, type_)
        if get_origin(type_) is Literal:
            return self._literal(node, get_args(type_))
        if is_sequence(type_):
            return self._sequence(node, type_)
        if is_mapping(type_):
            return self._mapping(node, type_)
        return self._wrong(node, f"nothing here, because a configuration cannot hold {type_}")

    def _mistake(self, node: Node, problem: str, *inner: str) -> Any:
        self.mistakes.append(Mistake((*node.key, *inner), node.place, problem))
        return WRONG

    def _wrong(self, node: Node, expected: str) -> Any:
        return self._mistake(node, f"expected {expected}, got {shown(node.parsed().value)}")

    def _scalar(self, node: Node, type_: Any) -> Any:
        value, parsed = node.value, node.parsed().value
        if type_ in (str, Path):
            if isinstance(value, OptionText):  # 5 and "5" are the same string here
                value = parsed if isinstance(parsed, str) else str(value)
            return type_(value) if isinstance(value, (str, type_)) else self._wrong(node, "a string")
        if type_ is float and isinstance(parsed, int) and not isinstance(parsed, bool):
            try:
                return float(parsed)
            except OverflowError:
                return self._wrong(node, "a number below 1.8e308")
        if not isinstance(parsed, type_) or isinstance(parsed, bool) != (type_ is bool):
            quoted = isinstance(parsed, str) and isinstance(OptionText(parsed).parsed(), (bool, int, float))
            hint = f"; write {parsed} without quotes" if quoted else ""
            return self._mistake(node, f"expected {words(type_)}, got {shown(parsed)}{hint}")
        if type_ is float and math.isnan(parsed):
            return self._wrong(node, "a finite number")
        return parsed

    def _literal(self, node: Node, choices: Sequence[object]) -> Any:
        for candidate in (str(node.value), node.plain()) if isinstance(node.value, OptionText) else (node.value,):
            if any(candidate == choice and type(candidate) is type(choice) for choice in choices):
                return candidate
        return self._mistake(node, not_one_of(node.plain(), choices))

    def _union(self, node: Node, type_: Any) -> Any:
        members = [member for member in get_args(type_) if member is not types.NoneType]
        if len(members) < len(get_args(type_)) and (node.value is None or (node.value == NONE and str not in members)):
            return None
        before, failed = self.mistakes, []
        try:
            for member in members:
                self.mistakes = []
                value = self.read(node, member)
                if value is not WRONG:
                    return value
                failed.append(self.mistakes)
        finally:
            self.mistakes = before
        nearest = max(failed, key=_depth)
        if len(members) > 1 and _depth(nearest) <= len(node.key):
            return self._wrong(node, words(type_))
        self.mistakes += nearest
        return WRONG

    def _sequence(self, node: Node, type_: Any) -> Any:
        node, members = node.parsed(), get_args(type_)
        fixed = get_origin(type_) is tuple and ... not in members
        if not isinstance(node.value, (list, tuple)) or (fixed and len(node.value) != len(members)):
            return self._wrong(node, words(type_))
        inner = members if fixed else [members[0] if members else Any] * len(node.value)
        values = [self.read(part, type_) for part, type_ in zip(node.value, inner, strict=True)]
        if any(value is WRONG for value in values):
            return WRONG
        return values if (get_origin(type_) or type_) is list else tuple(values)

    def _mapping(self, node: Node, type_: Any) -> Any:
        if not isinstance(node.value, Mapping):
            return self._wrong(node, "a table")
        inner, around, values = _inner(type_), self._metadata, {}
        by_part = (around or {}).get(str(node.key[-1])) if kind_of(inner) else None
        for key, part in node.value.items():
            if isinstance(by_part, Mapping):
                self._metadata = by_part.get(key, {})
            values[key] = self.read(part, inner)
        self._metadata = around
        return WRONG if any(value is WRONG for value in values.values()) else values

    def _part(self, node: Node, type_: Any) -> Any:
        kind = kind_of(type_)
        assert kind is not None
        table = as_part(node).value if isinstance(node.value, str) else node.value
        if not isinstance(table, Mapping):
            return self._wrong(node, words(type_))
        if "name" not in table:
            return self._mistake(node, f"missing; expected one of {', '.join(self._registry.names(kind))}", "name")
        name = self._scalar(table["name"], str)
        if name is WRONG:
            return WRONG
        try:
            registered = self._registry.get(kind, name)
        except UnknownPlugin as error:
            return self._mistake(table["name"], str(error))
        declared, build = get_origin(type_) or type_, registered.entry.build
        is_class = declared is not ANY_OF[kind] and not getattr(declared, "_is_protocol", False)
        if is_class and not issubclass(build, declared):
            return self._mistake(table["name"], f"expected a {declared.__name__}; '{name}' is a {build.__name__}")
        if kind == "dataset":
            self._instead = getattr(build, "instead", "")
        options = {key: option for key, option in table.items() if key != "name"}
        return self._attrs(attrs.evolve(node, value=options), build, registered)

    def _attrs(self, node: Node, cls: type[Any], registered: Registered | None = None) -> Any:
        if not isinstance(node.value, Mapping):
            return self._wrong(node, "a table")
        before, fields = len(self.mistakes), fields_of(cls)
        node = merged(self._beneath(node, fields), node)
        values: dict[str, Any] = {}
        right: dict[str, Any] = {}
        self.tables[node.key] = table = Table(cls, node, registered, self._metadata, right)
        for key, part in node.value.items():
            if key not in fields:
                self.mistakes.append(Mistake(part.key, part.place, self._unknown(key, registered), tuple(fields)))
        for key, (field, type_) in fields.items():
            around, source = self._metadata, field.metadata.get("metadata_from")
            if source is not None and not self._complete:
                self._metadata = self._metadata_of(values[source], (*node.key, source))
            if key in node.value:
                values[key] = self.read(node.value[key], type_)
            elif field.default is attrs.NOTHING:
                values[key] = WRONG  # reported unless the dataset is wrong: its metadata might have set it
                if (self._metadata is not None or kind_of(type_)) and not self._lenient:
                    self._mistake(node, f"missing; expected {words(type_)}", key)
            self._metadata = around
        right.update((key, value) for key, value in values.items() if value is not WRONG)
        if len(right) == len(values) and len(self.mistakes) == before:
            try:
                built = self._build(node, cls, right, registered)
            except BFNError:
                if self._lenient and _lacks_files(right):
                    return WRONG
                raise
            self.tables[node.key] = attrs.evolve(table, built=None if built is WRONG else built)
            return built
        self.mistakes += self._violations(node, cls, right)
        return WRONG

    def _metadata_of(self, dataset: Any, key: Key) -> Mapping[str, object] | None:
        """Metadata of a dataset; None if it is wrong or, where that is allowed, lacks its files."""
        try:
            return None if dataset is WRONG else metadata_of(dataset)
        except BFNError:
            if self._lenient and _lacks_files(self.tables[key].values):
                return None
            raise

    def _unknown(self, key: str, registered: Registered | None) -> str:
        """Words for a key that a part lacks, and the parts of its kind that have it."""
        if registered is None:
            return "unknown key"
        same = (other for other in self._registry.entries() if other.kind == registered.kind)
        names = sorted(other.name for other in same if key in fields_of(other.entry.build))
        if not names:
            return "unknown key"
        advice = f"; {self._instead}" if self._instead and registered.kind in ("dataset", "family") else ""
        return f"unknown key of {registered.kind} '{registered.name}', though one of {', '.join(names[:3])}{advice}"

    def _beneath(self, node: Node, fields: Mapping[str, tuple[attrs.Attribute[Any], Any]]) -> Node:
        """Layer beneath a table: metadata of the dataset, and default parts."""
        layer = {}
        for key, (field, type_) in fields.items():
            at, kind, default = (*node.key, key), kind_of(type_), default_of(field)
            if self._metadata and key in self._metadata:
                value = self._metadata[key]
                if is_mapping(type_) and kind_of(_inner(type_)) and isinstance(value, Mapping):
                    # The other metadata of a part are for the options that its family has.
                    value = {part: _name_of(told) for part, told in value.items()}
                layer[key] = placed(value, at, METADATA)
            elif kind and attrs.has(type(default)) and (self._metadata or key in node.value or self._lenient):
                try:
                    layer[key] = placed(destructure(default, self._registry, kind=kind, brief=True), at, node.place)
                except BFNError:
                    continue  # it has no name, so nothing can be merged with it
        return Node(node.key, layer, node.place)

    def _build(self, node: Node, cls: type[Any], values: Mapping[str, Any], registered: Registered | None) -> Any:
        try:
            return cls(**values)
        except (ValueError, TypeError) as error:
            if isinstance(error, BFNError) and not isinstance(error, ConfigError):
                raise  # other errors, such as DataError, have their own exit status
            self.mistakes += self._violations(node, cls, values) or [_violation(node, cls, error)]
            return WRONG
        except BFNError:
            raise
        except (Exception, SystemExit) as error:
            if registered is None:
                raise
            what = f"{registered.kind} '{registered.name}' of {registered}"
            raise PluginError(f"{dotted(node.key)}: {what} raised {type(error).__name__}: {error}") from error

    def _violations(self, node: Node, cls: type[Any], values: Mapping[str, Any]) -> list[Mistake]:
        """Runs the validators of all fields, because a constructor stops at the first that fails."""
        fields = {key: field for key, (field, _) in fields_of(cls).items() if key in values}
        draft = _draft(cls, values)  # a validator may look at the other fields
        mistakes = []
        for key, field in fields.items():
            convert: Any = field.converter
            if field.validator is None or isinstance(convert, attrs.Converter):
                continue
            try:
                field.validator(draft, field, convert(values[key]) if convert else values[key])
            except (ValueError, TypeError) as error:
                mistakes.append(_violation(node, cls, error, key))
            except Exception:
                continue  # it read a field that is wrong itself
        return mistakes


def _draft(cls: type[Any], values: Mapping[str, Any]) -> Any:
    """A value that was not constructed; it has the values of its fields, else their defaults, and may lack some."""
    draft = object.__new__(cls)
    for key, (field, _) in fields_of(cls).items():
        value = values.get(key, default_of(field))
        if value is not attrs.NOTHING:
            object.__setattr__(draft, field.name, value)
    return draft


def _lacks_files(values: Mapping[str, Any]) -> bool:
    """Whether a value is the path of something that does not exist."""
    return any(isinstance(value, Path) and not os.path.lexists(value) for value in values.values())


def _violation(node: Node, cls: type[Any], error: Exception, key: str | None = None) -> Mistake:
    """Returns the error of a constructor or validator as a mistake, at the field that it names."""
    text = error.args[0] if error.args and isinstance(error.args[0], str) else str(error)
    text = " ".join(text.split()) or type(error).__name__
    ours, attrs_own = re.match(rf"{cls.__name__}\.(\w+): ", text), re.match(r"'(\w+)' ", text)
    if ours:
        text = text[ours.end() :]
    named = next((found[1] for found in (ours, attrs_own) if found and found[1] in fields_of(cls)), None)
    key = key or named
    if key is None:
        return Mistake(node.key, node.place, text)
    return Mistake((*node.key, key), node.value[key].place if key in node.value else node.place, text)


def _name_of(facts: object) -> object:
    """The name of a component among the metadata of a part, as a table."""
    return {"name": facts["name"]} if isinstance(facts, Mapping) and "name" in facts else {}


def _inner(type_: Any) -> Any:
    """Type of the values of a mapping."""
    return get_args(type_)[1] if len(get_args(type_)) == 2 else Any


def _depth(mistakes: Sequence[Mistake]) -> int:
    """Depth of the first mistake in the value."""
    return min((len(mistake.key) for mistake in mistakes), default=0)
