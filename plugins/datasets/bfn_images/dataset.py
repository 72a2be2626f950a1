r"""The data set of a user's images.

A pixel has a level v in 0 ... 255.  With K bins it becomes the level :math:`l = \lfloor v K / 256 \rfloor`, then the
centre of one of K equal bins of [-1, 1], or the class l.  Binary pixels are classes: v > 127 ("threshold"), or 1 with
probability v / 255, drawn anew in each step ("dynamic").

Source of the dynamic binarisation: R. Salakhutdinov and I. Murray 2008, On the Quantitative Analysis of Deep Belief
Networks, section 4.
"""

from __future__ import annotations

import hashlib
import math
import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal, cast

import attrs
import numpy as np
import torch
from attrs import field
from torch import Tensor

from bfn_files.reading import absolute, few, fingerprint, fraction, partition, sha256_of, warn_of_missing
from bfn_images.arrays import (
    Array,
    Place,
    array_shape,
    begins_idx,
    fitted,
    idx_header,
    in_words,
    is_cifar,
    is_idx,
    read_cifar,
    read_file,
    read_idx_files,
)
from bfn_images.folders import Listing, digest, folder_rows, list_folder, recognised_folder
from bfn_images.pictures import ENDINGS, Colour, Size
from bfn_images.rows import JoinedRows
from bfn_toolkit import (
    ArrayRows,
    Batch,
    ConfigError,
    DataError,
    Dataset,
    ImageCodec,
    Recognised,
    Rows,
    Split,
    split_rows,
    validators,
)

WHOLE = 2**14  # pixels of an image up to which the preset's batch is computed as a whole, in 2.7 GB
PIECES = 32  # the preset's batch
USES: Mapping[Split, str] = {"train": "training", "valid": "validation", "test": "test"}
KNOWN = 2**20  # levels from which the mean square is taken
ROWS = 1024  # rows that are converted together


def _size(value: Any) -> Any:
    return (value, value) if isinstance(value, int) and not isinstance(value, bool) else value and tuple(value)


def _positive(dataset: Images, attribute: attrs.Attribute[Any], size: Size | None) -> None:
    if size is not None and not (len(size) == 2 and all(isinstance(n, int) and 0 < n < 2**14 for n in size)):
        raise ConfigError(f"size: expected a number of pixels, or height and width, got {size!r}")


def _a_path(dataset: Images, _: attrs.Attribute[Path], path: Path) -> None:
    if "\0" in str(path):
        raise ConfigError("path: expected the name of a file or folder, got one with a NUL character")


@attrs.frozen(eq=False)
class Content:
    """Content of a data set of images.

    Arguments:
        parts: Rows by split, "" where the source has none.
        splits: Numbers of the rows of every split, counted through all parts.
        shape: Shape of an example.
        names: Names of the labels, if there are some.
        labels: Number of labels; 0 for none.
        data_variance: Mean square of the training rows, as bins.
        files: All files of the source.
    """

    parts: Mapping[Place, Rows]
    splits: Mapping[Split, Tensor]
    shape: tuple[int, ...]
    names: Sequence[str]
    labels: int
    data_variance: float
    files: Sequence[Path] | Listing


@attrs.frozen
class Images(Dataset):
    """Images of a folder or a file, with the condition "label" if the source has labels.

    Splits of the source are kept; those that it lacks are taken from its training rows.

    Arguments:
        path: A folder of picture files, whose sub-folders are labels, or are named train, valid and test; a folder of
            IDX files, or one of them; a .npy file, or .npz with arrays named as x_train, y_train, images, labels; or
            the folder of CIFAR-10's binary version.
        size: Pixels of each side, or height and width, to which images are cut around their centre and scaled; None to
            leave them as they are, which must be all of one size.
        colour: "grey" or "rgb"; "auto" for what the images are.  Grey is (H, W), colours are (H, W, 3).
        bins: Number K of levels.
        pixels: "bins" for centres of bins of [-1, 1], as float32; "classes" for the levels as int64.
        binarise: "threshold" or "dynamic" for two classes instead: see above; "none" to keep the levels.
        flip: Whether half of the images, drawn anew in each step, are mirrored left to right; in every split.
        labels: Whether to read labels.
        valid_fraction: Fraction held out for validation, of the rows outside the test set.
        test_fraction: Fraction of the rows held out for the test set.
        seed: Seed of the splits.
    Raises:
        DataError: When the images are read, if they do not exist, are damaged, or do not fit each other.
    """

    path: Path = field(converter=absolute, repr=lambda path: repr(str(path)), validator=_a_path)
    size: int | tuple[int, int] | None = field(default=None, kw_only=True, converter=_size, validator=_positive)
    colour: Colour = field(default="auto", kw_only=True, validator=validators.one_of("auto", "grey", "rgb"))
    bins: int = field(default=256, kw_only=True, validator=validators.integer(ge=2, le=256))
    pixels: Literal["bins", "classes"] = field(
        default="bins", kw_only=True, validator=validators.one_of("bins", "classes")
    )
    binarise: Literal["none", "threshold", "dynamic"] = field(
        default="none", kw_only=True, validator=validators.one_of("none", "threshold", "dynamic")
    )
    flip: bool = field(default=False, kw_only=True, validator=validators.instance_of(bool))
    labels: bool = field(default=True, kw_only=True, validator=validators.instance_of(bool))
    valid_fraction: float = fraction(0.1)
    test_fraction: float = fraction(0.1)
    seed: int = field(default=0, kw_only=True, validator=validators.integer(ge=0, le=2**63 - 1))

    @classmethod
    def recognise(cls, path: Path) -> Recognised | None:
        """A folder of pictures, IDX or CIFAR-10 files; a file of these; .npy or .npz of uint8 images."""
        return _recognised(path)

    @property
    def content(self) -> Content:
        """The images, read once per process.

        Raises:
            DataError: If they cannot be read.
        """
        try:
            status = self.path.stat()
        except OSError as error:
            raise DataError(f"{self.path}: cannot be read: {error.strerror}") from error
        return _content(self, (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns))

    @property
    def site_shape(self) -> tuple[int, ...]:
        """(H, W) for grey, (H, W, 3) for colours."""
        return self.content.shape

    @property
    def codec(self) -> ImageCodec:
        """Levels of the pixels, and the names of the labels."""
        categories = {"label": self.content.names} if self.content.names else {}
        if self.binarise != "none":
            return ImageCodec(2, "classes", categories=categories)
        return ImageCodec(self.bins, self.pixels, categories=categories)

    @property
    def metadata(self) -> Mapping[str, object]:
        """Site shape and axes, number of labels, and classes, or bins with the mean square."""
        content, codec = self.content, self.codec
        facts: dict[str, object] = {
            "site_shape": content.shape,
            "axes": ("height", "width", "channel")[: len(content.shape)],
        }
        facts |= {"labels": content.labels} if content.labels else {}
        if codec.pixels == "classes":
            return {**facts, "classes": codec.levels}
        return {**facts, "bins": codec.levels, "data_variance": content.data_variance}

    @property
    def source(self) -> Mapping[str, object]:
        """Number of images, and SHA-256 of the files."""
        content = self.content
        return {"rows": sum(map(len, content.parts.values())), "sha256": _digest(content)}

    @property
    def default_config(self) -> Mapping[str, object]:
        """A small U-Net, for classes, or for bins to look at (docs/reference/results.md has the measurements)."""
        height, width = self.site_shape[:2]
        # The memory for an image grows with its pixels to the power of 1.75, because of the attention.
        pieces = min(math.ceil((height * width / WHOLE) ** 1.75), PIECES)
        common: dict[str, object] = {"preset": "images", **({"training": {"accumulate": pieces}} if pieces > 1 else {})}
        if self.binarise != "none" or self.pixels == "classes":
            return {**common, "family": "categorical"}
        return {
            **common,
            "family": {"name": "gaussian", "sigma_1": 0.03, "head": "noise"},
            "loss": {"name": "continuous-time", "weighting": "unit", "times": "log-normal"},
        }

    @property
    def summary(self) -> Sequence[str]:
        """Numbers of images, size, colour and labels."""
        content = self.content
        height, width, *colours = content.shape
        numbers = [f"{len(content.splits[name]):,} for {use}" for name, use in USES.items()]
        kind = "in colour" if colours else "grey"
        labels = list(content.names) or [str(number) for number in range(content.labels)]
        told = f"{len(labels)} labels: {few(labels)}" if labels else "no labels"
        return [f"{width} x {height} pixels, {kind}; {', '.join(numbers)}; {told}"]

    def rows(self, name: Split) -> Rows:
        """Images as bytes."""
        content = self.content
        return JoinedRows(list(content.parts.values()), content.splits[name])

    def prepare(self, batch: Batch) -> Batch:
        """Bins or classes of the levels, mirrored and binarised at random where that was asked for."""
        x = batch.x
        assert isinstance(x, Tensor)
        if self.colour == "rgb" and x.ndim == 3:
            x = x.unsqueeze(-1).expand(*x.shape, 3)
        if self.flip:
            mirrored = torch.rand(len(x), device=x.device) < 0.5
            x = torch.where(mirrored.reshape(-1, *(1,) * (x.ndim - 1)), x.flip(2), x)
        return Batch(self._pixels(x), batch.condition)

    def _pixels(self, x: Tensor) -> Tensor:
        if self.binarise == "dynamic":
            return (torch.rand(x.shape, device=x.device) * 255.0 < x).long()
        if self.binarise == "threshold":
            return (x > 127).long()
        levels = x if self.bins == 256 else x.int() * self.bins // 256
        return levels.long() if self.pixels == "classes" else ImageCodec(self.bins).centres(levels)


@lru_cache(maxsize=2)
def _content(dataset: Images, _: object) -> Content:
    parts, labels, names, files = _read(dataset)
    splits = _splits(dataset, {place: len(rows) for place, rows in parts.items()})
    count, learned = len(names), None if not labels else np.concatenate(list(labels.values()))
    if learned is not None:
        count = max(len(names), int(learned.max()) + 1)
        warn_of_missing(dataset.path, "label", torch.from_numpy(learned)[splits["train"]], count)
    rows = JoinedRows(list(parts.values()), splits["train"])
    first = rows[torch.arange(1)].x
    assert isinstance(first, Tensor)
    shape = (*first.shape[1:], 3) if dataset.colour == "rgb" and first.ndim == 3 else tuple(first.shape[1:])
    few = torch.from_numpy(np.linspace(0, len(rows) - 1, min(len(rows), max(1, KNOWN // first.numel()))).astype(int))
    x = rows[few].x
    assert isinstance(x, Tensor)
    shares = x.flatten().bincount(minlength=256).double() / x.numel()
    centres = ImageCodec(dataset.bins).centres(torch.arange(256) * dataset.bins // 256).double()
    return Content(parts, splits, shape, names, count, float(shares @ centres.square()), files)


def _read(
    dataset: Images,
) -> tuple[dict[Place, Rows], dict[Place, Array], Sequence[str], Sequence[Path] | Listing]:
    """Rows by split, their labels, the names of the labels, and the files."""
    path, size = dataset.path, cast("Size | None", dataset.size)
    if path.is_dir() and (names := [name for name in os.listdir(path) if is_idx(name)]):
        arrays = read_idx_files([path / name for name in sorted(names)], labels=dataset.labels)
    elif path.is_dir() and is_cifar(os.listdir(path)):
        arrays = read_cifar(path, labels=dataset.labels)
    elif path.is_dir():
        listing = list_folder(path, labels=dataset.labels)
        labels = {place: index.labels for place, index in listing.parts.items() if index.labels is not None}
        return folder_rows(listing, dataset.colour, size), labels, listing.names, listing
    else:
        arrays = read_file(path, labels=dataset.labels)
    images = fitted(arrays, dataset.colour, size)
    labels = {place: part.labels for place, part in arrays.parts.items() if part.labels is not None}
    if labels and (len(labels) < len(images) or max(map(np.max, labels.values())) == 0):
        labels = {}
    rows = {
        place: ArrayRows(array, {"label": torch.from_numpy(labels[place])} if labels else None)
        for place, array in images.items()
    }
    return dict(rows), labels, arrays.names if labels else (), arrays.files


def _splits(dataset: Images, sizes: Mapping[Place, int]) -> Mapping[Split, Tensor]:
    """Numbers of the rows of every split: those of the source, and parts of its training rows for the others."""
    ends = np.cumsum(list(sizes.values())).tolist()
    own = {place: torch.arange(end - sizes[place], end) for place, end in zip(sizes, ends, strict=True)}
    try:
        if len(own) == 1 and not {"valid", "test"} & own.keys():
            return partition(ends[-1], dataset.valid_fraction, dataset.test_fraction, dataset.seed)
        if len({"", "train"} & own.keys()) != 1:
            raise DataError(f"expected training images beside those of {' and '.join(own)}")
        train = own.get("train", own.get("", torch.arange(0)))
        for name, share in (("test", dataset.test_fraction), ("valid", dataset.valid_fraction)):
            if name not in own:
                rest, held = split_rows(len(train), max(share, 1.0 / len(train)), dataset.seed)
                own[name], train = train[held], train[rest]  # type: ignore[index]
    except DataError as error:
        raise DataError(f"{dataset.path}: {error}") from error
    return {"train": train, "valid": own["valid"], "test": own["test"], "all": torch.cat([train, own["valid"]])}


def _digest(content: Content) -> str:
    if isinstance(content.files, Listing):
        found = [digest(index) for index in content.files.parts.values()]
    else:
        found = [sha256_of(path, fingerprint(path)) for path in content.files]
    return found[0] if len(found) == 1 else hashlib.sha256(" ".join(found).encode()).hexdigest()


def _recognised(path: Path) -> Recognised | None:
    with suppress(OSError, DataError):
        if path.is_dir():
            names = os.listdir(path)
            idx = sorted(name for name in names if is_idx(name))
            if idx:
                return _in_idx([path / name for name in idx])
            if is_cifar(names):
                return Recognised("images of CIFAR-10", 3)
            pictures = recognised_folder(path)
            return Recognised(pictures, 3) if pictures else None
        if is_idx(path.name) or begins_idx(path):
            return _in_idx([path])
        if path.suffix.lower() in (".npy", ".npz"):
            shape = array_shape(path)
            return Recognised(in_words(shape), 3) if shape else None
        if path.suffix.lower() in ENDINGS or is_cifar([path.name]):
            return Recognised("an image", 3)
    return None


def _in_idx(paths: Sequence[Path]) -> Recognised:
    try:
        shapes = {path.name.removesuffix(".gz"): idx_header(path) for path in paths}
        first = next(iter(shapes.values()))
        if len(first) == 1:
            return Recognised("labels in an IDX file", 3)
        return Recognised(in_words((sum(shape[0] for shape in shapes.values()), *first[1:])), 3)
    except DataError:  # reading it will tell
        return Recognised("images in a damaged IDX file", 3)
