"""The importance-weighted bound: against exact posteriors, quadrature, a closed form and the bound of one message."""

from __future__ import annotations

import math
from itertools import product
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from benchmarks.oracles import chain
from bfn_categorical import Categorical
from bfn_gaussian import Gaussian
from bfn_markov import Markov
from bfn_siren import Siren
from bfn_toolkit import (
    BFN,
    Batch,
    ConfigError,
    Delta,
    Family,
    Oracle,
    StepCountError,
    importance_bound,
    likelihood_bound,
    seeded,
)
from bfn_toolkit.shapes import map_data
from bfn_toolkit.testing.toys import Toy
from bfn_von_mises import VonMises
from every_family import EVERY_FAMILY, network
from significance import Z

SLOW_CHAIN = Markov(classes=2, length=2, transition=((0.9, 0.1), (0.3, 0.7)))


def log_weights(model: Any, x: Tensor, n_steps: int, particles: int) -> Tensor:
    """The weights of the first chunk, of 64 examples."""
    kept: list[Tensor] = []

    def deal(numbers: range, draw: Any, device: Any) -> list[Tensor]:
        kept.append(draw(0))
        return kept

    importance_bound(model, Batch(x), n_steps=n_steps, particles=particles, deal=deal)
    return kept[0]


@EVERY_FAMILY
def test_under_the_exact_posterior_every_weight_is_the_probability(family: Family[Any]) -> None:
    # Bayes: p(y_1..n) p(x | theta_n) = p(x) p_S(y_1 | x) .. p_S(y_n | x), whatever the messages say.
    toy = Toy.of(family)
    expected = -float(toy.weights.log().mean())
    for n in [family.n_steps] if family.n_steps else (1, 4):
        bound = importance_bound(toy.oracle, Batch(toy.values), n_steps=n, particles=5)
        assert bound.total.value == pytest.approx(expected, abs=1e-4)  # messages about classes are float32
        assert bound.gain.value == pytest.approx(0.0, abs=1e-5)
        assert bound.effective_particles == pytest.approx(5.0, rel=1e-4)


@EVERY_FAMILY
def test_one_particle_is_the_bound_of_message_and_reconstruction(family: Family[Any]) -> None:
    model, n = network(family), family.n_steps or 3
    with seeded(1, "example"):
        x = Toy.of(family).sample(1)
        x = map_data(lambda values: values.float() if values.is_floating_point() else values, x)
    # One example many times, so that errors are those of the draws.
    same = Batch(x, {"label": torch.ones(1, dtype=torch.int64)}).rows(torch.zeros(512, dtype=torch.int64))
    one, bound = (
        importance_bound(model, same, n_steps=n, particles=1),
        likelihood_bound(model, same, n_steps=n, draws=4),
    )
    assert abs(one.total.value - bound.total.value) <= Z * math.hypot(one.total.stderr, bound.total.stderr)
    some = importance_bound(model, same.part(0, 64), n_steps=n, particles=8)
    assert some.gain.value > Z * some.gain.stderr


def two_messages_by_quadrature(beta_1: float) -> Tensor:
    """p(x) of the two-step model of a chain of two sites with two classes, by Gauss-Hermite rules in four dimensions.

    The log-odds of a site grow by N(2 alpha (2 x - 1), 4 alpha), and the output is the exact marginal of each site.
    """
    nodes, mass = np.polynomial.hermite_e.hermegauss(24)
    nodes, mass = torch.from_numpy(nodes), torch.from_numpy(mass / mass.sum())
    joint = (SLOW_CHAIN.stationary.unsqueeze(1) * SLOW_CHAIN.matrix).reshape(2, 2)

    def marginals(first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
        """Probability that each site has class 1, given the log-odds of both."""
        belief = [[joint[a, b] * torch.exp(a * first + b * second) for b in (0, 1)] for a in (0, 1)]
        total = belief[0][0] + belief[0][1] + belief[1][0] + belief[1][1]
        return (belief[1][0] + belief[1][1]) / total, (belief[0][1] + belief[1][1]) / total

    def given(share: tuple[Tensor, Tensor], x: tuple[int, int]) -> Tensor:
        return (share[0] if x[0] else 1 - share[0]) * (share[1] if x[1] else 1 - share[1])

    def heard(alpha: float, x: int) -> Tensor:
        return 2 * alpha * (2 * x - 1) + 2 * math.sqrt(alpha) * nodes

    states, alphas = list(product((0, 1), repeat=2)), (beta_1 / 4, 3 * beta_1 / 4)
    weights = torch.einsum("i,j,k,l->ijkl", mass, mass, mass, mass)
    zero, p = torch.zeros((), dtype=torch.float64), torch.zeros(4, dtype=torch.float64)
    for one, two in product(states, states):
        a, b = heard(alphas[0], one[0]).view(-1, 1, 1, 1), heard(alphas[0], one[1]).view(1, -1, 1, 1)
        c, d = heard(alphas[1], two[0]).view(1, 1, -1, 1), heard(alphas[1], two[1]).view(1, 1, 1, -1)
        path = weights * given(marginals(zero, zero), one) * given(marginals(a, b), two)
        last = marginals(a + c, b + d)
        p += torch.stack([(path * given(last, x)).sum() for x in states])
    return p


def test_mean_weight_is_the_probability_of_the_model_of_n_steps() -> None:
    p = two_messages_by_quadrature(0.5)
    assert float(p.sum()) == pytest.approx(1.0, abs=1e-6)
    x = torch.tensor(list(product((0, 1), repeat=2))).repeat(16, 1)  # rows 0, 4, 8, ... are one example
    model = chain(Categorical((2,), classes=2, beta_1=0.5), SLOW_CHAIN)
    weights = log_weights(model, x, 2, 1000).exp().reshape(16, 4, 1000).movedim(1, 0).flatten(1)
    error = weights.std(1) / math.sqrt(16_000)
    assert float(((weights.mean(1) - p) / error).abs().max()) <= Z
    # It is another law than that of the data, because the sites are drawn one by one.
    off = (p - SLOW_CHAIN.log_prob(x[:4]).exp()).abs() / error
    assert float(off.min()) > 3 * Z


def test_point_outputs_have_the_density_of_their_samples() -> None:
    # y ~ N(m, 1 / alpha), m' = m + (alpha / rho') (y - m), x ~ N(m_n, std^2): all normal.
    family, n = Gaussian((1,), sigma_1=0.3), 3
    model = Oracle(family, lambda params: Delta(params.mean, std=0.4))
    times = family.times(n)
    alphas = family.accuracy(times[:-1], times[1:])
    variance = float((alphas / (1.0 + alphas.cumsum(0)).square()).sum()) + 0.4**2
    x = torch.tensor([[0.0], [0.5], [-1.0], [1.5]], dtype=torch.float64)
    weights = log_weights(model, x, n, 4000).exp().reshape(16, 4, 4000).movedim(1, 0).flatten(1)
    expected = (-0.5 * x[:, 0].square() / variance).exp() / math.sqrt(2 * math.pi * variance)
    error = weights.std(1) / math.sqrt(64_000)
    assert float(((weights.mean(1) - expected) / error).abs().max()) <= Z
    assert float((error / expected).max()) < 0.02


def test_particles_close_the_gap_of_a_markov_chain() -> None:
    data = Markov(classes=4, seed=28)  # 8 sites, H = 5.448
    rows = data.split("test").rows(torch.arange(256))
    surprise = -float(data.log_prob(rows.x).mean())
    model = chain(Categorical((8,), classes=4), data)
    one, some, many = (importance_bound(model, rows, n_steps=10, particles=p) for p in (1, 4, 32))
    # The examples are the same, so only the draws differ: their error is below that of the gain.
    assert one.total.value - some.total.value > Z * some.gain.stderr
    assert some.total.value - many.total.value > Z * many.gain.stderr
    assert 0.0 < many.total.value - surprise < 0.25 * (one.total.value - surprise)
    assert 1.0 == one.effective_particles < some.effective_particles < many.effective_particles < 32.0
    assert (many.n_steps, many.particles, many.dimensions, many.examples) == (10, 32, 8, 256)


def test_figures_are_those_of_the_weights() -> None:
    model = chain(Categorical((2,), classes=2, beta_1=0.5), SLOW_CHAIN)
    x = SLOW_CHAIN.split("test").x[:64]
    w = log_weights(model, x, 2, 6).exp()
    bound = importance_bound(model, Batch(x), n_steps=2, particles=6)
    nats = -w.mean(1).log()
    assert bound.total.value == pytest.approx(float(nats.mean()), rel=1e-12)
    assert bound.total.stderr == pytest.approx(float(nats.std()) / 8.0, rel=1e-12)
    assert bound.gain.value == pytest.approx(float((-w.log().mean(1) - nats).mean()), rel=1e-9)
    assert bound.effective_particles == pytest.approx(float((w.sum(1).square() / w.square().sum(1)).mean()), rel=1e-12)
    assert bound.bits_per_dimension.value == pytest.approx(bound.total.value / (2 * math.log(2)), rel=1e-12)


def test_draws_depend_on_the_seed_and_not_on_who_makes_them() -> None:
    with seeded(0, "weights"):
        model = BFN(Gaussian((2,)), Siren(width=8))
    x = Batch(torch.linspace(-1.0, 1.0, 400).reshape(200, 2))

    def backwards(numbers: range, draw: Any, device: Any) -> list[Tensor]:
        return [draw(number) for number in reversed(numbers)][::-1]

    bound = importance_bound(model, x, n_steps=3, particles=150)
    assert importance_bound(model, x, n_steps=3, particles=150, deal=backwards) == bound
    assert importance_bound(model, x, n_steps=3, particles=150, seed=1) != bound


def test_an_impossible_example_costs_infinitely_many_nats() -> None:
    toy = Toy.of(Categorical((2,), classes=5))
    other = 4 - toy.values[:1]
    bound = importance_bound(toy.oracle, Batch(other), n_steps=2, particles=3)
    assert bound.total.value == math.inf


@pytest.mark.parametrize("particles", [0, -1, 2.5, True])
def test_particles_that_cannot_be_are_refused(particles: Any) -> None:
    model = BFN(Gaussian(), Siren(width=8))
    with pytest.raises(ConfigError, match=r"particles: expected an integer of at least 1.*write particles=64"):
        importance_bound(model, Batch(torch.zeros(2, 1)), n_steps=3, particles=particles)


def test_a_table_of_messages_allows_its_own_number() -> None:
    model = BFN(VonMises(n_steps=6, beta_1=20.0), Siren(width=8))
    with pytest.raises(StepCountError, match="n_steps=6"):
        importance_bound(model, Batch(torch.zeros(2, 1)), n_steps=5, particles=2)
