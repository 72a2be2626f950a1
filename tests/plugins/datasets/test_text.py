"""Texts: windows of a file, in characters, bytes or tokens, and the faults that a file may have."""

from __future__ import annotations

import gzip
import pickle
import random
import string
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import bfn_text.reading
from bfn_text import BytesCodec, Text, TokenCodec, TokenText
from bfn_toolkit import ConfigError, DataError, Experiment, seeded, train
from bfn_toolkit.data.rows import prepared_rows
from bfn_toolkit.testing import check_dataset

LINES = "the quick brown fox jumps over the lazy dog\n" * 40  # 44 characters each
DRAW = random.Random(0)
PROSE = "".join(DRAW.choice(LINES.split()) + DRAW.choice("  \n") for _ in range(600))  # without a period
EACH = "".join(map(chr, range(0x4E00, 0x4E00 + 400)))  # no two characters alike


def put(folder: Path, content: str | bytes, name: str = "x.txt") -> Path:
    path = folder / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def texts(dataset: Text, name: Any) -> list[str]:
    return dataset.decode(dataset.split(name).x)  # type: ignore[arg-type]


@pytest.mark.parametrize("length", [1, 7, 44])
def test_fixed_windows_are_the_text_cut_from_its_beginning(length: int, tmp_path: Path) -> None:
    dataset = Text(put(tmp_path, LINES), length=length, windows="fixed")
    index = torch.arange(len(LINES) // length)
    windows = dataset.decode(dataset.prepare(dataset.content.rows[index]).x)  # type: ignore[arg-type]
    assert "".join(windows) == LINES[: len(LINES) // length * length]
    assert {len(window) for window in windows} == {length}
    assert dataset.metadata == {"site_shape": (length,), "classes": 28, "axes": ("sequence",)}


def test_every_fixed_window_is_in_one_split(tmp_path: Path) -> None:
    dataset = Text(put(tmp_path, EACH), length=4, alphabet=EACH, windows="fixed")
    with pytest.warns(UserWarning, match="no training row has the character"):
        splits = {name: texts(dataset, name) for name in ("train", "valid", "test", "all")}
    assert [len(split) for split in splits.values()] == [90, 5, 5, 95]
    assert sorted(splits["train"] + splits["valid"]) == sorted(splits["all"])
    assert "".join(sorted(splits["all"] + splits["test"])) == EACH


@pytest.mark.filterwarnings("ignore:.*no training row")
def test_random_windows_begin_anywhere_in_the_training_text_and_nowhere_else(tmp_path: Path) -> None:
    dataset = Text(put(tmp_path, EACH), length=4, alphabet=EACH)
    fixed = Text(dataset.path, length=4, alphabet=EACH, windows="fixed")
    for name in ("valid", "test"):
        assert texts(dataset, name) == texts(fixed, name)
    windows = [EACH.index(window[0]) for window in texts(fixed, "train")]
    # A window of four begins where all of its characters are in training windows of the grid.
    expected = {s for w in windows for s in range(w, w + 4) if s == w or w + 4 in windows}
    rows, counts = dataset.rows("train"), dict.fromkeys(range(len(EACH)), 0)
    batch = rows[torch.arange(len(rows))]
    for step in range(200):
        with seeded(step, "prepare"):
            for text in dataset.decode(dataset.prepare(batch).x):  # type: ignore[arg-type]
                assert text in EACH
                counts[EACH.index(text[0])] += 1
    assert {place for place, count in counts.items() if count} == expected
    inner = [counts[s] for w in windows if w + 4 in windows for s in range(w, w + 4)]
    # Each is drawn 50 times on average, with a standard deviation of 6.1.
    assert 50 - 5 * 6.1 < min(inner) <= max(inner) < 50 + 5 * 6.1


@pytest.mark.filterwarnings("ignore:.*no training row")
def test_blocks_are_the_beginning_the_middle_and_the_end(tmp_path: Path) -> None:
    dataset = Text(put(tmp_path, EACH), length=7, alphabet=EACH, split="blocks", windows="fixed")
    parts = {"train": (0, 360), "valid": (360, 380), "test": (380, 400)}
    for name, (start, stop) in parts.items():
        assert "".join(texts(dataset, name)) == EACH[start : start + (stop - start) // 7 * 7]
    assert texts(dataset, "all") == texts(dataset, "train") + texts(dataset, "valid")


@pytest.mark.parametrize(
    "options",
    [
        {"length": 16},
        {"length": 24, "windows": "fixed", "alphabet": string.ascii_lowercase[::-1] + "\n ", "seed": 2},
        {"length": 17, "split": "blocks"},
        {"length": 32, "unit": "bytes"},
    ],
)
def test_a_text_obeys_the_laws_of_data_sets(options: Any, tmp_path: Path) -> None:
    check_dataset(Text(put(tmp_path, PROSE), **options))


@pytest.mark.parametrize("content", [PROSE, PROSE.replace("o", "é")])
def test_a_map_and_workers_give_the_rows_of_memory(
    content: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options: Any = {"length": 16, "unit": "bytes"}
    dataset = Text(put(tmp_path, content), **options)
    rows = dataset.rows("train")
    expected = rows[torch.arange(len(rows))]
    monkeypatch.setattr(bfn_text.reading, "MAPPED", 100)
    mapped = Text(put(tmp_path, content, "y.txt"), **options)
    assert isinstance(mapped.content.numbers.array, np.memmap)
    for other in (mapped.rows("train"), pickle.loads(pickle.dumps(mapped.rows("train")))):
        assert torch.equal(other[torch.arange(len(rows))].x, expected.x)  # type: ignore[arg-type]
    assert len(pickle.dumps(mapped.rows("train"))) < len(pickle.dumps(rows)) < 2 * len(content.encode()) + 4000


def test_classes_are_the_places_in_the_alphabet(tmp_path: Path) -> None:
    path = put(tmp_path, "abba" * 10)
    assert Text(path, length=4).encode("ab").tolist() == [0, 1]
    dataset = Text(path, length=4, alphabet="ba")
    assert dataset.encode("ab").tolist() == [1, 0]
    assert dataset.decode(torch.tensor([[1, 1, 0]])) == ["aab"]
    assert set("".join(texts(dataset, "train"))) == set("ab")
    with pytest.raises(DataError, match=r"U\+0063 'c' at offset 2"):
        dataset.encode("abc")


@pytest.mark.parametrize("wide", ["", "é"])
def test_the_alphabet_follows_the_lines_wherever_the_file_is_cut_to_be_read(
    wide: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = "b\na" + wide + "z b\ncdy\n" + "abczyd\n" * 20
    for size in (1, 3, 2**20):
        monkeypatch.setattr(bfn_text.reading, "CHUNK", size)
        numbers = bfn_text.reading.read_characters(put(tmp_path, text, f"{size}.txt"), None)
        assert numbers.alphabet == "\nb" + " az" + wide + "cdy"
        assert len(numbers.array) == len(text)


def test_the_alphabet_of_text8_holds_every_text(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = b"It was 1984;\tno--- caf\xc3\xa9 \xff\x00 (Room 101)\n" * 40
    expected = " ".join(["it was one nine eight four no caf room one zero one"] * 40) + " "
    for size in (1, 7, 2**20):
        monkeypatch.setattr(bfn_text.reading, "CHUNK", size)
        dataset = Text(put(tmp_path, text), alphabet="text8", length=8, windows="fixed")
        assert "".join(map(chr, bfn_text.reading.read_text8(dataset.path).array)) == expected
    assert dataset.metadata["classes"] == 27
    assert dataset.codec.class_names[:3] == (" ", "a", "b")
    assert set(texts(dataset, "train")) <= {expected[i : i + 8] for i in range(0, len(expected), 8)}
    plain = put(tmp_path, expected, "plain.txt")
    assert bytes(bfn_text.reading.read_text8(plain).array) == plain.read_bytes()


def test_bytes_are_256_classes_of_any_file(tmp_path: Path) -> None:
    content = bytes(range(256)) * 8
    dataset = Text(put(tmp_path, content), unit="bytes", length=32, windows="fixed")
    assert dataset.metadata["classes"] == 256
    codec = dataset.codec
    raw = codec.decode(dataset.split("train").x)
    assert raw[0] in content
    path = tmp_path / "out.txt"
    path.write_bytes(b"".join(piece for _, piece in codec.formats[".txt"].pieces(raw, len(raw), 0, 0)))
    assert path.read_bytes().count(b"\n") == len(raw)  # one a line
    assert codec.formats[".txt"].read(path) == raw
    assert BytesCodec(length=4).encode([b"ab"]).tolist() == [[97, 98, -1, -1]]
    assert BytesCodec(length=3).decode(torch.tensor([[97, -1, 98]])) == [b"a?b"]


def tokenizer_file(folder: Path) -> Path:
    tokenizers = pytest.importorskip("tokenizers")
    words = {word: i for i, word in enumerate(["?", *sorted({*LINES.split()})])}
    tokenizer = tokenizers.Tokenizer(tokenizers.models.WordLevel(words, unk_token="?"))
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    path = folder / "tokenizer.json"
    tokenizer.save(str(path))
    return path


def test_tokens_come_from_a_tokenizer_that_the_model_keeps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tokenizer_file(tmp_path)
    monkeypatch.setattr(bfn_text.reading, "TOKENIZED", 100)
    dataset = Text(put(tmp_path, PROSE), unit="tokens", tokenizer=path, length=8)
    words = PROSE.split()
    assert dataset.decode(torch.from_numpy(dataset.content.numbers.array)[None].long()) == [" ".join(words)]
    check_dataset(dataset)
    codec = dataset.codec
    assert isinstance(codec, TokenCodec)
    (text,) = codec.decode(torch.tensor([[1, 2, -1, 3, -1, -1]]))
    assert isinstance(text, TokenText)
    assert pickle.loads(pickle.dumps(text)).tokens == text.tokens == (1, 2, -1, 3)
    assert "\N{REPLACEMENT CHARACTER}" in text
    assert "brown" not in repr(codec)
    path.write_text("{}")
    with pytest.raises(DataError, match="not the JSON of a tokenizer"):
        Text(put(tmp_path, PROSE), unit="tokens", tokenizer=path, length=8).split("train")


def test_a_missing_library_is_told_with_the_line_to_write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "tokenizers", None)
    path = put(tmp_path, "{}", "missing.json")
    with pytest.raises(ConfigError, match=r"pip install tokenizers"):
        Text(put(tmp_path, PROSE), unit="tokens", tokenizer=path).split("train")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"unit": "tokens"}, "--dataset.tokenizer"),
        ({"tokenizer": "t.json"}, "--dataset.unit tokens"),
        ({"unit": "bytes", "alphabet": "ab"}, "bytes have none"),
    ],
)
def test_options_that_do_not_suit_the_unit_are_refused(options: Any, words: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=words):
        Text(put(tmp_path, LINES), **options).split("train")


def test_a_short_text_has_shorter_windows_and_says_so(tmp_path: Path) -> None:
    assert Text(put(tmp_path, LINES * 3)).site_shape == (128,)
    with pytest.warns(UserWarning, match="windows of 32 characters, because there are 1,760 in all"):
        assert Text(put(tmp_path, LINES)).site_shape == (32,)


def test_line_ends_and_characters_beyond_16_bits_stay_and_a_byte_order_mark_does_not(tmp_path: Path) -> None:
    for text in ("a\r\n\t\N{GRINNING FACE}" * 20, "a\r\n\tb" * 20):
        dataset = Text(put(tmp_path, text.encode("utf-8-sig")), length=5, windows="fixed")
        assert set(texts(dataset, "all")) == {text[:5]}
        assert dataset.metadata["classes"] == 5


def test_a_packed_text_is_unpacked(tmp_path: Path) -> None:
    path = put(tmp_path, gzip.compress(PROSE.encode()), "x.txt.gz")
    plain = Text(put(tmp_path, PROSE), length=5)
    for name in ("train", "valid"):
        assert texts(Text(path, length=5), name) == texts(plain, name)


def test_a_missing_character_is_told_by_its_code_point(tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match=r"no training row has the character U\+0063 'c'"):
        Text(put(tmp_path, "ab" * 50), length=2, alphabet="abc").split("train")


def test_many_characters_are_told(tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match="400 different characters .* 400 of which occur fewer than 10 times"):
        assert len(bfn_text.reading.read_characters(put(tmp_path, EACH), None).alphabet) == 400


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"caf\xe9 au lait\n" * 9, r":1: not UTF-8 at byte 3: .*Windows-1252.*iconv -f Windows-1252"),
        (
            "\xe9t\xe9\n".encode() + b"\xe9 \n",
            r":2: not UTF-8 at byte 6: .*encodings are mixed: mend .* grep",
        ),
        (PROSE.encode("utf-16"), "begins with the byte order mark of UTF-16"),
        (PROSE.encode("utf-16-le"), "at offset 1: UTF-16 without a byte order mark.*iconv -f UTF-16LE"),
        (PROSE.encode("utf-16-be"), "at offset 0: UTF-16 without a byte order mark.*iconv -f UTF-16BE"),
        (b"PK\x03\x04\xff" * 9, "zip archive"),
        (b"ab\ncd\0", r":2: not text: the control character U\+0000 .* at offset 5.*--dataset.unit bytes"),
        (b"\xef\xbb\xbf", "the file is empty"),
        (b"abc\xc3", "not UTF-8 at byte 3"),
    ],
)
def test_files_that_are_not_text_are_refused_with_the_place(content: bytes, words: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=words):
        Text(put(tmp_path, content), length=2).split("train")


def test_a_folder_is_refused_with_the_line_to_write(tmp_path: Path) -> None:
    put(tmp_path, PROSE)
    with pytest.raises(DataError, match=r"a folder.*cat "):
        Text(tmp_path).split("train")


def test_texts_are_recognised_by_their_content_or_their_name(tmp_path: Path) -> None:
    for name, content in {"x.txt": PROSE, "x.py": PROSE, "x": "é" * 9, "y.txt": b"\xff\0", "z.md": ""}.items():
        found = Text.recognise(put(tmp_path, content, name))
        assert found is not None, name
        assert found.certainty < 3
    for name, content in {
        "x.csv": PROSE,
        "x.bin": b"ab\0",
        "x.dat": b"\xff\xfe",
        "x.png": b"\x89PNG\r\n\x1a\n",
    }.items():
        assert Text.recognise(put(tmp_path, content, name)) is None, name
    assert Text.recognise(tmp_path) is None
    assert Text.recognise(tmp_path / "missing.txt") is not None


def test_a_text_that_changes_is_refused(tmp_path: Path) -> None:
    dataset = Text(put(tmp_path, LINES), length=4)
    dataset.split("train")
    put(tmp_path, LINES * 2)
    with pytest.raises(DataError, match="fingerprint differs"):
        dataset.split("train")


def test_an_alphabet_is_of_different_characters(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="'a' twice"):
        Text(put(tmp_path, LINES), alphabet="aba")


def test_a_text_trains_by_name(tmp_path: Path) -> None:
    small = {"network": {"width": 16, "depth": 1, "heads": 2}, "training": {"steps": 3, "warmup": 0}}
    table = {"dataset": {"name": "text", "path": str(put(tmp_path, PROSE)), "length": 32}, **small}
    experiment = Experiment.from_mapping(table, base="default")
    assert type(experiment.network).__name__ == "Transformer"
    assert (type(experiment.family).__name__, experiment.family.classes) == ("Masked", 28)
    samples = train(experiment).model.sample(5, n_steps=3)
    assert [len(text) for text in experiment.dataset.decode(samples)] == [32] * 5
    assert Experiment.from_mapping(experiment.to_mapping()) == experiment
    rows = prepared_rows(experiment.dataset, "valid", torch.device("cpu"))
    assert torch.equal(rows[torch.arange(len(rows))].x, experiment.dataset.split("valid").x)  # type: ignore[arg-type]
