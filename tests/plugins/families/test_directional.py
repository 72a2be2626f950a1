"""Circle, sphere and rotations: laws of the kit, normalisers and moments, exact receivers, density bounds."""

from __future__ import annotations

import math
from typing import Any

import pytest
import scipy.special
import scipy.stats
import torch
from torch import Tensor

from bfn_directional import Circle, Directional, DirectionalParams, Rotations, Sphere, bfn_families
from bfn_directional.beliefs import Angular, VonMisesFisher
from bfn_directional.matrix_fisher import MatrixFisher
from bfn_directional.outputs import BeliefMixture
from bfn_mlp import MLP
from bfn_toolkit import (
    AncestralSampler,
    BFNError,
    ConfigError,
    ContinuousTimeLoss,
    DataError,
    Experiment,
    Family,
    Oracle,
    Training,
    likelihood_bound,
    seeded,
    train,
)
from bfn_toolkit.testing import verdicts
from bfn_torus import Torus
from significance import Z, ks_against, z_of_mean

DOUBLE = torch.float64
EXAMPLES = {entry.name: entry.examples for entry in bfn_families()}
FAMILIES: dict[str, Directional] = {"circle": Circle(), "sphere": Sphere(), "rotations": Rotations()}
EACH = pytest.mark.parametrize("family", FAMILIES.values(), ids=FAMILIES)
# Every one of these laws takes less than a second of rotations; `bfn check rotations` tries all.
QUICK = (
    "bayes-rule",
    "flow-starts-at-the-prior",
    "zero-accuracy-changes-nothing",
    "channel-coordinates-round-trip",
    "arguments-are-not-changed",
    "dtype-and-device-are-kept",
    "gradients-are-finite",
    "configuration-round-trips",
    "steps-telescope",
)


def tensor(value: Any) -> Tensor:
    return torch.tensor(value, dtype=DOUBLE)


def natural(family: Directional, rows: int, size: float = 1.0, key: str = "v") -> Tensor:
    """Natural parameters (rows, d)."""
    d = math.prod(family.event) * family.channels
    with seeded(0, key):
        return size * torch.randn(rows, d, dtype=DOUBLE)


def uniform(family: Directional, rows: int) -> Tensor:
    """Draws of the uniform distribution that do not use the code under test."""
    if isinstance(family, Circle):
        return 2 * math.pi * torch.rand(rows, 1, dtype=DOUBLE)
    if isinstance(family, Sphere):
        return torch.nn.functional.normalize(torch.randn(rows, 3, dtype=DOUBLE), dim=-1)
    q, r = torch.linalg.qr(torch.randn(rows, 3, 3, dtype=DOUBLE))
    q = q * r.diagonal(dim1=-2, dim2=-1).sign().unsqueeze(-2)
    return q * torch.linalg.det(q)[:, None, None]


VOLUME = {Angular: 2 * math.pi, VonMisesFisher: 4 * math.pi, MatrixFisher: 1.0}


@pytest.mark.parametrize("family", [*EXAMPLES["rotations"], Rotations((2, 3, 3))], ids=repr)
def test_quick_laws_hold_for_rotations(family: Family[Any]) -> None:
    broken = [verdict.fault for verdict in verdicts(family, laws=QUICK, examples=5) if not verdict.passed]
    assert not broken, broken[0]


# Beliefs


@EACH
def test_normaliser_is_the_mean_over_the_uniform_distribution(family: Directional) -> None:
    belief, v = family.belief, natural(family, 1, 1.5)
    with seeded(1, "uniform"):
        x = uniform(family, 400_000)
    phi = belief.embed(x.reshape(-1, *family.event))
    ratio = (phi @ v[0] - belief(v).log_normaliser).exp() * VOLUME[belief]
    assert z_of_mean(ratio, 1.0) <= Z
    assert ratio.std() <= 5  # so that a factor of 1.05 shows
    assert z_of_mean(ratio.unsqueeze(1) * phi, belief(v).expectation[0]) <= Z


@pytest.mark.parametrize("kappa", [0.0, 1e-9, 1e-3, 0.299, 0.301, 4.0, 50.0, 1e3, 2e4])
def test_normalisers_are_the_closed_forms(kappa: float) -> None:
    log_i0 = math.log(scipy.special.i0e(kappa)) + kappa
    assert float(Angular(tensor([0.0, kappa])).log_normaliser) == pytest.approx(
        log_i0 + math.log(2 * math.pi), rel=1e-12
    )
    log_sinhc = kappa + math.log(-math.expm1(-2 * kappa) / (2 * kappa)) if kappa else 0.0
    sphere = VonMisesFisher(tensor([0.0, kappa, 0.0]))
    # below 1e-6 the excess is that at 1e-6
    assert float(sphere.log_normaliser) == pytest.approx(log_sinhc + math.log(4 * math.pi), rel=1e-12, abs=2e-6)
    # of kappa times a rotation, whose angle has the density (1 - cos) / pi: exp(kappa) (I_0 - I_1)(2 kappa)
    bessel = scipy.special.i0e(2 * kappa) - scipy.special.i1e(2 * kappa)
    rotation = MatrixFisher(kappa * torch.eye(3, dtype=DOUBLE).roll(1, 0).flatten())
    # scipy's difference loses 8 kappa eps, and both round their sum
    assert float(rotation.log_normaliser) == pytest.approx(3 * kappa + math.log(bessel), rel=1e-14, abs=4e-11)


@pytest.mark.parametrize("kappa", [1e-9, 1e-3, 0.299, 0.301, 4.0, 50.0, 1e3])
def test_mean_of_the_sphere_is_the_closed_form_in_both_precisions(kappa: float) -> None:
    with_series = kappa / 3 - kappa**3 / 45
    exact = with_series if kappa < 0.01 else 1 / math.tanh(kappa) - 1 / kappa
    for dtype, tolerance in ((DOUBLE, 1e-10), (torch.float32, 4e-6)):  # of 1 / kappa - 1 / tanh in float32, at 0.3
        found = VonMisesFisher(torch.tensor([0.0, 0.0, kappa], dtype=dtype)).expectation
        assert found.dtype == dtype
        assert float(found[2]) == pytest.approx(exact, rel=tolerance)


@EACH
@pytest.mark.parametrize("size", [0.0, 1e-3, 1.0, 30.0])
def test_expectation_is_the_gradient_of_the_normaliser(family: Directional, size: float) -> None:
    v = natural(family, 20, size).requires_grad_()
    (slope,) = torch.autograd.grad(family.belief(v).log_normaliser.sum(), v)
    mean = family.belief(v.detach()).expectation
    assert torch.isfinite(mean).all()
    assert torch.allclose(slope, mean, rtol=1e-9, atol=1e-9)
    step = 1e-5 * natural(family, 20, key="step")
    change = family.belief(v.detach() + step).log_normaliser - family.belief(v.detach() - step).log_normaliser
    # central differences: third derivatives times 1e-10, and rounding of numbers near 100 over the step
    assert torch.allclose(change, 2 * (mean * step).sum(-1), rtol=0, atol=2e-12)


@EACH
@pytest.mark.parametrize("size", [1e-2, 1.0, 30.0])
def test_gradient_of_the_expectation_is_that_of_differences(family: Directional, size: float) -> None:
    v, w = natural(family, 20, size), natural(family, 20, key="w")
    if isinstance(family, Rotations):
        v[0], v[1] = 0.0, 2.0 * torch.eye(3, dtype=DOUBLE).flatten()  # where singular values coincide
        v[2] = torch.diag(tensor([2.0, 2.0, -2.0])).flatten()
    v.requires_grad_()
    (found,) = torch.autograd.grad((family.belief(v).expectation * w).sum(), v)
    h = 1e-4
    for i in range(v.shape[1]):
        step = torch.zeros_like(v)
        step[:, i] = h
        ends = (family.belief(v.detach() + sign * step).expectation for sign in (1, -1))
        up, down = ((end * w).sum(-1) for end in ends)
        assert torch.allclose(found[:, i], (up - down) / (2 * h), rtol=0, atol=1e-6)  # steps of 1e-3, squared


@EACH
@pytest.mark.parametrize("size", [0.0, 2.0, 40.0])
def test_draws_have_the_mean_and_the_variance_of_the_beliefs(family: Directional, size: float) -> None:
    n, v = 50_000, natural(family, 1, size)
    with seeded(2, "draws"):
        phi = family.belief.embed(family.belief(v.expand(n, -1)).sample())
    assert torch.allclose(phi.square().sum(-1), tensor(family.belief.square), rtol=1e-12)
    assert z_of_mean(phi, family.belief(v).expectation[0]) <= Z
    w = natural(family, 1, key="w").requires_grad_()  # the Hessian of ln Z is the covariance
    mean = family.belief(v + w * 0).expectation
    step = 1e-4
    forward, back = (family.belief(v + s * step * w.detach()).expectation for s in (1, -1))
    variance = float(((forward - back) * w.detach()).sum() / (2 * step))
    centred = ((phi - mean.detach()) * w.detach()).sum(-1)
    assert z_of_mean(centred.square(), variance) <= Z


@pytest.mark.parametrize("kappa", [0.0, 0.7, 60.0])
def test_cosine_on_the_sphere_has_its_distribution_function(kappa: float) -> None:
    with seeded(3, str(kappa)):
        x = VonMisesFisher(tensor([0.0, kappa, 0.0]).expand(50_000, 3)).sample()
    w = x[:, 1].sort().values
    cdf = torch.expm1(kappa * (w + 1)) / math.expm1(2 * kappa) if kappa else (w + 1) / 2
    assert ks_against(w, cdf) <= 1


def test_angle_of_a_rotation_has_its_density() -> None:
    kappa = 3.0
    with seeded(4, "angle"):
        r = MatrixFisher((kappa * torch.eye(3, dtype=DOUBLE)).flatten().expand(50_000, 9)).sample()
    assert (torch.linalg.det(r) > 0).all()
    assert (r.mT @ r - torch.eye(3, dtype=DOUBLE)).abs().max() <= 1e-14  # 16 eps, of products of three
    cosine = (0.5 * (r.diagonal(dim1=-2, dim2=-1).sum(-1) - 1)).clamp(-1, 1)
    angle = cosine.arccos().sort().values
    grid = torch.linspace(0, math.pi, 20_001, dtype=DOUBLE)
    density = (2 * kappa * (grid.cos() - 1)).exp() * (1 - grid.cos())
    cdf = torch.cumulative_trapezoid(density, grid)
    reference = torch.cat([torch.zeros(1, dtype=DOUBLE), cdf / cdf[-1]])
    index = torch.searchsorted(grid, angle).clamp(1, 20_000)
    assert ks_against(angle, reference[index]) <= 1


@EACH
def test_extremes_in_float32_are_finite(family: Directional) -> None:
    d = natural(family, 1).shape[1]
    sizes = torch.tensor([0.0, 1e-30, 1e-12, 1e-6, 1e-3, 1.0, 1e3, 1e4])
    with seeded(5, "extremes"):
        directions = torch.randn(500, d)
    v = (sizes[:, None, None] * directions).reshape(-1, d).requires_grad_()
    belief = family.belief(v)
    x = belief.sample()
    terms = (belief.log_normaliser, belief.expectation, belief.log_prob(x))
    for term in terms:
        assert term.dtype == torch.float32
        assert torch.isfinite(term).all()
    sum(term.sum() for term in terms).backward()
    assert torch.isfinite(v.grad).all()
    exact = family.belief(v.detach().double())
    for found, expected in zip(terms[:2], (exact.log_normaliser, exact.expectation), strict=True):
        assert torch.allclose(found.double(), expected, rtol=1e-6, atol=4e-6)  # 8 eps; 2e-6 below kappa = 1e-6
    assert (belief.expectation.norm(dim=-1) <= math.sqrt(belief.square) * (1 + 1e-6)).all()


@EACH
def test_nan_draws_nan_and_ends(family: Directional) -> None:
    v = natural(family, 3).clone()
    v[1, 0] = math.nan
    x = family.belief(v).sample().reshape(3, -1)
    assert torch.isfinite(x).all(-1).tolist() == [True, False, True]


# Output and receiver


def mixture(family: Directional, rows: int = 5, k: int = 3) -> BeliefMixture:
    """An output (rows, 1 site) with components of different sizes."""
    sites = family.site_shape[: len(family.site_shape) - len(family.event)]
    v = natural(family, rows * k, 2.0).reshape(rows, *sites, k, -1)
    with seeded(6, "logits"):
        return BeliefMixture(family.belief, torch.randn(v.shape[:-1], dtype=DOUBLE), v)


@EACH
def test_points_of_the_design_are_balanced(family: Directional) -> None:
    points = family.belief.embed(tensor(family.belief.design))
    n, d = points.shape
    assert torch.allclose(points.sum(0), torch.zeros(d, dtype=DOUBLE), atol=1e-14)
    identity = family.belief.square * n / d * torch.eye(d, dtype=DOUBLE)
    assert torch.allclose(points.T @ points, identity, atol=1e-14)
    if isinstance(family, Rotations):
        assert torch.allclose(torch.linalg.det(tensor(family.belief.design)), torch.ones(n, dtype=DOUBLE))


@EACH
def test_expectation_of_an_affine_function_is_exact(family: Directional) -> None:
    output = mixture(family)
    found = output.expect(lambda x: 2.0 * family.embed(x) - 1.0)
    assert torch.allclose(found.flatten(1), 2.0 * output.expectation.flatten(1) - 1.0, atol=1e-14)  # 16 eps of 3


@EACH
def test_expectation_of_another_function_is_refused(family: Directional) -> None:
    output = mixture(family)
    with pytest.raises(ConfigError, match="affine in its embedding, and this one is not"):
        output.expect(lambda x: family.embed(x).square())
    with pytest.raises(ConfigError, match="affine in its embedding, and this one is not"):
        output.expect(lambda x: x.abs())


def test_an_angle_has_no_mean_but_a_mean_cosine() -> None:
    family = Circle(components=3)
    output, guess = mixture(family), torch.linspace(-3.0, 3.0, 5, dtype=DOUBLE).reshape(5, 1)
    with pytest.raises(ConfigError, match="affine in its embedding, and this one is not"):
        output.expect(lambda x: x - 1.0)
    with pytest.raises(ConfigError, match="affine in its embedding, and this one is not"):
        output.expect(lambda x: (x + x).cos())
    cosine, sine = output.expectation.unbind(-1)
    found = output.expect(lambda x: (guess - x).cos())
    expected = guess.cos() * cosine + guess.sin() * sine
    assert torch.allclose(found, expected, atol=1e-14)  # 16 eps of 3


@EACH
def test_beliefs_expand_as_distributions_of_torch_do(family: Directional) -> None:
    law = family.input(family.from_natural(natural(family, 4, 2.0), torch.ones(4, dtype=DOUBLE)))
    more = law.expand(torch.Size((3, 4)))
    assert (more.batch_shape, more.event_shape) == ((3, 4), law.event_shape)
    with seeded(0, "expand"):
        x = law.sample()
    assert torch.equal(more.log_prob(x), law.log_prob(x).expand(3, 4))
    assert bool(law.support.check(x).all())
    assert "v: torch.Size" in repr(law.base_dist)


@EACH
def test_raw_zeros_leave_the_beliefs_alone(family: Directional) -> None:
    params = family.from_natural(natural(family, 7, 3.0).reshape(7, *family.site_shape, family.channels), torch.ones(7))
    raw = torch.zeros(7, *family.site_shape, family.network_io.out_features, dtype=DOUBLE)
    output = family.output(raw, params)
    with seeded(7, "x"):
        x = uniform(family, 7)
    assert torch.allclose(output.log_prob(x), family.input(params).log_prob(x), rtol=1e-14)


def test_components_differ_from_the_start() -> None:
    family = Sphere(components=4)
    raw = torch.zeros(1, 3, family.network_io.out_features, requires_grad=True)
    output = family.output(raw, family.prior(1))
    output.log_prob(torch.tensor([[0.0, 0.6, 0.8]])).sum().backward()
    gradients = raw.grad[0, :, :4].T
    assert torch.pdist(gradients).min() > 1e-3


@pytest.mark.parametrize("alpha", [1e-3, 1.0, 60.0])
def test_receiver_on_the_circle_is_the_integral_of_senders(alpha: float) -> None:
    family, output = Circle(), mixture(FAMILIES["circle"], rows=4)
    accuracy = torch.full((4,), alpha, dtype=DOUBLE)
    with seeded(8, "y"):
        y = family.sender(output.sample(), accuracy).sample()
    grid = torch.arange(2000, dtype=DOUBLE) * (2 * math.pi / 2000)  # the trapezoid rule is exact to rounding
    terms = [output.log_prob(x) + family.sender(x, accuracy).log_prob(y) for x in (g.expand(4, 1) for g in grid)]
    expected = torch.stack(terms).logsumexp(0) + math.log(2 * math.pi / 2000)
    assert torch.allclose(family.receiver(output, accuracy).log_prob(y), expected, rtol=1e-11, atol=1e-11)


# Data with a known density


class Known:
    """Data of one direction whose density is a mixture of beliefs, and their exact posterior."""

    def __init__(self, family: Directional, k: int = 3) -> None:
        self.family, self.u = family, natural(family, k, 4.0, "data")
        self.log_weights = torch.arange(1.0, k + 1.0, dtype=DOUBLE).log().log_softmax(0)

    def of(self, v: Tensor) -> BeliefMixture:
        tilted = v.unsqueeze(-2) + self.u
        belief = self.family.belief
        growth = belief(tilted).log_normaliser - belief(self.u).log_normaliser
        return BeliefMixture(belief, self.log_weights + growth, tilted)

    def prior(self, rows: int) -> BeliefMixture:
        return self.of(self.family.prior(rows, dtype=DOUBLE).v)

    @property
    def oracle(self) -> Oracle:
        return Oracle(self.family, lambda params: self.of(params.v))


@pytest.mark.parametrize(("name", "n_rows"), [("circle", 50_000), ("sphere", 50_000), ("rotations", 9_000)])
@pytest.mark.parametrize("n", [1, 3, None])
def test_oracle_pays_the_density_for_any_number_of_steps(name: str, n_rows: int, n: int | None) -> None:
    # L(x) = -ln p(x), so that the surplus has mean 0: a bound of a density, with its measure and without a grid
    known = Known(FAMILIES[name])
    prior = known.prior(n_rows)
    with seeded(9, name, str(n)):
        x = prior.sample()
        surplus = known.oracle.nll(x, n_steps=n) + prior.log_prob(x)
    assert z_of_mean(surplus, 0.0) <= Z
    assert surplus.std() / math.sqrt(n_rows) <= 0.06  # so that a lost factor or term shows


@pytest.mark.parametrize(("name", "n_rows"), [("circle", 50_000), ("sphere", 50_000), ("rotations", 4_000)])
@pytest.mark.parametrize("n", [1, 4])
def test_oracle_samples_are_exact_for_any_number_of_steps(name: str, n_rows: int, n: int) -> None:
    known = Known(FAMILIES[name])
    with seeded(10, name, n):
        x = AncestralSampler().sample(known.oracle, n_rows, n_steps=n, dtype=DOUBLE)
    phi = known.family.embed(x).flatten(1)
    assert z_of_mean(phi, known.prior(1).expectation.flatten()) <= Z
    # E[e^{w . phi}] of the mixture is a ratio of normalisers
    w, belief = natural(known.family, 1, 1.0, "w"), known.family.belief
    growth = belief(known.u + w).log_normaliser - belief(known.u).log_normaliser
    assert z_of_mean((phi @ w[0]).exp(), (known.log_weights + growth).logsumexp(0).exp()) <= Z


def test_trained_bound_comes_near_the_entropy_of_the_torus() -> None:
    data = Torus()
    recipe = Training(steps=150, batch_size=512, lr=3e-3)
    run = train(Experiment(data, Circle(data.site_shape), MLP(width=64, depth=1), ContinuousTimeLoss("unit"), recipe))
    test = data.split("test")
    exact = float(-data.log_prob(test.x.double()).mean())
    bound = likelihood_bound(run.model, test, draws=16)
    uniform_price = 2 * math.log(2 * math.pi)  # 3.68 nats
    assert exact - 0.1 <= bound.total.value <= 1.12 * exact < uniform_price


# Data and configuration


def test_angles_are_wrapped() -> None:
    family = Circle((3,))
    x = tensor([[-3.1, 0.2, 3.0]])
    far = x + 2 * math.pi * tensor([[1, -2, 3]])
    family.check_data(far)
    assert torch.allclose(family.embed(x), family.embed(far), atol=1e-14)  # 16 eps of 20
    params = family.from_natural(natural(family, 3, 3.0).reshape(1, 3, 2), torch.ones(1, dtype=DOUBLE))
    assert torch.allclose(family.input(params).log_prob(x), family.input(params).log_prob(far), atol=1e-13)
    with seeded(11):
        assert family.input(family.prior(1000)).sample().abs().max() <= math.pi + 1e-6


@pytest.mark.parametrize(
    ("family", "x", "message"),
    [
        (Circle((2,)), torch.zeros(4, 3), r"shape \(B, 2\)"),
        (Circle((2,)), torch.zeros(4, 2, dtype=torch.long), r"x.float\(\)"),
        (Circle((2,)), torch.tensor([[0.0, 1.0], [math.nan, 0.0]]), r"finite.*\(1, 0\)"),
        (Sphere(), torch.tensor([[1.0, 0.0, 0.0], [1.0, 0.1, 0.0]]), r"unit vectors.*index \(1,\)"),
        (Rotations(), torch.eye(3).expand(2, 3, 3) * 1.1, r"rotation matrices.*2 in all"),
        (Rotations(), torch.diag(torch.tensor([1.0, 1.0, -1.0])).unsqueeze(0), "rotation matrices"),
    ],
    ids=("shape", "integers", "nan", "length", "scale", "mirror"),
)
def test_data_outside_the_domain_are_refused(family: Directional, x: Tensor, message: str) -> None:
    with pytest.raises(DataError, match=message):
        family.check_data(x)


@EACH
def test_data_of_the_domain_are_accepted(family: Directional) -> None:
    with seeded(12, "data"):
        family.check_data(uniform(family, 100).float())


@pytest.mark.parametrize(
    "build",
    [
        lambda: Circle((0,)),
        lambda: Sphere((2,)),
        lambda: Rotations((3,)),
        lambda: Circle(sigma_1=0.0),
        lambda: Circle(sigma_1=math.nan),
        lambda: Circle(components=0),
        lambda: Rotations(sigma_1=0.001),
    ],
)
def test_configurations_that_make_no_sense_are_refused(build: Any) -> None:
    with pytest.raises((ValueError, BFNError)):
        build()


def test_params_carry_all_that_was_told() -> None:
    family = Sphere((2, 3))
    params = family.prior(4, dtype=DOUBLE)
    assert isinstance(params, DirectionalParams)
    assert params.v.shape == (4, 2, 3)
    with seeded(13):
        told = family.draw_update(params, family.input(params).sample(), torch.full((4,), 2.0, dtype=DOUBLE))
    assert torch.equal(told.accuracy, torch.full((4,), 2.0, dtype=DOUBLE))
    assert family.features(told).shape == (4, 2, 3, 1)
