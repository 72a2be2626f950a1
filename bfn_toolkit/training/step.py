"""The optimiser step, and the state from which the next one continues."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

import attrs
import torch
from torch import Tensor, nn

from bfn_toolkit.bfn import BFN
from bfn_toolkit.config.experiment import Training
from bfn_toolkit.data.dataset import Batch
from bfn_toolkit.errors import ConfigError, NonFiniteError, PluginError
from bfn_toolkit.losses import Loss, draw_held
from bfn_toolkit.masks import told
from bfn_toolkit.parallel import processes
from bfn_toolkit.parallel.devices import make_accelerator
from bfn_toolkit.randomness import Shard, seeded
from bfn_toolkit.runs.checkpoints import Checkpoint
from bfn_toolkit.shapes import device_of, in_float64
from bfn_toolkit.storage.safetensors_files import cpu_state
from bfn_toolkit.training.learned_times import TimeLearner
from bfn_toolkit.training.optimizers import MovingAverage, Scheduler, clip_gradients, make_optimizer, make_scheduler

if TYPE_CHECKING:
    from accelerate import Accelerator


class NonFiniteStep(NonFiniteError):  # noqa: N818 - the step, not the class of errors
    """The loss or the gradient of a step is not finite; the weights are those before it.

    Arguments:
        step: Its number.
        loss: Its loss.
        norm: The norm of its gradient.
    """

    def __init__(self, step: int, loss: float, norm: float) -> None:
        super().__init__(
            f"step {step}: the loss is {loss} and the norm of the gradient {norm}, where finite numbers are expected"
        )
        self.step, self.loss, self.norm = step, loss, norm


@attrs.define(eq=False)
class TrainStep:
    """Optimiser steps on batches, as :func:`~bfn_toolkit.train` runs them and benchmarks time them.

    Arguments:
        model: The model, on its device.
        loss: The loss to minimise.
        training: Options of the training.
        seed: Seed of the draws.
        accelerator: The engine; by default that of :func:`~bfn_toolkit.parallel.devices.make_accelerator`.
        prepare: Function from a batch, or a piece of it, to data for the model; it is called among the draws of the
            step.  By default batches are ready.
    """

    model: BFN
    loss: Loss
    training: Training
    seed: int
    accelerator: Accelerator = attrs.field(
        default=attrs.Factory(lambda self: make_accelerator(self.training), takes_self=True)
    )
    prepare: Callable[[Batch], Batch] = lambda batch: batch
    device: torch.device = attrs.field(init=False)
    unwrapped: nn.Module = attrs.field(init=False)  # the network without the engine's wrappers
    parameters: list[nn.Parameter] = attrs.field(init=False)
    optimizer: torch.optim.Optimizer = attrs.field(init=False)
    _wrapped: Any = attrs.field(init=False)
    scheduler: Scheduler | None = attrs.field(init=False)
    ema: MovingAverage | None = attrs.field(init=False, default=None)
    time_learner: TimeLearner | None = attrs.field(init=False)
    between_steps: bool = attrs.field(init=False, default=True)  # whether the state is one between two steps
    _guards: bool = attrs.field(init=False)
    _form: Mapping[str, Any] | None = attrs.field(init=False)  # of the state, until the first step has been checked

    def __attrs_post_init__(self) -> None:
        training, self.unwrapped = self.training, self.model.network
        self._form = form_of(self.unwrapped)
        self.device = torch.device(self.accelerator.device)
        self.time_learner = TimeLearner.of(self.loss, self.device)
        if training.known_rate > 0.0:
            self.model.check_site_times("training.known_rate gives known sites another time than the others")
        if training.ema_decay > 0.0 and self.sharded:
            raise ConfigError(
                'training.ema_decay: sharded weights have no moving average; write 0, or parallel = "ddp"'
            )
        if training.ema_decay > 0.0:
            self.ema = MovingAverage(self.unwrapped, training.ema_decay)
        self.optimizer = make_optimizer(training, self.unwrapped)
        self.scheduler = make_scheduler(training, self.optimizer)
        if training.compile:
            self.unwrapped.compile()
        self._wrapped = self.optimizer
        if self._plain:
            self.model.network = self.accelerator.prepare(self.unwrapped)
        else:
            self.model.network, self._wrapped = self.accelerator.prepare(self.unwrapped, self.optimizer)
        self.parameters = [p for p in self.model.parameters() if p.requires_grad]
        # A fused optimiser can skip a step by itself; reading the loss here would wait for the device.
        fused = getattr(self.optimizer, "_step_supports_amp_scaling", False)
        self._guards = self.device.type != "cpu" and fused and self._plain

    @property
    def _plain(self) -> bool:
        """Whether the optimiser can do without the engine's wrapper, which costs as much as a small network."""
        return self.accelerator.scaler is None and not self.sharded

    @property
    def sharded(self) -> bool:
        """Whether each process has only a slice of the weights."""
        return self.training.parallel == "fsdp"

    def full_tensor(self, value: Tensor) -> Tensor:
        """Full value of a tensor that the processes may share."""
        if not self.sharded:
            return value
        from bfn_toolkit.parallel.sharding import full_tensor

        return full_tensor(value)

    @property
    def network(self) -> nn.Module:
        """The network to sample from: the average of the weights, where there is one."""
        return self.unwrapped if self.ema is None else self.ema.module

    @property
    def lr(self) -> float:
        """Learning rate of the next step."""
        return float(self.optimizer.param_groups[0]["lr"])

    def step(self, batch: Batch, step: int) -> tuple[Tensor, Tensor]:
        """Makes one optimiser step on a whole batch, of which this process computes its share.

        Returns:
            The loss, its mean over the batch, and the norm of the gradient, on the device.
        Raises:
            NonFiniteStep: If one of them is not finite; the step is then not made.  On a GPU, a fused optimiser skips
                the step without an error, and the caller reads the result.
        """
        loss = self.gradients(batch, step)
        if self._form is not None:
            self._check_form()
        clip = clip_gradients if self._plain else self.accelerator.clip_grad_norm_
        norm = self.full_tensor(clip(self.parameters, self.training.clip_norm))
        if self._guards:
            self._wrapped.found_inf = (~torch.isfinite(loss + norm)).float()
        elif self.accelerator.scaler is None:
            numbers = float(loss), float(norm)
            if not all(map(math.isfinite, numbers)):
                raise NonFiniteStep(step, *numbers)
        self.between_steps = False
        self._wrapped.step()
        if self.scheduler is not None:
            self.scheduler.step()
        if self.ema is not None:
            self.ema.update()
        if self.time_learner is not None:
            self.time_learner.learn()
        self.between_steps = True
        return loss, norm

    def gradients(self, batch: Batch, step: int) -> Tensor:
        """Sets the gradient of the mean loss of a batch, and returns the loss."""
        for parameter in self.parameters:
            parameter.grad = None
        if self.time_learner is not None:
            self.time_learner.begin()
        n, device = len(batch), device_of(batch.x)
        total, shares = torch.zeros((), device=device), self.shares(n)
        for start, stop in shares:
            whole, last = stop - start == n, (start, stop) == shares[-1]
            part = batch if whole else batch.part(start, stop)
            with nullcontext() if last else self.accelerator.no_sync(self.model.network):
                with seeded(self.seed, step, device=device), nullcontext() if whole else Shard(start, stop - start, n):
                    loss = self.losses(self.model, self.prepare(part)).mean()
                if not loss.requires_grad:
                    raise PluginError(self._why_no_gradient())
                loss = loss if whole else loss * ((stop - start) / n)
                total += loss.detach()
                # The engine averages gradients over processes; the batch needs their sum.
                loss = loss * processes.world_size() if processes.world_size() > 1 else loss
                if self.accelerator.scaler is None:
                    loss.backward()  # type: ignore[no-untyped-call]
                else:
                    self.accelerator.backward(loss)
        return processes.all_reduce_sum(total)

    def _why_no_gradient(self) -> str:
        if not torch.is_grad_enabled():
            return "a part has switched gradients off for all others; write with torch.no_grad() where it needs none"
        return (
            f"the losses of {type(self.loss).__name__} have no gradient, so no weight can learn: the network, the "
            "family's output and the loss must pass it on (no detach, no torch.no_grad)"
        )

    def losses(self, model: BFN, batch: Batch) -> Tensor:
        """Loss of each row of a prepared batch at the times of the training, times the row's weight."""
        rate = self.training.known_rate
        held = draw_held(model.family, batch.x, rate) if rate > 0.0 else None
        if self.time_learner is not None:
            losses: Tensor = self.time_learner.losses(model, batch, held)
        else:
            losses = told(self.loss, model, batch.x, batch.condition, mask=batch.mask, held=held)
            self._check_losses(losses, len(batch))
        return losses if batch.weight is None else losses * batch.weight

    def _check_form(self) -> None:
        """Checks, before the first step is made, that the network has kept the names, shapes and dtypes of its state.

        Raises:
            ConfigError: If it has not: its weights could not be loaded again.
        """
        before, now = self._form or {}, form_of(self.unwrapped)
        self._form = None
        changed = sorted(name for name in before.keys() | now.keys() if before.get(name) != now.get(name))
        if changed:
            name = changed[0]
            raise ConfigError(
                f"network: its first call changes {name} from {before.get(name, 'nothing')} to "
                f"{now.get(name, 'nothing')}, so saved weights would not fit a new network; give each buffer its final "
                "shape in __init__, or keep it as a buffer with persistent=False"
            )

    def _check_losses(self, losses: Any, rows: int) -> None:
        cls = type(self.loss)
        what = f"loss {cls.__module__}.{cls.__qualname__}"
        if not isinstance(losses, Tensor) or losses.shape != (rows,) or not losses.is_floating_point():
            is_tensor = isinstance(losses, Tensor)
            found = f"{losses.dtype} of shape {tuple(losses.shape)}" if is_tensor else f"a {type(losses).__name__}"
            raise PluginError(f"{what} returned {found}; expected a floating number for each row, of shape ({rows},)")

    def shares(self, n: int) -> list[tuple[int, int]]:
        """Start and stop of each piece of a batch of n rows that this process computes.

        Raises:
            ConfigError: If a process would have none.
        """
        world, rank = processes.world_size(), processes.rank()
        if n < world:
            raise ConfigError(
                f"a batch of {n} rows cannot be shared by {world} processes; raise training.batch_size to {world} or "
                "more"
            )
        pieces = min(self.training.accumulate, n // world)
        mine = range(rank * pieces, (rank + 1) * pieces)
        return [(i * n // (pieces * world), (i + 1) * n // (pieces * world)) for i in mine]

    def memory_advice(self, n: int) -> str:
        """A line to write where memory does not suffice for a step of n rows."""
        pieces = 2 * self.training.accumulate
        if not self.between_steps:
            return "take a smaller network, or an optimiser with less state, such as --training.optimizer sgd"
        if n < pieces * processes.world_size():
            return "take a smaller network, or a device with more memory"
        return f"write --training.accumulate {pieces}, which gives the same weights up to rounding"

    def checksum(self) -> float:
        """A number that changes with the weights."""
        with torch.no_grad():
            sums = [self.full_tensor(in_float64(p.detach()).abs().sum()) for p in self.parameters]
            return float(torch.stack(sums).sum())

    def weights(self) -> dict[str, Tensor]:
        """Weights and buffers of the network to sample from, on the CPU; all processes call it together."""
        if self.sharded:
            from bfn_toolkit.parallel.sharding import full_weights

            return full_weights(self.unwrapped)
        return cpu_state(self.network.state_dict())

    def checkpoint(
        self, step: int, state: Mapping[str, Any], valid_loss: float | None, facts: Mapping[str, Any]
    ) -> Checkpoint:
        """The state after a step, with additional ``state`` and ``facts`` of the caller.

        If the weights are sharded, all processes call it together.
        """
        if self.sharded:
            from bfn_toolkit.parallel.sharding import full_optimizer

            weights = self.weights()
            tensors, plain = flatten(full_optimizer(self.unwrapped, self.optimizer))
        else:
            weights = cpu_state(self.unwrapped.state_dict())
            tensors, plain = flatten(self.optimizer.state_dict())
        scaler = self.accelerator.scaler
        return Checkpoint(
            step=step,
            weights=weights,
            ema=None if self.ema is None else cpu_state(self.ema.module.state_dict()),
            optimizer=tensors,
            state={
                **state,
                "optimizer": plain,
                "scheduler": None if self.scheduler is None else flatten(self.scheduler.state_dict())[1],
                "averaged": None if self.ema is None else self.ema.updates,
                "scaler": None if scaler is None else scaler.state_dict(),
                "times": None if self.time_learner is None else self.time_learner.state.tolist(),
            },
            valid_loss=valid_loss,
            facts=facts,
        )

    def restore(self, checkpoint: Checkpoint, *, schedule: bool = True) -> None:
        """Restores the state of a checkpoint.

        Arguments:
            checkpoint: The state.
            schedule: Whether the learning rate continues as it was; otherwise it follows this training's own schedule.
        """
        optimizer = unflatten(checkpoint.optimizer, checkpoint.state["optimizer"])
        if self.sharded:
            from bfn_toolkit.parallel.sharding import load_full

            load_full(self.unwrapped, self.optimizer, checkpoint.weights, optimizer)
        else:
            self.unwrapped.load_state_dict(checkpoint.weights)
            self.optimizer.load_state_dict(optimizer)
            _align(self.optimizer)
        if schedule and self.scheduler is not None:
            self.scheduler.load_state_dict(unflatten({}, checkpoint.state["scheduler"]))
        elif not schedule:
            self._reschedule(checkpoint.step)
        if self.ema is not None and checkpoint.ema is not None:
            self.ema.module.load_state_dict(checkpoint.ema)
            self.ema.updates = checkpoint.state["averaged"]
        if self.accelerator.scaler is not None and checkpoint.state["scaler"]:
            self.accelerator.scaler.load_state_dict(checkpoint.state["scaler"])
        if self.time_learner is not None:
            self.time_learner.restore(checkpoint.state["times"])

    def _reschedule(self, step: int) -> None:
        """Gives the optimiser the learning rate of this training's schedule after ``step`` steps."""
        for group in self.optimizer.param_groups:
            group["lr"] = self.training.lr
            group.pop("initial_lr", None)
        self.scheduler = make_scheduler(self.training, self.optimizer)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch expects a step of the optimiser before one of the schedule
            for _ in range(step if self.scheduler else 0):
                self.scheduler.step()  # type: ignore[union-attr]


def form_of(network: nn.Module) -> dict[str, str]:
    """Dtype and shape of each tensor of the state of a network."""
    return {name: f"{value.dtype} {tuple(value.shape)}" for name, value in network.state_dict().items()}


def _align(optimizer: torch.optim.Optimizer) -> None:
    """Gives the loaded state of each parameter the order of its numbers in memory, which fused optimisers rely on."""
    for parameter, state in optimizer.state.items():
        for key, value in state.items():
            if isinstance(value, Tensor) and value.shape == parameter.shape and value.stride() != parameter.stride():
                state[key] = torch.empty_like(parameter, dtype=value.dtype).copy_(value)


_TENSOR, _TABLE, _TUPLE, _NUMBER = "tensor:", "table:", "tuple:", "number:"  # JSON has none of them


def flatten(value: Any, path: str = "") -> tuple[dict[str, Tensor], Any]:
    """Splits a nested state into tensors by their paths and a rest for JSON."""
    tensors: dict[str, Tensor] = {}

    def plain(item: Any, at: str) -> Any:
        if isinstance(item, Tensor):
            tensors[at] = item.detach().cpu().contiguous().clone()
            return _TENSOR + at
        if isinstance(item, Mapping):
            return {
                _TABLE: [[key, plain(part, f"{at}.{key}" if at else str(key))] for key, part in item.items()],
            }
        if isinstance(item, tuple):
            return {_TUPLE: [plain(part, f"{at}.{i}") for i, part in enumerate(item)]}
        if isinstance(item, list):
            return [plain(part, f"{at}.{i}") for i, part in enumerate(item)]
        if isinstance(item, float) and not math.isfinite(item):
            return {_NUMBER: str(item)}
        if item is None or isinstance(item, (bool, int, float, str)):
            return item
        raise ConfigError(
            f"a state that holds a {type(item).__name__} ({at}) cannot be saved; choose another optimiser"
        )

    return tensors, plain(value, path)


def unflatten(tensors: Mapping[str, Tensor], value: Any) -> Any:
    """The nested state that :func:`flatten` took apart."""
    if isinstance(value, str) and value.startswith(_TENSOR):
        return tensors[value[len(_TENSOR) :]]
    if isinstance(value, dict):
        if _TUPLE in value:
            return tuple(unflatten(tensors, part) for part in value[_TUPLE])
        if _NUMBER in value:
            return float(value[_NUMBER])
        return {key: unflatten(tensors, part) for key, part in value[_TABLE]}
    if isinstance(value, list):
        return [unflatten(tensors, part) for part in value]
    return value
