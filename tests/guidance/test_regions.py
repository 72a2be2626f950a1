"""Regions: every sample is inside, and follows the conditional distribution of a joint that is known."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from scipy.stats import chi2
from torch import Tensor

from bfn_columns import Columns, Histogram
from bfn_gaussian import Gaussian
from bfn_masked import Masked
from bfn_mlp import MLP
from bfn_toolkit import (
    BFN,
    AnyOrderSampler,
    ConfigError,
    Draws,
    Finite,
    InpaintedModel,
    Observed,
    Oracle,
    Output,
    Region,
    RegionSampler,
    class_logits,
    seeded,
)
from significance import RARE, Z

SIZES = (2, 4, 5)
with seeded(0, "joint"):
    JOINT = torch.rand(SIZES, dtype=torch.float64) ** 3
    JOINT /= JOINT.sum()


def posterior_logits(params: Any) -> Tensor:
    """Exact log-probabilities of each column given the known classes: (B, 3, 5)."""
    rows = []
    for known in params.x:
        table = JOINT.clone()
        for axis, (k, size) in enumerate(zip(known.tolist(), SIZES, strict=True)):
            if k < max(SIZES):
                index = [slice(None)] * 3
                index[axis] = torch.arange(size) != k  # type: ignore[call-overload]
                table[tuple(index)] = 0.0
        each = [table.sum([other for other in range(3) if other != axis]) for axis in range(3)]
        rows.append(torch.stack([torch.cat([p, p.new_zeros(max(SIZES) - len(p))]) for p in each]))
    return torch.stack(rows).log().clamp_min(-1e6)


class Exact(Oracle):
    """The joint as a model, whose posterior is computed once for each pattern of known classes."""

    def __init__(self, family: Any) -> None:
        super().__init__(family, self.of)
        patterns = torch.cartesian_prod(*(torch.tensor([*range(size), max(SIZES)]) for size in SIZES))
        self.place = torch.zeros(6, 6, 6, dtype=torch.int64)
        self.place[tuple(patterns.T)] = torch.arange(len(patterns))
        self.table = posterior_logits(type("Params", (), {"x": patterns})).float()

    def of(self, params: Any) -> Output:
        logits = self.table[self.place[tuple(params.x.T)]]
        return Finite(None, logits) if self.family.is_discrete else Histogram(logits)


LINES, CLASSES = Exact(Columns(SIZES, (False, True, True))), Exact(Masked((3,), classes=5))


def shares(regions: Sequence[Region]) -> Tensor:
    """The joint of classes inside of the regions, not normalised."""
    table = JOINT.clone()
    for region in regions:
        k = torch.arange(SIZES[region.site], dtype=torch.float64)
        inside = torch.zeros_like(k)
        for low, high in zip(region.low, region.high, strict=True):
            inside += (torch.minimum(k + 1, torch.tensor(high)) - torch.maximum(k, torch.tensor(low))).clamp_min(0)
        shape = [1, 1, 1]
        shape[region.site] = -1
        table *= inside.reshape(shape)
    return table


def check(x: Tensor, expected: Tensor) -> None:
    """Pearson's test of classes (N, 3) against a table of probabilities."""
    counts = torch.zeros(SIZES, dtype=torch.float64)
    counts.index_put_(tuple(x.long().T), torch.ones(len(x), dtype=torch.float64), accumulate=True)
    expected = expected / expected.sum() * len(x)
    assert bool((counts[expected == 0.0] == 0.0).all())
    used = expected >= 5.0
    rest, found = expected[~used].sum(), counts[~used].sum()
    statistic = ((counts - expected)[used].square() / expected[used]).sum() + (found - rest) ** 2 / rest.clamp_min(1.0)
    assert float(statistic) < chi2.isf(RARE, int(used.sum())), float(statistic)


ONE = [Region(1, [1.25], [3.5])]
TWO = [Region(1, [0.0, 2.5], [0.5, 4.0]), Region(2, [1.0, 3.75], [2.0, 4.0])]


@pytest.mark.parametrize("particles", [1, 64])
def test_one_region_is_exact_with_any_number_of_particles(particles: int) -> None:
    with seeded(0, "one"):
        x = LINES.sample(10_000, n_steps=4, sampler=RegionSampler(ONE, particles))
    assert bool(ONE[0].contains(x[:, 1]).all())
    check(x, shares(ONE))
    within = x[(x[:, 1] >= 2.0) & (x[:, 1] < 3.0), 1]
    assert abs(float(within.mean()) - 2.5) < Z * (len(within) * 12) ** -0.5  # uniform within a class


def test_several_regions_are_exact_with_many_particles() -> None:
    with seeded(0, "two"):
        x = LINES.sample(10_000, n_steps=4, sampler=RegionSampler(TWO, 64))
    assert all(bool(region.contains(x[:, region.site]).all()) for region in TWO)
    check(x, shares(TWO))


def test_the_error_of_several_regions_is_seen_with_one_particle() -> None:
    """The test above can fail: without particles to choose from, the second region does not act on the first."""
    with seeded(0, "two"):
        x = LINES.sample(10_000, n_steps=4, sampler=RegionSampler(TWO, 1))
    with pytest.raises(AssertionError):
        check(x, shares(TWO))


def test_known_cells_and_regions_hold_together() -> None:
    values, mask = torch.tensor([1.5, 0.0, 0.0]), torch.tensor([True, False, False])
    with seeded(0, "known"):
        x = LINES.sample(10_000, n_steps=4, sampler=RegionSampler(TWO, 64), known=(values, mask))
    assert bool((x[:, 0] == 1.5).all())
    check(x, shares([Region(0, [1.0], [2.0]), *TWO]))


def test_known_cells_may_differ_by_row_and_be_those_of_a_region() -> None:
    n = 8_000
    values = torch.tensor([[0.0, 2.625, 0.0], [0.0, 0.0, 0.0]]).repeat(n // 2, 1)
    mask = torch.tensor([[False, True, False], [False, False, False]]).repeat(n // 2, 1)
    with seeded(0, "rows"):
        x = LINES.sample(n, n_steps=4, sampler=RegionSampler(TWO, 64), known=(values, mask))
    assert bool((x[::2, 1] == 2.625).all())
    check(x[::2], shares([Region(1, [2.0], [3.0]), TWO[1]]))
    check(x[1::2], shares(TWO))
    with pytest.raises(ConfigError, match="no probability under the model for 1 of 4 samples"):
        LINES.sample(
            4,
            n_steps=4,
            sampler=RegionSampler([Region(1, [0.0], [2.0])]),
            known=(values[:4], mask[:4] & (mask.cumsum(0)[:4] == 1)),
        )


def test_classes_have_regions_too() -> None:
    regions = [Region(1, [2.0], [4.0]), Region(2, [0.0], [3.0])]
    with seeded(0, "classes"):
        x = CLASSES.sample(10_000, n_steps=4, sampler=RegionSampler(regions, 64))
    assert x.dtype == torch.int64
    check(x, shares(regions))


@pytest.mark.parametrize("regions", [ONE, TWO])
def test_the_probability_of_the_regions_is_estimated(regions: list[Region]) -> None:
    exact = float(shares(regions).sum())
    with seeded(0, "probability"):
        _, log_mass = RegionSampler(regions, 8).draw(
            LINES, 2_000, condition=None, device=torch.device("cpu"), dtype=torch.float32
        )
    error = float(log_mass.exp().double().std()) / 2_000**0.5 + 1e-6
    assert abs(float(log_mass.exp().double().mean()) - exact) < Z * error


def test_the_error_falls_as_one_over_the_particles() -> None:
    """The distribution of the first of two regions' classes, from the particles' weights, for P and 4 P."""
    exact = shares(TWO).sum((0, 2))
    errors = []
    for particles in (2, 8):
        with seeded(0, "bias"):
            observed, _ = RegionSampler(TWO, particles).draw(
                LINES, 100_000, condition=None, device=torch.device("cpu"), dtype=torch.float32
            )
        found = torch.bincount(observed.values[:, 1].long(), minlength=4) / 100_000
        errors.append(float((found - exact / exact.sum()).abs().max()))
    assert errors[1] < errors[0] / 2.0, errors


def test_rows_are_the_same_whichever_are_drawn_together() -> None:
    bfn = BFN(Columns(SIZES, (False, True, True)), MLP(width=16, time_free=True)).eval()
    with seeded(0, "chunks"):
        draws = Draws.of(bfn, 300, n_steps=4, sampler=RegionSampler(TWO, 8))
    whole = draws.draw(range(300))
    assert all(bool(region.contains(whole[:, region.site]).all()) for region in TWO)
    for rows in (range(32), range(100, 200), range(128, 300)):
        assert torch.equal(draws.draw(rows), whole[rows.start : rows.stop])


def test_without_regions_it_is_the_sampler() -> None:
    with seeded(0, "plain"):
        x = LINES.sample(50, n_steps=4, sampler=AnyOrderSampler())
    with seeded(0, "plain"):
        assert torch.equal(x, LINES.sample(50, n_steps=4, sampler=RegionSampler()))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_points_stay_within_intervals_that_are_hardly_wider_than_a_number(dtype: torch.dtype) -> None:
    low, high = 3.1, 3.1000003
    with seeded(0, "narrow"):
        observed, _ = RegionSampler([Region(2, [low], [high])]).draw(
            LINES, 1_000, condition=None, device=torch.device("cpu"), dtype=dtype
        )
    x = observed.values[:, 2].double()
    assert bool(((x >= low) & (x < high)).all())


def test_intersections_contain_what_both_contain() -> None:
    a, b = Region(0, [0.0, 2.5], [1.0, 7.0]), Region(0, [0.5, 3.0, 6.0], [2.0, 4.0, 9.0])
    x = torch.linspace(0.0, 10.0, 401)
    assert torch.equal((a & b).contains(x), a.contains(x) & b.contains(x))
    assert not (a & Region(0, [1.0], [2.0])).low
    for low, high in itertools.product([[1.0, 0.0], [0.0, -1.0]], [[2.0, 0.5]]):
        with pytest.raises(ConfigError, match="increasing order"):
            Region(0, low, high)


def test_what_has_no_regions_is_refused() -> None:
    gaussian = BFN(Gaussian(site_shape=(3,)), MLP(width=16, site_times=True)).eval()
    with pytest.raises(ConfigError, match="needs an output of classes at each site, found"):
        gaussian.sample(5, n_steps=4, sampler=RegionSampler(ONE))
    with pytest.raises(ConfigError, match="ends at 9, beyond 5 classes"):
        LINES.sample(5, n_steps=4, sampler=RegionSampler([Region(2, [0.0], [9.0])]))
    with pytest.raises(ConfigError, match="one region for each site, with an interval"):
        RegionSampler([Region(1, [0.0], [1.0]), Region(1, [2.0], [3.0])])
    with pytest.raises(ConfigError, match="too narrow"):
        LINES.sample(5, n_steps=4, sampler=RegionSampler([Region(2, [3.1], [3.1 + 1e-9])]))
    with pytest.raises(ConfigError, match="support of numbers"):
        class_logits(Finite(torch.tensor([0.0, 1.0]), torch.zeros(1, 1, 2)))


def test_a_model_with_known_values_is_left_as_it_was() -> None:
    observed = Observed(torch.tensor([[1.5, 0.0, 0.0]]), torch.tensor([[True, False, False]]))
    before = observed.mask.clone()
    RegionSampler(ONE).sample(InpaintedModel(LINES, observed), 1, n_steps=4)
    assert torch.equal(observed.mask, before)
