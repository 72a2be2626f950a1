"""Layers of a U-Net: residual block, attention, upsampling, embedding of the time, Fourier features."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable

import attrs
import torch
import torch.nn.functional as F
from torch import Tensor, nn


@attrs.frozen
class Form:
    r"""Conventions in which published networks differ from ours; the defaults are ours.

    The waves are :math:`\sin \omega_i s (t + t_0), \cos \omega_i s (t + t_0)` with :math:`\omega_i` from 1 to 10^-4.

    Arguments:
        offset: Time t_0.
        scale: Factor s.
        cosines_first: Whether cosines stand before sines.
        end: Whether the lowest frequency is 10^-4 itself; otherwise one more would be.
        scale_shift: Whether the embedding scales and shifts the normalised numbers; otherwise it is added before.
        bias: Whether a block has a bias in the projection of the embedding.
        by_head: Whether queries, keys and values stand together for each head; otherwise all queries come first.
        project: Whether a linear layer mixes the channels of the input first.
        time_channel: Whether 2 t - 1 is a channel of the input.
        class_0: Whether two classes are seen as the probability of class 0 instead of class 1.
        zero_last: Whether the last layer starts at zero; otherwise the convolution before it does.
        silu: The activation; its rounding differs among implementations by as much as that of all else.
    """

    offset: float = 0.001
    scale: float = 1000.0
    cosines_first: bool = False
    end: bool = True
    scale_shift: bool = True
    bias: bool = True
    by_head: bool = False
    project: bool = False
    time_channel: bool = False
    class_0: bool = False
    zero_last: bool = True
    silu: Callable[[Tensor], Tensor] = F.silu


def silu_as_product(x: Tensor) -> Tensor:
    """The activation in two steps."""
    return x * x.sigmoid()


def zeroed(module: nn.Module) -> nn.Module:
    """The module, with all parameters at zero."""
    for parameter in module.parameters():
        nn.init.zeros_(parameter)
    return module


class Waves(nn.Module):
    """Sines and cosines (B, width) of times (B,)."""

    frequencies: Tensor

    def __init__(self, width: int, form: Form) -> None:
        super().__init__()
        self.form, half = form, width // 2
        # In float32 and in this order of operations, because an angle of 1000 is exact to 6e-5 only.
        if form.end:
            frequencies = torch.logspace(0.0, -4.0, half)
        else:
            frequencies = torch.exp(torch.arange(half, dtype=torch.float32) * -math.log(10_000) / half)
        self.register_buffer("frequencies", frequencies, persistent=False)

    def forward(self, t: Tensor) -> Tensor:
        """Waves of the times."""
        angle = ((t + self.form.offset) * self.form.scale).unsqueeze(-1) * self.frequencies
        pair = (angle.cos(), angle.sin()) if self.form.cosines_first else (angle.sin(), angle.cos())
        return torch.cat(pair, -1)


class VectorEmbedding(nn.Module):
    """Embedding of a condition: a linear layer, and a learned vector where it is missing or, in training, dropped."""

    def __init__(self, size: int, width: int, dropout: float) -> None:
        super().__init__()
        self.missing, self.linear, self.dropout = nn.Parameter(torch.zeros(size)), nn.Linear(size, width), dropout

    def forward(self, value: Tensor | None) -> Tensor:
        """(B, ...) to (B, width); (width,) for a missing condition."""
        if value is None:
            value = self.missing
        else:
            value = value.reshape(value.shape[0], -1).to(self.missing.dtype)
            if self.training:
                value = torch.where(torch.rand_like(value[:, :1]) < self.dropout, self.missing, value)
        result: Tensor = self.linear(value)
        return result


def fourier_features(x: Tensor, octaves: Iterable[int]) -> Tensor:
    r"""Sines, then cosines, of :math:`2 \pi 2^n x` for each octave n: (B, C, ..) to (B, 2 octaves C, ..)."""
    angle = torch.cat([x * (2.0 * math.pi * 2.0**n) for n in octaves], 1)
    return torch.cat([angle.sin(), angle.cos()], 1)


class ResidualBlock(nn.Module):
    """Two convolutions of 3 x 3 pixels with norm and SiLU before each; the embedding enters between them."""

    def __init__(self, into: int, out: int, embedding: int, groups: int, dropout: float, form: Form) -> None:
        super().__init__()
        self.scale_shift, self.silu = form.scale_shift, form.silu
        self.norm1, self.conv1 = nn.GroupNorm(groups, into), nn.Conv2d(into, out, 3, padding=1)
        self.embedding = nn.Linear(embedding, 2 * out if form.scale_shift else out, form.bias)
        self.norm2, self.dropout = nn.GroupNorm(groups, out), nn.Dropout(dropout)
        self.conv2 = zeroed(nn.Conv2d(out, out, 3, padding=1))
        self.shortcut = nn.Conv2d(into, out, 1) if into != out else nn.Identity()

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        """(B, into, H, W) to (B, out, H, W), with an embedding (B, E) after its SiLU."""
        h = self.conv1(self.silu(self.norm1(x)))
        e = self.embedding(embedding)[..., None, None]
        if self.scale_shift:
            scale, shift = e.chunk(2, 1)
            h = torch.addcmul(shift, self.norm2(h), 1.0 + scale)
        else:
            h = self.norm2(h + e)
        result: Tensor = self.shortcut(x) + self.conv2(self.dropout(self.silu(h)))
        return result


class Attention(nn.Module):
    """Attention among all pixels, added to them."""

    def __init__(self, channels: int, heads: int, groups: int, form: Form) -> None:
        super().__init__()
        self.heads, self.by_head = heads, form.by_head
        self.norm, self.qkv = nn.GroupNorm(groups, channels), nn.Conv2d(channels, 3 * channels, 1)
        self.out = zeroed(nn.Conv2d(channels, channels, 1))

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) to the same shape."""
        order = (self.heads, 3) if self.by_head else (3, self.heads)
        qkv = self.qkv(self.norm(x)).flatten(2).unflatten(1, (*order, -1)).transpose(-1, -2)
        q, k, v = qkv.unbind(2 if self.by_head else 1)  # (B, heads, pixels, channels of a head)
        h = F.scaled_dot_product_attention(q, k, v).transpose(-1, -2).reshape(x.shape)
        result: Tensor = x + self.out(h)
        return result


class Upsample(nn.Module):
    """Twice the height and width, each pixel four times, then a convolution."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor, size: tuple[int, int]) -> Tensor:
        """(B, C, h, w) to (B, C, *size), where a size is twice the half that was rounded up, or one less."""
        result: Tensor = self.conv(F.interpolate(x, size, mode="nearest"))
        return result


class Stage(nn.ModuleList):
    """Layers in a row, each of which gets what it needs."""

    def forward(self, h: Tensor, embedding: Tensor, size: tuple[int, int] | None = None) -> Tensor:
        """(B, C, H, W) to (B, C', H', W').

        Arguments:
            h: Image.
            embedding: Embedding of the time and all conditions, (B, E), after its SiLU.
            size: Height and width after an :class:`Upsample`.
        """
        for layer in self:
            if isinstance(layer, ResidualBlock):
                h = layer(h, embedding)
            else:
                h = layer(h, size) if isinstance(layer, Upsample) else layer(h)
        return h
