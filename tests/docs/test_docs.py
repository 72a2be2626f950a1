"""Laws of the documentation: what exists is written down, and what is written down exists."""

from __future__ import annotations

import pkgutil
import re
import runpy
import shlex
import subprocess
import sys
import tomllib
from itertools import chain
from pathlib import Path

import attrs
import pytest
import sybil

import bfn_toolkit
from bfn_toolkit import HOOK_API, errors
from bfn_toolkit.cli import BUG, bfn
from bfn_toolkit.config.experiment import Experiment, Training
from bfn_toolkit.config.layers import presets
from bfn_toolkit.errors import BFNError
from bfn_toolkit.registry import hookspecs
from bfn_toolkit.registry.registry import BUILT_IN, DISABLE, Registry
from bfn_toolkit.testing import LAWS
from command_blocks import PROGRAMS, lines, smaller

ROOT = Path(__file__).parents[2]
README = ROOT / "README.md"
PAGES = [README, ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").rglob("*.md"))]


def text(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def rows(name: str) -> dict[str, list[str]]:
    """The table rows of a page by their first cell that is code."""
    found = (re.findall(r"[^|]+", line) for line in text(name).splitlines() if line.startswith("| "))
    cells = ([cell.strip() for cell in line] for line in found)
    return {line[0].strip("`"): line[1:] for line in cells if line[0].startswith("`")}


@pytest.mark.parametrize("kind", hookspecs.KINDS)
def test_every_hook_stands_in_the_docs(kind: str) -> None:
    arguments, _, documented_kind, base = rows("docs/reference/hooks.md")[hookspecs.KINDS[kind]]
    assert arguments == "none"
    assert documented_kind == f"`{kind}`"
    found = re.search(r"~([\w.]+)`", base)
    assert found is not None
    assert pkgutil.resolve_name(found[1]).kind == kind


def test_every_hookspec_has_a_kind() -> None:
    assert {name for name in vars(hookspecs) if name.startswith("bfn_")} == set(hookspecs.KINDS.values())


def test_the_fields_of_an_entry_stand_in_the_docs() -> None:
    page = text("docs/reference/hooks.md")
    assert all(f"- `{field.name}`:" in page for field in attrs.fields(hookspecs.Entry))
    assert f"BFN_HOOK_API = {HOOK_API}" in page
    assert DISABLE in page


@pytest.mark.parametrize("name", bfn_toolkit.__all__)
def test_every_public_name_stands_in_the_reference(name: str) -> None:
    assert re.search(rf"^\.\. [\w:]+:: bfn_toolkit\.{name}$", text("docs/reference/api.md"), re.M)


@pytest.mark.parametrize("command", bfn.commands)
def test_every_command_stands_in_the_docs(command: str) -> None:
    assert any(row.startswith(f"bfn {command}") for row in rows("docs/tutorials/quickstart.md"))


@pytest.mark.parametrize("field", attrs.fields(Training), ids=lambda field: field.name)
def test_every_field_of_training_stands_in_the_docs(field: attrs.Attribute[object]) -> None:
    _, default, _ = rows("docs/reference/configuration.md")[field.name]
    value = getattr(Training(), field.name)
    assert tomllib.loads(f"value = {default}")["value"] == (list(value) if isinstance(value, tuple) else value)


def test_every_field_of_an_experiment_stands_in_the_docs() -> None:
    page = text("docs/reference/configuration.md")
    assert all(f"`{field.name}`" in page for field in attrs.fields(Experiment))


@pytest.mark.parametrize("preset", presets())
def test_every_preset_stands_in_the_docs(preset: str) -> None:
    assert f"\n- `{preset}`:" in text("docs/reference/configuration.md")


def test_every_part_that_ships_stands_in_the_reference() -> None:
    shipped = [item for item in Registry.from_entry_points(disable=()).entries() if item.distribution == BUILT_IN]
    lines = re.findall(r"^\| ([\w-]+) \| `([\w-]+)` \| `([\w.]+)` \|", text("docs/reference/components.md"), re.M)
    documented = {(kind, name): pkgutil.resolve_name(path) for kind, name, path in lines}
    assert documented == {(item.kind, item.name): item.entry.build for item in shipped}


def test_every_exit_status_stands_in_the_reference() -> None:
    documented = {int(status) for status in re.findall(r"^\| (\d+) \| ", text("docs/reference/exit_statuses.md"), re.M)}
    kinds = [value for value in vars(errors).values() if isinstance(value, type)]
    assert {BUG, *(kind.exit_status for kind in kinds if issubclass(kind, errors.BFNError))} <= documented


def test_every_package_and_plugin_stands_in_the_architecture() -> None:
    page = text("docs/background/architecture.md")
    core = {module.name for module in pkgutil.iter_modules(bfn_toolkit.__path__)} - {"__main__"}
    plugins = {path.stem for path in (ROOT / "plugins").rglob("bfn_*") if path.is_dir() or path.suffix == ".py"}
    assert [name for name in sorted(core | plugins) if f"`{name}`" not in page] == []


def test_every_function_of_the_paper_table_exists() -> None:
    names = re.findall(r"`(bfn_[\w.]+)`", text("docs/reference/paper_to_code.md"))
    assert len(names) > 50
    for name in names:
        *path, last = name.split(".")
        owner = pkgutil.resolve_name(".".join(path))
        assert hasattr(owner, last) or last in {f.name for f in attrs.fields(owner)}, name


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_to_files_of_the_project_lead_somewhere(page: Path) -> None:
    links = re.findall(r"""\]\(([^)\s]+)\)|(?:src|href)="([^"]+)\"""", page.read_text(encoding="utf-8"))
    found = [link or attribute for link, attribute in links]
    files = [link.partition("#")[0] for link in found if "://" not in link and not link.startswith("#")]
    assert [file for file in files if not (page.parent / file).exists()] == []


def words(page: str) -> int:
    """Words that a reader of a page sees, those of code among them."""
    seen = re.sub(r"<!--.*?-->|<[^>]+>|\]\([^)]*\)", " ", page, flags=re.S)
    return sum(any(letter.isalnum() for letter in word) for word in seen.split())


def test_the_readme_is_short() -> None:
    """A front page of at most 900 words, with pictures that load at once."""
    assert len(text("README.md").split()) <= 900  # markup among them
    pictures = re.findall(r'src="([^"]+)"', text("README.md"))
    assert len(pictures) >= 4
    for picture in pictures:
        assert (ROOT / picture).stat().st_size <= (1_500_000 if picture.endswith(".gif") else 200_000), picture


def test_the_numbers_of_the_front_page_stand_in_their_evidence() -> None:
    claims = [line for line in text("README.md").splitlines() if re.match(r"- \*\*[^*]+\*\*: .*\*\*\d", line)]
    assert len(claims) == 4
    for claim in claims:
        (evidence,) = re.findall(r"\]\((docs/[\w/.]+)\)", claim)
        (number,) = re.findall(r"\*\*([\d.,]+)\*\*", claim)
        assert re.search(rf"(?<![\d.,]){re.escape(number)}(?![\d.]|,\d)", text(evidence)), claim
    assert f"**{len(LAWS)}** [laws]" in claims[0]


@pytest.mark.parametrize("page", [page for page in PAGES if page.name != "CHANGELOG.md"], ids=lambda page: page.name)
def test_no_page_is_too_long_to_read(page: Path) -> None:
    assert words(page.read_text(encoding="utf-8")) <= 4000


def test_every_page_stands_on_a_shelf() -> None:
    """The four shelves, the start page and the gallery; ``make docs`` refuses a page that no other leads to."""
    pages = [page.relative_to(ROOT / "docs") for page in PAGES if page.is_relative_to(ROOT / "docs")]
    assert {page.parts[0] for page in pages if len(page.parts) > 1} == {
        "tutorials",
        "how-to",
        "reference",
        "background",
    }
    assert {str(page) for page in pages if len(page.parts) == 1} <= {"index.md", "gallery.md"}


def test_the_plugin_of_the_readme_is_found_by_its_entry_point(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    blocks = re.findall(r"```(python|toml)\n(.*?)```", text("README.md"), re.S)
    (module,) = (block for language, block in blocks if language == "python" and block.startswith("# my_network.py"))
    (project,) = (block for language, block in blocks if language == "toml" and "entry-points" in block)
    ((name, value),) = tomllib.loads(project)["project"]["entry-points"]["bfn_toolkit"].items()
    (tmp_path / f"{value}.py").write_text(module)
    info = tmp_path / "my_distribution-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: my-distribution\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[bfn_toolkit]\n{name} = {value}\n")
    monkeypatch.syspath_prepend(str(tmp_path))

    registry = Registry.from_entry_points()
    small = [("training.steps", "2"), ("training.batch_size", "8")]
    experiment = Experiment.from_toml(
        None, overrides=[("network", name), ("network.width", "32"), *small], registry=registry
    )
    assert registry.get("network", name).distribution == "my-distribution"
    assert experiment.to_mapping(registry)["network"] == {"name": name, "width": 32}
    assert bfn_toolkit.train(experiment).metrics[-1]["step"] == 2


def test_the_example_of_the_blog_post_draws_its_figures(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    example = str(ROOT / "examples/blog_post.py")
    monkeypatch.setattr(sys, "argv", [example, "--out", str(tmp_path), "--steps", "2"])
    runpy.run_path(example, run_name="__main__")
    printed = capsys.readouterr().out
    figures = sorted(path.name for path in tmp_path.glob("*.png"))
    assert len(figures) == 11
    assert all(name in printed for name in figures)


def test_code_blocks_are_all_of_languages_that_are_checked() -> None:
    fences = chain.from_iterable(re.findall(r"^```(\S*)$", page.read_text(encoding="utf-8"), re.M) for page in PAGES)
    assert set(fences) <= {"", "bash", "console", "python", "text", "toml", "{eval-rst}", "{glossary}", "{toctree}"}


# Commands and scripts that cannot run where the tests run, page by page.
NOT_RUN = {
    "docs/how-to/export.md": 3,  # an extra, and an export, which takes half a minute
    "docs/how-to/faq.md": 2,  # the files of MNIST
    "docs/how-to/guidance.md": 2,  # a run of a table
    "docs/how-to/distributed.md": 7,  # several machines, a cluster, or processes of their own
    "docs/how-to/install.md": 7,  # uv, Docker, rattler-build, and a setting of the shell
    "docs/how-to/memorisation.md": 2,  # trainings of a minute
    "docs/how-to/sharing.md": 3,  # the Hub
    "docs/how-to/training.md": 4,  # trackers, which are extras
    "docs/tutorials/your_images.md": 3,  # a package of Debian
    "docs/tutorials/your_table.md": 9,  # a package of PyPI
    "docs/tutorials/your_text.md": 3,  # a package of Debian
}


def test_commands_that_do_not_run_are_counted() -> None:
    counts = {str(page.relative_to(ROOT)): page.read_text(encoding="utf-8").count("not run here:") for page in PAGES}
    assert {page: count for page, count in counts.items() if count and page != "CONTRIBUTING.md"} == NOT_RUN


def test_commands_of_the_contributor_exist() -> None:
    blocks = re.findall(r"^```bash\n(.*?)^```$", text("CONTRIBUTING.md"), re.M | re.S)
    found = [line for block in blocks for line in lines(block)]
    assert found
    for line in found:
        if line.words[0] in ("make", "python"):
            PROGRAMS[line.words[0]](line)


class TestCommandLinesOfTheDocs:
    """Command lines run, and one that ends otherwise than the page says is an error."""

    @pytest.mark.parametrize(
        "line",
        [
            "bfn trian",
            "bfn train --preste post",
            "bfn train --preset post --network.widht 3",
            "bfn train --family.head noize",
            "bfn sample",
            "bfn sample run --stepz 3",
            "bfn evaluate run --split everything",
            "bfn evaluate no-such-run",
            "bfn --version  # exit status 1",
            "bfn train --dataset array --dataset.path not_there.csv",
            "make coffee",
            "python examples/not_there.py",
            "pip install bfn-toolkit[everything]",
            "pytest --bfn-check no-such-part",
            "torchrun -m bfn_toolkit train",
            "#!/bin/bash\nwait",
            "#!/bin/bash\n# not run here: its syntax is wrong\nif",
        ],
    )
    def test_wrong_lines_are_rejected(self, line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(tmp_path)
        with pytest.raises((AssertionError, BFNError, subprocess.CalledProcessError)):
            evaluate(f"```bash\n{line}\n```\n", tmp_path)

    @pytest.mark.parametrize("line", ["torchrun -m bfn_toolkit train", "#!/bin/bash\nwait", "bfn evaluate no-such-run"])
    def test_commands_do_not_hide_in_text(self, line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(tmp_path)
        with pytest.raises(AssertionError):
            evaluate(f"```text\n{line}\n```\n", tmp_path)

    @pytest.mark.parametrize(
        "line",
        [
            "bfn --version",
            "bfn plugins \\\n  --json",
            "BFN=1 bfn plugins  # all",
            "bfn evaluate no-such-run  # exit status 4",
            "torchrun -m bfn_toolkit train  # not run here: needs two machines",
            "#!/bin/bash\n# not run here: needs a cluster\nwait",
        ],
    )
    def test_right_lines_pass(self, line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(tmp_path)
        assert evaluate(f"```bash\n{line}\n```\n", tmp_path) == 1

    def test_blocks_build_on_each_other(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(tmp_path)
        page = (
            "```bash\nbfn train --out run --training.steps 90\n```\n```text\nbfn sample run -n 900 --out x.csv\n```\n"
        )
        assert evaluate(page, tmp_path) == 2
        assert len((tmp_path / "run" / "metrics.jsonl").read_text().splitlines()) >= 3
        assert len((tmp_path / "x.csv").read_text().splitlines()) == 1 + 8

    @pytest.mark.parametrize(
        ("line", "run"),
        [
            ("bfn train --training.steps 90", "train --training.steps 3 --no-report"),
            ("bfn train --resume run --processes 2", "train --resume run --processes 1 --no-report"),
            ("bfn sample run -n 5", "sample run -n 5 --steps 3"),
            ("bfn evaluate run --steps inf", "evaluate run --steps inf -n 64 --sample-steps 3 --draws 1"),
            ("bfn plugins --json", "plugins --json"),
        ],
    )
    def test_only_sizes_are_cut(self, line: str, run: str) -> None:
        assert shlex.join(smaller(line.split()[1:])) == run


def evaluate(page: str, folder: Path) -> int:
    """Runs the blocks of a page as the documentation's are run; returns their number."""
    spec = ROOT / "conftest.py"
    namespace: dict[str, object] = {"__file__": str(spec), "__name__": "documents"}
    exec(compile(spec.read_text(encoding="utf-8"), str(spec), "exec"), namespace)
    documents = namespace["documents"]
    assert isinstance(documents, sybil.Sybil)
    (folder / "page.md").write_text(page)
    examples = list(documents.parse(folder / "page.md").examples())
    for example in examples:
        example.evaluate()
    return len(examples)
