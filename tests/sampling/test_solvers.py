"""Laws of the solvers: exact where they should be, of the order that they claim, and the same as those published."""

from __future__ import annotations

import json
import math
from itertools import pairwise
from pathlib import Path as File
from typing import Any

import attrs
import pytest
import torch
from torch import Tensor, nn

from bfn_categorical import Categorical
from bfn_directional import Circle
from bfn_gaussian import DataHead, Gaussian, NoiseHead
from bfn_gaussian_mixture import GaussianMixture
from bfn_mlp import MLP
from bfn_toolkit import (
    BFN,
    ODE1,
    ODE2,
    SDE1,
    SDE2,
    AncestralSampler,
    ChurnSampler,
    ConfigError,
    Delta,
    EulerMaruyama,
    FlowSampler,
    GivenGrid,
    KarrasGrid,
    LogSnrGrid,
    ODEMidpoint,
    Oracle,
    ProductFamily,
    QuadraticSchedule,
    SamplerStep,
    Solver,
    SolverPath,
    SolverState,
    StepCountError,
    TimeGrid,
    UniformGrid,
    default_reason,
    default_sampler,
    seeded,
    w1,
)
from bfn_von_mises import VonMises
from significance import Z, z_of_mean
from toy_families import SteppedGaussian

pytestmark = pytest.mark.filterwarnings("ignore:the flow sampler draws")
GOLDEN = json.loads(File(__file__).parents[1].joinpath("golden.json").read_text())
CPU, DOUBLE = torch.device("cpu"), torch.float64
SOLVERS = (
    *(ODE1(), ODE2(), ODE2(slope="signal"), ODEMidpoint()),
    *(SDE1(), SDE2(), FlowSampler(), FlowSampler(guess="mean"), EulerMaruyama()),
)
EXACT = SOLVERS[:-1]  # for a constant output
GRIDS = (UniformGrid(), LogSnrGrid(), KarrasGrid(), KarrasGrid(0.2, rho=1.0), GivenGrid((0.1, 0.5, 0.6, 0.9, 1.0)))
FAMILIES = (Gaussian(), Gaussian((2, 3), sigma_1=0.3), Categorical((2,), classes=3), Categorical(entropy_linear=True))


def tensor(value: Any) -> Tensor:
    return torch.tensor(value, dtype=DOUBLE)


def ended(sampler: Solver, model: Any, rows: int, n: int, *key: int | str) -> SolverState:
    with seeded("solver", *key):
        *_, last = sampler.trajectory(model, rows, n_steps=n, dtype=DOUBLE)
    return last


# Grids


@pytest.mark.parametrize("family", FAMILIES, ids=str)
@pytest.mark.parametrize("grid", GRIDS, ids=str)
@pytest.mark.parametrize("n", [1, 2, 5, 100])
def test_times_of_a_grid_increase_from_its_start_to_one(family: Any, grid: TimeGrid, n: int) -> None:
    if isinstance(grid, GivenGrid):
        with pytest.raises(StepCountError, match="Use n_steps=5"):
            grid.times(family, n + 1 if n == 5 else n)
        n = 5
    times = grid.times(family, n)
    assert (times.shape, times.dtype, times.device) == ((n,), DOUBLE, CPU)
    assert bool((times.diff() > 0).all())
    if isinstance(grid, GivenGrid):
        assert times.tolist() == list(grid.at)
    elif grid.start is None:  # where B falls with the number of times
        b = family.snr(family.schedule.beta(torch.stack([times[0], torch.ones((), dtype=DOUBLE)])))
        assert b[0] == pytest.approx(min(0.1, 2.5 / n**2, 0.01 * b[1]), rel=1e-9)
    else:
        assert times[0] == grid.start
    assert n == 1 or times[-1] == 1.0
    if n == 100 and not isinstance(grid, GivenGrid):  # the signal doubles: the first evaluation is in the middle
        first, second = family.snr(family.schedule.beta(times[:2])).tolist()
        assert second == pytest.approx(4.0 * first, rel=1e-9)


@pytest.mark.parametrize("family", FAMILIES, ids=str)
def test_grids_are_even_in_what_they_say(family: Any) -> None:
    def even(numbers: Tensor) -> bool:
        steps = numbers.diff()
        return torch.allclose(steps, steps.mean().expand_as(steps), rtol=1e-8, atol=0)  # a table's cubic is inverted

    def beta(grid: TimeGrid) -> Tensor:
        return family.schedule.beta(grid.times(family, 30)[1:])

    assert even(UniformGrid().times(family, 30)[1:])
    assert even(beta(LogSnrGrid()).log())
    assert even(beta(KarrasGrid()).pow(-0.5 / 7.0))
    assert even(beta(KarrasGrid(rho=1.0)).rsqrt())
    assert not even(beta(KarrasGrid()).log())


@pytest.mark.parametrize("schedule", [Gaussian().schedule, QuadraticSchedule(3.0)], ids=str)
def test_the_closed_inverse_of_a_schedule_is_that_of_bisection(schedule: Any) -> None:
    beta = schedule.beta(torch.tensor([1e-9, 1e-3, 0.3, 1.0], dtype=DOUBLE))
    bisected = super(type(schedule), schedule).time(beta)
    assert torch.allclose(schedule.time(beta), bisected, rtol=1e-7, atol=1e-16)  # bisection ends at 2^-60


@pytest.mark.parametrize("values", [(), (0.0, 1.0), (0.5, 0.5), (0.5, 1.1), (0.1, 0.5), (float("nan"),)])
def test_times_that_do_not_increase_to_one_are_refused(values: tuple[float, ...]) -> None:
    with pytest.raises(ValueError, match="at must increase"):
        GivenGrid(values)


# The published solvers


class Sines(nn.Module):
    def forward(self, features: Tensor, t: Tensor) -> Tensor:
        return torch.tanh(1.5 * features + t.reshape(-1, 1, 1)) - 0.3 * torch.cos(3.0 * features)


class Linear(nn.Module):
    def forward(self, features: Tensor, t: Tensor) -> Tensor:
        theta = 0.5 * (features + 1.0)
        return 4.0 * theta @ tensor(GOLDEN["categorical_solvers"]["W"]) + t.reshape(-1, 1, 1) * theta


def run(case: dict[str, Any], eta: float, sampler: Solver, model: BFN, start: Tensor) -> list[SolverState]:
    """The states of a published trajectory, whose drift begins at eta, from natural parameters at eta."""
    n, family = case["n"], model.family
    times = 1.0 - (1.0 - eta) * torch.arange(n, -1, -1, dtype=DOUBLE) / n
    q = math.sqrt(family.snr(family.schedule.beta(times[0])))
    states = [SolverState.at(family, {"": SolverPath(start / q, q, q)})]
    for s, t in pairwise(times.unbind()):
        states.append(sampler.step(model, states[-1], s, t))
    with_last = model.output(states[-2].params, times[-2])
    states.append(with_last)  # type: ignore[arg-type]
    return states


def solver_of(case: dict[str, Any], slope: Any) -> Solver:
    return ODE1() if case["solver"] == "ode_bfnsolver1" else ODE2(slope=slope)


def name(case: dict[str, Any]) -> str:
    return f"{case['solver']}-{case['n']}"


@pytest.mark.parametrize("case", GOLDEN["continuous_solvers"]["cases"], ids=name)
def test_continuous_trajectories_are_those_published(case: dict[str, Any]) -> None:
    family = Gaussian((3,), sigma_1=case["sigma_1"], head=NoiseHead(t_min=0.0))
    start = tensor(case["start"])
    rho = case["sigma_1"] ** (-2 * case["eta"])
    *states, last = run(
        case, case["eta"], solver_of(case, "log-snr"), BFN(family, Sines()), (rho * start).unsqueeze(-1)
    )
    # 1e-10: the reference forms 1 - sigma_1^(2 t), which has lost 4 digits at t = 1e-4
    found = torch.stack([state.params.mean for state in states[1:]])
    assert torch.allclose(found, tensor(case["trajectory"]), rtol=1e-10, atol=1e-12)
    assert torch.allclose(last.mean, tensor(case["last_x_hat"]), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("case", GOLDEN["categorical_solvers"]["cases"], ids=name)
def test_trajectories_of_classes_are_those_published(case: dict[str, Any]) -> None:
    golden = GOLDEN["categorical_solvers"]
    family = Categorical((3,), golden["K"], beta_1=golden["sqrt_beta_1"] ** 2, skip=False)
    model = BFN(family, Linear())
    *states, last = run(case, golden["eta"], solver_of(case, "signal"), model, tensor(case["start"]))

    def centred(v: Tensor) -> Tensor:  # a constant is nothing
        return v - v.mean(-1, keepdim=True)

    found = torch.stack([state.params.logits for state in states[1:]])
    assert torch.allclose(centred(found), centred(tensor(case["trajectory"])), rtol=1e-10, atol=1e-10)
    assert torch.allclose(last.logits.softmax(-1), tensor(case["last_probs"]), rtol=1e-9, atol=1e-12)


# What is exact


@pytest.mark.parametrize("sampler", EXACT, ids=str)
@pytest.mark.parametrize("grid", GRIDS, ids=str)
def test_a_constant_output_is_solved_exactly(sampler: Any, grid: TimeGrid) -> None:
    # w = q c + noise: the flow for x = c, whatever the times.
    sampler = attrs.evolve(sampler, grid=grid)
    family, c, rows = Gaussian((2,), sigma_1=0.1), torch.tensor([0.7, -0.4], dtype=DOUBLE), 20_000
    exact = Oracle(family, lambda params: Delta(c.expand_as(params.mean)))
    for n in (5,) if isinstance(grid, GivenGrid) else (2, 3, 10):
        path = ended(sampler, exact, rows, n, "constant").paths[""]
        noise = (path.w.squeeze(-1) - path.q * c).flatten()
        assert abs(path.q - math.sqrt(99.0)) <= 1e-12
        assert z_of_mean(noise, 0.0) <= Z
        assert z_of_mean(noise.square(), 1.0) <= Z
        if isinstance(sampler, (ODE1, ODE2, ODEMidpoint)):
            with seeded("solver", "constant"):
                first = torch.randn(rows, 2, 1, dtype=DOUBLE)
            assert (noise - first.flatten()).abs().max() <= 1e-13  # rounding of n sums


@pytest.mark.parametrize("temperature", [0.0, 0.25, 1.0])
def test_the_temperature_is_the_variance_of_the_flows_noise(temperature: float) -> None:
    exact = Oracle(Gaussian(sigma_1=0.1), lambda params: Delta(torch.full_like(params.mean, 0.3)))
    path = ended(FlowSampler(temperature=temperature), exact, 100_000, 4, "warm").paths[""]
    variance = float((path.w - 0.3 * path.q).square().mean())
    assert abs(variance - temperature) <= Z * temperature * math.sqrt(2 / 100_000)  # that of a normal variance


@pytest.mark.parametrize("family", [Gaussian((3,), sigma_1=0.05), Circle((2,), sigma_1=0.2)], ids=str)
def test_sde_1_is_the_ancestral_sampler_of_a_point(family: Any) -> None:
    def point(params: Any) -> Delta:
        return Delta(family.input(params).mean * 0.9 + 0.05)

    model = Oracle(family, point)
    with seeded(0):
        state = SDE1().init(model, 50, device=CPU, dtype=DOUBLE)
    times = SDE1().times(model, 12)
    for s, t in pairwise(times[1:].unbind()):
        state = SDE1().step(model, state, times[0], s) if state.paths[""].q == 0 else state
        # The step from the start holds the drift since 0: what comes after is compared.
        state = SolverState.at(family, {"": attrs.evolve(state.paths[""], q_0=state.paths[""].q)})
        with seeded(1):
            ancestral = AncestralSampler().step(model, state, s, t)
        with seeded(1):
            state = SDE1().step(model, state, s, t)
        for mine, theirs in zip(
            family.natural_params(state.params), family.natural_params(ancestral.params), strict=True
        ):
            assert torch.allclose(mine, theirs, rtol=1e-12, atol=1e-12)


# Order, and quality with a perfect network


MIXTURE = GaussianMixture()


def means_only(sigma_1: float) -> Oracle:
    """The exact posterior mean, as a network that predicts a point has it at best."""
    return Oracle(Gaussian(sigma_1=sigma_1), lambda params: Delta(MIXTURE.exact_output(params).mean))


@pytest.mark.parametrize(
    ("sampler", "order"),
    [(ODE1(), 1), (ODE2(), 2), (ODE2(slope="signal"), 2), (ODEMidpoint(), 2)],
    ids=str,
)
def test_the_error_falls_with_the_order_of_the_solver(sampler: Solver, order: int) -> None:
    model = means_only(0.1)  # as smooth as the mixture allows at steps of 1/20 in lambda
    # By default the grid begins earlier for more times; here it has one range.
    sampler = attrs.evolve(sampler, grid=LogSnrGrid(start=1e-3))  # type: ignore[misc]
    reference = ODE2(LogSnrGrid(start=1e-3)) if order == 1 else sampler  # whose first step is its own
    exact = ended(reference, model, 50, 3201, "order").params.mean
    errors = [
        float((ended(sampler, model, 50, n, "order").params.mean - exact).square().mean().sqrt())
        for n in (101, 201, 401)
    ]
    for coarse, fine in pairwise(errors):
        assert abs(math.log2(coarse / fine) - order) <= 0.25


def test_second_order_solvers_draw_the_data_in_ten_steps() -> None:
    # 4,000 samples are 0.02 from the data at best; the ancestral sampler of a point is at 0.08.  Five seeds, median.
    model, data = means_only(0.01), MIXTURE.split("all").x.double()

    def distance(sampler: Any, n: int) -> float:
        found = []
        for seed in range(5):
            with seeded(seed, "ten"):
                found.append(w1(sampler.sample(model, 4000, n_steps=n, dtype=DOUBLE), data))
        return sorted(found)[2]

    assert distance(ODE2(), 10) <= 0.03
    assert distance(SDE2(), 10) <= 0.04
    assert distance(ODE2(), 5) <= 0.07
    assert distance(AncestralSampler(), 9) >= 0.07
    assert distance(SDE1(), 10) >= 0.07
    assert distance(ODEMidpoint(), 20) <= 0.03
    assert distance(EulerMaruyama(UniformGrid()), 200) <= 0.04  # a baseline: it gets there


# Counting, watching


class Counted(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.times: list[float] = []

    def forward(self, features: Tensor, t: Tensor) -> Tensor:
        self.times.append(float(t[0]))
        return 0.1 * features


@pytest.mark.parametrize("sampler", [*SOLVERS, AncestralSampler()], ids=str)
@pytest.mark.parametrize("n", [1, 2, 3, 10])
def test_a_sample_takes_as_many_evaluations_as_the_sampler_says(sampler: Any, n: int) -> None:
    network = Counted()
    model = BFN(Gaussian(head=DataHead()), network).double()
    assert torch.isfinite(sampler.sample(model, 3, n_steps=n, dtype=DOUBLE)).all()
    assert len(network.times) == sampler.nfe(n) == (n if isinstance(sampler, Solver) else n + 1)
    if isinstance(sampler, Solver):
        assert network.times == sampler.times(model, n)[1:].tolist()
    assert network.times == sorted(set(network.times))
    assert n == 1 or network.times[-1] == 1.0


@pytest.mark.parametrize("sampler", [AncestralSampler(), ODE2(), ODEMidpoint()], ids=str)
def test_on_step_sees_every_evaluation_and_changes_nothing(sampler: Any) -> None:
    model = BFN(Gaussian((2,)), MLP(width=8, depth=1))
    seen: list[SamplerStep] = []
    with seeded(0):
        x = model.sample(4, n_steps=6, sampler=sampler, on_step=seen.append)
    with seeded(0):
        assert torch.equal(x, model.sample(4, n_steps=6, sampler=sampler))
    assert [(e.number, e.count) for e in seen] == [(i + 1, sampler.nfe(6)) for i in range(len(seen))]
    assert len(seen) == sampler.nfe(6)
    assert torch.equal(seen[-1].output.mean, x)  # the sample of a point
    assert [float(e.t) for e in seen] == sorted(float(e.t) for e in seen)
    assert all(e.params.mean.shape == (4, 2) for e in seen)


# Products, and what is refused


def product() -> BFN:
    family = ProductFamily({"a": Gaussian((3,)), "b": Categorical((3,), 4), "c": Circle((3,))})
    with seeded(0, "weights"):
        return BFN(family, MLP(width=16, depth=1))


@pytest.mark.parametrize("sampler", SOLVERS, ids=str)
def test_a_product_of_channels_is_solved_part_by_part(sampler: Any) -> None:
    model = product()
    with seeded(1):
        x = sampler.sample(model, 5, n_steps=6)
    model.family.check_data(x)
    assert len(sampler.times(model, 6)) == 7


@pytest.mark.parametrize("grid", [UniformGrid(), LogSnrGrid(), KarrasGrid()], ids=str)
def test_the_parts_of_a_product_share_times_that_are_fine_for_each(grid: TimeGrid) -> None:
    wide, classes = Gaussian(sigma_1=0.01), Categorical((1,), 3)
    times = grid.times(ProductFamily({"a": wide, "b": classes}), 21)
    assert torch.equal(times, grid.times(ProductFamily({"b": classes, "a": wide}), 21))
    assert torch.allclose(grid.times(ProductFamily({"a": wide, "b": wide}), 21), grid.times(wide, 21), atol=1e-15)
    assert bool((times.diff() > 0).all())
    assert float(times[-1]) == 1.0
    for part in (wide, classes):  # each part begins with noise alone
        assert float(part.snr(part.schedule.beta(times[0]))) <= 2.5 / 21**2 * (1.0 + 1e-9)
    if isinstance(grid, LogSnrGrid):  # and a step is at most twice as long as alone
        log_b = wide.schedule.beta(times).log()
        assert float(log_b.diff().max()) <= 2.0 * float(log_b[-1] - log_b[0]) / 20 * (1.0 + 1e-9)


def test_the_parts_of_a_product_draw_from_streams_of_their_own() -> None:
    both, alone = product(), ProductFamily({"a": Gaussian((3,))})
    with seeded(2):
        a = SDE2().init(both, 5, device=CPU, dtype=DOUBLE).paths["a"].w
    with seeded(2):
        b = SDE2().init(Oracle(alone, lambda params: None), 5, device=CPU, dtype=DOUBLE).paths["a"].w  # type: ignore[arg-type, return-value]
    assert torch.equal(a, b)


@pytest.mark.parametrize("family", [SteppedGaussian(), VonMises(), ProductFamily({"x": VonMises()})], ids=str)
@pytest.mark.parametrize("sampler", SOLVERS, ids=str)
def test_a_family_that_is_no_channel_is_refused(sampler: Any, family: Any) -> None:
    model = Oracle(family, lambda params: None)  # type: ignore[arg-type, return-value]
    with pytest.raises(ConfigError, match=r"ChannelFamily, which .* is not; write sampler=AncestralSampler\(\)"):
        sampler.sample(model, 3, n_steps=family.n_steps)
    with pytest.raises(ConfigError, match="ChannelFamily, which"):
        UniformGrid().times(family, 3)
    assert default_sampler(family, family.n_steps) == AncestralSampler()


@pytest.mark.parametrize("n_steps", [0, -1, True, 2.5])
def test_step_counts_other_than_positive_integers_are_refused(n_steps: Any) -> None:
    with pytest.raises(StepCountError, match="at least 1"):
        ODE2().sample(product(), 3, n_steps=n_steps)


@pytest.mark.parametrize("sampler", SOLVERS, ids=str)
def test_no_solver_reads_the_state_or_leaves_its_device(sampler: Any) -> None:
    # On the meta device a value that is read raises, and so does a tensor of another device.
    model = BFN(Gaussian((4,)), MLP(width=8, depth=1)).to("meta")
    state = sampler.init(model, 5, device=torch.device("meta"), dtype=torch.float32)
    times = sampler.times(model, 4)
    for s, t in pairwise(times.unbind()):
        state = sampler.step(model, state, s, t)
    assert (state.params.mean.device.type, state.params.mean.dtype) == ("meta", torch.float32)


@pytest.mark.parametrize("sampler", SOLVERS, ids=str)
def test_solvers_of_the_probability_flow_draw_nothing_in_a_step(sampler: Any) -> None:
    # They leave the scope that intercepts draws, so that a draw would depend on the rows that are sampled together.
    model = BFN(Gaussian((4,)), MLP(width=8, depth=1))
    state = sampler.init(model, 5, device=torch.device("cpu"), dtype=torch.float32)
    with seeded(7):
        before = torch.get_rng_state()
        for s, t in pairwise(sampler.times(model, 5).unbind()):
            state = sampler.step(model, state, s, t)
        assert torch.equal(before, torch.get_rng_state()) == (sampler.order is not None)


# The choice


@pytest.mark.parametrize("n", [1, 5, 49, 50, 1000])
def test_the_default_is_a_second_order_solver_and_says_why(n: int) -> None:
    for family in (*FAMILIES, product().family):
        with seeded(5):
            sampler, reason = default_sampler(family, n), default_reason(family, n)
            after = torch.rand(1)
        with seeded(5):
            assert torch.equal(after, torch.rand(1))  # the choice draws nothing of the caller's
        classes = isinstance(family, Categorical)
        few = not classes and n < 50
        assert sampler == (ODE2() if few else SDE2(slope="signal") if classes else SDE2())
        assert reason.startswith("because ")
    with seeded(6):
        x = product().sample(3, n_steps=4)
    with seeded(6):
        again = product().sample(3, n_steps=4, sampler=ODE2())
    assert all(torch.equal(x[name], again[name]) for name in x)


@pytest.mark.parametrize("n", [5, 10, 100])
def test_many_real_numbers_are_sampled_without_noise_on_the_way(n: int) -> None:
    assert default_sampler(Gaussian((4, 4)), n) == ODE2()
    assert default_sampler(ProductFamily({"a": Gaussian((8,)), "b": Gaussian((8,))}), n) == ODE2()
    assert default_sampler(Gaussian((15,)), 50) == SDE2()


@pytest.mark.parametrize("n", [5, 10, 100])
def test_images_of_real_numbers_are_sampled_with_noise(n: int) -> None:
    assert default_sampler(Gaussian((16, 16)), n) == SDE2()
    assert default_sampler(Gaussian((15, 17)), n) == ODE2()


def test_long_sequences_of_many_classes_are_sampled_with_churn_in_many_steps() -> None:
    text = Categorical((64,), classes=3)
    assert default_sampler(text, 50) == ChurnSampler()
    assert default_sampler(text, 49) == default_sampler(Categorical((63,), classes=3), 50) == SDE2(slope="signal")
    assert default_sampler(Categorical((64,), classes=2), 50) == SDE2(slope="signal")
