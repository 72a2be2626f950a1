"""Samplers whose sites or parts have times of their own, under exact posteriors."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import attrs
import pytest
import torch
from torch import Tensor

from bfn_categorical import Categorical
from bfn_gaussian import Gaussian
from bfn_toolkit import (
    BFN,
    ODE2,
    SDE2,
    AncestralSampler,
    AnyOrderSampler,
    ChannelFamily,
    ChurnSampler,
    ConfigError,
    Finite,
    FlowSampler,
    GeometricSchedule,
    GivenGrid,
    KnownFirstSampler,
    NetworkIO,
    ODEMidpoint,
    Oracle,
    PartTimesSampler,
    ProductFamily,
    StepCountError,
    seeded,
)
from bfn_toolkit.shapes import leaves
from bfn_toolkit.testing.sampler_laws import PAIRS, VALUES, WEIGHTS, _paired, _Recorder
from bfn_toolkit.testing.toys import Evidence, Line
from every_family import EVERY_FAMILY

ORACLE = Oracle(Line(network_io=NetworkIO((2,))), _paired)
SOLVERS: list[Any] = [AncestralSampler(), ChurnSampler(), ODE2(), SDE2(), SDE2(slope="signal"), FlowSampler()]


class BySite(torch.nn.Module):
    """Network that reads times by site."""

    site_times = True

    def __init__(self, io: NetworkIO) -> None:
        super().__init__()
        self.map = torch.nn.Linear(2 * io.in_features, io.out_features)

    def forward(self, features: Tensor, t: Tensor, /) -> Tensor:
        t = t if t.ndim == features.ndim else t.view(-1, *(1,) * (features.ndim - 1)).expand(features.shape)
        return self.map(torch.cat([features, t], -1))


def kinds(x: Tensor) -> Tensor:
    """Numbers of the values at the two sites."""
    return (x.unsqueeze(-1) - torch.tensor(VALUES, dtype=x.dtype)).abs().argmin(-1)


def shares(x: Tensor) -> Tensor:
    """Shares of the pairs; what is missing to 1 are values that never go together."""
    kind = kinds(x)
    return torch.stack([(kind == torch.tensor([a, b])).all(1).double().mean() for a, b in zip(*PAIRS, strict=True)])


@pytest.mark.parametrize("sequence", ["random", "given"])
def test_blocks_of_one_site_are_exact_in_any_number_of_steps(sequence: Any) -> None:
    n = 8_000
    for steps in (2, 5):
        with seeded(0, "blocks"):
            x = AnyOrderSampler(sequence=sequence).sample(ORACLE, n, n_steps=steps, dtype=torch.float64)
        slack = 5.0 * (0.25 / n) ** 0.5
        assert torch.allclose(shares(x), torch.tensor(WEIGHTS, dtype=torch.float64), rtol=0, atol=slack)
    with seeded(0, "blocks"):
        together = AncestralSampler().sample(ORACLE, n, n_steps=2, dtype=torch.float64)
    assert not torch.allclose(shares(together), torch.tensor(WEIGHTS, dtype=torch.float64), rtol=0, atol=2.0 * slack)


@pytest.mark.parametrize("sampler", SOLVERS, ids=repr)
def test_a_block_begins_when_the_one_before_is_done(sampler: Any) -> None:
    model = _Recorder(ORACLE)
    free = sampler.nfe(1) == 1
    n = 7 + free
    times: list[Tensor] = []

    class Watch(type(model)):  # type: ignore[misc]
        def output(self, params: Any, t: Any, condition: Any = None) -> Any:
            times.append(t.expand(3, 2))
            accuracy = self.family.schedule.beta(times[-1])
            found = params.accuracy
            assert torch.allclose(found if found.ndim == 2 else found.unsqueeze(1).expand(3, 2), accuracy)
            return super().output(params, t)

    with seeded(1):
        AnyOrderSampler(sampler, sequence="given").sample(Watch(ORACLE), 3, n_steps=n, dtype=torch.float64)
    assert len(times) == AnyOrderSampler(sampler).nfe(n)
    first, second = torch.stack(times)[:, 0].T
    assert bool(((first == 1.0) | (second == 0.0)).all()) or isinstance(sampler, ChurnSampler)
    assert first[-1] == second[-1] == 1.0
    assert len(second[(second > 0.0) & (second < 1.0)].unique()) >= 2


def alike(params: Evidence) -> Finite:
    """Exact posterior at each of two sites with the values -1 and 1, which are equal with probability 0.9."""
    x, signs = torch.tensor([-1.0, 1.0]).to(params.v), torch.tensor([0.9, 0.1]).log().to(params.v)
    own = params.v.unsqueeze(-1) * x  # the other term is the same for both values
    joint = own[:, 0, :, None] + own[:, 1, None, :] + torch.stack([signs, signs.flip(0)])
    return Finite(x, torch.stack([joint.logsumexp(2), joint.logsumexp(1)], 1))


ALIKE = Oracle(Line(GeometricSchedule(0.3), NetworkIO((2,))), alike)
KNOWN = (torch.tensor([1.0, 0.0], dtype=torch.float64), torch.tensor([True, False]))
EXACT_FIRST: list[Any] = [
    *(KnownFirstSampler(sampler) for sampler in (AncestralSampler(), ChurnSampler(), SDE2(), SDE2(slope="signal"))),
    *(AnyOrderSampler(), AnyOrderSampler(SDE2())),
]


@pytest.mark.parametrize("sampler", EXACT_FIRST, ids=repr)
def test_known_sites_come_first_in_the_conditional_distribution(sampler: Any) -> None:
    n = 4_000
    with seeded(0, "known"):
        x = ALIKE.sample(n, n_steps=24, sampler=sampler, known=KNOWN)
    assert bool((x[:, 0] == 1.0).all())
    assert abs(float((x[:, 1] == 1.0).double().mean()) - 0.9) < 0.025


def test_replacement_alone_draws_too_much_in_ignorance() -> None:
    with seeded(0, "known"):
        x = ALIKE.sample(4_000, n_steps=24, sampler=AncestralSampler(), known=KNOWN)
    assert float((x[:, 1] == 1.0).double().mean()) < 0.86


@pytest.mark.parametrize("sampler", [AncestralSampler(), ODE2(), SDE2(), ChurnSampler(), ODEMidpoint()], ids=repr)
def test_equal_times_by_part_are_the_same_bits(sampler: Any) -> None:
    family = ProductFamily({"a": Gaussian(site_shape=(2,)), "b": Categorical((2,), classes=3)})
    bfn = BFN(family, BySite(family.network_io))
    times = sampler.times(bfn, 5)

    def drawn(by_part: bool) -> Any:
        with seeded(3), torch.inference_mode():
            state = sampler.init(bfn, 4, device=torch.device("cpu"), dtype=torch.float32)
            for s, t in pairwise(times):
                state = sampler.step(bfn, state, *((dict.fromkeys("ab", v) if by_part else v) for v in (s, t)))
            return state.params

    one, other = drawn(False), drawn(True)
    assert all(torch.equal(u, v) for u, v in zip(_tensors(one), _tensors(other), strict=True))


def _tensors(params: Any) -> list[Tensor]:
    return [getattr(part, field.name) for part in params.values() for field in attrs.fields(type(part))]


@pytest.mark.parametrize("sampler", [ODE2(), SDE2(), ODE2(slope="signal"), FlowSampler()], ids=repr)
def test_equal_times_by_site_agree_to_rounding(sampler: Any) -> None:
    times = sampler.times(ORACLE, 6)

    def drawn(by_site: bool) -> Tensor:
        with seeded(3), torch.inference_mode():
            state = sampler.init(ORACLE, 4, device=torch.device("cpu"), dtype=torch.float64)
            for s, t in pairwise(times):
                state = sampler.step(ORACLE, state, *((v.expand(4, 2) if by_site else v) for v in (s, t)))
            v: Tensor = state.params.v
            return v

    assert torch.allclose(drawn(True), drawn(False), rtol=1e-10, atol=1e-10)


def test_parts_have_grids_of_their_own() -> None:
    family = ProductFamily({"a": Gaussian(site_shape=(2,)), "b": Categorical((2,), classes=3)})
    bfn, seen = BFN(family, BySite(family.network_io)), []
    late = GivenGrid((0.1, 0.2, 0.3, 1.0))
    for sampler in (AncestralSampler(), ODE2()):
        seen.clear()
        timed = PartTimesSampler({"b": late}, sampler)
        with seeded(0):
            timed.sample(bfn, 3, n_steps=4, on_step=seen.append)
        assert len(seen) == timed.nfe(4)
        one = torch.ones((), dtype=torch.float64)
        for step, t in zip(seen, [0.0, *late.at][-len(seen) :], strict=True):
            beta = family.parts["b"].schedule.beta(one * t)
            assert torch.allclose(step.params["b"].accuracy, beta.float().expand(3), rtol=1e-5)
    with pytest.raises(ConfigError, match="has a grid for 'c', and the data have the parts a, b"):
        PartTimesSampler({"c": late}).sample(bfn, 3, n_steps=4)
    with pytest.raises(StepCountError, match="GivenGrid has 4 times"):
        PartTimesSampler({"b": late}).sample(bfn, 3, n_steps=5)


@EVERY_FAMILY
@pytest.mark.parametrize("sampler", [AnyOrderSampler(), AnyOrderSampler(SDE2())], ids=["ancestral", "sde-2"])
def test_every_family_is_drawn_in_blocks_or_says_why_not(family: Any, sampler: Any) -> None:
    bfn, n_steps = BFN(family, BySite(family.network_io)), family.n_steps or 9
    channels = all(isinstance(part.family, ChannelFamily) for part in family.walk())
    if not channels and (family.n_steps or sampler != AnyOrderSampler()):
        with pytest.raises((ConfigError, StepCountError), match=r"ChannelFamily|was built with|one time for all sites"):
            bfn.sample(5, n_steps=n_steps, sampler=sampler)
        return
    with seeded(0):
        x = bfn.sample(5, n_steps=n_steps, sampler=sampler)
    family.check_data(x)
    assert all(part.isfinite().all() for part in leaves(x))


def test_what_cannot_be_is_an_error_with_the_line_to_write() -> None:
    with pytest.raises(StepCountError, match=r"2 blocks need at least 3 steps, got n_steps=2; .*block=2"):
        AnyOrderSampler(ODE2()).sample(ORACLE, 2, n_steps=2)
    with pytest.raises(ConfigError, match="midpoint solver has one time for all sites; write ODE2"):
        AnyOrderSampler(ODEMidpoint()).sample(ORACLE, 2, n_steps=8)
    for wrong in (AnyOrderSampler(), KnownFirstSampler(), PartTimesSampler()):
        with pytest.raises(ValueError, match="cannot be inside"):
            KnownFirstSampler(wrong)
