"""Optimisers and learning-rate schedules of torch by their names, and the moving average of the weights."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from copy import deepcopy
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import lr_scheduler

from bfn_toolkit.config.experiment import Training
from bfn_toolkit.errors import ConfigError, did_you_mean
from bfn_toolkit.training.muon import Muon

Scheduler = lr_scheduler.LRScheduler

_GIVEN = ("self", "params", "network", "optimizer", "lr")  # arguments that are no options

# One needs a closure, one sparse gradients; the others are base classes, need a validation loss, or combine others.
_NO_OPTIMIZERS = ("optimizer", "lbfgs", "sparseadam")
_NO_SCHEDULERS = (
    "lrscheduler",
    "reducelronplateau",
    "sequentiallr",
    "chainedscheduler",
    "lambdalr",
    "multiplicativelr",
)


def _classes(module: Any, base: type, without: Sequence[str]) -> dict[str, Any]:
    found = {name.lower(): cls for name, cls in vars(module).items() if isinstance(cls, type) and issubclass(cls, base)}
    return {name: cls for name, cls in found.items() if name not in without and name[0] != "_"}


def _look_up(field: str, name: str, known: Mapping[str, Any], ours: Sequence[str] = ()) -> Any:
    cls = known.get(name.lower())
    if cls is None:
        names = sorted([*ours, *known])
        hint = did_you_mean(name.lower(), names)
        raise ConfigError(f"training.{field}: torch has no '{name}'.{hint} Known: {', '.join(names)}")
    return cls


def _refused(field: str, cls: type, options: Mapping[str, Any], error: Exception) -> ConfigError:
    takes = [name for name in inspect.signature(cls).parameters if name not in _GIVEN]
    names = ", ".join(options) or "no options"
    return ConfigError(
        f"training.{field}: {cls.__name__} does not work with {names}: {error}. It takes: {', '.join(takes)}. "
        f"Write training.{field}_options = {{...}}"
    )


def make_optimizer(training: Training, network: nn.Module) -> torch.optim.Optimizer:
    """Makes the torch optimiser of that name for a network, fused where possible.

    "muon" is :class:`~bfn_toolkit.training.muon.Muon`, since that of torch takes nothing but matrices.

    Raises:
        ConfigError: If torch has none of that name, it does not take these options, or the network has no parameters.
    """
    known = {**_classes(torch.optim, torch.optim.Optimizer, _NO_OPTIMIZERS), "muon": Muon}
    cls = _look_up("optimizer", training.optimizer, known)
    parameters = [parameter for parameter in network.parameters() if parameter.requires_grad]
    if not parameters:
        raise ConfigError("the network has no parameters to train")
    if cls is Muon and training.parallel == "fsdp":
        raise ConfigError(
            "training.optimizer: muon needs whole matrices, of which fsdp gives each process a slice; "
            'write "adamw", or parallel = "ddp"'
        )
    options, trained = training.optimizer_options, network if cls is Muon else parameters
    real = all(parameter.is_floating_point() for parameter in parameters)
    # Some optimisers, devices and dtypes have no fused form; that it is refused shows in a step for complex weights.
    for fused in ({"fused": True}, {}) if real else ({},):
        if fused and ("fused" in options or "fused" not in inspect.signature(cls).parameters):
            continue
        try:
            optimizer: torch.optim.Optimizer = cls(trained, lr=training.lr, **fused, **options)
            return optimizer
        except (ValueError, TypeError) as error:
            raise _refused("optimizer", cls, options, error) from error
        except RuntimeError:
            if not fused:
                raise
    raise AssertionError("unreachable: the loop returns or raises")


def make_scheduler(training: Training, optimizer: torch.optim.Optimizer) -> Scheduler | None:
    """Makes the learning-rate schedule of that name, stepped once per optimiser step; None for a constant rate.

    "cosine" ends at zero; a class of ``torch.optim.lr_scheduler`` whose length is not among its options runs over all
    steps.  A warm-up multiplies it by a ramp from 1 / warmup to 1.

    Raises:
        ConfigError: If torch has none of that name, or it does not take these options.
    """
    schedule = None
    if training.scheduler != "constant":
        name = {"cosine": "CosineAnnealingLR"}.get(training.scheduler, training.scheduler)
        cls = _look_up("scheduler", name, _classes(lr_scheduler, Scheduler, _NO_SCHEDULERS), ("cosine", "constant"))
        known = inspect.signature(cls).parameters
        defaults: dict[str, Any] = {"T_max": training.steps, "total_steps": training.steps, "max_lr": training.lr}
        options = {key: value for key, value in defaults.items() if key in known} | dict(training.scheduler_options)
        try:
            schedule = cls(optimizer, **options)
        except (ValueError, TypeError) as error:
            raise _refused("scheduler", cls, training.scheduler_options, error) from error
    warmup = training.warmup_steps
    if warmup < 2:
        return schedule
    ramp = lr_scheduler.LinearLR(optimizer, 1.0 / warmup, total_iters=warmup - 1)
    return ramp if schedule is None else lr_scheduler.ChainedScheduler([schedule, ramp], optimizer)


class MovingAverage:
    """Exponential moving average of a network's weights and buffers, whose decay warms up as (1 + n) / (10 + n).

    The modules are walked once, not at every update.  A module may replace a buffer by another tensor later on.

    Arguments:
        network: The network; :attr:`module` is a copy of it, with the averages.
        decay: Decay of the average.
    """

    def __init__(self, network: nn.Module, decay: float) -> None:
        self.module, self.decay, self.updates = _copy(network), decay, 0
        pairs = zip(self.module.parameters(), network.parameters(), strict=True)
        real = [(average, current) for average, current in pairs if _has_mean(average)]
        self._averages: list[Tensor] = [average for average, _ in real]
        self._weights: list[Tensor] = [current for _, current in real]
        kept = {id(average) for average in self._averages}
        named = [*self.module.named_parameters(), *self.module.named_buffers()]
        self._others = [(tensor, *_place(network, name)) for name, tensor in named if id(tensor) not in kept]

    @torch.no_grad()
    def update(self) -> None:
        """Moves the averages towards the network; the first time they become its weights."""
        weight = 1.0 - min(self.decay, (1.0 + self.updates) / (10.0 + self.updates)) if self.updates else 1.0
        torch._foreach_lerp_(self._averages, self._weights, weight)
        for average, table, name in self._others:
            if _has_mean(average):
                average.lerp_(table[name], weight)
            else:
                average.copy_(table[name])
        self.updates += 1


def _has_mean(value: Tensor) -> bool:
    """Whether torch computes with numbers of this dtype; others, such as float8, are copied."""
    return value.is_floating_point() and value.itemsize > 1


def _copy(network: nn.Module) -> nn.Module:
    """A copy of a network.

    Raises:
        ConfigError: If it cannot be copied.
    """
    # torch copies leaves alone; torch.nn.utils.weight_norm keeps a tensor that is computed from them.
    computed = (v for module in network.modules() for v in vars(module).values() if isinstance(v, Tensor))
    try:
        return deepcopy(network, {id(value): value.detach().clone() for value in computed if not value.is_leaf})
    except Exception as error:
        raise ConfigError(
            f"training.ema_decay: the network cannot be copied for its moving average ({type(error).__name__}: "
            f"{error}); write 0, or make copy.deepcopy(network) work"
        ) from error


def _place(network: nn.Module, name: str) -> tuple[dict[str, Any], str]:
    """Table of a module that holds a parameter or a buffer, and its key there."""
    owner, _, key = name.rpartition(".")
    module = network.get_submodule(owner)
    return module._parameters if key in module._parameters else module._buffers, key


def clip_gradients(parameters: Sequence[nn.Parameter], most: float) -> Tensor:
    """Scales the gradients so that their norm is at most ``most``, and returns the norm that they had.

    The same numbers as ``torch.nn.utils.clip_grad_norm_``, which takes longer than a small network's optimiser.
    """
    gradients = [p.grad for p in parameters if p.grad is not None]
    norm: Tensor = torch.linalg.vector_norm(torch.stack(torch._foreach_norm(gradients)))
    torch._foreach_mul_(gradients, (most / (norm + 1e-6)).clamp_max_(1.0))
    return norm
