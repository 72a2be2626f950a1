"""Laws of reproducible draws: a key is a draw, and nobody else's generator moves."""

from __future__ import annotations

import random
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, strategies as st

from bfn_gaussian import Gaussian
from bfn_gaussian_mixture import GaussianMixture
from bfn_siren import Siren
from bfn_toolkit import BFN, PluginError, common, normal, seeded
from bfn_toolkit.product_family import Joint
from bfn_toolkit.randomness import Blocks, seed_of

keys = st.lists(st.integers(-(2**70), 2**70) | st.text(max_size=8), max_size=4).map(tuple)


def draw(*key: int | str) -> torch.Tensor:
    with seeded(*key):
        return torch.rand(4)


@given(keys)
def test_the_same_key_gives_the_same_draw(key: tuple[int | str, ...]) -> None:
    assert torch.equal(draw(*key), draw(*key))


@given(keys, keys)
def test_different_keys_give_different_seeds(a: tuple[int | str, ...], b: tuple[int | str, ...]) -> None:
    assert (seed_of(*a) == seed_of(*b)) == (a == b)
    assert 0 <= seed_of(*a) < 2**63


def test_a_number_is_not_the_word_and_order_matters() -> None:
    assert len({seed_of(1), seed_of("1"), seed_of(1, 2), seed_of(2, 1), seed_of(12), seed_of("1", "2")}) == 6


def test_seeds_are_the_same_in_every_process() -> None:
    code = "from bfn_toolkit.randomness import seed_of; print(seed_of(7, 'noise'))"
    out = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout
    assert int(out) == seed_of(7, "noise")


@given(keys)
def test_the_state_of_the_caller_is_given_back(key: tuple[int | str, ...]) -> None:
    before = torch.get_rng_state()
    with seeded(*key):
        torch.rand(1000)
        assert not torch.equal(torch.get_rng_state(), before)
    assert torch.equal(torch.get_rng_state(), before)


def test_the_state_is_given_back_after_an_exception() -> None:
    before = torch.get_rng_state()
    with pytest.raises(ZeroDivisionError), seeded(1):
        torch.rand(3).tolist()[0] / 0
    assert torch.equal(torch.get_rng_state(), before)


def test_scopes_nest_without_disturbing_each_other() -> None:
    plain = draw("outer")
    with seeded("outer"):
        first = torch.rand(2)
        inner = draw("inner")
        with pytest.raises(ZeroDivisionError), seeded("failing"):
            1 / 0  # noqa: B018
        second = torch.rand(2)
    assert torch.equal(torch.cat([first, second]), torch.cat([plain[:2], plain[2:]]))
    assert torch.equal(inner, draw("inner"))


def test_no_other_generator_moves() -> None:
    python, numpy = random.getstate(), np.random.get_state()[1].copy()
    own = torch.Generator().manual_seed(5)
    state = own.get_state()
    with seeded(3):
        bfn = BFN(Gaussian(), Siren(width=8))
        bfn.nll(GaussianMixture().split("train").x[:8])
        bfn.sample(4, n_steps=2)
        GaussianMixture().split("test")
        GaussianMixture().entropy()
    assert random.getstate() == python
    assert (np.random.get_state()[1] == numpy).all()
    assert torch.equal(own.get_state(), state)


def test_data_sets_do_not_move_the_generator_of_the_caller() -> None:
    before = torch.get_rng_state()
    for name in ("all", "train", "valid", "test"):
        GaussianMixture().split(name)
    GaussianMixture(means=((0.0, 1.0),)).entropy(samples=10)
    assert torch.equal(torch.get_rng_state(), before)


def blocks(rows: range, draw: Callable[[int], Any], size: int = 8) -> Any:
    """What rows draw in a scope whose base is always the same."""
    with seeded("blocks"), Blocks(rows, size):
        return draw(len(rows))


def probabilities(n: int) -> torch.Tensor:
    return torch.linspace(0.1, 0.9, 3).expand(n, 3)


def sum_of_noise(n: int) -> torch.Tensor:
    product = Joint({"a": normal(torch.zeros(n, 2), torch.ones(n)), "b": normal(torch.zeros(n, 3), torch.ones(n))})
    return torch.cat(list(product.sample().values()), 1)


BY_ROWS: dict[str, Callable[[int], Any]] = {
    "randn": lambda n: torch.randn(n, 3),
    "randn, a shape": lambda n: torch.randn((n, 3), dtype=torch.float64),
    "one number for each row": lambda n: torch.rand(n),
    "rand_like": lambda n: torch.rand_like(torch.zeros(n, 2, 2)),
    "of a view": lambda n: torch.randn_like(torch.zeros(3, n).T),
    "randint": lambda n: torch.randint(0, 9, (n, 5)),
    "bernoulli": lambda n: torch.bernoulli(probabilities(n)),
    "normal": lambda n: torch.normal(torch.zeros(1, 3), torch.ones(n, 3)),
    "in place": lambda n: torch.zeros(n, 3).normal_(),
    "in place, of probabilities": lambda n: torch.zeros(n, 3).bernoulli_(probabilities(n)),
    "in place, of a view": lambda n: torch.zeros(3, n).T.uniform_(),
    "multinomial": lambda n: torch.multinomial(probabilities(n), 4, replacement=True),
    "categorical": lambda n: torch.distributions.Categorical(probabilities(n).unsqueeze(1).expand(n, 5, 3)).sample(),
    "gamma, which takes any number of numbers": lambda n: torch.distributions.Gamma(probabilities(n), 1.0).sample(),
    "poisson": lambda n: torch.poisson(5.0 * probabilities(n)),
    "particles": lambda n: torch.randn(4 * n, 2).reshape(n, 8),
    "dropout": lambda n: torch.dropout(torch.ones(n, 20), 0.5, True),
    "a product": sum_of_noise,
}


@pytest.mark.parametrize("name", BY_ROWS)
def test_rows_of_blocks_draw_the_same_numbers_in_any_company(name: str) -> None:
    draw = BY_ROWS[name]
    many = blocks(range(37), draw)
    for rows in (range(1), range(3), range(7, 9), range(8, 16), range(5, 29), range(36, 37)):
        assert torch.equal(blocks(rows, draw), many[rows.start : rows.stop]), rows
    different = {tuple(row.flatten().tolist()) for row in many}
    assert len(different) > 5


def test_draws_follow_one_another_and_the_state_is_that_of_one_number() -> None:
    first, second = blocks(range(9), lambda n: (torch.randn(n), torch.randn(n)))
    assert not torch.equal(first, second)
    with seeded("blocks"):
        torch.randint(2**62, ())
        torch.randint(2**62, ())
        after = torch.get_rng_state()
    assert torch.equal(blocks(range(9), lambda n: (torch.randn(n), torch.randn(n), torch.get_rng_state()))[2], after)


def test_blocks_are_independent_normal_numbers() -> None:
    x = blocks(range(40_000), lambda n: torch.randn(n, 2), size=1)
    assert abs(float(x.mean())) < 5 / 80_000**0.5
    assert abs(float(x.square().mean()) - 1.0) < 5 * (2 / 80_000) ** 0.5
    for distance in (1, 2, 3, 16, 256, 4096):
        assert abs(float((x[distance:] * x[:-distance]).mean())) < 5 / 80_000**0.5


def test_what_all_rows_share_is_drawn_in_common_and_anything_else_is_an_error() -> None:
    def shared(n: int) -> torch.Tensor:
        with common():
            return torch.rand(3)

    assert torch.equal(blocks(range(5), shared), blocks(range(30, 37), shared))
    for wrong in (lambda n: torch.rand(()), lambda n: torch.randn(2, n), lambda n: torch.randperm(7)):
        with pytest.raises(PluginError, match=r"axis 0 is not the 5 rows.*common\(\)"):
            blocks(range(5), wrong)


def test_a_function_aside_is_called_again_only_if_it_draws() -> None:
    for draws in (False, True):
        calls: list[int] = []

        def function(n: int, draws: bool = draws, calls: list[int] = calls) -> torch.Tensor:
            calls.append(n)
            return torch.randn(n) if draws else torch.zeros(n)

        def twice(n: int, function: Callable[[int], torch.Tensor] = function) -> torch.Tensor:
            scope = torch.overrides._get_current_function_mode()
            return torch.stack([scope.aside(lambda: function(n)), torch.randn(n), scope.aside(lambda: function(n))], 1)

        many, few = blocks(range(20), twice), blocks(range(4, 9), twice)
        assert torch.equal(few, many[4:9])
        assert len(calls) == 2 * (3 if draws else 2)


def test_the_scope_is_left_only_if_nothing_was_drawn_aside() -> None:
    for draws in (None, False, True):
        inside = []

        def function(n: int, draws: bool | None = draws, inside: list[bool] = inside) -> torch.Tensor:
            scope: Any = torch.overrides._get_current_function_mode()
            if draws is not None:
                scope.aside(lambda: torch.rand(n) if draws else None)
            inside.append(Blocks.outside(torch.overrides._get_current_function_mode) is scope)
            assert torch.overrides._get_current_function_mode() is scope
            return torch.rand(n)

        blocks(range(3), function)
        assert inside == [draws is not False]
    assert Blocks.outside(lambda a, b: a + b, 1, 2) == 3
