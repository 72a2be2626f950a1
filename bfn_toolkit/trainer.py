"""Training: from an experiment to a trained model, in memory or in a run directory.

Each step draws from a scope of its own, keyed by the seed and the step, and each epoch's order is a function of the
seed and the epoch.  Losses stay on the device and are read in groups, so that no step waits for the device.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import nullcontext
from itertools import count
from pathlib import Path
from typing import Any

import attrs
import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from bfn_toolkit.checkpoint import save_model
from bfn_toolkit.datasets import Batch, minibatches
from bfn_toolkit.errors import ConfigError, NonFiniteError, ResourceError, did_you_mean
from bfn_toolkit.experiment import Experiment, Training
from bfn_toolkit.losses import Loss
from bfn_toolkit.model import BFN
from bfn_toolkit.randomness import seeded
from bfn_toolkit.runs import Run, append_metrics, describe, start_run
from bfn_toolkit.shapes import device_of

READ_EVERY = 20  # steps between two looks at the losses

Metrics = Mapping[str, float]
OnMetrics = Callable[[list[Metrics]], None]


def resolve_device(name: str) -> torch.device:
    """The device of a name; "auto" is the first CUDA device, or else the CPU.

    Raises:
        ResourceError: If there is no such device.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    device = torch.device(name)
    found = ["cpu", *(f"cuda:{i}" for i in range(torch.cuda.device_count()))]
    found += ["mps"] * torch.backends.mps.is_available()
    if device.type not in {f.split(":")[0] for f in found} or (device.index is not None and name not in found):
        raise ResourceError(f"there is no device '{name}'; found: {', '.join(found)}. Use training.device = \"cpu\"")
    return device


def make_optimizer(training: Training, parameters: list[nn.Parameter]) -> torch.optim.Optimizer:
    """The torch optimiser of that name, fused where it can be.

    Raises:
        ConfigError: If torch has none of that name, or it does not take just a learning rate.
    """
    known = {
        name.lower(): cls
        for name, cls in vars(torch.optim).items()
        if isinstance(cls, type) and issubclass(cls, torch.optim.Optimizer)
    }
    for name in ("optimizer", "lbfgs", "sparseadam"):  # the base class; one wants a closure, one sparse gradients
        del known[name]
    cls = known.get(training.optimizer.lower())
    if cls is None:
        hint = did_you_mean(training.optimizer.lower(), known)
        raise ConfigError(f"training.optimizer: torch has no '{training.optimizer}'.{hint} Known: {', '.join(known)}")
    if not parameters:
        raise ConfigError("the network has no parameters to train")
    make: Any = cls
    for options in ({"fused": True}, {}):  # some optimisers, devices and dtypes have no fused form
        try:
            optimizer: torch.optim.Optimizer = make(parameters, lr=training.lr, **options)
            return optimizer
        except ValueError as error:
            raise ConfigError(f"training.optimizer: {cls.__name__} refuses this network: {error}") from error
        except (TypeError, RuntimeError):
            if not options:
                raise
    raise AssertionError("unreachable: the loop returns or raises")


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


@attrs.define(eq=False)
class Loop:
    """One training step after another: what :func:`train` runs, and what a benchmark times.

    Arguments:
        model: The model, on its device.
        loss: What to minimise.
        training: How.
        seed: Of the draws.
    """

    model: BFN
    loss: Loss
    training: Training
    seed: int
    parameters: list[nn.Parameter] = attrs.field(init=False)
    optimizer: torch.optim.Optimizer = attrs.field(init=False)
    scheduler: torch.optim.lr_scheduler.LRScheduler | None = attrs.field(init=False, default=None)
    ema: AveragedModel | None = attrs.field(init=False, default=None)

    def __attrs_post_init__(self) -> None:
        self.parameters = [p for p in self.model.parameters() if p.requires_grad]
        self.optimizer = make_optimizer(self.training, self.parameters)
        if self.training.scheduler == "cosine":
            schedule = torch.optim.lr_scheduler.CosineAnnealingLR
            self.scheduler = schedule(self.optimizer, self.training.steps)
        if self.training.ema_decay > 0.0:
            self.ema = make_average(self.model.network, self.training.ema_decay)

    @property
    def network(self) -> nn.Module:
        """The network to sample from: the average of the weights, where there is one."""
        return self.model.network if self.ema is None else self.ema.module

    def step(self, batch: Batch, step: int) -> tuple[Tensor, Tensor]:
        """One optimiser step; returns the loss and the norm of the gradient, on the device."""
        device = device_of(batch.x)
        low = self.training.precision == "bf16"
        with (
            seeded(self.seed, step, device=device),
            torch.autocast(device.type, torch.bfloat16) if low else nullcontext(),
        ):
            loss = self.loss(self.model, batch.x, **batch.condition).mean()
        self.optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        norm = nn.utils.clip_grad_norm_(self.parameters, self.training.clip_norm)
        self.optimizer.step()
        if self.scheduler is not None:
            self.scheduler.step()
        if self.ema is not None:
            self.ema.update_parameters(self.model.network)
        return loss.detach(), norm


def _batches(rows: Batch, batch_size: int, seed: int) -> Iterator[Batch]:
    for epoch in count():
        yield from minibatches(rows, batch_size, seed=seed, epoch=epoch)


@torch.no_grad()
def _validate(loop: Loop, rows: Batch, step: int) -> float:
    """Mean training loss on the validation rows."""
    with seeded(loop.seed, "validation", step, device=device_of(rows.x)):
        chunks = minibatches(rows, loop.training.batch_size, seed=loop.seed, epoch=0)
        losses = [loop.loss(loop.model, chunk.x, **chunk.condition) for chunk in chunks]
    return float(torch.cat(losses).mean())


@attrs.define
class _Log:
    """Collects losses on the device, and reads them in groups."""

    on_metrics: OnMetrics
    parts: str
    steps: list[int] = attrs.field(factory=list)
    values: list[Tensor] = attrs.field(factory=list)
    rates: list[float] = attrs.field(factory=list)

    def add(self, step: int, lr: float, loss: Tensor, norm: Tensor) -> None:
        self.steps.append(step)
        self.rates.append(lr)
        self.values.append(torch.stack((loss, norm)))

    def read(self) -> None:
        if not self.steps:
            return
        rows = torch.stack(self.values).tolist()
        metrics: list[Metrics] = [
            {"step": step, "loss": loss, "grad_norm": norm, "lr": lr}
            for step, lr, (loss, norm) in zip(self.steps, self.rates, rows, strict=True)
        ]
        finite = next((i for i, row in enumerate(rows) if not all(map(math.isfinite, row))), len(rows))
        self.on_metrics(metrics[:finite])
        if finite < len(rows):
            bad = metrics[finite]
            raise NonFiniteError(
                f"step {bad['step']}: the loss is {bad['loss']} and the norm of the gradient {bad['grad_norm']}, "
                f"where finite numbers are expected, of {self.parts}; nothing was saved since. "
                "Lower training.lr, or check the data and these parts"
            )
        self.steps, self.rates, self.values = [], [], []


def train(
    experiment: Experiment,
    out: str | Path | None = None,
    *,
    force: bool = False,
    on_metrics: OnMetrics | None = None,
) -> Run:
    """Trains the model of an experiment.

    Arguments:
        experiment: What to train, on what, and how.
        out: Run directory to make; None to keep everything in memory.
        force: Replace the run that is in ``out``.
        on_metrics: Called with the metrics of each group of steps.
    Returns:
        The run: its model, ready to sample, and its metrics.
    Raises:
        ConfigError: If ``out`` exists and ``force`` is not given.
        DataError: If the data do not fit the family.
        NonFiniteError: If a loss or a gradient is not finite.
        ResourceError: If the device is missing or ``out`` cannot be written.
    """
    training, seed = experiment.training, experiment.seed
    device = resolve_device(training.device)
    data, valid = (experiment.dataset.split(name) for name in ("train", "valid"))
    for rows in (data, valid):
        experiment.family.check_data(rows.x)
    data, valid = data.to(device), valid.to(device)
    with seeded(seed, "weights"):
        model = BFN(experiment.family, experiment.network).to(device)
    loop = Loop(model, experiment.loss, training, seed)
    folder = None if out is None else start_run(Path(out), experiment, force=force)

    history: list[Metrics] = []

    def record(metrics: list[Metrics]) -> None:
        history.extend(metrics)
        if folder is not None:
            append_metrics(folder, metrics)
        if on_metrics is not None:
            on_metrics(metrics)

    culprits = {"network": experiment.network, "family": experiment.family, "loss": experiment.loss}
    names = (f"{kind} {type(part).__module__}.{type(part).__name__}" for kind, part in culprits.items())
    log = _Log(record, ", ".join(names))
    start = time.monotonic()
    model.train()
    for step, batch in zip(range(1, training.steps + 1), _batches(data, training.batch_size, seed), strict=False):
        lr = loop.optimizer.param_groups[0]["lr"]
        log.add(step, lr, *loop.step(batch, step))
        last = step == training.steps
        if last or step % READ_EVERY == 0:
            log.read()
        if training.validate_every and (last or step % training.validate_every == 0):
            log.read()
            record([{"step": step, "valid_loss": _validate(loop, valid, step)}])
        if folder is not None and training.checkpoint_every and step % training.checkpoint_every == 0:
            log.read()
            save_model(folder / "checkpoints" / f"step-{step:08d}", loop.network, describe(experiment, step))
    seconds = time.monotonic() - start
    if folder is not None:
        save_model(
            folder, loop.network, {**describe(experiment, training.steps), "training_seconds": round(seconds, 3)}
        )
    trained = BFN(experiment.family, loop.network).eval()
    return Run(experiment, trained, tuple(json.loads(json.dumps(history))), folder)
