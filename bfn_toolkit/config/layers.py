"""Layers of configuration, merged: presets, TOML files, mappings and command-line options.

Later layers win, key by key.  Where a layer changes the ``name`` of a table, the options that earlier layers gave to
that table are dropped, because they belong to another part.  A plain string where a table has a name is that name.
Each value keeps the place that it came from, so that a mistake can be shown there.
"""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import reduce
from pathlib import Path
from typing import Any

import attrs

from bfn_toolkit.config.toml_files import MAX_DEPTH, Key, read_toml
from bfn_toolkit.errors import ConfigError, did_you_mean, nearest

PRESETS = Path(__file__).with_name("presets")
MAX_MISTAKES = 50
# Fields that an option may name without their table.
SHORT: Mapping[str, Key] = {
    **{name: ("training", name) for name in ("steps", "lr", "batch_size", "device", "init")},
    **{name: ("network", name) for name in ("width", "depth")},
}


class ConfigErrors(ConfigError):  # noqa: N818 - it holds several
    """All mistakes of a configuration, one line each.

    Arguments:
        lines: The mistakes, in the order of their places.
    """

    def __init__(self, lines: Sequence[str]) -> None:
        super().__init__("\n".join(lines))
        self.lines = tuple(lines)

    def __reduce__(self) -> tuple[Any, ...]:
        return ConfigErrors, (self.lines,)


class OptionText(str):
    """The value of a command-line option: TOML, or plain text; the type of its field decides."""

    __slots__ = ()

    def parsed(self) -> object:
        """Returns the TOML value, or the text if it is not TOML."""
        try:
            table = tomllib.loads(f"value = {self}\n")
        except (ValueError, RecursionError):
            return str(self)
        return table["value"] if table.keys() == {"value"} else str(self)


@attrs.frozen
class Place:
    """Origin of a value.

    Arguments:
        label: FILE:LINE, --option, or "" for a value of Python.
        layer: Number of the layer.
        line: Place in the layer.
    """

    label: str = ""
    layer: int = 0
    line: int = 0


@attrs.frozen(eq=False)
class Node:
    """A plain value of a configuration, and its origin.

    Arguments:
        key: Path of keys to the value.
        value: A scalar, an array of nodes, or a table of nodes.
        origin: Origin of the value; None for a table that only options create.
    """

    key: Key
    value: Any
    origin: Place | None = None

    @property
    def place(self) -> Place:
        """Origin of the value, or of the first value inside it."""
        return self.origin or next((part.place for part in self.value.values()), Place())

    def parsed(self) -> Node:
        """Returns the node with the text of an option read as TOML."""
        return placed(self.value.parsed(), self.key, self.origin) if isinstance(self.value, OptionText) else self

    def plain(self) -> Any:
        """Returns the value without origins."""
        value = self.parsed().value
        if isinstance(value, Mapping):
            return {name: part.plain() for name, part in value.items()}
        if isinstance(value, (list, tuple)):
            return type(value)(part.plain() for part in value)
        return value


@attrs.frozen
class Mistake:
    """One wrong value.

    Arguments:
        key: Path of keys to the value.
        place: Origin of the value, or of the table that lacks it.
        problem: Expected and actual value, in words.
        siblings: Keys of the table, if the key is unknown.
    """

    key: Key
    place: Place
    problem: str
    siblings: Sequence[str] | None = None


def placed(value: Any, key: Key, origin: Place | None, find: Callable[[Key], Place | None] = lambda _: None) -> Node:
    """Returns a plain value as a node.

    Arguments:
        value: The value.
        key: Path of keys to the value.
        origin: Origin of the value and everything in it, unless ``find`` returns another.
        find: Returns the origin of a key, or None.
    Raises:
        ConfigError: If tables are nested too deeply, or have keys that are not strings.
    """
    if len(key) > MAX_DEPTH:
        raise ConfigError(f"{dotted(key[:3])}...: nested too deeply (more than {MAX_DEPTH} tables)")
    origin = find(key) or origin
    if isinstance(value, Mapping):
        for name in value:
            if not isinstance(name, str):
                raise ConfigError(f"{dotted(key)}: expected names as keys, got {name!r}")
        value = {name: placed(part, (*key, name), origin, find) for name, part in value.items()}
    elif isinstance(value, (list, tuple)):
        parts = [placed(part, (*key, n), origin, find) for n, part in enumerate(value)]
        value = tuple(parts) if isinstance(value, tuple) else parts
    return Node(key, value, origin)


def as_part(node: Node) -> Node:
    """Expands the name of a part to the table that it abbreviates."""
    return attrs.evolve(node, value={"name": attrs.evolve(node, key=(*node.key, "name"))})


def merged(below: Node, above: Node) -> Node:
    """Merges one node above another: tables key by key, unless they name different parts."""
    if isinstance(below.value, str) and isinstance(above.value, dict):
        below = as_part(below)
    if isinstance(above.value, str) and isinstance(below.value, dict) and "name" in below.value:
        above = as_part(above)
    if not (isinstance(below.value, dict) and isinstance(above.value, dict)):
        return above
    if "name" in above.value and not ("name" in below.value and above.value["name"].value == below.value["name"].value):
        return above
    table = {key: merged(below.value[key], node) if key in below.value else node for key, node in above.value.items()}
    return Node(above.key, {**below.value, **table}, above.origin or below.origin)


class Configuration:
    """Layers of plain values, the first at the bottom."""

    def __init__(self) -> None:
        self._layers: list[Node] = []
        self._mistakes: list[Mistake] = []
        self._short: dict[str, Place] = {}  # options without a table

    def __len__(self) -> int:
        return len(self._layers)

    @property
    def tree(self) -> Node:
        """All layers, merged."""
        return self.above(0)

    def above(self, layers: int) -> Node:
        """The layers above the lowest ``layers``, merged."""
        return reduce(merged, self._layers[layers:], Node((), {}, Place()))

    def add_preset(self, name: str, at: int | None = None) -> None:
        """Adds ``presets/NAME.toml`` of this package.

        Arguments:
            name: Name of the preset.
            at: Number of layers beneath it; by default all.
        Raises:
            ConfigError: If no preset has that name.
        """
        self.add_file(_preset_file(name), f"presets/{name}.toml", at)

    def add_file(self, path: Path, label: str | None = None, at: int | None = None) -> None:
        """Adds a TOML file.

        Arguments:
            path: The file.
            label: Its name in messages.
            at: Number of layers beneath it; by default all.
        Raises:
            ConfigError: If it is not a regular file, too large, not UTF-8 or not TOML.
        """
        label, layer = label or str(path), len(self) if at is None else at
        table, lines = read_toml(path, label)

        def find(key: Key) -> Place | None:
            return Place(f"{label}:{lines[key]}", layer, lines[key]) if key in lines else None

        self._layers.insert(layer, placed(table, (), Place(label, layer), find))

    def add_mapping(self, mapping: Mapping[str, Any], label: str = "", at: int | None = None) -> None:
        """Adds plain Python values.

        Arguments:
            mapping: The values.
            label: Their origin in messages.
            at: Number of layers beneath them; by default all.
        """
        at = len(self) if at is None else at
        self._layers.insert(at, placed(mapping, (), Place(label, at)))

    def add_options(self, options: Iterable[tuple[str, str]]) -> None:
        """Adds command-line options, each a dotted key (or one of :data:`SHORT`) and a text, in any order."""
        layer = Node((), {})
        seen: set[Key] = set()
        # A name comes before the options of its part.
        ordered = sorted(options, key=lambda option: (option[0].count("."), not option[0].endswith(".name")))
        for number, (name, text) in enumerate(ordered):
            key: Key = tuple(name.split("."))
            place = Place(f"--{name}", len(self), number)
            short = name.replace("-", "_")
            if short in SHORT:
                key, self._short[short] = SHORT[short], place
            if key in seen:
                self._mistakes.append(Mistake(key, place, "given twice"))
                continue
            seen.add(key)
            option = OptionText(text)
            parsed = option.parsed()
            node = placed(parsed if isinstance(parsed, dict) else option, key, place)
            for n in reversed(range(len(key))):
                node = Node(key[:n], {key[n]: node})
            layer = merged(layer, node)
        self._layers.append(layer)

    def errors(self, mistakes: Iterable[Mistake], known: Sequence[Key]) -> ConfigErrors | None:
        """Returns all mistakes in the order of their places, or None if there are none.

        Arguments:
            mistakes: Mistakes in the tree.
            known: All possible keys of the tree, for suggestions.
        """
        unclear = []
        for name, place in self._short.items():
            keys = sorted({key for key in known if key[-1] == name})
            if len(keys) > 1:
                choices = " or ".join(f"--{dotted(key)}" for key in keys)
                unclear.append(Mistake((), place, f"several tables have this field; write {choices}"))
        found = sorted(
            [*self._mistakes, *unclear, *mistakes], key=lambda mistake: (mistake.place.layer, mistake.place.line)
        )
        lines = [_line(mistake, known) for mistake in found[:MAX_MISTAKES]]
        if len(found) > MAX_MISTAKES:
            lines.append(f"... and {len(found) - MAX_MISTAKES} more")
        return ConfigErrors(lines) if lines else None


def presets() -> list[str]:
    """Returns the names of the presets."""
    return sorted(path.stem for path in PRESETS.glob("*.toml"))


def preset_text(name: str) -> str:
    """Returns the TOML of a preset; its first line is a description, and one may begin with "# Source: ".

    Raises:
        ConfigError: If no preset has that name.
    """
    return _preset_file(name).read_text(encoding="utf-8")


def _preset_file(name: str) -> Path:
    known = presets()
    if name not in known:
        raise ConfigError(f"no preset named '{name}'.{did_you_mean(name, known)} Presets: {', '.join(known)}.")
    return PRESETS / f"{name}.toml"


def dotted(key: Key) -> str:
    """Returns a key in TOML notation, with [number] for a place in an array."""
    text = ""
    for part in key:
        if isinstance(part, int):
            text += f"[{part}]"
        else:
            bare = re.fullmatch(r"[A-Za-z0-9_-]{1,60}", part)
            text += ("." if text else "") + (part if bare else json.dumps(part[:60]))
    return text


def _line(mistake: Mistake, known: Sequence[Key]) -> str:
    label, name, problem = mistake.place.label, dotted(mistake.key), mistake.problem
    option = label.startswith("--")
    if mistake.siblings is not None:
        whole = max(mistake.key, tuple(label[2:].split(".")) if option else (), key=len)
        near = _nearest(whole, [*known, *((*mistake.key[:-1], name) for name in mistake.siblings)])
        if near and option:
            problem += f"; did you mean --{dotted(near)}?"
        elif near:
            problem += f"; did you mean '{near[-1] if near[:-1] == mistake.key[:-1] else dotted(near)}'?"
    says_it = option and (f"{label}.".startswith(f"--{name}.") or f"{label}.name" == f"--{name}")
    start = label if says_it else ": ".join(filter(None, (label, name)))
    return ": ".join(filter(None, (start, problem)))


def _nearest(whole: Key, known: Sequence[Key]) -> Key | None:
    """Key that was probably meant: each of its parts is nearly right, or only tables before the last are missing."""
    meant: Key = ()
    for n, part in enumerate(whole):
        beneath = [key for key in known if key[:n] == meant and len(key) > n]
        near = _near(part, {key[n]: key[: n + 1] for key in beneath})
        if near is None and n == len(whole) - 1:
            return _near(part, {key[-1]: key for key in sorted(beneath, key=len, reverse=True)})
        if near is None:
            return None
        meant = near
    return meant


def _near(part: str | int, keys: Mapping[str | int, Key]) -> Key | None:
    """The key of a part, or of the one that is nearest to it."""
    near = part if part in keys else nearest(str(part), (name for name in keys if isinstance(name, str)))
    return None if near is None else keys[near]
