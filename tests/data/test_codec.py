"""Codecs: what a user writes comes back, gaps are gaps, and nothing but plain values is saved."""

from __future__ import annotations

import json
import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import attrs
import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from bfn_toolkit import (
    Codec,
    ConfigError,
    DataError,
    Entry,
    IdentityCodec,
    ImageCodec,
    PartsCodec,
    TableCodec,
    TextCodec,
    hookimpl,
)
from bfn_toolkit.config.json_values import codec_from_json, codec_to_json
from bfn_toolkit.registry.registry import Registry
from bfn_toolkit.runs.sample_files import sample_file

PEOPLE = TableCodec(shift=(172.0, 70.0, 3.0), scale=(8.0, 9.0, 1.5), decimals=(1, 2, 0), names=("h", "w, kg", "n"))
PARTS = PartsCodec(
    {
        "numbers": TableCodec(shift=(172.0,), scale=(8.0,), decimals=(1,), names=("height",)),
        "species": IdentityCodec(("species",), categories={"species": ("Adelie", "Gentoo")}),
    }
)


def written(path: Path, codec: Codec, *pieces: Any) -> Path:
    rows = sum(len(next(iter(piece.values())) if isinstance(piece, dict) else piece) for piece in pieces)
    with sample_file(path, rows, codec=codec) as file:
        for piece in pieces:
            file.append(piece)
    return path


def read(path: Path, codec: Codec) -> Any:
    return codec.formats[path.suffix].read(path)


def test_a_table_comes_back_to_its_decimals() -> None:
    """All numbers of one decimal within 8 deviations are told apart in float32, and come back as the text says."""
    values = torch.tensor(
        [[float(f"{108 + k / 10:.1f}"), float(f"{k / 100:.2f}"), k % 7] for k in range(1280)], dtype=torch.float64
    )
    x = PEOPLE.encode(values)
    assert x.dtype == torch.float32
    assert torch.equal(PEOPLE.decode(x), values)
    assert torch.equal(x, ((values - torch.tensor([172.0, 70.0, 3.0])) / torch.tensor([8.0, 9.0, 1.5])).float())


def test_a_table_is_written_as_its_file_and_read_by_name(tmp_path: Path) -> None:
    raw = torch.tensor([[181.5, 83.0, 2.0], [180.25, 70.125, 0.0]], dtype=torch.float64)
    path = written(tmp_path / "x.csv", PEOPLE, raw[:1], raw[1:])
    assert path.read_text() == 'h,"w, kg",n\n181.5,83.00,2\n180.25,70.125,0\n'
    assert torch.equal(read(path, PEOPLE), raw)
    path.write_text("n,h\n,180\n4,\n")
    found = read(path, PEOPLE)
    assert found.nan_to_num(-1.0).tolist() == [[180.0, -1.0, -1.0], [-1.0, -1.0, 4.0]]
    assert torch.equal(PEOPLE.encode(found).isnan(), found.isnan())
    np.save(tmp_path / "x.npy", raw.numpy())
    assert torch.equal(read(tmp_path / "x.npy", PEOPLE), raw)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("h,m\n1,2\n", r"x\.csv:1: no column is named 'm'; the columns are h, w, kg, n"),
        ("h,n\n1,2\n3,x\n", r"x\.csv:3: column 'n': expected a number, got 'x'"),
        ("h,n\n1,inf\n", r"x\.csv:2: column 'n': expected a number, got 'inf'"),
        ("h,n\n1\n", r"x\.csv:2: found 1 fields, expected 2"),
        ("h,h\n1,2\n", "two columns have the same name"),
        ("h,n\n", "expected a header and a row below it"),
        ("", "expected a header and a row below it"),
    ],
)
def test_mistakes_in_a_table_are_named(text: str, words: str, tmp_path: Path) -> None:
    (tmp_path / "x.csv").write_text(text)
    with pytest.raises(DataError, match=words):
        read(tmp_path / "x.csv", PEOPLE)


@pytest.mark.parametrize("alphabet", ["ab c", "ab\n\\", "a_?b\r"])
def test_texts_come_back_from_a_file_with_their_gaps(alphabet: str, tmp_path: Path) -> None:
    codec = TextCodec(alphabet, length=4)
    x = torch.randint(-1, 4, (200, 4), generator=torch.Generator().manual_seed(0))
    x = x.clamp_max(len(alphabet) - 1)
    texts = codec.decode(x)
    path = written(tmp_path / "x.txt", codec, texts[:150], texts[150:])
    assert path.read_bytes().count(b"\n") == 200  # one a line, whatever the alphabet
    assert read(path, codec) == texts
    assert torch.equal(codec.encode(texts), x)
    assert codec.gap not in alphabet
    path = written(tmp_path / "x.npy", codec, texts)
    assert np.array_equal(np.load(path), x.numpy())
    assert read(path, codec) == texts


def test_texts_that_do_not_fit_are_named() -> None:
    codec = TextCodec("ab", length=3)
    with pytest.raises(DataError, match=r"text 2: the character U\+0063 'c' at offset 1 is not in the alphabet"):
        codec.encode(["ab", "bc"])
    with pytest.raises(DataError, match="text 1 has 4 characters, expected 3 or fewer"):
        codec.encode(["abab"])


@pytest.mark.parametrize("codec", [ImageCodec(17), ImageCodec(2, "classes"), ImageCodec(300)])
def test_levels_come_back_and_others_are_refused(codec: ImageCodec, tmp_path: Path) -> None:
    raw = torch.arange(2 * codec.levels).remainder(codec.levels).reshape(2, -1, 1)
    x = codec.encode(raw)
    assert torch.equal(codec.decode(x).long(), raw)
    near = x if codec.pixels == "classes" else x + 0.9 / codec.levels  # within the bin
    assert torch.equal(codec.decode(near).long(), raw)
    path = written(tmp_path / "x.npy", codec, codec.decode(x))
    assert torch.equal(codec.encode(read(path, codec)), x)
    for wrong in (raw + 1, raw + 0.5):
        with pytest.raises(DataError, match=f"integers in 0...{codec.levels - 1}"):
            codec.encode(wrong)


@pytest.mark.parametrize("shape", [(3, 5), (3, 5, 3)])
def test_images_are_a_sheet(shape: tuple[int, ...], tmp_path: Path) -> None:
    codec = ImageCodec(17)
    raw = torch.randint(17, (7, *shape), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
    path = written(tmp_path / "x.png", codec, raw[:4], raw[4:])  # in pieces, as samples are drawn
    sheet = np.asarray(Image.open(path))
    times = 11  # a height of 3 becomes at least 32 pixels
    assert sheet.shape == (3 * (3 * times + 1) + 1, 3 * (5 * times + 1) + 1, *shape[2:])
    assert (sheet[0] == 128).all()
    assert (sheet[:, -1] == 128).all()
    for number in range(7):
        i, j = divmod(number, 3)
        tile = sheet[1 + i * (3 * times + 1) :: times, 1 + j * (5 * times + 1) :: times][:3, :5]
        assert np.array_equal(tile, np.round(raw[number].double().numpy() * 255 / 16).astype(np.uint8))
    with pytest.raises(ConfigError, match="room for 10,000 images"), sample_file(path, 10_001, codec=codec) as file:
        file.append(raw[:1].expand(10_001, *shape))


@pytest.mark.parametrize("shape", [(3, 5, 4), (3, 5, 4, 3)])
@pytest.mark.parametrize("levels", [2, 16, 256])
def test_a_folder_of_pictures_is_read_with_its_gaps(levels: int, shape: tuple[int, ...], tmp_path: Path) -> None:
    codec, raw = ImageCodec(levels), torch.arange(math.prod(shape)).reshape(shape) % levels
    for number, content in enumerate(codec.formats[""].contents(raw)):  # type: ignore[attr-defined]
        (tmp_path / f"{number}.png").write_bytes(content)
    (tmp_path / "notes.txt").write_text("")
    assert torch.equal(codec.formats[""].read(tmp_path), raw)
    with Image.open(tmp_path / "1.png") as picture:
        transparent = picture.convert("RGBA")
    transparent.putalpha(Image.new("L", (2, 5), 255).resize((4, 5)).crop((2, 0, 6, 5)))
    transparent.save(tmp_path / "1.png")
    gaps = codec.formats[""].read(tmp_path) < 0
    assert gaps.reshape(3, 5, 4, -1).any(-1).nonzero()[:, 2].unique().tolist() == [2, 3]
    assert not gaps[0].any()
    (tmp_path / "1.png").write_bytes(b"no picture")
    with pytest.raises(DataError, match=r"1\.png: not a picture, or damaged"):
        codec.formats[""].read(tmp_path)


def test_parts_are_one_table_and_tensors_by_name(tmp_path: Path) -> None:
    raw = {"numbers": torch.tensor([[180.5], [170.0]], dtype=torch.float64), "species": torch.tensor([[1], [0]])}
    x = PARTS.encode(raw)
    assert {name: part.dtype for name, part in x.items()} == {"numbers": torch.float32, "species": torch.int64}
    again = PARTS.decode(x, {"species": torch.tensor([True, False])})
    assert torch.equal(again["numbers"], raw["numbers"])
    assert again["species"].tolist() == [[1], [-1]]
    path = written(tmp_path / "x.csv", PARTS, again)
    assert path.read_text() == "height,species\n180.5,Gentoo\n170.0,\n"
    found = read(path, PARTS)
    assert torch.equal(found["numbers"], raw["numbers"])
    assert found["species"].nan_to_num(-1.0).tolist() == [[1.0], [-1.0]]
    path = written(tmp_path / "x.safetensors", PARTS, raw)
    assert {name: part.tolist() for name, part in load_file(path).items()} == {n: p.tolist() for n, p in raw.items()}
    path = tmp_path / "x.csv"
    path.write_text("species\nCat\n")
    with pytest.raises(DataError, match=r"x\.csv:2: column 'species': expected one of Adelie, Gentoo, got 'Cat'"):
        read(path, PARTS)


def test_parts_without_names_are_written_as_ever(tmp_path: Path) -> None:
    raw = {"place": torch.tensor([[0.5, -1.0]]), "kind": torch.tensor([[2]])}
    for codec in (IdentityCodec(), PartsCodec({"place": IdentityCodec(), "kind": IdentityCodec()})):
        path = written(tmp_path / "x.csv", codec, raw)
        assert path.read_text() == "place1,place2,kind1\n0.5,-1.0,2\n"
        assert {name: part.tolist() for name, part in read(path, codec).items()} == {
            "place": [[0.5, -1.0]],
            "kind": [[2.0]],
        }


def test_names_are_as_many_as_the_numbers(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"3 names \(a, b, c\) for 2 numbers"):
        written(tmp_path / "x.csv", IdentityCodec(names=("a", "b", "c")), torch.zeros(1, 2))


# JSON


def json_round_trip(codec: Codec, registry: Registry) -> Codec:
    copy: Codec = codec_from_json(json.loads(json.dumps(codec_to_json(codec, registry))), registry)
    return copy


@pytest.mark.parametrize(
    "codec",
    [
        PEOPLE,
        PARTS,
        TextCodec('none"\n\x00\N{GRINNING FACE}a'.replace("n", "", 1), length=2),
        TableCodec(shift=(0.1 + 0.2, 1e-300), scale=(1.0 / 3.0, 5e300)),
        IdentityCodec(categories={"label": ("none", "inf", "5", "a.b", "")}),
    ],
)
def test_a_codec_survives_json(codec: Codec) -> None:
    assert json_round_trip(codec, Registry.from_entry_points()) == codec


@attrs.frozen
class CelsiusCodec(Codec):
    """Fahrenheit in the file, Celsius in the model: the codec of a plugin."""

    offset: float = 32.0

    def encode(self, raw: Any) -> Any:
        return ((raw - self.offset) / 1.8).float()

    def decode(self, x: Any, mask: Any = None) -> Any:
        return 1.8 * x.double() + self.offset


def test_a_plugin_registers_its_codec_and_no_other_class_is_reached() -> None:
    registry = Registry.from_entry_points()
    with pytest.raises(ConfigError, match=r"CelsiusCodec is not registered as a codec.*bfn_codecs"):
        codec_to_json(CelsiusCodec(), registry)
    hook = hookimpl(lambda: [Entry("celsius", CelsiusCodec)], specname="bfn_codecs")
    registry.register(SimpleNamespace(hook=hook), name="weather")
    assert json_round_trip(CelsiusCodec(30.0), registry) == CelsiusCodec(30.0)
    for table in (
        {"name": "os.system"},
        {"name": "celsius", "offset": "rm"},
        {"name": "table", "scale": [0.0]},
        "x",
        3,
    ):
        with pytest.raises(ConfigError):
            codec_from_json(table, registry)


@pytest.mark.parametrize(
    "make",
    [
        lambda: TableCodec(shift=(0.0, 1.0), scale=(1.0, 1.0, 1.0)),
        lambda: TableCodec(names=("a", "a")),
        lambda: TableCodec(scale=(-1.0,)),
        lambda: TableCodec(shift=(float("nan"),)),
        lambda: TableCodec(decimals=(400,)),
        lambda: TextCodec("aa", length=2),
        lambda: TextCodec("", length=2),
        lambda: ImageCodec(1),
        lambda: IdentityCodec(categories={"label": ("a", "a")}),
    ],
)
def test_a_codec_that_cannot_be_is_refused(make: Any) -> None:
    with pytest.raises(ConfigError):
        make()
