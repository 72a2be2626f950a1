"""Codec of images: levels as bins of [-1, 1] or as classes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import attrs
import torch
from attrs import field
from torch import Tensor

from bfn_toolkit.data.codec import Codec, put_gaps
from bfn_toolkit.data.formats import Format, ImageFolderFormat, Raw, SheetFormat
from bfn_toolkit.errors import DataError
from bfn_toolkit.shapes import Data, Mask, in_float64
from bfn_toolkit.validators import integer, one_of


@attrs.frozen
class ImageCodec(Codec):
    r"""Grey levels or colours 0 ... K - 1 of pixels.

    Raw data are levels (B, \*site) as uint8, or int64 where there are gaps or K is above 256.

    Arguments:
        levels: Number K of levels.
        pixels: "bins" for the centres of K bins of [-1, 1], :math:`x = (2 v + 1) / K - 1`, as float32; "classes" for
            the levels as int64.
        categories: See :class:`Codec`.

    >>> ImageCodec(17).decode(ImageCodec(17).encode(torch.tensor([[0, 8, 16]])))
    tensor([[ 0,  8, 16]], dtype=torch.uint8)
    """

    levels: int = field(default=256, validator=integer(ge=2))
    pixels: Literal["bins", "classes"] = field(default="bins", validator=one_of("bins", "classes"))

    @property
    def formats(self) -> Mapping[str, Format]:
        """Arrays, tensors, a sheet of pictures, and a folder of them."""
        return {
            **super().formats,
            ".png": SheetFormat(self, self.levels),
            "": ImageFolderFormat(self, self.levels),
        }

    def encode(self, raw: Raw) -> Tensor:
        """Bins or classes of levels.

        Raises:
            DataError: If a level is not one of 0 ... K - 1.
        """
        raw = torch.as_tensor(raw)
        unknown = raw.isnan() | (raw < 0) if raw.is_floating_point() else raw < 0
        levels = torch.where(unknown, 0, raw.long())
        wrong = (levels >= self.levels) | (~unknown & (levels != raw))
        if bool(wrong.any()):
            found = raw[wrong][0].item()
            raise DataError(f"expected levels, integers in 0...{self.levels - 1}, got {found:g}")
        if self.pixels == "classes":
            return torch.where(unknown, -1, levels)
        return torch.where(unknown, torch.nan, self.centres(levels))

    def centres(self, levels: Tensor) -> Tensor:
        """Centres of the bins of levels that are known to be in 0 ... K - 1, as float32."""
        return (2.0 * levels.float() + 1.0) / self.levels - 1.0

    def decode(self, x: Data, mask: Mask | None = None) -> Tensor:
        """The nearest levels."""
        x = put_gaps(x, mask)
        x = in_float64(x) if self.pixels == "bins" else x
        unknown = x.isnan() if x.is_floating_point() else x < 0
        levels = x
        if self.pixels == "bins":
            levels = ((x.nan_to_num() + 1.0) * self.levels - 1.0).div(2.0).round().long()
        levels = torch.where(unknown, -1, levels.clamp(0, self.levels - 1))
        return levels if self.levels > 256 or bool(unknown.any()) else levels.to(torch.uint8)
