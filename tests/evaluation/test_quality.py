"""What ``python -m benchmarks.quality`` measures with: distances, and models that know the posterior."""

from __future__ import annotations

import itertools
import math
from pathlib import Path
from typing import Any

import attrs
import pytest
import torch
from torch import Tensor

from benchmarks import distances, oracles, quality, standings
from benchmarks.standings import Row
from bfn_categorical import Categorical, CategoricalParams
from bfn_gaussian import Gaussian
from bfn_gaussian_mixture import GaussianMixture
from bfn_markov import Markov
from bfn_toolkit import ODE2, AncestralSampler, ODEMidpoint, Oracle, default_sampler, seeded, w1
from significance import Z

CHAIN = Markov(classes=3, length=4, count=3000, transition=((0.1, 0.8, 0.1), (0.2, 0.2, 0.6), (0.7, 0.1, 0.2)))


@pytest.mark.parametrize(("p", "share"), [(1, 2.0 / math.pi), (2, math.sqrt(0.5))])
def test_sliced_distance_of_a_shift_is_the_mean_of_its_projections(p: int, share: float) -> None:
    with seeded("shift"):
        a = torch.randn(50, 2, dtype=torch.float64)
    # E |u_1|^p of a unit vector in the plane; the mean over 4,096 directions is within 1 % of it, to 3 sigma
    shifted = a + torch.tensor([0.3, 0.4])
    assert distances.sliced(a, shifted, p, directions=4096) == pytest.approx(0.5 * share, rel=0.015)
    assert distances.sliced(a, a.flip(0), p) == pytest.approx(0.0, abs=1e-12)


def test_of_one_number_the_distance_is_that_of_wasserstein() -> None:
    with seeded("line"):
        a, b = torch.randn(2, 400, 1, dtype=torch.float64)
    assert distances.sliced(a, b, 1) == pytest.approx(w1(a, b), rel=1e-12)
    assert distances.sliced(a, a + 0.25, 2) == pytest.approx(0.25, rel=1e-12)
    assert math.isnan(distances.sliced(a, b.index_fill(0, torch.tensor([3]), math.nan), 2))


def test_excess_is_nothing_for_data_and_the_price_of_what_is_unlikely() -> None:
    x = CHAIN.split("test").x
    error = float(CHAIN.log_prob(x).std()) / math.sqrt(len(x))
    assert abs(distances.excess(x, CHAIN)) < Z * error
    price = -math.log(float(CHAIN.stationary[0]) * 0.1**3)
    assert distances.excess(torch.zeros(5, 4, dtype=torch.int64), CHAIN) == pytest.approx(price - CHAIN.entropy()[0])


def test_pairs_that_never_meet_are_at_one() -> None:
    a = torch.zeros(10, 3, dtype=torch.int64)
    assert distances.pairs(a, a) == 0.0
    assert distances.pairs(a, a + 1) == 1.0
    half = torch.cat([a[:5], a[:5] + 1])
    assert distances.pairs(a, half) == pytest.approx(0.5)


def test_posterior_mean_of_a_cloud_is_that_of_the_mixture() -> None:
    means = ((-0.5, 0.1), (0.5, 0.5), (0.0, -0.5))
    mixture, family = GaussianMixture(means, 0.1, count=100), Gaussian((2,))
    oracle = oracles.cloud(family, torch.tensor(means), torch.full((3,), 1.0 / 3.0), 0.1)
    with seeded("cloud"):
        params = family.flow(torch.randn(20, 2), torch.linspace(0.0, 0.9, 20))
    mean = oracle.output(params, torch.zeros(20)).mean
    # float32, whose exponents reach thousands at the end of time
    assert torch.allclose(mean, mixture.exact_output(params).mean, atol=1e-3)


def test_posterior_of_a_chain_is_that_of_all_sequences() -> None:
    family = Categorical((4,), classes=3)
    with seeded("chain"):
        params = CategoricalParams(torch.randn(6, 4, 3), torch.ones(6))
    sequences = torch.tensor(list(itertools.product(range(3), repeat=4)))
    told = params.logits[:, torch.arange(4), sequences].sum(-1)  # (6, 81)
    weights = (told + CHAIN.log_prob(sequences)).softmax(1)
    expected = torch.einsum("bs,slk->blk", weights, torch.nn.functional.one_hot(sequences, 3).double())
    found = family.mean_embedding(oracles.chain(family, CHAIN).output(params, torch.zeros(6)))
    assert torch.allclose(found.double(), expected, atol=1e-5)  # float32


@pytest.mark.parametrize("family", [Gaussian(), Categorical()], ids=str)
def test_what_the_default_chooses_is_measured_as_often(family: Any) -> None:
    measured = {sampler: evaluations for _, sampler, evaluations in quality.samplers(["log-snr"], starts=False)}
    for n in quality.ALL:
        assert n in measured[default_sampler(family, n)]


@pytest.mark.parametrize("sampler", [AncestralSampler(), ODE2(), ODEMidpoint()], ids=str)
def test_a_row_has_exactly_its_evaluations(sampler: Any) -> None:
    count = 0

    class Counted(Oracle):
        def output(self, params: Any, t: Tensor, condition: Any = None) -> Any:
            nonlocal count
            count += 1
            return super().output(params, t, condition)

    oracle = Counted(Gaussian(), GaussianMixture().exact_output)
    x = quality.drawn(lambda i: oracle, sampler)(7, 5, 0)
    assert (count, x.shape) == (5, (7, 1))


def test_page_says_what_is_met_missed_and_not_measured(tmp_path: Path) -> None:
    def row(name: str, **cells: float) -> Row:
        return Row(name, {key.strip("_"): {"far": [value, value]} for key, value in cells.items()})

    rows = [row("fresh data", _=0.1), row("ancestral", _50=0.5, _100=0.4), row("default", _5=0.5, _10=0.3)]
    runs = {"W1": [0.02, 0.05, 0.02], "share": [0.33, 0.24]}
    text = standings.page({"digits": rows}, runs, "command")
    assert "| Q1 | digits: the default at 10, no more than ancestral at 100 | 0.300 | 0.400 | met |" in text
    assert "0.500 | 0.400 | **missed** by 25.0% |" in text
    assert "0.080 | 0.060 | **missed** by 33.3% |" in text
    assert "| Q2 | Markov chain: the default at 10, no more than ancestral at 50 | | | not measured |" in text
    page = tmp_path / "page.md"
    page.write_text("before\n<!-- begin quality -->\nold\n<!-- end quality -->\nafter\n")
    standings.write(page, text)
    assert page.read_text() == f"before\n<!-- begin quality -->\n{text}\n<!-- end quality -->\nafter\n"
    tables = {"digits": [attrs.evolve(rows[1], name="ancestral"), rows[0]][::-1]}
    assert len(standings.figure(tables).axes) == 1
