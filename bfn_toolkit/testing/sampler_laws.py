"""Laws of samplers."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import attrs
import torch
from torch import Tensor

from bfn_toolkit.bfn import Oracle
from bfn_toolkit.model import Condition, Model
from bfn_toolkit.outputs import Delta, Output
from bfn_toolkit.sampling.sampler import Sampler
from bfn_toolkit.sampling.solvers import Solver
from bfn_toolkit.sampling.time_grids import LogSnrGrid
from bfn_toolkit.testing.draws import seeded
from bfn_toolkit.testing.law import Judge, law, round_trip
from bfn_toolkit.testing.probes import EXACT, MANY
from bfn_toolkit.testing.toys import Line, Toy


def _toy() -> Toy:
    return Toy.of(Line())


@law("sampler", "sample(n) has shape (n, *site) and is finite")
def check_samples_have_the_shape_of_the_data(sampler: Sampler[Any]) -> float:
    """The requested number of samples is drawn."""
    judge = Judge(check_samples_have_the_shape_of_the_data, sampler)
    toy = _toy()
    for n in (1, 5):
        for n_steps in (1, 8):
            x = sampler.sample(toy.oracle, n, n_steps=n_steps, dtype=torch.float64)
            judge.true(x.shape == (n, *toy.values.shape[1:]), f"shape {tuple(x.shape)}", f"({n}, *site)")
            judge.true(bool(torch.isfinite(x).all()), "values that are not finite", "finite values")
    return judge.figure


@law("sampler", "one seed gives one sample, another seed another")
def check_samples_are_a_function_of_the_seed(sampler: Sampler[Any]) -> float:
    """Samples from one seed are bit-identical."""
    judge = Judge(check_samples_are_a_function_of_the_seed, sampler)
    drawn = []
    for seed in (0, 0, 1):
        with seeded(seed, "samples"):
            drawn.append(sampler.sample(_toy().oracle, 64, n_steps=5, dtype=torch.float64))
    judge.true(torch.equal(drawn[0], drawn[1]), "two samples from one seed differ", "the same bytes")
    judge.true(not torch.equal(drawn[0], drawn[2]), "two seeds give one sample", "other bytes")
    return judge.figure


@law("sampler", "with the exact posterior for output, each value is drawn with its probability")
def check_an_oracle_is_sampled_correctly(sampler: Sampler[Any]) -> float:
    """Frequencies of an enumerable toy after 64 steps, within Z standard errors and a discretisation of 2 %."""
    judge = Judge(check_an_oracle_is_sampled_correctly, sampler)
    toy, n = _toy(), 20_000
    with seeded(0, "oracle"):
        x = sampler.sample(toy.oracle, n, n_steps=64, dtype=torch.float64)
    distance = (x.unsqueeze(1) - toy.values).flatten(2).abs().amax(-1)
    for k, weight in enumerate(toy.weights.tolist()):
        judge.mean((distance.argmin(1) == k).double(), weight, slack=0.02)
    return judge.figure


class _Recorder(Model):
    """Model that records the times of its evaluations."""

    def __init__(self, model: Model) -> None:
        self.family, self._model, self.times = model.family, model, list[float]()

    def output(self, params: Any, t: Tensor, condition: Condition | None = None) -> Output:
        self.times.append(float(t))
        return self._model.output(params, t, condition)


@law("sampler", "n steps ask the network nfe(n) times, each time later than the one before")
def check_evaluations_are_counted(sampler: Sampler[Any]) -> float:
    """A sample takes exactly the declared number of evaluations, and none is repeated."""
    judge = Judge(check_evaluations_are_counted, sampler)
    for n in (1, 2, 7):
        model = _Recorder(_toy().oracle)
        x = sampler.sample(model, 3, n_steps=n, dtype=torch.float64)
        judge.true(bool(torch.isfinite(x).all()), "values that are not finite", "finite values")
        nfe, expected = len(model.times), sampler.nfe(n)
        judge.true(nfe == expected, f"{nfe} evaluations for n = {n}", f"{expected}")
        later = all(s < t for s, t in pairwise(model.times))
        judge.true(later, f"evaluations at {model.times}", "times that increase")
    return judge.figure


@law("sampler", "p_O = delta(x - c) at all times: theta ~ p_F(. | c; 1)", lambda sampler: sampler.exact_for_constants)
def check_a_constant_output_gives_the_flow(sampler: Sampler[Any]) -> float:
    """If the output is always c, the last beliefs follow the flow for c, for any number of steps."""
    judge = Judge(check_a_constant_output_gives_the_flow, sampler)
    line = Line()
    model = Oracle(line, lambda params: Delta(torch.full_like(params.v, 0.5)))
    for n in (2, 3, 8):
        with seeded(0, "constant", n):
            *_, last = sampler.trajectory(model, MANY, n_steps=n, dtype=torch.float64)
        params = last.params
        total = line.schedule.beta(torch.ones((), dtype=torch.float64))
        judge.close(params.accuracy, total.expand(MANY), EXACT * total)
        noise = (params.v.squeeze(-1) - 0.5 * total) / total.sqrt()
        judge.mean(noise, 0.0)
        judge.mean(noise.square(), 1.0)
        x = sampler.sample(model, 2, n_steps=n, dtype=torch.float64)
        judge.close(x, torch.full_like(x, 0.5), EXACT)
    return judge.figure


@law("sampler", "error(n) ~ n^-order, on a log-SNR grid", lambda sampler: getattr(sampler, "order", None) is not None)
def check_the_error_falls_as_claimed(sampler: Solver) -> float:
    """The order of a solver of the probability flow, within 0.25, on normal data, whose flow is smooth.

    It is estimated from the changes of the last beliefs when 64, then 128 steps are halved.
    """
    judge = Judge(check_the_error_falls_as_claimed, sampler)
    solver: Any = attrs.evolve(sampler, grid=LogSnrGrid(start=1e-2))  # type: ignore[misc]
    model = Oracle(Line(), lambda params: Delta(params.v / (4.0 + params.accuracy).unsqueeze(-1)))

    def ends(n: int) -> Tensor:
        with seeded(0, "order"):
            *_, last = solver.trajectory(model, 64, n_steps=n, dtype=torch.float64)
        v: Tensor = last.params.v
        return v

    with seeded(0, "order"):
        judge.true(bool(torch.isfinite(sampler.sample(model, 2, n_steps=3)).all()), "not finite", "finite samples")
    coarse, middle, fine = (ends(n) for n in (65, 129, 257))
    order = float(((coarse - middle).square().sum() / (middle - fine).square().sum()).log2()) / 2.0
    judge.error(abs(order - float(sampler.order or 0)), 0.25)
    return judge.figure


@law("sampler", "repr, pickle and TOML give back an equal sampler")
def check_sampler_round_trips(sampler: Sampler[Any]) -> float:
    """The configuration of a sampler is a value."""
    return round_trip(Judge(check_sampler_round_trips, sampler))
