"""Laws that every family, every additive one, every channel and every data set obeys, and closed forms of the
sphere."""

import math

import numpy as np
import pytest
import torch
from bfn_siren import Siren
from bfn_toolkit import (
    AncestralSampler,
    Batch,
    ContinuousTimeLoss,
    DataError,
    Experiment,
    Oracle,
    Training,
    likelihood_bound,
    seeded,
    train,
)
from bfn_toolkit.testing import parametrize_datasets, parametrize_families
from scipy.stats import kstest
from torch.nn import functional as F

from bfn_sphere import FisherOutput, SphereCaps, SpherePoints, VonMisesFisher

P = 1e-6  # false alarms of each test of a sample
CONCENTRATIONS = [0.0, 1e-12, 1e-3, 0.5, 0.999, 1.001, 20.0, 1e4]


@parametrize_families(SpherePoints(), SpherePoints(site_shape=(2, 3), sigma_1=0.3))
def test_law(law, family):
    law(family)


@parametrize_datasets(SphereCaps(), SphereCaps(centres=((0, 0, -2),), concentration=0.1, count=9, seed=1))
def test_law_of_data(law, dataset):
    law(dataset)


def directed(concentration, direction=(2.0, -1.0, 2.0)):
    """Natural parameters, with shape (3,)."""
    return concentration * F.normalize(torch.tensor(direction, dtype=torch.float64), dim=0)


def cosine_cdf(k):
    """Distribution function of the cosine with the mean direction, for arrays: (e^kw - e^-k) / (e^k - e^-k)."""
    if k < 1e-9:
        return lambda w: (1.0 + w) / 2.0
    return lambda w: np.exp(k * (w - 1.0)) * np.expm1(-k * (1.0 + w)) / np.expm1(-2.0 * k)


@pytest.mark.parametrize("k", CONCENTRATIONS)
def test_the_density_integrates_to_one(k):
    depth = min(2.0, 60.0 / max(k, 1.0))  # depth of a cap that holds all but e^-60 of the probability
    below = torch.linspace(0.0, depth, 100_001, dtype=torch.float64)
    x = torch.stack([(below * (2.0 - below)).sqrt(), torch.zeros_like(below), 1.0 - below], -1)
    density = VonMisesFisher(directed(k, (0.0, 0.0, 1.0))).log_prob(x).exp()
    assert abs(2.0 * math.pi * torch.trapezoid(density, below) - 1.0) < 1e-7  # (60 / 1e5)^2 / 12 of the trapezoids


@pytest.mark.parametrize("k", CONCENTRATIONS)
def test_the_mean_is_the_gradient_of_the_normaliser(k):
    v = directed(k).requires_grad_()
    # ln(4 pi sinh(k) / k) as a series where it cancels
    square = v.square().sum()
    near = square / 6 - square.square() / 180
    length = square.sqrt()
    log_z = near if k < 1e-2 else length + torch.log(-torch.expm1(-2.0 * length) / (2.0 * length))
    (expected,) = torch.autograd.grad(log_z, v)
    mean = VonMisesFisher(v.detach()).mean
    # The next term of the series of ln Z is k^6 / 2835; the rest is rounding.
    torch.testing.assert_close(mean, expected, rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("k", CONCENTRATIONS)
def test_draws_have_the_distribution_of_the_cosine_and_no_preferred_side(k):
    v = directed(k, (0.0, 0.0, -1.0)).expand(20_000, 3)
    with seeded("draws"):
        x = VonMisesFisher(v).sample()
    torch.testing.assert_close(torch.linalg.vector_norm(x, dim=-1), torch.ones(20_000, dtype=x.dtype))
    assert kstest(-x[:, 2].numpy(), cosine_cdf(k)).pvalue > P
    azimuth = torch.atan2(x[:, 1], x[:, 0]) / (2.0 * math.pi) + 0.5
    assert kstest(azimuth.numpy(), "uniform").pvalue > P


def test_draws_with_a_sample_shape():
    with seeded(0):
        x = VonMisesFisher(torch.stack([directed(3.0), directed(0.0)])).sample((4, 5))
    assert x.shape == (4, 5, 2, 3)
    assert len(torch.unique(x.reshape(-1, 3), dim=0)) == 40


@pytest.mark.parametrize("k", [0.0, 1e-20, 1e-3, 1.0, 1e8])
def test_float32_stays_on_the_sphere_and_finite(k):
    distribution = VonMisesFisher(directed(k).float().expand(1000, 3))
    with seeded(0):
        x = distribution.sample()
    assert x.dtype == torch.float32
    assert ((torch.linalg.vector_norm(x, dim=-1) - 1.0).abs() < 1e-6).all()
    assert distribution.log_prob(x).isfinite().all()
    assert ((distribution.mode.square().sum(-1) - 1.0).abs() < 1e-6).all()


def test_parameters_that_are_no_numbers_give_draws_that_are_none():
    assert VonMisesFisher(torch.full((2, 3), torch.nan)).sample().isnan().all()


@pytest.mark.parametrize("alpha", [1e-3, 1.0, 50.0])
def test_the_receiver_has_its_closed_form(alpha):
    family, v = SpherePoints(), directed(2.0).expand(64, 3)
    alphas = torch.full((64,), alpha, dtype=torch.float64)
    receiver = family.receiver(FisherOutput(v), alphas)
    with seeded(0):
        y = receiver.sample()

    def log_z(k):
        return k + torch.log(-2.0 * math.pi * torch.expm1(-2.0 * k) / k)

    after = torch.linalg.vector_norm(v + y.squeeze(-1), dim=-1)
    normal = -0.5 * y.square().sum((1, 2)) / alpha - 1.5 * math.log(2.0 * math.pi * alpha)
    expected = normal - 0.5 * alpha + log_z(after) - log_z(torch.tensor(2.0, dtype=torch.float64))
    torch.testing.assert_close(receiver.log_prob(y), expected, rtol=1e-12, atol=1e-10)  # terms up to 1e3


def test_a_receiver_draws_with_a_sample_shape():
    receiver = SpherePoints(site_shape=(2, 3)).receiver(FisherOutput(torch.ones(5, 2, 3)), torch.ones(5))
    assert receiver.sample((4, 3)).shape == (4, 3, 5, 2, 3, 1)
    assert receiver.sample().shape == (5, *receiver.event_shape)


CAP = directed(4.0)


def exact_posterior(params):
    """The posterior of data that are von Mises-Fisher with natural parameters CAP: an output of the family itself."""
    return FisherOutput(params.v + CAP)


@pytest.mark.parametrize("n_steps", [1, 10, None])
def test_the_bound_of_the_exact_posterior_is_the_entropy(n_steps):
    with seeded("entropy"):
        x = VonMisesFisher(CAP).sample((2000,))
    oracle = Oracle(SpherePoints(sigma_1=0.2), exact_posterior)
    bound = likelihood_bound(oracle, Batch(x), n_steps=n_steps, draws=10).total
    entropy = -math.log(4.0 / (4.0 * math.pi * math.sinh(4.0))) - 4.0 * (1.0 / math.tanh(4.0) - 0.25)
    assert abs(bound.value - entropy) < 5.0 * bound.stderr
    assert bound.stderr < 0.05


@pytest.mark.parametrize("n_steps", [1, 5])
def test_the_exact_posterior_is_sampled_in_any_number_of_steps(n_steps):
    oracle = Oracle(SpherePoints(), exact_posterior)
    with seeded("samples"):
        x = oracle.sample(20_000, n_steps=n_steps, sampler=AncestralSampler()).double()
    assert kstest((x @ CAP / 4.0).numpy(), cosine_cdf(4.0)).pvalue > P


def test_the_caps_are_learned():
    data, training = SphereCaps(), Training(steps=120, batch_size=256, lr=0.01)
    model = train(Experiment(data, SpherePoints(), Siren(width=64), ContinuousTimeLoss(), training)).model
    with seeded(0):
        x = model.sample(1000, n_steps=50)
    torch.testing.assert_close(torch.linalg.vector_norm(x, dim=-1), torch.ones(1000))
    # A third each: 0.05 is over 3 standard errors of 1,000 samples, and 0.1 allows for the short training.
    assert all(abs(share - 1.0 / 3.0) < 0.15 for share in data.mode_shares(x).values())
    nearest = (x @ torch.eye(3)).amax(-1)
    assert nearest.mean() > 0.9  # 0.98 for the data, 0.84 for directions at random


def test_a_cap_has_its_centre_and_its_concentration():
    caps = SphereCaps(centres=((0.0, 3.0, 0.0), (0.0, -1.0, 0.0)), concentration=30.0, count=5000)
    x = caps.split("all").x
    assert x.shape == (10_000, 3)
    height = x[:, 1].double()
    for cap in (height[height > 0.0], -height[height < 0.0]):
        assert len(cap) == 5000
        assert kstest(cap.numpy(), cosine_cdf(30.0)).pvalue > P
    assert caps.mode_shares(x) == {"(0.0, 3.0, 0.0)": 0.5, "(0.0, -1.0, 0.0)": 0.5}


def test_the_test_points_are_others():
    test, rest = (SphereCaps(count=50).split(name).x for name in ("test", "all"))
    assert (test.unsqueeze(1) - rest).abs().amax(-1).amin() > 0.0


def test_data_off_the_sphere_are_refused():
    SpherePoints().check_data(torch.tensor([[0.6, 0.0, 0.8]]))
    faults = ((2.0, r"unit vectors, found one of length 2 at index \(1,\)"), (math.nan, r"finite data, found nan"))
    for row, words in faults:
        with pytest.raises(DataError, match=f"expects {words}"):
            SpherePoints().check_data(torch.tensor([[0.0, 0.0, 1.0], [0.0, 0.0, row]]))
    with pytest.raises(DataError, match=r"floating-point data, found torch.int64"):
        SpherePoints().check_data(torch.tensor([[0, 0, 1]]))


@pytest.mark.parametrize("site_shape", [(), (2,), (3, 2)])
def test_sites_that_are_no_vectors_are_refused(site_shape):
    with pytest.raises(ValueError, match="site_shape must end in 3"):
        SpherePoints(site_shape=site_shape)


@pytest.mark.parametrize("centres", [(), ((0.0, 0.0, 0.0),), ((1.0, 0.0),), ((1.0, math.nan, 0.0),)])
def test_centres_that_are_no_directions_are_refused(centres):
    with pytest.raises(ValueError, match="centres must be vectors of three numbers"):
        SphereCaps(centres=centres)
