r"""Tables (plugin): continuous data or classes from a file of the user.

Continuous columns may be scaled by the training rows,

.. math:: x' = (x - a) / b ,

where a and b are mean and standard deviation ("standard"), or centre and half-width of the range ("range").  A column
that is constant in the training rows has b = 1.
"""

from __future__ import annotations

import abc
import warnings
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, ClassVar, Literal, TypeAlias

import attrs
import numpy as np
import torch
from attrs import field
from torch import Tensor

from bfn_files.columns import FORMATS, Glimpse, Values, glimpse, read_columns
from bfn_files.reading import SHOWN, Content, FileDataset, Fingerprint, few, warn_of_missing
from bfn_toolkit import (
    Batch,
    BFNError,
    BFNWarning,
    Codec,
    ConfigError,
    DataError,
    Entry,
    IdentityCodec,
    Recognised,
    TableCodec,
    hookimpl,
    validators,
)

Array: TypeAlias = "np.ndarray[Any, Any]"

LARGEST = float(np.finfo(np.float32).max)
MOST_CLASSES = 2**16  # more count as a mistake, unless the configuration sets their number
MOST_DECIMALS = 9  # of numbers that count as decimal; doubles have up to 16
LEAST_SPREAD = 0.02  # standard deviation of a column, at a resolution sigma_1 of 0.01
COMPARED = 100_000  # largest number of rows compared with each other


def _names(_: object, __: attrs.Attribute[Any], names: Sequence[str] | None) -> None:
    if names is not None and (not names or len(set(names)) < len(names)):
        raise ConfigError(f"columns: expected different names, at least one, got {list(names)}")


@attrs.frozen
class Columns(FileDataset):
    """Rows of selected columns of a file, with the condition "label" if a label column is named.

    Arguments:
        path: A file that ends in .csv, .csv.gz, .npy, .npz or .safetensors.
        columns: Names of the columns of a table (x1, x2, ... without a header and in .npy), or of arrays; by default
            all columns of numbers, or the only array.
        label: Name of a column outside the data, of integers 0...K-1 or, in a .csv file, of names, which are numbered
            in alphabetical order; None for no labels.
        on_nan: Treatment of rows with a missing number: "error", or "drop" to leave them out.
        header: Whether the first line of a .csv has the names of the columns; by default told by the content.
    """

    endings: ClassVar[tuple[str, ...]] = FORMATS

    columns: tuple[str, ...] | None = field(
        default=None, kw_only=True, converter=attrs.converters.optional(tuple), validator=_names
    )
    label: str | None = field(default=None, kw_only=True)
    on_nan: Literal["error", "drop"] = field(
        default="error", kw_only=True, validator=validators.one_of("error", "drop")
    )
    header: bool | None = field(default=None, kw_only=True)

    @property
    @abc.abstractmethod
    def content(self) -> ColumnsContent:
        """Content of the file, read once per process."""

    @property
    def codec(self) -> Codec:
        """Names of the columns and of the labels, and how they are scaled."""
        return self.content.codec

    def read(self) -> tuple[Values, Values | None, Array]:
        """Data and labels as in the file, and a mask of the rows without missing numbers.

        Raises:
            ConfigError: If there are no columns with these names.
            DataError: If there is no row, or a number is missing and ``on_nan`` is "error".
        """
        data, label = read_columns(self.path, self.columns, self.label, self.header)
        if not data.numbers.size:
            raise DataError(f"{self.path}: no rows: found the shape {data.numbers.shape}")
        whole = np.ones(len(data.numbers), np.bool_)
        for values in (data, *([label] if label else [])):
            missing = np.isnan(values.numbers)
            empty = missing.all(0)
            if empty.any():
                name = values.column(np.argwhere(empty)[0][: empty.ndim].tolist())
                raise DataError(
                    f"{self.path}: {name} has no number in all {len(missing)} rows; leave it out of columns"
                )
            if self.on_nan == "error" and missing.any():
                place = values.place(np.argwhere(missing)[0])
                raise DataError(f'{place}: expected a number, got nan; on_nan = "drop" leaves such rows out')
            whole &= ~missing.reshape(len(missing), -1).any(1)
        if not whole.any():
            raise DataError(f"{self.path}: no rows: a number is missing in each of {len(whole)}")
        return data, label, whole


@attrs.frozen(eq=False)
class ColumnsContent(Content):
    """Content of a file, and its codec."""

    codec: Codec


def _glimpse(path: Path) -> Glimpse | None:
    """The beginning of a file that may be a table; None if it is none, and an empty one if it is damaged."""
    if not (path.name.lower().endswith(FORMATS) and path.is_file()):
        return None
    try:
        return glimpse(path)
    except BFNError:
        return Glimpse([])


def _described(found: Glimpse, what: str) -> str:
    """Content of a file in words."""
    if found.shape is None:
        kind = "arrays" if found.first is None else f"columns of {what}"
        return f"{len(found.names)} {kind}: {few(found.names)}" if found.names else "a table"
    rows, *site = found.shape or (0,)
    return f"{rows:,} rows of {' x '.join(map(str, site))} {what}" if site else f"{rows:,} {what}"


@attrs.frozen
class NumberArray(Columns):
    """Continuous data from a file, as float32.

    The remaining arguments are those of a file: ``path``, ``columns``, ``label``, ``on_nan``, ``header``,
    ``valid_fraction``, ``test_fraction`` and ``seed``.

    Arguments:
        scale: Scaling of each column: "standard" for mean 0 and variance 1 in the training rows, "range" for all
            rows in [-1, 1], as bins need it, "none" for no scaling.
    """

    scale: Literal["standard", "range", "none"] = field(
        default="standard", kw_only=True, validator=validators.one_of("standard", "range", "none")
    )

    @classmethod
    def recognise(cls, path: Path) -> Recognised | None:
        """Tensors for certain; arrays of numbers that are not classes; others, and tables with numbers, possibly."""
        found = _glimpse(path)
        if found is None or (found.header and not found.names):
            return None
        if path.suffix.lower() in (".npy", ".npz"):
            certainty = 1 if len(found.names) > 1 or _are_classes(found) else 2
        else:
            certainty = 3 if path.suffix.lower() == ".safetensors" else 1
        return Recognised(_described(found, "numbers"), certainty)

    @property
    def default_config(self) -> Mapping[str, object]:
        """A perceptron."""
        return {
            "network": {"name": "mlp", "depth": 2},
            "training": {"steps": 2500, "batch_size": 512, "lr": 2e-3, "ema_decay": 0.99},
        }

    @property
    def content(self) -> ColumnsContent:
        """The scaled rows.

        Raises:
            ConfigError: If there are no columns with these names.
            DataError: If the file is malformed, has too few rows, or was written since.
        """
        return _table(self, self.unchanged())

    @property
    def unit(self) -> str:
        """Unit of the scaled numbers."""
        return {"standard": "standard deviations of each column", "range": "half-ranges of each column"}.get(
            self.scale, ""
        )


@attrs.frozen
class ClassArray(Columns):
    """Classes 0...K-1 from a file, as int64.

    The remaining arguments are those of a file: ``path``, ``columns``, ``label``, ``on_nan``, ``header``,
    ``valid_fraction``, ``test_fraction`` and ``seed``.

    Arguments:
        classes: Number K of classes; by default one more than the largest in the file.
    """

    classes: int | None = field(default=None, kw_only=True, validator=validators.optional(validators.integer(ge=2)))

    @classmethod
    def recognise(cls, path: Path) -> Recognised | None:
        """Arrays of integers, except for bytes in the form of images; tables of integers as a possibility."""
        found = _glimpse(path)
        if found is None or found.first is None or not _are_classes(found):
            return None
        likely = found.shape is not None and (len(found.shape) <= 2 or found.first.dtype != np.uint8)
        return Recognised(_described(found, "classes"), 2 if likely else 1)

    @property
    def default_config(self) -> Mapping[str, object]:
        """Classes, with a perceptron."""
        return {
            "family": "categorical",
            "network": {"name": "mlp", "depth": 2},
            "training": {"steps": 2500, "batch_size": 512, "lr": 2e-3, "ema_decay": 0.99},
        }

    @property
    def content(self) -> ColumnsContent:
        """The rows of classes.

        Raises:
            ConfigError: If there are no columns with these names.
            DataError: If the file is malformed, has too few rows, or was written since.
        """
        return _classes_array(self, self.unchanged())


@lru_cache(maxsize=2)
def _table(dataset: NumberArray, _: Fingerprint) -> ColumnsContent:
    data, label, whole = dataset.read()
    with np.errstate(over="ignore"):  # numbers beyond float64 become inf
        numbers = data.numbers.astype(np.float64)
    too_large = np.abs(numbers) > LARGEST
    if too_large.any():
        index = np.argwhere(too_large)[0]
        value = data.numbers[tuple(index)]
        raise DataError(f"{data.place(index)}: {value} overflows float32, whose largest number is 3.4e38")
    x = torch.from_numpy(numbers if whole.all() else numbers[whole])
    x = x.unsqueeze(1) if x.ndim == 1 else x
    splits, decimals = dataset.partition(len(x)), _decimals(x)
    shift, scale = _scaling(dataset, data, x, x[splits["train"]])
    x = x.sub_(shift).div_(scale).float()
    _warn_of_repeats(dataset, x)
    metadata: dict[str, object] = {"data_variance": float(x[splits["train"]].double().square().mean()) or 1.0}
    condition, more = _condition(dataset, label, whole, splits["train"])
    codec = TableCodec(_brief(shift), _brief(scale), decimals, _column_names(data, x), categories=_label_names(label))
    return ColumnsContent(Batch(x, condition), splits, {**metadata, **more}, codec)


def _column_names(data: Values, x: Tensor) -> Sequence[str]:
    return data.names if x.ndim == 2 else ()


def _label_names(label: Values | None) -> Mapping[str, Sequence[str]]:
    return {"label": label.categories} if label and label.categories else {}


def _brief(numbers: Tensor) -> list[float]:
    """The numbers in order, or only one if they are all the same."""
    every: list[float] = numbers.flatten().tolist()
    return every[:1] if len(set(every)) == 1 else every


def _decimals(x: Tensor) -> Sequence[int]:
    """Decimals of the numbers of each column, or of all if they are not flat; -1 for more than MOST_DECIMALS."""
    columns = x if x.ndim == 2 else x.reshape(-1, 1)
    decimals = torch.full((columns.shape[1],), -1)
    for digits in reversed(range(MOST_DECIMALS + 1)):
        power = 10.0**digits
        # Division is correctly rounded, so it gives the double that the decimal text stands for.
        decimals[((columns * power).round() / power == columns).all(0)] = digits
    found: list[int] = decimals.tolist()
    return found if any(d >= 0 for d in found) else ()


def _scaling(dataset: NumberArray, data: Values, every: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
    """Shift and scale of each site, from the training rows x, or from all rows for their range."""
    low, high = x.amin(0), x.amax(0)
    constant = low == high
    if constant.any():
        _warn_of_columns(dataset, data, constant, "constant in the training rows, so scaled by 1")
    mean, deviation = x.mean(0), x.std(0, correction=0)
    if dataset.scale == "none":
        spread = every.std(0, correction=0)
        if x.ndim == 2 and float(spread.max()) > LEAST_SPREAD:  # otherwise the training warns of all of them
            small = ~constant & (spread < LEAST_SPREAD)
            cure = "so their values are not resolved; write --dataset.scale standard"
            if small.any():
                _warn_of_columns(dataset, data, small, f"standard deviations below {LEAST_SPREAD}, {cure}")
        return torch.zeros_like(low), torch.ones_like(low)
    if dataset.scale == "standard":
        shift, scale = mean, deviation
    else:
        least, most_of_all = every.amin(0), every.amax(0)
        shift, scale = least / 2.0 + most_of_all / 2.0, most_of_all / 2.0 - least / 2.0
    # The mean of equal numbers may differ from them by rounding.
    return torch.where(constant, low, shift), torch.where(constant | (scale == 0.0), 1.0, scale)


def _warn_of_columns(dataset: NumberArray, data: Values, which: Tensor, what: str) -> None:
    names = [data.column(site) for site in which.nonzero()[: SHOWN + 1].tolist()]
    warnings.warn(f"{dataset.path}: {what}: {few(names)}", BFNWarning, stacklevel=2)


def _warn_of_repeats(dataset: NumberArray, x: Tensor) -> None:
    rows = x[:COMPARED].flatten(1).numpy()
    repeats = len(rows) - len({row.tobytes() for row in rows})
    if repeats:
        message = f"{repeats} of {len(rows)} rows are duplicates; copies may be in both training and validation rows"
        warnings.warn(f"{dataset.path}: {message}", BFNWarning, stacklevel=2)


@lru_cache(maxsize=2)
def _classes_array(dataset: ClassArray, _: Fingerprint) -> ColumnsContent:
    data, label, whole = dataset.read()
    x, classes = _classes(data, whole, dataset.classes)
    x = x.unsqueeze(1) if x.ndim == 1 else x
    splits = dataset.partition(len(x))
    warn_of_missing(dataset.path, "class", x[splits["train"]], classes)
    condition, labels = _condition(dataset, label, whole, splits["train"])
    codec = IdentityCodec(_column_names(data, x), categories=_label_names(label))
    return ColumnsContent(Batch(x, condition), splits, {"classes": classes, **labels}, codec)


def _are_classes(found: Glimpse) -> bool:
    """Whether the first numbers of a file could be classes: integers, of an integer dtype if they are an array."""
    numbers = found.first
    if numbers is None or not numbers.size or (found.shape is not None and numbers.dtype.kind == "f"):
        return False
    return bool(((numbers >= 0) & (numbers < MOST_CLASSES) & (numbers == np.floor(numbers))).all())


def _classes(values: Values, whole: Array, classes: int | None) -> tuple[Tensor, int]:
    """The rows without missing numbers as int64, and the number of classes."""
    numbers = values.numbers
    if numbers.dtype.kind == "f":
        numbers = numbers.astype(np.float64)  # the largest float16 is below MOST_CLASSES
    right = (numbers >= 0) & (numbers < (classes or MOST_CLASSES)) & (numbers == np.floor(numbers))
    whole_sites = whole.reshape(-1, *[1] * (numbers.ndim - 1))
    wrong = whole_sites & ~right
    k = classes or max(2, int(numbers.max(initial=0, where=right)) + 1)
    if wrong.any():
        index = np.argwhere(wrong)[0]
        value = values.numbers[tuple(index)]
        raise DataError(f"{values.place(index)}: expected a class, an integer in 0...{k - 1}, got {value}")
    return torch.from_numpy(numbers[whole].astype(np.int64)), k


def _condition(
    dataset: Columns, label: Values | None, whole: Array, train: Tensor
) -> tuple[dict[str, Tensor], dict[str, object]]:
    """Labels of the rows without missing numbers, and their number of classes; empty without a label column."""
    if label is None:
        return {}, {}
    index, labels = _classes(label, whole, None)
    warn_of_missing(dataset.path, "label", index[train], labels)
    return {"label": index}, {"labels": labels}


@hookimpl
def bfn_datasets() -> Sequence[Entry]:
    """The data sets, without examples, because these would need a file."""
    return [Entry("array", NumberArray), Entry("classes-array", ClassArray)]
