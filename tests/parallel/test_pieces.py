"""A batch in pieces: whatever they are, a step has the draws of the whole batch and its effect on the weights."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import nullcontext
from typing import Any

import attrs
import pytest
import torch
import torch.nn.functional as F
from faults.ranks import two_ranks
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from bfn_categorical import Categorical
from bfn_directional import Circle
from bfn_gaussian import Gaussian, UnsquaredNormLoss
from bfn_gaussian_heads import DiscretisedHead
from bfn_mlp import MLP
from bfn_toolkit import (
    BFN,
    Batch,
    ContinuousTimeLoss,
    CrossEntropyLoss,
    DiscreteTimeLoss,
    Family,
    ImportanceTimes,
    LogNormalTimes,
    Loss,
    PluginError,
    ProductFamily,
    ReconstructionLoss,
    SteppedFamily,
    Training,
    common,
    draw_held,
    per_piece,
    seeded,
    streams,
)
from bfn_toolkit.randomness import Shard
from bfn_toolkit.shapes import map_data
from bfn_toolkit.time_distributions import draw_times
from bfn_toolkit.training.step import TrainStep
from bfn_von_mises import VonMises, von_mises
from every_family import FAMILIES

ROWS = 23  # a prime number: pieces differ in size
PIECES = (1, 2, 3, 7, ROWS)
ROUNDING = 1e-11  # of float64 sums in another order, after three steps whose size does not depend on the gradient's
PRODUCT = ProductFamily({"x": Gaussian((2,)), "k": Categorical((2,), classes=3), "angle": Circle((2,))})
CONTINUOUS, DISCRETE = ContinuousTimeLoss("unit"), DiscreteTimeLoss(n_steps=6, samples=2)

CASES: dict[str, tuple[Family[Any], Loss]] = {
    "gaussian": (Gaussian((2,)), CONTINUOUS),
    "gaussian, n steps": (Gaussian((2,)), DISCRETE),
    "gaussian, norm": (Gaussian((2,)), UnsquaredNormLoss()),
    "gaussian, learned times": (Gaussian((2,)), ContinuousTimeLoss(times=ImportanceTimes(8))),
    "gaussian, learned steps": (Gaussian((2,)), DiscreteTimeLoss(n_steps=6, times=ImportanceTimes(8))),
    "product, cross-entropy": (PRODUCT, CrossEntropyLoss(LogNormalTimes(unbiased=True))),
    "categorical": (Categorical((2,), classes=5), CONTINUOUS),
    "categorical, n steps": (Categorical((2,), classes=5), DISCRETE),
    "discretised": (Gaussian((2,), head=DiscretisedHead(16)), CONTINUOUS),
    "discretised, n steps": (Gaussian((2,), head=DiscretisedHead(16)), DISCRETE),
    "discretised, reconstruction": (Gaussian((2,), head=DiscretisedHead(16)), ReconstructionLoss()),
    "circle": (Circle((2,)), CONTINUOUS),
    "circle, n steps": (Circle((2,)), DISCRETE),
    "von Mises": (VonMises((2,), n_steps=6, beta_1=20.0), DISCRETE),
    "product": (PRODUCT, CONTINUOUS),
    "product, n steps": (PRODUCT, DISCRETE),
    "product, reconstruction": (PRODUCT, ReconstructionLoss()),
}
CASE = pytest.mark.parametrize("case", CASES)


def data_of(family: Family[Any]) -> Batch:
    """Rows on which a family can be trained."""
    with seeded("rows"):
        x = family.input(family.prior(ROWS, dtype=torch.float64)).sample()
        x = map_data(lambda part: part.clamp(-1.0, 1.0) if part.is_floating_point() else part, x)
        return Batch(x, {"label": torch.randint(3, (ROWS,))})


def trained(case: str, accumulate: int, steps: int = 3) -> Tensor:
    """Weights after a few steps, with dropout of hidden numbers and of labels."""
    family, loss = CASES[case]
    with seeded("weights"):
        model = BFN(family, MLP(width=8, depth=1, labels=3, dropout=0.3, label_dropout=0.4)).double().train()
        for weight in model.parameters():
            nn.init.normal_(weight, std=0.2)  # of fresh weights the last layer's are zero, and hide the draws of others
    # A step of stochastic gradient descent is as wrong as its gradient; one of Adam is not.
    options = Training(batch_size=ROWS, accumulate=accumulate, optimizer="sgd", lr=0.05, device="cpu")
    step, rows = TrainStep(model, loss, options, seed=0), data_of(family)
    for number in range(1, steps + 1):
        step.step(rows, number)
    return torch.cat([p.detach().flatten() for p in step.unwrapped.parameters()])


def assert_equal_to_rounding(weights: Tensor, whole: Tensor) -> None:
    difference = (weights - whole).norm() / whole.norm()
    assert difference <= ROUNDING, difference


@pytest.fixture
def double() -> Iterator[None]:
    """Classes are drawn, and noise about them, in torch's default dtype."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(before)


@CASE
@pytest.mark.usefixtures("double")
def test_weights_do_not_depend_on_the_pieces(case: str) -> None:
    whole = trained(case, 1)
    assert (whole - trained(case, 1, steps=0)).norm() > 1e-3  # or nothing has been learned
    for pieces in PIECES[1:]:
        assert_equal_to_rounding(trained(case, pieces), whole)


@CASE
@pytest.mark.parametrize("pieces", [1, 3, 11])
@pytest.mark.usefixtures("double")
def test_weights_do_not_depend_on_the_processes(case: str, pieces: int) -> None:
    whole = trained(case, 1)
    for weights in two_ranks(lambda rank: trained(case, pieces)):
        assert not isinstance(weights, Exception), weights
        assert_equal_to_rounding(weights, whole)


class Draws(TorchDispatchMode):
    """Counts the draws that reach torch's kernels."""

    def __init__(self) -> None:
        super().__init__()
        self.shapes: list[tuple[int, ...]] = []

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        drawn = function(*args, **(kwargs or {}))
        if torch.Tag.nondeterministic_seeded in function.tags:
            self.shapes.append(tuple(drawn.shape))
        return drawn


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: type(family).__name__)
def test_no_draw_of_a_step_escapes(family: Family[Any]) -> None:
    """What reaches the kernels is drawn for the whole batch, or has one number, in common."""
    model = BFN(family, MLP(width=8, depth=1, labels=3, dropout=0.3)).train()
    batch = data_of(family)
    rows = Batch(map_data(lambda v: v.float() if v.is_floating_point() else v, batch.x), batch.condition).part(4, 9)
    steps = isinstance(family, SteppedFamily)
    for loss in (DiscreteTimeLoss(n_steps=6), ReconstructionLoss(), *(() if steps else (CONTINUOUS,))):
        with Shard(4, 5, ROWS), Draws() as draws:
            loss(model, rows.x, rows.condition)
        assert {shape[0] for shape in draws.shapes if shape not in ((), (1,))} == {ROWS}


DRAWS: dict[str, Callable[[Tensor], Tensor]] = {
    "rand": lambda x: torch.rand(len(x), 3),
    "rand of a shape": lambda x: torch.rand((len(x), 3)),
    "randn with a size": lambda x: torch.randn(size=(len(x), 3)),
    "randint": lambda x: torch.randint(0, 100, (len(x), 3)),
    "randn_like": torch.randn_like,
    "normal of two shapes": lambda x: torch.normal(x, torch.linspace(0.1, 0.3, 3)),
    "bernoulli": lambda x: torch.bernoulli(x.sigmoid()),
    "multinomial": lambda x: torch.multinomial(x.softmax(-1), 2),
    "classes at sites": lambda x: torch.distributions.Categorical(logits=x.unsqueeze(1).expand(-1, 4, 3)).sample(),
    "exponential": lambda x: torch.empty_like(x).exponential_(),
    "uniform": lambda x: torch.empty(len(x)).uniform_(),
    "Gumbel": lambda x: F.gumbel_softmax(x),
    "dropout": lambda x: F.dropout(x + 2.0, 0.5),
    "dropout of channels": lambda x: F.dropout1d(x.unsqueeze(-1).expand(-1, -1, 5) + 2.0, 0.5),
    "alpha dropout": lambda x: F.alpha_dropout(x, 0.5, training=True),
    "von Mises": lambda x: von_mises(torch.stack([3.0 * x, x], -1)).sample(),
    "after von Mises": lambda x: von_mises(torch.stack([3.0 * x, x], -1)).sample() * torch.rand_like(x),
    "streams": lambda x: _in_a_stream(lambda: torch.rand_like(x)),
    "times": lambda x: draw_times(x),
}


def _in_a_stream(draw: Callable[[], Tensor]) -> Tensor:
    with streams()("a"):
        return draw()


@pytest.mark.parametrize("name", DRAWS)
@pytest.mark.parametrize("rows", [1, 2, 3, 5])
def test_a_draw_for_some_rows_is_that_of_the_whole_batch(name: str, rows: int) -> None:
    """Also where the sites are as many as the rows (3), or multiples of their number."""
    with seeded("x"):
        x = torch.randn(15, 3)
    with seeded("draw"):
        whole = DRAWS[name](x)
    for start in range(0, 15, rows):
        piece = x[start : start + rows]
        with seeded("draw"), Shard(start, len(piece), 15):
            assert torch.equal(DRAWS[name](piece), whole[start : start + rows])


WITHOUT_ROWS: dict[str, Callable[[Tensor], object]] = {
    "one number": lambda x: torch.rand(1),
    "a number": lambda x: torch.rand(()),
    "rows second": lambda x: torch.rand(3, len(x)),
    "a multiple of the rows": lambda x: torch.rand(4 * len(x)),
    "many samples": lambda x: torch.distributions.Normal(x, 1.0).sample((4,)),
    "flat dropout": lambda x: F.dropout(x.flatten(), 0.5),
    "an order": lambda x: torch.randperm(len(x)),
    "gamma": lambda x: torch.distributions.Gamma(x.exp(), 1.0).sample(),
    "Dirichlet": lambda x: torch.distributions.Dirichlet(x.exp()).sample(),
    "counts": lambda x: torch.poisson(x.exp()),
    "random leaks": lambda x: F.rrelu(x, training=True),
    "attention": lambda x: F.scaled_dot_product_attention(x, x, x, dropout_p=0.5),
}


@pytest.mark.parametrize("name", WITHOUT_ROWS)
def test_a_draw_that_has_no_rows_is_an_error_outside_of_a_scope_that_says_so(name: str) -> None:
    x = torch.linspace(-1.0, 1.0, 6).reshape(2, 3)
    with Shard(2, 2, 8), pytest.raises(PluginError, match=r"common\(\).*per_piece\(\)"):
        WITHOUT_ROWS[name](x)
    with Shard(2, 2, 8), common():
        WITHOUT_ROWS[name](x)
    with Shard(2, 2, 8), per_piece():
        WITHOUT_ROWS[name](x)


@pytest.mark.parametrize("layer", [nn.MultiheadAttention(4, 1, dropout=0.5), nn.LSTM(4, 4, 2, dropout=0.5)])
def test_layers_that_draw_within_torch_are_errors(layer: nn.Module) -> None:
    x = torch.zeros(2, 3, 4)
    inputs = (x, x, x) if isinstance(layer, nn.MultiheadAttention) else (x,)
    with Shard(2, 2, 8), pytest.raises(PluginError, match=r"random numbers that cannot be divided"):
        layer(*inputs)


def test_dropout_that_leaves_nothing_out_is_not_a_draw() -> None:
    x = torch.zeros(2, 3, 4)
    layers = (nn.MultiheadAttention(4, 1, dropout=0.5).eval(), nn.MultiheadAttention(4, 1))
    recurrent = nn.LSTM(4, 4, 2)
    with Shard(2, 2, 8):
        for layer in layers:
            layer(x, x, x)
        recurrent(x)
        assert torch.equal(F.dropout(x.flatten(), 0.5, training=False), x.flatten())
        assert torch.equal(nn.Dropout(0.0)(x.flatten()), x.flatten())
        F.scaled_dot_product_attention(x, x, x)


def test_pieces_that_draw_for_themselves_draw_apart_and_again_the_same() -> None:
    def draw(start: int) -> Tensor:
        with seeded("piece"), Shard(start, 2, 8), per_piece():
            return torch.rand(100)

    assert torch.equal(draw(2), draw(2))
    assert not torch.equal(draw(0), draw(2))
    with seeded("piece"), Shard(0, 2, 8):
        with per_piece():
            torch.rand(3)
        after = torch.rand(2)
    with seeded("piece"), Shard(0, 2, 8):
        with per_piece():
            pass
        assert torch.equal(torch.rand(2), after)


def test_a_piece_of_one_row_is_not_mistaken_for_what_all_rows_have_in_common() -> None:
    """Every number is a multiple of one."""
    with seeded("times"):
        whole = draw_times(torch.zeros(4, 1))
    pieces = []
    for row in range(4):
        with seeded("times"), Shard(row, 1, 4):
            pieces.append(draw_times(torch.zeros(1, 1)))
    assert torch.equal(torch.cat(pieces), whole)


def test_a_network_of_ones_own_is_told_what_to_write() -> None:
    class Flat(nn.Module):
        def __init__(self, scope: Any) -> None:
            super().__init__()
            self.weight, self.scope = nn.Parameter(torch.ones(1)), scope

        def forward(self, features: Tensor, t: Tensor, **_: Tensor) -> Tensor:
            with self.scope():
                return F.dropout(features.flatten(), 0.5).reshape(features.shape) * self.weight

    rows = attrs.evolve(data_of(Gaussian((2,))), condition={})
    for scope, refused in ((nullcontext, True), (per_piece, False)):
        step = TrainStep(BFN(Gaussian((2,)), Flat(scope)), CONTINUOUS, Training(accumulate=2, device="cpu"), seed=0)
        if refused:
            with pytest.raises(PluginError, match=r"'dropout' draws the shape \(22,\)"):
                step.step(rows, 1)
        else:
            step.step(rows, 1)


def test_known_sites_do_not_depend_on_the_pieces() -> None:
    family, drawn = PRODUCT, []
    x = data_of(family).x
    with seeded(0):
        whole = draw_held(family, x, 0.8)
    for start in (0, 7):
        with seeded(0), Shard(start, 7, ROWS):
            drawn.append(draw_held(family, map_data(lambda part, start=start: part[start : start + 7], x), 0.8))
    for name, known in whole.items():
        assert known.unique().tolist() == [-1, 0, 1]
        assert torch.equal(torch.cat([piece[name] for piece in drawn]), known[:14])
