"""Full states of sharded weights (FSDP2), on the CPU.  All processes call these functions together."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_model_state_dict,
    get_optimizer_state_dict,
    set_model_state_dict,
    set_optimizer_state_dict,
)

_WHOLE = StateDictOptions(full_state_dict=True, cpu_offload=True)


def full_tensor(value: Tensor) -> Tensor:
    """Full value of a sharded tensor; any other tensor as it is."""
    whole: Tensor = value.full_tensor() if hasattr(value, "full_tensor") else value
    return whole


def full_weights(network: nn.Module) -> dict[str, Tensor]:
    """Weights and buffers by name; empty except on the first process."""
    state: dict[str, Any] = get_model_state_dict(network, options=_WHOLE)
    return state


def full_optimizer(network: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """State of the optimiser by names of weights; empty except on the first process."""
    state: dict[str, Any] = get_optimizer_state_dict(network, optimizer, options=_WHOLE)
    return state


def load_full(
    network: nn.Module, optimizer: torch.optim.Optimizer, weights: Mapping[str, Tensor], state: Mapping[str, Any]
) -> None:
    """Gives each process its shard of both."""
    set_model_state_dict(network, dict(weights), options=_WHOLE)
    set_optimizer_state_dict(network, optimizer, dict(state), options=_WHOLE)
