"""Laws of models around models, and of conditions: wrapping with nothing to do changes no bit and no guard."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from bfn_categorical import Categorical
from bfn_gaussian import Gaussian
from bfn_mlp import MLP
from bfn_toolkit import (
    BFN,
    AncestralSampler,
    ConfigError,
    ContinuousTimeLoss,
    DiscreteTimeLoss,
    Family,
    GradientGuided,
    Guided,
    InpaintedModel,
    Model,
    ModelWrapper,
    NetworkBuilder,
    NetworkIO,
    NonFiniteError,
    Observed,
    ReconstructionLoss,
    likelihood_bound,
    seeded,
)
from bfn_toolkit.data.dataset import Batch
from bfn_toolkit.sampling.draws import Draws
from bfn_toolkit.sampling.sampler import WatchedModel
from bfn_toolkit.shapes import map_data
from every_family import EVERY_FAMILY, LABEL, ROWS, network, numbers, same


def nothing_observed(model: Model) -> InpaintedModel:
    """A model all of whose values are unknown."""

    with seeded("data"):
        x = model.family.input(model.family.prior(16)).sample()
    observed = Observed(x, map_data(lambda part: torch.zeros_like(part, dtype=torch.bool), x))
    return InpaintedModel(model, observed)


WRAPPERS: dict[str, Callable[[Any], Any]] = {
    "wrapper": ModelWrapper,
    "guided with weight 0": lambda model: Guided(model, 0.0),
    "gradient of scale 0": lambda model: GradientGuided(model, lambda x: x, scale=0.0),
    "nothing observed": nothing_observed,
    "watched": lambda model: WatchedModel(model, 99, lambda step: None),
}
EVERY_WRAPPER = pytest.mark.parametrize("wrap", WRAPPERS.values(), ids=WRAPPERS)


def draw(model: Any, condition: Any = None) -> Any:
    with seeded(4, "samples"):
        return Draws.of(model, 16, n_steps=6, sampler=AncestralSampler(), condition=condition).draw(range(16))


@EVERY_WRAPPER
@EVERY_FAMILY
def test_a_wrapper_with_nothing_to_do_changes_no_bit(family: Family[Any], wrap: Callable[[Any], Any]) -> None:
    bfn, condition = network(family), {"label": LABEL[:16]}
    assert same(draw(wrap(bfn), condition), draw(bfn, condition))
    params, t = family.prior(16), torch.full((16,), 0.5)
    with seeded(1):
        drawn = wrap(bfn).output(params, t).sample()
    with seeded(1):
        assert same({"x": drawn}, {"x": bfn.output(params, t).sample()})


@EVERY_WRAPPER
@EVERY_FAMILY
def test_a_wrapper_keeps_the_guard_against_numbers_that_are_not_finite(
    family: Family[Any], wrap: Callable[[Any], Any]
) -> None:
    bfn = network(family)
    with torch.no_grad():
        next(bfn.network.parameters()).fill_(torch.nan)
    for model in (bfn, wrap(bfn)):
        with pytest.raises(NonFiniteError):
            draw(model)


@pytest.mark.parametrize("guided", [lambda m: Guided(m, 2.0), lambda m: GradientGuided(m, lambda p: p[..., 0].sum(1))])
def test_guided_classes_of_a_network_that_returns_nan_raise(guided: Callable[[Any], Any]) -> None:
    bfn = network(Categorical((2,), classes=5))
    with torch.no_grad():
        next(bfn.network.parameters()).fill_(torch.nan)
    with pytest.raises(NonFiniteError, match="look at its weights"):
        guided(bfn).sample(3, n_steps=2, condition={"label": torch.zeros(3, dtype=torch.int64)})


@EVERY_WRAPPER
def test_a_wrapper_delegates_conditions_and_weights(wrap: Callable[[Any], Any]) -> None:
    bfn = network(Gaussian((2,)))
    wrapped = wrap(bfn)
    assert wrapped.conditions == ("label",)
    assert [id(p) for p in wrapped.parameters()] == [id(p) for p in bfn.parameters()]
    with pytest.raises(ConfigError, match="'lable'"):
        wrapped.check_condition({"lable": LABEL}, ROWS)


def test_wrapping_twice_is_wrapping_once() -> None:
    bfn, condition = network(Gaussian((2,))), {"label": LABEL[:16]}
    assert same(draw(ModelWrapper(ModelWrapper(bfn)), condition), draw(bfn, condition))


# Conditions


class Heard(nn.Module):
    """A network that adds one condition of any name to its features."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self.name = name

    def forward(self, features: Tensor, t: Tensor, /, **condition: Tensor) -> Tensor:
        return features + condition[self.name].to(features.dtype).unsqueeze(-1).unsqueeze(-1)


NAMES = ["first", "t", "x", "model", "known", "n_steps", "sampler", "batch_size", "on_step", "condition", "params", "s"]


@pytest.mark.parametrize("name", [*NAMES, "features", "a b", "class"])
def test_a_condition_of_any_name_works(name: str) -> None:
    bfn, rows = BFN(Gaussian((1,)), Heard(name)), 200
    condition = {name: torch.linspace(-1.0, 1.0, rows)}
    with seeded(0):
        x = bfn.sample(rows, n_steps=4, condition=condition)
        other = Guided(bfn, 0.0).sample(rows, n_steps=4, condition=condition)
        values, mask = torch.zeros(1), torch.tensor([False])
        known = bfn.sample(rows, n_steps=4, condition=condition, known=(values, mask))
    assert all(torch.isfinite(part).all() for part in (x, other, known))
    # 0 without the condition, with a standard error of 0.07
    assert torch.corrcoef(torch.stack([x[:, 0], condition[name]]))[0, 1] > 0.28
    for n_steps in (None, 5):
        assert bfn.loss(x, n_steps=n_steps, condition=condition).shape == (rows,)
        assert bfn.nll(x, n_steps=n_steps, condition=condition).shape == (rows,)
    assert likelihood_bound(bfn, Batch(x, condition), draws=2).examples == rows


LABELLED = BFN(Categorical((4,), classes=3), MLP(width=8, labels=3))
WRONG: dict[str, tuple[Any, str]] = {
    "unknown": ({"lable": torch.tensor([0, 1, 2])}, "'lable'.* it reads label. Did you mean 'label'"),
    "too many": ({"label": torch.tensor([0, 1, 1, 1, 1])}, "'label' must have a row for each of the 3.*found 5 rows"),
    "too few": ({"label": torch.tensor([0, 1])}, "found 2 rows"),
    "a scalar": ({"label": torch.tensor(1)}, r"found a scalar; for one value write torch.full\(\(3,\), value\)"),
    "a list": ({"label": [0, 1]}, "found 2 rows"),
    "words": ({"label": ["a", "b", "c"]}, r"condition\['label'\]: expected a tensor or an array of numbers"),
    "NaN": ({"label": torch.full((3,), torch.nan)}, r"condition\['label'\]: expected finite numbers, found nan"),
    "beyond": ({"label": torch.tensor([0, 1, 7])}, "label 7 is beyond the labels 0 to 2"),
    "numbers": ({"label": torch.tensor([0.0, 1.0, 2.0])}, "label must be integers"),
    "no mapping": (torch.tensor([0, 1, 2]), "condition must map names to tensors, found a Tensor"),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_a_wrong_condition_is_named(wrong: str) -> None:
    condition, words = WRONG[wrong]
    for model in (LABELLED, Guided(LABELLED, 1.0)):
        with pytest.raises(ConfigError, match=words):
            model.sample(3, n_steps=2, condition=condition)
        x = torch.zeros(3, 4, dtype=torch.int64)
        with pytest.raises(ConfigError, match=words):
            model.loss(x, condition=condition)
        if wrong not in ("beyond", "numbers", "a list", "words", "NaN"):  # which are read at public entries alone
            for loss in (ContinuousTimeLoss(), DiscreteTimeLoss(5), ReconstructionLoss()):
                with pytest.raises(ConfigError, match=words):
                    loss(model, x, condition)
            with pytest.raises(ConfigError, match=words):
                AncestralSampler().sample(model, 3, n_steps=2, condition=condition)


def test_a_condition_that_is_not_in_the_mapping_is_refused_with_the_line_to_write() -> None:
    label = torch.tensor([0, 1, 2])
    for call in (
        lambda: LABELLED.sample(3, n_steps=2, label=label),
        lambda: LABELLED.loss(torch.zeros(3, 4, dtype=torch.int64), label=label),
        lambda: LABELLED.nll(torch.zeros(3, 4, dtype=torch.int64), label=label),
    ):
        with pytest.raises(ConfigError, match=r"there is no argument 'label'.*condition=\{'label': values\}"):
            call()


def test_a_label_for_a_network_that_reads_none_is_refused() -> None:
    bfn = BFN(Gaussian((2,)), MLP(width=8))
    with pytest.raises(ConfigError, match="does not read a condition 'label'; it reads none"):
        bfn.sample(3, n_steps=2, condition={"label": torch.zeros(3, dtype=torch.int64)})


def test_a_missing_condition_is_named() -> None:
    class Needs(nn.Module):
        def forward(self, features: Tensor, t: Tensor, *, height: Tensor) -> Tensor:
            return features * height.reshape(-1, 1, 1)

    bfn = BFN(Gaussian((2,)), Needs())
    with pytest.raises(ConfigError, match=r"Needs needs the condition height; write condition=\{'height': values\}"):
        bfn.sample(3, n_steps=2)
    assert bfn.sample(3, n_steps=2, condition={"height": torch.ones(3)}).shape == (3, 2)
    with pytest.raises(ConfigError, match=r"'features'.*it reads height"):
        bfn.sample(3, n_steps=2, condition={"height": torch.ones(3), "features": torch.ones(3)})


def test_a_name_that_the_forward_gives_to_another_argument_is_named() -> None:
    class Collides(nn.Module):
        def forward(self, features: Tensor, t: Tensor, **condition: Tensor) -> Tensor:
            return features

    with pytest.raises(ConfigError, match=r"cannot read a condition 't'.*write def forward\(self, features, t, /"):
        BFN(Gaussian((2,)), Collides()).sample(3, n_steps=2, condition={"t": torch.ones(3)})


def test_data_with_a_condition_that_a_network_does_not_read_have_a_bound() -> None:
    class Strict(nn.Module):
        def forward(self, features: Tensor, t: Tensor) -> Tensor:
            return features

    bfn, x = BFN(Gaussian((2,)), Strict()), torch.zeros(6, 2)
    batch = Batch(x, {"label": torch.zeros(6)})  # of the data: training and bounds go without it
    assert likelihood_bound(bfn, batch, draws=2).examples == 6


def test_builders_may_check_values() -> None:
    class Heights(NetworkBuilder):
        conditions = ("height",)

        def build(self, io: NetworkIO) -> nn.Module:
            return Heard("height")

        def check_condition(self, name: str, value: Tensor) -> None:
            if (value < 0).any():
                raise ConfigError(f"{name} must not be negative")

    bfn = BFN(Gaussian((1,)), Heights())
    assert bfn.sample(2, n_steps=2, condition={"height": torch.ones(2)}).shape == (2, 1)
    with pytest.raises(ConfigError, match="height must not be negative"):
        bfn.sample(2, n_steps=2, condition={"height": -torch.ones(2)})


def test_numbers_are_all_compared() -> None:
    assert len(numbers({"a": torch.zeros(1), "b": {"c": torch.ones(1)}})) == 2


def test_a_module_of_a_builder_reads_what_the_builder_says() -> None:
    builder = MLP(width=8)
    module = builder.build(NetworkIO((2,)))
    with pytest.raises(ConfigError, match="it reads none"):
        BFN(Gaussian((2,)), module, builder).sample(2, n_steps=2, condition={"label": torch.zeros(2).long()})
