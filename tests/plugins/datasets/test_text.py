"""Text: windows of a file, in an alphabet, and the faults that a file may have."""

from __future__ import annotations

import string
from pathlib import Path
from typing import Any

import pytest
import torch

from bfn_text import Text
from bfn_toolkit import ConfigError, DataError, Experiment, train
from bfn_toolkit.testing import check_dataset

LINES = "the quick brown fox jumps over the lazy dog\n" * 40  # 44 characters each


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
    assert dataset.metadata == {"site_shape": (length,), "classes": 28, "axes": ("sequence",)}


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
    assert dataset.metadata["classes"] == 5


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
    with pytest.raises(ConfigError, match="'a' twice"):
        Text(put(tmp_path, LINES), alphabet="aba")


def test_a_text_trains_by_name(tmp_path: Path) -> None:
    table = {"dataset": {"name": "text", "path": str(put(tmp_path, LINES)), "length": 4}, "training": {"steps": 3}}
    experiment = Experiment.from_mapping(table, base="default")
    assert (type(experiment.family).__name__, experiment.family.classes) == ("Categorical", 28)
    samples = train(experiment).model.sample(5, n_steps=3)
    assert [len(text) for text in experiment.dataset.decode(samples)] == [4] * 5
    assert Experiment.from_mapping(experiment.to_mapping()) == experiment
