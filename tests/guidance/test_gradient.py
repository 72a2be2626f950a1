"""Laws of gradient guidance: it is Bayes' rule where that has a closed form, and elsewhere it never does harm."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from bfn_categorical import Categorical, CategoricalParams
from bfn_gaussian import DataHead, Gaussian, GaussianParams, SkipHead
from bfn_toolkit import (
    ODE2,
    SDE1,
    AncestralSampler,
    ConfigError,
    Delta,
    Finite,
    GradientGuided,
    Guided,
    LogSnrGrid,
    NonFiniteError,
    Oracle,
    ProductFamily,
    seeded,
)
from bfn_von_mises import VonMises
from every_family import draw, network, same
from significance import Z

NORMAL = Oracle(Gaussian((2,), sigma_1=0.05), lambda params: Delta(params.mean))  # of data from N(0, 1)
FORMS: Any = pytest.mark.parametrize("covariance", ["isotropic", "network"])

# Linear measurements of four numbers: rows, values and deviations.
MEASUREMENTS: dict[str, tuple[list[list[float]], list[float], list[float]]] = {
    "one site": ([[1, 0, 0, 0]], [0.8], [0.3]),
    "a difference": ([[1, -1, 0, 0]], [1.5], [0.3]),
    "the sum": ([[1, 1, 1, 1]], [3.0], [0.4]),
    "three dependent": ([[1, -1, 0, 0], [1, 1, 1, 1], [1, 0.5, 0, 0]], [1.0, 2.0, 0.5], [0.4, 0.5, 0.3]),
}
ALIKE = (torch.zeros(4, dtype=torch.float64), 0.7 * torch.eye(4, dtype=torch.float64))
UNLIKE = (torch.zeros(4, dtype=torch.float64), torch.tensor([0.25, 1.0, 4.0, 0.5], dtype=torch.float64).diag())
ROOT = torch.tensor([[1.0, 0, 0, 0], [0.8, 0.6, 0, 0], [-0.5, 0.3, 0.7, 0], [0.2, 0.6, -0.3, 0.5]], dtype=torch.float64)
CORRELATED = (torch.tensor([0.5, -1.0, 0.0, 2.0], dtype=torch.float64), ROOT @ ROOT.T)
EXACT = pytest.mark.parametrize(
    ("data", "covariance"),
    [(ALIKE, "isotropic"), (ALIKE, "network"), (UNLIKE, "network"), (CORRELATED, "network")],
    ids=["alike", "alike-network", "unlike", "correlated"],
)


class Measured:
    """Normal data under linear measurements with normal noise."""

    def __init__(self, data: tuple[Tensor, Tensor], measurement: str) -> None:
        self.mean, self.cov = data
        self.precision = torch.linalg.inv(self.cov)
        rows, values, stds = (torch.tensor(v, dtype=torch.float64) for v in MEASUREMENTS[measurement])
        self.rows, self.values, self.noise = rows, values, stds.square()
        variance = float((self.cov.diagonal() + self.mean.square()).mean())
        self.family = Gaussian((4,), sigma_1=0.02, head=SkipHead(variance))
        self.model = Oracle(self.family, self.output)

    def output(self, params: GaussianParams) -> Delta:
        """The posterior mean without the measurements."""
        v, accuracy = self.family.natural_params(params)
        precision = self.precision + accuracy.double()[:, None, None] * torch.eye(4, dtype=torch.float64)
        weighted = v.squeeze(-1).double() + self.precision @ self.mean
        return Delta(torch.linalg.solve(precision, weighted).to(v.dtype))

    def log_likelihood(self, x: Tensor) -> Tensor:
        return -((x.double() @ self.rows.T - self.values).square() / (2 * self.noise)).sum(1)

    def posterior(self, v: Tensor | float = 0.0, accuracy: float = 0.0) -> tuple[Tensor, Tensor]:
        """Mean and covariance given the measurements and natural parameters (4,)."""
        weights = self.rows.T / self.noise
        precision = self.precision + accuracy * torch.eye(4, dtype=torch.float64) + weights @ self.rows
        mean = torch.linalg.solve(precision, self.precision @ self.mean + v + weights @ self.values)
        return mean, torch.linalg.inv(precision)


def measured(x: Tensor, sign: float = 1.0) -> Tensor:
    """Log-likelihood of 0.8 at the first site, measured with the deviation 0.3."""
    return -sign * (x[:, 0] - 0.8).square() / (2 * 0.3**2)


@pytest.mark.parametrize("rho", [1.0, 1.5, 30.0])
def test_a_measurement_gives_the_mean_of_the_gaussian_posterior(rho: float) -> None:
    mean = torch.tensor([[-0.4, 0.2]], dtype=torch.float64)
    params = GaussianParams(mean, torch.tensor([rho], dtype=torch.float64))
    steered = GradientGuided(NORMAL, measured).output(params, torch.tensor(0.5)).mean
    expected = (rho * -0.4 + 0.8 / 0.09) / (rho + 1 / 0.09)
    assert steered[0, 0].item() == pytest.approx(expected, rel=1e-14)  # some roundings of float64
    assert steered[0, 1] == mean[0, 1]


@EXACT
@pytest.mark.parametrize("measurement", MEASUREMENTS)
def test_k_iterations_give_the_posterior_mean_of_k_measurements(
    data: tuple[Tensor, Tensor], covariance: Any, measurement: str
) -> None:
    case = Measured(data, measurement)
    guided = GradientGuided(case.model, case.log_likelihood, covariance=covariance, iterations=len(case.rows))
    with seeded(5, "beliefs"):
        v = 3.0 * torch.randn(6, 4, dtype=torch.float64)
    accuracy = torch.tensor([1e-3, 0.1, 1.0, 7.0, 60.0, 2000.0], dtype=torch.float64)
    output: Any = guided.output(case.family.from_natural(v.unsqueeze(-1), accuracy), torch.tensor(0.5))
    for x, v_row, b in zip(output.mean, v, accuracy.tolist(), strict=True):
        assert torch.allclose(x, case.posterior(v_row, b)[0], rtol=1e-9, atol=1e-9)


def test_measurements_of_very_different_precision_are_exact() -> None:
    with seeded(8, "rows"):
        rows, values = torch.randn(8, 20, dtype=torch.float64), torch.randn(8, dtype=torch.float64)
        x_hat = torch.randn(20, dtype=torch.float64)
    noise = torch.logspace(-6, 0, 8, dtype=torch.float64)
    model = Oracle(Gaussian((20,)), lambda params: Delta(params.mean))
    params = GaussianParams(x_hat.unsqueeze(0), torch.full((1,), 2.0, dtype=torch.float64))
    guided = GradientGuided(model, lambda x: -((x @ rows.T - values).square() / (2 * noise)).sum(1), iterations=8)
    gain = torch.linalg.solve(noise.diag() + 0.5 * rows @ rows.T, values - rows @ x_hat)
    assert torch.allclose(guided.output(params, torch.tensor(0.5)).mean[0], x_hat + 0.5 * rows.T @ gain, atol=1e-7)


@pytest.mark.parametrize(
    ("data", "covariance", "measurement"),
    [
        (ALIKE, "isotropic", "a difference"),
        (ALIKE, "isotropic", "three dependent"),
        (UNLIKE, "network", "the sum"),
        (CORRELATED, "network", "three dependent"),
    ],
    ids=["alike", "alike-three", "unlike", "correlated"],
)
def test_samples_follow_the_posterior_of_normal_data(
    data: tuple[Tensor, Tensor], covariance: Any, measurement: str
) -> None:
    # 50 steps.  A sample is the mean of the last beliefs, whose spread of 1 / (P + B_1) it lacks.
    case, n = Measured(data, measurement), 4000
    sampler = ODE2(LogSnrGrid(start=1e-4))
    with seeded(6, "posterior"):
        guided = GradientGuided(case.model, case.log_likelihood, covariance=covariance)
        x = guided.sample(n, n_steps=50, sampler=sampler).double()
    mean, cov = case.posterior()
    cov = cov - case.posterior(accuracy=0.02**-2 - 1.0)[1]
    white = torch.linalg.solve_triangular(torch.linalg.cholesky(cov), (x - mean).T, upper=False)
    assert float(white.mean(1).abs().max()) <= Z / math.sqrt(n)
    assert float((torch.cov(white) - torch.eye(4)).abs().max()) <= Z * math.sqrt(2 / n)


FUNCTIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "product": lambda x: -(x[:, 0] * x[:, 1] - 1).square() / (2 * 0.05**2),
    "ring": lambda x: -(x.square().sum(1) - 2).square() / (2 * 0.1**2),
    "two modes": lambda x: torch.logaddexp(-50 * (x[:, 0] - x[:, 1] - 2) ** 2, -50 * (x[:, 0] - x[:, 1] + 2) ** 2),
    "exponential": lambda x: -(x[:, 0].exp() - 2).square() / (2 * 0.1**2),
    "kink": lambda x: -100 * (x[:, 0] - x[:, 1]).abs(),
    "step": lambda x: torch.nn.functional.logsigmoid(50 * (x[:, 0] - x[:, 1] - 1)),
    "saddle": lambda x: 30 * (x[:, 2].square() - x[:, 0] * x[:, 1]),
    "logarithm": lambda x: torch.where(x[:, 0] > -3, (x[:, 0].clamp_min(-3) + 3.01).log(), -torch.inf),
}


@FORMS
@pytest.mark.parametrize("name", FUNCTIONS)
def test_no_step_lowers_the_log_likelihood(name: str, covariance: Any) -> None:
    case, function = Measured(CORRELATED, "the sum"), FUNCTIONS[name]
    with seeded(7, "beliefs"):
        v, accuracy = 3.0 * torch.randn(200, 4, 1, dtype=torch.float64), torch.rand(200, dtype=torch.float64).exp()
    params = case.family.from_natural(v, accuracy)
    before = case.output(params).mean
    after: Any = GradientGuided(case.model, function, covariance=covariance).output(params, torch.tensor(0.5))
    assert (function(after.mean) >= function(before) - 1e-6 * function(before).abs()).all()
    assert ((after.mean - before) != 0).any(1).double().mean() > 0.5


@pytest.mark.parametrize("measurement", ["the sum", "three dependent"])
def test_a_jacobian_that_is_no_covariance_does_no_harm(measurement: str) -> None:
    case, rows = Measured(ALIKE, measurement), 5000
    with seeded(9, "Jacobians"):
        matrices = 3.0 * torch.randn(rows, 4, 4, dtype=torch.float64)
        v, accuracy = torch.randn(rows, 4, 1, dtype=torch.float64), torch.ones(rows, dtype=torch.float64)
    model = Oracle(case.family, lambda params: Delta((params.mean.unsqueeze(1) @ matrices).squeeze(1)))
    params = case.family.from_natural(v, accuracy)
    before: Any = model.output(params, torch.tensor(0.5)).mean
    guided = GradientGuided(model, case.log_likelihood, covariance="network")
    after: Any = guided.output(params, torch.tensor(0.5)).mean
    assert (case.log_likelihood(after) >= case.log_likelihood(before) * (1 + 1e-6)).all()


def test_a_linear_function_and_a_convex_one_move_by_the_covariance_times_the_gradient() -> None:
    case = Measured(CORRELATED, "the sum")
    params = case.family.from_natural(torch.ones(1, 4, 1, dtype=torch.float64), torch.ones(1, dtype=torch.float64))
    x_hat, slope = case.output(params).mean, torch.tensor([1.0, -2.0, 0.0, 3.0], dtype=torch.float64)
    cov = torch.linalg.inv(case.precision + torch.eye(4, dtype=torch.float64))

    def convex(x: Tensor) -> Tensor:
        return x @ slope + 40 * ((x - x_hat) @ slope).square()

    for function in (lambda x: x @ slope, convex):
        step = GradientGuided(case.model, function, covariance="network").output(params, torch.tensor(0.5)).mean - x_hat
        assert torch.allclose(step[0], cov @ slope, rtol=1e-12)


def test_samples_under_a_measurement_have_its_posterior() -> None:
    # N(0.7339, 0.2873^2): five standard errors, 0.01 and 3 % for 100 steps.
    with seeded(1, "measured"):
        x = GradientGuided(NORMAL, measured).sample(5000, n_steps=100, sampler=SDE1())
    precision = 1 + 1 / 0.09
    assert abs(float(x[:, 0].double().mean()) - 0.8 / 0.09 / precision) <= 0.01 + Z * 0.288 / math.sqrt(5000)
    assert abs(float(x[:, 0].double().std()) / precision**-0.5 - 1) <= 0.03 + Z / math.sqrt(10_000)
    assert abs(float(x[:, 1].double().mean())) <= 0.01 + Z / math.sqrt(5000)


def test_a_tilt_of_classes_is_exact() -> None:
    table = torch.tensor([[0.0, 1.0, -2.0], [0.5, 0.0, 3.0]], dtype=torch.float64)
    with seeded(2, "logits"):
        logits = torch.randn(4, 2, 3, dtype=torch.float64)
    model = Oracle(Categorical((2,), classes=3), lambda params: Finite(None, logits))
    output: Any = GradientGuided(model, lambda p: (p * table).sum((1, 2)), scale=0.7).output(None, torch.zeros(()))
    assert torch.allclose(output.logits.softmax(-1), (logits + 0.7 * table).softmax(-1), rtol=1e-14, atol=0)


@pytest.mark.parametrize("family", [Gaussian((2,)), Categorical((2,), classes=3)], ids=["real", "classes"])
def test_nothing_said_changes_nothing(family: Any) -> None:
    bfn = network(family)
    assert same(draw(GradientGuided(bfn, lambda x: x.flatten(1).sum(1), scale=0.0)), draw(bfn))
    assert same(draw(GradientGuided(bfn, lambda x: torch.zeros(len(x)))), draw(bfn))


def test_a_convex_likelihood_does_not_turn_the_step_round() -> None:
    params = GaussianParams(torch.zeros(1, 2), torch.ones(1))
    steered = GradientGuided(NORMAL, lambda x: measured(x, sign=-1.0)).output(params, torch.tensor(0.0)).mean
    assert steered[0, 0].item() == pytest.approx(-0.8 / 0.09, rel=1e-6)  # away from the value, by S g


@FORMS
def test_a_measurement_couples_parts_of_different_accuracy(covariance: Any) -> None:
    family = ProductFamily(
        {"x": Gaussian((2,), sigma_1=0.05), "k": Categorical((1,), classes=3), "y": Gaussian((), sigma_1=0.2)}
    )
    table = torch.tensor([0.5, -1.0, 2.0], dtype=torch.float64)

    def output(params: Any) -> Any:
        return family.join_outputs(
            {"x": Delta(params["x"].mean), "k": Finite(None, params["k"].logits), "y": Delta(params["y"].mean)}
        )

    def function(data: Any) -> Tensor:
        error = data["x"][:, 0] - data["x"][:, 1] + 2 * data["y"] - 1.5
        return -error.square() / (2 * 0.1**2) + data["k"][:, 0] @ table

    x = GaussianParams(torch.tensor([[0.3, -0.2]], dtype=torch.float64), torch.tensor([4.0], dtype=torch.float64))
    y = GaussianParams(torch.tensor([0.1], dtype=torch.float64), torch.tensor([1.5], dtype=torch.float64))
    logits = torch.tensor([[[0.2, 0.0, -1.0]]], dtype=torch.float64)
    params = {"x": x, "k": CategoricalParams(logits, torch.ones(1, dtype=torch.float64)), "y": y}
    moved: Any = GradientGuided(Oracle(family, output), function, covariance=covariance).output(params, torch.zeros(()))
    row, spread = (
        torch.tensor([1.0, -1.0, 2.0], dtype=torch.float64),
        torch.tensor([4.0, 4.0, 1.5]).double().reciprocal(),
    )
    gain = spread * row / (0.1**2 + row @ (spread * row))
    expected = torch.tensor([0.3, -0.2, 0.1], dtype=torch.float64) + gain * (1.5 - 0.7)
    assert torch.allclose(torch.cat([moved["x"].mean[0], moved["y"].mean]), expected, rtol=1e-12)
    assert torch.allclose(moved["k"].logits.softmax(-1), (logits + table).softmax(-1), rtol=1e-14)


@FORMS
def test_parts_are_steered_together_and_with_conditions(covariance: Any) -> None:
    family = ProductFamily({"x": Gaussian((2,)), "k": Categorical((2,), classes=3)})
    bfn, label = network(family), torch.arange(30) % 3

    def function(data: Any) -> Tensor:
        return 50.0 * data["k"][..., 2].sum(1) - 5.0 * data["x"].sum(1)

    plain, condition = Guided(bfn, 1.0), {"label": label}
    guided = GradientGuided(plain, function, covariance=covariance)
    assert (draw(guided, condition)["k"] == 2).all()
    t = torch.full((30,), 0.5)
    with seeded(5, "beliefs"):
        params = family.flow({"x": torch.zeros(30, 2), "k": torch.zeros(30, 2, dtype=torch.int64)}, t)
    moved, still = (model.output(params, t, condition)["x"].mean.sum(1) for model in (guided, plain))  # type: ignore[index]
    assert bool((moved < still).all())  # the likelihood falls with x; samples of an untrained network are of any place


def test_the_variance_is_that_of_the_head() -> None:
    params = GaussianParams(torch.ones(1, 2, dtype=torch.float64), torch.full((1,), 1.5, dtype=torch.float64))
    for head, given, variance in ((SkipHead(4.0), None, 4.0), (SkipHead(4.0), 9.0, 9.0), (DataHead(), None, 1.0)):
        model = Oracle(Gaussian((2,), head=head), lambda params: Delta(params.mean))
        moved = GradientGuided(model, lambda x: x[:, 0], data_variance=given).output(params, torch.zeros(())).mean
        assert moved[0, 0].item() == pytest.approx(1.0 + 1.0 / (1.0 / variance + 0.5), rel=1e-14)


@FORMS
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_dtype_of_the_model_is_kept(dtype: torch.dtype, covariance: Any) -> None:
    family = ProductFamily({"x": Gaussian((2,)), "k": Categorical((2,), classes=3)})
    x = draw(
        GradientGuided(network(family).to(dtype), lambda d: d["k"][:, 0, 0] - d["x"][:, 0] ** 2, covariance=covariance)
    )
    assert x["x"].dtype == dtype


@pytest.mark.parametrize("slope", [1e5, -1e5, math.nan, math.inf])
def test_steps_out_of_range_are_refused(slope: float) -> None:
    with pytest.raises(NonFiniteError, match="root mean square of the data, allowed are 1000"):
        GradientGuided(NORMAL, lambda x: slope * x[:, 0]).sample(3, n_steps=4)
    GradientGuided(NORMAL, lambda x: 500.0 * x[:, 0]).sample(3, n_steps=4)


def test_a_gradient_of_classes_that_is_not_a_number_is_refused() -> None:
    bfn = network(Categorical((2,), classes=3))
    with pytest.raises(NonFiniteError, match="look at the log-likelihood"):
        draw(GradientGuided(bfn, lambda p: (p - 2.0).log().sum((1, 2))))
    assert len(draw(GradientGuided(bfn, lambda p: 1e30 * p[:, 0, 0]))) == 30


def test_the_isotropic_form_needs_no_gradient_of_the_network_and_the_other_asks_for_it() -> None:
    closed = Oracle(NORMAL.family, lambda params: Delta(params.mean.detach()))
    assert GradientGuided(closed, measured).sample(3, n_steps=4).shape == (3, 2)
    with pytest.raises(ConfigError, match="write covariance='isotropic'"):
        GradientGuided(closed, measured, covariance="network").sample(3, n_steps=4)


def test_outputs_that_cannot_be_steered_are_named() -> None:
    bfn = network(VonMises((2,), n_steps=6, beta_1=20.0))
    for covariance in ("isotropic", "network"):
        with pytest.raises(ConfigError, match="ChannelFamily, which VonMises is not"):
            draw(GradientGuided(bfn, lambda x: x.sum(1), covariance=covariance))  # type: ignore[arg-type]
    odd = Oracle(Gaussian((1,)), lambda params: "odd")  # type: ignore[arg-type, return-value]
    with pytest.raises(ConfigError, match="found str"):
        GradientGuided(odd, lambda x: x.sum(1)).output(None, torch.zeros(()))
    with pytest.raises(ConfigError, match=r"shape \(\d+,\), found \(\)"):
        GradientGuided(NORMAL, lambda x: x.sum()).sample(2, n_steps=2, sampler=AncestralSampler())
    for scale, variance in ((math.nan, 1.0), (1.0, 0.0), (1.0, math.inf)):
        with pytest.raises(ConfigError, match="data_variance positive"):
            GradientGuided(NORMAL, measured, scale, variance)
    with pytest.raises(ConfigError, match="'isotropic' or 'network', got 'diagonal'"):
        GradientGuided(NORMAL, measured, covariance="diagonal")  # type: ignore[arg-type]
    for iterations in (0, 1.5, True):
        with pytest.raises(ConfigError, match="integer of at least 1"):
            GradientGuided(NORMAL, measured, iterations=iterations)  # type: ignore[arg-type]
