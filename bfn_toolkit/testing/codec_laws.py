"""Laws of the codecs of data sets."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from bfn_toolkit.config.json_values import codec_from_json, codec_to_json
from bfn_toolkit.data.codec import Codec
from bfn_toolkit.data.dataset import Dataset, Split
from bfn_toolkit.data.formats import Raw
from bfn_toolkit.registry.registry import Registry
from bfn_toolkit.shapes import Data, leaves, map_data, named_parts
from bfn_toolkit.testing.dataset_laws import SPLITS
from bfn_toolkit.testing.law import Judge, install, law, values_within

ROWS = 2000  # rows of a split that are tried


def _rows(judge: Judge, dataset: Dataset, name: Split) -> Data:
    """Some rows of a split; data that are not finite break the law, because NaN means a gap."""
    x = map_data(lambda part: part[:ROWS], dataset.split(name).x)
    judge.true(all(bool(torch.isfinite(part).all()) for part in leaves(x)), f"{name}: NaN or inf", "finite numbers")
    return x


def _same_raw(judge: Judge, found: Raw, expected: Raw, rounding: float, name: str) -> None:
    """Breaks the law unless raw data are equal, numbers within the rounding."""
    judge.true(type(found) is type(expected), f"{name}: a {type(found).__name__}", f"a {type(expected).__name__}")
    if isinstance(expected, Mapping):
        judge.true(found.keys() == expected.keys(), f"{name}: {list(found)}", list(expected))
        for part, inner in expected.items():
            _same_raw(judge, found[part], inner, rounding, f"{name} {part}".strip())
    elif isinstance(expected, Tensor) and expected.is_floating_point():
        judge.named(name)
        slack = rounding + 4.0 * torch.finfo(expected.dtype).eps * expected.abs()
        judge.close(found.double(), expected.double(), slack.double())
    elif isinstance(expected, Tensor):
        equal = found.dtype == expected.dtype and torch.equal(found, expected)
        judge.true(equal, f"{name}: other raw data", "the same raw data")
    else:
        wrong = next(((a, b) for a, b in zip(found, expected, strict=True) if a != b), None)
        judge.true(wrong is None, f"{name}: {wrong and wrong[0]!r}", wrong and repr(wrong[1]))


def _same_data(judge: Judge, found: Data, expected: Data, name: str) -> None:
    """Breaks the law unless data are equal: classes exactly, numbers within the rounding of their dtype."""
    parts = dict(named_parts(found))
    judge.true(parts.keys() == dict(named_parts(expected)).keys(), f"{name}: the parts {list(parts)}", "those of x")
    for part, x in named_parts(expected):
        other = parts[part]
        right = other.dtype == x.dtype and other.shape == x.shape
        judge.true(right, f"{name}: {other.dtype} {tuple(other.shape)}", f"{x.dtype} {tuple(x.shape)}")
        if x.is_floating_point():
            judge.true(torch.equal(other.isnan(), x.isnan()), f"{name}: other gaps", "the gaps of x")
            judge.named(f"{name} {part}".strip())
            judge.close(other.nan_to_num(), x.nan_to_num(), 1e-5 * (1.0 + x.nan_to_num().abs()))
        else:
            judge.true(torch.equal(other, x), f"{name}: other classes {part}".strip(), "the same classes")


@law("dataset", "decode(encode(raw)) = raw and encode(decode(x)) = x, up to the stated rounding")
def check_codecs_take_data_back(dataset: Dataset) -> float:
    """The rows of every split are decoded to raw data, and these encoded again."""
    judge, codec = Judge(check_codecs_take_data_back, dataset), dataset.codec
    for name in SPLITS:
        x = _rows(judge, dataset, name)
        raw = codec.decode(x)
        again = codec.encode(raw)
        _same_data(judge, again, x, name)
        _same_raw(judge, codec.decode(again), raw, codec.rounding, name)
    return judge.figure


def _prefix(x: Tensor) -> Tensor:
    """A mask of the first k sites along the first axis, with another k for each row."""
    if x.ndim == 1:
        return torch.arange(len(x)) % 2 == 0
    sizes = torch.arange(len(x)) % (x.shape[1] + 1)
    return torch.arange(x.shape[1]) < sizes.unsqueeze(1)


@law("dataset", "encode(decode(x, mask)) = x within the mask, and a gap elsewhere")
def check_codecs_keep_gaps(dataset: Dataset) -> float:
    """Values that are unknown stay unknown, and hide no other: masks of the first sites, and by part of one part."""
    judge, codec = Judge(check_codecs_keep_gaps, dataset), dataset.codec
    x = _rows(judge, dataset, "all")
    for hidden, _ in named_parts(x):
        masks = {name: _prefix(part) if name == hidden else None for name, part in named_parts(x)}
        expected = {name: _with_gaps(part, masks[name]) for name, part in named_parts(x)}
        given: Any = {hidden: masks[hidden]} if hidden else masks[""]
        found = codec.encode(codec.decode(x, given))
        _same_data(judge, found, expected if hidden else expected[""], "all")
    return judge.figure


def _with_gaps(x: Tensor, mask: Tensor | None) -> Tensor:
    if mask is None:
        return x
    mask = mask.reshape(*mask.shape, *(1,) * (x.ndim - mask.ndim))
    return torch.where(mask, x, torch.nan if x.is_floating_point() else -1)


@law("dataset", "a codec read from its JSON is equal, and its data are bit-identical")
def check_codecs_survive_json(dataset: Dataset) -> float:
    """A model file keeps the codec as JSON, which must say everything."""
    judge, codec = Judge(check_codecs_survive_json, dataset), dataset.codec
    registry = Registry.from_entry_points()
    for part in values_within(codec):
        install(type(part), registry)
    text = json.dumps(codec_to_json(codec, registry), allow_nan=False)
    copy: Codec = codec_from_json(json.loads(text), registry)
    judge.true(copy == codec and repr(copy) == repr(codec), repr(copy), repr(codec))
    x = _rows(judge, dataset, "all")
    _same_raw(judge, copy.decode(x), codec.decode(x), 0.0, "all")
    raw = codec.decode(x)
    pairs = zip(named_parts(copy.encode(raw)), named_parts(codec.encode(raw)), strict=True)
    judge.true(all(torch.equal(a, b) for (_, a), (_, b) in pairs), "other data after JSON", "the same bits")
    return judge.figure
