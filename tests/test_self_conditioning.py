"""Self-conditioning: what the network sees of the last output, in samples and in training."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import attrs
import pytest
import torch
from torch import Tensor, nn

from bfn_gaussian import Gaussian
from bfn_mlp import MLP
from bfn_toolkit import (
    BFN,
    ODE2,
    AncestralSampler,
    Batch,
    ChannelFamily,
    ContinuousTimeLoss,
    Delta,
    Family,
    Guided,
    NetworkIO,
    Training,
    seeded,
)
from bfn_toolkit.self_conditioning import estimate_io
from bfn_toolkit.shapes import leaves, map_data
from bfn_toolkit.training.step import TrainStep
from every_family import EVERY_FAMILY


class Recorder(nn.Module):
    """Network that records its features and whether they have gradients."""

    self_conditioning = True

    def __init__(self, io: NetworkIO) -> None:
        super().__init__()
        self.map = nn.Linear(io.in_features, io.out_features)
        self.seen: list[Tensor] = []
        self.grad: list[bool] = []

    def forward(self, features: Tensor, t: Tensor, /) -> Tensor:
        self.seen.append(features)
        self.grad.append(torch.is_grad_enabled())
        return self.map(features)


def recorded(family: Family[Any]) -> tuple[BFN, Recorder]:
    with seeded(0):
        network = Recorder(estimate_io(family))
    return BFN(family, network).eval(), network


def estimates(bfn: BFN, seen: Tensor) -> dict[str, Tensor]:
    """The last features of each part, which are the estimate."""
    own = bfn.family.network_io.parts
    return {name: part[..., own[name].in_features :] for name, part in bfn.io.split(seen).items()}


@EVERY_FAMILY
def test_each_evaluation_of_a_sampler_sees_the_expected_data_of_the_one_before(family: Family[Any]) -> None:
    bfn, network = recorded(family)
    outputs: list[Any] = []
    with seeded(0):
        bfn.sample(
            3, n_steps=family.n_steps or 4, sampler=AncestralSampler(), on_step=lambda step: outputs.append(step.output)
        )
    for seen, before in zip(network.seen, [None, *outputs[:-1]], strict=True):
        for part in family.walk(before):
            told = estimates(bfn, seen)[part.name]
            if before is None:
                assert not told.any()
            elif isinstance(part.family, ChannelFamily):
                assert torch.equal(told, part.family.mean_embedding(part.values[0]))
            else:
                assert told.any()


@EVERY_FAMILY
def test_without_a_last_output_the_network_sees_zeros(family: Family[Any]) -> None:
    bfn, network = recorded(family)
    with seeded(0):
        x = map_data(
            lambda part: part.clamp(-1, 1) if part.is_floating_point() else part, family.input(family.prior(4)).sample()
        )
        bfn.nll(x, n_steps=family.n_steps)
    assert len(network.seen) == 2  # messages and reconstruction: a bound with a fixed function is a bound
    assert not any(part.any() for seen in network.seen for part in estimates(bfn, seen).values())


def test_half_of_the_steps_of_a_training_see_a_first_estimate_that_has_no_gradient() -> None:
    family = Gaussian((2,))
    bfn, network = recorded(family)
    bfn.train()
    x, twice = torch.randn(6, 2), 0
    for step in range(200):
        network.seen.clear(), network.grad.clear()
        with seeded(step):
            bfn.loss(x).mean().backward()
        told = estimates(bfn, network.seen[-1])[""]
        assert network.grad[-1]
        if len(network.seen) == 2:
            twice += 1
            assert not network.grad[0]
            assert bool((told != 0.0).all())  # one coin for all rows
            assert not told.requires_grad
        else:
            assert not told.any()
    assert abs(twice - 100) < 5 * 200**0.5 / 2


@pytest.mark.parametrize("accumulate", [2, 3])
def test_the_coin_is_common_to_the_pieces_of_a_batch_and_the_same_when_a_step_is_repeated(accumulate: int) -> None:
    gradients: list[list[Tensor]] = []
    for pieces in (1, accumulate, 1):
        with seeded(0, "weights"):
            bfn = BFN(Gaussian((2,)), MLP(width=8, depth=1, self_conditioning=True))
            nn.init.normal_(bfn.network.last.weight, std=0.3)
        train_step = TrainStep(bfn.train(), ContinuousTimeLoss(), Training(accumulate=pieces, compile=False), 0)
        with seeded(1):
            x = torch.randn(12, 2)
        found = []
        for step in range(6):
            train_step.gradients(Batch(x), step)
            found += [weight.grad.clone() for weight in bfn.parameters() if weight.grad is not None]
        gradients.append(found)
    whole, split, again = gradients
    assert all(torch.equal(a, b) for a, b in zip(whole, again, strict=True))
    assert all(torch.allclose(a, b, atol=1e-5) for a, b in zip(whole, split, strict=True))


def test_a_network_that_does_not_read_it_draws_nothing_more_and_is_called_once() -> None:
    losses = []
    for builder in (MLP(width=8, depth=1), MLP(width=8, depth=1, self_conditioning=False)):
        with seeded(0):
            bfn = BFN(Gaussian((2,)), builder).train()
            assert not bfn.self_conditioning
            assert bfn.io == bfn.family.network_io
            state = torch.get_rng_state()
            bfn.output(bfn.family.prior(2), torch.tensor(0.5))
            assert torch.equal(state, torch.get_rng_state())
            losses.append(bfn.loss(torch.ones(3, 2)))
    assert torch.equal(*losses)


def test_wrappers_pass_it_on() -> None:
    bfn, network = recorded(Gaussian((2,)))
    assert Guided(bfn, 0.0).self_conditioning
    with seeded(0):
        Guided(bfn, 0.0).sample(2, n_steps=3, sampler=ODE2())
    assert all(estimates(bfn, seen)[""].any() for seen in network.seen[1:])
    last = Delta(torch.full((2, 2), 7.0))
    Guided(bfn, 0.0).output(bfn.family.prior(2), torch.tensor(0.5), previous=last)
    assert torch.equal(estimates(bfn, network.seen[-1])[""].squeeze(-1), last.value)


def test_a_saved_model_has_the_same_samples(tmp_path: Path) -> None:
    bfn = BFN(Gaussian((2,)), MLP(width=8, depth=1, self_conditioning=True)).eval()
    nn.init.normal_(bfn.network.last.weight)
    bfn.save_pretrained(tmp_path / "model")
    drawn = []
    for model in (bfn, BFN.from_pretrained(tmp_path / "model")):
        with seeded(0):
            drawn.append(model.sample(20, n_steps=4))
    assert all(torch.equal(*pair) for pair in zip(leaves(drawn[0]), leaves(drawn[1]), strict=True))
    assert attrs.asdict(bfn.builder)["self_conditioning"]
