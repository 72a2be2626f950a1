r"""Residual multilayer perceptron (plugin): a network for vectors, with time and label.

.. math::
    h_0 &= W [\text{features}, \sin \omega t, \cos \omega t] + E_{\text{label}}, \\
    h_l &= h_{l-1} + B_l \, \mathrm{silu}(A_l \, \mathrm{norm}(h_{l-1})), \qquad \text{raw} = U h_L

With ``linear``, :math:`V [\text{features}]` is added to the raw numbers, an additive model beneath the network.  U and
V start at zero, so a fresh network returns zeros; under a head with a skip path that is the best linear estimate.

Source: He et al. 2015 (arXiv 1512.03385) for the residual blocks, with the norm first as in Xiong et al. 2020
(arXiv 2002.04745); Vaswani et al. 2017 (arXiv 1706.03762) for the waves.
"""

from __future__ import annotations

from collections.abc import Sequence

import attrs
import torch
from attrs import field
from torch import Tensor, nn

from bfn_toolkit import Entry, LabelEmbedding, NetworkBuilder, NetworkIO, check_labels, hookimpl, validators

WAVES = 16  # sines, and as many cosines, with frequencies from 1 to 10; higher ones fit noise


class MLPModule(nn.Module):
    """The network itself; see :class:`MLP`."""

    frequencies: Tensor
    sources: Tensor
    targets: Tensor

    def __init__(self, config: MLP, io: NetworkIO) -> None:
        super().__init__()
        self.view, width = io.flat(), config.width
        waves = torch.logspace(0.0, 1.0, WAVES)[: 0 if config.time_free else WAVES]
        self.register_buffer("frequencies", waves, persistent=False)
        self.site_times = config.site_times
        self.first = nn.Linear((2 if config.site_times else 1) * self.view.in_numbers + 2 * len(waves), width)
        self.label = LabelEmbedding(config.labels, width, config.label_dropout) if config.labels else None
        dropout = [nn.Dropout(config.dropout)] if config.dropout else []
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.LayerNorm(width), nn.Linear(width, width), nn.SiLU(), *dropout, nn.Linear(width, width))
            for _ in range(config.depth)
        )
        self.last = nn.Linear(width, self.view.out_numbers)
        nn.init.zeros_(self.last.weight)
        nn.init.zeros_(self.last.bias)
        self.linear: nn.Linear | None = None
        if config.linear:
            self.register_buffer("sources", self.view.coarse("in_features"), persistent=False)
            self.register_buffer("targets", self.view.coarse("out_features"), persistent=False)
            self.linear = nn.Linear(len(self.sources), len(self.targets), bias=False)
            nn.init.zeros_(self.linear.weight)

    def forward(self, features: Tensor, t: Tensor, /, label: Tensor | None = None, **_: Tensor) -> Tensor:
        """Raw numbers (B, *site, R) from features (B, *site, F), times (B,) and labels (B,).

        With ``site_times``, the times may have the shape of the features; the waves are those of their mean.
        """
        numbers = [self.view.pack(features)]
        if self.site_times:
            times = t.unsqueeze(1).expand_as(numbers[0]) if t.ndim == 1 else self.view.pack(t)
            numbers.append(times)
            t = t if t.ndim == 1 else times.mean(1)
        angle = t.unsqueeze(-1) * self.frequencies
        h: Tensor = self.first(torch.cat([*numbers, angle.sin(), angle.cos()], -1))
        if self.label is not None:
            h = h + self.label(label)
        for block in self.blocks:
            h = h + block(h)
        raw = self.last(h)
        if self.linear is not None:
            raw = raw.index_add(1, self.targets, self.linear(numbers[0][:, self.sources]))
        return self.view.unpack(raw)


@attrs.frozen
class MLP(NetworkBuilder):
    """Residual multilayer perceptron for data of any site shape, which it flattens.

    The condition "label" is used if ``labels`` is above 0; a negative or missing one means no label.  All other
    conditions are ignored, so that the same network runs on data with and without them.

    Arguments:
        width: Width of the hidden layers.
        depth: Number of residual blocks, with two layers each.
        labels: Number of labels; 0 to ignore them (in a configuration, the default is the data set's number).
        dropout: Dropout probability of the hidden numbers of a block in training.
        label_dropout: Probability of dropping a label in training, so that the network also learns without labels.
        linear: Whether a linear map of the features is added to the raw numbers: of the coarse ones, where a part has
            them (:class:`~bfn_toolkit.PartIO`).
        time_free: Whether the network does not read the times.
        site_times: Whether the times may differ by site or part; then the first layer also sees the time of each
            feature.
        self_conditioning: Whether the network also sees its last estimate of the data.
    """

    width: int = field(default=256, validator=validators.integer(ge=2))
    depth: int = field(default=3, validator=validators.integer(ge=1))
    labels: int = field(default=0, validator=validators.integer(ge=0))
    dropout: float = field(default=0.0, validator=validators.number(ge=0, lt=1))
    label_dropout: float = field(default=0.1, validator=validators.number(ge=0, lt=1))
    linear: bool = False
    time_free: bool = False
    site_times: bool = field(default=False)
    self_conditioning: bool = False

    @site_times.validator
    def _check_site_times(self, _: object, site_times: bool) -> None:
        if site_times and self.time_free:
            raise ValueError("site_times must be false for a network that does not read the times: time_free = true")

    @property
    def conditions(self) -> tuple[str, ...]:
        """Returns "label" if there are labels."""
        return ("label",) if self.labels else ()

    def check_condition(self, name: str, value: Tensor) -> None:
        """Checks that labels are integers below ``labels``; a negative one means no label.

        Raises:
            ConfigError: If they are not.
        """
        check_labels(name, value, self.labels)

    def build(self, io: NetworkIO) -> nn.Module:
        """Builds the network with fresh weights."""
        return MLPModule(self, io)


@hookimpl
def bfn_networks() -> Sequence[Entry]:
    """The network."""
    timed = MLP(width=8, depth=1, labels=3, dropout=0.1, site_times=True)
    return [Entry("mlp", MLP, (MLP(width=16, linear=True, time_free=True), timed))]
