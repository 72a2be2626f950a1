"""Laws of samplers: the same seed gives the same bytes, and n ancestral steps pass through n + 1 beliefs."""

from __future__ import annotations

from typing import Any

import attrs
import pytest
import torch
from torch import Tensor

from bfn_gaussian import DataHead, Gaussian, NoiseHead, SkipHead
from bfn_siren import Siren
from bfn_toolkit import (
    BFN,
    AncestralSampler,
    Condition,
    ConfigError,
    Delta,
    Family,
    Model,
    Oracle,
    PluginError,
    Sampler,
    SamplerState,
    StepCountError,
    default_sampler,
    seeded,
)
from every_family import EVERY_FAMILY, network, numbers
from toy_families import SteppedGaussian

CPU, DOUBLE = torch.device("cpu"), torch.float64


def model(site: tuple[int, ...] = (2,), head: Any = None) -> BFN:
    with seeded(0, "weights"):
        return BFN(Gaussian(site_shape=site, sigma_1=0.1, head=head or SkipHead()), Siren(width=16))


@pytest.mark.parametrize("head", [SkipHead(), NoiseHead(), DataHead()], ids=str)
@pytest.mark.parametrize("site", [(), (1,), (2, 3)])
@pytest.mark.parametrize("n", [1, 2, 7])
def test_samples_have_the_shape_of_the_data(head: Any, site: tuple[int, ...], n: int) -> None:
    for dtype in (torch.float32, DOUBLE):
        x = model(site, head).to(dtype).sample(5, n_steps=n)
        assert x.shape == (5, *site)
        assert x.dtype == dtype
        assert torch.isfinite(x).all()
        assert not x.requires_grad


def test_same_seed_same_bytes() -> None:
    bfn = model()
    with seeded(1):
        a = bfn.sample(50, n_steps=5)
    with seeded(1):
        b = bfn.sample(50, n_steps=5, sampler=default_sampler(bfn.family, 5))
    with seeded(2):
        c = bfn.sample(50, n_steps=5)
    assert a.numpy().tobytes() == b.numpy().tobytes()
    assert not torch.equal(a, c)
    assert len(a.unique(dim=0)) == 50


@pytest.mark.parametrize("n", [1, 2, 10])
def test_trajectory_yields_the_beliefs_from_the_prior_to_the_end(n: int) -> None:
    family = Gaussian(site_shape=(3,), sigma_1=0.1)
    exact = Oracle(family, lambda params: Delta(torch.zeros_like(params.mean)))
    states = list(AncestralSampler().trajectory(exact, 4, n_steps=n, dtype=DOUBLE))
    assert len(states) == n + 1
    assert torch.equal(states[0].params.mean, family.prior(4, dtype=DOUBLE).mean)
    for t, state in zip(family.times(n), states, strict=True):
        assert torch.allclose(state.params.precision, 1 + family.schedule.beta(t), rtol=1e-13)  # n sums


def test_the_network_is_asked_at_the_beginning_of_each_step_and_at_the_end() -> None:
    asked: list[float] = []

    class Watch(Oracle):
        def output(self, params: Any, t: torch.Tensor, condition: Any = None) -> Delta:
            asked.append(float(t))
            return Delta(torch.full_like(params.mean, 0.5) + 0.1 * (t == 1))

    x = Watch(Gaussian(), lambda params: None).sample(2, n_steps=4, sampler=AncestralSampler())
    assert asked == [0, 0.25, 0.5, 0.75, 1]
    assert (x == 0.6).all()  # the last output, not the last mean


def test_messages_are_about_a_draw_of_the_output() -> None:
    # An output that is always c: the beliefs end as the flow for x = c does.
    family, n = Gaussian(site_shape=(), sigma_1=0.3), 200_000
    exact = Oracle(family, lambda params: Delta(torch.full_like(params.mean, 0.5)))
    with seeded(3):
        *_, last = AncestralSampler().trajectory(exact, n, n_steps=3, dtype=DOUBLE)
    gamma, mean = 1 - 0.3**2, last.params.mean
    # 5 standard errors: a false-alarm rate of 6e-7 each
    assert abs(mean.mean() - 0.5 * gamma) <= 5 * (gamma * (1 - gamma) / n) ** 0.5
    assert abs(mean.var() / (gamma * (1 - gamma)) - 1) <= 5 * (2 / n) ** 0.5


@pytest.mark.parametrize("n_steps", [0, -1, True, 2.5])
def test_step_counts_other_than_positive_integers_are_refused(n_steps: Any) -> None:
    with pytest.raises(StepCountError, match="at least 1"):
        model().sample(3, n_steps=n_steps)


@pytest.mark.parametrize("size", [0, -1, True, 2.5])
def test_sample_sizes_other_than_positive_integers_are_refused(size: Any) -> None:
    with pytest.raises(ConfigError, match="at least 1"):
        model().sample(size, n_steps=3)


def test_a_stepped_family_is_sampled_in_its_own_steps() -> None:
    exact = Oracle(SteppedGaussian(), lambda params: Delta(torch.full_like(params.mean, 0.25)))
    assert (exact.sample(3, n_steps=3) == 0.25).all()
    with pytest.raises(StepCountError, match="built with 3 steps; got n_steps=4"):
        exact.sample(3, n_steps=4)


def test_a_network_of_the_wrong_shape_is_named() -> None:
    class Flat(torch.nn.Module):
        def forward(self, features: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
            return features.flatten(1)

    with pytest.raises(PluginError, match=r"Flat returned \(3, 2\), expected a tensor of shape \(3, 2, 1\)"):
        BFN(Gaussian(site_shape=(2,)), Flat()).sample(3, n_steps=1)


def test_condition_reaches_the_network() -> None:
    class Echo(torch.nn.Module):
        def forward(self, features: torch.Tensor, t: torch.Tensor, *, label: torch.Tensor) -> torch.Tensor:
            return features * 0 + label.reshape(-1, 1, 1)

    bfn, label = BFN(Gaussian(head=DataHead()), Echo()), torch.tensor([1.0, 2.0])
    assert torch.equal(bfn.sample(2, n_steps=3, condition={"label": label}), label.unsqueeze(1))
    assert bfn.nll(torch.zeros(2, 1), condition={"label": label}).shape == (2,)


@attrs.frozen
class ByDefinition(Sampler[SamplerState]):
    """The ancestral sampler in the words of the paper: a message, then an update."""

    each_row: bool

    def init(self, model: Model, batch_size: int, *, device: torch.device, dtype: torch.dtype) -> SamplerState:
        return SamplerState(model.family.prior(batch_size, device=device, dtype=dtype))

    def step(
        self, model: Model, state: SamplerState, s: Tensor, t: Tensor, condition: Condition | None = None
    ) -> SamplerState:
        family, x = model.family, model.output(state.params, s, condition).sample()
        if self.each_row:
            s, t = s.expand(len(numbers(x)[0])), t.expand(len(numbers(x)[0]))
        alpha = family.accuracy(s, t)
        with seeded(0, "messages"):
            y = family.sender(x, alpha).sample()
        params = family.update(state.params, y, alpha)
        drawn = family.draw_update(state.params, x, alpha)
        for before, after in ((state.params, params), (state.params, drawn)):
            assert [v.dtype for v in numbers(before)] == [v.dtype for v in numbers(after)]
        return SamplerState(params)


@EVERY_FAMILY
@pytest.mark.parametrize("each_row", [False, True])
def test_a_message_and_an_update_keep_the_dtype_of_the_beliefs(family: Family[Any], each_row: bool) -> None:
    """Times, and so accuracies, are float64: as scalars, or one for each row."""
    bfn = network(family)
    kinds = {}
    for dtype in (torch.float32, DOUBLE):
        with seeded(1, "samples"):
            x = bfn.to(dtype).sample(20, n_steps=6, sampler=ByDefinition(each_row))
        assert all(bool(torch.isfinite(v).all()) for v in numbers(x))
        kinds[dtype] = [v.dtype for v in numbers(x)]
    assert kinds[DOUBLE] == [DOUBLE if kind.is_floating_point else kind for kind in kinds[torch.float32]]
    assert DOUBLE not in kinds[torch.float32]
