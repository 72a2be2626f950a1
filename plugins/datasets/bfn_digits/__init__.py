r"""Digits (plugin): the 1,797 handwritten digits of 8 x 8 pixels in scikit-learn, with their labels.

A pixel is a grey level g in 0..16.  It is returned as the centre of one of 17 equal bins of [-1, 1],

.. math:: x = \frac{2 g + 1}{17} - 1 ,

for a Gaussian family with a discretised output, or as a class: the level g, or whether g is above 8.

Source: E. Alpaydin and C. Kaynak 1998, Optical Recognition of Handwritten Digits (its test set), UCI Machine Learning
Repository, https://doi.org/10.24432/C50P49, CC BY 4.0.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Literal

import attrs
import torch
from attrs import field
from torch import Tensor

from bfn_toolkit import Batch, ConfigError, Dataset, Entry, ImageCodec, Split, hookimpl, split_rows, validators

LEVELS = 17
ONE_IN = 6  # every sixth image is in the test set


@lru_cache(maxsize=1)
def _digits() -> tuple[Tensor, Tensor]:
    """Grey levels (1797, 8, 8) and labels (1797,), as int64."""
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise ConfigError("scikit-learn is not installed; write: pip install scikit-learn") from error
    digits = load_digits()
    return torch.from_numpy(digits.images).long(), torch.from_numpy(digits.target).long()


@attrs.frozen
class Digits(Dataset):
    """Handwritten digits, with the condition "label" in 0..9.

    Every sixth image is in the test set for every seed; "all" means the other images.

    Arguments:
        pixels: "bins" for the centres of 17 bins, as float32; "classes" for the 17 grey levels, or "binary" for black
            and white, both as int64.
        seed: Seed of the split into training and validation rows.
        valid_fraction: Fraction held out for validation, of the images outside the test set.
    Raises:
        ConfigError: From :meth:`split`, if scikit-learn is not installed.

    >>> digits = Digits("binary").split("test")
    >>> digits.x.shape, digits.condition["label"][:5]
    (torch.Size([299, 8, 8]), tensor([5, 1, 7, 3, 9]))
    """

    pixels: Literal["bins", "classes", "binary"] = field(
        default="bins", validator=validators.one_of("bins", "classes", "binary")
    )
    seed: int = field(default=0, validator=validators.integer(ge=0, le=2**63 - 1))
    valid_fraction: float = field(default=0.1, validator=validators.number(gt=0, lt=1))

    @property
    def site_shape(self) -> tuple[int, ...]:
        """(8, 8)."""
        return (8, 8)

    @property
    def default_config(self) -> Mapping[str, object]:
        """Bins or classes, with a perceptron."""
        bins = {"name": "gaussian", "head": "discretised"}
        return {
            "family": bins if self.pixels == "bins" else "categorical",
            "network": {"name": "mlp", "dropout": 0.1},
            "training": {"steps": 600, "batch_size": 512, "ema_decay": 0.99},
        }

    @property
    def metadata(self) -> Mapping[str, object]:
        """Site shape and its axes, number of labels, and the number of classes or of bins with the mean square."""
        metadata: dict[str, object] = {"site_shape": self.site_shape, "axes": ("height", "width"), "labels": 10}
        if self.pixels == "bins":
            return {**metadata, "bins": LEVELS, "data_variance": 0.635435}
        return {**metadata, "classes": LEVELS if self.pixels == "classes" else 2}

    @property
    def codec(self) -> ImageCodec:
        """Grey levels in 0..16, or black and white as 0 and 1."""
        if self.pixels == "binary":
            return ImageCodec(2, "classes")
        return ImageCodec(LEVELS, self.pixels)

    def split(self, name: Split) -> Batch:
        """The images of a split, and their labels."""
        levels, labels = _digits()
        rows = torch.arange(len(levels))
        is_test = rows % ONE_IN == ONE_IN - 1
        rows = rows[is_test if name == "test" else ~is_test]
        if name in ("train", "valid"):
            train, valid = split_rows(len(rows), self.valid_fraction, self.seed)
            rows = rows[train if name == "train" else valid]
        levels = (levels[rows] > LEVELS // 2).long() if self.pixels == "binary" else levels[rows]
        return Batch(self.codec.encode(levels), {"label": labels[rows]})


@hookimpl
def bfn_datasets() -> Sequence[Entry]:
    """The data set."""
    return [Entry("digits", Digits, (Digits(), Digits("classes"), Digits("binary", seed=1, valid_fraction=0.2)))]
