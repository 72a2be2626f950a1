"""The packages under ``examples/``: installed as anyone's, listed, lawful, and trained and sampled from by name."""

import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parent.parent / "examples"
PACKAGES = {
    "bfn-residual-mlp": {("network", "residual-mlp")},
    "bfn-sphere": {("family", "sphere-points"), ("dataset", "sphere-caps")},
}


def run(*words: str, cwd: Path, path: Path) -> str:
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("PYTHON", "BFN_"))}
    environment |= {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(path)}
    done = subprocess.run(
        [sys.executable, "-m", *words], check=False, capture_output=True, text=True, cwd=cwd, env=environment
    )
    assert done.returncode == 0, f"{' '.join(words)}\n{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory of installed packages, beside this environment's; their sources are copies, away from our settings."""
    folder = tmp_path_factory.mktemp("examples")
    for name in PACKAGES:
        shutil.copytree(EXAMPLES / name, folder / name, ignore=shutil.ignore_patterns(".*", "__pycache__"))
    target = folder / "installed"
    options = ("--quiet", "--no-build-isolation", "--no-deps", "--target", str(target))
    run("pip", "install", *options, *(f"./{name}" for name in PACKAGES), cwd=folder, path=target)
    return target


def bfn(installed: Path, *words: str, cwd: Path) -> str:
    return run("bfn_toolkit", *words, cwd=cwd, path=installed)


def test_every_package_is_tested() -> None:
    assert {path.parent.name for path in EXAMPLES.glob("*/pyproject.toml")} == set(PACKAGES)


def test_the_packages_are_listed(installed: Path, tmp_path: Path) -> None:
    listing = json.loads(bfn(installed, "plugins", "--json", cwd=tmp_path))
    found = {(line["distribution"], line["kind"], line["name"]) for line in listing["plugins"]}
    expected = {(package, *part) for package, parts in PACKAGES.items() for part in parts}
    assert {line for line in found if line[0] in PACKAGES} == expected
    mine = (*PACKAGES, *(name for parts in PACKAGES.values() for _, name in parts))
    assert not [
        line for line in (*listing["failures"], *listing["problems"]) if any(name in str(line) for name in mine)
    ]


def test_the_packages_pass_their_own_tests(installed: Path) -> None:
    options = ("-q", "-W", "error", "-p", "no:cacheprovider", "-p", "no:xdist")
    printed = run("pytest", *options, *PACKAGES, cwd=installed.parent, path=installed)
    assert re.search(r"^\d+ passed in", printed, re.M), printed


def test_a_name_is_checked(installed: Path, tmp_path: Path) -> None:
    laws = json.loads(bfn(installed, "check", "residual-mlp", "--json", cwd=tmp_path))
    assert laws
    assert "broken" not in json.dumps(laws)


def test_the_packages_train_and_sample_by_name(installed: Path, tmp_path: Path) -> None:
    few = ("--training.steps", "3", "--training.batch_size", "64", "--no-report")
    parts = ("--family", "sphere-points", "--dataset", "sphere-caps", "--network", "residual-mlp")
    bfn(installed, "train", *parts, "--network.width", "16", "--out", "caps", *few, cwd=tmp_path)
    bfn(installed, "train", "--network", "residual-mlp", "--out", "line", *few, cwd=tmp_path)
    caps, line = (tomllib.loads((tmp_path / run / "experiment.toml").read_text()) for run in ("caps", "line"))
    assert caps["family"] == {"name": "sphere-points", "site_shape": [3], "sigma_1": 0.05}
    assert (caps["dataset"]["name"], caps["network"]["width"]) == ("sphere-caps", 16)
    assert (line["family"]["name"], line["network"]["name"]) == ("gaussian", "residual-mlp")
    bfn(installed, "sample", "caps", "-n", "5", "--steps", "2", "--out", "points.csv", cwd=tmp_path)
    points = [[float(number) for number in row.split(",")] for row in (tmp_path / "points.csv").read_text().split()]
    assert len(points) in (5, 6)
    assert all(abs(sum(number**2 for number in point) - 1.0) < 1e-5 for point in points)
