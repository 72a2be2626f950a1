"""The laws of schedules, networks, data sets and samplers."""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Mapping
from itertools import pairwise
from typing import Any

import attrs
import torch
from torch import Tensor, nn

from bfn_toolkit.datasets import Dataset, minibatches
from bfn_toolkit.grids import LogSnrGrid
from bfn_toolkit.losses import Model
from bfn_toolkit.model import Oracle
from bfn_toolkit.networks import NetworkBuilder, NetworkIO
from bfn_toolkit.outputs import Delta, Output
from bfn_toolkit.samplers import Sampler
from bfn_toolkit.schedules import AccuracySchedule
from bfn_toolkit.shapes import Data, leaves, map_data
from bfn_toolkit.solvers import Solver
from bfn_toolkit.testing.core import Judge, law, round_trip, search
from bfn_toolkit.testing.draws import seeded
from bfn_toolkit.testing.probes import EXACT, MANY, columns
from bfn_toolkit.testing.strategies import times
from bfn_toolkit.testing.toys import Line, Toy

EXAMPLES = 50

# Schedules


@law("schedule", "beta(0) = 0")
def check_nothing_is_told_at_the_start(schedule: AccuracySchedule) -> float:
    """Accuracy accumulates from nothing."""
    judge = Judge(check_nothing_is_told_at_the_start, schedule)
    judge.error(schedule.beta(torch.zeros(3, dtype=torch.float64)).abs(), 0.0)
    return judge.figure


@law("schedule", "s < t implies beta(s) < beta(t)")
def check_accuracy_increases(schedule: AccuracySchedule) -> float:
    """Every message tells something."""
    judge = Judge(check_accuracy_increases, schedule)
    beta = schedule.beta(torch.linspace(0.0, 1.0, 1001, dtype=torch.float64))
    judge.true(bool((beta.diff() > 0).all()), f"a step of {float(beta.diff().min()):.3g}", "steps above 0")
    return judge.figure


@law("schedule", "alpha = d beta / dt")
def check_rate_is_the_derivative(
    schedule: AccuracySchedule, *, case: float | None = None, examples: int = EXAMPLES
) -> float:
    """The rate that the continuous-time loss uses is that of the accuracy (derivative by automatic differentiation)."""

    def body(judge: Judge, t: float) -> None:
        moment = torch.tensor([t], dtype=torch.float64, requires_grad=True)
        (rate,) = torch.autograd.grad(schedule.beta(moment).sum(), moment)
        alpha = schedule.alpha(moment.detach())
        judge.close(alpha, rate, 1e-9 * (1.0 + rate.abs()))

    return search(check_rate_is_the_derivative, schedule, times(), body, case, examples)


@law("schedule", "sum of the accuracies of n steps = beta(1)")
def check_steps_add_up(schedule: AccuracySchedule) -> float:
    """The accuracy of a step is the difference of beta, to 1e-12 in all."""
    judge = Judge(check_steps_add_up, schedule)
    n_steps = getattr(schedule, "n_steps", None)
    for n in (n_steps,) if n_steps else (1, 7, 1000):
        grid = torch.linspace(0.0, 1.0, n + 1, dtype=torch.float64)
        steps, total = schedule.accuracy(grid[:-1], grid[1:]), schedule.beta(torch.ones((), dtype=torch.float64))
        judge.error((steps.sum() - total).abs(), 1e-12 * total)
        judge.close(steps, schedule.beta(grid).diff(), 1e-9 * total)
    return judge.figure


@law("schedule", "beta(t) in float32 is within 4e-6 of float64, down to t = 1e-6")
def check_accuracy_is_precise_near_the_start(schedule: AccuracySchedule) -> float:
    """No difference of nearly equal numbers: 1 - x**t loses everything at small t, expm1 does not."""
    judge = Judge(check_accuracy_is_precise_near_the_start, schedule)
    t = torch.tensor([1e-6, 1e-4, 1e-2, 0.5, 1.0])
    exact = schedule.beta(t.double())
    judge.error((schedule.beta(t).double() - exact).abs(), 4e-6 * exact)  # 32 machine epsilons
    return judge.figure


@law("schedule", "beta(time(b)) = b for 0 < b <= beta(1)")
def check_time_inverts_the_accuracy(schedule: AccuracySchedule) -> float:
    """The time grids of the solvers go from accuracies to times."""
    judge = Judge(check_time_inverts_the_accuracy, schedule)
    share = torch.tensor([1e-6, 1e-3, 0.1, 0.5, 0.9, 1.0], dtype=torch.float64)
    beta = share * schedule.beta(torch.ones((), dtype=torch.float64))
    judge.error((schedule.beta(schedule.time(beta)) - beta).abs(), 1e-9 * beta)
    return judge.figure


@law("schedule", "repr, pickle and TOML give back an equal schedule")
def check_schedule_round_trips(schedule: AccuracySchedule) -> float:
    """A schedule is a value."""
    return round_trip(Judge(check_schedule_round_trips, schedule))


# Networks

SHAPES = ((1,), (5,), (2, 3))


def _networks(builder: NetworkBuilder) -> list[tuple[NetworkIO, nn.Module]]:
    """The network for several sizes, or for those that the builder names as its ``example_shapes``."""
    found = []
    for shape in getattr(builder, "example_shapes", SHAPES):
        for features, raw in ((1, 1), (2, 3)):
            io = NetworkIO(shape, features, raw)
            with seeded(0, "network"):
                found.append((io, builder.build(io).eval()))
    return found


def _stir(network: nn.Module) -> None:
    """Moves every weight: a layer that starts at zero may hide what reaches it."""
    with torch.no_grad():
        for weight in network.parameters():
            weight.add_(0.1 * torch.sin(torch.arange(weight.numel(), dtype=weight.dtype)).reshape(weight.shape))


def _inputs(io: NetworkIO, rows: int = 16) -> tuple[Tensor, Tensor]:
    with seeded(0, "inputs"):
        return torch.randn(rows, *io.site_shape, io.features), torch.rand(rows)


@law("network", "features (B, *site, F) and t (B,) give finite raw numbers (B, *site, R)")
def check_network_fits_its_sizes(builder: NetworkBuilder) -> float:
    """Any declared site shape, any batch, any F and R."""
    judge = Judge(check_network_fits_its_sizes, builder)
    for io, network in _networks(builder):
        for rows in (1, 16):
            raw = network(*_inputs(io, rows))
            judge.true(
                raw.shape == (rows, *io.site_shape, io.raw), f"shape {tuple(raw.shape)} for {io}", "(B, *site, R)"
            )
            judge.true(bool(torch.isfinite(raw).all()), f"not finite for {io}", "finite")
    return judge.figure


@law("network", "row i of the result depends on row i of the arguments alone, in eval mode")
def check_network_rows_are_independent(builder: NetworkBuilder) -> float:
    """A sample does not depend on what else is in its batch (float32, 1e-4 of the scale)."""
    judge = Judge(check_network_rows_are_independent, builder)
    for io, network in _networks(builder):
        features, t = _inputs(io)
        whole, index = network(features, t).detach(), torch.tensor([11, 3, 7])
        some = network(features[index], t[index]).detach()
        judge.close(some, whole[index], 1e-4 * (1.0 + float(whole.abs().max())))
    return judge.figure


@law("network", "raw depends on t")
def check_network_sees_the_time(builder: NetworkBuilder) -> float:
    """A network that ignores t cannot know how far to trust the beliefs."""
    judge = Judge(check_network_sees_the_time, builder)
    for io, network in _networks(builder):
        _stir(network)
        features, t = _inputs(io)
        change = (network(features, t) - network(features, 1.0 - t)).abs().max()
        judge.true(bool(change > 0), f"no change for {io}", "a change")
    return judge.figure


def _says(builder: NetworkBuilder) -> bool:
    return builder.conditions is not None


@law("network", "raw depends on each condition that is declared, and on no other", applies=_says)
def check_declared_conditions_are_read(builder: NetworkBuilder) -> float:
    """What ``conditions`` says decides whether a condition that is asked for is refused, so it has to be true.

    A condition is tried as a class and as a number for each example; one of another form is taken at its word.
    """
    judge = Judge(check_declared_conditions_are_read, builder)
    declared = set(builder.conditions or ())
    for io, network in _networks(builder):
        _stir(network)
        arguments = _inputs(io)
        silent = network(*arguments)
        for name in sorted(declared | {"label", "another"}):
            for dtype in (torch.int64, torch.float32):
                values = [torch.full((len(silent),), value, dtype=dtype) for value in (0, 1)]
                try:
                    zero, one = (network(*arguments, **{name: value}) for value in values)
                except Exception:
                    continue
                found = f"'{name}' {'changes nothing' if torch.equal(zero, one) else 'changes raw'} for {io}"
                if name in declared:
                    judge.true(not torch.equal(zero, one), found, "a change")
                    break
                judge.true(torch.equal(zero, one) and torch.equal(zero, silent), found, "no change")
    return judge.figure


@law("network", "the gradient of a sum of squares reaches every parameter, and is finite")
def check_gradients_reach_every_parameter(builder: NetworkBuilder) -> float:
    """No parameter is dead (layers that start at zero are moved first)."""
    judge = Judge(check_gradients_reach_every_parameter, builder)
    for io, network in _networks(builder):
        _stir(network)
        network(*_inputs(io)).square().sum().backward()
        for name, weight in network.named_parameters():
            reached = weight.grad is not None and bool((weight.grad != 0).any() & torch.isfinite(weight.grad).all())
            judge.true(
                reached, f"{name} has gradient {None if weight.grad is None else 'zero or not finite'}", "reached"
            )
    return judge.figure


@law("network", "a network with the state_dict of another is that network")
def check_state_dict_is_complete(builder: NetworkBuilder) -> float:
    """What a checkpoint saves is all that the network is: parameters and buffers."""
    judge = Judge(check_state_dict_is_complete, builder)
    for io, network in _networks(builder):
        with seeded(1, "another"):
            another = builder.build(io).eval()
        another.load_state_dict(copy.deepcopy(network.state_dict()))
        judge.close(another(*_inputs(io)), network(*_inputs(io)), 0.0)
    return judge.figure


@law("network", "the weights are drawn from torch's generator alone")
def check_weights_are_a_function_of_the_seed(builder: NetworkBuilder) -> float:
    """Two builds from one seed are one network."""
    judge = Judge(check_weights_are_a_function_of_the_seed, builder)
    for (io, a), (_, b) in zip(_networks(builder), _networks(builder), strict=True):
        judge.close(a(*_inputs(io)), b(*_inputs(io)), 0.0)
    return judge.figure


@law("network", "repr, pickle and TOML give back an equal builder")
def check_network_builder_round_trips(builder: NetworkBuilder) -> float:
    """The configuration of a network is a value."""
    return round_trip(Judge(check_network_builder_round_trips, builder))


# Data sets


@law("dataset", "every split has examples of shape site_shape, finite, and conditions with as many rows")
def check_splits_have_the_declared_shape(dataset: Dataset) -> float:
    """What the family is told of the data is true."""
    judge = Judge(check_splits_have_the_declared_shape, dataset)
    shapes = dataset.site_shape
    if not isinstance(shapes, Mapping):
        judge.true(dataset.facts["site_shape"] == shapes, f"facts {dataset.facts}", "facts with the site_shape")
    dtypes = set()
    for name in ("train", "valid", "test", "all"):
        rows = dataset.split(name)
        found = map_data(lambda part: tuple(part.shape[1:]), rows.x)
        judge.true(found == shapes, f"{name}: (B, *{found})", f"(B, *{shapes})")
        judge.true(len(rows) > 0, f"{name} is empty", "examples")
        for part in leaves(rows.x):
            judge.true(len(part) == len(rows), f"{name}: parts of {len(part)} and {len(rows)} rows", "as many")
            judge.true(bool(torch.isfinite(part).all()), f"{name} has values that are not finite", "finite values")
        for key, value in rows.condition.items():
            judge.true(len(value) == len(rows), f"{name}: {len(value)} rows of {key}", f"{len(rows)} rows")
        dtypes.add(tuple(part.dtype for part in leaves(rows.x)))
    judge.true(len(dtypes) == 1, f"dtypes {dtypes}", "one dtype")
    return judge.figure


def _rows(x: Data) -> list[tuple[float, ...]]:
    return [tuple(row) for row in columns(x).tolist()]


@law("dataset", "training and validation rows are disjoint, and are all of the rows")
def check_splits_partition_the_data(dataset: Dataset) -> float:
    """No example is learned from and judged by.  Counted with multiplicity, where examples repeat."""
    judge = Judge(check_splits_partition_the_data, dataset)
    train, valid, everything = (sorted(_rows(dataset.split(name).x)) for name in ("train", "valid", "all"))
    found = f"{len(train)} + {len(valid)} rows of {len(everything)}"
    judge.true(sorted(train + valid) == everything, found, "each row once")
    return judge.figure


@law("dataset", "a split is a function of the configuration, and leaves torch's generator alone")
def check_splits_are_fixed(dataset: Dataset) -> float:
    """The same data each time, whatever was drawn before."""
    judge = Judge(check_splits_are_fixed, dataset)
    for name in ("train", "valid", "test"):
        with seeded(0, "before"):
            first = dataset.split(name)
            after = torch.rand(1)
        with seeded(0, "before"):
            untouched = torch.rand(1)
        with seeded(1, "before"):
            second = copy.deepcopy(dataset).split(name)
        judge.true(torch.equal(columns(first.x), columns(second.x)), f"{name} changes", "the same rows")
        judge.true(torch.equal(after, untouched), f"{name} draws from torch's generator", "a scope of its own")
        for part in leaves(first.x):
            part.zero_()
        kept = torch.equal(columns(dataset.split(name).x), columns(second.x))
        judge.true(kept, f"{name} can be changed from outside", "a copy")
    return judge.figure


@law("dataset", "the batches of an epoch are different rows of the split")
def check_batches_cover_the_data(dataset: Dataset) -> float:
    """An epoch sees each row at most once, and leaves out less than one batch."""
    judge = Judge(check_batches_cover_the_data, dataset)
    rows = dataset.split("train")
    size = max(1, len(rows) // 3)
    seen = [row for batch in minibatches(rows, size, seed=0, epoch=0) for row in _rows(batch.x)]
    judge.true(len(rows) - len(seen) < size, f"{len(seen)} of {len(rows)} rows", "less than a batch left out")
    extra = Counter(seen) - Counter(_rows(rows.x))
    judge.true(not extra, f"{extra.total()} rows that are none of the split, or come twice", "none")
    return judge.figure


@law("dataset", "repr, pickle and TOML give back an equal data set")
def check_dataset_round_trips(dataset: Dataset) -> float:
    """A data set is a value."""
    return round_trip(Judge(check_dataset_round_trips, dataset))


# Samplers


def _toy() -> Toy:
    return Toy.of(Line())


@law("sampler", "sample(n) has shape (n, *site) and is finite")
def check_samples_have_the_shape_of_the_data(sampler: Sampler[Any]) -> float:
    """As many samples as were asked for."""
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
    """Same seed, same bytes."""
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


class _Asked:
    """A model that writes down when it is asked."""

    def __init__(self, model: Model) -> None:
        self.family, self._model, self.times = model.family, model, list[float]()

    def output(self, params: Any, t: Tensor, **condition: Tensor) -> Output:
        self.times.append(float(t))
        return self._model.output(params, t, **condition)


@law("sampler", "n steps ask the network evaluations(n) times, each time later than the one before")
def check_evaluations_are_counted(sampler: Sampler[Any]) -> float:
    """What a sample costs is what the sampler says, and no evaluation is made twice."""
    judge = Judge(check_evaluations_are_counted, sampler)
    for n in (1, 2, 7):
        asked = _Asked(_toy().oracle)
        x = sampler.sample(asked, 3, n_steps=n, dtype=torch.float64)
        judge.true(bool(torch.isfinite(x).all()), "values that are not finite", "finite values")
        found, expected = len(asked.times), sampler.evaluations(n)
        judge.true(found == expected, f"{found} evaluations for n = {n}", f"{expected}")
        later = all(s < t for s, t in pairwise(asked.times))
        judge.true(later, f"evaluations at {asked.times}", "times that increase")
    return judge.figure


@law("sampler", "p_O = delta(x - c) at all times: theta ~ p_F(. | c; 1)", lambda sampler: sampler.exact_for_constants)
def check_a_constant_output_gives_the_flow(sampler: Sampler[Any]) -> float:
    """Where the network always says c, the last beliefs are those of the flow for c, for any number of steps."""
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
    """The order of a solver of the probability flow, within 0.25, for normal data: they are as smooth as it gets.

    From what halving the step of 64, then of 128, changes in the last beliefs.
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
