"""Configurations of U-Nets: ours, and two that are published."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, ClassVar, TypeAlias

import attrs
import torch
from attrs import field
from torch import Tensor, nn

from bfn_toolkit import NetworkBuilder, NetworkIO, as_shape, check_labels, validators
from bfn_unet.layers import Form, silu_as_product
from bfn_unet.network import UNetModule

OURS = Form()
IMPROVED = Form(
    offset=0.0,
    scale=4000.0,
    cosines_first=True,
    end=False,
    scale_shift=False,
    by_head=True,
    project=True,
    time_channel=True,
    class_0=True,
    zero_last=False,
    silu=silu_as_product,
)
VDM = Form(scale_shift=False, bias=False, zero_last=False)


def _divides(instance: Any, attribute: attrs.Attribute[int], value: int) -> None:
    """attrs validator: the channels of every level are a multiple of the value."""
    odd = [m * instance.width for m in instance.multipliers if (m * instance.width) % value]
    if odd:
        raise validators.invalid(instance, attribute, f"expected a divisor of {odd[0]} channels, got {value}")


def _integers(value: Iterable[int]) -> tuple[int, ...]:
    return tuple(value)


def _shapes(value: Mapping[str, Sequence[int]]) -> dict[str, tuple[int, ...]]:
    return {name: as_shape(shape) for name, shape in value.items()}


def _positive(instance: Any, attribute: attrs.Attribute[Any], value: tuple[int, ...]) -> None:
    """attrs validator: positive integers."""
    if any(isinstance(n, bool) or not isinstance(n, int) or n < 1 for n in value):
        raise validators.invalid(instance, attribute, f"expected positive integers, got {value}")


@attrs.frozen
class UNet(NetworkBuilder):
    """U-Net for images of any size; parts that are not images enter and leave as vectors.

    It reads the conditions of ``condition_shapes``, and "label" if ``labels`` is above 0; a negative label means none.
    All others are ignored, so that the same network runs on data with and without them.

    Arguments:
        width: Channels at the first level.
        multipliers: Channels at each level, in units of the width; each level has half the height and width of the one
            before, rounded up.
        blocks: Number of residual blocks at each level on the way down; there is one more on the way up.
        attention: Factors 1, 2, 4, ... of the levels with attention after each block.  There is always attention at
            the end of the way down.
        heads: Number of heads of attention.
        groups: Number of groups of channels that are normalised together.
        patch: Side of the patches of pixels that enter as one; by default 2 from 16 x 16 pixels on, in a quarter of the
            time, and otherwise 1.
        fourier: Octaves n for which sines and cosines of 2 pi 2^n times the features enter too.
        dropout: Dropout probability in the blocks, in training.
        labels: Number of labels; 0 to ignore them (in a configuration, the default is the data set's number).
        label_dropout: Probability of dropping a label, or another condition, in training.
        condition_shapes: Shape of one value of each further condition.  Images of the size of the data, with channels
            first, last or none, are channels of the input; all others are vectors, and enter as the time does.
        site_times: Whether times may differ by site; they are further channels then.
        masks: Whether it sees at which sites there are data, as further channels.
        self_conditioning: Whether the features hold the last estimate too.
        gradient_checkpointing: Whether to compute the blocks again for gradients: less memory, a third more time.

    Source: Ronneberger et al. 2015 (arXiv 1505.04597), in the form of Dhariwal and Nichol 2021 (arXiv 2105.05233).
    """

    example_shapes: ClassVar[tuple[tuple[int, ...], ...]] = ((5, 4), (2, 4, 7))

    width: int = field(default=32, validator=validators.integer(ge=2))
    multipliers: tuple[int, ...] = field(default=(1, 2), converter=_integers, validator=_positive)
    blocks: int = field(default=1, validator=validators.integer(ge=1))
    attention: tuple[int, ...] = field(default=(), converter=_integers, validator=_positive)
    heads: int = field(default=4, validator=[validators.integer(ge=1), _divides])
    groups: int = field(default=8, validator=[validators.integer(ge=1), _divides])
    patch: int | None = field(default=None, validator=validators.optional(validators.integer(ge=1)))
    fourier: tuple[int, ...] = field(default=(), converter=_integers)
    dropout: float = field(default=0.0, validator=validators.number(ge=0, lt=1))
    labels: int = field(default=0, validator=validators.integer(ge=0))
    label_dropout: float = field(default=0.1, validator=validators.number(ge=0, lt=1))
    condition_shapes: Mapping[str, tuple[int, ...]] = field(
        factory=dict, converter=_shapes, eq=lambda shapes: tuple(sorted(shapes.items()))
    )
    site_times: bool = False
    masks: bool = False
    self_conditioning: bool = False
    gradient_checkpointing: bool = False

    @property
    def conditions(self) -> tuple[str, ...]:
        """Returns "label" if there are labels, and the names of ``condition_shapes``."""
        return (*(["label"] if self.labels else []), *self.condition_shapes)

    def check_condition(self, name: str, value: Tensor) -> None:
        """Checks that labels are integers below ``labels``; a negative one means no label.

        Raises:
            ConfigError: If they are not.
        """
        if name == "label":
            check_labels(name, value, self.labels)

    def build(self, io: NetworkIO) -> nn.Module:
        """Builds the network with fresh weights."""
        return UNetModule(self, io, OURS)


@attrs.frozen
class ImprovedUNet(NetworkBuilder):
    """The network of the paper for binarised MNIST, with 24,808,961 parameters for 28 x 28 pixels of two classes.

    It has the tensors of the network in github.com/nnaisense/bayesian-flow-networks, and takes over its weights.

    Arguments:
        width: Channels at the first level, a multiple of 32.
        multipliers: Channels at each level, in units of the width.
        blocks: Number of residual blocks at each level on the way down.
        attention: Factors of the levels with attention after each block; here none of them has it.
        heads: Number of heads of attention.
        dropout: Dropout probability in the blocks, in training.
        gradient_checkpointing: Whether to compute the blocks again for gradients: less memory, a third more time.

    Source: Nichol and Dhariwal 2021 (arXiv 2102.09672); Graves et al. 2023 (arXiv 2308.07037), section 7.
    """

    example_shapes: ClassVar[tuple[tuple[int, ...], ...]] = ((5, 4), (2, 4, 7))

    width: int = field(default=128, validator=validators.integer(ge=32))
    multipliers: tuple[int, ...] = field(default=(1, 2, 2), converter=_integers, validator=_positive)
    blocks: int = field(default=2, validator=validators.integer(ge=1))
    attention: tuple[int, ...] = field(default=(8, 16), converter=_integers, validator=_positive)
    heads: int = field(default=4, validator=validators.integer(ge=1))
    dropout: float = field(default=0.5, validator=validators.number(ge=0, lt=1))
    gradient_checkpointing: bool = False

    @property
    def conditions(self) -> tuple[str, ...]:
        """Returns no names."""
        return ()

    def foreign_names(self) -> Mapping[str, str | None]:
        """Names of the tensors in the published code."""
        return _foreign(self, _IMPROVED_NAMES)

    def build(self, io: NetworkIO) -> nn.Module:
        """Builds the network with fresh weights."""
        options = attrs.asdict(self) | {"groups": 32, "patch": 1}
        return UNetModule(UNet(**options), io, IMPROVED)


@attrs.frozen
class VDMUNet(NetworkBuilder):
    """The network of the paper for CIFAR-10: 30,722,188 parameters for a point at each of 32 x 32 x 3 sites.

    With the head ``discretised`` they are 30,722,584.  It has the tensors of the network in
    github.com/nnaisense/bayesian-flow-networks, and takes over its weights.  All blocks see the image at full size.

    Arguments:
        width: Channels.
        blocks: Number of residual blocks on the way down; there is one more on the way up.
        heads: Number of heads of attention.
        groups: Number of groups of channels that are normalised together.
        attention_everywhere: Whether there is attention after each block too.
        fourier: Octaves n for which sines and cosines of 2 pi 2^n times the features enter too.
        dropout: Dropout probability in the blocks, in training.
        gradient_checkpointing: Whether to compute the blocks again for gradients: less memory, a third more time.

    Source: Kingma et al. 2021 (arXiv 2107.00630); Graves et al. 2023 (arXiv 2308.07037), section 7.
    """

    example_shapes: ClassVar[tuple[tuple[int, ...], ...]] = ((5, 4), (2, 4, 7))

    width: int = field(default=128, validator=validators.integer(ge=2))
    blocks: int = field(default=32, validator=validators.integer(ge=1))
    heads: int = field(default=1, validator=validators.integer(ge=1))
    groups: int = field(default=32, validator=validators.integer(ge=1))
    attention_everywhere: bool = False
    fourier: tuple[int, ...] = field(default=(5, 6), converter=_integers)
    dropout: float = field(default=0.1, validator=validators.number(ge=0, lt=1))
    gradient_checkpointing: bool = False

    @property
    def conditions(self) -> tuple[str, ...]:
        """Returns no names."""
        return ()

    def foreign_names(self) -> Mapping[str, str | None]:
        """Names of the tensors in the published code."""
        return _foreign(self, _VDM_NAMES)

    def build(self, io: NetworkIO) -> nn.Module:
        """Builds the network with fresh weights."""
        options = attrs.asdict(self) | {"multipliers": (1,), "patch": 1}
        options["attention"] = (1,) if options.pop("attention_everywhere") else ()
        return UNetModule(UNet(**options), io, VDM)


_IMPROVED_NAMES = (
    (r"^(down)(\.\d+\.\d+\.)(?=weight|bias)", r"input_blocks\2op."),
    (r"^input_blocks\.0\.0\.op\.", "input_blocks.0.0."),
    (r"^down\.", "input_blocks."),
    (r"^middle\.", "middle_block."),
    (r"^up\.", "output_blocks."),
    (r"^time\.0\.", "time_embed.0."),
    (r"^time\.1\.", "time_embed.2."),
    (r"^project\.", "input_projection."),
    (r"^norm\.", "out.0."),
    (r"^conv\.", "out.2."),
    (r"^last\.", "output_adapter.output_projection."),
    (r"\.norm1\.", ".in_layers.0."),
    (r"\.conv1\.", ".in_layers.2."),
    (r"\.embedding\.", ".emb_layers.1."),
    (r"\.norm2\.", ".out_layers.0."),
    (r"\.conv2\.", ".out_layers.3."),
    (r"\.shortcut\.", ".skip_connection."),
    (r"(?<=\d)\.out\.", ".proj_out."),
)
_VDM_NAMES = (
    (r"^down\.0\.0\.", "conv_in."),
    (r"^down\.(\d+)\.0\.", lambda m: f"down_blocks.{int(m[1]) - 1}.resnet_block."),
    (r"^down\.(\d+)\.1\.", lambda m: f"down_blocks.{int(m[1]) - 1}.attention_block."),
    (r"^middle\.0\.", "mid_resnet_block_1."),
    (r"^middle\.1\.", "mid_attn_block."),
    (r"^middle\.2\.", "mid_resnet_block_2."),
    (r"^up\.(\d+)\.0\.", r"up_blocks.\1.resnet_block."),
    (r"^up\.(\d+)\.1\.", r"up_blocks.\1.attention_block."),
    (r"^time\.0\.", "embed_conditioning.0."),
    (r"^time\.1\.", "embed_conditioning.2."),
    (r"^norm\.", "conv_out.0."),
    (r"^conv\.", "conv_out.2."),
    (r"^last\.", "output_adapter.output_projection."),
    (r"\.norm1\.", ".net1.0."),
    (r"\.conv1\.", ".net1.2."),
    (r"\.embedding\.", ".cond_proj."),
    (r"\.norm2\.", ".net2.0."),
    (r"\.conv2\.", ".net2.3."),
    (r"\.shortcut\.", ".skip_conv."),
    (r"(block\w*)\.norm\.", r"\1.layers.0."),
    (r"\.qkv\.", ".layers.1."),
    (r"(block\w*)\.out\.", r"\1.layers.3."),
)
Rules: TypeAlias = Sequence[tuple[str, str | Callable[[re.Match[str]], str]]]


def _foreign(builder: NetworkBuilder, rules: Rules) -> dict[str, str | None]:
    """The names of a network's tensors after the rules, pattern and replacement each."""
    with torch.device("meta"):
        own = builder.build(NetworkIO((8, 8))).state_dict()
    names: dict[str, str | None] = {"input_adapter.pos_feats": None}  # positions, which neither network reads
    for name in own:
        theirs = name
        for pattern, replacement in rules:
            theirs = re.sub(pattern, replacement, theirs)
        names[theirs] = name
    return names
