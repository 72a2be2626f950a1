"""Images in arrays: IDX files, .npy, .npz, and the binary files of CIFAR-10.

Bytes stay bytes: arrays are uint8, and mapped into memory where a file holds them as they are.  Every header is
compared with the size of its file before anything is allocated.  Pickles are never loaded: a pickle can run code.
"""

from __future__ import annotations

import gzip
import math
import re
import warnings
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, TypeAlias

import attrs
import numpy as np
from PIL import Image

from bfn_files.columns import array_header, open_npz
from bfn_files.reading import check_unpacked, fingerprint, reading
from bfn_images.pictures import ENDINGS, Colour, Size, check_pixels, is_grey, scaled, sizes_differ
from bfn_toolkit import BFNWarning, DataError

Array: TypeAlias = "np.ndarray[Any, Any]"
Place: TypeAlias = Literal["", "train", "valid", "test"]  # the split of some images; "" if the source has no splits

SPLITS: Mapping[str, Place] = {
    "train": "train", "training": "train", "valid": "valid", "val": "valid", "validation": "valid",
    "test": "test", "testing": "test", "t10k": "test",
}  # fmt: skip
IMAGES = ("images", "image", "imgs", "img", "x", "data")
LABELS = ("labels", "label", "y", "targets", "target")
MOST_LABELS = 2**16  # more count as a mistake
RECORD = 3073  # bytes of an image of CIFAR-10: a label, and 32 x 32 levels of red, green and blue
LUMA = np.array([19595, 38470, 7471], np.uint32)  # weights of red, green and blue in grey, which add up to 2**16
PIECE = 2**20  # bytes that are unpacked together
ROWS = 1024  # images that are converted together
PICKLED = "is a pickle, which is never loaded, because it can run code"


@attrs.frozen(eq=False)
class Part:
    """Images of one split.

    Arguments:
        images: Levels as uint8, (N, H, W) or (N, H, W, 3).
        labels: Classes of the images, as int64 (N,), or None.
        path: Their file.
    """

    images: Array
    labels: Array | None
    path: Path


@attrs.frozen(eq=False)
class Arrays:
    """Images by split.

    Arguments:
        parts: The images.
        names: Names of the labels, if the source has them.
        files: All files that were read.
    """

    parts: Mapping[Place, Part]
    names: Sequence[str]
    files: Sequence[Path]


def split_of(name: str) -> Place:
    """The split that a name speaks of; "" if none."""
    words = re.split(r"[^a-z0-9]+", name.lower())
    return next((SPLITS[word] for word in words if word in SPLITS), "")


# IDX


def is_idx(name: str) -> bool:
    """Whether a file name is that of images in an IDX file, as of MNIST."""
    return re.search(r"images.idx[34]-ubyte(\.gz)?$", name) is not None


def begins_idx(path: Path) -> bool:
    """Whether a file, whatever its name, begins like an IDX file of bytes."""
    with reading(path) as file:
        magic = _unpacked(file).read(4)
    return bool(magic[:3] == b"\0\0\x08" and magic[3:] in (b"\1", b"\3", b"\4"))


def idx_header(path: Path) -> tuple[int, ...]:
    """Shape of the array in an IDX file."""
    with reading(path) as file:
        return _idx_header(path, _unpacked(file))[0]


def _unpacked(file: Any) -> Any:
    """The stream, or that of its content if it is compressed, whatever its name."""
    packed = file.peek(2)[:2] == b"\x1f\x8b"
    return gzip.GzipFile(fileobj=file) if packed else file


def _idx_header(path: Path, stream: Any) -> tuple[tuple[int, ...], int]:
    """Shape of the array, and the number of bytes before it."""
    magic = stream.read(4)
    if len(magic) < 4 or magic[:2] != b"\0\0" or magic[3] not in (1, 3, 4):
        raise DataError(f"{path}: not an IDX file: it begins with the bytes {magic.hex(' ') or 'of an empty file'}")
    if magic[2] != 8:
        raise DataError(f"{path}: its header says the type {magic[2]:#04x}; expected 0x08, bytes")
    sizes = stream.read(4 * magic[3])
    if len(sizes) < 4 * magic[3]:
        raise DataError(f"{path}: truncated: it ends within its header")
    return tuple(map(int, np.frombuffer(sizes, ">u4"))), 4 + len(sizes)


def read_idx(path: Path) -> Array:
    """The bytes in an IDX file: mapped into memory, or unpacked from gzip.

    Raises:
        DataError: If it is damaged, or its header does not fit it.
    """
    with reading(path) as file:
        stream, size = _unpacked(file), fingerprint(path)[2]
        shape, start = _idx_header(path, stream)
        expected = math.prod(shape)
        claim = f"its header claims the shape {shape}, {expected:,} bytes"
        if stream is file:
            if start + expected != size:
                raise DataError(f"{path}: truncated or damaged: {claim}, and {size - start:,} follow it")
            if not expected:
                return np.empty(shape, np.uint8)
            return np.memmap(path, np.uint8, "r", start, shape)
        if expected > 1100 * size:  # gzip packs a byte at most 1,032 times
            raise DataError(f"{path}: truncated or damaged: {claim}, more than its {size:,} bytes could hold")
        check_unpacked(path, "the array", expected, size)
        array = np.empty(shape, np.uint8)
        flat, found = array.reshape(-1), 0
        while found < expected and (more := stream.readinto(flat[found : found + PIECE])):
            found += more
        if found < expected or stream.read(1):  # the end, where gzip checks the checksum
            what = f"{found:,} follow it" if found < expected else "more follow it"
            raise DataError(f"{path}: truncated or damaged: {claim}, and {what}")
        return array


def _labels_beside(path: Path) -> Path | None:
    """The IDX file of labels beside one of images."""
    name = path.name.replace("images", "labels").replace("idx3", "idx1").replace("idx4", "idx1")
    names = () if name == path.name else (name, name.removesuffix(".gz"), f"{name}.gz")
    return next((path.with_name(other) for other in names if path.with_name(other).is_file()), None)


def _idx_part(path: Path, *, labels: bool) -> tuple[Part, list[Path]]:
    beside = _labels_beside(path) if labels else None
    if len(idx_header(path)) == 1:
        raise DataError(f"{path}: holds labels; give the file of images")
    part = part_of(path, read_idx(path), "the array", None if beside is None else (beside, read_idx(beside)))
    return part, [path, *([beside] if beside else [])]


def read_idx_files(paths: Sequence[Path], *, labels: bool) -> Arrays:
    """IDX files of images, with the labels beside them; their names say the splits."""
    parts: dict[Place, Part] = {}
    files: list[Path] = []
    for path in paths:
        place = split_of(path.name) if len(paths) > 1 else ""
        if place in parts:
            if path.name.removesuffix(".gz") == parts[place].path.name.removesuffix(".gz"):
                continue  # the same file, packed and unpacked
            raise DataError(
                f"{path.parent}: {parts[place].path.name} and {path.name} are both images of "
                f"{place or 'no named split'}; give one file, or name them train-... and test-..."
            )
        parts[place], read = _idx_part(path, labels=labels)
        files += read
    return Arrays(parts, (), files)


# .npy and .npz


def read_npy(path: Path) -> Arrays:
    """Images in a .npy file, mapped into memory."""
    with reading(path) as file:
        shape, fortran, dtype = array_header(path, "the array", file, fingerprint(path)[2])
        start = file.tell()
    empty = not math.prod(shape)
    mapped = np.empty(shape, dtype) if empty else np.memmap(path, dtype, "r", start, shape, "F" if fortran else "C")
    return Arrays({"": part_of(path, mapped, "the array", None)}, (), [path])


def read_npz(path: Path, *, labels: bool) -> Arrays:
    """Images, and labels if they are wanted, in an archive whose arrays are named after roles and splits."""
    parts: dict[Place, Part] = {}
    with open_npz(path) as (names, load):
        images, classes = _roles(path, names)
        for place, name in images.items():
            beside = classes.get(place) if labels else None
            told = None if beside is None else (f"{path}: array '{beside}'", load(beside))
            parts[place] = part_of(path, load(name), f"array '{name}'", told)
        left_out = [name for name in names if name not in {*images.values(), *classes.values()}]
    if left_out:
        warnings.warn(f"{path}: left out the array {', '.join(left_out[:5])}", BFNWarning, stacklevel=2)
    return Arrays(parts, (), [path])


def _roles(path: Path, names: Sequence[str]) -> tuple[dict[Place, str], dict[Place, str]]:
    """Names of the arrays of images and of labels, by split."""
    images: dict[Place, str] = {}
    labels: dict[Place, str] = {}
    for name in names:
        words = re.split(r"[^a-z0-9]+", name.lower())
        for role, known in ((images, IMAGES), (labels, LABELS)):
            if any(word in known for word in words):
                place = split_of(name)
                if place in role:
                    raise DataError(
                        f"{path}: the arrays '{role[place]}' and '{name}' have the same role; keep one of them"
                    )
                role[place] = name
    if not images and len(names) == 1:
        images[""] = names[0]
    if not images:
        raise DataError(
            f"{path}: holds the arrays {', '.join(names[:20])}; expected images named x, images or x_train, x_test, "
            "and labels named y, labels or y_train, y_test"
        )
    return images, labels


def array_shape(path: Path) -> tuple[int, ...] | None:
    """Shape of the images in a .npy or .npz file, in any order of channels; None if it holds none of bytes.

    Raises:
        DataError: If it is damaged.
    """
    if path.suffix.lower() == ".npy":
        with reading(path) as file:
            shape, _, dtype = array_header(path, "the array", file)
    else:
        with reading(path) as file, zipfile.ZipFile(file) as archive:
            members = {info.filename.removesuffix(".npy"): info for info in archive.infolist()}
            images, _ = _roles(path, list(members))
            info = members[next(iter(images.values()))]
            with archive.open(info) as stream:
                shape, _, dtype = array_header(path, "the array", stream)
    fits = len(shape) == 3 or (len(shape) == 4 and {shape[1], shape[3]} & {1, 3, 4})
    return shape if dtype == np.uint8 and fits else None


# CIFAR-10


def is_cifar(names: Sequence[str]) -> bool:
    """Whether a folder with these file names is CIFAR-10, in its binary version or in pickles."""
    return any(re.fullmatch(r"data_batch_\d+(\.bin)?", name) for name in names)


def read_cifar(path: Path, *, labels: bool) -> Arrays:
    """CIFAR-10's binary version: its folder, or one of its files.

    Raises:
        DataError: If a file is damaged, or holds pickles.
    """
    if not path.is_dir():
        return Arrays({"": _records([path], labels=labels)}, _cifar_names(path.parent), [path])
    train, test = sorted(path.glob("data_batch_*.bin")), sorted(path.glob("test_batch.bin"))
    if not train:
        advice = "take the binary version of CIFAR-10, cifar-10-binary.tar.gz"
        raise DataError(f"{path / 'data_batch_1'}: {PICKLED}; {advice}")
    parts: dict[Place, Part] = {
        "train": _records(train, labels=labels),
        **({"test": _records(test, labels=labels)} if test else {}),
    }
    return Arrays(parts, _cifar_names(path), [*train, *test, *path.glob("batches.meta.txt")])


def _cifar_names(folder: Path) -> list[str]:
    path = folder / "batches.meta.txt"
    if not path.is_file():
        return []
    with reading(path) as file:
        return file.read(2**16).decode(errors="replace").split()


def _records(paths: Sequence[Path], *, labels: bool) -> Part:
    sizes = [fingerprint(path)[2] for path in paths]
    for path, size in zip(paths, sizes, strict=True):
        if not size or size % RECORD:
            raise DataError(
                f"{path}: truncated or not CIFAR-10: {size:,} bytes are not a multiple of {RECORD}, the size "
                "of an image"
            )
    images = np.empty((sum(sizes) // RECORD, 32, 32, 3), np.uint8)
    classes = np.empty(len(images), np.uint8)
    first = 0
    for path in paths:
        with reading(path) as file:
            records = np.frombuffer(file.read(), np.uint8).reshape(-1, RECORD)
        rows = slice(first, first + len(records))
        classes[rows], images[rows] = records[:, 0], records[:, 1:].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
        if int(classes[rows].max()) > 9:
            row = int((classes[rows] > 9).argmax())
            raise DataError(f"{path}: not CIFAR-10: the label of image {row} is {classes[first + row]}, expected 0...9")
        first = rows.stop
    return part_of(paths[0], images, "the images", (paths[0], classes) if labels else None)


# Common to all


def part_of(path: Path, images: Array, what: str, labels: tuple[object, Array] | None) -> Part:
    """Images and labels after checks of their types, shapes and numbers.

    Arguments:
        path: The file of the images.
        images: Levels, (N, H, W), (N, H, W, 1) or (N, H, W, 3).
        what: Words for the array in messages.
        labels: Place and numbers of the labels, (N,) or (N, 1).
    """
    place = f"{path}: {what}"
    if images.dtype == np.bool_:
        images = images.view(np.uint8) * np.uint8(255)
    if images.dtype != np.uint8:
        factor = "(255 * x).round()" if images.dtype.kind == "f" else "x"
        raise DataError(
            f"{place} is stored as {images.dtype}; expected levels 0...255 as uint8. If that is what they are, save "
            f'them anew: np.save("images.npy", {factor}.astype("uint8"))'
        )
    if images.ndim == 4 and images.shape[3] == 1:
        images = images[..., 0]
    if images.ndim not in (3, 4) or (images.ndim == 4 and images.shape[3] != 3):
        hint = "; move the channels to the end: x.transpose(0, 2, 3, 1)" if _channels_first(images) else ""
        hint = "; leave out the opacity: x[..., :3]" if images.ndim == 4 and images.shape[3] == 4 else hint
        raise DataError(f"{place} has the shape {images.shape}; expected (N, H, W) or (N, H, W, 3){hint}")
    if not images.size:
        raise DataError(f"{place} has no images: its shape is {images.shape}")
    if not images.flags.c_contiguous:  # rows are taken from it one by one
        images = np.ascontiguousarray(images)
    return Part(images, None if labels is None else _classes(place, len(images), *labels), path)


def _channels_first(images: Array) -> bool:
    return images.ndim == 4 and images.shape[1] in (1, 3)


def _classes(images: str, n: int, place: object, labels: Array) -> Array:
    labels = labels[:, 0] if labels.ndim == 2 and labels.shape[1] == 1 else labels
    if labels.ndim != 1 or len(labels) != n:
        count = f"{len(labels):,} labels" if labels.ndim == 1 else f"labels of the shape {labels.shape}"
        raise DataError(f"{place}: {count} for the {n:,} images of {images}; expected one label for each image")
    if labels.dtype.kind not in "iu":
        raise DataError(f"{place}: labels are stored as {labels.dtype}; expected integers 0...K-1")
    wrong = (labels < 0) | (labels >= MOST_LABELS)
    if wrong.any():
        row = int(wrong.argmax())
        raise DataError(
            f"{place}: the label of image {row} is {labels[row]}; expected an integer in 0...{MOST_LABELS - 1}"
        )
    return labels.astype(np.int64)


def in_words(shape: Sequence[int]) -> str:
    """Images of a shape (N, H, W) or (N, H, W, C) in words."""
    if len(shape) == 4 and shape[3] not in (1, 3):
        return f"images of the shape {tuple(shape[1:])}"
    kind = "coloured" if shape[3:] == (3,) else "grey"
    return f"{shape[0]:,} {kind} images of {shape[2]} x {shape[1]}"


def read_file(path: Path, *, labels: bool) -> Arrays:
    """Images in one file, told by its name.

    Raises:
        DataError: If it is of no such format, or damaged.
    """
    name = path.name.lower()
    if name.endswith(".npy"):
        return read_npy(path)
    if name.endswith(".npz"):
        return read_npz(path, labels=labels)
    if re.search(r"idx\d-ubyte(\.gz)?$", name) or begins_idx(path):
        return read_idx_files([path], labels=labels)
    if name.endswith(".bin"):
        return read_cifar(path, labels=labels)
    if name.endswith((".pkl", ".pickle", ".pt", ".pth", ".ckpt", ".joblib")) or is_cifar([name]):
        hint = ": take the binary version of CIFAR-10, cifar-10-binary.tar.gz, or save a .npz of x_train and y_train"
        raise DataError(f"{path}: {PICKLED}{hint}")
    if name.endswith((".zip", ".tar", ".tar.gz", ".tgz", ".7z", ".rar")):
        raise DataError(f"{path}: an archive; unpack it, and give the folder")
    if name.endswith(ENDINGS):
        raise DataError(f"{path}: a single picture; give the folder of the pictures")
    raise DataError(
        f"{path}: cannot tell the format; expected a folder of pictures or of IDX files, .npy, .npz, an IDX file or "
        "data_batch_1.bin"
    )


def fitted(arrays: Arrays, colour: Colour, size: Size | None) -> dict[Place, Array]:
    """Levels by split, all of one size, and all grey or all coloured; as they are stored where they can be.

    Raises:
        DataError: If they differ in size, and ``size`` is None.
    """
    parts = arrays.parts
    coloured = colour != "grey" and any(
        part.images.ndim == 4 and (colour == "rgb" or not _all_grey(part.images)) for part in parts.values()
    )
    found = {place: _fitted(part.images, coloured, colour, size) for place, part in parts.items()}
    (first, one), *others = found.items()
    check_pixels(parts[first].path, one.shape[1:], size)
    for place, other in others:
        if other.shape[1:] != one.shape[1:]:
            raise sizes_differ(parts[first].path, one.shape[1:], parts[place].path, other.shape[1:])
    return found


def _all_grey(images: Array) -> bool:
    return all(is_grey(images[start : start + ROWS]) for start in range(0, len(images), ROWS))


def _fitted(images: Array, coloured: bool, colour: Colour, size: Size | None) -> Array:
    if size is not None and images.shape[1:3] != size:
        scaled_rows = np.empty((len(images), *size, *images.shape[3:]), np.uint8)
        for row, image in enumerate(images):
            scaled_rows[row] = scaled(Image.fromarray(image), size)
        images = scaled_rows
    if images.ndim == 4 and not coloured:
        grey = np.empty(images.shape[:3], np.uint8)
        for start in range(0, len(images), ROWS):
            rows = images[start : start + ROWS]
            grey[start : start + ROWS] = rows[..., 0] if colour == "auto" else (rows @ LUMA + 0x8000) >> 16
        return grey
    return np.repeat(images[..., None], 3, -1) if coloured and images.ndim == 3 else images
