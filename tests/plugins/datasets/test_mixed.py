"""A class, an angle and a position that depend on each other: the joint density and the parts."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from bfn_mixed import Mixed
from bfn_toolkit import Experiment, ProductFamily, train
from tests.significance import Z, z_of_mean

N = 20_000
DATASETS = [Mixed(count=N), Mixed(classes=3, step=0.2, noise=0.3, concentration=0.0, count=N), Mixed(step=0.0, count=N)]
EPS = 2.0**-52


def double(x: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: part.double() if part.is_floating_point() else part for name, part in x.items()}


def test_density_has_mass_one() -> None:
    dataset = Mixed(classes=3, step=0.3, noise=0.2, concentration=2.0)
    place = torch.linspace(-2.3, 2.3, 47, dtype=torch.float64)  # half a noise apart, to seven noises from the means
    angle = torch.arange(32, dtype=torch.float64) * (2 * math.pi / 32)
    points = torch.cartesian_prod(torch.arange(3.0, dtype=torch.float64), place, place, angle)
    x = {"position": points[:, 1:3], "type": points[:, :1].long(), "angle": points[:, 3:]}
    cell = (place[1] - place[0]) ** 2 * (2 * math.pi / 32)
    assert abs(float(dataset.log_prob(x).exp().sum() * cell) - 1.0) <= 1e-9


def test_density_is_its_formula() -> None:
    dataset = Mixed(classes=4, step=0.3, noise=0.5, concentration=2.0)
    x = {"position": [[0.1, 0.4]], "type": [[1]], "angle": [[2.5]]}
    mean = (0.3 * math.cos(2.5), 0.6 + 0.3 * math.sin(2.5))  # class 1 of 4 is at the top
    square = (0.1 - mean[0]) ** 2 + (0.4 - mean[1]) ** 2
    bessel = sum((2.0 / 2) ** (2 * j) / math.factorial(j) ** 2 for j in range(40))
    expected = -math.log(4) + 2 * math.cos(2.5 - math.pi / 2) - math.log(2 * math.pi * bessel)
    expected += -square / (2 * 0.25) - math.log(2 * math.pi * 0.25)
    parts = {name: torch.tensor(part, dtype=torch.float64 if name != "type" else None) for name, part in x.items()}
    assert abs(float(dataset.log_prob(parts)) - expected) <= 64 * EPS * abs(expected)


@pytest.mark.parametrize("dataset", DATASETS, ids=str)
def test_entropy_is_the_mean_price_of_fresh_points(dataset: Mixed) -> None:
    entropy, error = dataset.entropy()
    assert error == 0.0
    assert z_of_mean(-dataset.log_prob(double(dataset.split("test").x)), entropy) < Z


@pytest.mark.parametrize("dataset", DATASETS, ids=str)
def test_draws_have_the_moments_of_the_density(dataset: Mixed) -> None:
    x = double(dataset.split("all").x)
    kind, angle = x["type"].flatten(), x["angle"].flatten()
    outwards = kind.double() * 2 * math.pi / dataset.classes
    assert z_of_mean(torch.nn.functional.one_hot(kind, dataset.classes), 1 / dataset.classes) < Z
    away = angle - outwards
    kappa = torch.tensor(dataset.concentration, dtype=torch.float64)
    resultant = torch.special.i1(kappa) / torch.special.i0(kappa)
    assert z_of_mean(torch.stack([away.cos(), away.sin()], 1), torch.tensor([float(resultant), 0.0])) < Z
    centre = 0.6 * torch.polar(torch.ones(N, dtype=torch.float64), outwards)
    mean = centre + torch.polar(torch.full((N,), dataset.step, dtype=torch.float64), angle)
    rest = (x["position"] - torch.view_as_real(mean)) / dataset.noise
    assert z_of_mean(rest, 0.0) < Z
    assert z_of_mean(rest.square(), 1.0) < Z


@pytest.mark.parametrize("dataset", DATASETS, ids=str)
def test_facts_are_of_the_data(dataset: Mixed) -> None:
    x, parts = dataset.split("all").x, dataset.metadata["parts"]
    assert x.keys() == dataset.site_shape.keys() == parts.keys()
    for name, part in x.items():
        assert tuple(part.shape[1:]) == dataset.site_shape[name] == parts[name]["site_shape"]
    assert parts["type"]["classes"] == dataset.classes
    square = x["position"].double().square().mean(1)
    assert z_of_mean(square, parts["position"]["data_variance"]) < Z
    assert z_of_mean(x["position"], 0.0) < Z


def test_parts_of_a_row_stay_together() -> None:
    dataset = Mixed(count=200)
    everything, (train_rows, valid_rows) = dataset.split("all"), (dataset.split(name) for name in ("train", "valid"))
    assert (len(train_rows), len(valid_rows)) == (180, 20)
    known = {x: (k, a) for x, k, a in zip(*(everything.x[n].flatten(1)[:, 0].tolist() for n in PARTS), strict=True)}
    for rows in (train_rows, valid_rows):
        for x, k, a in zip(*(rows.x[n].flatten(1)[:, 0].tolist() for n in PARTS), strict=True):
            assert known[x] == (k, a)


PARTS = ("position", "type", "angle")


def test_modes_are_the_classes() -> None:
    assert Mixed().mode_shares({"type": torch.tensor([[0], [2], [2], [3]])}) == {
        "0": 0.25,
        "1": 0.0,
        "2": 0.5,
        "3": 0.25,
    }


def test_the_facts_make_a_product_family_that_trains() -> None:
    table = {"dataset": {"name": "mixed", "count": 100}, "family": "product", "network": {"name": "mlp", "width": 8}}
    experiment = Experiment.from_mapping({**table, "loss": "continuous-time", "training": {"steps": 2}})
    assert isinstance(experiment.family, ProductFamily)
    assert {name: type(part).__name__ for name, part in experiment.family.parts.items()} == {
        "position": "Gaussian",
        "type": "Categorical",
        "angle": "Circle",
    }
    assert experiment.family.parts["position"].head.data_variance == pytest.approx(
        Mixed().metadata["parts"]["position"]["data_variance"]
    )
    samples = train(experiment).model.sample(5, n_steps=3)
    assert {name: tuple(part.shape) for name, part in samples.items()} == {
        "position": (5, 2),
        "type": (5, 1),
        "angle": (5, 1),
    }
