"""Layers of configuration, merged: presets, TOML files, mappings and command-line options.

Later layers win, key by key.  Where a layer changes the ``name`` of a table, the options that earlier layers gave to
that table are dropped, because they belong to another part.  A plain string where a table has a name is that name.
Each value keeps the place that it came from, so that a mistake can be shown there.
"""

from __future__ import annotations

import codecs
import difflib
import json
import re
import stat
import tomllib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import attrs

from bfn_toolkit.errors import ConfigError, did_you_mean

Key: TypeAlias = "tuple[str | int, ...]"  # the way to a value: names of tables, places in arrays

PRESETS = Path(__file__).with_name("presets")
FOREIGN = {
    ".yaml": "in YAML, 1e-4 is a string and NO is false",
    ".yml": "in YAML, 1e-4 is a string and NO is false",
    ".json": "JSON has no comments and no infinity",
}
MAX_BYTES = 1_000_000
MAX_DEPTH = 64
MAX_MISTAKES = 50


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


@attrs.frozen
class Mistake:
    """What is wrong with one value.

    Arguments:
        key: Where it is.
        problem: What was expected and what was found.
        siblings: For an unknown key, the keys that its table has.
    """

    key: Key
    problem: str
    siblings: Sequence[str] | None = None


class OptionText(str):
    """The value of a command-line option: TOML, or plain text; the type of its field decides."""

    __slots__ = ()

    def parsed(self) -> object:
        """Returns the TOML value, or the text where it is none."""
        try:
            table = tomllib.loads(f"value = {self}\n")
        except (ValueError, RecursionError):
            return str(self)
        return table["value"] if table.keys() == {"value"} else str(self)


@attrs.frozen
class _Place:
    layer: int
    line: int
    label: str  # FILE:LINE, --option, or nothing


class Configuration:
    """A tree of plain values, and where each came from."""

    def __init__(self) -> None:
        self.tree: dict[str, Any] = {}
        self._places: dict[Key, _Place] = {(): _Place(0, 0, "")}
        self._layers = 0
        self._mistakes: list[Mistake] = []

    def add_preset(self, name: str) -> None:
        """Adds ``presets/NAME.toml`` of this package.

        Raises:
            ConfigError: If there is none of that name.
        """
        known = presets()
        if name not in known:
            raise ConfigError(f"no preset named '{name}'.{did_you_mean(name, known)} Presets: {', '.join(known)}.")
        self.add_file(PRESETS / f"{name}.toml", f"presets/{name}.toml")

    def add_file(self, path: Path, label: str | None = None) -> None:
        """Adds a TOML file.

        Raises:
            ConfigError: If it is no regular file, too large, not UTF-8 or not TOML.
        """
        label = label or str(path)
        table, lines = _read_toml(path, label)
        self._layers += 1
        layer = self._layers

        def place(key: Key) -> _Place:
            line = next((lines[key[:n]] for n in range(len(key), 0, -1) if key[:n] in lines), 0)
            return _Place(layer, line, f"{label}:{line}" if line else label)

        self._places[()] = _Place(layer, 0, label)
        self._merge(self.tree, table, (), place)

    def add_mapping(self, mapping: Mapping[str, Any]) -> None:
        """Adds plain Python values."""
        self._layers += 1
        place = _Place(self._layers, 0, "")
        self._merge(self.tree, mapping, (), lambda _: place)

    def add_options(self, options: Iterable[tuple[str, str]]) -> None:
        """Adds command-line options, each a dotted key and a text; their order does not matter."""
        self._layers += 1
        table: dict[str, Any] = {}
        places: dict[Key, _Place] = {}
        # A name before the options of its part.
        for number, (name, text) in enumerate(sorted(options, key=lambda option: option[0].count("."))):
            key = tuple(name.split("."))
            if key in places:
                self._mistakes.append(Mistake(key, "given twice"))
                continue
            places[key] = _Place(self._layers, number, f"--{name}")
            option = OptionText(text)
            parsed = option.parsed()
            _put(table, key, parsed if isinstance(parsed, dict) else option)

        def place(key: Key) -> _Place:
            around = [key[:n] for n in range(len(key), 0, -1) if key[:n] in places]
            if around or key not in self._places:
                return places[around[0] if around else next(k for k in places if k[: len(key)] == key)]
            return self._places[key]  # a table that an earlier layer wrote, and an option writes into

        self._merge(self.tree, table, (), place)

    def errors(self, mistakes: Iterable[Mistake], known: Sequence[Key]) -> ConfigErrors | None:
        """Returns all mistakes in the order of their places, or nothing if there are none.

        Arguments:
            mistakes: What is wrong with the tree.
            known: Every key that the tree could have had, to suggest from.
        """
        found = sorted([*self._mistakes, *mistakes], key=lambda m: (self._place(m.key).layer, self._place(m.key).line))
        lines = [self._line(mistake, known) for mistake in found[:MAX_MISTAKES]]
        if len(found) > MAX_MISTAKES:
            lines.append(f"... and {len(found) - MAX_MISTAKES} more")
        return ConfigErrors(lines) if lines else None

    def _merge(self, table: dict[str, Any], layer: Mapping[str, Any], key: Key, place: Callable[[Key], _Place]) -> None:
        if len(key) > MAX_DEPTH:
            raise ConfigError(f"{dotted(key[:3])}...: nested too deeply (more than {MAX_DEPTH} tables)")
        for name, new in layer.items():
            if not isinstance(name, str):
                raise ConfigError(f"{dotted(key)}: expected names as keys, got {name!r}")
            at = (*key, name)
            old = table.get(name)
            if isinstance(old, str) and isinstance(new, Mapping):
                old = {"name": old}
            if isinstance(new, str) and isinstance(old, dict) and "name" in old:
                new = {"name": new}
            if isinstance(new, Mapping):
                keeps = isinstance(old, dict) and new.get("name", old.get("name")) == old.get("name")
                value: Any = old if keeps else {}
            else:
                keeps, value = False, new
            if name in table and not keeps:
                self._forget(at)
            table[name] = value
            if isinstance(new, Mapping):
                self._merge(value, new, at, place)
            self._places[at] = place(at)

    def _forget(self, key: Key) -> None:
        self._places = {k: place for k, place in self._places.items() if k[: len(key)] != key}

    def _place(self, key: Key) -> _Place:
        """The place of a value, or of the table around it."""
        return next(self._places[key[:n]] for n in range(len(key), -1, -1) if key[:n] in self._places)

    def _line(self, mistake: Mistake, known: Sequence[Key]) -> str:
        label, name, problem = self._place(mistake.key).label, dotted(mistake.key), mistake.problem
        option = label.startswith("--")
        if mistake.siblings is not None:
            whole = max(mistake.key, tuple(label[2:].split(".")) if option else (), key=len)
            near = _nearest(mistake.key, mistake.siblings, whole, known)
            if near and option:
                problem += f"; did you mean --{dotted(near)}?"
            elif near:
                problem += f"; did you mean '{near[-1] if near[:-1] == mistake.key[:-1] else dotted(near)}'?"
        says_it = option and (f"{label}.".startswith(f"--{name}.") or f"{label}.name" == f"--{name}")
        start = label if says_it else ": ".join(filter(None, (label, name)))
        return ": ".join(filter(None, (start, problem)))


def presets() -> list[str]:
    """Returns the names of the presets."""
    return sorted(path.stem for path in PRESETS.glob("*.toml"))


def dotted(key: Key) -> str:
    """Prints a key as TOML writes it, with [number] for a place in an array."""
    text = ""
    for part in key:
        if isinstance(part, int):
            text += f"[{part}]"
        else:
            bare = re.fullmatch(r"[A-Za-z0-9_-]{1,60}", part)
            text += ("." if text else "") + (part if bare else json.dumps(part[:60]))
    return text


def _nearest(key: Key, siblings: Sequence[str], whole: Key, known: Sequence[Key]) -> Key | None:
    """The key that was probably meant: a sibling, or a key with such an end in any table."""
    close = difflib.get_close_matches(str(key[-1]), siblings, n=1)
    if close:
        return (*key[:-1], close[0], *whole[len(key) :])
    ends: dict[str, Key] = {}
    for other in known:
        ends.setdefault(str(other[-1]), other)
    close = difflib.get_close_matches(str(whole[-1]), ends, n=1)
    return ends[close[0]] if close else None


def _put(table: dict[str, Any], key: tuple[str, ...], value: object) -> None:
    for part in key[:-1]:
        inner = table.get(part)
        if not isinstance(inner, dict):
            inner = {"name": inner} if isinstance(inner, str) else {}
        table[part] = inner
        table = inner
    table[key[-1]] = value


def _read_toml(path: Path, label: str) -> tuple[dict[str, Any], dict[Key, int]]:
    """Reads a TOML file, and the line of each of its keys."""
    text = _read_text(path, label)
    lines: dict[Key, int] = {}
    key_at: dict[int, Key] = {}
    for number, key in _keys(text, label):
        key_at[number] = key
        for n in range(1, len(key) + 1):
            lines.setdefault(key[:n], number)
    try:
        return tomllib.loads(text), lines
    except tomllib.TOMLDecodeError as error:
        message = str(error)
        found = re.search(r" \(at line (\d+), column (\d+)\)$", message)
        if not found:  # at the end of the document
            raise ConfigError(f"{label}:{text.count(chr(10))}: not TOML: {message}") from error
        line, column = int(found[1]), int(found[2])
        first = lines.get(key_at.get(line, ()), line)
        hint = f"; first given on line {first}" if first < line else ""
        raise ConfigError(f"{label}:{line}:{column}: not TOML: {message[: found.start()]}{hint}") from error
    except RecursionError:
        raise ConfigError(f"{label}: nested too deeply") from None
    except ValueError as error:  # an integer of thousands of digits
        raise ConfigError(f"{label}: {str(error).partition(';')[0]}") from error


def _read_text(path: Path, label: str) -> str:
    if path.suffix.lower() in FOREIGN:
        reason = FOREIGN[path.suffix.lower()]
        raise ConfigError(f"{label}: expected a TOML file, found {path.suffix}; {reason}, so write TOML: key = value")
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):  # a FIFO would block, a device never end
            what = "a directory" if stat.S_ISDIR(status.st_mode) else "not a regular file"
            raise ConfigError(f"{label}: expected a TOML file, found {what}")
        with path.open("rb") as file:
            data = file.read(MAX_BYTES + 1) if status.st_size <= MAX_BYTES else b" " * (MAX_BYTES + 1)
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        if isinstance(error, ConfigError):
            raise
        raise ConfigError(f"{label}: cannot be read: {getattr(error, 'strerror', None) or error}") from error
    if len(data) > MAX_BYTES:
        raise ConfigError(f"{label}: larger than {MAX_BYTES // 10**6} MB, which no configuration is")
    try:
        # tomllib reports the end of a last line without its newline as the end of the document.
        return data.removeprefix(codecs.BOM_UTF8).decode() + "\n"
    except UnicodeDecodeError as error:
        raise ConfigError(f"{label}: not UTF-8 at byte {error.start}; save the file as UTF-8") from error


_PART = r"""(?:[A-Za-z0-9_-]+|"(?:[^"\\\n]|\\.)*"|'[^'\n]*')"""
_LINE = re.compile(rf"(\[\[?)?\s*({_PART}(?:\s*\.\s*{_PART})*)\s*(?(1)\]|=)")
_DOT = re.compile(r"[\w\"'-]\s*\.")


def _keys(text: str, label: str) -> Iterator[tuple[int, Key]]:
    """Yields the keys that start lines; good enough for places (text inside multi-line strings is not skipped).

    Raises:
        ConfigError: If a key has so many parts that tomllib would run out of memory.
    """
    table: Key = ()
    for number, line in enumerate(text.split("\n"), 1):
        line = line.strip()
        if line.startswith("#"):
            continue
        if any(len(_DOT.findall(piece)) > MAX_DEPTH for piece in re.split(r"[^\w\s.\"'-]", line)):
            raise ConfigError(f"{label}:{number}: nested too deeply (more than {MAX_DEPTH} tables)")
        found = _LINE.match(line)
        if found:
            key = tuple(_unquoted(part) for part in re.findall(_PART, found[2]))
            if found[1]:
                table = key
                yield number, key
            else:
                yield number, (*table, *key)


def _unquoted(part: str) -> str:
    if part[0] == '"':
        value = OptionText(part).parsed()
        return value if isinstance(value, str) else part
    return part[1:-1] if part[0] == "'" else part
