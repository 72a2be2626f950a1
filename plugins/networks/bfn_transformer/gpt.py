r"""The transformer of the paper for text: one for sequences of a fixed length, with the same parameters.

The tokens are embedded with fixed waves for the position and a linear layer for the time; ordinary layers follow, and
the last one sees their result beside the embedding:

.. math::
    h_0 &= E \, \text{features} + \mathrm{position} + T (2 t - 1), \\
    h &\leftarrow h + \mathrm{attention}(\mathrm{norm}(h)), \qquad h \leftarrow h + \mathrm{mlp}(\mathrm{norm}(h)), \\
    \text{raw} &= W [\mathrm{norm}(h_L), h_0]

The names of its tensors are those of the published code, so that weights of that code fit.

Source: Graves et al. 2023 (arXiv 2308.07037), section 6.3 and appendix, and its code,
https://github.com/nnaisense/bayesian-flow-networks; Radford et al. 2019 for the layers, and for weights that start
smaller where a layer adds to h.
"""

from __future__ import annotations

import math

import attrs
import torch
from attrs import field
from torch import Tensor, nn

from bfn_toolkit import ConfigError, NetworkBuilder, NetworkIO, validators
from bfn_transformer.transformer import again, attend, attention_mask, tokens_with_data


def positions(tokens: int, width: int) -> Tensor:
    """Waves (tokens, width): sines in the even columns j and cosines in the odd ones, of place / 1000^(j / width)."""
    j = torch.arange(width)
    angle = torch.arange(tokens)[:, None] / torch.pow(1000.0, j / width)
    return torch.where(j % 2 == 0, angle.sin(), angle.cos())


class GPTBlock(nn.Module):
    """One layer."""

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.count = heads
        self.ln_1, self.ln_2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attn = nn.ModuleDict({"c_attn": nn.Linear(width, 3 * width), "c_proj": nn.Linear(width, width)})
        self.mlp = nn.ModuleDict({"c_fc": nn.Linear(width, 4 * width), "c_proj": nn.Linear(4 * width, width)})
        self.gelu, self.dropout = nn.GELU("tanh"), nn.Dropout(dropout)

    def forward(self, h: Tensor, mask: Tensor | None) -> Tensor:
        """The next h (B, tokens, width)."""
        heard = attend(self.attn["c_attn"](self.ln_1(h)), self.count, mask)
        h = h + self.dropout(self.attn["c_proj"](heard))
        result: Tensor = h + self.dropout(self.mlp["c_proj"](self.gelu(self.mlp["c_fc"](self.ln_2(h)))))
        return result


class GPTModule(nn.Module):
    """The network itself; see :class:`GPT`."""

    def __init__(self, config: GPT, io: NetworkIO) -> None:
        super().__init__()
        self.view, width = io.tokens(), config.width
        if len(self.view.groups) > 1:
            raise ConfigError(f"gpt reads data of one form, found the parts {', '.join(io.parts)}; use transformer")
        (group,) = self.view.groups
        self.input_adapter = nn.ModuleDict(
            {"inp_embedding": nn.Linear(group.in_numbers, width), "t_embedding": nn.Linear(1, width)}
        )
        self.input_adapter.register_buffer("pos_embedding", positions(group.count, width))
        layers = [GPTBlock(width, config.heads, config.dropout) for _ in range(config.depth)]
        self.transformer = nn.ModuleDict({"h": nn.ModuleList(layers), "ln_f": nn.LayerNorm(width)})
        self.lm_head = nn.Linear(2 * width, group.out_numbers)
        self.dropout, self.checkpointing = nn.Dropout(config.dropout), config.gradient_checkpointing
        for name, module in self.named_modules():
            if isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, std=0.02 / math.sqrt(2 * config.depth if "c_proj" in name else 1))
                nn.init.zeros_(module.bias)

    def forward(self, features: Tensor, t: Tensor, /, *, mask: Tensor | None = None, **_: Tensor) -> Tensor:
        """Raw numbers (B, *site, R) from features (B, *site, F), times (B,) or of the features' shape, and a mask."""
        present = None
        if mask is not None:
            present = attention_mask(tokens_with_data(self.view, mask))
            features = torch.where(mask, features, 0.0)
        (tokens,) = self.view.pack(features)
        times = t[:, None, None] if t.ndim == 1 else self.view.pack(t)[0].mean(-1, keepdim=True)
        embed = self.input_adapter
        first = embed["inp_embedding"](tokens) + embed.pos_embedding + embed["t_embedding"](2.0 * times - 1.0)
        h = self.dropout(first)
        for block in self.transformer["h"].children():
            if self.checkpointing and torch.is_grad_enabled():
                h = again(block, self.training and self.dropout.p > 0.0, h, present)
            else:
                h = block(h, present)
        return self.view.unpack([self.lm_head(torch.cat([self.transformer["ln_f"](h), first], -1))])


@attrs.frozen
class GPT(NetworkBuilder):
    """The network of the paper for text8, with 170,175,003 parameters for 256 characters of 27 kinds.

    Arguments:
        width: Numbers of a token in the hidden layers.
        depth: Number of layers.
        heads: Number of heads of the attention.
        dropout: Probability of dropping a number that a layer adds, in training.
        gradient_checkpointing: Whether training computes the layers twice, which saves memory.
    """

    site_times = True

    width: int = field(default=768, validator=validators.integer(ge=2))
    depth: int = field(default=24, validator=validators.integer(ge=1))
    heads: int = field(default=12, validator=validators.integer(ge=1))
    dropout: float = field(default=0.0, validator=validators.number(ge=0, lt=1))
    gradient_checkpointing: bool = False

    @heads.validator
    def _check_heads(self, attribute: attrs.Attribute[int], heads: int) -> None:
        if self.width % heads:
            raise ValueError(f"{attribute.name}: the width {self.width} must be a multiple of heads = {heads}")

    @property
    def conditions(self) -> tuple[str, ...]:
        """Returns no names."""
        return ()

    def build(self, io: NetworkIO) -> nn.Module:
        """Builds the network with fresh weights."""
        return GPTModule(self, io)
