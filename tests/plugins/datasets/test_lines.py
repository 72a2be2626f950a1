"""Lines: strings of a file in several lengths, their conditions, the way back, and the faults that a file may have."""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from bfn_lines import Lines
from bfn_lines.codec import LinesCodec
from bfn_toolkit import BFNWarning, ConfigError, DataError, Experiment, Run, train
from bfn_toolkit.runs.sampling import ResolvedPlan, SamplePlan, read_known, write_samples
from bfn_toolkit.testing import check_dataset

CHAINS = ["C" * n + end for n in range(1, 9) for end in ("O", "N", "Cl", "=O", "(N)O")]  # 40 different strings


def put(folder: Path, name: str, content: str | bytes) -> Path:
    path = folder / name
    data = content.encode() if isinstance(content, str) else content
    path.write_bytes(gzip.compress(data) if name.endswith(".gz") else data)
    return path


def strings(dataset: Lines) -> list[str]:
    """All strings, from rows as they are stored."""
    content = dataset.content
    batch = content.rows[torch.arange(len(content.rows))]
    return dataset.codec.decode(batch.x.long(), batch.mask)  # type: ignore[union-attr, arg-type]


def table(rows: list[str], *columns: list[Any], names: str, by: str = ",") -> str:
    return "\n".join([names.replace(",", by), *(by.join(map(str, row)) for row in zip(rows, *columns, strict=True))])


FILES = {
    "x.txt": "\n".join(CHAINS) + "\n",
    "words": "\r\n".join(CHAINS) + "\r\n\r\n",  # no ending, line ends of Windows, an empty line at the end
    "x.txt.gz": "\n".join(CHAINS),
    "bom.txt": "\ufeff" + "\n".join(CHAINS),
    "x.smi": "# made by hand\nSMILES\n" + "\n".join(CHAINS),
    "x.fasta": "\n".join(f">sp|{i} a name\n{row[:4]}\n{row[4:]}\n" for i, row in enumerate(CHAINS)),
    "x.FA.gz": "\n".join(f">{i}\n{row}" for i, row in enumerate(CHAINS)),
    "x.csv": table(CHAINS, list(range(40)), names="smiles,weight"),
    "x.tsv": table([f'"{row}"' for row in CHAINS], list(range(40)), names="smiles,weight", by="\t"),
}


@pytest.mark.parametrize("name", FILES)
def test_every_form_of_file_gives_the_same_strings(name: str, tmp_path: Path) -> None:
    dataset = Lines(put(tmp_path, name, FILES[name]))
    assert strings(dataset) == CHAINS
    assert dataset.metadata == {"site_shape": (12,), "classes": 7, "axes": ("sequence",)}
    assert dataset.codec.alphabet == "CONl=()"


@pytest.mark.parametrize("name", FILES)
def test_samples_come_back_as_a_file_of_the_same_form(name: str, tmp_path: Path) -> None:
    codec = Lines(put(tmp_path, name, FILES[name])).codec
    first = next(iter(codec.formats))
    assert first == codec.ending
    for ending in (".txt", ".smi", ".fasta", ".csv", ".npy"):
        out = tmp_path / f"out{ending}"
        write_samples(out, CHAINS, codec)
        assert read_known(out, codec) == CHAINS
        if ending != ".npy":
            assert strings(Lines(out)) == CHAINS


def test_rows_are_padded_and_masked(tmp_path: Path) -> None:
    dataset = Lines(put(tmp_path, "x.txt", "\n".join(CHAINS)), length=20)
    rows = dataset.rows("train")
    stored = rows[torch.arange(len(rows))]
    assert isinstance(stored.x, torch.Tensor)
    assert isinstance(stored.mask, torch.Tensor)
    assert (stored.x.dtype, tuple(stored.x.shape)) == (torch.uint8, (32, 20))
    assert not stored.x[~stored.mask].any()
    lengths = {dataset.codec.decode(stored.x[i : i + 1].long(), stored.mask[i : i + 1])[0] for i in range(32)}
    assert lengths <= set(CHAINS)
    same = Lines(put(tmp_path, "same.txt", "ab\nba\naa\nbb\n"))
    assert same.split("train").mask is None


def test_lines_obey_the_laws_of_data_sets(tmp_path: Path) -> None:
    check_dataset(Lines(put(tmp_path, "x.txt", "\n".join(CHAINS))))
    rows = table(
        CHAINS, [0.5 * len(row) for row in CHAINS], ["ring" if "l" in r else "no" for r in CHAINS], names="s,n,k"
    )
    check_dataset(Lines(put(tmp_path, "x.csv", rows), column="s", conditions=("n", "k"), length=20, seed=3))


def test_an_alphabet_beyond_bytes(tmp_path: Path) -> None:
    rows = [chr(0x4E00 + 2 * i) + chr(0x4E01 + 2 * i) + "\N{GRINNING FACE}" * (i % 3) for i in range(200)]
    dataset = Lines(put(tmp_path, "x.txt", "\n".join(rows)))
    with pytest.warns(BFNWarning, match="no training row has the character"):
        dataset.split("train")
    assert strings(dataset) == rows
    assert dataset.metadata["classes"] == 401
    assert dataset.rows("train")[torch.tensor([0])].x.dtype == torch.uint16  # type: ignore[union-attr]


# Conditions


def conditioned(tmp_path: Path) -> Run:
    numbers = [1000.0 + 100.0 * len(row) for row in CHAINS]
    content = table(CHAINS, numbers, ["acid" if "=" in r else "other" for r in CHAINS], names="smiles,mass,kind")
    dataset = {"name": "lines", "path": str(put(tmp_path, "x.csv", content)), "column": "smiles"}
    values = {
        "dataset": {**dataset, "conditions": ["mass", "kind"]},
        "network": {"width": 16, "depth": 1, "heads": 2},
        "training": {"steps": 2, "warmup": 1},
    }
    return train(Experiment.from_mapping(values, base="default"))


def test_further_columns_are_conditions_in_the_units_of_the_file(tmp_path: Path) -> None:
    run = conditioned(tmp_path)
    dataset, network = run.experiment.dataset, run.experiment.network
    train_rows = dataset.split("train")
    masses = train_rows.condition["mass"]
    rows = dataset.codec.decode(train_rows.x, train_rows.mask)
    assert masses.tolist() == [1000.0 + 100.0 * len(row) for row in rows]
    assert train_rows.condition["label"].tolist() == [0 if "=" in row else 1 for row in rows]
    assert dataset.codec.categories == {"label": ("acid", "other")}
    assert (network.labels, network.condition_shapes) == (2, {"mass": ()})
    shift, scale = network.condition_scales["mass"]
    assert shift == pytest.approx(float(masses.double().mean()))
    assert scale == pytest.approx(float(masses.double().std(correction=0)))
    plan = ResolvedPlan.of(run, SamplePlan(n=3, steps=2, condition={"mass": 1500.0, "label": "acid"}))
    assert all(isinstance(text, str) and text for text in plan.raw(plan.draw()))
    with pytest.raises(ConfigError, match="mass must be a number from 1200 to 2200"):
        ResolvedPlan.of(run, SamplePlan(n=3, steps=2, condition={"mass": 0.5}))
    assert Experiment.from_mapping(run.experiment.to_mapping()) == run.experiment


def test_known_lines_say_their_lengths(tmp_path: Path) -> None:
    run = conditioned(tmp_path)
    known = put(tmp_path, "known.txt", "CC__O\r\n_______\r\n(CC\r\n")
    plan = ResolvedPlan.of(run, SamplePlan(n=3, steps=2, known=known))
    first, second, third = plan.raw(plan.draw())
    assert (first[:2], first[4], len(first), len(second), third) == ("CC", "O", 5, 7, "(CC")
    plan = ResolvedPlan.of(run, SamplePlan(n=3, steps=2, known=known, size=9))
    texts = plan.raw(plan.draw())
    assert [len(text) for text in texts] == [9, 9, 9]
    assert texts[2].startswith("(CC")
    with pytest.raises(ConfigError, match="known row 2 has 7 sites, more than the size 6"):
        ResolvedPlan.of(run, SamplePlan(n=3, steps=2, known=known, size=6))
    with pytest.raises(DataError, match="text 2 is empty"):
        ResolvedPlan.of(run, SamplePlan(n=2, steps=2, known=put(tmp_path, "empty.txt", "CC\n\n")))


def test_a_column_named_label_may_hold_integers(tmp_path: Path) -> None:
    content = table(CHAINS, [len(row) % 3 for row in CHAINS], names="s,label")
    dataset = Lines(put(tmp_path, "x.csv", content), conditions=("label",))
    assert dataset.metadata["labels"] == 3
    assert dataset.split("train").condition["label"].dtype == torch.int64


# Faults


def chains(**at: str) -> str:
    """The strings, some lines, from 1, replaced."""
    rows = list(CHAINS)
    for name, text in at.items():
        rows[int(name.removeprefix("line")) - 1] = text
    return "\n".join(rows) + "\n"


BAD: dict[str, tuple[str, str | bytes, dict[str, Any], str]] = {
    "empty file": ("x.txt", "", {}, "x.txt: no rows"),
    "one line": ("x.txt", "CCO\n", {}, "x.txt: cannot split 1 row"),
    "empty line": ("x.txt", chains(line7=""), {}, r"x.txt:7: an empty line \(1 in all\); --dataset.on_empty drop"),
    "blank line": ("x.smi", chains(line7="  "), {}, "x.smi:7: an empty line"),
    "Latin-1": ("x.txt", chains(line5="CéC").encode("latin-1"), {}, "x.txt:5: not UTF-8: 0xE9 at byte 2 of the line"),
    "UTF-16": ("x.txt", chains().encode("utf-16"), {}, "x.txt:1: not UTF-8: 0xFF"),
    "UTF-16 without mark": ("x.txt", chains().encode("utf-16-le"), {}, r"x.txt:1: the control character U\+0000"),
    "tab": ("x.txt", chains(line3="C\tO"), {}, r"x.txt:3: the control character U\+0009 .*; name the file .tsv"),
    "carriage return": ("x.txt", chains(line3="C\rO"), {}, "x.txt:3: the control character .*; end the lines by"),
    "names first": (
        "x.smi",
        "".join(f"Mol-{i} {r}\n" for i, r in enumerate(CHAINS)),
        {},
        "x.smi:1: 'Mol-0' is not SMILES",
    ),
    "outlier": (
        "x.txt",
        chains(line9="C" * 500),
        {"length": 100},
        "x.txt:9: a string of 500 .*--dataset.length 500",
    ),
    "outlier of few": ("x.txt", chains(line9="C" * 500), {}, "x.txt:9: a string of 500 .*longer than 4 times the 12"),
    "alphabet": (
        "x.txt",
        chains(line9="CXC"),
        {"alphabet": "CONl=()"},
        r"x.txt:9: the character U\+0058 'X' at offset 1",
    ),
    "no header": ("x.fasta", "MKV\n>a\nMKV\n", {}, "x.fasta:1: expected a header such as >name, found 'MKV'"),
    "empty record": ("x.fasta", ">a\nMK\n>b\n>c\nKM\n", {}, "x.fasta:3: a record without a sequence"),
    "ragged": ("x.csv", table(CHAINS, CHAINS, names="a,b") + "\nCCO\n", {"column": "a"}, "x.csv:42: found 1 fields"),
    "missing header": ("x.csv", table(CHAINS, list(range(40)), names="CCC,1"), {}, "x.csv:1: expected a header"),
    "SMILES as header": ("x.csv", "\n".join(CHAINS), {}, "x.csv:1: expected a header"),
    "semicolons": ("x.csv", table(CHAINS, CHAINS, names="a,b", by=";"), {}, "separated by ';'"),
    "header only": ("x.csv", "smiles,weight\n", {}, "no rows below the header"),
    "empty cell": (
        "x.csv",
        table(["", *CHAINS[1:]], CHAINS, names="a,b"),
        {"column": "a"},
        "x.csv:2: column 'a' is empty",
    ),
    "NaN": (
        "x.csv",
        table(CHAINS, [*range(38), "nan", 3], names="s,n"),
        {"conditions": ["n"]},
        "x.csv:40: column 'n': expected a number, got 'nan'",
    ),
    "a word among numbers": (
        "x.csv",
        table(CHAINS, [*range(38), "many", 3], names="s,n"),
        {"column": "s", "conditions": ["n"]},
        "x.csv:40: column 'n': expected a number, got 'many'",
    ),
    "constant": ("x.csv", table(CHAINS, [5] * 40, names="s,n"), {"conditions": ["n"]}, "'n' is constant"),
    "one category": (
        "x.csv",
        table(CHAINS, ["a"] * 40, names="s,k"),
        {"column": "s", "conditions": ["k"]},
        "is 'a' in all",
    ),
    "one character": ("x.txt", "a\naa\naaa\naaaa\n", {}, "nothing to learn"),
    "a long text": ("x.txt", "a b" * 400_000, {}, "x.txt:1: a line of 1,000,000 bytes or more"),
}


@pytest.mark.parametrize("case", BAD)
def test_a_fault_is_told_with_its_place(case: str, tmp_path: Path) -> None:
    name, content, options, words = BAD[case]
    with pytest.raises(DataError, match=words) as caught:
        Lines(put(tmp_path, name, content), **options).split("train")
    assert "\n" not in str(caught.value)


def test_pieces_of_a_file_are_read_like_the_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bfn_lines.reading.ROWS", 3)
    content = table(CHAINS, list(range(40)), ["ab"[i % 7 > 3] for i in range(40)], names="s,n,k")
    dataset = Lines(put(tmp_path, "x.csv", content), column="s", conditions=("n", "k"))
    assert strings(dataset) == CHAINS
    condition = dataset.content.rows[torch.arange(40)].condition
    assert condition["n"].tolist() == list(range(40))
    assert condition["label"].tolist() == [int(i % 7 > 3) for i in range(40)]
    late = put(tmp_path, "y.csv", table(CHAINS, [*range(39), "many"], names="s,n"))
    with pytest.raises(DataError, match=r"y\.csv:41: column 'n': expected a number, got 'many'"):
        Lines(late, column="s", conditions=("n",)).split("train")


def test_damaged_compressed_files_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = gzip.compress("\n".join(CHAINS).encode())
    path = tmp_path / "x.txt.gz"
    path.write_bytes(whole[:-20])
    with pytest.raises(DataError, match="truncated or damaged"):
        Lines(path).split("train")
    monkeypatch.setattr("bfn_files.reading.UNPACKED", 10**5)
    path.write_bytes(gzip.compress((b"C" * 9999 + b"\n") * 30))
    with pytest.raises(DataError, match="above the size limit"):
        Lines(path).split("train")


def test_columns_are_chosen_by_name(tmp_path: Path) -> None:
    path = put(tmp_path, "x.csv", table(CHAINS, CHAINS[::-1], list(range(40)), names="a,b,c"))
    with pytest.raises(ConfigError, match=r"found a, b; choose one: --dataset\.column a"):
        Lines(path).split("train")
    with pytest.raises(ConfigError, match="no column named 'd'; it has a, b, c"):
        Lines(path, column="a", conditions=("d",)).split("train")
    with pytest.raises(ConfigError, match="take it out of conditions"):
        Lines(path, column="a", conditions=("a",)).split("train")
    with pytest.raises(ConfigError, match="no further columns"):
        Lines(put(tmp_path, "x.txt", chains()), conditions=("d",)).split("train")
    with pytest.raises(ConfigError, match=r"'a\.b' cannot be the name of a condition"):
        Lines(path, column="a", conditions=("a.b",))


def test_nothing_is_left_out_silently(tmp_path: Path) -> None:
    path = put(tmp_path, "x.txt", chains(line5="", line9="CN" * 100))
    dataset = Lines(path, on_empty="drop", too_long="drop", length=12)
    with pytest.warns(BFNWarning) as said:
        dataset.split("train")
    assert strings(dataset) == [row for i, row in enumerate(CHAINS, 1) if i not in (5, 9)]
    words = [str(warning.message) for warning in said]
    assert any("left out 1 empty strings, the first in line 5" in text for text in words)
    assert any("left out: 1 of 39 strings are longer than length = 12, the first in line 9" in text for text in words)


def test_an_outlier_is_told_before_it_makes_all_rows_long(tmp_path: Path) -> None:
    rows = CHAINS * 10
    path = put(tmp_path, "x.txt", "\n".join([*rows, "CN" * 1000]))
    with pytest.raises(DataError, match=r"x.txt:401: .*longer than 4 times the 12 that 99 % do not exceed"):
        Lines(path).split("train")


def test_copies_and_blanks_and_names_are_told(tmp_path: Path) -> None:
    with pytest.warns(BFNWarning, match="40 of 80 strings are copies of others; .* of 8 test strings are also in"):
        Lines(put(tmp_path, "x.txt", "\n".join(CHAINS * 2))).split("train")
    blanks = Lines(put(tmp_path, "y.txt", "\n".join(f"a {row}" for row in CHAINS)))
    with pytest.warns(BFNWarning, match="40 of 40 strings have blanks"):
        blanks.split("train")
    assert strings(blanks)[0] == "a CO"
    named = Lines(put(tmp_path, "y.smi", "\n".join(f"{row} name {i}" for i, row in enumerate(CHAINS))))
    with pytest.warns(BFNWarning, match="names after the SMILES are not read"):
        named.split("train")
    assert strings(named) == CHAINS


@pytest.mark.parametrize(
    ("name", "content", "certainty"),
    [
        ("x.smi", b"\x00", 3),
        ("x.fasta.gz", ">a\nMK\n", 3),
        ("words", "\n".join(CHAINS), 2),
        ("x.txt", "\n".join(CHAINS), 2),
        ("x.txt.gz", "\n".join(CHAINS * 2000), 2),
        ("x.txt", "the quick brown fox\n" * 40, None),
        ("x.txt", "\n".join(map(str, np.linspace(0, 1, 50))), None),
        ("x.txt", b"\xff\xfe\x00\x01" * 100, None),
        ("x.csv", FILES["x.csv"], 1),
        ("x.csv", "a,b\n1,2\n3,4\n", None),
        ("x.npy", b"\x93NUMPY\x01\x00", None),
        ("x.txt", "", None),
    ],
)
def test_files_are_recognised_by_name_and_content(
    name: str, content: str | bytes, certainty: int | None, tmp_path: Path
) -> None:
    found = Lines.recognise(put(tmp_path, name, content))
    assert (found and found.certainty) == certainty


def test_what_is_no_file_is_not_recognised(tmp_path: Path) -> None:
    assert Lines.recognise(tmp_path) is None
    assert Lines.recognise(tmp_path / "none.txt") is None


def test_a_gap_that_is_a_character_of_the_data_has_another_sign() -> None:
    codec = LinesCodec("ab_", 4)
    assert codec.gap == "?"
    assert codec.encode(["a?_"]).tolist() == [[0, -1, 2, -1]]
    assert codec.row_sizes(["a?_", "b"]).tolist() == [3, 1]
