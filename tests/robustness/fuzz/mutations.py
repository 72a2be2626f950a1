"""Changes of the bytes of a file, each from a generator of random numbers."""

from __future__ import annotations

import contextlib
import io
import json
import random
import re
import zipfile
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

Mutation: TypeAlias = Callable[[bytes, random.Random], bytes]

ESCAPES = b"\x1b]0;title\x07\x1b[31m\x9b2J\x08\x7f"
NUMBERS = (b"1e999", b"-1", b"0", b"NaN", b"9223372036854775808", b"1" + b"0" * 400, b"-1e-400", b"1.5", b"true", b"")
NAMES = (b"../../outside/file", b"/etc/passwd", b"[/bold]", b"a" * 5000, "\u202e\ufeff".encode(), b"\x00", b"con", b"")
VALUES: tuple[Any, ...] = (
    *(None, True, -1, 0, 2**63, 10**400, 1e308, float("nan"), "", "\x1b[2J", "../../outside/file", "x" * 5000),
    *([], {}, [[]], {"": {}}, [None] * 1000, "none", "\ud800", ["a", 1, None]),
)
DEPTH = 3000


def flip(data: bytes, rng: random.Random) -> bytes:
    """A few bytes are others."""
    changed = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 8)) if data else 0):
        changed[rng.randrange(len(changed))] ^= 1 << rng.randrange(8)
    return bytes(changed)


def truncate(data: bytes, rng: random.Random) -> bytes:
    """The end, or the beginning, is missing."""
    place = rng.randrange(len(data) + 1)
    return data[:place] if rng.random() < 0.8 else data[place:]


def duplicate(data: bytes, rng: random.Random) -> bytes:
    """A piece stands twice, or many times."""
    start, end = sorted(rng.randrange(len(data) + 1) for _ in "ab")
    return data[:end] + data[start:end] * rng.choice((1, 1, 50)) + data[end:]


def insert(data: bytes, rng: random.Random) -> bytes:
    """Escape sequences, zeros or a name stand somewhere."""
    place = rng.randrange(len(data) + 1)
    return data[:place] + rng.choice((ESCAPES, ESCAPES, bytes(16), *NAMES)) + data[place:]


def number(data: bytes, rng: random.Random) -> bytes:
    """A number, or all of them, is another one."""
    found = list(re.finditer(rb"-?\d+(\.\d+)?", data))
    if not found:
        return flip(data, rng)
    chosen = rng.choice(found)
    return data[: chosen.start()] + rng.choice(NUMBERS) + data[chosen.end() :]


def word(data: bytes, rng: random.Random) -> bytes:
    """A word is another one of the file, or a strange one."""
    found = list(re.finditer(rb"[A-Za-z_]\w*", data))
    if not found:
        return insert(data, rng)
    chosen, other = rng.choice(found), rng.choice((rng.choice(found)[0], *NAMES, ESCAPES))
    return data[: chosen.start()] + other + data[chosen.end() :]


def lines(data: bytes, rng: random.Random) -> bytes:
    """Lines are missing, doubled, or in another order."""
    every = data.splitlines(keepends=True)
    if not every:
        return data
    at, how = rng.randrange(len(every)), rng.randrange(3)
    if how == 0:
        del every[at]
    elif how == 1:
        every[at:at] = [every[at]] * rng.choice((1, 1000))
    else:
        rng.shuffle(every)
    return b"".join(every)


def nest(data: bytes, rng: random.Random) -> bytes:
    """Brackets within brackets, thousands of them."""
    place, opening = rng.randrange(len(data) + 1), rng.choice((b"[", b'{"a":', b"a = [", b"(", b"'", b'"'))
    return data[:place] + opening * DEPTH + data[place:]


def tree(data: bytes, rng: random.Random) -> bytes:
    """Another value of JSON in some place."""
    try:
        document = json.loads(data)
    except (ValueError, RecursionError):
        return number(data, rng)
    places: list[tuple[Any, Any]] = []

    def walk(value: Any) -> None:
        for key in value if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ():
            places.append((value, key))
            walk(value[key])

    with contextlib.suppress(RecursionError):
        walk(document)
    if not places:
        return json.dumps(rng.choice(VALUES)).encode()
    inside, key = rng.choice(places)
    how = rng.randrange(4)
    if how == 0 and isinstance(inside, dict):
        del inside[key]
    elif how == 1 and isinstance(inside, dict):
        inside[rng.choice(("", "\x1b[2J", "../x", "extra"))] = rng.choice(VALUES)
    else:
        inside[key] = rng.choice(VALUES)
    try:
        return json.dumps(document).encode()
    except RecursionError:
        return flip(data, rng)


def member(data: bytes, rng: random.Random) -> bytes:
    """A member of an archive is damaged, under a right checksum."""
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            members = {name: archive.read(name) for name in archive.namelist()}
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError):
        return flip(data, rng)
    if not members:
        return data
    name = rng.choice(list(members))
    members[name] = rng.choice((flip, truncate, duplicate, insert, number))(members[name], rng)
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", rng.choice((zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED))) as archive:
        for old, content in members.items():
            archive.writestr(old, content)
    return packed.getvalue()


def empty(data: bytes, rng: random.Random) -> bytes:
    """Nothing, or noise."""
    return rng.choice((b"", b"\n", b"{}", b"[]", b"null", rng.randbytes(200)))


EVERY: Sequence[Mutation] = (flip, truncate, duplicate, insert, number, word, lines, nest, tree, member, empty)


def mutated(data: bytes, rng: random.Random, others: Sequence[bytes]) -> bytes:
    """The bytes after one to three changes, or those of another file."""
    if rng.random() < 0.05:
        return rng.choice(others)
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        data = rng.choice(EVERY)(data, rng)[: 2**22]
    return data
