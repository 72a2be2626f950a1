"""The border of the toolkit: a wrong argument of a call from outside ends in a ConfigError that names it.

Public functions and classes pass here when they are first used as ``bfn_toolkit.NAME``, and classes that derive from
them, such as those of plugins, when they are defined.  The annotations say what is expected.

A call that succeeds costs one more frame.  After one that failed, the first argument that is not what its annotation
says becomes the error.  What a constructor took is compared with the annotations at once, because it would fail later.
Calls that the toolkit itself makes keep their exceptions, which are bugs, of the toolkit or of a plugin.
"""

from __future__ import annotations

import builtins
import collections
import collections.abc
import contextlib
import functools
import inspect
import itertools
import sys
import types
import typing
from collections.abc import Callable, Iterator, Mapping
from enum import Enum
from typing import Annotated, Any, Literal, TypeAlias, TypeVar, Union, get_args, get_origin

import attrs

from bfn_toolkit.errors import BFNError, ConfigError
from bfn_toolkit.validators import shown

T = TypeVar("T")
Test: TypeAlias = Callable[[Any], bool]
LOOKED_AT = 16  # elements of a sequence whose types are compared
_WORDS: dict[Any, str] = {
    int: "an integer",
    float: "a number",
    bool: "True or False",
    str: "a string",
    types.NoneType: "None",
}

_MANY: dict[Any, str] = {int: "integers", float: "numbers", bool: "booleans", str: "strings"}


def opened(value: T) -> T:
    """A public name, with its calls watched: a class itself, another function for a function."""
    if isinstance(value, type):
        _watch_class(value)
    elif inspect.isfunction(value):
        return typing.cast(T, _watched(value, value.__name__))
    return value


def _watch_class(cls: type[Any]) -> None:
    """Watches the constructor and the public methods that a class defines, and those of classes derived from it."""
    if getattr(cls, "_is_protocol", False) or issubclass(cls, (Exception, Enum, tuple)):
        return
    for base in cls.__mro__:  # also private ones of the toolkit
        if base is cls or f"{base.__module__}.".startswith("bfn_toolkit."):
            _watch_members(base)

    def derived(subclass: type[Any], **options: Any) -> None:
        super(cls, subclass).__init_subclass__(**options)
        _watch_class(subclass)

    derived._at_border = True  # type: ignore[attr-defined]
    if not getattr(cls.__init_subclass__, "_at_border", False):
        cls.__init_subclass__ = classmethod(derived)  # type: ignore[assignment, arg-type]


def _watch_members(cls: type[Any]) -> None:
    if getattr(cls, "_is_protocol", False):
        return
    for name, member in list(vars(cls).items()):
        place = f"{cls.__name__}.{name}"
        function = getattr(member, "__func__", member)
        if hasattr(function, "_at_border"):
            _move(inspect.unwrap(function), cls)
            continue
        if name == "__init__" and inspect.isfunction(member):
            setattr(cls, name, _watched_constructor(member))
        elif name.startswith("_") or name == "forward":  # which compilers trace
            continue
        elif inspect.isfunction(member):
            setattr(cls, name, _watched(member, place))
        elif isinstance(member, (classmethod, staticmethod)):
            setattr(cls, name, type(member)(_watched(function, place)))


def _move(function: Any, cls: type[Any]) -> None:
    """Gives a function the class that ``super()`` means: attrs makes a class twice, the second from the first."""
    for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
        if name == "__class__" and cell.cell_contents.__qualname__ == cls.__qualname__:
            cell.cell_contents = cls


def _watched(function: Callable[..., T], place: str) -> Callable[..., T]:
    begins_later = inspect.isgeneratorfunction(inspect.unwrap(function))

    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> T:
        if begins_later and _called_from_outside(sys._getframe(1)):
            _compare(inspect.signature(function).bind(*args, **kwargs).arguments, _annotations(function), place)
        try:
            return function(*args, **kwargs)
        except BFNError:
            raise
        except Exception as error:
            _explain(error, function, place, args, kwargs)
            raise

    call._at_border = True  # type: ignore[attr-defined]
    return call


def _watched_constructor(function: Callable[..., None]) -> Callable[..., None]:
    @functools.wraps(function)
    def init(self: Any, *args: Any, **kwargs: Any) -> None:
        if _is_ours(sys._getframe(1)):
            return function(self, *args, **kwargs)
        args = tuple([_plain(value) for value in args])
        if kwargs:
            kwargs = {name: _plain(value) for name, value in kwargs.items()}
        try:
            function(self, *args, **kwargs)
        except BFNError:
            raise
        except Exception as error:
            _explain(error, function, type(self).__name__, (self, *args), kwargs)
            raise
        cls: Any = type(self)
        if cls.__init__ is not init or not _called_from_outside(sys._getframe(1)):  # a derived class is not complete
            return None
        if attrs.has(cls) and any(isinstance(value, str) for value in (*args, *kwargs.values())):
            # A converter may have taken a text for a sequence of letters.
            _compare(inspect.signature(function).bind(self, *args, **kwargs).arguments, _accepted(cls), cls.__name__)
        for name, fits in _fields(cls) if attrs.has(cls) else ():
            if not fits(getattr(self, name)):
                raise _wrong(cls.__name__, name, getattr(self, name), _annotations(cls)[name])
        if not attrs.has(cls):
            arguments = inspect.signature(function).bind(self, *args, **kwargs).arguments
            _compare(arguments, _annotations(function), cls.__name__)
        return None

    init._at_border = True  # type: ignore[attr-defined]
    return init


def _plain(value: Any) -> Any:
    """A number of numpy as one of Python, also in tuples and lists."""
    if type(value) in (tuple, list) and any(type(part).__module__ == "numpy" for part in value):
        return type(value)(map(_plain, value))
    return value.item() if type(value).__module__ == "numpy" and getattr(value, "shape", None) == () else value


def _is_ours(frame: types.FrameType | None) -> bool:
    return frame is not None and f"{frame.f_globals.get('__name__')}.".startswith("bfn_toolkit.")


def _called_from_outside(frame: types.FrameType | None) -> bool:
    while frame is not None:
        if _is_ours(frame):
            return False
        frame = frame.f_back
    return True


def _explain(error: Exception, function: Callable[..., Any], place: str, args: Any, kwargs: Mapping[str, Any]) -> None:
    """Raises a ConfigError in place of an error of a call from outside, if an argument is not what is expected."""
    if not _called_from_outside(sys._getframe(2)):
        return
    try:
        arguments = inspect.signature(function).bind(*args, **kwargs).arguments
    except TypeError:  # Python's own words about a missing or unknown argument are clear
        return
    owner = next(iter(arguments.values()), None)
    made: Any = type(owner) if function.__name__ == "__init__" else None
    hints = _accepted(made) if made is not None and attrs.has(made) else _annotations(function)
    for base in type(owner).__mro__[1:]:  # an annotation that says Any leaves the word to that of a base class
        overridden = vars(base).get(function.__name__)
        if made is None and inspect.isfunction(overridden):
            hints = {**_annotations(overridden), **{name: hint for name, hint in hints.items() if hint is not Any}}
    _compare(arguments, hints, place, error)
    if made is not None and isinstance(error, (ValueError, TypeError)):  # the words of a validator
        raise ConfigError(f"{place}: {error}") from error


def _compare(values: Mapping[str, Any], hints: Mapping[str, Any], place: str, cause: Exception | None = None) -> None:
    """Raises a ConfigError for the first value that is not what its annotation says."""
    for name, value in values.items():
        if name in hints and not _test(hints[name])(value):
            raise _wrong(place, name, value, hints[name]) from cause


def _wrong(place: str, name: str, value: Any, hint: Any) -> ConfigError:
    return ConfigError(f"{place}: {name}: expected {_words(hint)}, got {shown(value)}")


@functools.cache
def _accepted(cls: Any) -> dict[str, Any]:
    """Types of what may be passed for the fields of an attrs class: of the arguments of its converters, if they say."""
    found = {}
    for field in attrs.fields(cls):
        hint, converter = _annotations(cls).get(field.name, Any), field.converter
        taken = next(iter(_annotations(converter).values()), Any) if inspect.isfunction(converter) else Any
        if converter is not None:
            hint = hint | collections.abc.Sequence if taken is Any and hint is not Any else taken
        found[field.alias or field.name] = hint
    return found


@functools.cache
def _annotations(owner: Any) -> dict[str, Any]:
    """Types of the arguments of a function, or of the fields of an attrs class; those that cannot be found are Any."""
    if isinstance(owner, type):
        classes = [cls for cls in reversed(owner.__mro__) if attrs.has(cls)]
        found: dict[str, Any] = {}
        for cls in classes:
            found |= dict(_resolved(vars(cls).get("__annotations__", {}), vars(sys.modules[cls.__module__])))
        return {field.name: found.get(field.name, Any) for field in attrs.fields(owner) if field.init}
    function = inspect.unwrap(owner)
    hints = dict(_resolved(getattr(function, "__annotations__", {}), function.__globals__))
    for parameter in inspect.signature(function).parameters.values():
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            hints.pop(parameter.name, None)
    hints.pop("return", None)
    return hints


class _Public(dict[str, Any]):
    """The public names, for what a module imports for type checkers alone."""

    def __missing__(self, name: str) -> Any:
        try:
            return getattr(sys.modules["bfn_toolkit"], name)
        except AttributeError:
            raise KeyError(name) from None


def _resolved(annotations: Mapping[str, Any], names: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    scope = collections.ChainMap(names, vars(builtins), _Public())
    for name, hint in annotations.items():
        with contextlib.suppress(Exception):
            holder = types.SimpleNamespace(__annotations__={name: hint})
            yield from typing.get_type_hints(holder, {}, scope, include_extras=True).items()


@functools.cache
def _fields(cls: Any) -> tuple[tuple[str, Test], ...]:
    """Names and tests of the fields of an attrs class; not of those that a derived class computes."""
    stored = [name for name in _annotations(cls) if not isinstance(getattr(cls, name, None), property)]
    return tuple((name, _test(_annotations(cls)[name])) for name in stored)


def _test(hint: Any) -> Test:
    """Test of whether a value is of a type; always true where that cannot be told."""
    origin, members = get_origin(hint), get_args(hint)
    tests = [_test(member) for member in members if not isinstance(member, list)] if origin is not Literal else []
    if hint in (Any, object) or isinstance(hint, TypeVar):
        return lambda value: True
    if hint is None:
        return lambda value: value is None
    if origin in (Union, types.UnionType):
        return lambda value: any(test(value) for test in tests)
    if origin is Literal:
        return lambda value: any(type(value) is type(choice) and value == choice for choice in members)
    if origin is Annotated:  # the classes behind Any
        return lambda value: (
            isinstance(value, hint.__metadata__)
            and not isinstance(value, str)
            and not (isinstance(value, Mapping) and not value)
        )
    if origin is collections.abc.Callable or hint is collections.abc.Callable:
        return callable
    if hint in (typing.IO, typing.BinaryIO, typing.TextIO):  # which no stream derives from
        return lambda value: hasattr(value, "read") or hasattr(value, "write")
    if hint in (int, float):
        kinds = (int,) if hint is int else (int, float)
        return lambda value: (isinstance(value, kinds) and not isinstance(value, bool)) or _is_number(value)
    cls = origin or hint
    if not isinstance(cls, type):
        return lambda value: True
    if getattr(cls, "_is_protocol", False):
        required = getattr(cls, "__protocol_attrs__", None) or typing._get_protocol_attrs(cls)  # type: ignore[attr-defined]
        return lambda value: all(_has(value, name) for name in required)
    if issubclass(cls, collections.abc.Mapping):
        return lambda value: (
            isinstance(value, cls)
            and (
                len(tests) < 2
                or all(tests[0](key) and tests[1](part) for key, part in itertools.islice(value.items(), LOOKED_AT))
            )
        )
    if issubclass(cls, collections.abc.Iterable) and cls is not str:
        fixed = cls is tuple and bool(members) and members[-1] is not ...
        return lambda value: isinstance(value, cls) and not isinstance(value, str) and _parts_fit(value, tests, fixed)
    return lambda value: isinstance(value, cls)


def _has(value: Any, name: str) -> bool:
    """Whether a value has an attribute, which is not computed."""
    return hasattr(type(value), name) or name in getattr(value, "__dict__", ())


def _parts_fit(values: Any, tests: list[Test], fixed: bool) -> bool:
    if not tests:
        return True
    if hasattr(values, "tolist") and str(getattr(values, "device", "cpu")) == "cpu":  # others would have to wait
        values = values[:LOOKED_AT].tolist() if values.ndim else values.tolist()
    if not isinstance(values, (tuple, list, frozenset, set)):
        return True
    if fixed:
        return len(values) == len(tests) and all(test(value) for test, value in zip(tests, values, strict=True))
    return all(map(tests[0], itertools.islice(values, LOOKED_AT)))


def _is_number(value: Any) -> bool:
    return type(value).__module__ == "numpy" and getattr(value, "shape", None) == ()


def _words(hint: Any) -> str:
    """A type in words."""
    origin, members = get_origin(hint), get_args(hint)
    if hint in _WORDS:
        return _WORDS[hint]
    if origin is Annotated:
        return " or ".join(map(_words, hint.__metadata__))
    if origin is Literal:
        return f"one of {', '.join(map(repr, members))}"
    if origin in (Union, types.UnionType):
        return " or ".join(_words(member) for member in members)
    if origin is collections.abc.Callable or hint is collections.abc.Callable:
        return "a function"
    name = {"Iterable": "sequence", "Sequence": "sequence"}.get(
        found := getattr(origin or hint, "__name__", "value"), found
    )
    inner = [_MANY.get(member, getattr(member, "__name__", "")) for member in members if member is not ...]
    of = f" of {' to '.join(inner)}" if all(inner) and inner and issubclass(origin, collections.abc.Iterable) else ""
    return f"{'an' if name[0] in 'AEIOUaeiou' else 'a'} {name}{of}"
