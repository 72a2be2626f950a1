"""Finds the subjects of laws by a registered name, a module, or a file."""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import attrs

from bfn_toolkit.errors import ConfigError, DataError, PluginError, UnknownPlugin, did_you_mean
from bfn_toolkit.registry.hookspecs import KINDS
from bfn_toolkit.registry.registry import Registered, Registry
from bfn_toolkit.testing.laws import LAWS


def find_subjects(name: str, registry: Registry) -> list[Any]:
    """Finds the instances that a name stands for.

    Arguments:
        name: A registered name (for its examples), ``module:attribute``, ``path/file.py:attribute``, or just the module
            or file of a plugin (for the examples of all its entries).  The attribute is an instance, or a class or
            factory that needs no arguments.
        registry: Registry that resolves the names.
    Raises:
        ConfigError: If nothing has this name.
        PluginError: If the module cannot be imported, or an instance cannot be built.
    """
    registered = _registered(name, registry)
    if registered:
        return _examples(registered)
    place, colon, attribute = name.rpartition(":")
    if not colon:
        place, attribute = name, ""
    if not place.endswith(".py") and _missing(place):
        known = {item.name for item in registry.entries()}
        raise ConfigError(
            f"'{name}' is neither a registered name nor a module.{did_you_mean(name, known)} "
            "Write a name that bfn plugins lists, module:attribute or path/file.py:attribute"
        )
    module = _import(place)
    if attribute:
        return [_instance(module, attribute, name)]
    own = Registry()
    own.register(module, name=place)
    return _examples(own.entries())


def _registered(name: str, registry: Registry) -> list[Registered]:
    entries = []
    for kind in KINDS:
        try:
            entries.append(registry.get(kind, name))
        except UnknownPlugin:
            continue
    return entries


def _examples(entries: Sequence[Registered]) -> list[Any]:
    kinds = {law.kind for law in LAWS.values()}
    with_laws = [item for item in entries if item.kind in kinds]
    if not with_laws:
        found = ", ".join(f"{item.kind} {item.name}" for item in entries) or "nothing"
        raise ConfigError(f"there are laws for {', '.join(sorted(kinds))}; found {found}")
    ready = [item for item in with_laws if item.entry.examples or not _needs_arguments(item.entry.build)]
    return [
        example
        for item in ready or with_laws  # a data set that needs a file of the user's has neither
        for example in item.entry.examples or (_make(item.entry.build, item.name),)
    ]


def _needs_arguments(build: type[Any]) -> bool:
    """Whether a class cannot be built without arguments."""
    try:
        inspect.signature(build).bind()
    except TypeError:
        return True
    return False


def _make(build: Any, name: str) -> Any:
    try:
        return build()
    except (ConfigError, DataError):
        raise
    except Exception as error:
        raise PluginError(
            f"{name} cannot be built without arguments: {type(error).__name__}: {error}; name an instance"
        ) from error


@contextmanager
def _working_directory_on_path() -> Iterator[None]:
    """Scope in which modules in the working directory can be imported, but not in the place of others."""
    here = str(Path.cwd())
    sys.path.append(here)
    importlib.invalidate_caches()
    try:
        yield
    finally:
        del sys.path[len(sys.path) - 1 - sys.path[::-1].index(here)]


@_working_directory_on_path()
def _missing(place: str) -> bool:
    try:
        return importlib.util.find_spec(place) is None
    except (ImportError, ValueError):
        return True


@_working_directory_on_path()
def _import(place: str) -> ModuleType:
    try:
        if not place.endswith(".py"):
            return importlib.import_module(place)
        path = Path(place)
        if not path.is_file():
            raise ConfigError(f"there is no file {path}")
        spec = importlib.util.spec_from_file_location(path.stem, path)
        assert spec is not None and spec.loader is not None  # noqa: PT018 - a .py file has both
        module = importlib.util.module_from_spec(spec)
        sys.modules[path.stem] = module  # pickle and repr look for it there
        with _no_bytecode():
            spec.loader.exec_module(module)
        return module
    except ConfigError:
        raise
    except BaseException as error:
        if isinstance(error, KeyboardInterrupt):
            raise
        raise PluginError(f"{place} cannot be imported: {type(error).__name__}: {error}") from error


@contextmanager
def _no_bytecode() -> Iterator[None]:
    """Scope without bytecode files, so that checking a file leaves no folder beside it."""
    before, sys.dont_write_bytecode = sys.dont_write_bytecode, True
    try:
        yield
    finally:
        sys.dont_write_bytecode = before


def _instance(module: ModuleType, attribute: str, name: str) -> Any:
    if not hasattr(module, attribute):
        raise ConfigError(f"{module.__name__} has no '{attribute}'.{did_you_mean(attribute, vars(module))}")
    value = getattr(module, attribute)
    return value if attrs.has(type(value)) or not callable(value) else _make(value, name)
