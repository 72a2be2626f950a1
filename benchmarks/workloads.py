"""What is timed: one network and one batch, bare, under the toolkit and under the textbook code.

*Bare* is the same network on the same input: forward, backward with a fixed output gradient, a step of
``torch.optim.AdamW``; no loss and no random number.
"""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from bfn_categorical import Categorical
from bfn_gaussian import Gaussian, GaussianParams, SkipHead
from bfn_gaussian_heads import DiscretisedHead
from bfn_siren import Siren
from bfn_toolkit import (
    BFN,
    ODE2,
    SDE2,
    AncestralSampler,
    Batch,
    ContinuousTimeLoss,
    DiscreteTimeLoss,
    Finite,
    NetworkIO,
    OutputHead,
    draw_times,
    minibatches,
)
from bfn_toolkit.config.experiment import Training
from bfn_toolkit.training.trainer import TrainStep

from . import textbook
from .timing import Variant

SIGMA_1 = 0.02
# A fixed gradient would drive the weights away at the default rate, and the sine of a large number costs more.
RATE = 1e-6


class MLP(nn.Module):
    """size + 1 -> 256 -> 256 -> 256 -> 64 R with SiLU, for 64 sites."""

    def __init__(self, size: int, raw: int = 1, width: int = 256, depth: int = 3) -> None:
        super().__init__()
        self.raw = raw
        widths = [size + 1, *[width] * depth]
        layers = [[nn.Linear(i, o), nn.SiLU()] for i, o in itertools.pairwise(widths)]
        self.layers = nn.Sequential(*itertools.chain(*layers), nn.Linear(width, 64 * raw))

    def forward(self, features: Tensor, t: Tensor) -> Tensor:
        out: Tensor = self.layers(torch.cat([features.flatten(1), t.unsqueeze(-1)], -1))
        return out.view(*features.shape[:-1], self.raw)


class ConvNet(nn.Module):
    """1 -> width x depth -> 1 channels by 3x3 convolutions with SiLU on 28x28 pixels: the cost of a small U-Net."""

    def __init__(self, width: int = 48, depth: int = 6) -> None:
        super().__init__()
        widths = [2, *[width] * depth]
        layers = [[nn.Conv2d(i, o, 3, padding=1), nn.SiLU()] for i, o in itertools.pairwise(widths)]
        self.layers = nn.Sequential(*itertools.chain(*layers), nn.Conv2d(width, 1, 3, padding=1))

    def forward(self, features: Tensor, t: Tensor) -> Tensor:
        image = features.movedim(-1, 1)
        times = t.view(-1, 1, 1, 1).expand_as(image)
        out: Tensor = self.layers(torch.cat([image, times], 1))
        return out.movedim(1, -1)


class OneParameter(nn.Module):
    """The least network that has a gradient."""

    def __init__(self, raw: int = 1) -> None:
        super().__init__()
        self.raw, self.weight = raw, nn.Parameter(torch.ones(()))

    def forward(self, features: Tensor, t: Tensor) -> Tensor:
        out = features * self.weight
        return out if self.raw == 1 else out.expand(*out.shape[:-1], self.raw)


@dataclass(frozen=True)
class Workload:
    """A family, a network for it, and a batch of data."""

    name: str
    family: Gaussian | Categorical
    batch_size: int
    sampler_batch_size: int
    build: Callable[[], nn.Module]

    def data(self, rows: int) -> Tensor:
        """Data of the family."""
        if isinstance(self.family, Categorical):
            return torch.randint(self.family.classes, (rows, *self.family.site_shape))
        head = self.family.head
        if isinstance(head, DiscretisedHead):
            return (2 * torch.randint(head.bins, (rows, *self.family.site_shape)) + 1) / head.bins - 1
        return torch.rand(rows, *self.family.site_shape) * 2 - 1


def _gaussian(size: int, head: OutputHead[GaussianParams]) -> Gaussian:
    return Gaussian(site_shape=(size,), sigma_1=SIGMA_1, head=head)


def _siren() -> nn.Module:
    return Siren(width=64, depth=3).build(NetworkIO((1,), 1, 1))


WORKLOADS = (
    Workload("(a) Siren 1-64-64-64-1", _gaussian(1, SkipHead()), 4000, 1000, _siren),
    Workload("(b) MLP 64+1-256x3-64", _gaussian(64, SkipHead()), 512, 512, lambda: MLP(64)),
)


BINNED = tuple(
    Workload(
        f"(b) MLP 64+1-256x3-128, {bins} bins", _gaussian(64, DiscretisedHead(bins=bins)), 128, 128, lambda: MLP(64, 2)
    )
    for bins in (16, 256)
)

CLASSES = Workload("(b16) MLP 1024+1-256x3-1024, 16 classes", Categorical((64,), 16), 512, 512, lambda: MLP(1024, 16))

PIXELS = tuple(
    Workload(f"(c) ConvNet 28x28, {name}", family, 64, 16, ConvNet)
    for name, family in (
        ("continuous", Gaussian((28, 28), sigma_1=SIGMA_1)),
        ("two classes", Categorical((28, 28), 2)),
    )
)


def network_input(work: Workload, x: Tensor) -> tuple[Tensor, Tensor]:
    """Features and times as the loss would hand them to the network: the sine's cost depends on its argument."""
    t = draw_times(x)
    return work.family.features(work.family.flow(x, t)), t


def bare_step(work: Workload, network: nn.Module, x: Tensor) -> Callable[[], None]:
    """Forward, backward, AdamW."""
    features, t = network_input(work, x)
    gradient = torch.randn_like(network(features, t)) / len(x)
    optimizer = torch.optim.AdamW(network.parameters(), lr=RATE)

    def run() -> None:
        optimizer.zero_grad()
        network(features, t).backward(gradient)
        optimizer.step()

    return run


def loss_step(network: nn.Module, loss: Callable[[], Tensor], *, fused: bool | None = None) -> Callable[[], None]:
    """Loss, backward, and the same AdamW."""
    optimizer = torch.optim.AdamW(network.parameters(), lr=RATE, fused=fused)

    def run() -> None:
        optimizer.zero_grad()
        loss().mean().backward()
        optimizer.step()

    return run


def loss_alone(network: OneParameter, loss: Callable[[], Tensor]) -> Callable[[], None]:
    """Loss and backward on the least network: the toolkit's own part of a step."""

    def run() -> None:
        loss().mean().backward()
        network.weight.grad = None

    return run


def loop_step(work: Workload, network: nn.Module, x: Tensor) -> Callable[[], None]:
    """A step of the toolkit's training loop: seeded scope, loss, fused AdamW, clipping, moving average."""
    training = Training(
        optimizer="adamw", lr=RATE, scheduler="constant", clip_norm=1.0, ema_decay=0.999, batch_size=len(x)
    )
    loop = TrainStep(BFN(work.family, network), ContinuousTimeLoss(), training, seed=0)
    batch, steps = Batch(x), itertools.count()
    return lambda: loop.step(batch, next(steps)) and None


def textbook_loop_step(network: nn.Module, x: Tensor) -> Callable[[], None]:
    """The loop that goes with the textbook: default AdamW, clipping, a Python loop for the moving average, a read."""
    average = copy.deepcopy(network)
    optimizer = torch.optim.AdamW(network.parameters(), lr=RATE)

    def run() -> None:
        optimizer.zero_grad()
        loss = textbook.continuous_time_loss(network, x, SIGMA_1).mean()
        loss.backward()
        nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
        with torch.no_grad():
            for a, p in zip(average.parameters(), network.parameters(), strict=True):
                a.mul_(0.999).add_(p, alpha=0.001)
        loss.item()

    return run


def training(work: Workload, *, rows: int | None = None, repeats: int = 1) -> dict[str, Variant]:
    """Training steps of one workload."""
    torch.manual_seed(0)
    rows = rows or work.batch_size
    x, network = work.data(rows), work.build()
    nets = [copy.deepcopy(network) for _ in range(6)]
    one = OneParameter()
    model, fused, tiny = (BFN(work.family, net) for net in (nets[1], nets[5], one))
    loss = ContinuousTimeLoss()
    runs = {
        "bare": bare_step(work, nets[0], x),
        "step": loss_step(nets[1], lambda: loss(model, x)),
        "fused step": loss_step(nets[5], lambda: loss(fused, x), fused=True),
        "loss": loss_alone(one, lambda: loss(tiny, x)),
        "loop": loop_step(work, nets[2], x),
        "textbook step": loss_step(nets[3], lambda: textbook.continuous_time_loss(nets[3], x, SIGMA_1)),
        "textbook loss": loss_alone(one, lambda: textbook.continuous_time_loss(one, x, SIGMA_1)),
        "textbook loop": textbook_loop_step(nets[4], x),
    }
    return {name: Variant(run, repeats) for name, run in runs.items()}


def of_family(work: Workload, textbook_loss: Callable[[nn.Module, Tensor], Tensor]) -> dict[str, Variant]:
    """Training steps of a family that has a loss of its own in the textbook."""
    torch.manual_seed(0)
    network, one, x = work.build(), OneParameter(work.family.network_io.out_features), work.data(work.batch_size)
    nets = [copy.deepcopy(network) for _ in range(4)]
    model, tiny, loss = BFN(work.family, nets[1]), BFN(work.family, one), ContinuousTimeLoss()
    runs = {
        "bare": bare_step(work, nets[0], x),
        "step": loss_step(nets[1], lambda: loss(model, x)),
        "loss": loss_alone(one, lambda: loss(tiny, x)),
        "loop": loop_step(work, nets[3], x),
        "textbook step": loss_step(nets[2], lambda: textbook_loss(nets[2], x)),
        "textbook loss": loss_alone(one, lambda: textbook_loss(one, x)),
    }
    return {name: Variant(run) for name, run in runs.items()}


def pixels(work: Workload) -> dict[str, Variant]:
    """The loss alone beside the bare step of a network of convolutions."""
    torch.manual_seed(0)
    one, x, loss = OneParameter(), work.data(work.batch_size), ContinuousTimeLoss()
    tiny = BFN(work.family, one)
    return {
        "bare": Variant(bare_step(work, work.build(), x)),
        "loss": Variant(loss_alone(one, lambda: loss(tiny, x)), repeats=20),
    }


def discrete_loss(classes: int = 256, rows: int = 64) -> dict[str, Variant]:
    """The n-step loss of classes beside that in continuous time, with one draw of the message."""
    torch.manual_seed(0)
    one, x = OneParameter(), torch.randint(classes, (rows, 64))
    model = BFN(Categorical((64,), classes), one)
    losses = {"bare": ContinuousTimeLoss(), "discrete": DiscreteTimeLoss(100)}
    return {name: Variant(loss_alone(one, lambda loss=loss: loss(model, x))) for name, loss in losses.items()}  # type: ignore[misc]


def class_draws(classes: int, rows: int = 512) -> dict[str, Variant]:
    """Draws of classes, beside ``torch.multinomial``."""
    torch.manual_seed(0)
    logits = torch.randn(rows, 64, classes)
    output = Finite(None, logits)
    return {
        "bare": Variant(output.sample),
        "multinomial": Variant(lambda: torch.multinomial(logits.softmax(-1).flatten(0, 1), 1)),
    }


class Null(nn.Module):
    """No network at all."""

    def __init__(self, raw: int) -> None:
        super().__init__()
        self.raw = raw

    def forward(self, features: Tensor, t: Tensor) -> Tensor:
        return features.expand(*features.shape[:-1], self.raw)


def two_classes(rows: int = 64, n_steps: int = 20) -> dict[str, Variant]:
    """Loss and samplers of two classes beside the textbook, which has two numbers for each; no network."""
    torch.manual_seed(0)
    family, one, two = Categorical((28, 28), 2), OneParameter(), OneParameter(2)
    x, model, tiny, loss = (
        torch.randint(2, (rows, 28, 28)),
        BFN(family, Null(1)),
        BFN(family, one),
        ContinuousTimeLoss(),
    )
    samplers = {"ancestral": AncestralSampler(), **SOLVERS}
    return {
        "loss": Variant(loss_alone(one, lambda: loss(tiny, x))),
        "textbook loss": Variant(loss_alone(two, lambda: textbook.classes_loss(two, x, family))),
        **{
            name: Variant(lambda sampler=sampler: sampler.sample(model, 16, n_steps=n_steps))  # type: ignore[misc]
            for name, sampler in samplers.items()
        },
        "textbook ancestral": Variant(lambda: textbook.sample_classes(Null(2), family, 16, n_steps)),
    }


def feeding(work: Workload, batches: int = 25) -> dict[str, Variant]:
    """An epoch of batches from memory; one unit is one batch."""
    torch.manual_seed(0)
    x = work.data(batches * work.batch_size)
    rows, loader, epochs = Batch(x), textbook.batches(x, work.batch_size), itertools.count()

    def run() -> None:
        for _ in minibatches(rows, work.batch_size, seed=0, epoch=next(epochs)):
            pass

    def run_loader() -> None:
        for _ in loader:
            pass

    bare = bare_step(work, work.build(), x[: work.batch_size])
    return {
        "bare": Variant(bare, repeats=10),
        "feeding": Variant(run, units=batches),
        "textbook feeding": Variant(run_loader, units=batches),
    }


SOLVERS = {"ODE2": ODE2(), "SDE2": SDE2()}


def sampling(work: Workload, n_steps: int = 100) -> dict[str, Variant]:
    """Ancestral sampling and the solvers; one unit of bare is one forward pass."""
    torch.manual_seed(0)
    rows, network = work.sampler_batch_size, work.build().eval()
    model = BFN(work.family, network)
    features, t = network_input(work, work.data(rows))

    @torch.inference_mode()
    def bare() -> None:
        for _ in range(n_steps):
            network(features, t)

    def by_the_book() -> object:
        if work in BINNED:  # the textbook has no bins
            return None
        if isinstance(work.family, Categorical):
            return textbook.sample_classes(network, work.family, rows, n_steps)
        return textbook.sample(network, (rows, *work.family.site_shape), n_steps, SIGMA_1)

    return {
        "bare": Variant(bare),
        "ancestral": Variant(lambda: model.sample(rows, n_steps=n_steps, sampler=AncestralSampler())),
        **{
            name: Variant(lambda solver=solver: model.sample(rows, n_steps=n_steps, sampler=solver))  # type: ignore[misc]
            for name, solver in SOLVERS.items()
        },
        "textbook ancestral": Variant(by_the_book),
    }
