"""Laws of reproducible draws: a key is a draw, and nobody else's generator moves."""

from __future__ import annotations

import random
import subprocess
import sys

import numpy as np
import pytest
import torch
from hypothesis import given, strategies as st

from bfn_gaussian import Gaussian
from bfn_gaussian_mixture import GaussianMixture
from bfn_siren import Siren
from bfn_toolkit import BFN, seeded
from bfn_toolkit.randomness import seed_of

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
