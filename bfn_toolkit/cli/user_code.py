"""Bugs in the parts of users: which part, which line, and what it was given.

Frames of a traceback belong to a user if their module is of a distribution with a plugin that is not one of ours, or
lies outside of all libraries while such a plugin is loaded.
"""

from __future__ import annotations

import dis
import importlib.metadata
import inspect
import sys
import sysconfig
import textwrap
import traceback
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import FrameType
from typing import Any

import attrs

from bfn_toolkit.errors import BFNError, PluginError
from bfn_toolkit.registry.registry import BUILT_IN, Registered, default_registry

OURS = Path(__file__).parents[1]
LIBRARIES = ("site-packages", "dist-packages")


def bug_in_user_code(error: BaseException) -> str | None:
    """Describes an exception that was raised in a part of a user, or below it; None for all others."""
    if error.__traceback__ is None or _is_about_memory(error) or _is_on_purpose(error):
        return None
    try:
        theirs = _Theirs()
    except Exception:  # the registry itself is broken
        return None
    for cause in _causes(error):
        if isinstance(cause, BFNError):
            continue
        frames = list(traceback.walk_tb(cause.__traceback__))
        found = [i for i, (frame, _) in enumerate(frames) if theirs.has(frame)]
        if found:
            if isinstance(error, PluginError):  # it names the part and the problem
                frame, line = frames[found[-1]]
                return f"{error}; raised in {frame.f_code.co_filename}, line {line}, in {frame.f_code.co_name}"
            text = _described(cause, frames, found, theirs)
            return f"{text}; {error}" if isinstance(error, BFNError) else text
    return None


def parts_at_hand(error: BaseException) -> list[str]:
    """The parts of users that our own functions worked with when one of them failed."""
    try:
        theirs = _Theirs()
    except Exception:
        return []
    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
    return sorted({_part(entry) for frame in frames for entry in theirs.within(frame)})


class _Theirs:
    """Tells the frames of users' code from those of the toolkit, its plugins and libraries."""

    def __init__(self) -> None:
        registry = default_registry()
        self.loaded = [entry for entry in registry.loaded if entry.distribution != BUILT_IN]
        self.ours = {_package(plugin.module) for plugin in registry.plugins if plugin.distribution == BUILT_IN}
        self.packages = {_package(plugin.module) for plugin in registry.plugins} - self.ours
        self.packages |= {_package(entry.entry.build.__module__) for entry in self.loaded} - self.ours
        self._standard = sysconfig.get_path("stdlib")
        self._our_folders = {folder for name in self.ours if (folder := _folder_of(name)) is not None}

    def has(self, frame: FrameType) -> bool:
        """Whether a frame runs code of a user."""
        package, path = _package(str(frame.f_globals.get("__name__", ""))), frame.f_code.co_filename
        if package in self.ours or Path(path).is_relative_to(OURS) or path.startswith("<"):
            return False
        if any(Path(path).is_relative_to(folder) for folder in self._our_folders):  # helpers of our plugins
            return package in self.packages
        if package in self.packages:
            return True
        if any(part in LIBRARIES for part in Path(path).parts):
            return bool(self._distributions(package) & {entry.distribution for entry in self.loaded})
        return bool(self.loaded) and not path.startswith(self._standard)

    def part(self, frames: Sequence[FrameType]) -> Registered | None:
        """The part whose code frames run; None if that is not clear."""
        owners = [frame.f_locals.get("self") for frame in frames]
        for owner in owners:
            for entry in self.loaded:
                if isinstance(owner, entry.entry.build):
                    return entry
        packages = {_package(str(frame.f_globals.get("__name__", ""))) for frame in frames}
        near = [entry for entry in self.loaded if _package(entry.module) in packages]
        if any(hasattr(owner, "named_parameters") for owner in owners):  # a module, which a network's builder made
            near = [entry for entry in near if entry.kind == "network"]
        return near[0] if len(near) == 1 else None

    def within(self, frame: FrameType) -> Iterator[Registered]:
        """The parts among the variables of a frame and their attributes."""
        for value in list(frame.f_locals.values()):
            near = [value, *vars(value).values()] if hasattr(value, "__dict__") else [value]
            near += [getattr(value, name, None) for name in getattr(type(value), "__slots__", ())]
            for entry in self.loaded:
                if any(isinstance(part, entry.entry.build) for part in near):
                    yield entry

    @staticmethod
    def _distributions(package: str) -> set[str]:
        names: Mapping[str, Sequence[str]] = importlib.metadata.packages_distributions()
        return {name.lower().replace("_", "-") for name in names.get(package, ())}


def _described(error: BaseException, frames: Sequence[tuple[FrameType, int]], found: list[int], theirs: _Theirs) -> str:
    inner, line = frames[found[-1]]
    entered = max(i for i in found if i - 1 not in found)  # where the toolkit called the user's code
    part = theirs.part([frame for frame, _ in frames[entered:]])
    who = _part(part) if part else f"the plugin module {inner.f_globals.get('__name__')}"
    given = ", ".join(_arguments(frames[entered][0])) or "nothing"
    problem = f"{type(error).__name__}: {error}".rstrip(": ")
    deepest, at = frames[-1]
    path = Path(deepest.f_code.co_filename)
    below = f"; raised in bfn_toolkit/{path.relative_to(OURS)}, line {at}" if path.is_relative_to(OURS) else ""
    return (
        f"{who}: {inner.f_code.co_filename}, line {line}, in {inner.f_code.co_name}: "
        f"{textwrap.shorten(problem, 500)}{below}; {frames[entered][0].f_code.co_name} was given {given}"
    )


def _arguments(frame: FrameType) -> Iterator[str]:
    """The arguments of a function in words, as they are when it fails: "now" marks one that it has replaced."""
    code = frame.f_code
    count = code.co_argcount + code.co_kwonlyargcount
    more = [flag for flag in (inspect.CO_VARARGS, inspect.CO_VARKEYWORDS) if code.co_flags & flag]
    stores = [i.argval for i in dis.get_instructions(code) if i.opname.startswith(("STORE_FAST", "DELETE_FAST"))]
    replaced = {name for names in stores for name in (names if isinstance(names, tuple) else (names,))}
    for i, name in enumerate(code.co_varnames[: count + len(more)]):
        value = frame.f_locals.get(name)
        if name in ("self", "cls") or name not in frame.f_locals or (i >= count and not value):
            continue
        yield f"{name} = {'now ' if name in replaced else ''}{_words(value)}"


def _words(value: Any) -> str:
    """A value in a few words: of tensors, wherever they are, dtype and shape."""
    shape, dtype, cls = getattr(value, "shape", None), getattr(value, "dtype", None), type(value)
    if isinstance(shape, tuple) and dtype is not None:
        return f"{str(dtype).removeprefix('torch.')} {tuple(shape)}"
    if isinstance(value, Mapping):
        return f"{{{', '.join(f'{key}: {_words(inner)}' for key, inner in value.items())}}}"
    if type(value) in (tuple, list):
        return f"({', '.join(map(_words, value))})"
    if hasattr(value, "named_parameters"):  # a module, whose repr is a page
        return f"a {cls.__name__}"
    try:
        if attrs.has(cls):
            fields = {field.name: getattr(value, field.name) for field in attrs.fields(cls) if field.repr}
            text = f"{cls.__name__}({', '.join(f'{name}={_words(inner)}' for name, inner in fields.items())})"
        else:
            text = repr(value)
    except Exception:
        return f"a {cls.__name__}"
    return textwrap.shorten(text, 200)


def _part(entry: Registered) -> str:
    return f"{entry.kind} '{entry.name}' of {entry}"


def _folder_of(package: str) -> Path | None:
    """The folder that holds a package of ours in a checkout; None if it is installed among others."""
    path = getattr(sys.modules.get(package), "__file__", None)
    if path is None or any(part in LIBRARIES for part in Path(path).parts):
        return None
    return Path(path).parents[Path(path).name == "__init__.py"]


def _package(module: str) -> str:
    return module.partition(".")[0]


def _causes(error: BaseException) -> Iterator[BaseException]:
    """The exception, and those that led to it."""
    seen: set[int] = set()
    cause: BaseException | None = error
    while cause is not None and id(cause) not in seen:
        yield cause
        seen.add(id(cause))
        silent = cause.__suppress_context__ or isinstance(cause, BFNError)
        cause = cause.__cause__ or (None if silent else cause.__context__)


def _is_on_purpose(error: BaseException) -> bool:
    """Whether a part raised an error of the toolkit by itself, as about data."""
    *_, (frame, _) = traceback.walk_tb(error.__traceback__)
    return isinstance(error, BFNError) and not Path(frame.f_code.co_filename).is_relative_to(OURS)


def _is_about_memory(error: BaseException) -> bool:
    return isinstance(error, MemoryError) or "allocate memory" in str(error) or "out of memory" in str(error).lower()
