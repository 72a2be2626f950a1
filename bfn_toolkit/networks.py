"""Networks: from features of the beliefs to raw numbers of the output distribution.

A network sees features of shape (B, *site, F) and the times (B,), and returns raw numbers of shape (B, *site, R).
Times that differ by site or part have the shape of the features, and so has a mask of the sites with data.

The family fixes site, F and R (:class:`~bfn_toolkit.NetworkIO`); a :class:`NetworkBuilder` is a configuration that
builds a network for those sizes.
"""

from __future__ import annotations

import abc
import inspect
from collections.abc import Collection, Mapping
from types import MappingProxyType
from typing import ClassVar, Protocol, runtime_checkable

import attrs
import torch
from torch import Tensor, nn

from bfn_toolkit.errors import ConfigError, did_you_mean
from bfn_toolkit.network_io import NetworkIO
from bfn_toolkit.validators import whole_number


@runtime_checkable
class Network(Protocol):
    """A module that a :class:`~bfn_toolkit.BFN` calls: any ``nn.Module`` with this forward."""

    def __call__(self, features: Tensor, t: Tensor, /, **condition: Tensor) -> Tensor:
        """Returns raw numbers (B, *site, R) from features (B, *site, F) and times (B,).

        A network whose ``forward`` has a parameter ``mask=None`` gets booleans of the shape of the features, true where
        there is data, if anything is missing.
        """


class NetworkBuilder(abc.ABC):
    """Configuration of a network: a frozen attrs class whose fields are its hyperparameters.

    A network states what else it reads by these attributes, which a class may also have as fields or properties:

    * ``time_free``: it does not read the times;
    * ``site_times``: it reads times that differ by site or part, in the shape of the features;
    * ``self_conditioning``: its features hold the last estimate too;
    * ``condition_shapes``: the shape of one value of each condition that is not a single number;
    * ``permutes_sets``: a permutation of the points of a set permutes its result.
    """

    kind: ClassVar[str] = "network"
    time_free: bool = False
    site_times: bool = False
    self_conditioning: bool = False
    condition_shapes: Mapping[str, tuple[int, ...]] = MappingProxyType({})
    permutes_sets: bool = False

    @property
    def conditions(self) -> Collection[str] | None:
        """Names of the conditions that the network reads; it ignores all others.  None if it does not say.

        A field of this name works as well as a property.
        """
        return None

    def check_condition(self, name: str, value: Tensor) -> None:  # noqa: B027 - a default
        """Checks the values of a condition, such as labels; by default nothing.

        Arguments:
            name: Name of the condition, one that the network reads.
            value: Its values, with shape (B, ...).
        Raises:
            ConfigError: If the network cannot read one of the values.
        """

    def foreign_names(self) -> Mapping[str, str | None]:
        """Names under which another program saves these weights: a published network's, by default none.

        Returns:
            For each of its tensors, the name of the same tensor here, or None for a constant that is not needed.  The
            shapes may differ by axes of size 1, as those of a convolution of one pixel and of a linear layer do.
        """
        return {}

    @property
    def base(self) -> NetworkBuilder:
        """Builder of the network that this one adapts, such as by low-rank adapters; by default itself."""
        return self

    def base_names(self, network: nn.Module) -> Mapping[str, str]:
        """Names in a network of this builder of the tensors of :attr:`base`, by their names there.

        Adapters are not among them.  By default all names are the same.
        """
        return {name: name for name in network.state_dict()}

    def base_state(self, network: nn.Module) -> Mapping[str, Tensor]:
        """Weights and buffers with which a network of :attr:`base` computes the same; by default those of the network.

        Arguments:
            network: A network of this builder, whose adapters are added to the weights.
        """
        state: Mapping[str, Tensor] = network.state_dict()
        return state

    @abc.abstractmethod
    def build(self, io: NetworkIO) -> nn.Module:
        """Builds a network that fits ``io``, with fresh weights from torch's generator."""


class LabelEmbedding(nn.Embedding):
    """Vector of each label 0..labels - 1, and one for no label: of negative labels, and of some in training.

    Arguments:
        labels: Number of labels.
        width: Size of a vector.
        dropout: Probability of dropping a label in training, so that the network also learns without labels.

    Source: Ho and Salimans 2022 (arXiv 2207.12598) for dropping labels.
    """

    def __init__(self, labels: int, width: int, dropout: float = 0.1) -> None:
        super().__init__(whole_number("labels", labels) + 1, whole_number("width", width))
        self.labels, self.dropout = labels, dropout

    def forward(self, label: Tensor | None) -> Tensor:
        """Vectors (B, width) of labels (B,); without labels one vector (width,)."""
        if label is None:
            return self.weight[-1]
        none = label < 0
        if self.training and self.dropout:
            none = none | (torch.rand(label.shape, device=label.device) < self.dropout)
        return super().forward(torch.where(none, self.labels, label))


def check_labels(name: str, value: Tensor, labels: int) -> None:
    """Checks labels at a public entry: integers (B,) below ``labels``, negative for no label.

    Raises:
        ConfigError: If they are something else.
    """
    if value.is_floating_point() or value.is_complex() or value.ndim != 1:
        raise ConfigError(f"{name} must be integers of shape (B,), found {value.dtype} of shape {tuple(value.shape)}")
    if len(value) and (highest := int(value.max())) >= labels:
        raise ConfigError(f"{name} {highest} is beyond the labels 0 to {labels - 1} of the network")


@attrs.frozen
class ConditionSignature:
    """The conditions that a network reads, from its builder or from its ``forward``.

    Arguments:
        network: Name of the network, for messages.
        names: Conditions that it reads; None if it does not say.
        required: Conditions that it needs.
        reserved: Names that a condition cannot have, because the features, the times or the mask have them.
        reads_mask: Whether it reads a mask: ``forward`` has a parameter of this name.
        shapes: Shapes of one value, of the conditions whose builder states them.
    """

    network: str
    names: Collection[str] | None
    required: Collection[str]
    reserved: Collection[str]
    reads_mask: bool
    shapes: Mapping[str, tuple[int, ...]]

    @classmethod
    def of(cls, network: nn.Module, builder: NetworkBuilder | None) -> ConditionSignature:
        """Reads the signature of ``forward(features, t, /, *, mask=None, **condition)``."""
        parameters = list(inspect.signature(network.forward).parameters.values())
        own, rest = parameters[:2], parameters[2:]
        takes_all = any(p.kind is p.VAR_KEYWORD for p in parameters)
        named = [p for p in rest if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
        reads_mask = any(p.name == "mask" for p in named)
        named = [p for p in named if p.name != "mask"]
        declared = None if builder is None else builder.conditions
        return cls(
            type(network).__name__ if builder is None else type(builder).__name__,
            (None if takes_all else [p.name for p in named]) if declared is None else declared,
            [p.name for p in named if p.default is p.empty],
            ["self", *(["mask"] if reads_mask else []), *(p.name for p in own if p.kind is p.POSITIONAL_OR_KEYWORD)],
            reads_mask,
            {} if builder is None else dict(builder.condition_shapes),  # the default cannot be pickled
        )

    def reads(self, name: str) -> bool:
        """Whether the network reads a condition; True if it does not say."""
        return self.names is None or name in self.names

    def check(self, condition: Mapping[str, Tensor] | None, rows: int) -> None:
        """Checks names and shapes, not values.

        Raises:
            ConfigError: If a condition is unknown or missing, does not have a row for each example, or has rows of
                another shape.
        """
        if condition is not None and not isinstance(condition, Mapping):
            raise ConfigError(
                f"condition must map names to tensors, found a {type(condition).__name__}; "
                "write condition={'label': labels}"
            )
        for name, value in (condition or {}).items():
            if not isinstance(value, Tensor):
                raise ConfigError(f"condition '{name}' must be a tensor of {rows} rows, found a {type(value).__name__}")
            if value.ndim == 0 or value.shape[0] != rows:
                found = "a scalar" if value.ndim == 0 else f"{len(value)} rows"
                raise ConfigError(
                    f"condition '{name}' must have a row for each of the {rows} examples, found {found}; "
                    f"for one value write torch.full(({rows},), value)"
                )
            if not self.reads(name):
                known = ", ".join(self.names or ()) or "none"
                raise ConfigError(
                    f"the network {self.network} does not read a condition '{name}'; it reads {known}."
                    f"{did_you_mean(name, self.names or ())}"
                )
            if name in self.reserved:
                raise ConfigError(
                    f"the network {self.network} cannot read a condition '{name}', which is the name of another "
                    "argument of its forward; write def forward(self, features, t, /, ...)"
                )
            shape = self.shapes.get(name)
            if shape is not None and value.shape[1:] != shape:
                expected = f"(B, {', '.join(map(str, shape))})" if shape else "(B,)"
                raise ConfigError(
                    f"condition '{name}' must have the shape {expected}, as in condition_shapes of "
                    f"{self.network}, found {tuple(value.shape)}"
                )
        missing = [name for name in self.required if name not in (condition or {})]
        if missing:
            raise ConfigError(
                f"the network {self.network} needs the condition {', '.join(missing)}; "
                f"write condition={{{missing[0]!r}: values}}"
            )
