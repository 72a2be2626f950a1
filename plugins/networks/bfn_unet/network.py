"""The U-Net as a module; see :class:`bfn_unet.UNet`."""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

import attrs
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from bfn_toolkit import LabelEmbedding, NetworkIO, expand, redrawn
from bfn_unet.layers import (
    Attention,
    Form,
    ResidualBlock,
    Stage,
    Upsample,
    VectorEmbedding,
    Waves,
    fourier_features,
    zeroed,
)

if TYPE_CHECKING:
    from bfn_unet.builders import UNet

SMALLEST_WITH_PATCHES = 16  # pixels: smaller images cost little, and lose more by patches


class UNetModule(nn.Module):
    """The network itself.

    Arguments:
        config: Its options.
        io: Sizes of the data.
        form: Conventions of a published network, or ours.
    """

    def __init__(self, config: UNet, io: NetworkIO, form: Form) -> None:
        super().__init__()
        self.config, self.form, self.io, self.view = config, form, io, io.image()
        # One number for each site, where features may be several: the form of times and masks.
        self.sites = NetworkIO(parts={k: attrs.evolve(part, in_features=1) for k, part in io.parts.items()}).image()
        self.negate = form.class_0 and any(part.classes == 2 for part in io.parts.values())
        self.patch = config.patch or (2 if min(self.view.height, self.view.width) >= SMALLEST_WITH_PATCHES else 1)
        width, embedding, area = config.width, 4 * config.width, self.patch**2
        rounds = int(config.site_times) + int(config.masks)
        shapes = config.condition_shapes
        self.images = [name for name, shape in shapes.items() if self._is_image(shape)]
        self.vectors = [name for name in shapes if name not in self.images]
        further = rounds * self.sites.in_channels + int(form.time_channel)
        further += sum(1 + math.prod(shapes[name]) // (self.view.height * self.view.width) for name in self.images)
        seen = self.view.in_channels * area  # by the last layer too
        channels = seen + area * (further + 2 * len(config.fourier) * self.view.in_channels)

        self.waves = Waves(width, form)
        self.time = nn.ModuleList([nn.Linear(width, embedding), nn.Linear(embedding, embedding)])
        self.label = LabelEmbedding(config.labels, embedding, config.label_dropout) if config.labels else None
        self.embeddings = nn.ModuleList(
            VectorEmbedding(math.prod(shapes[name]), embedding, config.label_dropout) for name in self.vectors
        )
        numbers = self.view.in_vector + rounds * self.sites.in_vector
        self.others = nn.Linear(numbers, embedding) if numbers else None
        self.project = nn.Linear(channels, width) if form.project else None
        if form.project:
            channels = seen = width

        def block(into: int, out: int) -> ResidualBlock:
            return ResidualBlock(into, out, embedding, config.groups, config.dropout, form)

        def attention(c: int) -> Attention:
            return Attention(c, config.heads, config.groups, form)

        self.down, self.up = nn.ModuleList([Stage([nn.Conv2d(channels, width, 3, padding=1)])]), nn.ModuleList()
        c, kept = width, [width]
        for level, multiplier in enumerate(config.multipliers):
            if level:
                self.down.append(Stage([nn.Conv2d(c, c, 3, stride=2, padding=1)]))
                kept.append(c)
            for _ in range(config.blocks):
                more = [attention(multiplier * width)] if 2**level in config.attention else []
                self.down.append(Stage([block(c, multiplier * width), *more]))
                c = multiplier * width
                kept.append(c)
        self.middle = Stage([block(c, c), attention(c), block(c, c)])
        lowest = c
        for level, multiplier in reversed(list(enumerate(config.multipliers))):
            for i in range(config.blocks + 1):
                layers: list[nn.Module] = [block(c + kept.pop(), multiplier * width)]
                c = multiplier * width
                layers += [attention(c)] if 2**level in config.attention else []
                layers += [Upsample(c)] if level and i == config.blocks else []
                self.up.append(Stage(layers))
        self.norm, self.conv = nn.GroupNorm(config.groups, c), nn.Conv2d(c, width, 3, padding=1)
        self.last = nn.Conv2d(seen + width, self.view.out_channels * area, 1)
        zeroed(self.last if form.zero_last else self.conv)
        self.others_out: nn.Module | None = None
        if self.view.out_vector:
            final = zeroed(nn.Linear(embedding, self.view.out_vector))
            self.others_out = nn.Sequential(nn.Linear(lowest + embedding, embedding), nn.SiLU(), final)

    def forward(
        self,
        features: Tensor,
        t: Tensor,
        /,
        label: Tensor | None = None,
        mask: Tensor | None = None,
        **condition: Tensor,
    ) -> Tensor:
        """Raw numbers (B, *site, R).

        Arguments:
            features: Features (B, *site, F).
            t: Times (B,), or in the shape of the features; then those without data do not matter.
            label: Labels (B,).
            mask: True where there are data, in the shape of the features.
            condition: Vectors and images by name.
        """
        if mask is not None:
            features = torch.where(mask, features, 0.0)
            t = _where_present(t, mask)
        pixels, others = self.view.pack(-features if self.negate else features)
        pixels = pixels.contiguous()
        planes, numbers = self._further(features, t, mask)
        planes += self._images(pixels, condition)
        if self.config.fourier:
            planes.append(fourier_features(pixels, self.config.fourier))
        seen, image = self._patches(pixels), self._patches(torch.cat([pixels, *planes], 1))
        if self.project is not None:
            seen = image = self.project(image.movedim(1, -1)).movedim(-1, 1).contiguous()
        # Pixel after pixel in memory, convolutions take an eighth to a fifth less time on a CPU.
        image = image.contiguous(memory_format=torch.channels_last)
        vector = None if others is None else torch.cat([others, *numbers], 1)
        embedding = self._embedding(t, label, vector, condition)

        h, kept = image, []
        for stage in self.down:
            h = self._run(stage, h, embedding)
            kept.append(h)
        h = lowest = self._run(self.middle, h, embedding)
        for stage in self.up:
            h = torch.cat([h, kept.pop()], 1)
            h = self._run(stage, h, embedding, kept[-1].shape[-2:] if kept else None)
        raw = self.last(torch.cat([seen, self.conv(self.form.silu(self.norm(h)))], 1))
        out = None if self.others_out is None else self.others_out(torch.cat([lowest.mean((2, 3)), embedding], 1))
        return self.view.unpack(self._pixels(raw), out)

    def _run(self, stage: nn.Module, *inputs: Any) -> Tensor:
        if not (self.config.gradient_checkpointing and torch.is_grad_enabled()):
            return stage(*inputs)  # type: ignore[no-any-return]
        again = self.training and self.config.dropout > 0.0  # then draws are repeated
        run = checkpoint if torch.compiler.is_compiling() else partial(checkpoint, context_fn=redrawn)
        result: Tensor = run(stage, *inputs, use_reentrant=False, preserve_rng_state=again)
        return result

    def _patches(self, image: Tensor) -> Tensor:
        """Pixels of a patch as channels, after zeros at the lower and right edge where patches do not divide it."""
        patch, (height, width) = self.patch, image.shape[-2:]
        return F.pixel_unshuffle(F.pad(image, (0, -width % patch, 0, -height % patch)), patch) if patch > 1 else image

    def _pixels(self, image: Tensor) -> Tensor:
        """The inverse of :meth:`_patches`."""
        size = (..., slice(self.view.height), slice(self.view.width))
        return F.pixel_shuffle(image, self.patch)[size] if self.patch > 1 else image

    def _further(self, features: Tensor, t: Tensor, mask: Tensor | None) -> tuple[list[Tensor], list[Tensor]]:
        """Times and masks of the sites: as planes of the image, and as numbers of the other parts."""
        values = [2.0 * t - 1.0] if self.config.site_times else []
        if self.config.masks:
            values.append(features.new_ones(features.shape[0]) if mask is None else mask.to(features.dtype))
        pairs = [self._of_sites(value) for value in values]
        planes, numbers = [plane for plane, _ in pairs], [number for _, number in pairs if number is not None]
        if self.form.time_channel:
            planes.append((2.0 * t - 1.0)[:, None, None, None].expand(-1, 1, self.view.height, self.view.width))
        return planes, numbers

    def _of_sites(self, value: Tensor) -> tuple[Tensor, Tensor | None]:
        """Values (B,) or in the shape of the features, one for each site, as planes and as numbers of other parts."""
        if value.ndim > 1:
            sites = {name: part[..., :1] for name, part in self.io.split(value).items()}
            return self.sites.pack(self.sites.io.join(sites))
        plane = value[:, None, None, None].expand(-1, self.sites.in_channels, self.view.height, self.view.width)
        return plane, value[:, None].expand(-1, self.sites.in_vector) if self.sites.in_vector else None

    def _is_image(self, shape: tuple[int, ...]) -> bool:
        """Whether a condition of this shape is an image of the size of the data, with channels first, last or none."""
        size = (self.view.height, self.view.width)
        return shape == size or (len(shape) == 3 and size in (shape[1:], shape[:2]))

    def _images(self, pixels: Tensor, condition: Mapping[str, Tensor]) -> list[Tensor]:
        """Conditions that are images, each with a plane that is 1 where it is present."""
        planes, size = [], pixels.shape[-2:]
        for name in self.images:
            shape, value = self.config.condition_shapes[name], condition.get(name)
            if value is None:
                planes.append(pixels.new_zeros(pixels.shape[0], 1 + math.prod(shape) // size.numel(), *size))
                continue
            image = (value if shape[-2:] == size else value.movedim(-1, 1)).reshape(pixels.shape[0], -1, *size)
            present = torch.ones_like(pixels[:, :1])
            if self.training and self.config.label_dropout:
                present = (torch.rand_like(present[..., :1, :1]) >= self.config.label_dropout) * present
            planes += [present * image.to(pixels.dtype), present]
        return planes

    def _embedding(
        self, t: Tensor, label: Tensor | None, vector: Tensor | None, condition: Mapping[str, Tensor]
    ) -> Tensor:
        """Embedding (B, E) of the time, the conditions and the parts that are not images, after its SiLU."""
        t = t if t.ndim == 1 else t.flatten(1).mean(1)
        first, second = self.time
        embedding: Tensor = second(self.form.silu(first(self.waves(t))))
        if self.label is not None:
            embedding = embedding + self.label(label)
        if self.others is not None:
            embedding = embedding + self.others(vector)
        for name, layer in zip(self.vectors, self.embeddings, strict=True):
            embedding = embedding + layer(condition.get(name))
        return self.form.silu(embedding)


def _where_present(t: Tensor, mask: Tensor) -> Tensor:
    """Times in the shape of the features, with the mean of the others where there are no data."""
    if t.ndim == 1:
        return t
    present = mask.to(t.dtype)
    mean = torch.where(mask, t, 0.0).flatten(1).sum(1) / present.flatten(1).sum(1).clamp_min(1.0)
    return torch.where(mask, t, expand(mean, t))
