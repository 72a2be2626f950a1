"""Experiments, models and runs as a notebook or an interpreter shows them."""

from pathlib import Path

import attrs
import pytest

from bfn_gaussian import Gaussian
from bfn_gaussian_mixture import GaussianMixture
from bfn_siren import Siren
from bfn_toolkit import BFN, ContinuousTimeLoss, Experiment, Run, Training, train

EXPERIMENT = Experiment(
    GaussianMixture(count=100),
    Gaussian(),
    Siren(width=8),
    ContinuousTimeLoss(),
    Training(steps=2, optimizer_options={"eps": 1e-9}),
    seed=3,
)


def test_a_notebook_shows_the_expression_that_makes_an_experiment() -> None:
    pretty = pytest.importorskip("IPython.lib.pretty")
    shown = pretty.pretty(EXPERIMENT)
    import bfn_gaussian
    import bfn_toolkit

    names = vars(bfn_gaussian) | {"GaussianMixture": GaussianMixture, "Siren": Siren}
    names |= {name: getattr(bfn_toolkit, name) for name in bfn_toolkit.__all__}
    assert eval(shown, names) == EXPERIMENT
    assert "training=Training(steps=2, optimizer_options={'eps': 1e-09}),\n" in shown
    assert len(shown.splitlines()) == 2 + len(attrs.fields(Experiment))


def test_a_model_shows_its_family_and_a_run_its_parts_weights_and_place(tmp_path: Path) -> None:
    assert repr(Gaussian(site_shape=(2,))) in repr(BFN(Gaussian(site_shape=(2,)), Siren(width=8)))
    run = train(EXPERIMENT)
    size = sum(weight.numel() for weight in run.model.network.parameters())
    parts = f"Run(GaussianMixture, Gaussian, Siren with {size:,} parameters; weights after step 2 (final); "
    assert repr(run) == f"{parts}kept in memory)"
    train(EXPERIMENT, tmp_path / "run")
    assert repr(Run.open(tmp_path / "run")) == f"{parts}in {tmp_path / 'run'})"
