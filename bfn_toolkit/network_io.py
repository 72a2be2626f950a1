"""Sizes that a network has to fit, and three views of its features: flat, as an image, as tokens.

Family and network exchange one tensor: features (B, *site, F) in one direction, raw numbers (B, *site, R) in the other.
For data of several parts, ``site`` are the leading axes that all parts share, and F and R count the numbers of all
parts there, side by side.  A simple network needs no more.  A network that treats images, sequences or sets in their
own way takes the tensor apart by a view, whose ``unpack`` undoes its ``pack``:

=========================== =====================================================================
:meth:`NetworkIO.flat`      one row of numbers for each example
:meth:`NetworkIO.image`     channels, height and width; the parts that are not images as a vector
:meth:`NetworkIO.tokens`    tokens: a site, a patch, a point or a column each, in groups
:meth:`NetworkIO.split`     the parts by name
=========================== =====================================================================

The axes of the data have names.  Without names, two axes are height and width, and the first of three is the
channel if it is the smallest.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from itertools import takewhile
from typing import Any, Literal, TypeAlias

import attrs
import torch
from attrs import field
from torch import Tensor

from bfn_toolkit import validators
from bfn_toolkit.errors import ConfigError
from bfn_toolkit.shapes import as_shape, expand

AXES = ("channel", "height", "width", "sequence", "set", "column")
SHARED_AXES = {"height", "width", "sequence", "set"}  # parts with these axes share their tokens; columns do not

Kind: TypeAlias = Literal["real", "classes", "direction"]
Numbers: TypeAlias = Literal["in_features", "out_features"]
_BOTH: tuple[Numbers, Numbers] = ("in_features", "out_features")


def as_axes(value: Iterable[str]) -> tuple[str, ...]:
    """Names of axes as a tuple."""
    return (value,) if isinstance(value, str) else tuple(value)


def check_axes(owner: Any, attribute: attrs.Attribute[Any], value: tuple[str, ...]) -> None:
    """attrs validator: one known name for each axis of the owner's shape, or none at all."""
    shape = owner.shape if isinstance(owner, PartIO) else owner.site_shape
    if not value:
        return
    if len(value) != len(shape):
        raise ValueError(f"{attribute.name} must name each of the {len(shape)} axes of {shape}, got {value}")
    unknown = [name for name in value if name not in AXES]
    if unknown or len(set(value)) < len(value):
        raise ValueError(f"{attribute.name} must be different names of {', '.join(AXES)}, got {value}")


@attrs.frozen
class PartIO:
    """Sizes and meaning of one part of the data.

    Arguments:
        shape: Shape of the part.
        axes: Names of its axes, from :data:`AXES`; empty if they have none.
        in_features: Numbers that the network sees at each of its sites.
        out_features: Raw numbers that the network returns for each.
        kind: "real" numbers, "classes", or "direction" for angles, unit vectors and rotations.
        classes: Number of classes, for classes.
        coarse: Of the features and of the raw numbers of a site, how many are coarse, the last ones: those that an
            additive model of the sites would use.  (0, 0) if there is no such distinction.
    """

    shape: tuple[int, ...] = field(converter=as_shape)
    axes: tuple[str, ...] = field(default=(), converter=as_axes, validator=check_axes)
    in_features: int = field(default=1, validator=validators.integer(ge=1))
    out_features: int = field(default=1, validator=validators.integer(ge=1))
    kind: Kind = field(default="real", validator=validators.one_of("real", "classes", "direction"))
    classes: int | None = field(default=None, validator=validators.optional(validators.integer(ge=1)))
    coarse: tuple[int, int] = (0, 0)

    @property
    def sites(self) -> int:
        """Number of sites."""
        return math.prod(self.shape)

    @property
    def image_axes(self) -> tuple[str, ...] | None:
        """Axes as those of an image, stated or by default; None if the part is not an image.

        Raises:
            ConfigError: If there are three axes without names, and the first is not the smallest.
        """
        if self.axes:
            return self.axes if {"height", "width"} <= set(self.axes) <= {"channel", "height", "width"} else None
        if len(self.shape) == 2 and self.kind != "direction":
            return ("height", "width")
        if len(self.shape) != 3 or self.kind == "direction":
            return None
        if self.shape[0] > min(self.shape[1:]):
            raise ConfigError(
                f"an image of shape {self.shape} does not have its channels first; "
                'name its axes: axes=("height", "width", "channel")'
            )
        return ("channel", "height", "width")

    @property
    def picture_axes(self) -> tuple[str, ...] | None:
        """Axes as those of an image that can be shown, of one channel or three; None if the part is none.

        Without names, height and width are 4 or more.
        """
        if self.kind == "direction":
            return None
        axes = self.axes or {2: ("height", "width"), 3: ("channel", "height", "width")}.get(len(self.shape), ())
        sizes = dict(zip(axes, self.shape, strict=True)) if axes else {}
        if not {"height", "width"} <= sizes.keys() <= {"channel", "height", "width"}:
            return None
        if sizes.get("channel", 1) not in (1, 3) or not (self.axes or min(sizes["height"], sizes["width"]) >= 4):
            return None
        return axes

    @property
    def token_axes(self) -> tuple[int, ...]:
        """Positions of the axes along which tokens are counted: all but the channels."""
        return tuple(i for i in range(len(self.shape)) if not self.axes or self.axes[i] != "channel")

    def numbers(self, which: Numbers) -> int:
        """All features or raw numbers of the part."""
        return self.sites * int(getattr(self, which))


def common_axes(shapes: Sequence[tuple[int, ...]]) -> tuple[int, ...]:
    """Leading axes that all shapes share: the sites at which a network can see all parts together."""
    same = takewhile(lambda sizes: len(set(sizes)) == 1, zip(*shapes, strict=False))
    return tuple(sizes[0] for sizes in same)


def _moved(value: Tensor, source: Sequence[int]) -> Tensor:
    """Permutes the site axes of (B, *site, F): new axis i is the old axis source[i]."""
    return value.permute(0, *(1 + i for i in source), value.ndim - 1)


def _inverse(source: Sequence[int]) -> list[int]:
    return sorted(range(len(source)), key=source.__getitem__)


@attrs.frozen(init=False)
class NetworkIO:
    """Sizes that a network has to fit.

    Arguments:
        site_shape: The data's own shape, ``site``; with ``parts``, the leading axes that all parts share.
        in_features: Numbers F that the network sees at each site.
        out_features: Numbers R that it returns for each site.
        axes: Names of the axes (see :class:`PartIO`).
        kind: Kind of the data.
        classes: Number of classes, for classes.
        parts: The parts by name, instead of all others.  Data without parts are one part, named "".

    >>> NetworkIO(parts={"image": PartIO((8, 8)), "label": PartIO((), (), 10, 10, "classes", 10)}).in_features
    74
    """

    site_shape: tuple[int, ...]
    in_features: int
    out_features: int
    parts: Mapping[str, PartIO] = field(eq=False, repr=False)

    def __init__(
        self,
        site_shape: Iterable[int] | None = None,
        in_features: int = 1,
        out_features: int = 1,
        axes: Iterable[str] = (),
        kind: Kind = "real",
        classes: int | None = None,
        *,
        parts: Mapping[str, PartIO] | None = None,
    ) -> None:
        if (site_shape is None) == (not parts):
            raise ConfigError("a NetworkIO needs a site_shape, or parts: NetworkIO((2,)) or NetworkIO(parts={..})")
        if site_shape is not None:
            parts = {"": PartIO(as_shape(site_shape), as_axes(axes), in_features, out_features, kind, classes)}
        assert parts is not None
        sites = common_axes([part.shape for part in parts.values()])
        count = math.prod(sites)
        sums = [sum(part.numbers(which) for part in parts.values()) // count for which in _BOTH]
        self.__attrs_init__(sites, sums[0], sums[1], dict(parts))

    def split(self, wire: Tensor, which: Numbers = "in_features") -> dict[str, Tensor]:
        """Features or raw numbers by part: ``(B, *site, F)`` to tensors ``(B, *shape, F of the part)``."""
        count = math.prod(self.site_shape)
        widths = [part.numbers(which) // count for part in self.parts.values()]
        pieces = torch.split(wire, widths, -1) if len(widths) > 1 else (wire,)
        return {
            name: piece.reshape(wire.shape[0], *part.shape, getattr(part, which))
            for (name, part), piece in zip(self.parts.items(), pieces, strict=True)
        }

    def join(self, parts: Mapping[str, Tensor]) -> Tensor:
        """The inverse of :meth:`split`: tensors ``(B, *shape, n)`` of all parts to one tensor ``(B, *site, N)``."""
        flat = [parts[name].flatten(1 + len(self.site_shape)) for name in self.parts]
        return torch.cat(flat, -1) if len(flat) > 1 else flat[0]

    def spread(self, values: Mapping[str, Tensor]) -> Tensor:
        """A value for each feature, ``(B, *site, F)``, from values by part: (), (B,) or with leading axes of its shape.

        Raises:
            ConfigError: If a value has other axes.
        """
        rows = max((v.shape[0] for v in values.values() if v.ndim), default=1)
        wide = {}
        for name, part in self.parts.items():
            shape, value = (rows, *part.shape, part.in_features), values[name]
            if value.shape[1:] != part.shape[: max(0, value.ndim - 1)]:
                where = f"part '{name}' of" if name else "data of"
                raise ConfigError(
                    f"{where} shape {part.shape}: expected times or masks of shape (B, ...) with leading axes of it, "
                    f"found {tuple(value.shape)}"
                )
            wide[name] = expand(value, torch.empty(shape, device="meta")).expand(shape)
        return self.join(wide)

    def flat(self) -> FlatView:
        """View as one row of numbers for each example."""
        return FlatView(self)

    def image(self) -> ImageView:
        """View as an image with channels first, and the parts that are not images as a vector.

        Raises:
            ConfigError: If no part is an image, or images differ in height or width, or the order of axes is unclear.
        """
        return ImageView.of(self)

    def tokens(self, patch: int = 1) -> TokenView:
        """View as tokens: one for each site that is not a channel; of images, one for each patch.

        Arguments:
            patch: Side of the square patches of images.
        Raises:
            ConfigError: If the patches do not divide an image.
        """
        return TokenView.of(self, patch)


@attrs.frozen
class FlatView:
    """Features as rows (B, in_numbers), raw numbers as rows (B, out_numbers)."""

    io: NetworkIO

    @property
    def in_numbers(self) -> int:
        """Number of all features of an example."""
        return math.prod(self.io.site_shape) * self.io.in_features

    @property
    def out_numbers(self) -> int:
        """Number of all raw numbers of an example."""
        return math.prod(self.io.site_shape) * self.io.out_features

    def coarse(self, which: Numbers) -> Tensor:
        """Indices of the coarse features or raw numbers in a row; of a part without the distinction, of all."""
        parts = {}
        for name, part in self.io.parts.items():
            width, few = getattr(part, which), part.coarse[_BOTH.index(which)]
            marks = torch.arange(width) >= (width - few if any(part.coarse) else 0)
            parts[name] = marks.expand(1, *part.shape, width)
        return self.pack(self.io.join(parts))[0].nonzero().squeeze(1)

    def pack(self, features: Tensor) -> Tensor:
        """(B, *site, F) to (B, in_numbers)."""
        return features.reshape(features.shape[0], -1)

    def unpack(self, raw: Tensor) -> Tensor:
        """(B, out_numbers) to (B, *site, R)."""
        return raw.reshape(raw.shape[0], *self.io.site_shape, self.io.out_features)


@attrs.frozen
class ImageView:
    """Features as an image (B, in_channels, height, width) and a vector (B, in_vector) of the other parts.

    Arguments:
        io: The sizes.
        order: For each part that is an image, the positions of its channel (if any), height and width, in this order.
        height: Height in pixels.
        width: Width in pixels.
        in_channels: Channels of the image that the network sees.
        out_channels: Channels of the image that it returns.
        in_vector: Numbers of the other parts that the network sees; 0 if all parts are images.
        out_vector: Numbers of the other parts that it returns.
    """

    io: NetworkIO
    order: Mapping[str, tuple[int, ...]] = field(hash=False)
    height: int
    width: int
    in_channels: int
    out_channels: int
    in_vector: int
    out_vector: int

    @classmethod
    def of(cls, io: NetworkIO) -> ImageView:
        """The view; errors are those of :meth:`NetworkIO.image`."""
        order, sizes = {}, set()
        for name, part in io.parts.items():
            axes = part.image_axes
            if axes is not None:
                order[name] = tuple(axes.index(axis) for axis in ("channel", "height", "width") if axis in axes)
                sizes.add((part.shape[axes.index("height")], part.shape[axes.index("width")]))
        if len(sizes) != 1:
            found = ", ".join(
                f"{part.shape} {part.axes}" if part.axes else f"{part.shape}" for part in io.parts.values()
            )
            what = "images of different sizes" if sizes else "no image"
            raise ConfigError(
                f"the data have {what}: found the shapes {found}; an image has the axes height and width, and perhaps "
                'channel, as in axes=("channel", "height", "width")'
            )
        ((height, width),) = sizes
        images = [io.parts[name] for name in order]
        others = [part for name, part in io.parts.items() if name not in order]
        channels = [sum(part.numbers(w) for part in images) // (height * width) for w in _BOTH]
        vectors = [sum(part.numbers(w) for part in others) for w in _BOTH]
        return cls(io, order, height, width, *channels, *vectors)

    def pack(self, features: Tensor) -> tuple[Tensor, Tensor | None]:
        """The image (B, in_channels, height, width), and the vector (B, in_vector), or None if it has no numbers."""
        parts = self.io.split(features)
        images = [
            _moved(parts[name], source).movedim(-1, -3).reshape(features.shape[0], -1, self.height, self.width)
            for name, source in self.order.items()
        ]
        others = [part.flatten(1) for name, part in parts.items() if name not in self.order]
        return torch.cat(images, 1) if len(images) > 1 else images[0], torch.cat(others, 1) if others else None

    def unpack(self, image: Tensor, vector: Tensor | None = None) -> Tensor:
        """Raw numbers (B, *site, R) from an image (B, out_channels, height, width) and a vector (B, out_vector)."""
        parts, channel, place = {}, 0, 0
        for name, part in self.io.parts.items():
            r = part.out_features
            if name in self.order:
                source, many = self.order[name], part.numbers("out_features") // (self.height * self.width)
                piece = image[:, channel : channel + many]
                channel += many
                shape = (*(part.shape[i] for i in source[:-2]), r, self.height, self.width)
                parts[name] = _moved(piece.reshape(image.shape[0], *shape).movedim(-3, -1), _inverse(source))
            else:
                assert vector is not None, "the other parts need their vector"
                many = part.numbers("out_features")
                parts[name] = vector[:, place : place + many].reshape(image.shape[0], *part.shape, r)
                place += many
        return self.io.join(parts)


@attrs.frozen
class TokenGroup:
    """Tokens of one form.

    Arguments:
        names: Parts whose numbers the tokens hold.
        shape: Numbers of tokens along each axis; () for a single token.
        axes: Names of these axes; empty if they have none.
        in_numbers: Features of a token.
        out_numbers: Raw numbers of a token.
    """

    names: tuple[str, ...]
    shape: tuple[int, ...]
    axes: tuple[str, ...]
    in_numbers: int
    out_numbers: int

    @property
    def count(self) -> int:
        """Number of tokens."""
        return math.prod(self.shape)

    @property
    def is_set(self) -> bool:
        """Whether the order of the tokens means nothing."""
        return "set" in self.axes


@attrs.frozen
class TokenView:
    """Features as tokens (B, tokens, in_numbers) for each group of parts; a network embeds each group by its own stem.

    Arguments:
        io: The sizes.
        groups: The groups in their order; concatenated, their tokens are the sequence that a network sees.
        patch: Side of a patch of an image.
    """

    io: NetworkIO
    groups: tuple[TokenGroup, ...]
    patch: int = 1

    @classmethod
    def of(cls, io: NetworkIO, patch: int) -> TokenView:
        """The view; errors are those of :meth:`NetworkIO.tokens`."""
        together: dict[Any, list[str]] = {}
        for name, part in io.parts.items():
            axes = tuple(part.axes[i] for i in part.token_axes) if part.axes else ()
            shared = bool(axes) and set(axes) <= SHARED_AXES
            key = (axes, tuple(part.shape[i] for i in part.token_axes)) if shared else name
            together.setdefault(key, []).append(name)
        return cls(io, tuple(_group(io, names, patch) for names in together.values()), patch)

    @property
    def count(self) -> int:
        """Number of tokens of all groups."""
        return sum(group.count for group in self.groups)

    def pack(self, features: Tensor) -> list[Tensor]:
        """The tokens of each group, (B, tokens, in_numbers)."""
        parts = self.io.split(features)
        return [
            torch.cat([self._tokens(parts[name], self.io.parts[name]) for name in group.names], -1)
            for group in self.groups
        ]

    def unpack(self, tokens: Sequence[Tensor]) -> Tensor:
        """Raw numbers (B, *site, R) from the tokens of each group, (B, tokens, out_numbers)."""
        parts = {}
        for group, raw in zip(self.groups, tokens, strict=True):
            widths = [self.io.parts[name].numbers("out_features") // group.count for name in group.names]
            for name, piece in zip(group.names, torch.split(raw, widths, -1), strict=True):
                parts[name] = self._sites(piece, self.io.parts[name])
        return self.io.join(parts)

    def _order(self, part: PartIO) -> tuple[int, ...]:
        channels = [i for i in range(len(part.shape)) if i not in part.token_axes]
        return (*part.token_axes, *channels)

    def _patched(self, part: PartIO) -> tuple[list[int], list[int]]:
        """Sizes of the token axes, each divided into patches and pixels of a patch: both flat and counted."""
        counts, inner = [], []
        for i in part.token_axes:
            p = self.patch if _is_image_axis(part, i) else 1
            counts.append(part.shape[i] // p)
            inner.append(p)
        return counts, inner

    def _tokens(self, value: Tensor, part: PartIO) -> Tensor:
        """(B, *shape, n) to (B, tokens, numbers)."""
        rows, order, (counts, inner) = value.shape[0], self._order(part), self._patched(part)
        if all(p == 1 for p in inner):
            return _moved(value, order).reshape(rows, math.prod(counts), -1)
        k = len(counts)
        rest = [part.shape[i] for i in order[k:]]
        split = [size for pair in zip(counts, inner, strict=True) for size in pair]
        wide = _moved(value, order).reshape(rows, *split, *rest, value.shape[-1])
        outer, within = [1 + 2 * i for i in range(k)], [2 + 2 * i for i in range(k)]
        others = range(1 + 2 * k, wide.ndim)
        return wide.permute(0, *outer, *within, *others).reshape(rows, math.prod(counts), -1)

    def _sites(self, tokens: Tensor, part: PartIO) -> Tensor:
        """The inverse of :meth:`_tokens`."""
        rows, order, (counts, inner) = tokens.shape[0], self._order(part), self._patched(part)
        k, rest = len(counts), [part.shape[i] for i in order[len(counts) :]]
        wide = tokens.reshape(rows, *counts, *inner, *rest, -1)
        pairs = [axis for i in range(k) for axis in (1 + i, 1 + k + i)]
        sizes = [count * p for count, p in zip(counts, inner, strict=True)]
        joined = wide.permute(0, *pairs, *range(1 + 2 * k, wide.ndim)).reshape(rows, *sizes, *rest, wide.shape[-1])
        return _moved(joined, _inverse(order))


def _is_image_axis(part: PartIO, i: int) -> bool:
    axes = part.axes or part.image_axes or ()
    return bool(axes) and axes[i] in ("height", "width")


def _group(io: NetworkIO, names: Sequence[str], patch: int) -> TokenGroup:
    part = io.parts[names[0]]
    shape = []
    for i in part.token_axes:
        p = patch if patch > 1 and _is_image_axis(part, i) else 1
        if part.shape[i] % p:
            raise ConfigError(f"patches of {patch} x {patch} pixels do not divide an image of shape {part.shape}")
        shape.append(part.shape[i] // p)
    count = math.prod(shape)
    sizes = [sum(io.parts[name].numbers(which) for name in names) // count for which in _BOTH]
    axes = tuple(part.axes[i] for i in part.token_axes) if part.axes else ()
    return TokenGroup(tuple(names), tuple(shape), axes, *sizes)
