"""The published U-Nets: their tensors, and their numbers by a second implementation in the names of their tensors."""

from __future__ import annotations

import hashlib
import math
from pathlib import Path
from typing import Any

import attrs
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from bfn_categorical import Categorical, CategoricalParams
from bfn_gaussian import Gaussian, GaussianParams, NoiseHead
from bfn_gaussian_heads import DiscretisedHead
from bfn_toolkit import BFN, Experiment, NetworkBuilder, NetworkIO, load_run, seeded
from bfn_toolkit.sharing.import_weights import import_checkpoint
from bfn_unet import ImprovedUNet, VDMUNet

State = dict[str, Tensor]

BITS = Categorical((28, 28), skip=False)
COLOURS = ("height", "width", "channel")


@pytest.mark.parametrize(
    ("builder", "family", "parameters", "digest"),
    [
        (ImprovedUNet(), BITS, 24_808_961, "d95208b5e82015d3"),
        (VDMUNet(), Gaussian((32, 32, 3), 1e-3, NoiseHead(), axes=COLOURS), 30_722_188, "407a16c3e13ac189"),
        (VDMUNet(), Gaussian((3, 32, 32), 1e-3, DiscretisedHead()), 30_722_584, "9f4741c99cb2409b"),
    ],
)
def test_every_tensor_has_the_published_name_and_shape(builder: Any, family: Any, parameters: int, digest: str) -> None:
    """The digest is that of the names and shapes in the published configurations, without axes of size 1."""
    with torch.device("meta"):
        network = builder.build(family.network_io)
    assert sum(weight.numel() for weight in network.parameters()) == parameters
    own, sites = network.state_dict(), network.view.height * network.view.width
    shapes = {
        k: [sites, 258] if v is None else [n for n in own[v].shape if n > 1] for k, v in builder.foreign_names().items()
    }
    lines = "\n".join(f"{name} {shapes[name]}" for name in sorted(shapes))
    assert hashlib.sha256(lines.encode()).hexdigest()[:16] == digest


# --- the second implementation


def norm(w: State, name: str, x: Tensor, groups: int) -> Tensor:
    parts = x.reshape(len(x), groups, -1)
    parts = (parts - parts.mean(-1, keepdim=True)) / (parts.var(-1, correction=0, keepdim=True) + 1e-5).sqrt()
    return parts.reshape(x.shape) * w[f"{name}.weight"][:, None, None] + w[f"{name}.bias"][:, None, None]


def silu(x: Tensor) -> Tensor:
    return x * x.sigmoid()


def conv(w: State, name: str, x: Tensor, stride: int = 1) -> Tensor:
    kernel = w[f"{name}.weight"]
    kernel = kernel if kernel.ndim == 4 else kernel.reshape(*kernel.shape[:2], 1, 1)
    return F.conv2d(x, kernel, w[f"{name}.bias"], stride, kernel.shape[-1] // 2)


def linear(w: State, name: str, x: Tensor) -> Tensor:
    out = torch.einsum("...i,oi->...o", x, w[f"{name}.weight"])
    return out + w[f"{name}.bias"] if f"{name}.bias" in w else out


def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """One head: (B, channels, pixels) each."""
    weights = (torch.einsum("bct,bcs->bts", q, k) / math.sqrt(q.shape[1])).softmax(-1)
    return torch.einsum("bts,bcs->bct", weights, v)


def improved(w: State, x: Tensor, t: Tensor, builder: ImprovedUNet) -> Tensor:
    """(B, H, W, 1), of which the numbers are 2 p - 1 for class 0, to logits (B, H, W, 1) of class 1."""

    def block(name: str, h: Tensor) -> Tensor:
        new = conv(w, f"{name}.in_layers.2", silu(norm(w, f"{name}.in_layers.0", h, 32)))
        new = new + linear(w, f"{name}.emb_layers.1", silu(e))[..., None, None]
        new = conv(w, f"{name}.out_layers.3", silu(norm(w, f"{name}.out_layers.0", new, 32)))
        return new + (conv(w, f"{name}.skip_connection", h) if f"{name}.skip_connection.weight" in w else h)

    def attention(name: str, h: Tensor) -> Tensor:
        qkv = conv(w, f"{name}.qkv", norm(w, f"{name}.norm", h, 32)).flatten(2)
        heads = [attend(*head.chunk(3, 1)) for head in qkv.chunk(builder.heads, 1)]
        return h + conv(w, f"{name}.proj_out", torch.cat(heads, 1).reshape(h.shape))

    half = builder.width // 2
    frequencies = torch.exp(-math.log(10_000) * torch.arange(half, dtype=torch.float32) / half).to(t.dtype)
    angle = (t * 4000)[:, None] * frequencies
    e = linear(w, "time_embed.2", silu(linear(w, "time_embed.0", torch.cat([angle.cos(), angle.sin()], 1))))
    first = torch.cat([x, (t * 2 - 1)[:, None, None, None].expand(x.shape)], -1)
    first = linear(w, "input_projection", first)
    h = conv(w, "input_blocks.0.0", first.permute(0, 3, 1, 2))
    kept, i = [h], 1
    for level in range(len(builder.multipliers)):
        if level:
            h = conv(w, f"input_blocks.{i}.0.op", h, stride=2)
            kept, i = [*kept, h], i + 1
        for _ in range(builder.blocks):
            h = block(f"input_blocks.{i}.0", h)
            h = attention(f"input_blocks.{i}.1", h) if 2**level in builder.attention else h
            kept, i = [*kept, h], i + 1
    h = block("middle_block.2", attention("middle_block.1", block("middle_block.0", h)))
    i = 0
    for level in reversed(range(len(builder.multipliers))):
        for j in range(builder.blocks + 1):
            h = block(f"output_blocks.{i}.0", torch.cat([h, kept.pop()], 1))
            attends = 2**level in builder.attention
            h = attention(f"output_blocks.{i}.1", h) if attends else h
            if level and j == builder.blocks:
                h = h.repeat_interleave(2, 2).repeat_interleave(2, 3)
                h = conv(w, f"output_blocks.{i}.{1 + attends}.conv", h)
            i += 1
    h = conv(w, "out.2", silu(norm(w, "out.0", h, 32))).permute(0, 2, 3, 1)
    return linear(w, "output_adapter.output_projection", torch.cat([first, h], -1))


def vdm(w: State, x: Tensor, t: Tensor, builder: VDMUNet) -> Tensor:
    """Means (B, H, W, C) to raw numbers (B, H, W, C, R)."""

    def block(name: str, h: Tensor) -> Tensor:
        new = conv(w, f"{name}.net1.2", silu(norm(w, f"{name}.net1.0", h, builder.groups)))
        new = new + linear(w, f"{name}.cond_proj", e)[..., None, None]
        new = conv(w, f"{name}.net2.3", silu(norm(w, f"{name}.net2.0", new, builder.groups)))
        return new + (conv(w, f"{name}.skip_conv", h) if f"{name}.skip_conv.weight" in w else h)

    def attention(name: str, h: Tensor) -> Tensor:
        if f"{name}.layers.1.weight" not in w:
            return h
        qkv = conv(w, f"{name}.layers.1", norm(w, f"{name}.layers.0", h, builder.groups)).flatten(2)
        heads = zip(*(part.chunk(builder.heads, 1) for part in qkv.chunk(3, 1)), strict=True)
        return h + conv(w, f"{name}.layers.3", torch.cat([attend(*head) for head in heads], 1).reshape(h.shape))

    frequencies = torch.logspace(0.0, -4.0, builder.width // 2).to(t.dtype)
    angle = ((t + 0.001) * 1000)[:, None] * frequencies
    waves = torch.cat([angle.sin(), angle.cos()], 1)
    e = silu(linear(w, "embed_conditioning.2", silu(linear(w, "embed_conditioning.0", waves))))
    image = x.permute(0, 3, 1, 2)
    angles = torch.cat([image * (2 * math.pi * 2**n) for n in (5, 6)], 1)
    h = conv(w, "conv_in", torch.cat([image, angles.sin(), angles.cos()], 1))
    kept = [h]
    for i in range(builder.blocks):
        h = attention(f"down_blocks.{i}.attention_block", block(f"down_blocks.{i}.resnet_block", h))
        kept.append(h)
    h = block("mid_resnet_block_2", attention("mid_attn_block", block("mid_resnet_block_1", h)))
    for i in range(builder.blocks + 1):
        h = block(f"up_blocks.{i}.resnet_block", torch.cat([h, kept.pop()], 1))
        h = attention(f"up_blocks.{i}.attention_block", h)
    h = conv(w, "conv_out.2", silu(norm(w, "conv_out.0", h, builder.groups))).permute(0, 2, 3, 1)
    raw = linear(w, "output_adapter.output_projection", torch.cat([x, h], -1))
    return raw.reshape(*x.shape, -1)


def published(builder: NetworkBuilder, io: NetworkIO, sites: int) -> State:
    """Random weights in the names and shapes of the published code, none of them 0, as in a trained network."""
    with torch.device("meta"):
        own = builder.build(io).state_dict()
    state: State = {}
    with seeded(0, "published"):
        for theirs, name in builder.foreign_names().items():
            shape = [sites, 258] if name is None else list(own[name].shape)
            if theirs.endswith("projection.weight"):
                shape = shape[:2]  # a linear layer
            if isinstance(builder, ImprovedUNet) and theirs.endswith(("qkv.weight", "proj_out.weight")):
                shape = shape[:3]  # a convolution of one axis
            gain = 1.0 if len(shape) == 1 and name and "norm" in name and name.endswith("weight") else 0.0
            state[theirs] = gain + torch.randn(shape) * (
                0.1 if len(shape) == 1 else 0.7 / math.sqrt(math.prod(shape[1:]))
            )
    return state


def imported(family: dict[str, Any], network: dict[str, Any], weights: State, folder: Path) -> BFN:
    """The model after ``bfn import-checkpoint`` of a file as the published program writes it."""
    experiment = Experiment.from_mapping({"family": family, "network": network}, base="default")
    torch.save({f"net.{name}": value for name, value in weights.items()}, folder / "ema_model.pt")
    import_checkpoint(folder / "ema_model.pt", folder / "run", experiment)
    return load_run(folder / "run").eval()


def error(a: Tensor, b: Tensor) -> float:
    return float((a - b).abs().max() / b.abs().max())


T = torch.tensor([0.0, 1e-3, 0.4, 0.77, 1.0])
# Both implementations round in float32, each in its own order of operations; the published code's order is ours.
PRECISIONS = ((torch.float64, 1e-12), (torch.float32, 5e-6))
BITS_CASES = [
    (ImprovedUNet(width=32, multipliers=(1, 2), blocks=1, heads=4), (8, 12), ()),
    (ImprovedUNet(width=64, multipliers=(1, 2, 2), blocks=2, attention=(1, 4), heads=2), (12, 8, 1), COLOURS),
]


@torch.no_grad()
@pytest.mark.parametrize(("builder", "shape", "axes"), BITS_CASES)
def test_imported_weights_give_the_published_numbers_of_bits(
    tmp_path: Path, builder: ImprovedUNet, shape: tuple[int, ...], axes: tuple[str, ...]
) -> None:
    options = {"site_shape": shape, "skip": False, "axes": axes}
    weights = published(builder, Categorical(**options).network_io, math.prod(shape))
    table = {"name": "unet-improved", **attrs.asdict(builder)}
    model = imported({"name": "categorical", **options}, table, weights, tmp_path)
    with seeded(1, "beliefs"):
        v = 3.0 * torch.randn(5, *shape, 2)
    for dtype, tolerance in PRECISIONS:
        w = {name: value.to(dtype) for name, value in weights.items()}
        p = v.double().softmax(-1)[..., :1].reshape(5, *shape[:2], 1)
        expected = improved(w, (2.0 * p - 1.0).to(dtype), T.to(dtype), builder).reshape(5, *shape)
        output = model.to(dtype).output(CategoricalParams(v.to(dtype), T.to(dtype)), T.to(dtype))
        assert error(output.logits[..., 1] - output.logits[..., 0], expected) < tolerance


@torch.no_grad()
@pytest.mark.parametrize(("head", "raw"), [("noise", 1), ("discretised", 2)])
@pytest.mark.parametrize(
    ("builder", "axes"),
    [
        (VDMUNet(width=32, blocks=2), COLOURS),
        (VDMUNet(width=16, blocks=1, heads=2, groups=8, attention_everywhere=True), ("channel", "height", "width")),
    ],
)
def test_imported_weights_give_the_published_numbers_of_colours(
    tmp_path: Path, builder: VDMUNet, axes: tuple[str, ...], head: str, raw: int
) -> None:
    sizes = {"channel": 3, "height": 6, "width": 4}
    shape = tuple(sizes[axis] for axis in axes)
    weights = published(builder, NetworkIO(shape, 1, raw, axes), 24)
    table = {"name": "unet-vdm", **attrs.asdict(builder)}
    family = {"name": "gaussian", "site_shape": shape, "axes": axes, "sigma_1": 1e-3, "head": head}
    model = imported(family, table, weights, tmp_path)
    order = [1 + axes.index(axis) for axis in COLOURS]
    with seeded(1, "beliefs"):
        mean = torch.randn(5, *shape)
    for dtype, tolerance in PRECISIONS:
        w = {name: value.to(dtype) for name, value in weights.items()}
        expected = vdm(w, mean.to(dtype).permute(0, *order), T.to(dtype), builder)
        params = GaussianParams(mean.to(dtype), torch.ones(5, dtype=dtype))
        numbers = model.to(dtype).network(model.family.features(params), T.to(dtype))
        assert error(numbers.permute(0, *order, 4), expected) < tolerance


@torch.no_grad()
def test_the_heads_read_the_noise_as_published(tmp_path: Path) -> None:
    """x_hat = mu / gamma - sqrt((1 - gamma) / gamma) noise; with a scale, its logarithm is the second number."""
    family = Gaussian((3, 6, 4), 1e-3, DiscretisedHead())
    with seeded(0, "numbers"):
        mean, raw, t = torch.randn(5, 3, 6, 4).double(), torch.randn(5, 3, 6, 4, 2).double(), T.double().clamp_min(1e-3)
    gamma = (1.0 - 1e-6**t)[:, None, None, None]
    params = GaussianParams(mean, 1e-6**-t)
    scale = ((1.0 - gamma) / gamma).sqrt()
    components = DiscretisedHead().normals(family, raw, params)
    assert error(components.means[..., 0], mean / gamma - scale * raw[..., 0]) < 1e-9
    assert error(components.scales[..., 0], scale * raw[..., 1].exp()) < 1e-9
