"""Markov chains: probabilities, entropy and draws against enumeration."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from scipy.stats import chi2
from torch import Tensor

from bfn_markov import Markov
from bfn_toolkit import ConfigError, Experiment
from tests.significance import Z, z_of_mean

CYCLE = ((0.1, 0.9, 0.0), (0.0, 0.2, 0.8), (0.7, 0.0, 0.3))
N = 20_000
GIVEN = Markov(classes=3, length=4, count=N, transition=CYCLE)
DRAWN = Markov(classes=4, length=5, count=N, concentration=0.3, seed=1)
EPS = 2.0**-52


def sequences(dataset: Markov) -> Tensor:
    return torch.tensor(list(itertools.product(range(dataset.classes), repeat=dataset.length)))


@pytest.mark.parametrize("dataset", [GIVEN, DRAWN, Markov(classes=2, length=1)], ids=str)
def test_probabilities_of_all_sequences_add_up_to_one_and_give_the_entropy(dataset: Markov) -> None:
    log_p = dataset.log_prob(sequences(dataset))
    p = log_p.exp()
    assert log_p.dtype == torch.float64
    assert abs(float(p.sum()) - 1.0) <= 1e-12  # of 1,024 roundings and the solution of the linear system
    entropy, error = dataset.entropy()
    assert error == 0.0
    assert abs(float(torch.special.entr(p).sum()) - entropy) <= 1e-12 * (1.0 + entropy)


def test_probability_is_the_product() -> None:
    start = GIVEN.stationary
    found = GIVEN.log_prob(torch.tensor([[0, 1, 2, 2], [2, 0, 0, 1], [0, 2, 2, 2]])).exp()
    expected = torch.tensor([start[0] * 0.9 * 0.8 * 0.3, start[2] * 0.7 * 0.1 * 0.9, 0.0])
    assert torch.allclose(found, expected, rtol=16 * EPS, atol=0)


@pytest.mark.parametrize("dataset", [GIVEN, DRAWN, Markov(classes=27, length=2)], ids=str)
def test_stationary_distribution_stays(dataset: Markov) -> None:
    start, matrix = dataset.stationary, dataset.matrix
    assert float((matrix.sum(1) - 1.0).abs().max()) <= 16 * EPS
    assert abs(float(start.sum()) - 1.0) <= 1e-13  # of the linear system
    assert float((start @ matrix - start).abs().max()) <= 1e-13


@pytest.mark.parametrize("dataset", [GIVEN, DRAWN], ids=str)
def test_draws_have_their_probabilities(dataset: Markov) -> None:
    """Counts of all sequences: chi squared, p > 1e-6 for N = 20,000; impossible ones do not come."""
    p = dataset.log_prob(sequences(dataset)).exp()
    base = dataset.classes ** torch.arange(dataset.length - 1, -1, -1)
    counts = torch.bincount((dataset.split("all").x * base).sum(1), minlength=len(p))
    assert int(counts[p == 0].sum()) == 0
    rare = p * N < 10.0
    counts = torch.cat([counts[~rare], counts[rare].sum().reshape(1)]).double()
    expected = torch.cat([p[~rare], p[rare].sum().reshape(1)]) * N
    statistic = float(((counts - expected).square() / expected.clamp_min(1.0)).sum())
    assert chi2.sf(statistic, len(counts) - 1) > 1e-6


def test_entropy_is_the_mean_price_of_fresh_sequences() -> None:
    dataset = Markov(count=N)
    assert z_of_mean(-dataset.log_prob(dataset.split("test").x), dataset.entropy()[0]) < Z


def test_entropy_of_a_symmetric_chain() -> None:
    dataset = Markov(classes=2, length=10, transition=((0.9, 0.1), (0.1, 0.9)))
    expected = math.log(2.0) - 9 * (0.9 * math.log(0.9) + 0.1 * math.log(0.1))
    assert abs(dataset.entropy()[0] - expected) <= 16 * EPS * expected


def test_facts_are_of_the_data() -> None:
    rows = DRAWN.split("train")
    assert DRAWN.metadata == {"site_shape": (5,), "axes": ("sequence",), "classes": 4}
    assert rows.x.dtype == torch.int64
    assert rows.x.unique().tolist() == [0, 1, 2, 3]


def test_the_chain_is_a_function_of_the_seed() -> None:
    assert torch.equal(DRAWN.matrix, Markov(classes=4, concentration=0.3, seed=1, length=9).matrix)
    assert not torch.equal(DRAWN.matrix, Markov(classes=4, concentration=0.3, seed=2).matrix)
    assert not torch.equal(DRAWN.split("all").x, DRAWN.split("test").x)


@pytest.mark.parametrize(
    ("classes", "transition", "words"),
    [
        (3, ((0.5, 0.5), (0.5, 0.5)), "3 rows of 3 numbers"),
        (2, ((0.5, 0.6), (0.5, 0.5)), "add up to 1"),
        (2, ((1.5, -0.5), (0.5, 0.5)), "probabilities"),
        (2, ((math.nan, 1.0), (0.5, 0.5)), "probabilities"),
        (2, ((1.0, 0.0), (0.0, 1.0)), "no unique stationary distribution"),
        (4, ((0.5, 0.5, 0, 0), (0.1, 0.9, 0, 0), (0, 0, 0.3, 0.7), (0, 0, 0.2, 0.8)), "no unique stationary"),
    ],
)
def test_what_is_no_chain_is_refused(classes: int, transition: tuple[tuple[float, ...], ...], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        Markov(classes=classes, transition=transition)


def test_a_class_that_is_left_for_ever_has_probability_zero() -> None:
    dataset = Markov(classes=2, length=3, count=100, transition=((0.5, 0.5), (0.0, 1.0)))
    assert torch.allclose(dataset.stationary, torch.tensor([0.0, 1.0], dtype=torch.float64), rtol=0, atol=16 * EPS)
    assert bool((dataset.split("all").x == 1).all())


def test_the_recipe_is_for_classes() -> None:
    family = Experiment.from_mapping({"dataset": {"name": "markov", "classes": 3}}, base="default").family
    assert (type(family).__name__, family.site_shape, family.classes) == ("Categorical", (8,), 3)
