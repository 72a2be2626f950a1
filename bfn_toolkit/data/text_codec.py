"""Codec of texts: characters as classes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import attrs
import numpy as np
import torch
from attrs import field
from torch import Tensor

from bfn_toolkit.data.codec import Codec, put_gaps
from bfn_toolkit.data.formats import Format, LinesFormat, Raw
from bfn_toolkit.errors import DataError
from bfn_toolkit.shapes import Data, Mask
from bfn_toolkit.validators import integer, invalid


def _alphabet(codec: object, attribute: attrs.Attribute[Any], alphabet: str) -> None:
    if not alphabet or len(set(alphabet)) < len(alphabet):
        raise invalid(codec, attribute, f"expected different characters, at least one, got {alphabet!r}")


@attrs.frozen
class TextCodec(Codec):
    """Characters as classes: their places in an alphabet.

    Raw data are a list of texts.  :attr:`gap` stands for an unknown character; characters after the end of a text are
    unknown too, and gaps at the end are not decoded.

    Arguments:
        alphabet: The characters, in the order of their classes.
        length: Number of characters of an example.
        categories: See :class:`Codec`.

    >>> text = TextCodec("abc ", length=4)
    >>> text.encode(["a ca", "b_"])
    tensor([[ 0,  3,  2,  0],
            [ 1, -1, -1, -1]])
    >>> text.decode(torch.tensor([[0, 3, 2, 0]]))
    ['a ca']
    """

    alphabet: str = field(validator=_alphabet)
    length: int = field(validator=integer(ge=1))

    @property
    def formats(self) -> Mapping[str, Format]:
        """Lines of text, and classes as arrays and tensors."""
        escaped = bool({"\n", "\r"} & set(self.alphabet))
        return {".txt": LinesFormat(self, escaped), **super().formats}

    @property
    def class_names(self) -> tuple[str, ...]:
        """The characters."""
        return tuple(self.alphabet)

    @property
    def gap(self) -> str:
        """Sign for an unknown character: the first of _, ? and others that is not in the alphabet."""
        signs = ("_", "?", "\N{REPLACEMENT CHARACTER}", *map(chr, range(0xE000, 0xF900)))
        return next(sign for sign in signs if sign not in self.alphabet)

    def classes(self, text: str) -> np.ndarray[Any, Any]:
        """Classes (N,) of the N characters of a text, as int64; -1 for those outside the alphabet."""
        known, points = _code_points(self.alphabet), _code_points(text)
        order = np.argsort(known)
        classes = order[np.searchsorted(known[order], points).clip(max=len(known) - 1)]
        return np.where(known[classes] == points, classes, -1).astype(np.int64)

    def encode(self, raw: Raw) -> Tensor:
        """Classes (B, L) of the characters; -1 for unknown ones.

        Raises:
            DataError: If a text is too long, or has a character outside the alphabet.
        """
        for number, text in enumerate(raw, 1):
            if len(text) > self.length:
                raise DataError(f"text {number} has {len(text)} characters, expected {self.length} or fewer")
        together = "".join(text.ljust(self.length, self.gap) for text in raw)
        classes = self.classes(together)
        strange = np.flatnonzero((classes < 0) & (_code_points(together) != ord(self.gap)))
        if len(strange):
            number, place = divmod(int(strange[0]), self.length)
            character = together[strange[0]]
            raise DataError(
                f"text {number + 1}: the character U+{ord(character):04X} {character!a} at offset {place} is not in "
                f"the alphabet of the model; write {self.gap!r} for an unknown character"
            )
        return torch.from_numpy(classes.reshape(len(raw), self.length))

    def decode(self, x: Data, mask: Mask | None = None) -> list[str]:
        """Texts of windows or samples (B, L)."""
        signs = (*self.alphabet, self.gap)
        x = put_gaps(x, mask)
        texts = ["".join(map(signs.__getitem__, row)) for row in x.tolist()]
        return texts if bool((x >= 0).all()) else [text.rstrip(self.gap) for text in texts]

    def numbers(self, raw: Raw) -> Tensor:
        """Classes of the characters."""
        return self.encode(raw)

    def from_numbers(self, numbers: Data) -> list[str]:
        """Texts of classes, of which a negative one is a gap.

        Raises:
            DataError: If they are not classes of this alphabet.
        """
        fits = isinstance(numbers, Tensor) and numbers.ndim > 0 and not numbers.is_floating_point()
        if not fits or bool((numbers >= len(self.alphabet)).any()):
            raise DataError(f"expected integers below {len(self.alphabet)}, the classes of the alphabet")
        return self.decode(numbers.reshape(-1, numbers.shape[-1]).clamp_min(-1))


def _code_points(text: str) -> np.ndarray[Any, Any]:
    return np.frombuffer(text.encode("utf-32-le", "surrogatepass"), "<u4")
