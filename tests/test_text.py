"""Text: windows of a file, in an alphabet, and the faults that a file may have."""

from __future__ import annotations

import string
from pathlib import Path
from typing import Any

import pytest
import torch

from bfn_text import Text
from bfn_toolkit import ConfigError, DataError, Experiment, train
from bfn_toolkit.cli import main
from bfn_toolkit.testing import check_dataset

LINES = "the quick brown fox jumps over the lazy dog\n" * 40  # 44 characters each
SMALL = ["--training.steps", "1", "--training.batch_size", "8", "--network.width", "8", "--no-report"]


def put(folder: Path, content: str | bytes) -> Path:
    path = folder / "x.txt"
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


@pytest.mark.parametrize("length", [1, 7, 44])
def test_windows_are_the_text_cut_from_its_beginning(length: int, tmp_path: Path) -> None:
    dataset = Text(put(tmp_path, LINES), length=length)
    windows = dataset.decode(dataset.content.rows.x)  # type: ignore[arg-type]
    assert "".join(windows) == LINES[: len(LINES) // length * length]
    assert {len(window) for window in windows} == {length}
    assert dataset.facts == {"site_shape": (length,), "classes": 28}


def test_every_window_is_in_one_split(tmp_path: Path) -> None:
    text = "".join(map(chr, range(0x4E00, 0x4E00 + 400)))  # no two windows alike
    dataset = Text(put(tmp_path, text), length=4, alphabet=text)
    splits: dict[str, Any] = {}
    with pytest.warns(UserWarning, match="no training row has the character"):
        splits = {name: dataset.decode(dataset.split(name).x) for name in ("train", "valid", "test", "all")}  # type: ignore[arg-type]
    assert [len(split) for split in splits.values()] == [81, 9, 10, 90]
    assert sorted(splits["train"] + splits["valid"]) == sorted(splits["all"])
    assert "".join(sorted(splits["all"] + splits["test"])) == text


def test_classes_are_the_places_in_the_alphabet(tmp_path: Path) -> None:
    path = put(tmp_path, "abba" * 10)
    assert Text(path, length=4).encode("ab").tolist() == [0, 1]
    dataset = Text(path, length=4, alphabet="ba")
    assert dataset.encode("ab").tolist() == [1, 0]
    assert dataset.decode(torch.tensor([[1, 1, 0]])) == ["aab"]
    with pytest.raises(DataError, match=r"U\+0063 'c' at offset 2"):
        dataset.encode("abc")


def test_a_text_obeys_the_laws_of_data_sets(tmp_path: Path) -> None:
    check_dataset(Text(put(tmp_path, LINES), length=5))
    check_dataset(Text(put(tmp_path, LINES), length=9, alphabet=string.ascii_lowercase[::-1] + "\n ", seed=2))


def test_line_ends_and_characters_beyond_16_bits_stay_and_a_byte_order_mark_does_not(tmp_path: Path) -> None:
    text = "a\r\n\t\N{GRINNING FACE}" * 20
    dataset = Text(put(tmp_path, text.encode("utf-8-sig")), length=5)
    assert set(dataset.decode(dataset.split("all").x)) == {text[:5]}  # type: ignore[arg-type]
    assert dataset.facts["classes"] == 5


CASES = [
    ("", 3, "no rows: the file is empty", ""),
    ("abcde" * 5, 3, "25 characters are shorter than one window of length = 26", "--dataset.length 26"),
    ("abcde" * 5, 3, "cannot split 2 rows", "--dataset.length 10"),
    ("aaaaaaaaaa", 3, "U+0061 'a' alone", "--dataset.length 2"),
    (
        "ab\n" * 50 + "a\N{GRINNING FACE}b",
        3,
        "x.txt:51: the character U+1F600 '\\U0001f600' at offset 151 is not in",
        '--dataset.alphabet "ab\\n"',
    ),
    ("ab" * 50 + "\0", 3, "control character U+0000 '\\x00' at offset 100", ""),
    (b"ab" * 50 + b"\xff", 3, "not UTF-8 at byte 100", ""),
    (LINES.encode("utf-16"), 3, "not UTF-8 at byte 0", ""),
    (LINES, 2, "alphabet", "--dataset.alphabet aba"),
    (LINES, 2, "alphabet", "--dataset.alphabet a"),
    (LINES, 2, "length", "--dataset.length 0"),
    (LINES, 0, "run:", "--dataset.length 11"),
    ("ab" * 50, 0, "warning: ", "--dataset.length 2 --dataset.alphabet abc"),
]


@pytest.mark.filterwarnings("always")
@pytest.mark.parametrize(("content", "status", "words", "options"), CASES, ids=[case[2][:30] for case in CASES])
def test_a_file_is_trained_on_or_refused_with_its_place(
    content: str | bytes, status: int, words: str, options: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, out = put(tmp_path, content), str(tmp_path / "run")
    arguments = ["train", "--dataset", "text", "--dataset.path", str(path), *options.split(), *SMALL, "--out", out]
    assert main(arguments) == status
    said = capsys.readouterr().err
    assert words in said
    assert "Traceback" not in said
    assert len(said.splitlines()) == 1 or not status


def test_a_missing_character_is_told_by_its_code_point(tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match=r"no training row has the character U\+0063 'c'"):
        Text(put(tmp_path, "ab" * 50), length=2, alphabet="abc").split("train")


def test_a_text_that_changes_is_refused(tmp_path: Path) -> None:
    dataset = Text(put(tmp_path, LINES), length=4)
    dataset.split("train")
    put(tmp_path, LINES * 2)
    with pytest.raises(DataError, match="fingerprint differs"):
        dataset.split("train")


def test_an_alphabet_is_of_different_characters(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="two of 'a'"):
        Text(put(tmp_path, LINES), alphabet="aba")


def test_a_text_trains_by_name(tmp_path: Path) -> None:
    table = {"dataset": {"name": "text", "path": str(put(tmp_path, LINES)), "length": 4}, "training": {"steps": 3}}
    experiment = Experiment.from_mapping(table, base="default")
    assert (type(experiment.family).__name__, experiment.family.classes) == ("Categorical", 28)
    samples = train(experiment).model.sample(5, n_steps=3)
    assert [len(text) for text in experiment.dataset.decode(samples)] == [4] * 5
    assert Experiment.from_mapping(experiment.to_mapping()) == experiment
