"""Numbers that are not finite stop a training before they reach weights, a checkpoint or a choice of the best."""

import json
import math
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from faults import parts
from faults.numbers import Place, nan_at, no_global_rng
from faults.tiny import experiment, samples_of

from bfn_toolkit import NonFiniteError, Run, resume, train
from bfn_toolkit.cli import main
from bfn_toolkit.data.loader import row_order
from bfn_toolkit.errors import BFNWarning
from bfn_toolkit.runs.checkpoints import find_checkpoint, list_checkpoints, load_checkpoint
from bfn_toolkit.training.metrics import TrainingEvent
from bfn_toolkit.training.validation import Validation

PLACES: list[Place] = ["data", "output of the network", "loss", "gradient"]
ROW = 3


@pytest.mark.parametrize("where", PLACES)
@pytest.mark.parametrize("ema_decay", [0.0, 0.9])
def test_nan_is_told_with_its_place_and_rows_and_is_not_saved(where: Place, ema_decay: float, tmp_path: Path) -> None:
    parts.register()
    run, models = tmp_path / "run", []
    broken = experiment(nan_at(4, where, ROW), checkpoint_every=1, batch_size=32, ema_decay=ema_decay, validate_every=1)
    with pytest.raises(NonFiniteError, match=rf"step 4: .*first in the {where}") as caught:
        train(broken, run, callbacks=[lambda moment: models.append(moment.model)])
    assert caught.value.exit_status == 6
    report = json.loads((run / "nonfinite" / "step-00000004.json").read_text())
    assert (report["step"], report["first"]) == (4, where)
    index = next(row_order(180, 32, seed=0, start=3)).tolist()
    if where == "gradient":
        assert report["rows"] == index
        assert all(value is None for value in report["gradient_norms"].values())
    else:
        assert report["rows"] == [index[ROW]]
        assert 0.0 < report["t"][0] <= 1.0
        assert report["row_losses"] == [None]
    assert all(torch.isfinite(value).all() for value in models[-1].state_dict().values())
    found, _ = find_checkpoint(run, "best")
    assert found is not None
    assert found.step <= 3
    assert max(one.step for one in list_checkpoints(run, verify=True)) == 3
    network = models[-1].network
    load_checkpoint(run / "checkpoints" / "step-00000003", network.state_dict(), ema_decay > 0.0)
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines if "loss" in line] == [1, 2, 3]
    assert not (run / "model.json").exists()


def test_the_command_ends_with_status_6(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    parts.register()
    options = "--dataset.count 50 --network.width 8 --training.steps 6 --loss faulty --loss.fault loss --loss.step 2"
    assert main(["train", "--out", str(tmp_path / "run"), *options.split()]) == 6
    assert "first in the loss. Report: " in capsys.readouterr().err


def with_validations(values: list[float], run: Path, **training: Any) -> None:
    """Trains with these validation losses instead of the true ones."""
    left = iter(values)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Validation, "losses", lambda _: torch.full((4,), next(left)))
        train(experiment(steps=len(values), validate_every=1, keep=1, **training), run)


LOSSES = [(math.nan, 1.0, 0.5), (1.0, math.nan, 0.5), (math.inf, 0.5, math.nan), (0.5, 1.0, 2.0)]


@pytest.mark.parametrize("values", LOSSES)
def test_the_best_is_the_least_finite_validation_loss(values: tuple[float, ...], tmp_path: Path) -> None:
    with_validations(list(values), tmp_path)
    best, _ = find_checkpoint(tmp_path, "best")
    assert best is not None
    assert (best.step, best.valid_loss) == (values.index(0.5) + 1, 0.5)


def test_no_finite_validation_loss_is_an_error_at_the_end(tmp_path: Path) -> None:
    with pytest.raises(NonFiniteError, match="no validation loss was finite") as caught:
        with_validations([math.nan] * 3, tmp_path)
    assert caught.value.exit_status == 6
    assert list_checkpoints(tmp_path)[-1].step == 3
    assert all(one.valid_loss is None for one in list_checkpoints(tmp_path))


def test_patience_counts_a_nan_as_no_improvement(tmp_path: Path) -> None:
    with_validations([1.0, math.nan, 2.0, 0.1], tmp_path, patience=2)
    assert list_checkpoints(tmp_path)[-1].step == 3


@pytest.mark.parametrize("ema_decay", [0.0, 0.9])
@pytest.mark.parametrize("on_disk", [False, True])
def test_the_finished_model_may_be_the_best(on_disk: bool, ema_decay: float, tmp_path: Path) -> None:
    """Its weights are those of the second step, with which a training of two steps ends."""
    left, options = iter([1.0, 0.5, 0.7, 0.6]), {"ema_decay": ema_decay, "scheduler": "constant"}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Validation, "losses", lambda _: torch.full((4,), next(left)))
        best = train(
            experiment(steps=4, validate_every=1, final="best", **options), tmp_path / "run" if on_disk else None
        )
    short = train(experiment(steps=2, **options))
    assert best.weights.step == 2
    assert all(torch.equal(a, b) for a, b in zip(best.model.parameters(), short.model.parameters(), strict=True))
    if on_disk:
        reopened = Run.open(tmp_path / "run")
        assert all(
            torch.equal(a, b) for a, b in zip(reopened.model.parameters(), short.model.parameters(), strict=True)
        )


def test_the_best_survives_a_resume(tmp_path: Path) -> None:
    left = iter([0.5, 0.7, 0.6])
    options = {"steps": 3, "validate_every": 1, "final": "best", "checkpoint_every": 1, "ema_decay": 0.9}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Validation, "losses", lambda _: torch.full((4,), next(left)))

        whole = train(experiment(**options), tmp_path / "run")
    shutil.rmtree(tmp_path / "run" / "checkpoints" / "step-00000003")  # as if it had been stopped before
    left = iter([0.6])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Validation, "losses", lambda _: torch.full((4,), next(left)))
        again = resume(tmp_path / "run")
    assert (whole.weights.step, again.weights.step) == (1, 1)
    assert all(torch.equal(a, b) for a, b in zip(again.model.parameters(), whole.model.parameters(), strict=True))


def test_a_validation_loss_is_the_mean_of_its_draws() -> None:
    """Its rows spread less: to a tenth for 100 draws, if they differ by the draws alone."""
    spread = []
    for draws in (1, 100):
        run = train(experiment(steps=1, validate_every=1, validation_draws=draws))
        line = next(line for line in run.metrics if "valid_loss" in line)
        spread.append(line["valid_loss_stderr"])
    assert 0.0 < spread[1] < 0.5 * spread[0]


def test_training_and_sampling_touch_no_global_generator() -> None:
    with no_global_rng():
        samples_of(train(experiment(validate_every=2)).model)


def test_a_callback_that_fails_three_times_is_called_no_more_and_training_goes_on() -> None:
    calls: dict[str, list[int]] = {"failing": [], "fine": []}

    def failing(moment: TrainingEvent) -> None:
        calls["failing"].append(moment.step)
        raise ZeroDivisionError("mine")

    def fine(moment: TrainingEvent) -> None:
        calls["fine"].append(moment.step)

    with pytest.warns(BFNWarning, match="failing: ZeroDivisionError: mine") as warned:
        run = train(experiment(validate_every=1), callbacks=[failing, fine])
    assert [str(one.message).endswith("it is not called any more") for one in warned] == [False, False, True]
    assert calls == {"failing": [1, 2, 3], "fine": [1, 2, 3, 4, 5, 6]}
    assert torch.equal(samples_of(run.model), samples_of(train(experiment(validate_every=1)).model))


def test_a_callback_that_recovers_is_called_on() -> None:
    calls = []

    def sometimes(moment: TrainingEvent) -> None:
        calls.append(moment.step)
        if moment.step % 2:
            raise ZeroDivisionError

    with pytest.warns(BFNWarning, match="sometimes"):
        train(experiment(validate_every=1, steps=8), callbacks=[sometimes])
    assert calls == list(range(1, 9))
