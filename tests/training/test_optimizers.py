"""Every optimiser and schedule of torch trains, is saved and goes on to the same bits, or is refused in one line."""

import signal
from pathlib import Path

import pytest
import torch
from faults.crashes import signal_at
from faults.tiny import experiment
from torch import Tensor, nn
from torch.optim import lr_scheduler
from torch.optim.swa_utils import AveragedModel

from bfn_toolkit import ConfigError, Training, train
from bfn_toolkit.parallel.signals import Interrupted
from bfn_toolkit.training.muon import hidden_matrices
from bfn_toolkit.training.optimizers import MovingAverage, clip_gradients, make_optimizer, make_scheduler
from bfn_toolkit.training.trainer import resume


def names(module: object, base: type) -> list[str]:
    return [name for name, cls in vars(module).items() if isinstance(cls, type) and issubclass(cls, base)]


OPTIMIZERS = names(torch.optim, torch.optim.Optimizer)
SCHEDULERS = [name for name in names(lr_scheduler, lr_scheduler.LRScheduler) if name[0] != "_"]
OPTIONS = {
    "StepLR": {"step_size": 2},
    "MultiStepLR": {"milestones": [2, 4]},
    "ExponentialLR": {"gamma": 0.9},
    "CosineAnnealingWarmRestarts": {"T_0": 3},
    "CyclicLR": {"base_lr": 1e-4, "max_lr": 1e-2, "cycle_momentum": False},
}
REFUSED = {"Optimizer", "LBFGS", "SparseAdam"}
REFUSED |= {"LRScheduler", "ReduceLROnPlateau", "SequentialLR", "ChainedScheduler", "LambdaLR", "MultiplicativeLR"}
REFUSED |= {"SWALR"}  # wants a rate


def goes_on(run: Path, **training: object) -> None:
    """Checks that a training that was stopped ends as one that was not."""
    train(experiment(**training), run / "whole")
    with pytest.raises(Interrupted), signal_at(3, signal.SIGTERM):
        train(experiment(**training), run / "cut")
    resume(run / "cut")
    for name in ("metrics.jsonl", "model.safetensors"):
        assert (run / "cut" / name).read_bytes() == (run / "whole" / name).read_bytes(), name


def is_refused(**training: object) -> None:
    """Checks that it is refused in one line, with what to write."""
    with pytest.raises(ConfigError) as caught:
        train(experiment(**training))
    assert "training." in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_each_optimiser_goes_on_to_the_same_bits_or_is_refused(name: str, tmp_path: Path) -> None:
    if name in REFUSED:
        is_refused(optimizer=name)
    else:
        goes_on(tmp_path, optimizer=name.lower())


@pytest.mark.parametrize("name", SCHEDULERS)
def test_each_schedule_goes_on_to_the_same_bits_or_is_refused(name: str, tmp_path: Path) -> None:
    if name in REFUSED:
        is_refused(scheduler=name)
    else:
        goes_on(tmp_path, scheduler=name, scheduler_options=OPTIONS.get(name, {}), warmup=2)


@pytest.mark.parametrize("name", OPTIONS)
def test_a_schedule_without_its_options_says_which_it_takes(name: str) -> None:
    with pytest.raises(ConfigError, match=r"It takes: .*Write training\.scheduler_options = "):
        train(experiment(scheduler=name))


def test_more_pieces_than_rows_are_one_for_each_row() -> None:
    many, three = (train(experiment(steps=2, batch_size=3, accumulate=pieces)) for pieces in (8, 3))
    for one, other in zip(many.model.parameters(), three.model.parameters(), strict=True):
        assert torch.equal(one, other)


def test_wrong_options_and_names_are_refused_in_one_line() -> None:
    is_refused(optimizer="adm")
    is_refused(optimizer_options={"betas": 3})
    is_refused(optimizer_options={"momentum": 0.9})
    is_refused(optimizer_options={"lr": 0.1})
    is_refused(scheduler="cosin")
    is_refused(scheduler_options={"T_max": 3, "x": 1}, scheduler="CosineAnnealingLR")


def deep() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(5, 8), nn.Embedding(4, 8), nn.Linear(8, 6), nn.Conv1d(6, 6, 1), nn.Linear(6, 2))


def test_muon_moves_hidden_matrices_along_all_directions_alike_and_all_else_by_adamw() -> None:
    network, twin = deep(), deep()
    (hidden,) = hidden_matrices(network)
    assert hidden is network[2].weight
    ours = make_optimizer(Training(optimizer="muon", lr=0.01, optimizer_options={"weight_decay": 0.1}), network)
    adamw = torch.optim.AdamW(twin.parameters(), lr=0.01, betas=(0.9, 0.98), weight_decay=0.1)
    for _ in range(3):
        before = hidden.detach().clone()
        for one, other in zip(network.parameters(), twin.parameters(), strict=True):
            one.grad = torch.randn_like(one)
            other.grad = one.grad.clone()
        ours.step()
        adamw.step()
        moved = torch.linalg.svdvals((1 - 0.01 * 0.1) * before - hidden.detach()) / (0.01 * 0.2 * 8**0.5)
        assert bool(((moved > 0.6) & (moved < 1.25)).all())  # five iterations make them 1 so far
    for (name, one), other in zip(network.named_parameters(), twin.parameters(), strict=True):
        assert (one is hidden) != torch.allclose(one, other, rtol=1e-5, atol=1e-7), name


def test_muon_is_not_for_sharded_weights_and_wants_no_matrices() -> None:
    with pytest.raises(ConfigError, match=r"fsdp.*write \"adamw\""):
        make_optimizer(Training(optimizer="muon", parallel="fsdp", ema_decay=0.0), deep())
    assert len(make_optimizer(Training(optimizer="muon"), nn.Linear(2, 2)).param_groups) == 1


class Peculiar(nn.Module):
    """Tied weights, a frozen integer, a buffer that is replaced by another tensor, and one of another dtype."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm, self.last = nn.Linear(3, 3), nn.BatchNorm1d(3), nn.Linear(3, 3)
        self.last.weight = self.first.weight
        self.table = nn.Parameter(torch.arange(3), requires_grad=False)
        self.register_buffer("seen", torch.zeros(3, dtype=torch.float64))

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.last(self.norm(self.first(x)))
        self.seen = self.seen + out.detach().double().sum(0)
        return out


def test_average_is_that_of_torch_to_the_bit() -> None:
    torch.manual_seed(0)
    network, decay = Peculiar(), 0.6

    def average(averaged: list[Tensor], current: list[Tensor], n: Tensor) -> None:
        weight = 1.0 - min(decay, (1.0 + int(n)) / (10.0 + int(n)))
        for a, c in zip(averaged, current, strict=True):
            a.lerp_(c, weight) if a.is_floating_point() else a.copy_(c)

    theirs, ours = AveragedModel(network, multi_avg_fn=average, use_buffers=True), MovingAverage(network, decay)
    optimizer = torch.optim.SGD([p for p in network.parameters() if p.requires_grad], lr=0.1)
    for _ in range(15):
        optimizer.zero_grad()
        network(torch.randn(5, 3)).square().mean().backward()
        optimizer.step()
        network.table.data.add_(1)
        theirs.update_parameters(network)
        ours.update()
    for name, value in theirs.module.state_dict().items():
        assert torch.equal(value, ours.module.state_dict()[name]), name
        assert value.dtype == network.state_dict()[name].dtype


@pytest.mark.parametrize("most", [0.1, 1e3])
def test_clipping_is_that_of_torch_to_the_bit(most: float) -> None:
    torch.manual_seed(0)
    weights = [nn.Parameter(torch.randn(shape)) for shape in ((7, 3), (3,), (5,))]
    weights[2].grad = None
    for other in weights[:2]:
        other.grad = torch.randn_like(other)
    gradients = [other.grad.clone() for other in weights[:2]]  # type: ignore[union-attr]
    norm = nn.utils.clip_grad_norm_(weights, most)
    clipped = [other.grad.clone() for other in weights[:2]]  # type: ignore[union-attr]
    for other, gradient in zip(weights, gradients, strict=False):
        other.grad = gradient
    assert torch.equal(clip_gradients(weights, most), norm)
    assert all(torch.equal(other.grad, c) for other, c in zip(weights, clipped, strict=False))  # type: ignore[arg-type]


@pytest.mark.parametrize(("warmup", "steps", "expected"), [(0, 10, 0), (4, 10, 4), (0.25, 16, 4), (0.03, 3, 0)])
def test_a_warm_up_is_a_number_of_steps_or_a_share_of_them(warmup: float, steps: int, expected: int) -> None:
    training = Training(steps=steps, warmup=warmup, scheduler="constant", lr=1.0)
    assert training.warmup_steps == expected
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=training.lr)
    schedule, rates = make_scheduler(training, optimizer), []
    for _ in range(steps):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        if schedule is not None:
            schedule.step()
    assert rates == pytest.approx([min(1.0, (k + 1) / max(1, expected)) for k in range(steps)])
