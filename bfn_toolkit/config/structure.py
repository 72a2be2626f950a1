"""Plain values to attrs values: strict, and with all mistakes at once.

A field whose type has a ``kind`` (:class:`~bfn_toolkit.Family`, :class:`~bfn_toolkit.OutputHead`, ...) holds a *part*:
a table whose ``name`` says which class, through the registry.  Nothing is converted silently: an integer may stand for
a number, a string may name a part, and that is all.
"""

from __future__ import annotations

import math
import re
import types
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, TypeVar, cast, get_args, get_origin

import attrs
import cattrs

from bfn_toolkit.config.layers import Configuration, Key, Mistake, OptionText, dotted
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
from bfn_toolkit.config.validators import not_one_of
from bfn_toolkit.errors import BFNError, ConfigError, PluginError, UnknownPlugin
from bfn_toolkit.registry.registry import Registered, Registry

T = TypeVar("T")


def structure(cls: type[T], configuration: Configuration, registry: Registry, *, complete: bool = False) -> T:
    """Builds an attrs value from a configuration.

    Arguments:
        cls: Its class.  A field with the metadata ``kind`` holds a part of that kind; one with the metadata
            ``metadata_from`` takes what its configuration leaves out from the ``metadata`` of the field of that name.
        configuration: Where the values are, and where they came from.
        registry: Who knows the names of parts.
        complete: Whether nothing is left out, so that no metadata are asked for.
    Raises:
        ConfigErrors: All mistakes at once.
        PluginError: If a part cannot be loaded, or raises what no configuration can cause.
    """
    reader = _Reader(registry, complete)
    mistakes: Sequence[Mistake] = ()
    value = None
    try:
        value = reader.structure(configuration.tree, cls)
    except _Mistakes as found:
        mistakes = found.mistakes
    errors = configuration.errors(mistakes, reader.known)
    if errors:
        raise errors
    return cast(T, value)


def metadata_of(dataset: Any) -> Mapping[str, object]:
    """Returns what a dataset says about itself, if anything.

    Raises:
        PluginError: If it fails to.
    """
    try:
        metadata = getattr(dataset, "metadata", {})
    except BFNError:
        raise
    except Exception as error:
        raise PluginError(f"{type(dataset).__name__}.metadata raised {type(error).__name__}: {error}") from error
    if not isinstance(metadata, Mapping):
        raise PluginError(f"{type(dataset).__name__}.metadata: expected a mapping, got {shown(metadata)}")
    return metadata


class _Mistakes(Exception):  # noqa: N818 - it holds several
    def __init__(self, mistakes: Sequence[Mistake]) -> None:
        super().__init__(mistakes)
        self.mistakes = tuple(mistakes)


class _Reader:
    """One pass over a tree: cattrs chooses the hook for each type, and the hooks are strict."""

    def __init__(self, registry: Registry, complete: bool) -> None:
        self.known: list[Key] = []
        self._registry, self._complete = registry, complete
        self._key: Key = ()
        self._metadata: Mapping[str, object] | None = {}  # None: not known, because their dataset is wrong
        self._converter = cattrs.Converter(detailed_validation=False)
        scalars: Mapping[type, Callable[[Any, Any], Any]] = {
            bool: self._bool,
            int: self._int,
            float: self._float,
            str: self._str,
            Path: self._path,
        }
        for type_, hook in scalars.items():
            self._converter.register_structure_hook(type_, hook)
        forms: Mapping[Callable[[Any], bool], Callable[[Any, Any], Any]] = {
            lambda t: t is Any or t is object or isinstance(t, TypeVar): _untyped,
            lambda t: get_origin(t) is Literal: self._literal,
            is_union: self._union,
            is_sequence: self._sequence,
            is_mapping: self._mapping,
            lambda t: isinstance(t, type) and attrs.has(t): self._attrs,
            lambda t: kind_of(t) is not None: self._part,
        }
        for is_form, hook in forms.items():
            self._converter.register_structure_hook_func(is_form, hook)

    def structure(self, value: Any, type_: Any) -> Any:
        try:
            return self._converter.structure(value, type_)
        except (_Mistakes, BFNError):
            raise
        except cattrs.StructureHandlerNotFoundError:
            raise self._wrong(f"nothing here, because a configuration cannot hold {type_}", value) from None
        except (ValueError, TypeError) as error:  # from a hook of cattrs' own
            raise self._mistake(_text(error)) from error

    @contextmanager
    def _at(self, part: str | int) -> Iterator[None]:
        before, self._key = self._key, (*self._key, part)
        try:
            yield
        finally:
            self._key = before

    def _mistake(self, problem: str) -> _Mistakes:
        return _Mistakes([Mistake(self._key, problem)])

    def _wrong(self, expected: str, value: object) -> _Mistakes:
        return self._mistake(f"expected {expected}, got {shown(value)}")

    def _wrong_scalar(self, expected: str, value: object) -> _Mistakes:
        quoted = isinstance(value, str) and isinstance(OptionText(value).parsed(), (bool, int, float))
        return self._mistake(
            f"expected {expected}, got {shown(value)}" + (f"; write {value} without quotes" if quoted else "")
        )

    def _bool(self, value: Any, _: Any) -> bool:
        value = _parsed(value)
        if not isinstance(value, bool):
            raise self._wrong_scalar("true or false", value)
        return value

    def _int(self, value: Any, _: Any) -> int:
        value = _parsed(value)
        if isinstance(value, bool) or not isinstance(value, int):
            raise self._wrong_scalar("an integer", value)
        return value

    def _float(self, value: Any, _: Any) -> float:
        value = _parsed(value)
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            raise self._wrong_scalar("a number", value)
        if isinstance(value, float) and math.isnan(value):
            raise self._wrong("a finite number", value)
        try:
            return float(value)
        except OverflowError:
            raise self._wrong("a number below 1.8e308", value) from None

    def _str(self, value: Any, _: Any) -> str:
        if isinstance(value, OptionText):  # 5 is a string here, and "5" without its quotes too
            parsed = value.parsed()
            return parsed if isinstance(parsed, str) else str(value)
        if not isinstance(value, str):
            raise self._wrong("a string", value)
        return value

    def _path(self, value: Any, type_: Any) -> Path:
        return value if isinstance(value, Path) else Path(self._str(value, type_))

    def _literal(self, value: Any, type_: Any) -> Any:
        choices = get_args(type_)
        for candidate in (str(value), value.parsed()) if isinstance(value, OptionText) else (value,):
            if any(candidate == choice and type(candidate) is type(choice) for choice in choices):
                return candidate
        raise self._mistake(not_one_of(_parsed(value), choices))

    def _union(self, value: Any, type_: Any) -> Any:
        members = [member for member in get_args(type_) if member is not types.NoneType]
        if len(members) < len(get_args(type_)) and (value is None or (value == NONE and str not in members)):
            return None
        failed = []
        for member in members:
            try:
                return self.structure(value, member)
            except _Mistakes as error:
                failed.append(error)
        nearest = max(failed, key=_depth)
        if len(members) == 1 or _depth(nearest) > len(self._key):
            raise nearest
        raise self._wrong(words(type_), _parsed(value))

    def _sequence(self, value: Any, type_: Any) -> Any:
        value, members = _parsed(value), get_args(type_)
        fixed = get_origin(type_) is tuple and ... not in members
        if not isinstance(value, (list, tuple)) or (fixed and len(value) != len(members)):
            raise self._wrong(words(type_), value)
        inner = members if fixed else [members[0] if members else Any] * len(value)
        parts = self._each(zip(range(len(value)), value, inner, strict=True))
        return parts if (get_origin(type_) or type_) is list else tuple(parts)

    def _mapping(self, value: Any, type_: Any) -> Any:
        value, members = _parsed(value), get_args(type_)
        if not isinstance(value, Mapping):
            raise self._wrong("a table", value)
        inner = members[1] if len(members) == 2 else Any
        return dict(zip(value, self._each((name, part, inner) for name, part in value.items()), strict=True))

    def _each(self, parts: Iterable[tuple[str | int, Any, Any]]) -> list[Any]:
        values: list[Any] = []
        mistakes: list[Mistake] = []
        for name, value, type_ in parts:
            try:
                with self._at(name):
                    values.append(self.structure(value, type_))
            except _Mistakes as error:
                mistakes += error.mistakes
        if mistakes:
            raise _Mistakes(mistakes)
        return values

    def _part(self, value: Any, type_: Any) -> Any:
        kind = kind_of(type_)
        assert kind is not None
        table = {"name": value} if isinstance(value, str) else value
        if not isinstance(table, Mapping):
            raise self._wrong(words(type_), value)
        with self._at("name"):
            if "name" not in table:
                raise self._mistake(f"missing; expected one of {', '.join(self._registry.names(kind))}")
            name = self._str(table["name"], str)
            try:
                registered = self._registry.get(kind, name)
            except UnknownPlugin as error:
                raise self._mistake(str(error)) from error
            declared, build = get_origin(type_) or type_, registered.entry.build
            is_class = declared is not ANY_OF[kind] and not getattr(declared, "_is_protocol", False)
            if is_class and not issubclass(build, declared):
                raise self._mistake(f"expected a {declared.__name__}; '{name}' is a {build.__name__}")
        return self._attrs({key: option for key, option in table.items() if key != "name"}, build, registered)

    def _attrs(self, table: Any, cls: type[Any], registered: Registered | None = None) -> Any:
        table = _parsed(table)
        if not isinstance(table, Mapping):
            raise self._wrong("a table", table)
        fields = fields_of(cls)
        self.known += [(*self._key, key) for key in fields]
        mistakes = [Mistake((*self._key, key), "unknown key", tuple(fields)) for key in table if key not in fields]
        values: dict[str, Any] = {}
        whole = not mistakes
        for key, (field, type_) in fields.items():
            try:
                with self._at(key), self._facts_for(field, values):
                    if key in table:
                        below = (self._metadata or {}).get(key, self._default_table(field, type_))
                        value = self.structure(_beneath(below, table[key]), type_)
                    else:
                        value = self._left_out(key, field, type_)
                if value is not attrs.NOTHING:
                    values[key] = value
            except _Mistakes as error:
                whole = False
                mistakes += error.mistakes
        if whole:
            return self._build(cls, values, registered)
        raise _Mistakes([*mistakes, *self._violations(cls, values)])

    def _default_table(self, field: attrs.Attribute[Any], type_: Any) -> Mapping[str, Any] | None:
        """Name of the part that is a field's default, and what it has that its class has not: options lie above it."""
        kind, default = kind_of(type_), default_of(field)
        if kind is None or not attrs.has(type(default)):
            return None
        try:
            name = self._registry.name_of(kind, type(default))
        except BFNError:
            return None
        options = {key: (getattr(default, f.name), default_of(f)) for key, (f, _) in fields_of(type(default)).items()}
        return {"name": name, **{key: value for key, (value, usual) in options.items() if value != usual}}

    def _left_out(self, key: str, field: attrs.Attribute[Any], type_: Any) -> Any:
        """What stands for an option that is not there: a fact, or the default (NOTHING: the class knows it)."""
        if self._metadata and key in self._metadata:
            return self._fact(key, type_)
        if field.default is attrs.NOTHING:
            if self._metadata is None and not kind_of(type_):
                raise _Mistakes([])  # the data set, which is wrong, might have said it
            raise self._mistake(f"missing; expected {words(type_)}")
        if self._metadata and kind_of(type_):
            default = default_of(field)
            return self._informed(default) if attrs.has(type(default)) else attrs.NOTHING
        return attrs.NOTHING

    def _build(self, cls: type[Any], values: Mapping[str, Any], registered: Registered | None) -> Any:
        try:
            return cls(**values)
        except (ValueError, TypeError) as error:
            if isinstance(error, BFNError) and not isinstance(error, ConfigError):
                raise  # a DataError, say, has an exit status of its own
            raise _Mistakes(self._violations(cls, values) or [self._violation(cls, error)]) from error
        except BFNError:
            raise
        except (Exception, SystemExit) as error:
            if registered is None:
                raise
            what = f"{registered.kind} '{registered.name}' of {registered}"
            raise PluginError(f"{dotted(self._key)}: {what} raised {type(error).__name__}: {error}") from error

    def _violations(self, cls: type[Any], values: Mapping[str, Any]) -> list[Mistake]:
        """What the validator of each field finds, because a constructor stops at the first."""
        fields = {key: field for key, (field, _) in fields_of(cls).items() if key in values}
        draft = object.__new__(cls)  # a validator may look at the other fields
        for key, field in fields.items():
            object.__setattr__(draft, field.name, values[key])
        mistakes = []
        for key, field in fields.items():
            convert: Any = field.converter
            if field.validator is None or isinstance(convert, attrs.Converter):
                continue
            try:
                field.validator(draft, field, convert(values[key]) if convert else values[key])
            except (ValueError, TypeError) as error:
                mistakes.append(Mistake((*self._key, key), _text(error)))
            except Exception:
                continue  # it looked at a field that is wrong itself
        return mistakes

    def _violation(self, cls: type[Any], error: Exception) -> Mistake:
        text = _text(error)
        named = re.match(r"'(\w+)'", text)  # as the validators of attrs begin
        return Mistake((*self._key, named[1]) if named and named[1] in fields_of(cls) else self._key, text)

    @contextmanager
    def _facts_for(self, field: attrs.Attribute[Any], values: Mapping[str, Any]) -> Iterator[None]:
        """Lets a field, and all inside it, know the metadata of another field."""
        before, source = self._metadata, field.metadata.get("metadata_from")
        if source is not None and not self._complete:
            self._metadata = metadata_of(values[source]) if source in values else None
        try:
            yield
        finally:
            self._metadata = before

    def _fact(self, key: str, type_: Any) -> Any:
        assert self._metadata is not None
        try:
            return self.structure(self._metadata[key], type_)
        except _Mistakes as error:
            told = [attrs.evolve(m, problem=f"{m.problem} (from the metadata of the dataset)") for m in error.mistakes]
            raise _Mistakes(told) from error

    def _informed(self, part: Any) -> Any:
        """A part that is a default, with metadata where it has defaults itself."""
        assert self._metadata is not None
        values = {}
        for key, (field, type_) in fields_of(type(part)).items():
            value = getattr(part, field.name)
            if key in self._metadata and value == default_of(field):
                value = self._fact(key, type_)
            values[key] = self._informed(value) if attrs.has(type(value)) else value
        return self._build(type(part), values, None)


def _beneath(fact: object, given: object) -> object:
    """What is given, above a fact where both are tables; another name of a part leaves nothing of the fact."""
    if not isinstance(fact, Mapping) or not isinstance(given, Mapping):
        return given
    if "name" in given and given["name"] != fact.get("name"):
        return given
    return {**fact, **{key: _beneath(fact.get(key), value) for key, value in given.items()}}


def _depth(error: _Mistakes) -> int:
    """How far into the value the first mistake was."""
    return min((len(mistake.key) for mistake in error.mistakes), default=0)


def _parsed(value: Any) -> Any:
    return value.parsed() if isinstance(value, OptionText) else value


def _untyped(value: Any, _: Any) -> Any:
    """A value whose field has no type: options are read as TOML."""
    return {key: _untyped(part, _) for key, part in value.items()} if isinstance(value, Mapping) else _parsed(value)


def _text(error: Exception) -> str:
    text = error.args[0] if error.args and isinstance(error.args[0], str) else str(error)
    return " ".join(text.split()) or type(error).__name__
