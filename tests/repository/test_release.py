"""Exact versions that are installed, and files of a release that repeat what ``pyproject.toml`` says."""

import re
import runpy
import tomllib
from itertools import chain
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
PINS = re.findall(r"^[a-z].*\n(?:    .*\n)*", (ROOT / "constraints.txt").read_text(), re.MULTILINE)


def test_each_dependency_has_a_version_that_pyproject_allows() -> None:
    pinned = {r.name: r.specifier for r in (Requirement(pin.partition("\\")[0]) for pin in PINS)}
    extras = PROJECT["optional-dependencies"]
    for text in chain(PROJECT["dependencies"], extras["dev"], extras["docs"]):
        asked = Requirement(text)
        if asked.name != "torch":
            (version,) = pinned[canonicalize_name(asked.name)]
            assert version.operator == "=="
            assert asked.specifier.contains(version.version), text


def test_each_version_has_hashes_and_those_of_cuda_are_left_to_torch() -> None:
    assert all("--hash=sha256:" in pin for pin in PINS)
    assert not [pin for pin in PINS if re.match(r"torch==|nvidia|cuda|triton", pin)]


def test_one_torch_is_installed_everywhere() -> None:
    files = ["Makefile", ".github/workflows/ci.yml", "Dockerfile", "docs/how-to/install.md"]
    versions = {file: re.findall(r"torch==([\d.]+)", (ROOT / file).read_text()) for file in files}
    assert set(chain(*versions.values())) == {versions["Makefile"][0]}, versions
    assert all(versions.values())
    (asked,) = (Requirement(text) for text in PROJECT["dependencies"] if text.startswith("torch>"))
    assert asked.specifier.contains(versions["Makefile"][0])


CONDA = {"torch": "pytorch", "matplotlib": "matplotlib-base"}  # names of conda-forge


def test_the_recipe_asks_for_the_same_dependencies() -> None:
    recipe = (ROOT / "recipe" / "recipe.yaml").read_text()
    run = re.search(r"  run:.*\n((?:    - .*\n)+)", recipe)
    assert run is not None
    asked = [line.removeprefix("    - ").split(" ", 1) for line in run[1].splitlines()]
    ours = [Requirement(text) for text in PROJECT["dependencies"]]
    assert {(name, SpecifierSet(versions)) for name, versions in asked if name != "python"} == {
        (CONDA.get(r.name, r.name), r.specifier) for r in ours
    }


notes = runpy.run_path(str(ROOT / ".ci" / "release.py"))["notes"]


def test_a_tag_is_the_version_that_stands_everywhere_and_has_notes() -> None:
    text = notes(f"v{PROJECT['version']}")
    assert text
    assert "\n## " not in text


@pytest.mark.parametrize("tag", ["v9.9.9", "0.1.0", "v0.1", "v0.1.0-final"])
def test_another_tag_is_refused(tag: str) -> None:
    with pytest.raises(SystemExit, match=re.escape(tag)):
        notes(tag)
