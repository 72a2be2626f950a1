r"""Low-rank adapters (plugin): a network whose weights stay frozen, while small additions to them are trained.

.. math:: W' = W + \frac{\alpha}{r} B A

A has r rows and B has r columns.  B starts at zero, so that a fresh network with adapters computes the same as without.
The layers are those of the library peft, which is imported when the first of these networks is built.

Source: Hu et al. 2021 (arXiv 2106.09685).
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any

import attrs
from attrs import field
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from bfn_mlp import MLP
from bfn_toolkit import ConfigError, Entry, NetworkBuilder, NetworkIO, ResourceError, hookimpl, validators

LAYERS = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)
ADAPTER = "default"  # name of the adapter among several that a layer of peft may have


def _names(value: str | Iterable[str]) -> tuple[str, ...]:
    return (value,) if isinstance(value, str) else tuple(value)


def _plain(lora: LoRA, attribute: attrs.Attribute[Any], network: Any) -> None:
    if getattr(network, "kind", None) != "network" or isinstance(network, type):
        raise validators.invalid(lora, attribute, f"expected a network, got {network!r:.60}")
    if network.base is not network:
        raise validators.invalid(lora, attribute, "expected a network without adapters of its own")


@attrs.frozen
class LoRA(NetworkBuilder):
    """Network of another builder, with low-rank adapters at its linear layers and convolutions; only these are trained.

    It needs the weights of a trained model: ``--init MODEL``, or ``Training(init=...)``.  A layer is left as it is
    if its weight is shared with another, is computed from others, or belongs to ``nn.MultiheadAttention``, and so is a
    convolution in groups.

    Arguments:
        network: Builder of the network.
        rank: Rank r of the adapters.
        alpha: Scale of the adapters, whose product is multiplied by alpha / rank.
        targets: Patterns for names of the layers to adapt, such as "blocks.*"; () for all.
        trained: Patterns for names of layers, or of single weights, that are trained themselves, such as a new head.
        dropout: Probability of dropping an input of an adapter in training.
    """

    network: NetworkBuilder = field(validator=_plain)
    rank: int = field(default=8, validator=validators.integer(ge=1))
    alpha: float = field(default=16.0, validator=validators.number(gt=0))
    targets: tuple[str, ...] = field(default=(), converter=_names)
    trained: tuple[str, ...] = field(default=(), converter=_names)
    dropout: float = field(default=0.0, validator=validators.number(ge=0, lt=1))

    @property
    def base(self) -> NetworkBuilder:
        """Builder of the network without adapters."""
        return self.network

    @property
    def time_free(self) -> bool:  # type: ignore[override]
        """Whether the network does not read the times."""
        return self.network.time_free

    @property
    def site_times(self) -> bool:  # type: ignore[override]
        """Whether the network reads times that differ by site or part."""
        return self.network.site_times

    @property
    def self_conditioning(self) -> bool:  # type: ignore[override]
        """Whether the network reads its last estimate."""
        return self.network.self_conditioning

    @property
    def condition_shapes(self) -> Mapping[str, tuple[int, ...]]:  # type: ignore[override]
        """Shapes of the conditions that the network reads."""
        return self.network.condition_shapes

    @property
    def permutes_sets(self) -> bool:  # type: ignore[override]
        """Whether a permutation of the points of a set permutes the result."""
        return self.network.permutes_sets

    @property
    def conditions(self) -> Collection[str] | None:
        """Names of the conditions that the network reads."""
        return self.network.conditions

    def check_condition(self, name: str, value: Tensor) -> None:
        """Checks the values of a condition, as the network does.

        Raises:
            ConfigError: If the network cannot read one of the values.
        """
        self.network.check_condition(name, value)

    def base_names(self, network: nn.Module) -> Mapping[str, str]:
        """Names of the tensors that are not of adapters, by their names in the network without adapters."""
        names = {}
        adapted = tuple(f"{name}." for name, _ in _adapted(network))
        for name in network.state_dict():
            place = next((prefix for prefix in adapted if name.startswith(prefix)), None)
            if place is None:
                names[name] = name
            elif name.startswith(f"{place}base_layer."):
                names[place + name.removeprefix(f"{place}base_layer.")] = name
        return names

    def base_state(self, network: nn.Module) -> Mapping[str, Tensor]:
        """Weights and buffers of the network without adapters, to whose weights these are added."""
        state = network.state_dict()
        found = {name: state[place] for name, place in self.base_names(network).items()}
        for name, layer in _adapted(network):
            weight = f"{name}.weight"
            found[weight] = found[weight] + layer.get_delta_weight(ADAPTER).to(found[weight].dtype)
        return found

    def build(self, io: NetworkIO) -> nn.Module:
        """Builds the network and its adapters with fresh weights.

        Raises:
            ConfigError: If the network has no layer to adapt, or none of a name that is asked for.
            ResourceError: If peft is not installed.
        """
        network = self.network.build(io)
        weights = [name for name, _ in network.named_parameters()]
        trained = {name for name in weights if self._is_trained(name)}
        layers = [name for name in _layers(network) if not self._is_trained(f"{name}.weight")]
        chosen = [name for name in layers if not self.targets or _match(name, self.targets)]
        self._check_patterns("trained", self.trained, weights)
        self._check_patterns("targets", self.targets, layers)
        if not chosen:
            raise ConfigError(
                f"the {type(self.network).__name__} has no layer to adapt: no nn.Linear, and no convolution, with a "
                "weight of its own; choose another network, or train this one itself"
            )
        try:
            from peft import LoraConfig, inject_adapter_in_model
        except ImportError as error:
            raise ResourceError("peft is not installed; write: pip install peft") from error
        config = LoraConfig(
            r=self.rank,
            lora_alpha=self.alpha,  # type: ignore[arg-type]  # peft divides it
            lora_dropout=self.dropout,
            target_modules="|".join(map(re.escape, chosen)),  # a list would also match other names with these endings
        )
        adapted: nn.Module = inject_adapter_in_model(config, network)
        for name, weight in adapted.named_parameters():
            if name in trained:
                weight.requires_grad_(True)
        return adapted

    def _is_trained(self, weight: str) -> bool:
        return any(_match(weight, (pattern, f"{pattern}.*")) for pattern in self.trained)

    def _check_patterns(self, option: str, patterns: Sequence[str], names: Sequence[str]) -> None:
        for pattern in patterns:
            if not any(_match(name, (pattern, f"{pattern}.*")) for name in names):
                raise ConfigError(f"{option}: no name matches '{pattern}'; the names are {', '.join(names)}")


def _match(name: str, patterns: Iterable[str]) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in patterns)


def _layers(network: nn.Module) -> Iterator[str]:
    """Names of the layers whose weight can be adapted."""
    uses = Counter(id(weight) for _, weight in network.named_parameters(remove_duplicate=False))
    attention = [f"{name}." for name, module in network.named_modules() if isinstance(module, nn.MultiheadAttention)]
    for name, layer in network.named_modules():
        weight = layer._parameters.get("weight")
        if (
            isinstance(layer, LAYERS)
            and weight is not None
            and not is_lazy(weight)
            and weight.is_floating_point()
            and uses[id(weight)] == 1
            and getattr(layer, "groups", 1) == 1
            and not name.startswith(tuple(attention))
        ):
            yield name


def _adapted(network: nn.Module) -> Iterator[tuple[str, Any]]:
    """Names and layers of peft in a network."""
    for name, layer in network.named_modules():
        if isinstance(getattr(layer, "base_layer", None), nn.Module) and hasattr(layer, "get_delta_weight"):
            yield name, layer


@hookimpl
def bfn_networks() -> Sequence[Entry]:
    """The network."""
    return [Entry("lora", LoRA, (LoRA(MLP(width=8, depth=1, labels=3), rank=2, trained=("last",)),))]
