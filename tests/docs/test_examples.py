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

EXAMPLES = Path(__file__).parents[2] / "examples"
PACKAGES = {
    "bfn-residual-mlp": {("network", "residual-mlp")},
    "bfn-sphere": {("family", "sphere-points"), ("dataset", "sphere-caps")},
}


def run(*words: str, cwd: Path, path: Path) -> str:
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("PYTHON", "BFN_"))}
    environment |= {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(path)}
    command = [sys.executable, *words]
    done = subprocess.run(command, check=False, capture_output=True, text=True, cwd=cwd, env=environment)
    assert done.returncode == 0, f"{' '.join(words)}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def bfn(*commands: str, cwd: Path, path: Path) -> str:
    """Runs command lines in one process, which imports torch once."""
    script = "from bfn_toolkit.cli import main\n"
    script += "".join(f"assert main({command.split()}) == 0, {command!r}\n" for command in commands)
    return run("-c", script, cwd=cwd, path=path)


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory of the installed packages; their sources are copied beside it, away from our own settings."""
    folder = tmp_path_factory.mktemp("examples")
    for name in PACKAGES:
        shutil.copytree(EXAMPLES / name, folder / name, ignore=shutil.ignore_patterns(".*", "__pycache__"))
    target = folder / "installed"
    options = ("--quiet", "--no-build-isolation", "--no-deps", "--target", str(target))
    run("-m", "pip", "install", *options, *(f"./{name}" for name in PACKAGES), cwd=folder, path=target)
    return target


def test_every_package_is_tested() -> None:
    assert {path.parent.name for path in EXAMPLES.glob("*/pyproject.toml")} == set(PACKAGES)


def test_the_packages_are_listed(installed: Path, tmp_path: Path) -> None:
    listing = json.loads(bfn("plugins --json", cwd=tmp_path, path=installed))
    found = {(line["distribution"], line["kind"], line["name"]) for line in listing["plugins"]}
    expected = {(package, *part) for package, parts in PACKAGES.items() for part in parts}
    assert {line for line in found if line[0] in PACKAGES} == expected
    complaints = json.dumps([listing["failures"], listing["problems"]])
    assert not any(word in complaints for line in expected for word in (line[0], line[2]))


def test_the_packages_pass_their_own_tests(installed: Path) -> None:
    options = ("-q", "-W", "error", "-p", "no:cacheprovider", "-p", "no:xdist")
    printed = run("-m", "pytest", *options, *PACKAGES, cwd=installed.parent, path=installed)
    assert re.search(r"^\d+ passed in", printed, re.M), printed


def test_the_packages_are_checked_trained_and_sampled_by_name(installed: Path, tmp_path: Path) -> None:
    few = "--training.steps 3 --training.batch_size 64 --no-report"
    bfn(
        "check residual-mlp --law network-sees-the-time",  # their own tests try all laws
        "check sphere-caps --law splits-are-fixed",
        "check sphere-points --law bayes-rule --examples 3",
        f"train --family sphere-points --dataset sphere-caps --out caps {few}",
        f"train --network residual-mlp --network.width 16 --out line {few}",
        "sample caps -n 5 --steps 2 --out points.csv",
        "sample line -n 5 --steps 2 --out numbers.csv",
        cwd=tmp_path,
        path=installed,
    )
    caps, line = (tomllib.loads((tmp_path / name / "experiment.toml").read_text()) for name in ("caps", "line"))
    assert caps["family"] == {"name": "sphere-points", "site_shape": [3], "sigma_1": 0.05}
    assert caps["dataset"]["name"] == "sphere-caps"
    assert (line["network"]["name"], line["network"]["width"]) == ("residual-mlp", 16)
    header, *rows = (tmp_path / "points.csv").read_text().splitlines()
    points = [[float(number) for number in row.split(",")] for row in rows]
    assert [len(point) for point in points] == [len(header.split(","))] * 5 == [3] * 5
    assert all(abs(sum(number**2 for number in point) - 1.0) < 1e-5 for point in points)  # float32
    assert len((tmp_path / "numbers.csv").read_text().splitlines()) == 6
