"""Texts of files as numbers: bytes, characters or tokens, some at a time, with the places of faults.

A file whose characters are bytes (ASCII) or that is read as bytes is kept as it is, in a memory map if it is large; its
bytes become classes by a table when rows are prepared.  Others are encoded once, in the smallest dtype.
"""

from __future__ import annotations

import codecs
import gzip
import itertools
import re
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeAlias

import attrs
import numpy as np

from bfn_files.reading import check_unpacked, fingerprint, reading
from bfn_text.codecs import TokenCodec, smallest
from bfn_toolkit import BFNWarning, DataError, TextCodec

Array: TypeAlias = "np.ndarray[Any, Any]"

CHUNK = 2**20  # bytes that are read together
MAPPED = 2**27  # bytes of a file above which it is mapped into memory
TOKENIZED = 2**16  # characters that are tokenized together, at least
MANY = 256  # characters of an alphabet above which it is told
RARE = 10  # occurrences below which a character is rare
CONTROLS = "\t\n\r\f"  # control characters of texts
TEXT8 = " abcdefghijklmnopqrstuvwxyz"
DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
ENCODINGS = ("Windows-1252", "Shift_JIS", "GB18030")  # that are tried where a file is not UTF-8
ARCHIVES = {
    b"PK\x03\x04": "a zip archive, as .docx, .odt and .epub are",
    b"%PDF": "a PDF",
    b"\x1f\x8b": "compressed by gzip, and its name does not end in .gz",
    b"\xfd7zXZ": "compressed by xz",
    b"BZh": "compressed by bzip2",
    b"\x28\xb5\x2f\xfd": "compressed by zstd",
}


@attrs.frozen(eq=False)
class Numbers:
    """A text as numbers.

    Arguments:
        array: The numbers (N,), in memory or mapped.
        alphabet: Characters of the classes; "" for bytes and tokens.
        is_bytes: Whether the numbers are the bytes of characters, whose classes are their places in the alphabet.
    """

    array: Array
    alphabet: str = ""
    is_bytes: bool = False


def is_packed(path: Path) -> bool:
    """Whether a file is unpacked when it is read."""
    return path.name.lower().endswith(".gz")


def ending_of(name: str) -> str:
    """Ending of a name in lower case, without .gz."""
    return Path(name.lower().removesuffix(".gz")).suffix


def looks_like_text(path: Path) -> bool:
    """Whether a file begins with UTF-8 without control characters.

    Raises:
        DataError: If it cannot be read.
    """
    text = next(pieces(path))
    return bool(text) and not any(c < " " and c not in CONTROLS for c in set(text))


def chunks(path: Path) -> Iterator[bytes]:
    """The bytes of a file, some at a time.

    Raises:
        DataError: If it is not a regular file, is damaged, or would unpack to an enormous size.
    """
    packed, unpacked = fingerprint(path)[2], 0
    with reading(path) as file:
        opened: Any = gzip.GzipFile(fileobj=file) if is_packed(path) else file
        while chunk := opened.read(CHUNK):
            unpacked += len(chunk)
            if opened is not file:
                check_unpacked(path, "the text", unpacked, packed)
            yield chunk


def pieces(path: Path) -> Iterator[str]:
    """The characters of a file in UTF-8, some at a time, without a byte order mark.

    Raises:
        DataError: If it is not UTF-8; the message has the byte and the line, and encodings that fit.
    """
    decoder = codecs.getincrementaldecoder("utf-8")()
    done, lines, wide, head = 0, 0, False, b""
    for chunk in itertools.chain(chunks(path), [b""]):
        waiting = decoder.getstate()[0]
        head = head or chunk[:8]
        try:
            text = decoder.decode(chunk, final=not chunk)
        except UnicodeDecodeError as error:
            data = waiting + chunk
            lines += data.count(b"\n", 0, error.start)
            mixed = wide or not data[: error.start].isascii()
            place = done - len(waiting) + error.start
            raise DataError(_not_utf8(path, place, lines + 1, head, data[error.start :], mixed)) from error
        text = text if done else text.removeprefix("\ufeff")
        done += len(chunk)
        lines += text.count("\n")
        wide = wide or not text.isascii()
        yield text


def _not_utf8(path: Path, place: int, line: int, head: bytes, rest: bytes, mixed: bool) -> str:
    """Message for a file that is not UTF-8 from a byte on."""
    start = f"{path}:{line}: not UTF-8 at byte {place}"
    kind = next((name for magic, name in ARCHIVES.items() if head.startswith(magic)), None)
    if kind:
        return f"{start}: it is {kind}; save it as plain text in UTF-8"
    if head.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        fits = ["UTF-32" if head.startswith(codecs.BOM_UTF32_LE) else "UTF-16"]
        why = f"it begins with the byte order mark of {fits[0]}"
    elif mixed:
        return (
            f"{start}: characters before it are UTF-8, so the encodings are mixed: mend the lines that "
            f"grep -naxv '.*' '{path.name}' prints, or read the bytes by --dataset.unit bytes"
        )
    else:
        fits = [name for name in ENCODINGS if _decodes(rest, name)] or ["ISO-8859-1"]
        why = f"{ascii(rest[:12])[1:]} there would be text in {' or '.join(fits)}"
    new = path.with_suffix(".utf8.txt")
    return (
        f"{start}: {why}; save it as UTF-8 (iconv -f {fits[0]} -t UTF-8 '{path.name}' > '{new.name}'), or read its "
        "bytes by --dataset.unit bytes"
    )


def _decodes(data: bytes, encoding: str) -> bool:
    try:
        codecs.getincrementaldecoder(encoding)().decode(data)
    except UnicodeDecodeError:
        return False
    return True


def shown(character: str) -> str:
    """A character by its code point, in ASCII."""
    return f"U+{ord(character):04X} {character!a}"


def mapped(path: Path, offset: int = 0) -> Array:
    """The bytes of a file, from an offset on: in memory, or in a memory map if they are many."""
    with reading(path) as file:
        if fingerprint(path)[2] > MAPPED:
            return np.memmap(path, np.uint8, "r", offset)
        return np.fromfile(file, np.uint8, offset=offset)


def read_bytes(path: Path) -> Numbers:
    """The bytes of a file."""
    array = np.frombuffer(bytearray().join(chunks(path)), np.uint8) if is_packed(path) else mapped(path)
    if not len(array):
        raise DataError(f"{path}: no rows: the file is empty")
    if all((array[i : i + CHUNK] == array[0]).all() for i in range(0, len(array), CHUNK)):
        raise DataError(f"{path}: a file of the byte {int(array[0])} only has nothing to learn")
    return Numbers(array)


def read_characters(path: Path, alphabet: str | None) -> Numbers:
    """The characters of a file.

    Arguments:
        path: The file.
        alphabet: The characters of the classes; None for those of the file, in the order of the lines in which they
            come first and sorted within a line.
    Raises:
        DataError: If the file is empty, not text, or has a character outside the alphabet.
    """
    found, size = _alphabet_of(path, alphabet)
    if alphabet is None and len(found) < 2:
        raise DataError(
            f"{path}: a text of {shown(found)} only has nothing to learn; expected two different characters"
        )
    if not is_packed(path) and fingerprint(path)[2] - size in (0, 3) and all(c < "\x80" for c in found):
        return Numbers(mapped(path, fingerprint(path)[2] - size), found, is_bytes=True)
    codec, array, end = TextCodec(found, 1), np.empty(size, smallest(len(found))), 0
    for text in pieces(path):
        array[end : end + len(text)] = codec.classes(text)
        end += len(text)
    if alphabet is None and len(found) > MANY:
        _tell_many(path, np.bincount(array, minlength=len(found)))
    return Numbers(array, found)


def _tell_many(path: Path, counts: Array) -> None:
    rare = int((counts < RARE).sum())
    warnings.warn(
        f"{path}: {len(counts):,} different characters are as many classes, {rare:,} of which occur fewer than {RARE} "
        'times; unit = "bytes" has 256',
        BFNWarning,
        stacklevel=2,
    )


def _alphabet_of(path: Path, alphabet: str | None) -> tuple[str, int]:
    """Characters of a file in the order of their classes, and the number of all."""
    known = set(alphabet or "")
    order: dict[str, int] = {}  # line in which a character comes first
    strange, first = 0, ""
    size, lines = 0, 0
    for text in pieces(path):
        new = _others(text, known) if alphabet else _others(text, set(order))
        for character in sorted(new, key=text.index):
            offset = text.index(character)
            line = lines + text.count("\n", 0, offset)
            place = f"{shown(character)} at offset {size + offset}"
            if alphabet:
                strange, first = strange + text.count(character), first or f"{path}:{line + 1}: the character {place}"
            elif character < " " and character not in CONTROLS:
                if text.count("\0") > len(text) // 4:
                    order_of_bytes = "LE" if (size + offset) % 2 else "BE"
                    raise DataError(
                        f"{path}:{line + 1}: {place}: UTF-16 without a byte order mark, it seems; save it as UTF-8 "
                        f"(iconv -f UTF-16{order_of_bytes} -t UTF-8 '{path.name}' > '{path.stem}.utf8.txt')"
                    )
                raise DataError(
                    f"{path}:{line + 1}: not text: the control character {place}; if it belongs there, list all "
                    "characters in the option alphabet, or read bytes by --dataset.unit bytes"
                )
            else:
                order[character] = line
        size, lines = size + len(text), lines + text.count("\n")
    if not size:
        raise DataError(f"{path}: no rows: the file is empty")
    if strange:
        raise DataError(f"{first} is not in the alphabet ({strange} such characters in all)")
    return alphabet or "".join(sorted(order, key=lambda character: (order[character], character))), size


def _others(text: str, known: set[str]) -> set[str]:
    """The characters of a text that are not among those known."""
    if text.isascii():  # ten times as fast as a set of all
        left = text.encode().translate(None, "".join(c for c in known if c < "\x80").encode())
        return set(left.decode())
    return set(text) - known


def read_text8(path: Path) -> Numbers:
    """The characters of a file in the alphabet of text8, which all texts can be written in.

    Letters become lower-case, digits are spelled out, and a blank stands for everything between two words.
    """
    if not is_packed(path) and all(before == after for before, after in _as_text8(path)):
        array = mapped(path)
    else:
        text = bytearray()
        for _, after in _as_text8(path):
            text += after
        array = np.frombuffer(text, np.uint8)
    if not len(array):
        raise DataError(f"{path}: no rows: the file is empty")
    if len(array) == 1 and array[0] == ord(" "):
        raise DataError(f"{path}: no letter a...z and no digit, which the alphabet of text8 keeps; leave alphabet out")
    return Numbers(array, TEXT8, is_bytes=True)


_PLAIN = (
    bytes(c if chr(c).isdigit() else ord(chr(c).lower()) if chr(c).isalpha() else 32 for c in range(128)) + b" " * 128
)
_RUNS = re.compile(rb"  +")
_DIGIT = re.compile(rb"[0-9]")


def _as_text8(path: Path) -> Iterator[tuple[bytes, bytes]]:
    """Bytes of a file, some at a time, and what they become."""
    blank = False
    for chunk in chunks(path):
        text = _DIGIT.sub(lambda digit: f" {DIGITS[int(digit[0])]} ".encode(), chunk.translate(_PLAIN))
        text = _RUNS.sub(b" ", text)
        text = text[1:] if blank and text.startswith(b" ") else text
        blank = text.endswith(b" ") if text else blank
        yield chunk, text


def read_tokens(path: Path, codec: TokenCodec) -> Numbers:
    """The tokens of a file, which is cut at line ends to be tokenized."""
    dtype, waiting = smallest(codec.classes), ""
    parts: list[Array] = []
    for text in itertools.chain(pieces(path), [None]):
        waiting += text or ""
        end = waiting.rfind("\n") + 1
        if text is None or (not end and len(waiting) > CHUNK):
            end = len(waiting)
        parts.extend(np.array(codec.tokens(line), dtype) for line in _cut(waiting[:end]))
        waiting = waiting[end:]
    array = np.concatenate(parts) if parts else np.empty(0, dtype)
    if not len(array):
        raise DataError(f"{path}: no rows: the file is empty")
    return Numbers(array)


def _cut(text: str) -> Iterator[str]:
    """Pieces of a text, which end with lines."""
    start = 0
    while start < len(text):
        end = text.find("\n", start + TOKENIZED) + 1 or len(text)
        yield text[start:end]
        start = end
