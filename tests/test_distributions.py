"""Laws of distributions over data and messages: averages, draws, densities and mixtures."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import scipy.special
import scipy.stats
import torch
from hypothesis import given, strategies as st
from torch import Tensor
from torch.distributions import Categorical, Distribution, Independent, MixtureSameFamily, Normal

from bfn_toolkit import (
    Binned,
    ConfigError,
    Delta,
    Finite,
    Joint,
    JointOutput,
    Mixture,
    NormalMixture,
    Output,
    SiteNormalMixture,
    VonMises,
    as_batch,
    kl,
    normal,
    seeded,
    von_mises,
)
from significance import Z, ks_two_sample, z_of_mean, z_of_variance
from strategies import dtypes, tensors, values

N, DOUBLE = 200_000, torch.float64
SUPPORT = torch.tensor([-0.8, 0.1, 0.5], dtype=DOUBLE)
LOGITS = torch.tensor([[[0.3, -1.0, 2.0], [0.0, 0.0, 0.0]]], dtype=DOUBLE)  # one example, two sites, three values
MEANS = torch.tensor([[[-1.0, 0.5], [2.0, 0.0]]], dtype=DOUBLE)  # one example, two components, two sites
SCALES, CHOICE = torch.tensor([[0.3, 1.5]], dtype=DOUBLE), torch.tensor([[0.0, 0.7]], dtype=DOUBLE)

SITE_MEANS = torch.tensor([[[-1.0, 0.5, 2.0], [0.0, 0.1, -0.4]]], dtype=DOUBLE)  # one example, two sites, three parts
SITE_SCALES = torch.tensor([[[0.3, 1.5, 0.2], [0.7, 0.1, 0.4]]], dtype=DOUBLE)


def rows(x: Tensor, n: int = N) -> Tensor:
    return x.expand(n, *x.shape[1:])


def outputs(n: int) -> dict[str, Output]:
    """The same output distribution n times."""
    return {
        "delta": Delta(rows(torch.tensor([[0.2, -0.9]], dtype=DOUBLE), n), 0.1),
        "finite": Finite(SUPPORT, rows(LOGITS, n)),
        "normals": NormalMixture(rows(CHOICE, n), rows(MEANS, n), rows(SCALES, n)),
        "site normals": SiteNormalMixture(rows(LOGITS, n), rows(SITE_MEANS, n), rows(SITE_SCALES, n)),
    }


KINDS = pytest.mark.parametrize("kind", ["delta", "finite", "normals", "site normals"])


@KINDS
def test_draws_have_the_mean(kind: str) -> None:
    output = outputs(N)[kind]
    with seeded(0, kind):
        x = output.sample()
    assert x.shape == output.mean.shape == output.mode.shape == (N, 2)
    assert x.dtype == output.mean.dtype == DOUBLE
    if kind == "delta":
        assert torch.equal(x, output.mean)
    else:
        assert z_of_mean(x, output.mean[0]) <= Z


@KINDS
def test_expectation_is_linear_and_starts_from_the_mean(kind: str) -> None:
    output = outputs(3)[kind]
    assert torch.allclose(output.expect(lambda x: 3 * x - 1), 3 * output.mean - 1, rtol=1e-14)  # float64
    # a function may add axes: an embedding
    stacked = output.expect(lambda x: torch.stack([x, -x], -1))
    assert stacked.shape == (3, 2, 2)
    assert torch.allclose(stacked[..., 1], -output.mean, rtol=1e-14)


NOT_AFFINE: dict[str, Callable[[Tensor], Tensor]] = {
    "square": lambda x: x.square(),
    "cubic": lambda x: (2 * x - 1) ** 3 - x,
    "moments": lambda x: torch.stack([x, x * x], -1),
    "cosine": lambda x: x.cos(),
    "absolute value": lambda x: x.abs(),
    "step": lambda x: (x > 0).double(),
    "relu far away": lambda x: torch.nn.functional.relu(x - 40.0),
    "a product of sites": lambda x: x[:, :1] * x[:, 1:],
    "logarithm": lambda x: x.log(),
}


@pytest.mark.parametrize("name", NOT_AFFINE)
@pytest.mark.parametrize("kind", ["normals", "site normals"])
def test_expectation_of_another_function_is_refused(kind: str, name: str) -> None:
    with pytest.raises(ConfigError, match="this one is not affine; write function"):
        outputs(3)[kind].expect(NOT_AFFINE[name])


@pytest.mark.parametrize("kind", ["normals", "site normals"])
@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e6])
def test_expectation_of_an_affine_function_of_any_size_is_exact(kind: str, scale: float) -> None:
    output = outputs(3)[kind]
    mixed = output.expect(lambda x: scale * (2.0 * x + x.flip(1)) - 7.0)  # sites may be mixed
    assert torch.allclose(mixed, scale * (2.0 * output.mean + output.mean.flip(1)) - 7.0, rtol=1e-13)  # float64


def test_finite_outputs_and_bins_have_exact_second_moments() -> None:
    support = torch.tensor([-1.0, 0.5])
    assert Finite(support, torch.zeros(1, 1, 2)).expect(lambda x: x**2).item() == 0.625
    means, scales = torch.tensor([[[-1.0, 1.0]]]), torch.full((1, 1, 2), 0.5)
    at_sites = SiteNormalMixture(torch.zeros(1, 1, 2), means, scales)
    edges = np.linspace(-1.0, 1.0, 9)
    edges[0], edges[-1] = -np.inf, np.inf
    masses = np.diff(0.5 * (scipy.stats.norm.cdf(edges, -1.0, 0.5) + scipy.stats.norm.cdf(edges, 1.0, 0.5)))
    expected = float((masses * (np.arange(-7, 8, 2) / 8) ** 2).sum())  # of the centres
    assert Binned(at_sites, 8).expect(lambda x: x**2).item() == pytest.approx(expected, rel=1e-6)  # float32


def test_the_second_moment_of_two_normals_is_refused_and_its_draws_have_it() -> None:
    """E[x^2] of +-1 +- 0.5 is 1.25: not the square of the mean, which is 0."""
    mixture = NormalMixture(torch.zeros(N, 2), torch.tensor([[[-1.0], [1.0]]]).expand(N, 2, 1), torch.full((N, 2), 0.5))
    with pytest.raises(ConfigError, match="not affine"):
        mixture.expect(lambda x: x**2)
    with seeded(0, "moments"):
        assert z_of_mean(mixture.sample() ** 2, torch.tensor([1.25])) <= Z


def test_a_constant_is_its_own_expectation() -> None:
    for kind in ("normals", "site normals"):
        assert outputs(3)[kind].expect(lambda x: torch.full_like(x, 2.0)).tolist() == [[2.0] * 2] * 3


def test_expectation_over_all_parts_is_refused() -> None:
    with pytest.raises(TypeError, match="part by part"):
        JointOutput({"a": outputs(1)["delta"]}).expect(lambda x: x)


@KINDS
def test_mix_is_the_law_of_a_message_about_a_draw(kind: str) -> None:
    # Ancestral: x ~ p_O, y ~ kernel(x).  Both ways must give the same law of y, at each site and of their product.
    output = outputs(N)[kind]

    def kernel(x: Tensor) -> Distribution:
        return normal(x, torch.full((len(x),), 0.4, dtype=DOUBLE))

    with seeded(1, kind):
        direct, ancestral = output.mix(kernel).sample(), kernel(output.sample()).sample()
    assert direct.shape == ancestral.shape == (N, 2)
    for function in (lambda y: y[:, 0], lambda y: y[:, 1], lambda y: y[:, 0] * y[:, 1]):
        assert ks_two_sample(function(direct), function(ancestral)) <= 1


@KINDS
def test_mix_has_the_density_that_its_draws_have(kind: str) -> None:
    # Importance: the mean of q(y) / p(y) over y ~ p is 1 for any density q, here a wide normal.
    output = outputs(N)[kind]
    mixed = output.mix(lambda x: normal(x, torch.full((len(x),), 0.4, dtype=DOUBLE)))
    wide = Normal(torch.tensor(0.1, dtype=DOUBLE), 0.3)
    with seeded(2, kind):
        y = mixed.sample()
    ratio = (wide.log_prob(y).sum(1) - mixed.log_prob(y)).exp()
    assert mixed.log_prob(y).shape == (N,)
    assert z_of_mean(ratio, 1.0) <= Z


def test_normal_mixture_density_is_the_definition() -> None:
    output, x = outputs(1)["normals"], torch.tensor([[0.4, -0.3]], dtype=DOUBLE)
    expected = sum(
        w * Normal(mean, scale).log_prob(x[0]).sum().exp()  # one choice for both sites
        for w, mean, scale in zip(CHOICE.softmax(-1)[0], MEANS[0], SCALES[0], strict=True)
    ).log()
    assert torch.allclose(output.log_prob(x), expected, rtol=1e-13)  # float64, plain exponentials
    assert torch.equal(output.mode, MEANS[:, 1])


def test_site_normal_mixture_density_is_the_definition() -> None:
    output, x = outputs(1)["site normals"], torch.tensor([[0.4, -0.3]], dtype=DOUBLE)
    density = (LOGITS.softmax(-1) * Normal(SITE_MEANS, SITE_SCALES).log_prob(x.unsqueeze(-1)).exp()).sum(-1)
    assert torch.allclose(output.log_prob(x), density.log().sum(1), rtol=1e-13)  # float64, plain exponentials
    assert output.mode.tolist() == [[2.0, 0.1]]  # the highest peak, not the largest weight


def test_one_component_needs_no_choice() -> None:
    mean, scale = SITE_MEANS[..., :1], SITE_SCALES[..., :1]
    one, x = SiteNormalMixture(torch.zeros_like(mean), mean, scale), torch.tensor([[0.4, -0.3]], dtype=DOUBLE)
    plain = normal(mean.squeeze(-1), scale.squeeze(-1))
    assert torch.equal(one.mean, plain.mean)
    assert torch.allclose(one.log_prob(x), plain.log_prob(x), rtol=1e-14)  # the same formula
    many = SiteNormalMixture(rows(torch.zeros_like(mean)), rows(mean), rows(scale))
    with seeded(5):
        assert z_of_variance(many.sample(), scale.squeeze().square()) <= Z


def test_finite_prices_a_value_that_is_off_by_rounding() -> None:
    output = outputs(1)["finite"]
    for value in SUPPORT:
        exact = output.log_prob(value.expand(1, 2))
        for off in (-1e-7, 1e-7):  # in float32, as data may come
            assert torch.equal(output.log_prob((value + off).expand(1, 2).float()), exact)


def test_finite_density_and_mode_are_the_definition() -> None:
    output, weights = outputs(1)["finite"], LOGITS.softmax(-1)[0]
    total = 0.0
    for i, a in enumerate(SUPPORT):
        for j, b in enumerate(SUPPORT):
            price = output.log_prob(torch.stack([a, b]).unsqueeze(0))
            assert torch.allclose(price, (weights[0, i] * weights[1, j]).log(), rtol=1e-13)
            total += price.exp().item()
    assert abs(total - 1) <= 1e-14
    assert output.mode[0, 0] == SUPPORT[2]


def test_finite_draws_each_value_with_its_weight_and_sites_are_independent() -> None:
    with seeded(3):
        x = outputs(N)["finite"].sample()
    hits = (x.unsqueeze(-1) == SUPPORT).double()
    assert z_of_mean(hits, LOGITS.softmax(-1)[0]) <= Z
    joint = torch.einsum("bi,bj->bij", hits[:, 0], hits[:, 1])
    assert z_of_mean(joint, torch.outer(*LOGITS.softmax(-1)[0])) <= Z


@given(st.data(), dtypes, st.integers(2, 40))
def test_finite_never_draws_what_has_no_weight(draw: st.DataObject, dtype: torch.dtype, k: int) -> None:
    logits = draw.draw(tensors(values.map(lambda v: 20 * v), (1, 1, k), dtype))
    barred = draw.draw(st.lists(st.booleans(), min_size=k, max_size=k).filter(lambda flags: not all(flags)))
    logits[0, 0, barred] = -math.inf
    x = Finite(torch.arange(k), logits.expand(200, 1, k)).sample()
    assert not torch.tensor(barred)[x].any()


@pytest.mark.parametrize(("u", "value"), [(0.0, 1), (1 - 2**-24, 3)])
def test_finite_inverts_both_ends_of_the_interval(monkeypatch: pytest.MonkeyPatch, u: float, value: int) -> None:
    # torch.rand gives 0 once in 2^24 draws of float32: not often enough to wait for.
    monkeypatch.setattr(torch, "rand_like", lambda like: torch.full_like(like, u))
    weights = torch.tensor([0.0, 0.3, 0.3, 0.4, 0.0])  # the first and the last value must never be drawn
    assert Finite(torch.arange(5), weights.log().expand(2, 1, 5)).sample().tolist() == [[value]] * 2


def test_finite_on_integers_keeps_them() -> None:
    output = Finite(torch.arange(3), rows(LOGITS.float(), 4))
    assert output.sample().dtype == output.mode.dtype == torch.long
    assert output.mean.dtype == torch.float32
    assert output.log_prob(torch.tensor([[2, 0]]).expand(4, 2)).shape == (4,)


def test_delta_prices_an_error_by_its_tolerance() -> None:
    delta, x = outputs(2)["delta"], torch.tensor([[0.25, -1.0], [0.2, -0.9]], dtype=DOUBLE)
    expected = Normal(delta.value, 0.1).log_prob(x).sum(1)
    assert torch.allclose(delta.log_prob(x), expected, rtol=1e-13)
    with pytest.raises(ValueError, match=r"without a standard deviation .*; write Delta\(value, std="):
        Delta(delta.value).log_prob(x)


@pytest.mark.parametrize("site", [(), (2,), (2, 3)])
def test_normal_sums_over_sites_and_keeps_examples(site: tuple[int, ...]) -> None:
    mean, scale = torch.zeros(4, *site, dtype=DOUBLE), torch.tensor([0.5, 1.0, 2.0, 3.0], dtype=DOUBLE)
    law, x = normal(mean, scale), torch.full((4, *site), 0.7, dtype=DOUBLE)
    one = Normal(0.0, scale).log_prob(torch.tensor(0.7, dtype=DOUBLE))
    assert law.batch_shape == (4,)
    assert law.event_shape == site
    assert torch.allclose(law.log_prob(x), one * math.prod(site), rtol=1e-14)
    q = normal(mean + 1, scale)
    assert torch.allclose(kl(law, q), 0.5 * math.prod(site) / scale.square(), rtol=1e-12)  # closed form


@pytest.mark.parametrize("sample_shape", [(), (3,), (3, 2)])
@pytest.mark.parametrize("per_site", [False, True])
def test_mixture_draws_have_the_shape_of_torch(sample_shape: tuple[int, ...], per_site: bool) -> None:
    logits = LOGITS.expand(5, 2, 3) if per_site else LOGITS[:, 0].expand(5, 3)
    centres = torch.arange(3, dtype=DOUBLE).reshape(3, 1, 1).expand(5, 3, 2, 4)
    mixture = Mixture(logits, as_batch(normal(centres, torch.ones(5, dtype=DOUBLE)), 2 if per_site else 1))
    assert (mixture.batch_shape, mixture.event_shape) == ((5,), (2, 4))
    with seeded(6):
        y = mixture.sample(sample_shape)
    assert y.shape == (*sample_shape, 5, 2, 4)
    assert mixture.log_prob(y).shape == (*sample_shape, 5)
    assert torch.equal(mixture.log_prob(y).flatten()[:5], mixture.log_prob(y.reshape(-1, 5, 2, 4)[0]))
    more = mixture.expand((7, 5))
    assert (more.batch_shape, more.event_shape) == ((7, 5), (2, 4))
    assert more.sample(sample_shape).shape == (*sample_shape, 7, 5, 2, 4)
    z = y.reshape(-1, 5, 2, 4)[0]
    assert torch.equal(more.log_prob(z), mixture.log_prob(z).expand(7, 5))
    assert str(mixture).startswith(f"Mixture(logits: {tuple(logits.shape)}, components: Independent(")


@pytest.mark.parametrize("per_site", [False, True])
def test_mixture_agrees_with_that_of_torch(per_site: bool) -> None:
    logits = LOGITS.expand(5, 2, 3) if per_site else LOGITS[:, 0].expand(5, 3)
    with seeded(8, str(per_site)):
        mean, scale = torch.randn(5, 3, 2, dtype=DOUBLE), torch.rand(5, dtype=DOUBLE) + 0.1
    ours = Mixture(logits, as_batch(normal(mean, scale), 2 if per_site else 1))
    wide = scale.reshape(5, 1, 1).expand(5, 3, 2)
    if per_site:
        base = MixtureSameFamily(Categorical(logits=logits), Normal(mean.movedim(1, -1), wide.movedim(1, -1)))
        reference = Independent(base, 1)
    else:
        reference = MixtureSameFamily(Categorical(logits=logits), Independent(Normal(mean, wide), 1))
    y = torch.linspace(-2, 2, 10, dtype=DOUBLE).reshape(5, 2)
    for found, expected in (
        (ours.log_prob(y), reference.log_prob(y)),
        (ours.mean, reference.mean),
        (ours.variance, reference.variance),
    ):
        assert torch.allclose(found, expected, rtol=1e-12)  # float64
    assert ours.support.check(y).all()


def test_mixture_holds_all_candidates_in_one_distribution() -> None:
    calls = []

    def kernel(x: Tensor) -> Distribution:
        calls.append(x.shape)
        return normal(x, torch.tensor(0.1, dtype=DOUBLE))

    bins = Finite(torch.linspace(-1, 1, 256, dtype=DOUBLE), torch.zeros(4, 2, 256, dtype=DOUBLE))
    mixture = bins.mix(kernel)
    assert calls == [(4, 256, 2)]
    assert isinstance(mixture, Mixture)
    assert mixture.components.batch_shape == (4, 256, 2)


def test_mixture_checks_values_if_asked() -> None:
    candidates = as_batch(normal(torch.zeros(1, 2, 3), torch.ones(1)), 1)
    with pytest.raises(ValueError, match="logits"):
        Mixture(torch.full((1, 2), math.nan), candidates, validate_args=True)
    checked = Mixture(torch.zeros(1, 2), candidates, validate_args=True)
    with pytest.raises(ValueError, match="support"):
        checked.log_prob(torch.full((1, 3), math.nan))


def test_mixture_of_joint_distributions_chooses_for_all_parts_at_once() -> None:
    centres, weights = torch.tensor([-1.0, 1.0], dtype=DOUBLE), torch.tensor([0.3, 0.7], dtype=DOUBLE)
    near = torch.tensor(0.01, dtype=DOUBLE)
    parts = {
        "a": normal(centres.reshape(2, 1).expand(N, 2, 1), near),
        "b": normal(-centres.reshape(2, 1).expand(N, 2, 3), near),
    }
    mixture = Mixture(weights.log().expand(N, 2), as_batch(Joint(parts), 1))
    with seeded(9):
        y = mixture.sample()
    assert (y["a"].shape, y["b"].shape) == ((N, 1), (N, 3))
    assert torch.equal(y["a"].sign().expand(N, 3), -y["b"].sign())
    assert z_of_mean(y["a"], 0.4) <= Z
    one = {name: part[:1] for name, part in y.items()}
    by_hand = [
        (w.log() + sum(Normal(s * m, 0.01).log_prob(one[name]).sum() for name, s in (("a", 1), ("b", -1))))
        for w, m in zip(weights, centres, strict=True)
    ]
    assert torch.allclose(mixture.log_prob(y)[:1], torch.stack(by_hand).logsumexp(0), rtol=1e-12)
    assert mixture.log_prob(y).shape == (N,)
    assert Joint(parts).expand((5, N)).batch_shape == (5, N)


@pytest.mark.parametrize(
    "law",
    [
        VonMises(torch.ones(4, 2)),
        normal(torch.zeros(4, 3), torch.linspace(0.1, 1.0, 4)),
        Mixture(torch.zeros(4, 2), as_batch(normal(torch.zeros(4, 2, 3), torch.ones(4)), 1)),
    ],
    ids=lambda law: type(law).__name__,
)
def test_distributions_expand_as_those_of_torch_do(law: Distribution) -> None:
    more = law.expand(torch.Size((6, 4)))
    assert (more.batch_shape, more.event_shape) == ((6, 4), law.event_shape)
    with seeded(0):
        y = law.sample()
    assert torch.equal(more.log_prob(y), law.log_prob(y).expand(6, 4))
    assert more.sample().shape == (6, 4, *law.event_shape)
    assert repr(law)
    assert bool(law.support.check(y).all())


@pytest.mark.parametrize("per_site", [False, True])
def test_mixture_chooses_once_per_example_or_once_per_site(per_site: bool) -> None:
    weights = torch.tensor([0.3, 0.7], dtype=DOUBLE)
    logits = weights.log().expand(N, 2, 2) if per_site else weights.log().expand(N, 2)
    centres = torch.tensor([-1.0, 1.0], dtype=DOUBLE).reshape(2, 1).expand(N, 2, 2)
    parts = as_batch(normal(centres, torch.full((N,), 0.1, dtype=DOUBLE)), 2 if per_site else 1)
    with seeded(4, str(per_site)):
        y = Mixture(logits, parts).sample()
    assert z_of_mean(y, 0.4) <= Z
    assert z_of_variance(y, 0.01 + 0.84) <= Z
    assert z_of_mean(y.prod(1), 0.16 if per_site else 1.0) <= Z


def test_mixture_with_weights_per_site_needs_independent_sites() -> None:
    whole = torch.distributions.MultivariateNormal(torch.zeros(1, 3, 2), torch.eye(2))
    with pytest.raises(TypeError, match="Independent over candidates and sites"):
        as_batch(whole, 1)
    with pytest.raises(TypeError, match="fewer than 2 axes"):
        as_batch(Independent(whole, 1), 2)
    with pytest.raises(ValueError, match=r"batch shape \(1, 3, 2\), found \(1, 3\); write as_batch\(.*, 2\)"):
        Mixture(torch.zeros(1, 2, 3), whole)


def test_mixture_of_equal_parts_is_that_part() -> None:
    part, x = normal(torch.zeros(1, 2, dtype=DOUBLE), torch.ones(1, dtype=DOUBLE)), torch.tensor([[0.3, 4.0]]).double()
    three = normal(torch.zeros(1, 3, 2, dtype=DOUBLE), torch.ones(1, dtype=DOUBLE))
    for logits, axes in ((LOGITS, 2), (LOGITS[:, 0], 1)):
        assert torch.allclose(Mixture(logits, as_batch(three, axes)).log_prob(x), part.log_prob(x), rtol=1e-14)


def turned(kappa: float, angle: float = 0.7) -> Tensor:
    return torch.tensor([kappa * math.cos(angle), kappa * math.sin(angle)], dtype=DOUBLE)


@pytest.mark.parametrize("kappa", [0.0, 1e-6, 0.5, 3.0, 100.0, 1e6])
def test_von_mises_density_is_the_definition(kappa: float) -> None:
    x = torch.linspace(-math.pi, math.pi, 10_001, dtype=DOUBLE)[1:]
    log_density = VonMises(turned(kappa)).log_prob(x)
    reference = torch.from_numpy(scipy.stats.vonmises.logpdf(x.numpy(), max(kappa, 1e-300), loc=0.7))
    if kappa:
        # Subtracting numbers of size kappa costs kappa units in the last place of float64; scipy does it, too.
        assert torch.allclose(log_density, reference, rtol=1e-9, atol=1e-15 * kappa)
    else:
        assert torch.allclose(log_density, torch.full_like(x, -math.log(2 * math.pi)), rtol=1e-12)


@pytest.mark.parametrize("kappa", [0.0, 0.5, 50.0])
def test_von_mises_draws_have_the_density(kappa: float) -> None:
    with seeded(0, kappa):
        x = VonMises(turned(kappa).expand(N, 2)).sample()
    reference = scipy.stats.vonmises(max(kappa, 1e-12))  # uniform at zero
    wrapped = torch.remainder(x - 0.7 + math.pi, 2 * math.pi) - math.pi
    assert scipy.stats.kstest(wrapped.numpy(), reference.cdf).pvalue > 1e-6
    resultant = 1 - float(VonMises(turned(kappa)).variance)
    assert z_of_mean((x - 0.7).cos(), torch.tensor(resultant)) <= Z


def test_von_mises_of_nan_draws_nan_and_ends() -> None:
    v = torch.tensor([[math.nan, 0.0], [0.0, 2.0], [math.inf, 0.0]])
    assert torch.isfinite(VonMises(v).sample()).tolist() == [False, True, False]


@pytest.mark.parametrize("accuracy", [1e-4, 0.3, 20.0])
def test_divergence_of_von_mises_is_that_of_the_sender_and_the_receiver(accuracy: float) -> None:
    """KL = a A(a) (1 - cos(x - x')) at equal concentrations; in general it is that of Monte Carlo."""
    p, q = (von_mises(turned(accuracy, angle).reshape(1, 1, 2)) for angle in (0.7, -1.1))
    resultant = scipy.special.i1e(accuracy) / scipy.special.i0e(accuracy)
    assert float(kl(p, q)) == pytest.approx(accuracy * resultant * (1 - math.cos(1.8)), rel=1e-12)
    other = von_mises(turned(2.0, 0.1).reshape(1, 1, 2))
    with seeded(0, accuracy):
        y = p.sample(torch.Size((N,)))
    assert z_of_mean(p.log_prob(y) - other.log_prob(y), kl(p, other)) <= Z
