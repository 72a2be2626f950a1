"""Codecs of bytes and of tokens."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import attrs
import numpy as np
import torch
from attrs import field
from torch import Tensor

from bfn_toolkit import Codec, ConfigError, DataError, Format, LinesFormat, validators

BYTES = 256  # classes of bytes
UNKNOWN = "\N{REPLACEMENT CHARACTER}"  # in a text of tokens, one that is unknown


def _trimmed(row: Sequence[int]) -> list[int]:
    """Classes without the gaps at the end."""
    size = len(row)
    while size and row[size - 1] < 0:
        size -= 1
    return list(row[:size])


def _padded(rows: Sequence[Sequence[int]], length: int, unit: str) -> Tensor:
    """Classes (B, L), with -1 after the end of a row."""
    x = torch.full((len(rows), length), -1)
    for number, row in enumerate(rows):
        if len(row) > length:
            raise DataError(f"text {number + 1} has {len(row)} {unit}, expected {length} or fewer")
        x[number, : len(row)] = torch.tensor(row, dtype=torch.int64)
    return x


def _checked(numbers: Any, classes: int, what: str) -> Tensor:
    fits = isinstance(numbers, Tensor) and numbers.ndim > 0 and not numbers.is_floating_point()
    if not fits or bool((numbers >= classes).any()):
        raise DataError(f"expected integers below {classes}, {what}")
    x: Tensor = numbers.reshape(-1, numbers.shape[-1]).long().clamp_min(-1)
    return x


def _hidden(x: Tensor, mask: Tensor | None) -> list[list[int]]:
    """Classes on the CPU, with -1 outside the mask."""
    x = x.detach().cpu()
    rows: list[list[int]] = (x if mask is None else torch.where(mask.cpu(), x, -1)).tolist()
    return rows


@attrs.frozen
class _BytesFormat(LinesFormat):
    """Bytes as they are, one text a line."""

    def pieces(self, raw: Any, n: int, first: int, end: int) -> Iterator[tuple[int, bytes]]:
        """The rows at the end."""
        yield from super().pieces([row.decode("latin-1") for row in raw], n, first, end)

    def read(self, path: Path) -> list[bytes]:
        """The lines, without an empty last one."""
        return [line.encode("latin-1") for line in super().read(path)]


@attrs.frozen
class BytesCodec(Codec):
    r"""Bytes as classes.

    Raw data are a list of ``bytes``.  Bytes after the end of a text are unknown; an unknown byte before its last known
    one is decoded as ``?``, because every byte stands for itself.  A .txt file holds the bytes as they are, one text a
    line, but for \\n, \\r and \\\\.

    Arguments:
        length: Number L of bytes of an example.
        categories: See :class:`~bfn_toolkit.Codec`.

    >>> BytesCodec(length=4).decode(BytesCodec(length=4).encode([b"abc"]))
    [b'abc']
    """

    length: int = field(validator=validators.integer(ge=1))

    @property
    def formats(self) -> Mapping[str, Format]:
        """Lines of bytes, and classes as arrays and tensors."""
        return {".txt": _BytesFormat(self, escaped=True, encoding="latin-1"), **super().formats}

    def encode(self, raw: Any) -> Tensor:
        """Classes (B, L) of the bytes; -1 after the end of a text.

        Raises:
            DataError: If a text is too long.
        """
        return _padded([list(row) for row in raw], self.length, "bytes")

    def decode(self, x: Any, mask: Any = None) -> list[bytes]:
        """Bytes of windows or samples (B, L)."""
        return [bytes(value if value >= 0 else ord("?") for value in _trimmed(row)) for row in _hidden(x, mask)]

    def numbers(self, raw: Any) -> Tensor:
        """Classes of the bytes."""
        return self.encode(raw)

    def from_numbers(self, numbers: Any) -> list[bytes]:
        """Bytes of classes, of which a negative one is a gap.

        Raises:
            DataError: If they are not bytes.
        """
        return self.decode(_checked(numbers, BYTES, "bytes"))


class TokenText(str):
    """A text that knows its tokens, because the tokens of a text that was decoded may be others.

    Arguments:
        text: The text.
        tokens: Numbers of its tokens, -1 for an unknown one.
    """

    tokens: tuple[int, ...]

    def __new__(cls, text: str, tokens: Sequence[int]) -> TokenText:
        """A text with its tokens."""
        self = super().__new__(cls, text)
        self.tokens = tuple(tokens)
        return self

    def __getnewargs__(self) -> Any:  # for pickle
        return str(self), self.tokens


def _brief(text: str) -> str:
    return f"<{len(text):,} characters, SHA-256 {hashlib.sha256(text.encode()).hexdigest()[:12]}>"


@attrs.frozen
class TokenCodec(Codec):
    """Tokens of a tokenizer as classes.

    Raw data are a list of texts.  Tokens after the end of a text are unknown; an unknown token before the last known
    one is decoded as U+FFFD.

    Arguments:
        tokenizer: The JSON of a tokenizer of the library tokenizers.
        classes: Number K of tokens.
        length: Number L of tokens of an example.
        categories: See :class:`~bfn_toolkit.Codec`.
    """

    tokenizer: str = field(repr=_brief)
    classes: int = field(validator=validators.integer(ge=2))
    length: int = field(validator=validators.integer(ge=1))

    @property
    def formats(self) -> Mapping[str, Format]:
        """Lines of text, and tokens as arrays and tensors."""
        return {".txt": LinesFormat(self, escaped=True), **super().formats}

    def encode(self, raw: Any) -> Tensor:
        """Tokens (B, L) of texts; -1 after the end of a text.

        Raises:
            ConfigError: If the library tokenizers is missing.
            DataError: If a text has too many tokens.
        """
        rows = [row.tokens if isinstance(row, TokenText) else self.tokens(row) for row in raw]
        return _padded(rows, self.length, "tokens")

    def tokens(self, text: str) -> list[int]:
        """Tokens of one text, without those that mark its beginning or end."""
        found: list[int] = built(self.tokenizer).encode(text, add_special_tokens=False).ids
        return found

    def decode(self, x: Any, mask: Any = None) -> list[str]:
        """Texts of windows or samples (B, L), as :class:`TokenText`."""
        return [TokenText(self._text(row), row) for row in map(_trimmed, _hidden(x, mask))]

    def _text(self, row: list[int]) -> str:
        pieces: list[list[int]] = [[]]
        for token in row:
            if token < 0:
                pieces.append([])
            else:
                pieces[-1].append(token)
        tokenizer = built(self.tokenizer)
        return UNKNOWN.join(tokenizer.decode(piece, skip_special_tokens=False) for piece in pieces)

    def numbers(self, raw: Any) -> Tensor:
        """Tokens of the texts."""
        return self.encode(raw)

    def from_numbers(self, numbers: Any) -> list[str]:
        """Texts of tokens, of which a negative one is a gap.

        Raises:
            DataError: If they are not tokens of this tokenizer.
        """
        return self.decode(_checked(numbers, self.classes, "the tokens of the tokenizer"))


@lru_cache(maxsize=2)
def built(tokenizer: str) -> Any:
    """The tokenizer of a JSON text.

    Raises:
        ConfigError: If the library tokenizers is missing.
        DataError: If the text is not a tokenizer.
    """
    try:
        from tokenizers import Tokenizer
    except ImportError:
        raise ConfigError("tokens need the library tokenizers; write: pip install tokenizers") from None
    try:
        found = Tokenizer.from_str(tokenizer)
    except Exception as error:  # the library raises no narrower class
        raise DataError(f"not the JSON of a tokenizer: {' '.join(str(error).split())[:200]}") from error
    found.no_truncation()
    found.no_padding()
    return found


def smallest(classes: int) -> np.dtype[Any]:
    """The smallest dtype that holds the classes 0 ... K - 1, and that torch has."""
    return np.dtype(np.uint8 if classes <= 2**8 else np.int16 if classes <= 2**15 else np.int32)
