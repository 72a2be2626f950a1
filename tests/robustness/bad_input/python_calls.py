"""A: calls in Python, each of which raises an error of the toolkit, with its exit status."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from bad_input.cases import Case, Word, case
from bad_input.contents import X, npy_of
from bfn_arrays import NumberArray
from bfn_categorical import Categorical
from bfn_gaussian import Gaussian
from bfn_mlp import MLP
from bfn_siren import Siren
from bfn_toolkit import BFN, Family, Training, seeded


class Returns(nn.Module):
    """A network that returns what a function makes of the features and the numbers that are expected at each site."""

    def __init__(self, function: Callable[[Tensor, int], Any], raw: int) -> None:
        super().__init__()
        self.function, self.raw = function, raw

    def forward(self, features: Tensor, t: Tensor, **condition: Tensor) -> Any:
        return self.function(features, self.raw)


def returning(function: Callable[[Tensor, int], Any], family: Family[Any] | None = None) -> BFN:
    family = family or Gaussian(site_shape=(2,))
    return BFN(family, Returns(function, family.network_io.out_features))


def filled(number: float, dtype: torch.dtype = torch.float32) -> Callable[[Tensor, int], Tensor]:
    return lambda features, raw: torch.full((*features.shape[:-1], raw), number, dtype=dtype)


def bfn() -> BFN:
    """A small model."""
    return BFN(Gaussian(site_shape=(2,)), Siren(width=8))


def samples(model: BFN, n: Any = 3, n_steps: Any = 2) -> Any:
    with seeded(0, "samples"):
        return model.sample(n, n_steps=n_steps)


def mutated_samples() -> None:
    """What a model returns is the caller's to change."""
    model = BFN(Gaussian(site_shape=(2,)), MLP(width=8, depth=1))
    x = samples(model)
    before, weights = x.clone(), {name: value.clone() for name, value in model.state_dict().items()}
    x.zero_()
    prior = model.family.prior(3)
    prior.mean.fill_(7.0)
    if not torch.equal(samples(model), before) or any(
        not torch.equal(value, weights[name]) for name, value in model.state_dict().items()
    ):
        raise ValueError("the model changed")


def mutated_rows() -> None:
    """What a data set returns is the caller's to change."""
    dataset = NumberArray("x.npy")
    rows = dataset.split("train").x
    assert_tensor(rows)
    before = rows.clone()
    rows.zero_()
    if not torch.equal(dataset.split("train").x, before):  # type: ignore[arg-type]
        raise ValueError("the data set changed")


def assert_tensor(x: object) -> None:
    if not isinstance(x, Tensor):
        raise TypeError("expected a tensor")


def call(id: str, function: Callable[[], object], status: int, *words: Word) -> Case:
    return case(id, function, status, *words)


CLASSES = Categorical(site_shape=(2,), classes=3)
NETWORK = "network bad_input.python_calls.Returns returned "

CASES: list[Case] = [
    *(
        call(f"A1-n-{n!r}", lambda n=n: samples(bfn(), n), 2, "batch_size", "at least 1", f"got {n!r}")  # type: ignore[misc]
        for n in (-1, 0, 2.5, True, "3", None)
    ),
    *(
        call(
            f"A1-n_steps-{n!r}",
            lambda n=n: samples(bfn(), 2, n),
            2,
            "n_steps: expected an integer of at least 1",
            f"got {n!r}",
        )  # type: ignore[misc]
        for n in (-1, 0, 2.5, True)
    ),
    *(
        call(
            f"A1-n_steps-of-a-loss-{n!r}",
            lambda n=n: bfn().loss(torch.zeros(2, 2), n_steps=n),  # type: ignore[misc]
            2,
            "n_steps",
            f"got {n!r}",
        )
        for n in (0, 2.5, True)
    ),
    call("A1-training", lambda: Training(steps=True), 2, "steps: expected an integer, got True"),
    call("A1-learning-rate", lambda: Training(lr=10**400), 2, "lr", "bits"),
    call("A4-shape", lambda: samples(returning(lambda f, _: f.sum(-1))), 5, NETWORK, ", 2), expected a tensor of"),
    call("A4-none", lambda: samples(returning(lambda *_: None)), 5, NETWORK + "NoneType, expected a tensor of shape"),
    call("A4-nan", lambda: samples(returning(filled(torch.nan))), 6, "the network returned numbers"),
    call("A4-inf", lambda: samples(returning(filled(torch.inf))), 6, "the network returned numbers"),
    call(
        "A4-nan-of-classes", lambda: samples(returning(filled(torch.nan), CLASSES)), 6, "the network returned numbers"
    ),
    call("A4-float64", lambda: samples(returning(filled(0.5, torch.float64))), 0),
    case("A6-samples", mutated_samples, 0),
    case("A6-rows", mutated_rows, 0, files={"x.npy": npy_of(X)}),
]
