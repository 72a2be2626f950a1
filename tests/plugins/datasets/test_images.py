"""Images: each format gives the levels that were written, splits and labels stay, and faults are told by their file."""

from __future__ import annotations

import gzip
import os
import pickle
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from bfn_images import Images, folders
from bfn_toolkit import BFNWarning, ConfigError, DataError, Dataset, Rows, seeded
from bfn_toolkit.cli import main
from bfn_toolkit.runs.run import Run
from bfn_toolkit.testing import check_dataset

G = np.random.default_rng(0).integers(0, 256, (24, 5, 6), np.uint8)
RGB = np.random.default_rng(1).integers(0, 256, (24, 5, 6, 3), np.uint8)
Y = np.arange(24) % 3


def idx_of(array: Any) -> bytes:
    return bytes([0, 0, 8, array.ndim]) + np.array(array.shape, ">u4").tobytes() + array.astype(np.uint8).tobytes()


def put(folder: Path, files: dict[str, bytes]) -> Path:
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return folder


def pictures(folder: Path, images: Any, *places: str, ending: str = "png") -> Path:
    """Picture files, dealt to some sub-folders."""
    for number, image in enumerate(images):
        place = f"{places[number % len(places)]}/{number:02d}" if places else str(number)
        path = folder / f"{place}.{ending}"
        path.parent.mkdir(parents=True, exist_ok=True)
        (image if isinstance(image, Image.Image) else Image.fromarray(image)).save(path)
    return folder


def levels_of(dataset: Dataset) -> list[bytes]:
    """The levels of all rows, sorted."""
    splits: list[Rows] = [dataset.rows("all"), dataset.rows("test")]
    x: Any = torch.cat([rows[torch.arange(len(rows))].x for rows in splits])  # type: ignore[misc]
    assert x.dtype == torch.uint8
    return sorted(row.numpy().tobytes() for row in x)


def sorted_bytes(images: Any) -> list[bytes]:
    return sorted(image.tobytes() for image in images)


def npz(path: Path, **arrays: Any) -> Path:
    np.savez(path, **arrays)
    return path


def npy(path: Path, array: Any) -> Path:
    np.save(path, array)
    return path


def cifar(folder: Path, images: Any) -> Path:
    """CIFAR-10's layout: a label, then the planes of red, green and blue."""
    records = [bytes([i % 10]) + image.transpose(2, 0, 1).tobytes() for i, image in enumerate(images)]
    names = "airplane automobile bird cat deer dog frog horse ship truck"
    files = {"data_batch_1.bin": records[:9], "data_batch_2.bin": records[9:18], "test_batch.bin": records[18:]}
    return put(folder, {**{n: b"".join(r) for n, r in files.items()}, "batches.meta.txt": names.encode()})


LARGE = np.random.default_rng(2).integers(0, 256, (24, 32, 32, 3), np.uint8)
SOURCES: dict[str, tuple[Callable[[Path], Path], Any]] = {
    "folder": (lambda p: pictures(p, G), G),
    "folder of colours": (lambda p: pictures(p, RGB, "b", "a"), RGB),
    "colours that are grey": (lambda p: pictures(p, np.repeat(G[..., None], 3, -1)), G),
    "bmp": (lambda p: pictures(p, RGB, ending="bmp"), RGB),
    "ppm": (lambda p: pictures(p, RGB, ending="PPM"), RGB),
    "idx": (lambda p: put(p, {"images-idx3-ubyte": idx_of(G)}), G),
    "idx.gz": (lambda p: put(p, {"x-images.idx3-ubyte.gz": gzip.compress(idx_of(G))}), G),
    "idx of another name": (lambda p: put(p, {"faces.bin": idx_of(G)}) / "faces.bin", G),
    "one idx": (lambda p: put(p, {"images-idx3-ubyte": idx_of(G)}) / "images-idx3-ubyte", G),
    "npy": (lambda p: npy(p / "x.npy", G), G),
    "npy of colours": (lambda p: npy(p / "x.npy", RGB), RGB),
    "npy with a channel": (lambda p: npy(p / "x.npy", G[..., None]), G),
    "npy in Fortran's order": (lambda p: npy(p / "x.npy", np.asfortranarray(G)), G),
    "folder in a folder": (lambda p: pictures(p / "all" / "of them", RGB, "b", "a").parent.parent, RGB),
    "booleans": (lambda p: npy(p / "x.npy", G > 127), (G > 127).astype(np.uint8) * 255),
    "npz": (lambda p: npz(p / "x.npz", images=G, labels=Y), G),
    "npz of one array": (lambda p: npz(p / "x.npz", arr_0=RGB), RGB),
    "npz with splits": (lambda p: npz(p / "x.npz", x_train=G[:9], val_images=G[9:14], test_x=G[14:]), G),
    "cifar": (lambda p: cifar(p, LARGE), LARGE),
    "one batch of cifar": (lambda p: cifar(p, LARGE[:24]) / "data_batch_1.bin", LARGE[:9]),
}


@pytest.mark.filterwarnings("ignore:.*no training row has the label")
@pytest.mark.parametrize("name", SOURCES)
def test_every_format_gives_the_levels_that_were_written(name: str, tmp_path: Path) -> None:
    make, images = SOURCES[name]
    dataset = Images(make(tmp_path))
    assert levels_of(dataset) == sorted_bytes(images)
    assert dataset.site_shape == images.shape[1:]
    assert dataset.metadata["axes"] == ("height", "width", "channel")[: images.ndim - 1]
    found = Images.recognise(dataset.path)
    assert found is not None or name in ("booleans", "npz of one array")
    centres = (2.0 * images.astype(float) + 1.0) / 256.0 - 1.0
    if len(images) == 24:  # all of them, so that train is most
        assert dataset.metadata["data_variance"] == pytest.approx(np.square(centres).mean(), rel=0.05)


def test_pictures_read_when_they_are_needed_are_those_that_are_decoded_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = pictures(tmp_path, RGB, "b", "a")
    at_once = Images(folder, seed=1)
    expected = {name: at_once.split(name) for name in ("train", "valid", "test", "all")}  # type: ignore[arg-type]
    monkeypatch.setattr(folders, "DECODED", 0)
    later = Images(folder, seed=1, valid_fraction=0.10000001)  # an equal one would be cached
    for name, batch in expected.items():
        rows = pickle.loads(pickle.dumps(later.rows(name)))  # type: ignore[arg-type]
        assert torch.equal(later.prepare(rows[torch.arange(len(rows))]).x, batch.x)
        assert torch.equal(rows[torch.arange(len(rows))].condition["label"], batch.condition["label"])
    check_dataset(later)


INSTANCES: dict[str, Callable[[Path], Images]] = {
    "folder": lambda p: Images(pictures(p, RGB, "b", "a"), flip=True, seed=1),
    "cifar": lambda p: Images(cifar(p, LARGE), size=(4, 6), colour="grey", bins=16),
    "dynamic": lambda p: Images(npz(p / "x.npz", x=G, y=Y[:, None]), binarise="dynamic", flip=True),
    "threshold": lambda p: Images(npy(p / "x.npy", G), binarise="threshold", colour="rgb", valid_fraction=0.4),
    "classes": lambda p: Images(npz(p / "x.npz", x_train=G[:16], y_train=Y[:16], x_test=G[16:], y_test=Y[16:]),
                                pixels="classes", bins=7),
}  # fmt: skip


@pytest.mark.filterwarnings("ignore:.*no training row has the label")
@pytest.mark.parametrize("name", INSTANCES)
def test_images_obey_the_laws_of_data_sets(name: str, tmp_path: Path) -> None:
    check_dataset(INSTANCES[name](tmp_path))


# Splits and labels


def test_splits_and_labels_of_idx_files_stay(tmp_path: Path) -> None:
    files = {
        "train-images-idx3-ubyte.gz": gzip.compress(idx_of(G[:18])),
        "train-labels-idx1-ubyte.gz": gzip.compress(idx_of(Y[:18])),
        "t10k-images-idx3-ubyte": idx_of(G[18:]),
        "t10k-labels-idx1-ubyte": idx_of(Y[18:]),
    }
    dataset = Images(put(tmp_path, files))
    known = {image.tobytes(): label for image, label in zip(G, Y, strict=True)}
    rows = {name: dataset.rows(name)[torch.arange(len(dataset.rows(name)))] for name in ("train", "valid", "test")}
    assert {name: len(batch) for name, batch in rows.items()} == {"train": 16, "valid": 2, "test": 6}
    for batch in rows.values():
        assert batch.condition["label"].tolist() == [known[x.numpy().tobytes()] for x in batch.x]
    assert sorted(x.numpy().tobytes() for x in rows["test"].x) == sorted_bytes(G[18:])
    assert dataset.metadata["labels"] == 3
    assert dataset.source["rows"] == 24
    assert Images(tmp_path, labels=False).rows("train")[torch.arange(2)].condition == {}
    assert "labels" not in Images(tmp_path, labels=False).metadata


def test_sub_folders_are_labels_by_name_and_splits(tmp_path: Path) -> None:
    for place, images in (("train", G[:12]), ("val", G[12:18]), ("test", G[18:])):
        pictures(tmp_path / place, images, "zebra", "ant")
    dataset = Images(tmp_path)
    assert dataset.codec.categories == {"label": ("ant", "zebra")}
    ants = {image.tobytes() for image in G[1::2]}
    for name, images in (("train", G[:12]), ("valid", G[12:18]), ("test", G[18:])):
        batch = dataset.rows(name)[torch.arange(len(images))]  # type: ignore[arg-type]
        assert sorted(x.numpy().tobytes() for x in batch.x) == sorted_bytes(images)
        assert batch.condition["label"].tolist() == [int(x.numpy().tobytes() not in ants) for x in batch.x]


def test_what_was_read_is_told(tmp_path: Path) -> None:
    pictures(tmp_path / "a" / "photos", RGB, "boot", "shoe")
    pictures(tmp_path / "b", G)
    for name, words in {
        "a": "6 x 5 pixels, in colour; 20 for training, 2 for validation, 2 for test; 2 labels: boot, shoe",
        "b": "6 x 5 pixels, grey; 20 for training, 2 for validation, 2 for test; no labels",
    }.items():
        found = Images.recognise(tmp_path / name)
        assert found is not None
        assert Images(tmp_path / name).summary == [words]


def test_large_images_are_learned_in_pieces(tmp_path: Path) -> None:
    pieces = []
    for side in (64, 128, 129, 256, 512):
        path = npy(tmp_path / f"{side}.npy", np.zeros((3, side, side), np.uint8))
        training: Any = Images(path, size=side).default_config.get("training", {})
        pieces.append(training.get("accumulate", 1))
    assert pieces == [1, 1, 2, 12, 32]


def test_without_labels_pictures_of_all_depths_are_read(tmp_path: Path) -> None:
    pictures(tmp_path, G[:6])
    pictures(tmp_path, G[6:], "2019/07", "2020")
    with pytest.raises(DataError, match=r"\d\.png lies outside of the sub-folders 2019, 2020.*--dataset.labels false"):
        _ = Images(tmp_path).metadata
    assert levels_of(Images(tmp_path, labels=False)) == sorted_bytes(G)


@pytest.mark.filterwarnings("ignore:.*no training row has the label")
def test_names_of_cifar_are_those_of_its_file(tmp_path: Path) -> None:
    dataset = Images(cifar(tmp_path, LARGE))
    assert dataset.codec.categories["label"][3] == "cat"
    assert len(dataset.rows("test")) == 6


def test_files_of_the_system_are_ignored_silently_and_others_with_a_word(tmp_path: Path) -> None:
    pictures(tmp_path, G)
    put(tmp_path, {".DS_Store": b"", "Thumbs.db": b"", ".cache/x.png": b"", "__MACOSX/0.png": b""})
    assert levels_of(Images(tmp_path)) == sorted_bytes(G)
    put(tmp_path, {"notes.txt": b"", "more.csv": b""})
    with pytest.warns(BFNWarning, match=r"ignored 2 files that are not pictures, such as (notes\.txt|more\.csv)"):
        _ = Images(tmp_path, seed=1).metadata


# From levels to x


@pytest.mark.parametrize("bins", [2, 16, 255, 256])
def test_bins_are_centres_and_samples_come_back_as_levels(bins: int, tmp_path: Path) -> None:
    dataset = Images(npy(tmp_path / "x.npy", np.arange(256, dtype=np.uint8).reshape(16, 4, 4)), bins=bins)
    levels: Any = dataset.rows("all")[torch.arange(14)].x
    x: Any = dataset.split("all").x
    expected = levels.double() * bins // 256
    assert torch.allclose(x.double(), (2.0 * expected + 1.0) / bins - 1.0, rtol=0, atol=2e-7)  # of float32
    assert x.dtype == torch.float32
    assert torch.equal(dataset.codec.decode(x).double(), expected)


def test_dynamic_binarisation_is_drawn_anew_with_the_probability_of_the_level(tmp_path: Path) -> None:
    levels = np.repeat(np.array([0, 51, 128, 255], np.uint8), 4).reshape(1, 4, 4).repeat(2000, 0)
    dataset = Images(npy(tmp_path / "x.npy", levels), binarise="dynamic")
    stored = dataset.rows("train")[torch.arange(1600)]
    drawn: Any = []
    for key in (0, 1):
        with seeded(key):
            drawn.append(dataset.prepare(stored).x)
    assert not torch.equal(*drawn)
    means = drawn[0].double().mean((0, 2))
    for mean, level in zip(means.tolist(), (0, 51, 128, 255), strict=True):
        p = level / 255
        assert abs(mean - p) <= 5 * (p * (1 - p) / 6400) ** 0.5  # five standard errors: p < 1e-6


def test_flips_mirror_about_half_of_the_images_from_left_to_right(tmp_path: Path) -> None:
    dataset = Images(npy(tmp_path / "x.npy", RGB.repeat(40, 0)), flip=True)
    stored = dataset.rows("train")[torch.arange(700)]
    with seeded(0):
        x: Any = dataset.prepare(stored).x
    plain: Any = Images(dataset.path).prepare(stored).x
    mirrored = (x == plain.flip(2)).flatten(1).all(1)
    assert bool((mirrored ^ (x == plain).flatten(1).all(1)).all())
    assert abs(int(mirrored.sum()) - 350) < 5 * 700**0.5 / 2


# Conversions


def _picture(mode: str) -> tuple[Image.Image, Any]:
    """A picture of a mode, and the levels that the rules give."""
    grey, rgb = Image.fromarray(G[0]), Image.fromarray(RGB[0])
    if mode == "1":
        return grey.convert("1"), np.asarray(grey.convert("1")).astype(np.uint8) * 255
    if mode == "P":
        palette = rgb.quantize(8)
        return palette, np.asarray(palette.convert("RGB"))
    alpha = np.full(G[0].shape, 255, np.uint8)
    alpha[0] = 0
    if mode == "LA":
        return Image.fromarray(np.stack([G[0], alpha], -1), "LA"), np.where(alpha == 0, 255, G[0])
    if mode == "RGBA":
        return Image.fromarray(np.concatenate([RGB[0], alpha[..., None]], -1)), np.where(
            alpha[..., None] == 0, 255, RGB[0]
        )
    return (grey, G[0]) if mode == "L" else (rgb, RGB[0])


@pytest.mark.filterwarnings("ignore:'mode' parameter is deprecated")
@pytest.mark.parametrize("mode", ["1", "L", "P", "LA", "RGB", "RGBA"])
def test_modes_are_converted_by_the_rules(mode: str, tmp_path: Path) -> None:
    picture, expected = _picture(mode)
    dataset = Images(pictures(tmp_path, [picture] * 4))
    assert levels_of(dataset) == sorted_bytes([expected] * 4)


def test_a_rotation_that_a_camera_noted_is_applied(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees clockwise
    for number in range(3):
        Image.fromarray(G[number]).save(tmp_path / f"{number}.png", exif=exif)
    assert levels_of(Images(tmp_path)) == sorted_bytes([np.rot90(image, -1) for image in G[:3]])


def test_size_cuts_around_the_centre_and_scales(tmp_path: Path) -> None:
    wide = np.zeros((3, 8, 16), np.uint8)
    wide[:, :, 4:12] = 200  # the middle square
    for dataset in (Images(pictures(tmp_path / "a", wide), size=4), Images(npy(tmp_path / "x.npy", wide), size=4)):
        x = torch.cat([dataset.rows(name)[torch.arange(1)].x for name in ("train", "valid", "test")])  # type: ignore[misc]
        assert x.shape == (3, 4, 4)
        assert (x.int() - 200).abs().max() <= 10  # black from outside would take away 100; the filter overshoots


@pytest.mark.parametrize("make", [pictures, lambda folder, images: npy(folder / "x.npy", images)])
def test_colours_are_made_grey_and_grey_coloured_when_asked_for(make: Any, tmp_path: Path) -> None:
    (tmp_path / "rgb").mkdir()
    (tmp_path / "grey").mkdir()
    grey = Images(make(tmp_path / "rgb", RGB), colour="grey")
    assert levels_of(grey) == sorted_bytes([np.asarray(Image.fromarray(image).convert("L")) for image in RGB])
    coloured: Any = Images(make(tmp_path / "grey", G), colour="rgb").split("all").x
    assert coloured.shape[1:] == (5, 6, 3)
    assert torch.equal(coloured[..., 0], coloured[..., 2])


# Faults


def png(image: Any = G[0]) -> bytes:
    import io

    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "png")
    return buffer.getvalue()


def _bomb() -> bytes:
    """A .png whose header claims 60,000 x 60,000 pixels."""
    import zlib

    header = b"IHDR" + (60_000).to_bytes(4, "big") * 2 + bytes([8, 0, 0, 0, 0])
    return png()[:8] + (13).to_bytes(4, "big") + header + zlib.crc32(header).to_bytes(4, "big") + png()[33:]


HEADER = b"\0\0\x08\3" + np.array([3, 10_000, 10_000], ">u4").tobytes()  # of 300 MB


def _animated(path: Path) -> Path:
    first, second = (Image.fromarray(image) for image in G[:2])
    first.save(path / "a.gif", save_all=True, append_images=[second])
    return path


FAULTS: dict[str, tuple[Callable[[Path], Path], str]] = {
    "missing": (lambda p: p / "none", "none: cannot be read: No such file"),
    "empty folder": (lambda p: p, "no pictures; expected files that end in"),
    "one picture": (lambda p: pictures(p, G[:1]), "cannot split 1 row"),
    "one file": (lambda p: pictures(p, G[:1]) / "0.png", "0.png: a single picture; give the folder"),
    "truncated": (lambda p: put(pictures(p, G[:5]), {"2.png": png()[:60]}), "2.png: truncated or damaged"),
    "not a picture": (lambda p: put(pictures(p, G[:5]), {"2.png": b"hello"}), "2.png: is none of PNG, JPEG"),
    "empty picture": (lambda p: put(pictures(p, G[:5]), {"2.png": b""}), "2.png: is none of PNG, JPEG"),
    "pixel bomb": (lambda p: put(pictures(p, G[:5]), {"2.png": _bomb()}), "2.png: too many pixels"),
    "16 bits": (lambda p: pictures(p, G[:5].astype(np.uint16) * 256), "0.png: has the mode I;16.*8 bits"),
    "cmyk": (lambda p: pictures(p, [Image.fromarray(RGB[0]).convert("CMYK")], ending="jpg"), "mode CMYK.*RGB"),
    "animation": (_animated, "a.gif: has 2 frames; save one"),
    "two sizes": (
        lambda p: put(pictures(p, G[:5]), {"9.png": png(G[0][:4])}),
        "0.png has 6 x 5 pixels, and .*9.png 6 x 4; write --dataset.size 4",
    ),
    "fifo": (lambda p: os.mkfifo(pictures(p, G[:5]) / "9.png") or p, "9.png: not a regular file"),
    "link out": (
        lambda p: (pictures(p, G[:5]) / "9.png").symlink_to("/etc/hostname") or p,
        "9.png: a link that leaves the folder",
    ),
    "link loop": (lambda p: (pictures(p, G[:5]) / "more").symlink_to(p) or p, "more: a link to a folder"),
    "label of no training picture": (
        lambda p: pictures(pictures(p / "train", G, "a", "b").parent / "test", G, "a", "c").parent,
        "no training picture has the label 'c'",
    ),
    "folder beside splits": (
        lambda p: pictures(pictures(p / "train", G).parent / "cats", G).parent,
        "the sub-folder 'cats' is not a split, beside train",
    ),
    "labels that disagree": (
        lambda p: put(p, {"images-idx3-ubyte": idx_of(G), "labels-idx1-ubyte": idx_of(Y[:-1])}),
        "labels-idx1-ubyte: 23 labels for the 24 images of .*images-idx3-ubyte",
    ),
    "labels as images": (
        lambda p: put(p, {"train-labels-idx1-ubyte": idx_of(Y)}) / "train-labels-idx1-ubyte",
        "holds labels; give the file of images",
    ),
    "idx magic": (lambda p: put(p, {"images-idx3-ubyte": b"abcd" + bytes(20)}), "not an IDX file: it begins with"),
    "idx of floats": (lambda p: put(p, {"images-idx3-ubyte": b"\0\0\r\3" + bytes(20)}), "type 0x0d; expected 0x08"),
    "idx header alone": (lambda p: put(p, {"images-idx3-ubyte": idx_of(G)[:9]}), "ends within its header"),
    "idx sizes": (
        lambda p: put(p, {"images-idx3-ubyte": b"\0\0\x08\3" + b"\x7f" * 12 + bytes(9)}),
        "its header claims the shape .*, and 9 follow it",
    ),
    "idx.gz sizes": (
        lambda p: put(p, {"images-idx3-ubyte.gz": gzip.compress(b"\0\0\x08\3" + b"\x7f" * 12)}),
        "its header claims the shape .* more than its .* bytes could hold",
    ),
    "idx.gz short": (
        lambda p: put(p, {"images-idx3-ubyte.gz": gzip.compress(idx_of(G)[:-5])}),
        "truncated or damaged: its header claims",
    ),
    "idx.gz long": (lambda p: put(p, {"images-idx3-ubyte.gz": gzip.compress(idx_of(G) + b"1")}), "more follow it"),
    "idx.gz cut": (lambda p: put(p, {"images-idx3-ubyte.gz": gzip.compress(idx_of(G))[:-9]}), "truncated or damaged"),
    "idx of nothing": (lambda p: put(p, {"images-idx3-ubyte": idx_of(G[:0])}), "has no images"),
    "zip bomb": (
        lambda p: put(p, {"images-idx3-ubyte.gz": gzip.compress(HEADER + RGB.tobytes() * 170, 0)}),
        "above the size limit of 256 MB",
    ),
    "pickles": (lambda p: put(p, {"data_batch_1": b"x"}), "data_batch_1: is a pickle, which is never loaded.*binary"),
    "a pickle": (lambda p: put(p, {"x.pkl": b"x"}) / "x.pkl", "x.pkl: is a pickle, which is never loaded"),
    "archive": (lambda p: put(p, {"x.tar.gz": b"x"}) / "x.tar.gz", "an archive; unpack it"),
    "short record": (
        lambda p: put(cifar(p, LARGE), {"data_batch_1.bin": bytes(3072)}),
        "data_batch_1.bin: truncated or not CIFAR-10",
    ),
    "no record": (lambda p: put(p, {"x.bin": b"\x0b" + bytes(3072)}) / "x.bin", "the label of image 0 is 11"),
    "objects": (lambda p: npy(p / "x.npy", np.array([None, 1])), "dtype object, which would be unpickled"),
    "floats": (lambda p: npy(p / "x.npy", G / 255), r"stored as float64; .*\(255 \* x\).round\(\).astype"),
    "integers": (lambda p: npy(p / "x.npy", G.astype(int)), r"stored as int64; .*x.astype"),
    "channels first": (lambda p: npy(p / "x.npy", RGB.transpose(0, 3, 1, 2)), r"x.transpose\(0, 2, 3, 1\)"),
    "channels of opacity": (lambda p: npy(p / "x.npy", np.zeros((3, 5, 6, 4), np.uint8)), r"opacity: x\[..., :3\]"),
    "npy cut": (lambda p: put(p, {"x.npy": npy(p / "y.npy", G).read_bytes()[:-9]}) / "x.npy", "720 bytes, and 711 fol"),
    "npy long": (lambda p: put(p, {"x.npy": npy(p / "y.npy", G).read_bytes() + b"1"}) / "x.npy", "bytes, and 721"),
    "photos": (
        lambda p: npy(p / "x.npy", np.zeros((3, 200, 500), np.uint8)),
        r"x.npy has 500 x 200 pixels.* --dataset.size 64 to cut and scale .*--dataset.size '\[200, 500\]' to keep",
    ),
    "flat": (lambda p: npy(p / "x.npy", G.reshape(24, -1)), r"\(24, 30\); expected \(N, H, W\)"),
    "npz without images": (lambda p: npz(p / "x.npz", a=G, b=G), "holds the arrays a, b; expected images named x"),
    "npz with two": (lambda p: npz(p / "x.npz", x=G, images=G), "'x' and 'images' have the same role"),
    "npz of sizes": (lambda p: npz(p / "x.npz", x_train=G, x_test=G[:, :4]), "6 x 5 pixels.*6 x 4"),
    "npz without training": (lambda p: npz(p / "x.npz", x_test=G, x_val=G), "expected training images beside"),
    "labels as floats": (lambda p: npz(p / "x.npz", x=G, y=Y / 2), "array 'y': labels are stored as float64"),
    "labels below 0": (lambda p: npz(p / "x.npz", x=G, y=Y - 1), "the label of image 0 is -1"),
    "unknown format": (lambda p: put(p, {"x.dat": b"x"}) / "x.dat", "cannot tell the format"),
}  # fmt: skip


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_told_by_its_file_and_what_to_do(fault: str, tmp_path: Path) -> None:
    make, words = FAULTS[fault]
    dataset = Images(make(tmp_path))
    found = Images.recognise(dataset.path)
    assert found is not None or not fault.startswith(("idx", "npy ", "channels", "labels as images"))
    tracemalloc.start()
    with pytest.raises(DataError, match=words) as caught:
        _ = dataset.metadata
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert "\n" not in str(caught.value)
    assert peak < 20e6


def test_a_sub_folder_without_pictures_is_named(tmp_path: Path) -> None:
    pictures(tmp_path, G, "a", "b")
    (tmp_path / "empty").mkdir()
    with pytest.warns(BFNWarning, match="no picture in the sub-folder empty"):
        assert Images(tmp_path).codec.categories == {"label": ("a", "b")}


def test_a_coloured_picture_among_grey_ones_is_told_when_it_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pictures(tmp_path, [*[G[0]] * 70, RGB[0], *[G[1]] * 70])
    assert Images(tmp_path).site_shape == (5, 6, 3)
    monkeypatch.setattr(folders, "DECODED", 0)
    monkeypatch.setattr(folders, "LOOKED_AT", 2)
    with pytest.raises(DataError, match=r"0\.png is grey, and .*70\.png has colours; write --dataset.colour rgb"):
        Images(tmp_path, seed=1).split("all")
    assert Images(tmp_path, seed=1, colour="grey").split("all").x.shape[1:] == (5, 6)  # type: ignore[union-attr]


@pytest.mark.parametrize("options", [{"size": 0}, {"size": (3, 4, 5)}, {"bins": 257}, {"colour": "blue"}, {"flip": 1}])
def test_options_are_checked(options: Any, tmp_path: Path) -> None:
    with pytest.raises((ConfigError, ValueError), match=next(iter(options))):
        Images(tmp_path, **options)


# Bytes stay bytes


def test_images_take_the_memory_of_their_bytes(tmp_path: Path) -> None:
    images = np.random.default_rng(0).integers(0, 256, (8000, 28, 28), np.uint8)
    packed = put(tmp_path, {"images-idx3-ubyte.gz": gzip.compress(idx_of(images), 0)}) / "images-idx3-ubyte.gz"
    mapped = npy(tmp_path / "x.npy", images)
    peaks = []
    for path in (packed, mapped):
        tracemalloc.start()
        rows = Images(path).rows("train")
        rows[torch.arange(100)]
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[0] < 1.5 * images.nbytes
    assert peaks[1] < 0.3 * images.nbytes


# Training and samples


def test_images_are_trained_and_come_back_as_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data, run = pictures(tmp_path / "data", RGB, "boot", "shoe"), tmp_path / "run"
    small = ["--network", "mlp", "--network.width", "8", "--training.batch_size", "8", "--training.warmup", "0"]
    call = ["train", "--dataset", "images", "--dataset.path", str(data), "--out", str(run), "--no-report", *small]
    assert main([*call, "--training.steps", "3"]) == 0
    capsys.readouterr()
    sample = ["sample", str(run), "-n", "12", "--steps", "2", "--condition", "label=boot", "--out"]
    for out in ("x.npy", "x.png", "x"):
        assert main([*sample, str(tmp_path / out)]) == 0
    levels = np.load(tmp_path / "x.npy")
    assert levels.dtype == np.uint8
    assert sorted(os.listdir(tmp_path / "x")) == [f"{i:04d}.png" for i in range(1, 13)]
    for number, image in enumerate(levels, 1):
        assert np.array_equal(np.asarray(Image.open(tmp_path / "x" / f"{number:04d}.png")), image)
    sheet = np.asarray(Image.open(tmp_path / "x.png"))
    assert np.array_equal(sheet[1::7, 1::7][:5, :6], levels[0])
    assert main([*sample, str(tmp_path / "x")]) == 2
    assert "exists; choose another --out" in capsys.readouterr().err
    assert main([*sample[:3], "5", *sample[4:], str(tmp_path / "x"), "--force"]) == 0
    assert len(os.listdir(tmp_path / "x")) == 5
    assert main([*sample, str(data), "--force"]) == 2
    assert "holds boot, which is not a sample; choose another folder" in capsys.readouterr().err
    assert len(list(data.rglob("*.png"))) == 24
    (data / "boot" / "00.png").write_bytes(png(RGB[3]))
    assert Run.open(run).source_changes() == ["another sha256"]
