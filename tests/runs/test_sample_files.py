"""Files of samples: the same bytes whatever the batch, the format's own writer or a kill."""

import copy
import io
import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import attrs
import numpy as np
import pytest
import torch
from faults import tiny
from faults.crashes import crash_at, forked
from faults.disks import simulated_fs
from PIL import Image
from safetensors.torch import save as save_tensors

from bfn_gaussian import Gaussian
from bfn_gaussian_mixture import GaussianMixture
from bfn_siren import Siren
from bfn_toolkit import ODE1, ConfigError, Experiment, IdentityCodec, ImageCodec, UniformGrid, seeded
from bfn_toolkit.bfn import BFN
from bfn_toolkit.cli import main
from bfn_toolkit.errors import ResourceError
from bfn_toolkit.parallel.signals import Interrupted, listening
from bfn_toolkit.runs import sampling
from bfn_toolkit.runs.run import Run
from bfn_toolkit.runs.sample_files import sample_file
from bfn_toolkit.runs.sampling import ResolvedPlan, SamplePlan, batch_rows, stream_samples, write_samples
from bfn_toolkit.shapes import map_data
from bfn_toolkit.storage.files import FullDiskError

FORMATS = list(IdentityCodec().formats)
PLAN = SamplePlan(n=2500, steps=2, seed=3)  # two whole blocks of 1,024 rows and a piece


@pytest.fixture(scope="module")
def run() -> Run:
    experiment = tiny.experiment()
    return Run(experiment, BFN(experiment.family, experiment.network), [])


def _whole(run: Run, path: Path) -> bytes:
    write_samples(path, ResolvedPlan.of(run, PLAN).draw())
    return path.read_bytes()


@pytest.mark.parametrize("ending", FORMATS)
@pytest.mark.parametrize("batch", [700, 1024, 2048, 2500, None])
def test_bytes_do_not_depend_on_the_batch(run: Run, tmp_path: Path, ending: str, batch: int | None) -> None:
    path = tmp_path / f"x{ending}"
    stream_samples(ResolvedPlan.of(run, PLAN), path, batch=batch)
    assert path.read_bytes() == _whole(run, tmp_path / f"whole{ending}")
    assert sorted(os.listdir(tmp_path)) == sorted([f"x{ending}", f"whole{ending}"])


def test_bytes_are_those_of_the_formats_own_writers(tmp_path: Path) -> None:
    samples = {"b": torch.rand(7, 3), "a-long-name": torch.arange(7), "c": torch.rand(7, 2, 2, dtype=torch.bfloat16)}
    buffer = io.BytesIO()
    np.save(buffer, samples["b"].numpy())
    for name, value, expected in (
        ("x.npy", samples["b"], buffer.getvalue()),
        ("one.safetensors", samples["b"], save_tensors({"samples": samples["b"]})),
        ("all.safetensors", samples, save_tensors(samples)),
    ):
        with sample_file(tmp_path / name, 7) as file:
            for rows in (slice(0, 2), slice(2, 3), slice(3, 7)):
                file.append(map_data(lambda part, rows=rows: part[rows], value))
        assert (tmp_path / name).read_bytes() == expected, name


@pytest.mark.parametrize("ending", FORMATS)
def test_the_same_call_goes_on_after_a_kill_at_any_moment(run: Run, tmp_path: Path, ending: str) -> None:
    whole, path, drawn = _whole(run, tmp_path / f"whole{ending}"), tmp_path / f"x{ending}", tmp_path / "drawn"
    samples = ResolvedPlan.of(run, PLAN).draw()

    def work() -> None:
        def noted(plan: ResolvedPlan, rows: range) -> Any:
            with drawn.open("ab") as file:
                file.write(b".")
            return samples[rows.start : rows.stop]  # drawn once: rows do not depend on the batch (see above)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(ResolvedPlan, "draw", noted)
            stream_samples(ResolvedPlan.of(run, PLAN), path, batch=1024)

    k, crashed = 1, True
    while crashed:
        drawn.write_bytes(b"")
        crashed = crash_at(k, work)
        before = drawn.stat().st_size
        if path.exists():
            assert path.read_bytes() == whole
        else:
            assert forked(work) == 0
            assert drawn.stat().st_size <= 4, "more than one batch was drawn twice"
            assert before <= 3
        assert path.read_bytes() == whole, k
        left = {name for name in os.listdir(tmp_path) if name.startswith(".tmp")}
        assert left <= {f".tmp-x{ending}.json", f".tmp-x{ending}.lock"}
        path.unlink()
        k += 2 if ending == ".safetensors" else 4  # which writes in several places; the others append
    assert k > 10


def test_a_folder_of_images_goes_on_after_a_kill_at_any_moment(tmp_path: Path) -> None:
    path, raw = tmp_path / "x", torch.randint(256, (3, 2, 3), dtype=torch.uint8)

    def work(old: int = 0) -> None:
        images = raw - old
        with sample_file(path, 3, {"seed": old}, ImageCodec()) as file:
            while file.rows < 3:
                file.append(images[file.rows : file.rows + 2])

    def found() -> list[bytes]:
        assert sorted(os.listdir(path)) == [f"{number:04d}.png" for number in range(1, 4)]
        return [np.asarray(Image.open(path / name)).tobytes() for name in sorted(os.listdir(path))]

    for other, step in ((False, 2), (True, 7)):  # under a free name, and in place of other samples, where more is done
        before = [(raw - 1)[row].numpy().tobytes() for row in range(3)] if other else None
        after = [raw[row].numpy().tobytes() for row in range(3)]
        k, crashed = 1, True
        while crashed:
            if other:
                work(1)
            crashed = crash_at(k, work)
            if path.exists():
                assert found() in (before, after), k
            if crashed:
                assert forked(work) == 0
            assert found() == after, k
            assert not [name for name in os.listdir(tmp_path) if name.startswith(".del")]
            shutil.rmtree(path)
            k += step
        assert k > 10


def test_a_folder_of_other_files_is_not_replaced(tmp_path: Path) -> None:
    for name in ("0001.jpg", "1.png", "more"):
        folder = tmp_path / name.partition(".")[0]
        folder.mkdir()
        (folder / name).touch()
        with (
            pytest.raises(ConfigError, match=f"holds {name}, which is not a sample; choose another folder"),
            sample_file(folder, 1, codec=ImageCodec()),
        ):
            pass
    assert len(list(tmp_path.rglob("*"))) == 6


def _stopped_after_one_batch(run: Run, plan: SamplePlan, path: Path) -> None:
    def stop(rows: int) -> None:
        if rows == 1024:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        stream_samples(ResolvedPlan.of(run, plan), path, batch=1024, show=stop)


def test_leftovers_of_other_samples_are_replaced_with_a_word(run: Run, tmp_path: Path) -> None:
    path, said = tmp_path / "x.npy", []
    _stopped_after_one_batch(run, SamplePlan(n=2500, steps=3, seed=3), path)
    assert not path.exists()
    stream_samples(ResolvedPlan.of(run, PLAN), path, say=said.append)
    assert [line for line in said if "unfinished file of other samples" in line]
    assert path.read_bytes() == _whole(run, tmp_path / "whole.npy")


def _with(run: Run, **parts: Any) -> Run:
    return attrs.evolve(run, experiment=attrs.evolve(run.experiment, **parts))


def _moved(run: Run) -> Run:
    other = BFN(run.experiment.family, run.experiment.network)
    other.load_state_dict(run.model.state_dict())
    with torch.no_grad():
        next(other.parameters()).view(-1)[0] += 1e-3
    return attrs.evolve(run, model=other)


CHANGES: dict[str, Callable[[Run, SamplePlan], tuple[Run, SamplePlan]]] = {
    "seed": lambda run, plan: (run, attrs.evolve(plan, seed=4)),
    "steps": lambda run, plan: (run, attrs.evolve(plan, steps=3)),
    "number": lambda run, plan: (run, attrs.evolve(plan, n=2600)),
    "sampler": lambda run, plan: (run, attrs.evolve(plan, sampler="ancestral")),
    "guidance": lambda run, plan: (run, attrs.evolve(plan, guidance=1.0)),
    "condition": lambda run, plan: (run, attrs.evolve(plan, condition={"label": 1.0})),
    "weights": lambda run, plan: (_moved(run), plan),
    "precision": lambda run, plan: (attrs.evolve(run, model=copy.deepcopy(run.model).double()), plan),
    "family": lambda run, plan: (_with(run, family=Gaussian(sigma_1=0.1)), plan),
    "network": lambda run, plan: (_with(run, network=Siren(width=8, bandwidth=5.0)), plan),
    "dataset": lambda run, plan: (_with(run, dataset=GaussianMixture(count=51)), plan),
}


@pytest.mark.parametrize("change", CHANGES)
def test_all_that_samples_depend_on_decides_whether_a_file_goes_on(run: Run, tmp_path: Path, change: str) -> None:
    path, said = tmp_path / "x.npy", []

    def drawn(plan: ResolvedPlan, rows: range) -> torch.Tensor:
        return torch.zeros(len(rows), 1)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ResolvedPlan, "draw", drawn)
        _stopped_after_one_batch(run, PLAN, path)
        other, plan = CHANGES[change](run, PLAN)
        resolved = ResolvedPlan.of(other, attrs.evolve(plan, condition={}))  # these data have no label
        stream_samples(attrs.evolve(resolved, plan=plan), path, say=said.append)
    assert said == [f"{path}: replacing an unfinished file of other samples"]


@pytest.mark.parametrize("fact", ["torch", "device", "bfn-toolkit"])
def test_another_machine_or_version_draws_anew(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fact: str
) -> None:
    path, said = tmp_path / "x.npy", []
    _stopped_after_one_batch(run, PLAN, path)
    here = sampling.environment
    monkeypatch.setattr(sampling, "environment", lambda device: {**here(device), fact: "another"})
    stream_samples(ResolvedPlan.of(run, PLAN), path, say=said.append)
    assert said == [f"{path}: replacing an unfinished file of other samples"]


def test_the_grid_of_a_sampler_and_the_content_of_known_values_count(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    known = tmp_path / "known.npy"
    np.save(known, np.array([0.5]))
    plan = attrs.evolve(PLAN, known=known)
    facts = sampling._facts(ResolvedPlan.of(run, plan))
    assert sampling._facts(ResolvedPlan.of(run, plan)) == facts
    np.save(known, np.array([0.25]))
    assert sampling._facts(ResolvedPlan.of(run, plan))["known"] != facts["known"]
    monkeypatch.setattr(SamplePlan, "choose", lambda *_: ("ode-1", ODE1(UniformGrid())))
    assert sampling._facts(ResolvedPlan.of(run, plan))["sampler"] != facts["sampler"]


@pytest.mark.parametrize("damage", ["notes", "rows"])
def test_damaged_leftovers_are_drawn_anew(run: Run, tmp_path: Path, damage: str) -> None:
    path, shown = tmp_path / "x.npy", []
    _stopped_after_one_batch(run, PLAN, path)
    victim = tmp_path / (".tmp-x.npy.json" if damage == "notes" else ".tmp-x.npy")
    victim.write_bytes(
        victim.read_bytes().replace(b'"rows": 1024', b'"rows": 2048', 1)[: -10 if damage == "rows" else None]
    )
    stream_samples(ResolvedPlan.of(run, PLAN), path, show=shown.append)
    assert shown[0] == 0
    assert path.read_bytes() == _whole(run, tmp_path / "whole.npy")


def test_a_stop_by_a_signal_says_what_is_kept(run: Run, tmp_path: Path) -> None:
    path, said, shown = tmp_path / "x.npy", [], []

    def interrupt(rows: int) -> None:
        if rows == 1024:
            os.kill(os.getpid(), signal.SIGTERM)

    with listening(), pytest.raises(Interrupted, match=r"1,024 of 2,500 samples are kept; the same command continues"):
        stream_samples(ResolvedPlan.of(run, PLAN), path, batch=1024, show=interrupt)
    stream_samples(ResolvedPlan.of(run, PLAN), path, batch=1024, say=said.append, show=shown.append)
    assert shown == [1024, 2048, 2500]
    assert said == [f"{path}: continuing after 1,024 of 2,500 samples"]
    assert path.read_bytes() == _whole(run, tmp_path / "whole.npy")


def test_what_cannot_fit_is_refused_before_a_row_is_written(run: Run, tmp_path: Path) -> None:
    with (
        simulated_fs(tmp_path / "disk", 1) as disk,
        pytest.raises(FullDiskError, match=r"needed 4\.4 MB, free 1\.0 MB"),
    ):
        stream_samples(ResolvedPlan.of(run, SamplePlan(n=1_000_000, steps=2)), disk / "x.npy", batch=1024)
    assert os.listdir(tmp_path / "disk") == []


def test_a_disk_that_fills_up_keeps_the_rows_that_fit(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, shown = tmp_path / "disk" / "x.npy", []
    plan = SamplePlan(n=400_000, steps=1, seed=3)
    monkeypatch.setattr("bfn_toolkit.runs.sample_files.check_space", lambda path, size: None)
    with simulated_fs(path.parent, 1), pytest.raises(ResourceError, match="No space left on device"):
        stream_samples(ResolvedPlan.of(run, plan), path, batch=2**17)
    monkeypatch.undo()
    stream_samples(ResolvedPlan.of(run, plan), path, show=shown.append)
    assert shown[0] == 2**17
    write_samples(tmp_path / "whole.npy", ResolvedPlan.of(run, plan).draw())
    assert path.read_bytes() == (tmp_path / "whole.npy").read_bytes()


def test_two_processes_do_not_write_one_file(run: Run, tmp_path: Path) -> None:
    with sample_file(tmp_path / "x.npy", 2) as file:
        with pytest.raises(ResourceError, match="being written by another process"), sample_file(tmp_path / "x.npy", 2):
            pass
        file.append(torch.rand(2, 1))
    assert np.load(tmp_path / "x.npy").shape == (2, 1)


def test_memory_does_not_grow_with_the_samples(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, peak: Callable[[Callable[[], object]], int]
) -> None:
    def ramp(plan: ResolvedPlan, rows: range) -> torch.Tensor:
        return torch.arange(rows.start, rows.stop, dtype=torch.float32).reshape(-1, 1)

    monkeypatch.setattr(ResolvedPlan, "draw", ramp)
    peaks = []
    for n in (2**16, 2**20):
        path = tmp_path / f"{n}.npy"
        peaks.append(peak(lambda n=n, path=path: stream_samples(ResolvedPlan.of(run, SamplePlan(n=n)), path)))
        assert np.array_equal(np.load(path)[:, 0], np.arange(n, dtype=np.float32))
    assert peaks[1] < 1.5 * peaks[0], peaks  # 16 times the samples


@pytest.fixture
def peak() -> Callable[[Callable[[], object]], int]:
    import tracemalloc

    def measured(work: Callable[[], object]) -> int:
        tracemalloc.start()
        try:
            work()
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    return measured


def test_a_batch_is_whole_blocks_within_memory(run: Run) -> None:
    assert batch_rows(run) == 16 * 1024


def test_conditions_do_not_depend_on_the_batch(tmp_path: Path) -> None:
    experiment = Experiment.from_mapping(
        {"dataset": "digits", "network": {"name": "mlp", "width": 8, "labels": 10}}, base="default"
    )
    run = Run(experiment, BFN(experiment.family, experiment.network), [])
    with seeded(0), torch.no_grad():
        for weight in run.model.parameters():
            weight.normal_(std=0.5)  # so that the label matters
    plan = SamplePlan(n=1200, steps=2)
    stream_samples(ResolvedPlan.of(run, plan), tmp_path / "x.npy", batch=512)
    whole = ResolvedPlan.of(run, plan).draw()
    assert np.array_equal(np.load(tmp_path / "x.npy"), whole.numpy())
    with seeded(plan.seed, "samples"):
        _, sampler = plan.choose(run.model.family)
        without = run.model.sample(plan.n, n_steps=plan.steps, sampler=sampler)
    assert not torch.equal(whole, without)


def test_parts_are_streamed_by_name(tmp_path: Path) -> None:
    experiment = Experiment.from_mapping({"dataset": "mixed", "training": {"steps": 1}}, base="default")
    run = Run(experiment, BFN(experiment.family, experiment.network), [])
    plan = SamplePlan(n=150, steps=2)
    stream_samples(ResolvedPlan.of(run, plan), tmp_path / "x.safetensors", batch=64)
    write_samples(tmp_path / "y.safetensors", ResolvedPlan.of(run, plan).draw())
    assert (tmp_path / "x.safetensors").read_bytes() == (tmp_path / "y.safetensors").read_bytes()
    with pytest.raises(ConfigError, match="are not a single array"):
        stream_samples(ResolvedPlan.of(run, plan), tmp_path / "x.npy")
    assert sorted(os.listdir(tmp_path)) == ["x.safetensors", "y.safetensors"]


def test_the_command_streams(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = str(tmp_path / "run")
    assert main(["train", "--out", folder, "--no-report", "--training.steps", "2", "--network.width", "8"]) == 0
    capsys.readouterr()
    out = tmp_path / "x.npy"
    assert main(["sample", folder, "-n", "20000", "--steps", "2", "--out", str(out)]) == 0
    said = capsys.readouterr()
    assert said.out.splitlines() == [str(out)]
    assert "16,384 of 20,000 samples" in said.err
    assert np.load(out).shape == (20000, 1)
