"""Laws of samplers."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

import attrs
import torch
from torch import Tensor
from torch.distributions import Categorical, Distribution, Independent
from torch.nn.functional import one_hot

from bfn_toolkit.bfn import Oracle
from bfn_toolkit.errors import StepCountError
from bfn_toolkit.families import ChannelFamily
from bfn_toolkit.model import Condition, Model
from bfn_toolkit.network_io import NetworkIO
from bfn_toolkit.outputs import Delta, Finite, Output, SiteNormalMixture
from bfn_toolkit.product_family import ProductFamily
from bfn_toolkit.sampling.sampler import Sampler
from bfn_toolkit.sampling.solvers import Solver
from bfn_toolkit.sampling.time_grids import LogSnrGrid
from bfn_toolkit.schedules import QuadraticSchedule
from bfn_toolkit.shapes import Data, Times, expand
from bfn_toolkit.testing.devices import on_meta
from bfn_toolkit.testing.draws import seeded
from bfn_toolkit.testing.law import Judge, Z, law, round_trip
from bfn_toolkit.testing.probes import EXACT, MANY, DrawnDtypes, tensors
from bfn_toolkit.testing.toys import Evidence, Line, Toy

SPREAD = 0.03  # largest relative error of the standard deviation of normal data
VALUES, WEIGHTS = (-1.0, 0.5, 1.5), (0.2, 0.3, 0.5)
FAR = (-100.0, 0.5, 250.0)
PAIRS = (0, 1, 2), (1, 2, 0)  # numbers of the values of two sites that go together


def _toy() -> Toy:
    return Toy.of(Line())


def _values(params: Evidence, weights: tuple[float, ...] = WEIGHTS, values: tuple[float, ...] = VALUES) -> Finite:
    """Exact posterior of a :class:`Line` whose sites take these values independently."""
    x, w = (torch.tensor(part, dtype=params.v.dtype, device=params.v.device) for part in (values, weights))
    accuracy = expand(params.accuracy, params.v).unsqueeze(-1)
    return Finite(x, w.log() + params.v.unsqueeze(-1) * x - 0.5 * accuracy * x.square())


def _paired(params: Evidence) -> Output:
    """Exact posterior at each of two sites of a :class:`Line` whose values come in :data:`PAIRS`."""
    each = _values(params, (1.0, 1.0, 1.0))
    evidence = [each.logits[:, site, list(pair)] for site, pair in enumerate(PAIRS)]
    logits = torch.stack([torch.tensor(WEIGHTS).log().to(params.v).expand_as(evidence[0]), *evidence]).sum(0)
    back = [[pair.index(value) for value in range(3)] for pair in PAIRS]
    return Finite(each.support, torch.stack([logits[:, numbers] for numbers in back], 1))


def _normal(params: Evidence) -> Output:
    """Exact posterior of a :class:`Line` whose sites are standard normal, independently."""
    precision = 1.0 + expand(params.accuracy, params.v)
    mean = (params.v / precision).unsqueeze(-1)
    return SiteNormalMixture(torch.zeros_like(mean), mean, precision.rsqrt().unsqueeze(-1).expand_as(mean))


def _finite(judge: Judge, x: Tensor) -> None:
    bad = int((~torch.isfinite(x)).sum())
    judge.true(not bad, f"{bad} of {x.numel()} numbers are not finite", "finite numbers")


@law("sampler", "sample(n) has shape (n, *site) and is finite")
def check_samples_have_the_shape_of_the_data(sampler: Sampler[Any]) -> float:
    """The requested number of samples is drawn."""
    judge = Judge(check_samples_have_the_shape_of_the_data, sampler)
    toy = _toy()
    for n in (1, 5):
        for n_steps in (1, 8):
            x = sampler.sample(toy.oracle, n, n_steps=n_steps, dtype=torch.float64)
            judge.true(x.shape == (n, *toy.values.shape[1:]), f"shape {tuple(x.shape)}", f"({n}, *site)")
            _finite(judge, x)
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


@law(
    "sampler",
    "with the exact law of each site for output, dependent sites are drawn together, in many steps",
    lambda sampler: sampler.exact_for_constants,
)
def check_dependent_sites_are_drawn_together(sampler: Sampler[Any]) -> float:
    """Two sites whose values come in pairs: what is drawn at one site is told to the other (128 steps, 3 %)."""
    judge = Judge(check_dependent_sites_are_drawn_together, sampler)
    model, n = Oracle(Line(network_io=NetworkIO((2,))), _paired), 4_000
    with seeded(0, "pairs"):
        x = sampler.sample(model, n, n_steps=128, dtype=torch.float64)
    _finite(judge, x)
    kind = (x.unsqueeze(-1) - torch.tensor(VALUES, dtype=x.dtype)).abs().argmin(-1)
    for k, weight in enumerate(WEIGHTS):
        pair = torch.tensor([numbers[k] for numbers in PAIRS])
        judge.named(f"pair {k}").mean((kind == pair).all(1).double(), weight, slack=0.03)
    return judge.figure


@attrs.frozen(eq=False)
class _Evaluation:
    """What a sampler passes to the model: t is the mean, if it has one for each row."""

    params: Any
    t: float
    condition: Condition | None


class _Recorder(Model):
    """Model that records its evaluations."""

    def __init__(self, model: Model) -> None:
        self.family, self._model, self.evaluations = model.family, model, list[_Evaluation]()

    @property
    def times(self) -> list[float]:
        return [evaluation.t for evaluation in self.evaluations]

    def output(self, params: Any, t: Any, condition: Condition | None = None, **told: Any) -> Output:
        self.evaluations.append(_Evaluation(params, float(t.double().mean()), condition))
        return self._model.output(params, t, condition, **told)


@law("sampler", "n steps ask the network nfe(n) times, each time later than the one before")
def check_evaluations_are_counted(sampler: Sampler[Any]) -> float:
    """A sample takes exactly the declared number of evaluations, and none is repeated."""
    judge = Judge(check_evaluations_are_counted, sampler)
    for n in (1, 2, 7):
        model = _Recorder(_toy().oracle)
        x = sampler.sample(model, 3, n_steps=n, dtype=torch.float64)
        _finite(judge, x)
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
        _finite(judge, params.v)
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


class _Listener(Model):
    """Model of two values, of which the condition "label" chooses one."""

    def __init__(self) -> None:
        self.family = Line()

    def output(self, params: Any, t: Any, condition: Condition | None = None, **told: Any) -> Output:
        label, given = torch.zeros(len(params.v), dtype=torch.int64), (condition or {}).get("label", torch.zeros(0))
        label[: len(given)] = given[: len(label)].long()
        logits = 100.0 * one_hot(label, 2).unsqueeze(1).to(params.v)
        return Finite(torch.tensor([-1.0, 2.0]).to(params.v), logits)


@law("sampler", "every evaluation gets the conditions of all rows, and the samples follow them")
def check_conditions_reach_every_evaluation(sampler: Sampler[Any]) -> float:
    """Neither the first step nor the last draw goes without."""
    judge = Judge(check_conditions_reach_every_evaluation, sampler)
    label = torch.tensor([0, 1, 1, 0, 1, 0])
    condition = {"label": label, "place": torch.arange(12.0).reshape(6, 2)}
    model = _Recorder(_Listener())
    x = sampler.sample(model, 6, n_steps=4, condition=condition, dtype=torch.float64)
    for number, evaluation in enumerate(model.evaluations, 1):
        told = evaluation.condition or {}
        same = told.keys() == condition.keys() and all(torch.equal(told[name], condition[name]) for name in condition)
        found = f"evaluation {number} of {len(model.times)}: {'other values' if told else 'no condition'}"
        judge.true(same, found, "the conditions that were given")
    follows = torch.equal(x.flatten(), torch.tensor([-1.0, 2.0]).to(x)[label])
    judge.true(follows, f"samples {x.flatten().tolist()} for the labels {label.tolist()}", "-1 for 0, 2 for 1")
    return judge.figure


class _SelfConditioned(Model):
    """Model that reads the output of the evaluation before, and records what it is given."""

    self_conditioning = True

    def __init__(self) -> None:
        self.family, self.outputs, self.given = Line(), list[Output](), list[Output | None]()

    def output(
        self, params: Any, t: Times, condition: Condition | None = None, *, previous: Output | None = None, **_: Any
    ) -> Output:
        self.given.append(previous)
        self.outputs.append(_values(params))
        return self.outputs[-1]


@law("sampler", "a model that conditions itself on its last output gets the output of the evaluation before")
def check_the_last_output_is_passed_on(sampler: Sampler[Any]) -> float:
    """It is part of the state, so the first evaluation of the next samples gets none; or none gets one."""
    judge = Judge(check_the_last_output_is_passed_on, sampler)
    model = _SelfConditioned()
    for draw in (1, 2):
        model.given.clear()
        model.outputs.clear()
        _finite(judge, sampler.sample(model, 3, n_steps=4, dtype=torch.float64))
        if not any(model.given):
            continue  # a sampler need not pass it on: then the network sees zeros
        for number, (given, before) in enumerate(zip(model.given, [None, *model.outputs], strict=False), 1):
            found = "no output" if given is None else "another output"
            judge.true(given is before, f"evaluation {number} of draw {draw} gets {found}", "the output before")
    return judge.figure


@law(
    "sampler",
    "at an evaluation at time t, the beliefs have the accuracy beta(t); the last one is at t = 1",
    lambda sampler: sampler.exact_for_constants,
)
def check_times_are_those_of_the_beliefs(sampler: Sampler[Any]) -> float:
    """A network is trained on beliefs and times that belong together."""
    judge = Judge(check_times_are_those_of_the_beliefs, sampler)
    line = Line()
    for n in (1, 2, 7):
        model = _Recorder(Oracle(line, _values))
        _finite(judge, sampler.sample(model, 3, n_steps=n, dtype=torch.float64))
        for number, evaluation in enumerate(model.evaluations, 1):
            told, t = evaluation.params.accuracy, torch.tensor(evaluation.t, dtype=torch.float64)
            _finite(judge, told)
            beta = line.schedule.beta(t)
            right = bool(((told - beta).abs() <= EXACT * (1.0 + beta)).all())
            place = f"evaluation {number} of {len(model.times)} at t = {evaluation.t:.6g}"
            judge.true(right, f"{place}: beliefs of accuracy {float(told.mean()):.6g}", f"beta(t) = {float(beta):.6g}")
        judge.true(
            n == 1 or model.times[-1] == 1.0, f"the last evaluation of {n} steps is at {model.times[-1]:.6g}", "t = 1"
        )
    return judge.figure


@law("sampler", "beliefs, noise and samples have the dtype and the device that are asked for")
def check_sampler_keeps_dtype_and_device(sampler: Sampler[Any]) -> float:
    """Noise in float32 spoils beliefs in float64; nothing is made on the CPU for samples elsewhere."""
    judge = Judge(check_sampler_keeps_dtype_and_device, sampler)
    for dtype in (torch.float32, torch.float64):
        model = _Recorder(Oracle(Line(), _values))
        with DrawnDtypes() as drawn:
            x = sampler.sample(model, 4, n_steps=3, dtype=dtype)
        _finite(judge, x)
        judge.true(x.dtype == dtype, f"samples of {x.dtype}", f"{dtype}")
        judge.true(drawn.dtypes <= {dtype}, f"noise of {', '.join(map(str, drawn.dtypes))}", f"{dtype}")
        kept = {part.dtype for evaluation in model.evaluations for part in tensors(evaluation.params).values()}
        judge.true(kept <= {dtype}, f"beliefs of {', '.join(map(str, kept))}", f"{dtype}")
    meta = torch.device("meta")
    try:
        x = on_meta(lambda: sampler.sample(Oracle(Line(), _values), 4, n_steps=3, device=meta, dtype=torch.float32))
    except RuntimeError as error:
        judge.broken(f"two devices meet: {str(error).splitlines()[0]}", "one device")
    judge.true(x is None or x.device == meta, "samples on the CPU", "the device that is asked for")
    return judge.figure


def _uncorrelated(judge: Judge, a: Tensor, b: Tensor, what: str) -> None:
    """Breaks the law unless two lists of numbers are uncorrelated within Z standard errors."""
    a, b = a - a.mean(), b - b.mean()
    correlation = abs(float((a * b).mean() / (a.square().mean() * b.square().mean()).sqrt()))
    most = Z / math.sqrt(len(a))
    judge.true(correlation <= most, f"{what} are correlated by {correlation:.2g}", f"at most {most:.2g}")
    judge.error(correlation, most)


@law("sampler", "if p_O is certain of c, the last beliefs are uncorrelated, over the sites and over the rows")
def check_each_site_and_row_has_its_own_noise(sampler: Sampler[Any]) -> float:
    """No noise is shared by the sites of a row, by neighbours, or by rows at a distance of a power of two."""
    judge = Judge(check_each_site_and_row_has_its_own_noise, sampler)
    rows = 2**13

    def certain(params: Evidence) -> Output:
        return Finite(torch.tensor([0.5]).to(params.v), torch.zeros_like(params.v).unsqueeze(-1))

    for n in (1, 4):
        model = _Recorder(Oracle(Line(network_io=NetworkIO((3,))), certain))
        try:
            with seeded(0, "noise", n):
                _finite(judge, sampler.sample(model, rows, n_steps=n, dtype=torch.float64))
        except StepCountError:
            if n > 1:
                raise
            continue
        v = model.evaluations[-1].params.v
        _finite(judge, v)
        if not bool((v.std(0) > 1e-9).all()):
            return judge.figure  # without noise; a-constant-output-gives-the-flow says so
        for i, j in ((0, 1), (1, 2), (0, 2)):
            _uncorrelated(judge, v[:, i], v[:, j], f"sites {i} and {j} after {n} steps")
        for distance in (2**power for power in range(13)):
            _uncorrelated(judge, v[distance:, 0], v[:-distance, 0], f"rows {distance} apart after {n} steps")
    return judge.figure


@law("sampler", "if p_O is the same at all times, the samples have its distribution")
def check_a_broad_output_gives_its_own_law(sampler: Sampler[Any]) -> float:
    """The sample is a draw of the last output: neither its mean, nor its mode, nor cut."""
    judge = Judge(check_a_broad_output_gives_its_own_law, sampler)
    rows, weights = 4_000, (0.5, 0.2, 0.3)

    def three(params: Evidence) -> Output:
        logits = torch.tensor(weights).log().to(params.v).expand(*params.v.shape, 3)
        return Finite(torch.tensor(FAR).to(params.v), logits)

    def broad(params: Evidence) -> Output:
        mean = torch.full_like(params.v, 30.0).unsqueeze(-1)
        return SiteNormalMixture(torch.zeros_like(mean), mean, torch.full_like(mean, 100.0))

    for n in (1, 4):
        with seeded(0, "broad", n):
            x = sampler.sample(Oracle(Line(), three), rows, n_steps=n, dtype=torch.float64)
            y = sampler.sample(Oracle(Line(), broad), rows, n_steps=n, dtype=torch.float64)
        for value, weight in zip(FAR, weights, strict=True):
            share, slack = float((x == value).double().mean()), Z * math.sqrt(weight * (1.0 - weight) / rows)
            near = abs(share - weight) <= slack
            judge.true(near, f"{value:g} has a share of {share:.3g} of the samples", f"{weight:g} +- {slack:.2g}")
        normal = 30.0 + 100.0 * torch.special.ndtri((torch.arange(rows, dtype=torch.float64) + 0.5) / rows)
        judge.same_law(y, normal.unsqueeze(1))
    return judge.figure


@law("sampler", "if p_O is certain of c, of any size, the last beliefs have the mean c, to 5 %")
def check_wide_data_are_not_cut(sampler: Sampler[Any]) -> float:
    """Data are of any size: nothing is clamped to [-1, 1]."""
    judge = Judge(check_wide_data_are_not_cut, sampler)
    rows, far = 900, torch.tensor(FAR, dtype=torch.float64)
    index = torch.arange(rows) % len(FAR)

    def certain(params: Evidence) -> Output:
        number = torch.arange(len(params.v)) % len(FAR)
        return Finite(far, 1e4 * one_hot(number, len(FAR)).unsqueeze(1).to(params.v))

    model = _Recorder(Oracle(Line(), certain))
    with seeded(0, "far"):
        x = sampler.sample(model, rows, n_steps=8, dtype=torch.float64)
    judge.true(x.shape == (rows, 1), f"shape {tuple(x.shape)}", f"({rows}, 1)")
    last = model.evaluations[-1].params
    _finite(judge, last.v)
    mean = last.v.squeeze(-1) / last.accuracy
    for k, value in enumerate(FAR):
        found, noise = float(mean[index == k].mean()), Z * float((last.accuracy[0] * rows / len(FAR)).rsqrt())
        near = abs(found - value) <= 0.05 * abs(value) + noise
        judge.true(near, f"beliefs with mean {found:.6g} for an output certain of {value:g}", f"{value:g} +- 5 %")
    judge.true(torch.equal(x.squeeze(-1), far[index]), f"samples from {float(x.min())} to {float(x.max())}", f"{FAR}")
    return judge.figure


@law(
    "sampler",
    "the standard deviation of standard normal data, under the exact posterior, is 1",
    lambda sampler: sampler.exact_for_constants,
)
def check_a_normal_oracle_keeps_its_spread(sampler: Sampler[Any]) -> float:
    """Neither a start from the wrong noise nor a lost part of the noise, at 128 steps."""
    judge = Judge(check_a_normal_oracle_keeps_its_spread, sampler)
    with seeded(0, "spread"):
        x = sampler.sample(Oracle(Line(), _normal), MANY, n_steps=128, dtype=torch.float64)
    _finite(judge, x)
    spread, slack = float(x.std()), SPREAD + 3.0 / math.sqrt(2.0 * MANY)
    judge.true(abs(spread - 1.0) <= slack, f"a standard deviation of {spread:.4f}", f"1 +- {slack:.3f}")
    judge.error(abs(spread - 1.0), slack)
    judge.mean(x.flatten(), 0.0, slack=0.02)
    return judge.figure


@attrs.frozen
class _Faces(ChannelFamily[Evidence]):
    """Three classes through a Gaussian channel: phi(x) is one-hot."""

    schedule: QuadraticSchedule = QuadraticSchedule(9.0)  # noqa: RUF009 - a frozen value
    network_io: NetworkIO = NetworkIO((1,), 3, 3)  # noqa: RUF009
    channels: int = 3
    is_discrete = True

    def embed(self, x: Tensor) -> Tensor:
        return one_hot(x, 3).to(torch.get_default_dtype())

    def natural_params(self, params: Evidence) -> tuple[Tensor, Tensor]:
        return params.v, params.accuracy

    def from_natural(self, v: Tensor, accuracy: Tensor) -> Evidence:
        return Evidence(v, accuracy)

    def input(self, params: Evidence) -> Distribution:
        return Independent(Categorical(logits=params.v), 1)

    def features(self, params: Evidence) -> Tensor:
        return params.v

    def output(self, raw: Tensor, params: Evidence) -> Output:
        return Finite(None, raw)


@law("sampler", "the parts of a product are drawn with their probabilities, independently of each other")
def check_products_are_sampled_correctly(sampler: Sampler[Any]) -> float:
    """Classes beside numbers, each with its own accuracy and noise; a sampler may refuse products by an error."""
    judge = Judge(check_products_are_sampled_correctly, sampler)
    family = ProductFamily({"face": _Faces(), "number": Line(), "other": Line()})
    weights, rows = torch.tensor(WEIGHTS), MANY // 2

    def posterior(params: Any) -> Output:
        faces = Finite(None, weights.log() + params["face"].v)
        return family.join_outputs({"face": faces, **{name: _values(params[name]) for name in ("number", "other")}})

    try:
        with seeded(0, "product"):
            x: Data = sampler.sample(Oracle(family, posterior), rows, n_steps=32)
    except Exception:
        return judge.figure  # it does not admit products, and says so
    _finite(judge, x["number"])
    draws = {"face": x["face"].flatten()}
    for name in ("number", "other"):
        draws[name] = (x[name] - torch.tensor(VALUES)).abs().argmin(1)
    for name, kind in draws.items():
        shares = torch.bincount(kind, minlength=3) / len(kind)
        slack = 0.05 + Z * 0.5 / math.sqrt(rows)
        right = bool(((shares - weights).abs() <= slack).all())
        judge.true(right, f"shares of {name}: {[round(v, 3) for v in shares.tolist()]}", f"{WEIGHTS} +- {slack:.2g}")
    for a, b in (("face", "number"), ("face", "other"), ("number", "other")):
        _uncorrelated(judge, draws[a].double(), draws[b].double(), f"{a} and {b}")
    return judge.figure


@law("sampler", "repr, pickle and TOML give back an equal sampler")
def check_sampler_round_trips(sampler: Sampler[Any]) -> float:
    """The configuration of a sampler is a value."""
    return round_trip(Judge(check_sampler_round_trips, sampler))
