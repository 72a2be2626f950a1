"""Trajectories: they tell of the samples, change none of them, and cost the sampler nothing."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.numpy import load_file

from benchmarks.counting import peak_bytes
from bfn_categorical import Categorical
from bfn_gaussian import Gaussian
from bfn_mlp import MLP
from bfn_siren import Siren
from bfn_toolkit import BFN, SDE2, Delta, Finite, ProductFamily, seeded
from bfn_toolkit.cli import main
from bfn_toolkit.reports.animation import film
from bfn_toolkit.sampling.trajectory import Trajectory, entropy_of

SMALL = ["--no-report", "--training.steps", "2", "--dataset.count", "50", "--network.width", "8"]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("runs") / "run"
    assert main(["train", "--out", str(path), *SMALL]) == 0
    return path


@pytest.mark.parametrize("ending", [".npz", ".safetensors"])
def test_the_file_tells_the_way_to_the_first_samples(trained: Path, tmp_path: Path, ending: str) -> None:
    out, way = tmp_path / "x.npy", tmp_path / f"way{ending}"
    options = ["-n", "100", "--steps", "6", "--out", str(out), "--trajectory", str(way)]
    assert main(["sample", str(trained), *options]) == 0
    arrays = dict(np.load(way, allow_pickle=False)) if ending == ".npz" else load_file(way)
    shapes = {name: array.shape for name, array in arrays.items()}
    assert shapes == {
        "t": (6,),
        "beliefs": (6, 64, 1),
        "output_mean": (6, 64, 1),
        "output_entropy": (6, 64),
        "samples": (64, 1),
    }
    assert np.all(np.diff(arrays["t"]) > 0)
    assert arrays["t"][-1] == 1.0
    # The default output is a point, so the last one is the sample; and samples are those of the other file.
    assert np.array_equal(arrays["output_mean"][-1], arrays["samples"])
    assert np.array_equal(arrays["samples"], np.load(out)[:64])
    assert main(["sample", str(trained), *options]) == 2, "a file that is there was replaced"


def _product() -> BFN:
    family = ProductFamily({"u": Gaussian(site_shape=(6, 8)), "k": Categorical(site_shape=(6,), classes=3)})
    with seeded(0):
        return BFN(family, MLP(width=8, depth=1).build(family.network_io))


def test_watching_changes_no_sample_and_sees_all_blocks() -> None:
    model, seen = _product(), Trajectory(_product().family, 40)
    drawn = []
    for on_step in (None, seen):
        with seeded(1):
            drawn.append(model.sample(1200, n_steps=4, on_step=on_step))
    assert all(torch.equal(drawn[0][name], drawn[1][name]) for name in ("u", "k"))
    assert seen.arrays["k.beliefs"].shape == (4, 40, 6, 3)
    assert seen.arrays["u.beliefs"].shape == (4, 40, 6, 8)
    for array in seen.arrays.values():
        assert bool((array.reshape(4, -1) != 0).any(1).all())  # every evaluation, from the first to the last
    assert bool((seen.arrays["u.beliefs"] != 0).flatten(2).any(2).all())  # and every row


def test_memory_of_sampling_does_not_grow_with_the_steps() -> None:
    family = Gaussian(site_shape=(64,))
    model = BFN(family, Siren(width=8).build(family.network_io)).requires_grad_(False)

    def peak(steps: int) -> int:
        return peak_bytes(lambda: model.sample(512, n_steps=steps, sampler=SDE2(), on_step=lambda evaluation: None))

    few, many = peak(5), peak(60)
    one_state = 512 * 64 * 4
    assert many - few < 0.5 * one_state, (few, many)  # the times grow; 55 states would be 110 times this


def test_entropy_is_that_of_the_output() -> None:
    even = entropy_of(Finite(None, torch.zeros(3, 5, 4)))
    assert torch.allclose(even, torch.full((3,), 5 * torch.tensor(4.0).log()))  # the same for every draw
    certain = entropy_of(Finite(None, torch.tensor([[[0.0, -1e3]]])))
    assert torch.allclose(certain, torch.zeros(1))
    assert bool(entropy_of(Delta(torch.zeros(2, 1))).isnan().all())


def test_flows_are_drawn_alone(trained: Path, tmp_path: Path) -> None:
    assert main(["plot", str(trained), "--flows", "--steps", "3", "--sampler", "ode-2", "--out", str(tmp_path)]) == 0
    assert [path.name for path in tmp_path.iterdir()] == ["flows.png"]


def test_the_film_begins_at_the_prior_and_ends_at_the_samples(trained: Path, tmp_path: Path) -> None:
    assert main(["plot", str(trained), "--animate", "--steps", "5", "-n", "50", "--out", str(tmp_path)]) == 0
    assert [path.name for path in tmp_path.iterdir()] == ["flows.gif"]
    with Image.open(tmp_path / "flows.gif") as gif:
        assert gif.n_frames == 5
        first = np.asarray(gif.convert("RGB"))
        gif.seek(4)
        last = np.asarray(gif.convert("RGB"))
        assert gif.info["duration"] > 1000  # time to look at the samples
    assert (first != last).mean() > 0.01


def test_a_film_has_a_row_for_each_part(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bfn_toolkit.reports.animation.FRAMES", 3)
    model = _product()
    seen = Trajectory(model.family, 20)
    with seeded(0):
        model.sample(20, n_steps=8, on_step=seen)
    data = {"u": torch.rand(30, 6, 8), "k": torch.randint(3, (30, 6))}
    (tmp_path / "x.gif").write_bytes(film(seen, data, "product"))
    with Image.open(tmp_path / "x.gif") as gif:
        assert gif.n_frames == 3
        assert gif.size == (700, 720)


def test_a_trajectory_of_another_format_is_refused(trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["sample", str(trained), "--out", "x.npy", "--trajectory", "x.csv"]) == 2
    assert ".npz, .safetensors" in capsys.readouterr().err
    assert not Path("x.npy").exists()
