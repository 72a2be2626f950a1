"""Every bound is a bound at every resolution that a family admits, in float32 as in float64."""

from __future__ import annotations

import math
from typing import Any

import attrs
import pytest
import torch
from torch import Tensor

from bfn_categorical import Categorical
from bfn_directional import Circle, Directional, Rotations, Sphere
from bfn_directional.matrix_fisher import MatrixFisher
from bfn_directional.outputs import BeliefMixture
from bfn_gaussian import DataHead, Gaussian, GaussianParams, Head, NoiseHead, SkipHead
from bfn_gaussian_heads import DiscretisedHead, DiscretisedMixtureHead, MixtureHead
from bfn_gaussian_mixture import GaussianMixture
from bfn_toolkit import ChannelFamily, ConfigError, DataError, Family, Oracle, expand, kl, seeded, von_mises
from bfn_toolkit.testing.toys import Toy
from bfn_von_mises import VonMises
from significance import Z, z_of_mean, z_of_variance

DOUBLE = torch.float64
DTYPES = pytest.mark.parametrize("dtype", [torch.float32, DOUBLE], ids=str)
STEPS = pytest.mark.parametrize("n", [1, 4, None])
DIRECTIONS = [
    Circle(sigma_1=1e-4),
    Circle(sigma_1=0.9),
    Sphere(sigma_1=1e-4),
    Sphere(sigma_1=0.9),
    Rotations(sigma_1=0.01),
]
CHANNELS = [
    *DIRECTIONS,
    Gaussian(sigma_1=5e-7),
    Gaussian(sigma_1=0.9),
    Categorical(classes=2, beta_1=1e6),
    Categorical(classes=27, beta_1=1e4),
    Categorical(classes=27, beta_1=1e-6),
]


def surplus(nll: Tensor, entropy: float | Tensor) -> tuple[float, float]:
    """Mean of the nats above the entropy, and its standard error."""
    nats = nll.double() - entropy
    assert torch.isfinite(nats).all()
    return float(nats.mean()), float(nats.std() / math.sqrt(len(nats)))


def uniform(family: Directional, rows: int, dtype: torch.dtype) -> tuple[Tensor, float]:
    """Draws of the uniform distribution, and its entropy."""
    prior = family.input(family.prior(rows, dtype=DOUBLE))
    x = prior.sample()
    return x.to(dtype), -float(prior.log_prob(x)[0])


@DTYPES
@STEPS
@pytest.mark.parametrize("family", DIRECTIONS, ids=repr)
def test_directions_cost_their_entropy(family: Directional, n: int | None, dtype: torch.dtype) -> None:
    # For uniform directions the beliefs are the posterior, so the bound is the entropy.
    oracle = Oracle(family, lambda p: BeliefMixture(family.belief, torch.zeros_like(p.v[..., :1]), p.v.unsqueeze(-2)))
    with seeded(0, "uniform"):
        x, entropy = uniform(family, 3_000 if isinstance(family, Rotations) else 20_000, dtype)
        mean, error = surplus(oracle.nll(x, n_steps=n), entropy)
    assert abs(mean) <= Z * error
    assert error <= 0.3 if n is None else error <= 0.13


@DTYPES
@STEPS
@pytest.mark.parametrize("sigma_1", [5e-7, 1e-4, 0.9])
@pytest.mark.parametrize("means", [(0.0,), (-0.75, -0.25, 0.25, 0.75)], ids=len)
def test_mixtures_cost_their_entropy(
    means: tuple[float, ...], sigma_1: float, n: int | None, dtype: torch.dtype
) -> None:
    mixture, family = GaussianMixture(means=means, std=0.05 if means[1:] else 0.9), Gaussian(sigma_1=sigma_1)
    with seeded(1, "mixture"):
        x = mixture._prior(torch.empty(20_000, 1, dtype=DOUBLE)).sample().to(dtype)
        family.check_data(x)
        nll = Oracle(family, mixture.exact_output).nll(x, n_steps=n)
    mean, error = surplus(nll, -mixture.log_prob(x.double()))
    assert abs(mean) <= Z * error


def linear_raw(head: Head, params: GaussianParams) -> Tensor:
    """Raw numbers for the posterior of standard normal data: N(mean, 1 / precision)."""
    mean, beta = params.mean.unsqueeze(-1), (params.precision - 1.0).clamp_min(1e-6)
    point = getattr(head, "point", head)
    raw = {DataHead: mean, NoiseHead: mean / expand(beta.sqrt(), mean), SkipHead: torch.zeros_like(mean)}[type(point)]
    count = getattr(head, "count", 1)
    parts = [raw] if head is point else [raw] * count + [torch.zeros_like(raw)] * count
    return torch.cat([*([torch.zeros_like(raw)] * count if count > 1 else []), *parts], -1)


POINTS = [DataHead(), SkipHead(), NoiseHead(clip=math.inf)]
BINS = [DiscretisedHead(bins=k) for k in (2, 3, 256, 2**16, 2**24)] + [DiscretisedMixtureHead(components=3, bins=64)]


@DTYPES
@pytest.mark.parametrize("sigma_1", [6e-7, 0.01])
@pytest.mark.parametrize("head", [*POINTS, MixtureHead(1), MixtureHead(3)], ids=repr)
def test_heads_cost_the_entropy_of_normal_data(head: Head, sigma_1: float, dtype: torch.dtype) -> None:
    family = Gaussian(sigma_1=sigma_1, head=head)
    oracle = Oracle(family, lambda p: family.output(linear_raw(head, p), p))
    with seeded(2, "heads"):
        x = torch.randn(20_000, 1, dtype=DOUBLE).to(dtype)
        family.check_data(x)
        bounds = {n: oracle.nll(x, n_steps=n) for n in (1, 4, None)}
    entropy = 0.5 * x.double().square().squeeze(1) + 0.5 * math.log(2 * math.pi)
    for n, nll in bounds.items():
        mean, error = surplus(nll, entropy)
        assert mean >= -Z * error
        if n is None or isinstance(head, MixtureHead):  # a point does not receive whole messages as well
            assert mean <= Z * error


@DTYPES
@pytest.mark.parametrize("sigma_1", [6e-7, 0.01])
@pytest.mark.parametrize("head", BINS, ids=repr)
def test_bins_cost_at_least_their_entropy(head: Any, sigma_1: float, dtype: torch.dtype) -> None:
    family = Gaussian(sigma_1=sigma_1, head=head)
    oracle = Oracle(family, lambda p: family.output(linear_raw(head, p), p))
    with seeded(3, "bins"):
        index = torch.randint(head.bins, (20_000, 1))
        x = ((2.0 * index.double() + 1.0 - head.bins) / head.bins).to(dtype)
        family.check_data(x)
        bounds = [oracle.nll(x, n_steps=n) for n in ((1, None) if head.bins <= 3 else (None,))]
    for nll in bounds:
        mean, error = surplus(nll, math.log(head.bins))
        assert mean >= -Z * error - 4 * torch.finfo(dtype).eps
        assert mean <= Z * error + 1.0  # a normal posterior is not exact for uniform bins


@DTYPES
@pytest.mark.parametrize(
    "family", [*CHANNELS, VonMises(n_steps=3, beta_1=1e6), VonMises(n_steps=3, beta_1=0.01)], ids=repr
)
def test_atoms_cost_their_entropy(family: Family[Any], dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    toy, default = Toy.of(family), torch.get_default_dtype()
    if not family.is_discrete:
        toy = attrs.evolve(toy, values=toy.values.to(dtype))
    for n in [family.n_steps] if family.n_steps else [1, 10]:
        torch.set_default_dtype(dtype if family.is_discrete else default)  # classes have no dtype of their own
        try:
            with seeded(4, "atoms"):
                nll = toy.oracle.nll(toy.sample(3_000), n_steps=n)
        finally:
            torch.set_default_dtype(default)
        mean, error = surplus(nll, toy.entropy)
        assert abs(mean) <= Z * error


def in_double(params: Any) -> Any:
    return attrs.evolve(params, **{a.name: getattr(params, a.name).double() for a in attrs.fields(type(params))})


SHARP = [
    attrs.evolve(f, components=2) if isinstance(f, Directional) else f for f in CHANNELS if f != Gaussian(sigma_1=5e-7)
]


@pytest.mark.parametrize("t", [1e-7, 0.5, 1.0])
@pytest.mark.parametrize("family", SHARP, ids=repr)
def test_prices_in_float32_are_those_of_float64(family: Any, t: float) -> None:
    rows, when = 500, torch.full((500,), t)
    with seeded(5, "prices"):
        x = family.input(family.prior(rows)).sample()
        params = family.flow(x, when)
        raw = 0.1 * torch.randn(rows, *family.site_shape, family.network_io.out_features)
        accuracies = [torch.full((rows,), a) for a in (0.01, float(family.schedule.beta(torch.ones(()))))]
        messages = [family.sender(x, alpha).sample() for alpha in accuracies]

    def prices(dtype: torch.dtype) -> list[Tensor]:
        data = x.to(dtype) if x.is_floating_point() else x
        output = family.output(raw.to(dtype), params if dtype == torch.float32 else in_double(params))
        rates = [family.loss_rate(data, output, when.to(dtype)), output.log_prob(data)]
        for alpha, y in zip(accuracies, messages, strict=True):
            sender, receiver = (
                law(o, alpha.to(dtype)) for law, o in ((family.sender, data), (family.receiver, output))
            )
            rates.append(sender.log_prob(y.to(dtype)) - receiver.log_prob(y.to(dtype)))
        return rates

    for found, exact in zip(prices(torch.float32), prices(DOUBLE), strict=True):
        # A message of accuracy 1e8 rounds by 1e-3 of its noise; the largest error seen was 3e-3.
        assert ((found - exact).abs() <= 0.01 * (1.0 + exact.abs())).all()
        assert abs(float((found - exact).mean())) <= 1e-3 * (1.0 + float(exact.abs().mean()))


@pytest.mark.parametrize("t", [1e-7, 1e-3, 1 - 2**-24, 1.0])
@pytest.mark.parametrize("family", [*SHARP, Gaussian(sigma_1=1e-5)], ids=repr)  # at 5e-7, v itself rounds by 0.1 sd
def test_flow_in_float32_is_the_channel(family: ChannelFamily[Any], t: float) -> None:
    rows, when = 20_000, torch.full((20_000,), t)
    with seeded(6, "flow"):
        x = family.input(family.prior(1)).sample().expand(rows, *family.network_io.site_shape)
        v, accuracy = family.natural_params(family.flow(x, when))
    exact = float(family.snr(family.schedule.beta(torch.tensor(float(when[0]), dtype=DOUBLE))))
    data = x.double() if x.is_floating_point() else x
    assert float((accuracy.double() - exact).abs().max()) <= 2e-6 * exact + 1e-7
    noise = (v.double() - accuracy[0].double() * family.embed(data).double()) / math.sqrt(exact)
    assert z_of_mean(noise.flatten(1), 0.0) <= Z
    assert z_of_variance(noise.flatten(1), 1.0) <= Z


def test_data_finer_than_their_rounding_are_refused() -> None:
    x = torch.linspace(-1, 1, 100).unsqueeze(1)
    with pytest.raises(
        DataError, match=r"sigma_1 = 1e-08 is finer than the rounding of torch.float32.*sigma_1 = 5.0e-07"
    ):
        Gaussian(sigma_1=1e-8).check_data(x)
    Gaussian(sigma_1=1e-8).check_data(x.double())
    Gaussian(sigma_1=5e-7).check_data(x)
    with pytest.raises(DataError, match="root mean square of the data, 5"):
        Gaussian(sigma_1=1e-5).check_data(50.0 + x)
    with pytest.raises(DataError, match=r"bfloat16"):
        Gaussian().check_data(x.bfloat16())
    with pytest.raises(ConfigError, match="bins"):
        DiscretisedHead(bins=2**24 + 1)


def test_posterior_of_a_mixture_in_float32_is_that_of_float64() -> None:
    mixture = GaussianMixture(means=(3.0, -1.0, -1.001), std=(0.5, 1e-4, 1e-4))
    for rho in (1.0, 1.001, 1e4, 1e8, 1e12):
        mean = torch.tensor([[3.0], [-1.0], [-1.0004]])
        params = GaussianParams(mean, torch.full((3,), rho))
        found, exact = mixture.exact_output(params), mixture.exact_output(in_double(params))
        assert torch.allclose(found.logits.softmax(1).double(), exact.logits.softmax(1), atol=2e-3)
        assert torch.allclose(found.means.double(), exact.means, rtol=3e-7)
        assert torch.allclose(found.scales.double(), exact.scales, rtol=3e-7)


def test_a_rotation_with_rounding_is_not_likelier_than_the_rotation() -> None:
    law, rotation = MatrixFisher(1e4 * torch.eye(3, dtype=DOUBLE).flatten()), torch.eye(3, dtype=DOUBLE)
    for size in (1e-3, -1e-3):  # the largest that check_data admits
        assert abs(float(law.log_prob((1.0 + size) * rotation) - law.log_prob(rotation))) <= 0.05
    with seeded(7, "rotations"):
        x = law.expand(torch.Size((50,))).sample()
    assert torch.allclose(law.log_prob(x.float()), law.log_prob(x), atol=0.01)


@pytest.mark.parametrize("kappa", [0.0, 1.0, 1e3, 1e6])
def test_divergence_of_von_mises_in_float32_has_its_closed_form(kappa: float) -> None:
    angle, turn = torch.linspace(-3, 3, 101).unsqueeze(1), 3e-3 * torch.linspace(0, 1, 101).unsqueeze(1)
    laws = [von_mises(kappa * torch.stack([a.cos(), a.sin()], -1)) for a in (angle, angle + turn)]
    turn = ((angle + turn).double() - angle.double()).squeeze(1)
    concentration = torch.tensor(kappa, dtype=DOUBLE)
    resultant = torch.special.i1e(concentration) / torch.special.i0e(concentration)
    exact = 2.0 * kappa * resultant * (turn / 2).sin().square()
    # each unit vector rounds by 1e-7, which costs kappa times the turn times that
    assert ((kl(*laws) - exact).abs() <= 1e-7 + 4e-7 * kappa * turn + kappa * 1e-13).all()
