"""Rows in chunks: the first ones do not depend on how many follow, on memory, or on who draws which."""

from collections.abc import Mapping
from typing import Any

import pytest
import torch
from faults.numbers import oom_above
from faults.ranks import two_ranks
from torch import Tensor

from bfn_categorical import Categorical
from bfn_gaussian import Gaussian
from bfn_mlp import MLP
from bfn_siren import Siren
from bfn_toolkit import (
    BFN,
    SDE2,
    AncestralSampler,
    Batch,
    BFNWarning,
    ChurnSampler,
    Family,
    FlowSampler,
    NetworkBuilder,
    ProductFamily,
    ResourceError,
    Sampler,
    default_sampler,
    importance_bound,
    likelihood_bound,
    row_prices,
    seeded,
)
from bfn_toolkit.evaluation.likelihood import row_bounds
from bfn_toolkit.sampling.chunks import chunk_rows
from bfn_toolkit.sampling.draws import Draws
from bfn_toolkit.shapes import Data, map_data
from bfn_toolkit.testing.toys import Line, Toy

MODELS: dict[str, tuple[Family[Any], NetworkBuilder]] = {
    "gaussian, siren": (Gaussian(), Siren(width=8)),
    "gaussian, mlp": (Gaussian(site_shape=(3,)), MLP(width=8, depth=1)),
    "wide, mlp": (Gaussian(site_shape=(40, 30)), MLP(width=8, depth=1)),
    "categorical, siren": (Categorical(site_shape=(2,), classes=3), Siren(width=8)),
    "categorical, mlp": (Categorical(site_shape=(2,), classes=5), MLP(width=8, depth=1)),
    "product, mlp": (
        ProductFamily({"a": Gaussian(site_shape=(2,)), "b": Categorical(site_shape=(2,), classes=3)}),
        MLP(width=8, depth=1),
    ),
}


def model_of(name: str, rows: int = 2**31, rank: int = -1) -> BFN:
    """A model whose weights are all drawn: networks begin with zeros in the last layer, which would hide much."""
    family, builder = MODELS[name]
    model = BFN(family, oom_above(rows, builder, rank))
    with seeded(0, "weights"), torch.no_grad():
        for weight in model.parameters():
            weight.copy_(torch.randn_like(weight) * 0.4)
    return model.eval()


@torch.no_grad()
def draw(model: BFN, n: int, first: int = 0) -> Data:
    with seeded(1, "samples"):
        return Draws.of(model, first + n, n_steps=3).draw(range(first, first + n))


def equal(a: Data, b: Data) -> bool:
    if isinstance(a, Mapping):
        return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)  # type: ignore[union-attr]
    return torch.equal(a, b)  # type: ignore[arg-type]


def alike(a: Data, b: Data) -> bool:
    """Whether rows are equal up to the rounding of a network: products of fewer than 16 rows round differently."""
    if isinstance(a, Mapping):
        return all(alike(a[name], b[name]) for name in a)
    return a.shape == b.shape and bool(((a - b).abs() <= 1e-5 * (1.0 + a.abs().amax())).all())


@pytest.mark.parametrize("name", MODELS)
def test_the_first_samples_do_not_depend_on_how_many_follow(name: str) -> None:
    model = model_of(name)
    many = draw(model, 300)
    for n in (1, 7, 15, 16, 17, 100, 256, 257):
        same = equal if n >= 16 else alike
        assert same(map_data(lambda part: part[:n], many), draw(model, n)), n  # noqa: B023 - it is called at once


@pytest.mark.parametrize("name", MODELS)
def test_samples_are_counted_from_any_first_one(name: str) -> None:
    model = model_of(name)
    many = draw(model, 300)
    for first, n in ((0, 300), (1, 5), (3, 16), (200, 100), (256, 1), (250, 20)):
        same = equal if n >= 16 else alike
        assert same(map_data(lambda part: part[first : first + n], many), draw(model, n, first)), first  # noqa: B023


@pytest.mark.parametrize("sampler", [AncestralSampler(), SDE2(), ChurnSampler(), FlowSampler()], ids=repr)
def test_the_noise_of_a_row_is_its_own_to_the_last_bit(sampler: Sampler[Any]) -> None:
    """Without a network no product rounds."""
    toy = Toy.of(Line())
    with seeded(1):
        draws = Draws.of(toy.oracle, 10**6, n_steps=3, sampler=sampler)
    many = draws.draw(range(700))
    for rows in (range(1), range(9), range(255, 258), range(511, 700)):
        assert equal(many[rows.start : rows.stop], draws.draw(rows)), rows
    assert len(many.unique()) == len(toy.values)


@pytest.mark.parametrize("n", [1, 5, 16, 40, 1500])
@pytest.mark.parametrize("name", MODELS)
def test_the_network_sees_the_rows_that_are_wanted_and_fewer_than_as_many_again(name: str, n: int) -> None:
    model = model_of(name)
    rows = list[int]()
    model.network.register_forward_pre_hook(lambda _, arguments: rows.append(len(arguments[0])))
    draw(model, n)
    evaluations = default_sampler(model.family, 3).nfe(3)
    assert n * evaluations <= sum(rows) < 2 * n * evaluations + evaluations * (n == 1)


def test_many_rows_are_few_calls_of_the_network() -> None:
    model = model_of("gaussian, siren")
    calls = list[int]()
    model.network.register_forward_pre_hook(lambda _, arguments: calls.append(len(arguments[0])))
    draw(model, 2048)
    assert calls == [1024] * 2 * default_sampler(model.family, 3).nfe(3)
    assert chunk_rows(3 * 32 * 32, "cuda") >= 256


def test_torch_alone_would_break_the_law() -> None:
    """The mutant: one draw of all rows."""
    with seeded(0):
        ten = torch.randn(15)
    with seeded(0):
        assert not torch.equal(torch.randn(100)[:15], ten)


@pytest.mark.parametrize("rows", [100, 16])
@pytest.mark.parametrize("name", MODELS)
def test_samples_are_the_same_bits_where_memory_is_short(name: str, rows: int) -> None:
    model = model_of(name, rows)
    short, plenty = draw(model, 300), draw(model_of(name), 300)
    assert model.network.most <= rows
    assert model.network.refusals > 0 or chunk_rows(1200) <= rows
    assert equal(short, plenty)


def test_memory_for_a_single_row_is_enough() -> None:
    """Fewer than 16 rows are rounded differently, which is said once."""
    model = model_of("gaussian, siren", rows=1)
    with pytest.warns(BFNWarning, match="fewer than 16 rows together") as told:
        assert alike(draw(model, 40), draw(model_of("gaussian, siren"), 40))
    assert len(told) == 1
    assert model.network.most == 1


def test_no_memory_for_a_single_row_is_an_error_with_status_7() -> None:
    with pytest.warns(BFNWarning), pytest.raises(ResourceError, match="out of memory for a single row") as caught:
        draw(model_of("gaussian, siren", rows=0), 40)
    assert caught.value.exit_status == 7


def prices_of(model: BFN) -> list[Any]:
    """Numbers of each evaluation that draws."""
    with seeded(3):
        x = torch.randint(5, (40, 2))
    rows = Batch(x, mask=x != 4)
    bounds = [likelihood_bound(model, rows, draws=2, n_steps=n) for n in (None, 5)]
    return [
        *((bound.total.value, bound.total.stderr) for bound in bounds),
        *(part.tolist() for part in row_bounds(model, rows, draws=2)),
        importance_bound(model, rows, n_steps=2, particles=2).total.value,
        row_prices(model, rows, orders=2).total.tolist(),
    ]


def test_prices_are_the_same_bits_where_memory_is_short() -> None:
    network = MLP(width=8, depth=1, site_times=True)
    short, plenty = (BFN(Categorical((2,), classes=5), oom_above(most, network)) for most in (23, 2**31))
    short.site_times = plenty.site_times = True
    short.load_state_dict(plenty.state_dict())
    assert prices_of(short.eval()) == prices_of(plenty.eval())
    assert short.network.refusals > 0
    assert short.network.most == 16


def test_a_lack_of_memory_outside_the_network_is_answered_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """As with many classes, whose losses need more than the network."""
    model, tried = model_of("categorical, mlp"), list[int]()
    rows = Batch(torch.zeros(40, 2, dtype=torch.int64))
    plenty, rate = likelihood_bound(model, rows, draws=2), Categorical.loss_rate

    def short(self: Any, x: Tensor, *arguments: Any, **kwargs: Any) -> Any:
        tried.append(len(x))
        if len(x) > 64:
            raise RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory")
        return rate(self, x, *arguments, **kwargs)

    monkeypatch.setattr(Categorical, "loss_rate", short)
    assert likelihood_bound(model, rows, draws=2) == plenty
    assert tried[:4] == [512, 256, 128, 64]


def test_other_errors_are_not_taken_for_a_lack_of_memory() -> None:
    model = model_of("gaussian, siren")

    def fail(*_: object, **__: object) -> Tensor:
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    model.network.inner.forward = fail
    with pytest.raises(RuntimeError, match="mat1"):
        draw(model, 4)


@pytest.mark.parametrize("processes", [2, 3])
def test_samples_and_likelihoods_are_the_same_for_any_number_of_processes(processes: int) -> None:
    name = "gaussian, mlp"
    model = model_of(name)
    with seeded(2):
        rows = Batch(torch.randn(600, 3))
    samples, bound = draw(model, 700), likelihood_bound(model, rows, draws=2)

    def job(rank: int) -> tuple[bool, bool]:
        import torch.distributed as dist

        dist.init_process_group("gloo")
        poor = model_of(name, rows=100, rank=1)  # in sampling, one of them has to try again
        return equal(draw(poor, 700), samples), likelihood_bound(model, rows, draws=2) == bound

    assert two_ranks(job, processes) == [(True, True)] * processes


def test_no_more_numbers_are_priced_together_than_memory_allows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bfn_toolkit.sampling.chunks.PRICED_NUMBERS", 2000)
    seen: list[int] = []

    class Watched(torch.nn.Module):
        def forward(self, features: Tensor, t: Tensor) -> Tensor:
            seen.append(features.numel())
            return features

    with seeded(0, "priced"):
        x = torch.randint(50, (70, 4))
    model = BFN(Categorical((4,), 50), Watched())
    for bound in (likelihood_bound(model, Batch(x), draws=3), likelihood_bound(model, Batch(x), draws=3, n_steps=5)):
        assert bound.examples == 70
    importance_bound(model, Batch(x), n_steps=3, particles=2)
    assert max(seen) == 2000
