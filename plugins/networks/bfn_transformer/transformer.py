r"""Transformer for data of any form: sequences, sets, tables, images in patches, and products of them.

The features become tokens (:meth:`NetworkIO.tokens <bfn_toolkit.NetworkIO.tokens>`), each group of equal tokens by a
linear layer of its own.  Time and conditions make one vector c, which scales and shifts every layer.  With
:math:`(a, b, g, a', b', g') = M_l \, \mathrm{silu}(c)`, layer l adds

.. math::
    h \leftarrow h + g \, \mathrm{attention}((1 + a) \, \mathrm{norm}(h) + b), \qquad
    h \leftarrow h + g' \, \mathrm{mlp}((1 + a') \, \mathrm{norm}(h) + b')

Every M and the last layer start at zero, so a fresh network returns zeros.  A set has no positions: a permutation of
its points permutes the result.

Source: Vaswani et al. 2017 (arXiv 1706.03762), with the norm first as in Xiong et al. 2020 (arXiv 2002.04745); Peebles
and Xie 2022 (arXiv 2212.09748) for patches and for scales and shifts that start at zero; Su et al. 2021 (arXiv
2104.09864) for rotary positions; Ho and Salimans 2022 (arXiv 2207.12598) for dropping conditions.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import attrs
import torch
from attrs import field
from torch import Tensor, nn
from torch.nn.functional import pad, scaled_dot_product_attention, silu
from torch.utils.checkpoint import checkpoint

from bfn_toolkit import (
    ConfigError,
    LabelEmbedding,
    NetworkBuilder,
    NetworkIO,
    TokenGroup,
    TokenView,
    as_shape,
    check_labels,
    redrawn,
    validators,
)

WAVES = 16  # sines, and as many cosines, of the time, with frequencies from 1 to 10
ROTARY = {"sequence": 1e4, "height": 1e2, "width": 1e2}  # axes with rotary positions: base of their frequencies
MOST_TOKENS = 256  # if the size of the patches is not given


def zeroed(layer: nn.Linear) -> nn.Linear:
    """The layer, which starts at zero."""
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)
    return layer


def again(block: nn.Module, draws: bool, *inputs: Any) -> Tensor:
    """The result of a block that the backward pass computes again, with the same draws if there are any."""
    result: Tensor = checkpoint(block, *inputs, use_reentrant=False, preserve_rng_state=draws, context_fn=redrawn)
    return result


# Attention


def attend(qkv: Tensor, heads: int, mask: Tensor | None, angles: Tensor | None = None) -> Tensor:
    """Attention of all tokens to all, with shape (B, tokens, width).

    Arguments:
        qkv: Queries, keys and values side by side, with shape (B, tokens, 3 width).
        heads: Number of heads.
        mask: Tokens to attend to, with shape (B, 1, 1, tokens); None for all.
        angles: Rotary positions, with shape (tokens, width / heads / 2).
    """
    q, k, v = (part.reshape(*part.shape[:2], heads, -1).transpose(1, 2) for part in qkv.chunk(3, -1))
    if angles is not None:
        q, k = rotated(q, angles), rotated(k, angles)
    # Its own dropout would draw numbers that cannot be divided among the pieces of a batch.
    return scaled_dot_product_attention(q, k, v, attn_mask=mask).transpose(1, 2).flatten(2)


def rotated(x: Tensor, angles: Tensor) -> Tensor:
    """Numbers of tokens (..., tokens, n), turned in pairs by angles (tokens, n / 2)."""
    cos, sin = angles.cos().to(x.dtype), angles.sin().to(x.dtype)
    a, b = x.chunk(2, -1)
    return torch.addcmul(x * torch.cat([cos, cos], -1), torch.cat([b, a], -1), torch.cat([-sin, sin], -1))


def attention_mask(present: Tensor) -> Tensor:
    """Mask (B, 1, 1, tokens) of the tokens (B, tokens) that are present.

    An example without any attends to all, because the softmax of nothing is NaN.
    """
    return (present | ~present.any(1, keepdim=True))[:, None, None]


def tokens_with_data(view: TokenView, mask: Tensor) -> Tensor:
    """Whether any number of a token is there, (B, tokens), from the mask of the features."""
    return torch.cat([part.any(-1) for part in view.pack(mask)], 1)


# Positions


def axes_of(view: TokenView, group: TokenGroup) -> tuple[str, ...]:
    """Axes of a group's tokens; without names, two are those of an image, and others are like columns."""
    axes = group.axes or view.io.parts[group.names[0]].image_axes or ()
    return axes if len(axes) == len(group.shape) else ("column",) * len(group.shape)


def rotary_angles(view: TokenView, pairs: int) -> Tensor | None:
    """Angles (tokens, pairs) of the rotary positions; None if no axis has them.

    Each axis that has them turns an equal share of the pairs, and leaves tokens alone that do not have it.
    """
    names = [name for name in ROTARY if any(name in axes_of(view, group) for group in view.groups)]
    if not names:
        return None
    share = pairs // len(names)
    groups = []
    for group in view.groups:
        axes, angles = axes_of(view, group), torch.zeros(*group.shape, pairs)
        for i, name in enumerate(names):
            if name in axes:
                place = torch.arange(group.shape[axes.index(name)])
                frequencies = ROTARY[name] ** (-torch.arange(share) / max(share, 1))
                along = (place[:, None] * frequencies).reshape(-1, *[1] * (len(axes) - axes.index(name) - 1), share)
                angles[..., i * share : (i + 1) * share] = along
        groups.append(angles.reshape(group.count, pairs))
    return torch.cat(groups)


# Layers


class Stem(nn.Module):
    """Embedding of a group's tokens, with a learned position along the axes that have one."""

    def __init__(self, group: TokenGroup, axes: tuple[str, ...], config: Transformer) -> None:
        super().__init__()
        self.neighbours = config.neighbours if axes == ("sequence",) else 0
        self.linear = nn.Linear((2 * self.neighbours + 1) * group.in_numbers, config.width)
        without = {"set", *(ROTARY if config.positions == "rotary" else ())}
        shape = [1 if axis in without else size for axis, size in zip(axes, group.shape, strict=True)]
        has = math.prod(shape) > 1
        self.place = nn.Parameter(0.02 * torch.randn(*shape, config.width)) if has else None
        self.shape = group.shape

    def forward(self, tokens: Tensor) -> Tensor:
        """(B, tokens, in_numbers) to (B, tokens, width)."""
        h: Tensor = self.linear(with_neighbours(tokens, self.neighbours))
        if self.place is None:
            return h
        return h + self.place.expand(*self.shape, h.shape[-1]).reshape(-1, h.shape[-1])


def with_neighbours(tokens: Tensor, n: int) -> Tensor:
    """Each token (B, tokens, numbers) beside the n before it and the n after it: (B, tokens, (2n + 1) numbers).

    There are zeros beyond the ends, as for tokens without data.
    """
    if n == 0:
        return tokens
    wide, count = pad(tokens, (0, 0, n, n)), tokens.shape[1]
    return torch.cat([wide[:, i : i + count] for i in range(2 * n + 1)], -1)


class ConditionEmbedding(nn.Module):
    """Numbers of a condition by a linear layer: (B, ..., n) to (B, tokens, width); a missing one is learned.

    Arguments:
        shape: Shape of one value; the last axis is that of the numbers of a token.
        width: Size of a token.
        dropout: Probability of dropping a value in training.
        scale: Numbers a and b > 0, by which a value v is read as (v - a) / b.
    """

    def __init__(self, shape: tuple[int, ...], width: int, dropout: float, scale: tuple[float, float]) -> None:
        super().__init__()
        self.scale = scale
        self.linear = nn.Linear(shape[-1] if shape else 1, width)
        self.missing = nn.Parameter(0.02 * torch.randn(math.prod(shape[:-1]), width))
        self.dropout = dropout

    def forward(self, value: Tensor | None) -> Tensor:
        """Tokens (B, tokens, width), or (1, tokens, width) if the condition is missing."""
        if value is None:
            return self.missing.unsqueeze(0)
        weight, (shift, scale) = self.linear.weight, self.scale
        numbers = (value if value.dtype == torch.float64 else value.float()).sub(shift).div(scale)
        h: Tensor = self.linear(numbers.to(weight.dtype).reshape(value.shape[0], -1, weight.shape[1]))
        if self.training and self.dropout:
            dropped = torch.rand(len(value), device=value.device) < self.dropout
            h = torch.where(dropped[:, None, None], self.missing.to(h.dtype), h)
        return h


class Block(nn.Module):
    """One layer: attention, and a perceptron for each token."""

    def __init__(self, config: Transformer) -> None:
        super().__init__()
        width, self.heads = config.width, config.heads
        self.norm = nn.LayerNorm(width, elementwise_affine=False)
        self.modulation = zeroed(nn.Linear(width, 6 * width))
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, h: Tensor, c: Tensor, mask: Tensor | None, angles: Tensor | None) -> Tensor:
        """The next h (B, tokens, width), from c (B, tokens or 1, width)."""
        a, b, g, a2, b2, g2 = self.modulation(c).chunk(6, -1)
        heard = attend(self.qkv(torch.addcmul(b, 1.0 + a, self.norm(h))), self.heads, mask, angles)
        h = torch.addcmul(h, g, self.dropout(self.out(heard)))
        return torch.addcmul(h, g2, self.dropout(self.mlp(torch.addcmul(b2, 1.0 + a2, self.norm(h)))))


class TransformerModule(nn.Module):
    """The network itself; see :class:`Transformer`."""

    frequencies: Tensor
    angles: Tensor | None

    def __init__(self, config: Transformer, io: NetworkIO) -> None:
        super().__init__()
        width, self.io, self.view = config.width, io, config.tokens(io)
        one = NetworkIO(parts={name: attrs.evolve(part, in_features=1) for name, part in io.parts.items()})
        self.sites = one.tokens(self.view.patch)  # for the times, one for each site
        self.stems = nn.ModuleList(Stem(group, axes_of(self.view, group), config) for group in self.view.groups)
        self.label = LabelEmbedding(config.labels, width, config.label_dropout) if config.labels else None
        self.vectors, self.words = nn.ModuleDict(), nn.ModuleDict()
        self.word_count = 0  # tokens of all conditions
        for name, shape in config.condition_shapes.items():
            embeddings = self.words if len(shape) > 1 else self.vectors
            self.word_count += math.prod(shape[:-1]) if len(shape) > 1 else 0
            scale = config.condition_scales.get(name, (0.0, 1.0))
            embeddings[name] = ConditionEmbedding(shape, width, config.label_dropout, scale)
        self.register_buffer("frequencies", torch.logspace(0.0, 1.0, WAVES), persistent=False)
        time = nn.Sequential(nn.Linear(2 * WAVES, width), nn.SiLU(), nn.Linear(width, width))
        self.time = None if config.time_free else time
        self.constant = nn.Parameter(torch.randn(width)) if config.time_free else None
        angles = None if config.positions == "learned" else rotary_angles(self.view, width // config.heads // 2)
        if angles is not None:
            angles = torch.cat([angles, angles.new_zeros(self.word_count, angles.shape[1])])
        self.register_buffer("angles", angles, persistent=False)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.depth))
        self.checkpointing, self.draws = config.gradient_checkpointing, config.dropout > 0.0
        self.norm = nn.LayerNorm(width, elementwise_affine=False)
        self.modulation = zeroed(nn.Linear(width, 2 * width))
        self.heads = nn.ModuleList(zeroed(nn.Linear(width, group.out_numbers)) for group in self.view.groups)

    def forward(
        self,
        features: Tensor,
        t: Tensor,
        /,
        *,
        mask: Tensor | None = None,
        label: Tensor | None = None,
        **condition: Tensor,
    ) -> Tensor:
        """Raw numbers (B, *site, R).

        Arguments:
            features: Features, with shape (B, *site, F).
            t: Times, with shape (B,) or that of the features.
            mask: True where there are data, with the shape of the features; None for everywhere.
            label: Labels (B,); a negative one means none.
            condition: Further conditions by name, of shape (B, ...) as in ``condition_shapes``.
        """
        rows, present = features.shape[0], None
        if mask is not None:
            present = tokens_with_data(self.view, mask)
            features = torch.where(mask, features, 0.0)
        c = self._scales(t, present, label, condition)
        tokens = [stem(part) for stem, part in zip(self.stems, self.view.pack(features), strict=True)]
        words = [word(condition.get(name)).expand(rows, -1, -1) for name, word in self.words.items()]
        h = torch.cat([*tokens, *words], 1)
        if present is not None:
            present = attention_mask(torch.cat([present, present.new_ones(rows, self.word_count)], 1))
        for block in self.blocks:
            if self.checkpointing and torch.is_grad_enabled():
                h = again(block, self.training and self.draws, h, c, present, self.angles)
            else:
                h = block(h, c, present, self.angles)
        a, b = self.modulation(c).chunk(2, -1)
        h = torch.addcmul(b, 1.0 + a, self.norm(h))
        parts = torch.split(h[:, : self.view.count], [group.count for group in self.view.groups], 1)
        return self.view.unpack([head(part) for head, part in zip(self.heads, parts, strict=True)])

    def _scales(
        self, t: Tensor, present: Tensor | None, label: Tensor | None, condition: Mapping[str, Tensor]
    ) -> Tensor:
        """The vector silu(c), with shape (B or 1, tokens or 1, width)."""
        c: Any = self.constant if self.time is None else self.time(self._waves(t, present))
        if self.label is not None:
            c = c + self.label(label).unsqueeze(-2)
        for name, vector in self.vectors.items():
            c = c + vector(condition.get(name))
        return silu(c)

    def _waves(self, t: Tensor, present: Tensor | None) -> Tensor:
        """Sines and cosines (B, tokens or 1, 2 WAVES) of the times; those of a token are the mean over its sites."""
        if t.ndim == 1:
            return self._waves_of(t.unsqueeze(1))
        sites = self.sites.io.join({name: part.mean(-1, keepdim=True) for name, part in self.io.split(t).items()})
        tokens = torch.cat([self._waves_of(part).mean(2) for part in self.sites.pack(sites)], 1)
        if not self.word_count:
            return tokens
        weight = torch.ones_like(tokens[..., :1]) if present is None else present.unsqueeze(-1).to(tokens.dtype)
        mean = (tokens * weight).sum(1, keepdim=True) / weight.sum(1, keepdim=True).clamp_min(1.0)
        return torch.cat([tokens, mean.expand(-1, self.word_count, -1)], 1)

    def _waves_of(self, t: Tensor) -> Tensor:
        angles = t.unsqueeze(-1) * self.frequencies
        return torch.cat([angles.sin(), angles.cos()], -1)


def _shapes(value: Mapping[str, tuple[int, ...]]) -> dict[str, tuple[int, ...]]:
    return {name: as_shape(shape) for name, shape in value.items()}


def _scales(value: Mapping[str, Sequence[float]]) -> dict[str, tuple[float, ...]]:
    return {name: tuple(map(float, pair)) for name, pair in value.items()}


@attrs.frozen
class Transformer(NetworkBuilder):
    """Transformer for sequences, sets, tables, images, and products of them.

    Arguments:
        width: Numbers of a token in the hidden layers.
        depth: Number of layers.
        heads: Number of heads of the attention.
        positions: "rotary" for rotary positions along sequences and images and learned ones along other axes,
            "learned" for learned ones alone, "both" for both along sequences and images.  Sets never have any.
        neighbours: Number of tokens on each side of a token of a sequence that its embedding also reads: a convolution,
            from which a network learns what follows what long before attention does.
        patch: Side of the patches of images; by default the smallest that leaves at most 256 tokens.
        labels: Number of labels of the condition "label"; 0 to ignore them (in a configuration, the default is the data
            set's number).  A negative or missing one means no label.
        condition_shapes: Shape of one value of each further condition.  A number () or a vector (n,) scales and shifts
            the layers, as the time does; values of shape (..., n) are tokens of n numbers.
        condition_scales: Numbers a and b > 0 for a condition of numbers, which is read as (v - a) / b, so that it can
            stay in its own units; (0, 1) for those that are missing.
        dropout: Probability of dropping a number that a layer adds, in training.
        label_dropout: Probability of dropping the label or another condition in training, so that the network also
            learns without it.
        time_free: Whether it does not read the time.
        self_conditioning: Whether it also sees its last estimate.
        gradient_checkpointing: Whether training computes the layers twice, which saves memory.
    """

    site_times = True
    permutes_sets = True

    width: int = field(default=128, validator=validators.integer(ge=2))
    depth: int = field(default=4, validator=validators.integer(ge=1))
    heads: int = field(default=4, validator=validators.integer(ge=1))
    positions: Literal["rotary", "learned", "both"] = field(
        default="both", validator=validators.one_of("rotary", "learned", "both")
    )
    neighbours: int = field(default=0, validator=validators.integer(ge=0, le=1000))
    patch: int | None = field(default=None, validator=validators.optional(validators.integer(ge=1)))
    labels: int = field(default=0, validator=validators.integer(ge=0))
    condition_shapes: Mapping[str, tuple[int, ...]] = field(
        factory=dict, converter=_shapes, eq=lambda shapes: tuple(sorted(shapes.items()))
    )
    condition_scales: Mapping[str, tuple[float, float]] = field(
        factory=dict, converter=_scales, eq=lambda scales: tuple(sorted(scales.items()))
    )
    dropout: float = field(default=0.0, validator=validators.number(ge=0, lt=1))
    label_dropout: float = field(default=0.1, validator=validators.number(ge=0, lt=1))
    time_free: bool = False
    self_conditioning: bool = False
    gradient_checkpointing: bool = False

    @heads.validator
    def _check_heads(self, attribute: attrs.Attribute[int], heads: int) -> None:
        if self.width % (2 * heads):
            raise ValueError(f"{attribute.name}: the width {self.width} must be a multiple of 2 heads = {2 * heads}")

    @condition_scales.validator
    def _check_scales(self, attribute: attrs.Attribute[Any], scales: Mapping[str, Sequence[float]]) -> None:
        for name, pair in scales.items():
            if len(pair) != 2 or not all(map(math.isfinite, pair)) or pair[1] <= 0.0:
                raise ValueError(f"{attribute.name}: '{name}': expected a number and one above 0, got {list(pair)}")

    @property
    def conditions(self) -> tuple[str, ...]:
        """Returns "label" if there are labels, and the names of ``condition_shapes``."""
        return (*(["label"] if self.labels else []), *self.condition_shapes)

    def check_condition(self, name: str, value: Tensor) -> None:
        """Checks that labels are integers below ``labels``.

        Raises:
            ConfigError: If they are not.
        """
        if name == "label":
            check_labels(name, value, self.labels)

    def tokens(self, io: NetworkIO) -> TokenView:
        """The tokens of data of these sizes.

        Raises:
            ConfigError: If the patches do not divide an image.
        """
        if self.patch is not None:
            return io.tokens(self.patch)
        for patch in (1, 2, 4, 8, 16):
            try:
                view = io.tokens(patch)
            except ConfigError:
                continue
            if view.count <= MOST_TOKENS:
                return view
        return io.tokens()

    def build(self, io: NetworkIO) -> nn.Module:
        """Builds the network with fresh weights."""
        return TransformerModule(self, io)
