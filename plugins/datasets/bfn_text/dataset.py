"""The data set of texts."""

from __future__ import annotations

import itertools
import json
import os
import warnings
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import attrs
import torch
from attrs import field
from torch import Tensor

from bfn_files.reading import Content, FileDataset, Fingerprint, fingerprint, reading, sha256_of
from bfn_text.codecs import BYTES, BytesCodec, TokenCodec, built
from bfn_text.reading import (
    Numbers,
    ending_of,
    looks_like_text,
    read_bytes,
    read_characters,
    read_text8,
    read_tokens,
    shown,
)
from bfn_text.windows import WindowRows, Windows, blocks, every_window, held_out, missing
from bfn_toolkit import (
    Batch,
    BFNWarning,
    Codec,
    ConfigError,
    DataError,
    Dataset,
    Recognised,
    ResourceError,
    Rows,
    Split,
    TextCodec,
    validators,
)

SHOWN = 5  # largest number of characters in a message
LENGTH = 128  # of a window by default ...
WINDOWS = 32  # ... of a text of so many of them, at least
MAX_TOKENIZER = 7 * 2**20  # bytes of the JSON of a tokenizer as a model keeps it
FILES = 20  # of a folder that are looked at
OTHERS = (".csv", ".tsv", ".smi", ".fasta", ".fa", ".xyz", ".ply", ".npy", ".npz", ".safetensors")
PROSE = (".txt", ".text", ".md", ".rst", ".tex")


def _different(_: object, __: attrs.Attribute[Any], alphabet: str | None) -> None:
    if alphabet is not None and alphabet != "text8" and (len(alphabet) < 2 or len(set(alphabet)) < len(alphabet)):
        doubled = next((c for c in alphabet if alphabet.count(c) > 1), None)
        got = f"{doubled!r} twice" if doubled else repr(alphabet)
        raise ConfigError(f'alphabet: expected two or more different characters, or "text8", got {got}')


def _absolute(path: str | Path | None) -> Path | None:
    return None if path is None else Path(os.path.abspath(Path(path).expanduser()))


def _held_out() -> float:
    value: float = field(default=0.05, kw_only=True, validator=validators.number(gt=0, lt=1))
    return value


def _one_of(default: str, *others: str, alias: str | None = None) -> Any:
    return field(default=default, kw_only=True, alias=alias, validator=validators.one_of(default, *others))


@attrs.frozen(eq=False)
class TextContent(Content):
    """A text as numbers, its windows, and its codec."""

    rows: WindowRows
    numbers: Numbers
    windows: Windows
    codec: Codec


@attrs.frozen
class Text(FileDataset):
    """Windows of a text, as int64 classes (L,).

    Arguments:
        path: A text file with any name; one whose name ends in .gz is unpacked.
        length: Number L of units in a window; by default 128, or less if the text has fewer than 32 of these.
        unit: "characters" of a file in UTF-8, "bytes" of any file, or "tokens".
        tokenizer: For tokens, the JSON file of a tokenizer of the library tokenizers.
        alphabet: The characters, in the order of their classes; by default those of the file, line by line, the new
            ones of each line sorted, so that lines at the end of the file change no class.  "text8" stands for a blank
            and a...z: letters become lower-case, digits are spelled out, and the rest between two words is one blank.
        windows: In training, "random" windows begin anywhere in the training text, and elsewhere in each step; "fixed"
            ones do not overlap, as those of validation and test never do.
        split: "windows" holds out windows at random, "blocks" the end of the text for the test and what is before it
            for validation.
        valid_fraction: Fraction of the text held out for validation, at least one window.
        test_fraction: Fraction of the text held out for the test, at least one window.
        seed: Seed of the windows that are held out.
    """

    length: int | None = field(default=None, kw_only=True, validator=validators.optional(validators.integer(ge=1)))
    unit: Literal["characters", "bytes", "tokens"] = _one_of("characters", "bytes", "tokens")
    tokenizer: Path | None = field(
        default=None, kw_only=True, converter=_absolute, repr=lambda path: repr(path and str(path))
    )
    alphabet: str | None = field(default=None, kw_only=True, validator=_different)
    windows: Literal["random", "fixed"] = _one_of("random", "fixed")
    held_out: Literal["windows", "blocks"] = _one_of("windows", "blocks", alias="split")  # split is a method
    valid_fraction: float = _held_out()
    test_fraction: float = _held_out()

    def __repr__(self) -> str:
        options = []
        for option in attrs.fields(type(self)):
            if option.repr:
                value = getattr(self, option.name)
                options.append(f"{option.alias}={option.repr(value) if callable(option.repr) else repr(value)}")
        return f"{type(self).__name__}({', '.join(options)})"

    @classmethod
    def recognise(cls, path: Path) -> Recognised | None:
        """UTF-8 without control characters, or a name that promises a text; not the formats of other readers."""
        if path.is_dir():
            with os.scandir(path) as entries:
                names = [entry.name for entry in itertools.islice(entries, FILES) if not entry.name.startswith(".")]
            return Recognised("a folder of texts", 1) if names and all(map(_promises_text, names)) else None
        if ending_of(path.name) in OTHERS:
            return None
        try:
            is_text = looks_like_text(path)
        except (DataError, ResourceError):
            is_text = False
        return Recognised("text", 1) if is_text or _promises_text(path.name) else None

    @property
    def default_config(self) -> Mapping[str, object]:
        """The preset "text"."""
        return {"preset": "text"}

    @property
    def content(self) -> TextContent:
        """The text and its windows.

        Raises:
            ConfigError: If an option does not suit the unit, or the library tokenizers is missing.
            DataError: If the file is not text in this alphabet, is too short, or was written since.
        """
        if self.path.is_dir():
            raise DataError(
                f"{self.path}: a folder, not a text file; join its files into one: "
                f"cat '{self.path}'/* > '{self.path}.txt'"
            )
        tokenizer = None if self.tokenizer is None or self.unit != "tokens" else fingerprint(self.tokenizer)
        return _text(self, self.unchanged(), tokenizer)

    @property
    def codec(self) -> Codec:
        """The alphabet, the bytes or the tokenizer."""
        return self.content.codec

    @property
    def source(self) -> Mapping[str, object]:
        """Rows and SHA-256 of the file, and SHA-256 of the tokenizer."""
        if self.tokenizer is None:
            return super().source
        return {**super().source, "tokenizer": sha256_of(self.tokenizer, fingerprint(self.tokenizer))}

    @property
    def site_shape(self) -> tuple[int, ...]:
        """The number of units in a window."""
        return (self.content.windows.length,)

    def rows(self, name: Split) -> Rows:
        """Windows as they are stored, for :meth:`prepare`."""
        content = self.content
        wide = self.windows == "random" and content.windows.length > 1
        return WindowRows(content.rows.text, content.windows, content.windows.index(name), wide)

    def split(self, name: Split) -> Batch:
        """All windows of a split."""
        return Dataset.split(self, name)

    def prepare(self, batch: Batch) -> Batch:
        """Classes of windows, in training of those that begin at random places."""
        content, x = self.content, batch.x
        assert isinstance(x, Tensor)
        length = content.windows.length
        if x.shape[1] > length:
            first = torch.randint(length, (len(x), 1), device=x.device) * (x[:, length:][:, :1] >= 0)
            x = x.gather(1, first + torch.arange(length, device=x.device))
        x = x.long()
        return Batch(_table(content.numbers.alphabet, x.device)[x] if content.numbers.is_bytes else x)

    def encode(self, text: str) -> Tensor:
        """Classes (N,) of the N units of a text.

        Raises:
            DataError: If a character is not in the alphabet.
        """
        codec = self.codec
        if isinstance(codec, TextCodec):
            classes = torch.from_numpy(codec.classes(text))
            if bool((classes < 0).any()):
                offset = int((classes < 0).int().argmax())
                raise DataError(f"text: the character {shown(text[offset])} at offset {offset} is not in the alphabet")
            return classes
        units = codec.tokens(text) if isinstance(codec, TokenCodec) else list(text.encode())
        return torch.tensor(units, dtype=torch.int64)

    def decode(self, x: Tensor) -> list[Any]:
        """Texts of windows or samples (B, L)."""
        texts: list[Any] = self.codec.decode(x)
        return texts


def _promises_text(name: str) -> bool:
    return ending_of(name) in PROSE


@lru_cache(maxsize=8)
def _table(alphabet: str, device: torch.device) -> Tensor:
    """Class of each byte of ASCII."""
    table = torch.zeros(BYTES, dtype=torch.int64)
    table[torch.tensor(list(alphabet.encode()))] = torch.arange(len(alphabet))
    return table.to(device)


@lru_cache(maxsize=2)
def _text(dataset: Text, _: Fingerprint, tokenizer: Fingerprint | None) -> TextContent:
    numbers, classes, token_codec = _read(dataset)
    path, size = dataset.path, len(numbers.array)
    length = dataset.length or _length_of(dataset, size)
    if size < length:
        raise DataError(f"{path}: {size} {dataset.unit} are shorter than one window of length = {length}")
    fractions = dataset.valid_fraction, dataset.test_fraction
    try:
        by_blocks = dataset.held_out == "blocks"
        windows = blocks(size, length, *fractions) if by_blocks else held_out(size, length, *fractions, dataset.seed)
    except DataError as error:
        raise DataError(f"{path}: {error}") from error
    codec: Codec = BytesCodec(length)
    if token_codec is not None:
        codec = attrs.evolve(token_codec, length=length)
    elif numbers.alphabet:
        codec = TextCodec(numbers.alphabet, length)
    if numbers.alphabet and dataset.alphabet != "text8":  # whose alphabet is larger than that of many texts
        _tell_missing(path, numbers, windows)
    rows = WindowRows(every_window(numbers.array, length), windows, None, wide=False)
    metadata = {"classes": classes, "axes": ("sequence",)}
    return TextContent(rows=rows, splits={}, metadata=metadata, numbers=numbers, windows=windows, codec=codec)


def _read(dataset: Text) -> tuple[Numbers, int, TokenCodec | None]:
    """The text of a file, the number of classes, and the codec of tokens."""
    path, unit = dataset.path, dataset.unit
    if unit != "tokens" and dataset.tokenizer is not None:
        raise ConfigError(f"tokenizer: {unit} need none; write --dataset.unit tokens")
    if unit != "characters" and dataset.alphabet is not None:
        raise ConfigError(f"alphabet: {unit} have none; leave it out, or write --dataset.unit characters")
    if unit == "bytes":
        return read_bytes(path), BYTES, None
    if unit == "tokens":
        if dataset.tokenizer is None:
            raise ConfigError(
                'unit: "tokens" need a tokenizer; write --dataset.tokenizer tokenizer.json, the file of one of the '
                "library tokenizers"
            )
        codec = _token_codec(dataset.tokenizer)
        return read_tokens(path, codec), codec.classes, codec
    numbers = read_text8(path) if dataset.alphabet == "text8" else read_characters(path, dataset.alphabet)
    return numbers, len(numbers.alphabet), None


def _token_codec(path: Path) -> TokenCodec:
    with reading(path) as file:
        content = file.read(MAX_TOKENIZER + 1)
    try:
        text = content.decode()
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: not the JSON of a tokenizer: {error}") from error
    if len(content) > MAX_TOKENIZER or len(json.dumps(text)) > MAX_TOKENIZER:
        raise DataError(
            f"{path}: a model keeps its tokenizer, and has room for one of {MAX_TOKENIZER:,} bytes as JSON; take one "
            "with fewer tokens, or read bytes by --dataset.unit bytes"
        )
    try:
        return TokenCodec(text, built(text).get_vocab_size(), 1)
    except DataError as error:
        raise DataError(f"{path}: {error}") from error


def _length_of(dataset: Text, size: int) -> int:
    """The default length: a power of two, so that there are enough windows."""
    length = min(LENGTH, 1 << (max(1, size // WINDOWS).bit_length() - 1))
    if length < LENGTH:
        warnings.warn(
            f"{dataset.path}: windows of {length} {dataset.unit}, because there are {size:,} in all; "
            "--dataset.length sets it",
            BFNWarning,
            stacklevel=2,
        )
    return length


def _tell_missing(path: Path, numbers: Numbers, windows: Windows) -> None:
    alphabet = numbers.alphabet
    found = missing(numbers.array, windows, BYTES if numbers.is_bytes else len(alphabet))
    characters = [c for c in map(chr, found) if c in alphabet] if numbers.is_bytes else [alphabet[i] for i in found]
    if characters:
        few = ", ".join(map(shown, characters[:SHOWN])) + (", ..." if len(characters) > SHOWN else "")
        warnings.warn(f"{path}: no training row has the character {few}", BFNWarning, stacklevel=2)
