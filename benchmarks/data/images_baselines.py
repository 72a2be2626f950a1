"""Baselines for the price of images: tables of counts, PNG and xz.

Images are arrays (N, height, width) of levels 0 .. K - 1; tables are counted on the training images.
"""

from __future__ import annotations

import io
import lzma
import math
from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np
from PIL import Image

Images: TypeAlias = "np.ndarray[Any, Any]"

# Neighbours (rows up, columns left) that come before a pixel: the ten of the standard JBIG.
TEN = [(2, 1), (2, 0), (2, -1), (1, 2), (1, 1), (1, 0), (1, -1), (1, -2), (0, 1), (0, 2)]
LEFT_AND_UP = [(0, 1), (1, 0)]
PRIOR = 0.5  # added to every count


def by_pixel(train: Images, test: Images, levels: int) -> float:
    """Nats for an image, if each pixel has frequencies of its own."""
    place = np.arange(train[0].size).reshape(train[0].shape)
    return _nats(np.broadcast_to(place, train.shape), train, np.broadcast_to(place, test.shape), test, levels)


def by_neighbours(train: Images, test: Images, levels: int, places: Sequence[tuple[int, int]], coarse: int) -> float:
    """Nats for an image, if the frequencies depend on neighbours, each in a number of coarse levels."""

    def context(images: Images) -> Images:
        found = [_before(images.astype(np.int64), *place) * coarse // levels for place in places]
        return sum(level * coarse**i for i, level in enumerate(found))  # type: ignore[return-value]

    return _nats(context(train), train, context(test), test, levels)


def _nats(seen: Images, train: Images, context: Images, test: Images, levels: int) -> float:
    train, test = train.astype(np.int64), test.astype(np.int64)
    size = int(max(seen.max(), context.max())) + 1
    counts = np.bincount(seen.ravel() * levels + train.ravel(), minlength=size * levels).reshape(size, levels)
    overall = counts.sum(0) + PRIOR
    table = counts + levels * PRIOR * overall / overall.sum()  # a rare context falls back on all pixels
    table /= table.sum(1, keepdims=True)
    return float(-np.log(table[context.ravel(), test.ravel()]).sum() / len(test))


def _before(images: Images, up: int, left: int) -> Images:
    """Each pixel's neighbour, 0 outside of the image."""
    padded = np.pad(images, ((0, 0), (2, 0), (2, 2)))
    height, width = images.shape[1:]
    return padded[:, 2 - up : 2 - up + height, 2 - left : 2 - left + width]


def by_programs(test: Images) -> dict[str, float]:
    """Nats for an image of bytes, by programs that compress."""

    def png(image: Images) -> int:
        buffer = io.BytesIO()
        Image.fromarray(image).save(buffer, "PNG", optimize=True)
        return buffer.tell()

    test = np.ascontiguousarray(test, np.uint8)
    sizes = {
        "xz, all images together": len(lzma.compress(test.tobytes(), preset=9 | lzma.PRESET_EXTREME)),
        "PNG, all images in one": png(test.reshape(-1, test.shape[2])),
        "PNG, a file for each": sum(png(image) for image in test),
    }
    return {name: size * 8 * math.log(2.0) / len(test) for name, size in sizes.items()}


def of_binary(train: Images, test: Images) -> dict[str, float]:
    """Nats for an image of black and white pixels."""
    return {
        "Bernoulli for each pixel": by_pixel(train, test, 2),
        "table of 10 neighbours": by_neighbours(train, test, 2, TEN, 2),
    }


def of_bins(train: Images, test: Images, levels: int) -> dict[str, float]:
    """Nats for an image of grey levels."""
    return {
        "histogram for each pixel": by_pixel(train, test, levels),
        "histogram by left and upper neighbour": by_neighbours(train, test, levels, LEFT_AND_UP, min(levels, 32)),
    }
