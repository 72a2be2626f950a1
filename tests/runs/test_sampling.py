"""Plans of samples: resolved once, whatever the number of batches, in memory that does not grow."""

from __future__ import annotations

import resource
from pathlib import Path
from typing import Any

import attrs
import numpy as np
import pytest
import torch
from faults.crashes import forked

from bfn_gaussian import Gaussian
from bfn_mlp import MLP
from bfn_toolkit import BFN, ConfigError, DataError, Experiment, Observed, seeded
from bfn_toolkit.data.conditions import SizeSpec
from bfn_toolkit.runs import sampling
from bfn_toolkit.runs.run import Run
from bfn_toolkit.runs.sampling import ResolvedPlan, SamplePlan, stream_samples


def run_of(**tables: Any) -> Run:
    experiment = Experiment.from_mapping({"network": {"name": "siren", "width": 8}, **tables}, base="default")
    with seeded(0, "weights"):
        return Run(experiment, BFN(experiment.family, experiment.network).eval(), [])


@pytest.fixture(scope="module")
def run() -> Run:
    return run_of()


def test_known_values_are_read_and_checked_once(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    known, calls = tmp_path / "known.npy", {"load": 0, "of": 0}
    np.save(known, np.linspace(-1.0, 1.0, 5000, dtype=np.float32).reshape(-1, 1))
    load, check = np.memmap, Observed.of

    def counted_load(*arguments: Any, **options: Any) -> Any:
        calls["load"] += 1
        return load(*arguments, **options)

    def counted_check(*arguments: Any) -> Observed:
        calls["of"] += 1
        return check(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(np, "memmap", counted_load)
        patch.setattr(Observed, "of", counted_check)
        plan = ResolvedPlan.of(run, SamplePlan(n=5000, steps=1, known=known))
        stream_samples(plan, tmp_path / "x.npy", batch=1024)  # five batches
    assert calls == {"load": 1, "of": 1}
    assert np.array_equal(np.load(tmp_path / "x.npy"), np.load(known))


def test_known_values_are_checked_to_the_last_row(run: Run, tmp_path: Path) -> None:
    known = tmp_path / "known.npy"
    values = np.zeros((sampling.CHECKED_ROWS + 3, 1), dtype=np.float32)
    values[-1] = np.inf
    np.save(known, values)
    with pytest.raises(DataError, match="finite"):
        ResolvedPlan.of(run, SamplePlan(n=len(values), steps=1, known=known))
    with pytest.raises(ConfigError, match=f"has {len(values)} rows, expected 7"):
        ResolvedPlan.of(run, SamplePlan(n=7, steps=1, known=known))


@pytest.mark.parametrize("rows", ["alike", "each"])
def test_memory_does_not_grow_with_the_samples(run: Run, tmp_path: Path, rows: str) -> None:
    """The growth of a process that draws 64 times as many; a file of known values stays on the disk."""
    few, many, path = 2**15, 2**21, tmp_path / "grown"
    for n in (few, many):
        np.save(tmp_path / f"{n}.npy", np.zeros((1,) if rows == "alike" else (n, 1), dtype=np.float32))

    def work() -> None:
        peaks = []
        for n in (few, few, many):  # twice, because the first time costs more
            known = tmp_path / f"{n}.npy"
            stream_samples(ResolvedPlan.of(run, SamplePlan(n=n, steps=1, known=known)), tmp_path / f"x{len(peaks)}.npy")
            peaks.append(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
        path.write_text(str(peaks[2] - peaks[1]))

    assert forked(work) == 0
    # In KB.  The file of values for each sample is 8 MB, mapped; samples, values and masks that are kept are 8 MB each.
    assert int(path.read_text()) < (8000 if rows == "alike" else 16000)


def test_conditions_are_resolved_once(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    run = run_of(dataset="digits", family="gaussian", network={"name": "mlp", "width": 8, "labels": 10})
    splits: list[str] = []
    rows = Run.rows_as_now
    monkeypatch.setattr(Run, "rows_as_now", lambda self, name, *to: (splits.append(name), rows(self, name, *to))[1])
    plan = ResolvedPlan.of(run, SamplePlan(n=2600, steps=1))
    stream_samples(plan, tmp_path / "x.npy", batch=512)
    assert splits == ["train", "train"]  # what the rows have of each condition, and the rows themselves


def test_a_network_whose_condition_is_missing_is_named(tmp_path: Path) -> None:
    run = run_of(dataset="digits", family="gaussian", network={"name": "mlp", "width": 8, "labels": 10})
    beyond = attrs.evolve(run, model=BFN(run.experiment.family, MLP(width=8, labels=3)))
    with pytest.raises(ConfigError, match="beyond the labels 0 to 2"):
        ResolvedPlan.of(beyond, SamplePlan(n=100, steps=1)).draw()


def test_rows_do_not_depend_on_the_batch(run: Run) -> None:
    plan = ResolvedPlan.of(run, SamplePlan(n=3000, steps=2, seed=5))
    whole = plan.draw()
    for rows in (range(20), range(1000, 1100), range(2980, 3000)):
        assert torch.equal(plan.draw(rows), whole[rows.start : rows.stop])
    for rows in (range(1), range(2999, 3000)):  # products of fewer than 16 rows round differently
        assert torch.allclose(plan.draw(rows), whole[rows.start : rows.stop], atol=1e-5)


def test_samples_have_the_sizes_of_the_training_rows_or_the_one_that_is_asked_for(run: Run) -> None:
    family = Gaussian(site_shape=(5,), axes=("set",))
    sets = attrs.evolve(run, model=BFN(family, MLP(width=8, depth=1)), seen={}, sizes=SizeSpec((0, 0, 3, 0, 0, 1)))
    plan = ResolvedPlan.of(sets, SamplePlan(n=3000, steps=1, seed=2))
    sizes = torch.bincount((plan.draw() != 0.0).sum(1), minlength=6)
    assert torch.equal(sizes > 0, torch.tensor([0, 0, 1, 0, 0, 1]).bool())
    assert abs(int(sizes[2]) - 2250) < 5 * (3000 * 0.75 * 0.25) ** 0.5
    assert torch.equal(plan.mask(range(1000, 1100)), plan.mask(range(3000))[1000:1100])  # within a group and beyond
    assert torch.equal(plan.draw(range(1000, 1100)) != 0.0, plan.mask(range(1000, 1100)))
    two = ResolvedPlan.of(sets, SamplePlan(n=20, steps=1, size=2))
    assert torch.equal((two.draw() != 0.0).sum(1), torch.full((20,), 2))
    with pytest.raises(ConfigError, match="sizes must be integers from 1 to 5"):
        ResolvedPlan.of(sets, SamplePlan(n=20, steps=1, size=6))
    whole = attrs.evolve(sets, sizes=None)
    assert ResolvedPlan.of(whole, SamplePlan(n=20, steps=1)).mask(range(20)) is None
