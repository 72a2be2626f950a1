"""The wheel, installed in a fresh environment, brings the command and the built-in plugins."""

import json
import os
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def fresh(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A virtual environment with nothing in it but the wheel; dependencies are borrowed from this one."""
    folder = tmp_path_factory.mktemp("wheel")
    build = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(folder), str(ROOT)]
    subprocess.run(build, check=True, capture_output=True)
    (wheel,) = folder.glob("*.whl")
    venv.create(folder / "venv", with_pip=False)
    python = folder / "venv" / "bin" / "python"
    install = [sys.executable, "-m", "pip", "--python", str(python), "install", "--no-deps", "--quiet", str(wheel)]
    subprocess.run(install, check=True, capture_output=True)
    (site,) = (folder / "venv" / "lib").glob("python*/site-packages")
    # A path in a .pth file is searched last, and the .pth files in it (our own editable install) are not read.
    (site / "borrowed.pth").write_text(sysconfig.get_paths()["purelib"] + "\n")
    return folder / "venv" / "bin"


def run(*command: str | Path, cwd: Path) -> str:
    environment = {key: value for key, value in os.environ.items() if not key.startswith("PYTHON")}
    done = subprocess.run(list(map(str, command)), check=True, capture_output=True, text=True, cwd=cwd, env=environment)
    return done.stdout


def test_plugins_of_the_wheel_are_found(fresh: Path, tmp_path: Path) -> None:
    listing = json.loads(run(fresh / "bfn", "plugins", "--json", cwd=tmp_path))
    names = {(line["kind"], line["name"]) for line in listing["plugins"] if line["distribution"] == "bfn-toolkit"}
    assert {("family", "gaussian"), ("network", "siren"), ("dataset", "gaussian-mixture")} <= names
    assert listing["failures"] == []


def test_the_wheel_is_what_is_imported(fresh: Path, tmp_path: Path) -> None:
    code = "import bfn_toolkit, bfn_siren; print(bfn_toolkit.__file__); print(bfn_siren.__file__)"
    files = run(fresh / "python", "-c", code, cwd=tmp_path).split()
    assert all(Path(file).is_relative_to(fresh.parent) for file in files)


def test_the_wheel_trains(fresh: Path, tmp_path: Path) -> None:
    options = ["--training.steps", "3", "--dataset.count", "20", "--no-report"]
    run(fresh / "bfn", "train", "--out", "run", *options, cwd=tmp_path)
    assert run(fresh / "bfn", "sample", "run", "-n", "5", "--steps", "2", "--out", "x.csv", cwd=tmp_path) == "x.csv\n"
    assert len((tmp_path / "x.csv").read_text().splitlines()) == 6
