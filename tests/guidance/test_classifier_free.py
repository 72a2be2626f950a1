"""Laws of guidance: it starts from the conditional model, and what tells nothing changes nothing."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from bfn_categorical import Categorical
from bfn_gaussian import Gaussian
from bfn_toolkit import (
    ODE2,
    SDE2,
    AncestralSampler,
    ConfigError,
    Delta,
    Family,
    Finite,
    FlowModel,
    Guided,
    JointOutput,
    NormalMixture,
    Oracle,
    Output,
    guide,
    load_run,
    seeded,
)
from bfn_toolkit.cli import main
from bfn_von_mises import Direction
from every_family import EVERY_FAMILY, LABEL, ROWS, draw, network, numbers, same


@EVERY_FAMILY
def test_weight_zero_is_the_conditional_model_to_the_bit(family: Family[Any]) -> None:
    bfn, label = network(family), LABEL
    assert same(draw(Guided(bfn, 0.0), condition={"label": label}), draw(bfn, condition={"label": label}))


@EVERY_FAMILY
def test_guidance_that_learns_nothing_from_the_condition_does_nothing(family: Family[Any]) -> None:
    bfn, label = network(family), torch.full((ROWS,), -1)  # no label, as a label
    assert same(draw(Guided(bfn, 7.0), condition={"label": label}), draw(bfn, condition={"label": label}))


@EVERY_FAMILY
def test_guided_samples_are_finite_and_differ(family: Family[Any]) -> None:
    bfn, label = network(family), LABEL
    guided = draw(Guided(bfn, 3.0), condition={"label": label})
    assert all(torch.isfinite(part).all() for part in numbers(guided))
    assert not same(guided, draw(bfn, condition={"label": label}))


@pytest.mark.parametrize("weight", [-1.0, 0.5, 4.0])
def test_logits_are_guided_up_to_a_constant(weight: float) -> None:
    with seeded(5, "logits"):
        given, free = torch.randn(2, 3, 4, dtype=torch.float64), torch.randn(2, 3, 4, dtype=torch.float64)
    guided: Any = guide(Finite(None, given), Finite(None, free), weight)
    shifted: Any = guide(Finite(None, given + 7.0), Finite(None, free - 5.0), weight)
    # The definition, p_c^(1 + w) / p_u^w; 1e-12: some 4,000 roundings of float64
    p = given.softmax(-1) ** (1 + weight) / free.softmax(-1) ** weight
    for output in (guided, shifted):
        assert torch.allclose(output.logits.softmax(-1), p / p.sum(-1, keepdim=True), rtol=1e-12, atol=0)


def test_points_move_along_the_line_through_both() -> None:
    given, free = Delta(torch.tensor([[0.5]])), Delta(torch.tensor([[0.25]]))
    assert guide(given, free, 2.0).mean == torch.tensor([[1.0]])
    assert guide(given, free, -1.0).mean == torch.tensor([[0.25]])


def test_angles_go_the_shorter_way_round() -> None:
    given, free = Direction(torch.tensor([[3.0]]), 0.1), Direction(torch.tensor([[-3.0]]), 0.1)
    turn = 6.0 - 2 * math.pi
    assert guide(given, free, 1.0).mean.item() == pytest.approx(3.0 + turn, abs=1e-6)  # float32


def test_a_mixture_is_guided_component_by_component() -> None:
    given = NormalMixture(torch.tensor([[0.0, 1.0]]), torch.tensor([[[1.0], [2.0]]]), torch.tensor([[0.1, 0.2]]))
    free = NormalMixture(torch.tensor([[0.0, 0.0]]), torch.tensor([[[1.0], [1.0]]]), torch.tensor([[0.1, 0.2]]))
    guided: Any = guide(given, free, 1.0)
    assert torch.equal(guided.logits, torch.tensor([[0.0, 2.0]]))
    assert torch.equal(guided.means, torch.tensor([[[1.0], [3.0]]]))
    assert torch.equal(guided.scales, given.scales)


def test_parts_are_guided_by_themselves() -> None:
    given = JointOutput({"a": Delta(torch.ones(1, 1)), "b": Finite(None, torch.ones(1, 1, 2))})
    free = JointOutput({"a": Delta(torch.zeros(1, 1)), "b": Finite(None, torch.zeros(1, 1, 2))})
    guided: Any = guide(given, free, 3.0)
    assert torch.equal(guided["a"].value, torch.full((1, 1), 4.0))
    assert torch.equal(guided["b"].logits, torch.full((1, 1, 2), 4.0))


class TwoSpikes(FlowModel):
    """The exact posterior of one of two classes, with odds of 3 to 1 under the condition and 1 to 1 without."""

    def output(self, params: Any, t: Tensor, condition: Any = None) -> Output:
        odds = torch.tensor([math.log(3.0) if condition else 0.0, 0.0])
        return Finite(None, params.logits + odds)


@pytest.mark.parametrize("sampler", [AncestralSampler(), SDE2(), ODE2()], ids=lambda sampler: type(sampler).__name__)
def test_guided_samples_have_the_guided_odds(sampler: Any) -> None:
    # log-odds add: the guided model is that of the posterior with the odds 3^(1 + w), which samplers then follow.
    model = Guided(TwoSpikes(Categorical((1,), classes=2)), 1.0)
    with seeded(6, "odds"):
        x = model.sample(20_000, n_steps=100, sampler=sampler, condition={"label": torch.zeros(20_000)})
    share = float((x == 0).double().mean())
    # 0.9; standard error 0.0021, of which 5; and 0.01 for the steps of the solvers
    assert abs(share - 0.9) <= (0.0105 if isinstance(sampler, AncestralSampler) else 0.0205)


def test_only_the_named_conditions_guide() -> None:
    asked: list[set[str]] = []

    class Asked(FlowModel):
        def output(self, params: Any, t: Tensor, condition: Any = None) -> Output:
            asked.append(set(condition))
            return Delta(params.mean)

    both = {"label": torch.zeros(2), "scale": torch.zeros(2)}
    Guided(Asked(Gaussian((1,))), 1.0, names=["label"]).sample(2, n_steps=1, sampler=AncestralSampler(), condition=both)
    assert asked == [{"label", "scale"}, {"scale"}] * 2


@pytest.mark.parametrize("condition", [None, {}, {"scale": torch.zeros(3)}])
def test_guidance_by_nothing_is_refused(condition: dict[str, Tensor] | None) -> None:
    class Free(FlowModel):
        def output(self, params: Any, t: Tensor, condition: Any = None) -> Output:
            return Delta(params.mean)

    guided = Guided(Free(Gaussian((2,))), 1.0, names=["label"])
    with pytest.raises(ConfigError, match=r"write sample\(..., condition=\{'label': ...\}\)"):
        guided.sample(3, n_steps=3, condition=condition)


@pytest.mark.parametrize("weight", [math.nan, math.inf, True, "2"])
def test_a_weight_that_is_no_number_is_refused(weight: Any) -> None:
    with pytest.raises(ConfigError, match="finite number"):
        Guided(network(Gaussian((2,))), weight)


def test_an_output_without_guidance_is_named() -> None:
    class Odd:
        mean = torch.zeros(1, 1)

    guided = Guided(Oracle(Gaussian((1,)), lambda params: Odd()), 1.0)  # type: ignore[arg-type, return-value]
    with pytest.raises(ConfigError, match=r"no guidance of Odd outputs.*guide\.register"):
        guided.output(None, torch.zeros(()), condition={"label": torch.zeros(1)})


@pytest.fixture(scope="module")
def labelled(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A run that has hardly learned, of data with labels 0..9."""
    folder = str(tmp_path_factory.mktemp("runs") / "digits")
    small = ("--dataset.pixels", "binary", "--family", "categorical", "--network.width", "16", "--training.steps", "2")
    assert main(["train", "--dataset", "digits", *small, "--out", folder, "--no-report"]) == 0
    return folder


def test_the_command_line_draws_what_the_library_draws(labelled: str, tmp_path: Path) -> None:
    out = tmp_path / "x.npy"
    options = ("--condition", "label=3", "--guidance", "2", "--sampler", "sde-2", "--seed", "7")
    assert main(["sample", labelled, "-n", "5", "--steps", "4", *options, "--out", str(out)]) == 0
    model = load_run(labelled)
    with seeded(7, "samples"):
        x = Guided(model, 2.0).sample(5, n_steps=4, sampler=SDE2(), condition={"label": torch.full((5,), 3)})
    assert torch.equal(torch.from_numpy(np.load(out, allow_pickle=False)), x)


def test_no_condition_is_what_a_network_makes_of_none(labelled: str, tmp_path: Path) -> None:
    out = tmp_path / "x.npy"
    options = ("--condition", "label=none", "--seed", "7")
    assert main(["sample", labelled, "-n", "5", "--steps", "4", *options, "--out", str(out)]) == 0
    model = load_run(labelled)
    with seeded(7, "samples"):
        x = model.sample(5, n_steps=4)
    assert torch.equal(torch.from_numpy(np.load(out, allow_pickle=False)), x)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--condition", "labl=3"), "the data set has label and the network reads label. Did you mean 'label'?"),
        (("--condition", "label=10"), "label must be an integer from 0 to 9, as in the training rows, got 10"),
        (("--condition", "label=-1"), "from 0 to 9"),
        (("--condition", "label=2.5"), "must be an integer"),
        (("--condition", "label=nan"), "must be an integer"),
        (("--condition", "label"), "NAME=[NUMBER,NUMBER] or NAME=none"),
        (("--condition", "label=three"), "expected a number, because its values have no names, got 'three'"),
        (("--condition", "label=none", "--guidance", "1"), "guidance needs a guiding condition"),
        (("--guidance", "inf"), "finite number"),
    ],
)
def test_mistakes_about_conditions_are_named(
    labelled: str, options: tuple[str, ...], words: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    out = tmp_path / "x.npy"
    assert main(["sample", labelled, "-n", "2", "--steps", "2", "--out", str(out), *options]) == 2
    assert words in capsys.readouterr().err
    assert not out.exists()


def test_the_name_of_the_file_tells_the_condition(labelled: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["sample", labelled, "-n", "2", "--steps", "2", "--condition", "label=3", "--guidance", "0.5"]) == 0
    assert capsys.readouterr().out.strip().endswith("seed0-label3-guidance0.5.npy")
