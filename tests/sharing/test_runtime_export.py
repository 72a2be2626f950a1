"""Exported programs: sampled without this toolkit, they give the samples that it gives from the same random numbers."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import attrs
import numpy as np
import pytest
import torch
from torch import Tensor, nn

from bfn_categorical import Categorical
from bfn_columns import Columns
from bfn_gaussian import Gaussian
from bfn_mlp import MLP
from bfn_toolkit import BFN, Experiment, ProductFamily, Run, Sampler, default_sampler, seeded
from bfn_toolkit.cli import main
from bfn_toolkit.errors import ConfigError, NonFiniteError, ResourceError
from bfn_toolkit.sharing import runtime_export, standalone
from bfn_toolkit.sharing.runtime_export import export_programs
from bfn_toolkit.sharing.tracing import GivenDraws
from bfn_von_mises import VonMises

STEPS = 5
MIXED = ProductFamily({"position": Gaussian(site_shape=(2,)), "kind": Categorical(classes=3)})
NETWORK = MLP(width=8, depth=1)
# Runs a script where neither torch nor any module of the toolkit can be imported.
WITHOUT = """
import runpy, sys
class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0].startswith(("torch", "bfn")):
            raise ImportError(name + " is blocked")
sys.meta_path.insert(0, Blocked())
del sys.argv[0]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def made(family: Any, network: Any = NETWORK) -> Run:
    """A run of a model whose weights are not those of a fresh one."""
    with seeded(7, "model"):
        model = BFN(family, network)
        for weight in model.parameters():
            nn.init.normal_(weight, std=0.3)
    with attrs.validators.disabled():
        experiment = Experiment(dataset=None, family=family, network=network, loss=None)  # type: ignore[arg-type]
    return Run(experiment, model.eval(), ())


class Recorder:
    """Random numbers of torch, kept in order."""

    def __init__(self) -> None:
        self.kept: list[Tensor] = []

    def __call__(self, kind: str, shape: Sequence[int], dtype: torch.dtype) -> Tensor:
        numbers = torch.empty(tuple(shape), dtype=dtype)
        {"normal": numbers.normal_, "uniform": numbers.uniform_, "exponential": numbers.exponential_}[kind]()
        self.kept.append(numbers.clone())
        return numbers

    def again(self) -> Callable[[str, tuple[int, ...], Any], Any]:
        """The same numbers as arrays."""
        numbers = iter(self.kept)
        return lambda kind, shape, dtype: next(numbers).reshape(shape).numpy().astype(dtype)


def opened(folder: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Mapping[str, Any], Any]:
    """The description of an exported model, and its programs."""
    monkeypatch.setattr(standalone, "HERE", folder)
    description = json.loads((folder / "sampler.json").read_text())
    return description, {name: standalone.Program(description[name]) for name in ("start", "step")}


def check_same_samples(folder: Path, model: BFN, rows: int, monkeypatch: pytest.MonkeyPatch, *labels: int) -> None:
    """Draws from the programs and by the sampler that they were made of, with the same random numbers."""
    description, programs = opened(folder, monkeypatch)
    sampler: Sampler[Any] = default_sampler(model.family, STEPS)
    condition = {"label": torch.tensor(labels)} if labels else {}
    noise = Recorder()
    with seeded(rows), GivenDraws(noise):
        ours = sampler.sample(model, rows, n_steps=STEPS, condition=condition)
    given = {name: value.numpy() for name, value in condition.items()}
    theirs = standalone.sample(programs, description, rows, noise.again(), given)
    parts = ours if isinstance(ours, Mapping) else {"": ours}
    assert theirs.keys() == parts.keys()
    for name, part in parts.items():
        np.testing.assert_allclose(theirs[name], part.numpy(), rtol=1e-4, atol=1e-4)


@pytest.fixture(scope="module")
def mixed() -> Run:
    return made(MIXED, MLP(width=8, depth=1, labels=3))


@pytest.fixture(scope="module")
def onnx_folder(mixed: Run, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of numbers and classes with labels, exported from a saved model on the command line."""
    for name in ("onnx", "onnxscript", "onnxruntime"):
        pytest.importorskip(name)
    place = tmp_path_factory.mktemp("export")
    mixed.model.save_pretrained(place / "saved")
    words = ["export", str(place / "saved"), "--out", str(place / "programs"), "--format", "onnx"]
    assert main([*words, "--steps", str(STEPS)]) == 0
    return place / "programs"


def test_onnx_gives_the_samples_of_the_toolkit(mixed: Run, onnx_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for rows in (1, 3, 64):
        labels = [(0, 1, 2, -1)[i % 4] for i in range(rows)]
        check_same_samples(onnx_folder, mixed.model, rows, monkeypatch, *labels)


def test_the_script_needs_neither_torch_nor_the_toolkit(onnx_folder: Path, tmp_path: Path) -> None:
    def drawn(name: str, *words: str) -> Mapping[str, Any]:
        out = tmp_path / f"{name}.npz"
        command = [sys.executable, "-I", "-c", WITHOUT, str(onnx_folder / "sample.py"), "-n", "5", "--out", str(out)]
        subprocess.run([*command, *words], check=True, cwd=tmp_path)
        return dict(np.load(out))

    first = drawn("first", "--condition", "label=1", "--batch", "3")
    assert {name: part.shape for name, part in first.items()} == {"position": (5, 2), "kind": (5, 1)}
    assert len(np.unique(first["position"])) == 10  # the rows of the two batches differ
    other = drawn("other", "--condition", "label=2", "--batch", "3")
    assert not np.allclose(first["position"], other["position"], atol=1e-3)


def test_an_export_replaces_another_one_only_if_asked(onnx_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="force"):
        export_programs(made(MIXED), onnx_folder, "onnx")
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(ConfigError, match="left alone"):
        export_programs(made(MIXED), tmp_path, "onnx", force=True)


def test_torch_programs_carry_an_order_of_the_sites(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = made(Columns((2, 9, 40), (False, True, True)))
    export_programs(run, tmp_path / "programs", "torch-export", n_steps=STEPS)
    check_same_samples(tmp_path / "programs", run.model, 3, monkeypatch)


def test_operators_without_a_form_in_onnx_are_replaced_by_equal_ones() -> None:
    ops, replaced = torch.ops.aten, runtime_export._WITHOUT_ONNX
    z = torch.cat([torch.linspace(-30.0, 8.0, 2001), torch.logspace(-10, 0, 101)])
    # The fit of erfc is within 1.2e-7, which float32 rounds a few times.
    for op in (ops.special_log_ndtr.default, ops.expm1.default):
        torch.testing.assert_close(replaced[op](z).double(), op(z.double()), rtol=1e-6, atol=1e-6)
    small = torch.logspace(-10, 0, 101)
    torch.testing.assert_close(replaced[ops.expm1.default](small), torch.expm1(small), rtol=1e-6, atol=0.0)
    for x in (torch.arange(1.0, 5000.0), 7.0 * torch.linspace(0.01, 1.0, 1001)):
        for towards in (x - 1.0, x + 1.0):
            assert torch.equal(replaced[ops.nextafter.default](x, towards), torch.nextafter(x, towards))
    table = torch.tensor([[0.1, 0.4, 0.4, 1.0], [0.0, 0.0, 0.7, 1.0]])
    values = torch.tensor([[0.0, 0.4, 1.0], [0.0, 0.7, 0.9]])
    for right in (False, True):
        found = replaced[ops.searchsorted.Tensor](table, values, right=right)
        assert torch.equal(found, torch.searchsorted(table, values, right=right))


def test_what_cannot_become_a_program_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"ancestral of von-mises with the network mlp .* leave out --format"):
        export_programs(made(VonMises((2,), n_steps=STEPS)), tmp_path / "programs", "torch-export")
    with pytest.raises(ConfigError, match=r"ode-midpoint .* one time for all sites; .* --sampler ancestral"):
        export_programs(made(Gaussian((2,))), tmp_path / "programs", "torch-export", sampler="ode-midpoint")
    assert not (tmp_path / "programs").exists()


def test_bad_input_is_refused_before_anything_is_traced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run = made(Gaussian((2,)))
    monkeypatch.setattr("bfn_toolkit.sharing.runtime_export.find_spec", lambda name: None)
    with pytest.raises(ResourceError, match="pip install onnx onnxscript onnxruntime"):
        export_programs(run, tmp_path / "programs", "onnx")
    run.model.save_pretrained(tmp_path / "saved")
    assert main(["export", str(tmp_path / "saved"), "--out", str(tmp_path / "out"), "--sampler", "ode-2"]) == 2
    assert "--sampler goes with --format" in capsys.readouterr().err
    next(run.model.parameters()).data[0] = torch.nan
    with pytest.raises(NonFiniteError, match="not finite"):
        export_programs(run, tmp_path / "programs", "torch-export")
