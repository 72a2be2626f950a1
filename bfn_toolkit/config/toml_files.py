"""TOML files, and the line of each key in them."""

from __future__ import annotations

import codecs
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeAlias

from bfn_toolkit.errors import ConfigError
from bfn_toolkit.untrusted import open_regular

Key: TypeAlias = "tuple[str | int, ...]"  # path to a value: names of tables, places in arrays

FOREIGN = {
    ".yaml": "in YAML, 1e-4 is a string and NO is false",
    ".yml": "in YAML, 1e-4 is a string and NO is false",
    ".json": "JSON has no comments and no infinity",
}
MAX_BYTES = 1_000_000
MAX_DEPTH = 64


def read_toml(path: Path, label: str) -> tuple[dict[str, Any], dict[Key, int]]:
    """Reads a TOML file, and the line of each of its keys.

    Arguments:
        path: The file.
        label: Its name in messages.
    Raises:
        ConfigError: If it is not a regular file, too large, not UTF-8 or not TOML.
    """
    return parse_toml(_read_text(path, label), label)


def parse_toml(text: str, label: str) -> tuple[dict[str, Any], dict[Key, int]]:
    """Parses TOML, with the line of each of its keys.

    Arguments:
        text: The text.
        label: Its name in messages.
    Raises:
        ConfigError: If it is too large, or not TOML.
    """
    if len(text) > MAX_BYTES:
        raise ConfigError(f"{label}: larger than {MAX_BYTES // 10**6} MB, the limit for a configuration")
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
        hint = f"; first set on line {first}" if first < line else ""
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
        with open_regular(path) as file:
            data = file.read(MAX_BYTES + 1)
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        raise ConfigError(f"{label}: cannot be read: {getattr(error, 'strerror', None) or error}") from error
    if len(data) > MAX_BYTES:
        raise ConfigError(f"{label}: larger than {MAX_BYTES // 10**6} MB, the limit for a configuration")
    try:
        # tomllib reports the end of a last line without its newline as the end of the document.
        return data.removeprefix(codecs.BOM_UTF8).decode() + "\n"
    except UnicodeDecodeError as error:
        raise ConfigError(f"{label}: not UTF-8 at byte {error.start}; save the file as UTF-8") from error


_PART = r"""(?:[A-Za-z0-9_-]+|"(?:[^"\\\n]|\\.)*"|'[^'\n]*')"""
_LINE = re.compile(rf"(\[\[?)?\s*({_PART}(?:\s*\.\s*{_PART})*)\s*(?(1)\]|=)")
_DOT = re.compile(r"[\w\"'-]\s*\.")


def _keys(text: str, label: str) -> Iterator[tuple[int, Key]]:
    """Yields the keys that start lines, for places in messages (text inside multi-line strings is not skipped).

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
        try:
            return str(tomllib.loads(f"key = {part}")["key"])
        except tomllib.TOMLDecodeError:  # an escape that TOML does not have
            return part
    return part[1:-1] if part[0] == "'" else part
