"""Networks: from what the beliefs look like to what the output distribution needs.

A network sees features of shape (B, *site, F) and the times (B,), and returns raw numbers of shape (B, *site, R).  The
family says how large site, F and R are (:class:`NetworkIO`); a :class:`NetworkBuilder` is the configuration from which
a network for those sizes is made.
"""

from __future__ import annotations

import abc
from collections.abc import Collection
from typing import ClassVar, Protocol, runtime_checkable

import attrs
from attrs import field, validators
from torch import Tensor, nn

from bfn_toolkit.shapes import as_shape


@attrs.frozen
class NetworkIO:
    """Sizes that a network has to fit.

    Arguments:
        site_shape: The data's own shape, ``site``.
        in_features: Numbers F that the network sees at each site.
        out_features: Numbers R that it returns for each site.
    """

    site_shape: tuple[int, ...] = field(converter=as_shape)
    in_features: int = field(default=1, validator=validators.ge(1))
    out_features: int = field(default=1, validator=validators.ge(1))


@runtime_checkable
class Network(Protocol):
    """A module that a :class:`~bfn_toolkit.BFN` calls: any ``nn.Module`` with this forward."""

    def __call__(self, features: Tensor, t: Tensor, **condition: Tensor) -> Tensor:
        """Returns raw numbers (B, *site, R) from features (B, *site, F) and times (B,)."""


class NetworkBuilder(abc.ABC):
    """Configuration of a network: a frozen attrs class whose fields are its hyperparameters."""

    kind: ClassVar[str] = "network"

    @property
    def conditions(self) -> Collection[str] | None:
        """Names of the conditions that the network reads, all others being nothing to it; None where it does not say.

        A field of this name is as good as a property.
        """
        return None

    @abc.abstractmethod
    def build(self, io: NetworkIO) -> nn.Module:
        """Makes a network with fresh weights, drawn from torch's generator, that fits ``io``."""
