"""Text (plugin): the characters of a UTF-8 file as classes, in windows that do not overlap.

The text is divided into windows of L characters, from its beginning; an incomplete last window is left out.  Line ends
are ordinary characters, kept as in the file.
"""

from __future__ import annotations

import codecs
import warnings
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

import attrs
import torch
from attrs import field
from torch import Tensor

from bfn_files.reading import Content, FileDataset, Fingerprint, reading
from bfn_toolkit import Batch, BFNWarning, ConfigError, DataError, Entry, TextCodec, hookimpl, validators

SHOWN = 5  # largest number of characters in a message


def _different(_: object, __: attrs.Attribute[Any], alphabet: str | None) -> None:
    if alphabet is not None and (len(alphabet) < 2 or len(set(alphabet)) < len(alphabet)):
        doubled = next((c for c in alphabet if alphabet.count(c) > 1), None)
        got = f"{doubled!r} twice" if doubled else repr(alphabet)
        raise ConfigError(f"alphabet: expected two or more different characters, got {got}")


@attrs.frozen(eq=False)
class TextContent(Content):
    """Content of a text, and its codec."""

    codec: TextCodec


@attrs.frozen
class Text(FileDataset):
    """Windows of a text, as int64 indices of characters in an alphabet.

    Arguments:
        path: A text file in UTF-8, with any name.
        length: Number L of characters in a window.
        alphabet: The characters, in the order of their classes; by default those of the file, line by line, the new
            ones of each line sorted, so that lines at the end of the file change no class.
        valid_fraction: Fraction held out for validation, of the windows outside the test set.
        test_fraction: Fraction of the windows held out for the test set.
        seed: Seed of the splits.
    """

    length: int = field(default=16, kw_only=True, validator=validators.integer(ge=1))
    alphabet: str | None = field(default=None, kw_only=True, validator=_different)

    @property
    def default_config(self) -> Mapping[str, object]:
        """Classes, with a perceptron."""
        return {
            "family": "categorical",
            "network": {"name": "mlp", "depth": 2},
            "training": {"steps": 2500, "batch_size": 128, "lr": 2e-3, "ema_decay": 0.99},
        }

    @property
    def content(self) -> TextContent:
        """The windows.

        Raises:
            DataError: If the file is not text in this alphabet, is too short, or was written since.
        """
        return _text(self, self.unchanged())

    def encode(self, text: str) -> Tensor:
        """Classes (N,) of the N characters of a text.

        Raises:
            DataError: If a character is not in the alphabet.
        """
        return _classes(text, self.codec, "text")

    def decode(self, x: Tensor) -> list[str]:
        """Texts of windows or samples (B, L)."""
        return self.codec.decode(x)

    @property
    def codec(self) -> TextCodec:
        """The alphabet."""
        return self.content.codec


@lru_cache(maxsize=2)
def _text(dataset: Text, _: Fingerprint) -> TextContent:
    path, length = dataset.path, dataset.length
    with reading(path) as file:
        try:
            text = file.read().removeprefix(codecs.BOM_UTF8).decode()
        except UnicodeDecodeError as error:
            raise DataError(f"{path}: not UTF-8 at byte {error.start}; save the file as UTF-8") from error
        alphabet = dataset.alphabet or _alphabet_of(text, str(path))
        windows = len(text) // length
        if not windows:
            raise DataError(f"{path}: {len(text)} characters are shorter than one window of length = {length}")
        codec = TextCodec(alphabet, length)
        x = _classes(text, codec, str(path))[: windows * length].reshape(windows, length)
    splits = dataset.partition(windows)
    missing = (x[splits["train"]].flatten().bincount(minlength=len(alphabet)) == 0).nonzero().flatten().tolist()
    if missing:
        few = ", ".join(_shown(alphabet[i]) for i in missing[:SHOWN]) + (", ..." if len(missing) > SHOWN else "")
        warnings.warn(f"{path}: no training row has the character {few}", BFNWarning, stacklevel=2)
    return TextContent(Batch(x), splits, {"classes": len(alphabet), "axes": ("sequence",)}, codec)


def _alphabet_of(text: str, place: str) -> str:
    """The characters of a text, the new ones of each line sorted; control characters suggest a binary file: refused."""
    if not text:
        raise DataError(f"{place}: no rows: the file is empty")
    alphabet = list(dict.fromkeys(c for line in text.splitlines(keepends=True) for c in sorted(set(line))))
    strange = next((c for c in alphabet if c < " " and c not in "\t\n\r\f"), None)
    if strange is not None:
        raise DataError(
            f"{place}: not text: the control character {_shown(strange)} at offset {text.index(strange)}; "
            "if it belongs there, list all characters in the option alphabet"
        )
    if len(alphabet) < 2:
        raise DataError(
            f"{place}: a text of {_shown(text[0])} only has nothing to learn; expected two different characters"
        )
    return "".join(alphabet)


def _classes(text: str, codec: TextCodec, place: str) -> Tensor:
    """Class of each character; the error for one outside the alphabet names its code point and its offset."""
    classes = codec.classes(text)
    strange = classes < 0
    if strange.any():
        offset = int(strange.argmax())
        line = text.count("\n", 0, offset) + 1
        raise DataError(
            f"{place}:{line}: the character {_shown(text[offset])} at offset {offset} is not in the alphabet "
            f"({int(strange.sum())} such characters in all)"
        )
    return torch.from_numpy(classes)


def _shown(character: str) -> str:
    return f"U+{ord(character):04X} {character!a}"


@hookimpl
def bfn_datasets() -> Sequence[Entry]:
    """The data set, without examples, because these would need a file."""
    return [Entry("text", Text)]
