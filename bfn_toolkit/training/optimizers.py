"""Optimisers and learning-rate schedules of torch by their names, and the moving average of the weights."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn
from torch.optim import lr_scheduler
from torch.optim.swa_utils import AveragedModel

from bfn_toolkit.config.experiment import Training
from bfn_toolkit.errors import ConfigError, did_you_mean

Scheduler = lr_scheduler.LRScheduler

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
    takes = [name for name in inspect.signature(cls).parameters if name not in ("self", "params", "optimizer", "lr")]
    names = ", ".join(options) or "no options"
    return ConfigError(
        f"training.{field}: {cls.__name__} does not work with {names}: {error}. It takes: {', '.join(takes)}. "
        f"Write training.{field}_options = {{...}}"
    )


def make_optimizer(training: Training, parameters: Sequence[nn.Parameter]) -> torch.optim.Optimizer:
    """Makes the torch optimiser of that name, fused where possible.

    Raises:
        ConfigError: If torch has none of that name, or it does not take these options.
    """
    cls = _look_up("optimizer", training.optimizer, _classes(torch.optim, torch.optim.Optimizer, _NO_OPTIMIZERS))
    if not parameters:
        raise ConfigError("the network has no parameters to train")
    options = training.optimizer_options
    for fused in ({"fused": True}, {}):  # some optimisers, devices and dtypes have no fused form
        if fused and ("fused" in options or "fused" not in inspect.signature(cls).parameters):
            continue
        try:
            optimizer: torch.optim.Optimizer = cls(parameters, lr=training.lr, **fused, **options)
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
    if not training.warmup:
        return schedule
    ramp = lr_scheduler.LinearLR(optimizer, 1.0 / training.warmup, total_iters=training.warmup - 1)
    return ramp if schedule is None else lr_scheduler.ChainedScheduler([schedule, ramp], optimizer)


def make_average(network: nn.Module, decay: float) -> AveragedModel:
    """Exponential moving average of weights and buffers, whose decay warms up as (1 + n) / (10 + n)."""

    def average(averaged: Any, current: Any, n: Any) -> None:
        weight = 1.0 - min(decay, (1.0 + int(n)) / (10.0 + int(n)))
        floating = [(a, c) for a, c in zip(averaged, current, strict=True) if a.is_floating_point()]
        if floating:
            torch._foreach_lerp_([a for a, _ in floating], [c for _, c in floating], weight)
        for a, c in zip(averaged, current, strict=True):
            if not a.is_floating_point():
                a.copy_(c)

    ema = AveragedModel(network, multi_avg_fn=average, use_buffers=True)
    ema.n_averaged = ema.n_averaged.cpu()  # it is compared with 0 at each update, which must not wait for a device
    return ema
