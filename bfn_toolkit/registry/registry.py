"""The registry: loads entry points, resolves names, reports failures with their reasons.

One plugin is one entry point in the group ``bfn_toolkit``, whose value is a module.  Each is loaded separately,
with its own plugin manager, when a name first needs it; one that fails is recorded, and the others still load.

A plain name is looked up in these places; the first one that has it wins:

1. the built-ins (their names are reserved; the entry point of the same name before the others);
2. the entry points of the same name, and plugins registered by this process;
3. all other entry points.

It is an error if two distributions have the name in one place.  ``distribution:name`` searches one distribution only.
"""

from __future__ import annotations

import importlib.metadata
import inspect
import os
import re
import sys
import textwrap
import threading
import traceback
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext, redirect_stdout, suppress
from functools import cache
from typing import Any

import attrs
import pluggy

from bfn_toolkit.errors import BFNError, BFNWarning, ConfigError, PluginError, UnknownPlugin, did_you_mean
from bfn_toolkit.registry import hookspecs
from bfn_toolkit.registry.global_state import all_states, watched
from bfn_toolkit.registry.hookspecs import HOOK_API, KINDS, PROJECT, Entry

BUILT_IN = "bfn-toolkit"
THIS_PROCESS = "(this process)"
DISABLE = "BFN_DISABLE_PLUGINS"
SLOW = 10.0  # seconds of an import after which it is named


@attrs.frozen
class Plugin:
    """An entry point that is not loaded yet, as the metadata of its distribution describe it."""

    distribution: str
    version: str
    entry_point: str
    module: str
    load: Callable[[], object] = attrs.field(repr=False, eq=False)

    def __str__(self) -> str:
        return _owner(self.distribution, self.version, self.entry_point)


@attrs.frozen
class Registered:
    """An entry and its provider."""

    entry: Entry
    kind: str
    distribution: str
    version: str
    entry_point: str
    module: str

    def __str__(self) -> str:
        return _owner(self.distribution, self.version, self.entry_point)

    @property
    def name(self) -> str:
        """Plain name."""
        return self.entry.name

    @property
    def qualified_name(self) -> str:
        """Name that means this entry, whatever else is installed."""
        return f"{self.distribution}:{self.entry.name}"


@attrs.frozen
class Failure:
    """A plugin that could not be loaded."""

    distribution: str
    version: str
    entry_point: str
    reason: str
    traceback: str = attrs.field(repr=False)


class Registry:
    """All installed components, by kind and name.

    Arguments:
        plugins: The plugins, in the order of the look-up.
        disabled: Plugins that were left out.
    """

    def __init__(self, plugins: Iterable[Plugin] = (), disabled: Iterable[Plugin] = ()) -> None:
        self.plugins = list(plugins)
        self.disabled = list(disabled)
        self._loaded: dict[Plugin, tuple[Registered, ...]] = {}
        self._failures: dict[Plugin, Failure] = {}

    @classmethod
    def from_entry_points(cls, disable: Iterable[str] | None = None) -> Registry:
        """Finds the plugins of all installed distributions without importing them.

        Arguments:
            disable: Plugins to leave out, each as its entry point, its distribution or ``distribution:entry-point``;
                by default those in the environment variable ``BFN_DISABLE_PLUGINS``, separated by commas.  "all" means
                all but the built-ins.
        """
        if disable is None:
            disable = os.environ.get(DISABLE, "").split(",")
        left_out = {_normalized(name) for name in disable}
        every = {"all"} & left_out
        plugins: dict[bool, list[Plugin]] = {True: [], False: []}
        for plugin in sorted(_installed(), key=lambda p: (p.distribution, p.entry_point)):
            distribution, entry_point = plugin.distribution, _normalized(plugin.entry_point)
            named = left_out & {distribution, entry_point, f"{distribution}:{entry_point}"}
            plugins[bool(named or (every and distribution != BUILT_IN))].append(plugin)
        return cls(plugins[False], plugins[True])

    def register(self, plugin: object, name: str | None = None) -> None:
        """Registers a module, or any object with hook functions, for this process (tests, notebooks).

        Raises:
            PluginError: If it breaks the contract of a plugin.
        """
        name = name or str(getattr(plugin, "__name__", None) or type(plugin).__name__)
        added = Plugin(THIS_PROCESS, "", name, str(getattr(plugin, "__name__", name)), lambda: plugin)
        if added in self.plugins:
            raise PluginError(f"a plugin named '{name}' is already registered in this process; pass another name=")
        try:
            loaded = tuple(_entries(added))
        except Exception as error:
            raise PluginError(f"{added}: {_reason(error)}") from error
        self.plugins.append(added)
        self._loaded[added] = loaded

    def get(self, kind: str, name: str) -> Registered:
        """Resolves a name, importing no more plugins than necessary.

        Arguments:
            kind: One of :data:`~bfn_toolkit.registry.hookspecs.KINDS`.
            name: Plain name, or ``distribution:name``.
        Raises:
            UnknownPlugin: If no plugin provides it.
            PluginError: If its plugin could not be loaded, or two distributions provide it.
        """
        if kind not in KINDS:
            raise ConfigError(f"expected one of {', '.join(KINDS)}, got {kind!r}")
        distribution, _, plain = name.rpartition(":")
        for place in self._places(_normalized(distribution), plain):
            loaded = [registered for plugin in place for registered in self._load(plugin)]
            # Two entry points of one distribution may share a module, and with it their entries.
            found = {(r.distribution, r.entry.build): r for r in loaded if (r.kind, r.name) == (kind, plain)}
            if len(found) > 1:
                raise _conflict(kind, plain, list(found.values()))
            if found:
                return next(iter(found.values()))
            if any(p.distribution == BUILT_IN and p.entry_point == plain and p in self._failures for p in place):
                break  # another distribution must not replace a broken built-in
        raise self._not_found(kind, name, _normalized(distribution), plain)

    def name_of(self, kind: str, cls: type[Any]) -> str:
        """Returns the name of a class: the plain name if :meth:`get` resolves it to the class.

        Raises:
            ConfigError: If no plugin registers the class.
        """
        likely = [p for p in self.plugins if f"{cls.__module__}.".startswith(f"{p.module}.")]
        built_in_first = sorted(self.plugins, key=lambda p: p.distribution != BUILT_IN)
        for plugin in [*self._loaded, *likely, *built_in_first]:
            for registered in self._load(plugin):
                if registered.kind == kind and registered.entry.build is cls:
                    return self._shortest(registered)
        raise ConfigError(
            f"{cls.__module__}.{cls.__qualname__} is not registered as a {kind}, "
            "so it cannot be written to a configuration. "
            f'Return Entry("some-name", {cls.__name__}) from @hookimpl {KINDS[kind]}(), in a module that has an entry '
            f"point in the group '{PROJECT}' or is passed to registry.register(module)"
        )

    def names(self, kind: str) -> list[str]:
        """Returns the names of a kind, in order; loads every plugin."""
        return sorted({self._shortest(registered) for registered in self.entries() if registered.kind == kind})

    def entries(self, plugins: Iterable[Plugin] | None = None) -> tuple[Registered, ...]:
        """Returns every entry of the plugins, by default of all; loads them."""
        chosen = tuple(self.plugins if plugins is None else plugins)
        return tuple(registered for plugin in chosen for registered in self._load(plugin))

    @property
    def loaded(self) -> tuple[Registered, ...]:
        """Entries of the plugins that are loaded so far."""
        return tuple(registered for entries in tuple(self._loaded.values()) for registered in entries)

    @property
    def failures(self) -> tuple[Failure, ...]:
        """Plugins that failed to load so far (:meth:`entries` loads all)."""
        return tuple(self._failures.values())

    @property
    def problems(self) -> tuple[str, ...]:
        """Entries loaded so far whose plain name does not resolve to them, one line each."""
        return tuple(
            f"{r}: the {r.kind} name '{r.name}' is reserved or taken; write '{r.qualified_name}'"
            for r in self.loaded
            if self._shortest(r) != r.name
        )

    def _places(self, distribution: str, name: str) -> Iterator[list[Plugin]]:
        """Yields the plugins of each place, in the order of the look-up."""
        if distribution:
            own = [p for p in self.plugins if p.distribution == distribution]
            yield [p for p in own if p.entry_point == name]
            yield own
            return
        built_in = [p for p in self.plugins if p.distribution == BUILT_IN]
        yield [p for p in built_in if p.entry_point == name]
        yield built_in
        yield [p for p in self.plugins if p.entry_point == name or p.distribution == THIS_PROCESS]
        yield self.plugins

    def _load(self, plugin: Plugin) -> tuple[Registered, ...]:
        """Loads a plugin once and records any error."""
        if plugin not in self._loaded:
            self._loaded[plugin] = ()  # for a plugin that uses the registry while it loads
            try:
                with nullcontext() if plugin.distribution in (BUILT_IN, THIS_PROCESS) else _guarded(plugin):
                    self._loaded[plugin] = tuple(_entries(plugin))
            except KeyboardInterrupt:
                del self._loaded[plugin]
                raise
            except BaseException as error:  # SystemExit too: a plugin must not end the host
                self._failures[plugin] = Failure(
                    plugin.distribution, plugin.version, plugin.entry_point, _reason(error), traceback.format_exc()
                )
        return self._loaded[plugin]

    def _shortest(self, registered: Registered) -> str:
        try:
            plain = self.get(registered.kind, registered.name).entry.build is registered.entry.build
        except PluginError:
            plain = False
        return registered.name if plain else registered.qualified_name

    def _not_found(self, kind: str, name: str, distribution: str, plain: str) -> Exception:
        for plugin, failure in self._failures.items():
            if plugin.entry_point == plain and distribution in ("", plugin.distribution):
                return PluginError(f"{kind} '{name}': {plugin} could not be loaded: {failure.reason}")
        names = self.names(kind)
        message = f"no {kind} named '{name}'.{did_you_mean(name, names)} Installed: {', '.join(names) or 'none'}."
        if any(plugin.entry_point == plain for plugin in self.disabled):
            message += f" Plugin '{plain}' is disabled by {DISABLE}."
        if self._failures:
            message += f" {len(self._failures)} plugin(s) could not be loaded; see bfn plugins."
        return UnknownPlugin(message)


@cache
def default_registry() -> Registry:
    """Returns the registry of the installed plugins, made at the first call."""
    return Registry.from_entry_points()


def _normalized(distribution: str) -> str:
    """Normalises the name of a distribution as package indexes do."""
    return re.sub(r"[-_.]+", "-", distribution.strip()).lower()


def _installed() -> Iterator[Plugin]:
    known: dict[Any, tuple[str, str]] = {}  # parsing METADATA, which holds a README, is slow
    for point in entry_points(PROJECT):
        if point.dist not in known:
            known[point.dist] = _name_and_version(point.dist)
        distribution, version = known[point.dist]
        module = point.value.partition(":")[0].strip()
        yield Plugin(_normalized(distribution or "unknown"), version or "", point.name, module, point.load)


def _name_and_version(distribution: Any) -> tuple[str, str]:
    try:
        metadata = distribution.metadata
        return metadata["Name"], metadata["Version"]
    except Exception:  # no METADATA
        return "", ""


def entry_points(group: str) -> list[Any]:
    """Entry points of all installed distributions in a group; those that are malformed are left out."""
    try:
        return list(importlib.metadata.entry_points(group=group))
    except Exception:  # some distribution has malformed entry points: read each by itself
        points: dict[str, list[Any]] = {}
        for distribution in importlib.metadata.distributions():
            with suppress(Exception):
                name = _normalized(distribution.name)
                if name not in points:  # the first on sys.path is the one that imports find
                    points[name] = list(distribution.entry_points.select(group=group))
        return [point for own in points.values() for point in own]


@contextmanager
def _guarded(plugin: Plugin) -> Iterator[None]:
    """Scope for the import of a plugin: it changes nothing for the others, and says if it takes long."""
    importlib.import_module("torch")  # so that its state is known; nearly every plugin imports it
    text = f"{plugin} is still being imported; Ctrl-C stops, and {DISABLE}={plugin.entry_point} leaves it out"
    clock = threading.Timer(SLOW, warnings.warn, (text, BFNWarning))
    clock.daemon = True
    clock.start()
    try:
        with watched(all_states()) as changed:
            yield
    finally:
        clock.cancel()
        if changed:
            warnings.warn(
                f"{plugin} changes {', '.join(changed)} when it is imported; that is undone, because it would change "
                "other parts. Set it where it is needed, such as dtype=torch.float64 for a tensor",
                BFNWarning,
                stacklevel=2,
            )


def _entries(plugin: Plugin) -> Iterator[Registered]:
    """Imports a plugin and calls its hooks; its output goes to stderr, because stdout is for results."""
    with redirect_stdout(sys.stderr):
        module = plugin.load()
        api = getattr(module, "BFN_HOOK_API", HOOK_API)
        if isinstance(api, bool) or not isinstance(api, int):
            raise PluginError(f"BFN_HOOK_API: expected an integer, got {api!r}")
        if api > HOOK_API:
            raise PluginError(
                f"written for hook API {api}, but this bfn-toolkit has hook API {HOOK_API}; upgrade bfn-toolkit"
            )
        manager = _manager(module)
        answers = [(kind, hook, _call(getattr(manager.hook, hook))) for kind, hook in KINDS.items()]
    for kind, hook, answer in answers:
        seen: set[str] = set()
        for entry in answer:
            valid = _check(entry, kind, hook, seen)
            yield Registered(valid, kind, plugin.distribution, plugin.version, plugin.entry_point, plugin.module)


def _manager(module: object) -> pluggy.PluginManager:
    """A plugin manager that holds one plugin.

    Raises:
        PluginError: If the plugin implements no hook, or one that does not exist.
    """
    manager = pluggy.PluginManager(PROJECT)
    manager.add_hookspecs(hookspecs)
    manager.register(module)
    try:
        manager.check_pending()
    except pluggy.PluginValidationError as error:
        unknown = [name for name in vars(manager.hook) if name[0] != "_" and not getattr(manager.hook, name).has_spec()]
        hints = " ".join(f"no hook named '{name}'.{did_you_mean(name, KINDS.values())}" for name in unknown)
        raise PluginError(f"{hints} Hooks: {', '.join(KINDS.values())}") from error
    if not manager.get_hookcallers(module):
        raise PluginError(f"no function is marked @hookimpl; expected one or more of {', '.join(KINDS.values())}")
    return manager


def _call(hook: pluggy.HookCaller) -> Sequence[object]:
    """Calls a hook that at most one plugin implements."""
    if not hook.get_hookimpls():
        return ()
    answers = hook()
    answer = answers[0] if answers else None  # pluggy drops None
    if not isinstance(answer, Sequence) or isinstance(answer, str):
        raise PluginError(f"{hook.name} returned {_shown(answer)}; expected a list of Entry")
    return answer


def _check(entry: object, kind: str, hook: str, seen: set[str]) -> Entry:
    if not isinstance(entry, Entry):
        raise PluginError(f"{hook} returned {_shown(entry)} in its list; expected an Entry")
    if entry.name in seen:
        raise PluginError(f"{hook} returned the name '{entry.name}' twice")
    seen.add(entry.name)
    if inspect.isabstract(entry.build):
        missing = ", ".join(sorted(entry.build.__abstractmethods__))
        raise PluginError(f"{hook} returned {entry.build.__name__}, which is abstract; it lacks {missing}")
    declared = getattr(entry.build, "kind", kind)
    if declared in KINDS.keys() - {kind}:
        raise PluginError(
            f"{hook} returned {entry.build.__name__}, which is a {declared}; return it from {KINDS[declared]}"
        )
    if any(field.alias == "name" for field in attrs.fields(entry.build)):
        raise PluginError(
            f"{entry.build.__name__} has a field called 'name', which names the {kind} in a configuration"
        )
    return entry


def _conflict(kind: str, name: str, found: Sequence[Registered]) -> PluginError:
    owners = sorted({str(r) for r in found})
    choices = sorted({f"'{r.qualified_name}'" for r in found})
    advice = f"write {' or '.join(choices)}" if len(choices) > 1 else "leave one of them out"
    return PluginError(f"the {kind} name '{name}' is provided by {' and by '.join(owners)}; {advice}")


def _reason(error: BaseException) -> str:
    """One line for any exception, even one whose text cannot be read."""
    if isinstance(error, BFNError):
        return str(error)
    lines = [line for line in traceback.format_exception_only(error) if not line.startswith(" ")]
    return textwrap.shorten(lines[0], 300)


def _owner(distribution: str, version: str, entry_point: str) -> str:
    return f"{distribution} {version}".rstrip() + f" (entry point {entry_point})"


def _shown(value: object) -> str:
    return textwrap.shorten(repr(value), 80)
