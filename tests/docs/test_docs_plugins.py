"""Laws of the pages on writing and testing plugins: what they show is what the files of examples/plugins do."""

from __future__ import annotations

import importlib
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import settings

from bfn_toolkit import (
    AdditiveFamily,
    ChannelFamily,
    DataError,
    Family,
    ProductFamily,
    Registry,
    SteppedFamily,
    likelihood_bound,
    seeded,
    train,
)
from bfn_toolkit.config.experiment import Experiment
from bfn_toolkit.reports.figures import flows_figure
from bfn_toolkit.testing import LAWS, Law, register_profiles, verdicts
from bfn_toolkit.testing.kit import check
from bfn_toolkit.testing.law import P, Z

ROOT = Path(__file__).parents[2]
PLUGINS = ROOT / "examples" / "plugins"
FILES = {kind: f"my_{kind}" for kind in ("network", "family", "dataset", "sampler", "loss")}
NAMES = {
    "tiny-mlp": "my_network",
    "spins": "my_family",
    "ising": "my_dataset",
    "redraw": "my_sampler",
    "absolute-error": "my_loss",
}


def page(name: str) -> str:
    (path,) = (ROOT / "docs").glob(f"*/{name}.md")
    return path.read_text(encoding="utf-8")


def blocks(name: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", page(name), re.M | re.S)


def source(module: str) -> str:
    return (PLUGINS / f"{module}.py").read_text(encoding="utf-8")


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Registry]:
    """A registry of an environment in which the five files are installed."""
    info = tmp_path / "my_plugins-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: my-plugins\nVersion: 1.0\n")
    lines = [f"{name} = {module}" for name, module in NAMES.items()]
    (info / "entry_points.txt").write_text("\n".join(["[bfn_toolkit]", *lines, ""]))
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.syspath_prepend(str(PLUGINS))
    for module in NAMES.values():  # another page may have a module of that name
        monkeypatch.delitem(sys.modules, module, raising=False)
    yield Registry.from_entry_points()
    for module in NAMES.values():
        sys.modules.pop(module, None)


# The files


@pytest.mark.parametrize("kind", FILES)
def test_the_first_block_of_a_page_is_the_file(kind: str) -> None:
    assert blocks(f"write_a_{kind}", "python")[0] == source(FILES[kind])


def test_every_file_stands_in_a_page() -> None:
    assert {path.stem for path in PLUGINS.glob("*.py")} == set(FILES.values())


@pytest.mark.parametrize("name", NAMES)
def test_the_entry_point_of_the_page_is_that_of_the_file(name: str) -> None:
    (kind,) = (kind for kind, module in FILES.items() if module == NAMES[name])
    assert f'{name} = "{NAMES[name]}"' in page(f"write_a_{kind}")


@pytest.mark.parametrize("name", NAMES)
def test_the_files_obey_their_laws(name: str, installed: Registry) -> None:
    (kind,) = (kind for kind, module in FILES.items() if module == NAMES[name])
    examples = installed.get(kind, name).entry.examples
    assert examples
    for example in examples:
        check(example, examples=5)


@pytest.mark.parametrize("given_first", ["false", "true"])
def test_the_parts_train_by_name_and_learn_the_chain(given_first: str, installed: Registry) -> None:
    names = [("dataset", "ising"), ("family", "spins"), ("network", "tiny-mlp"), ("dataset.given_first", given_first)]
    recipe = [("training.steps", "100"), ("training.batch_size", "512"), ("training.lr", "0.01")]
    experiment = Experiment.from_toml(None, overrides=[*names, *recipe], registry=installed)
    run = train(experiment)
    with seeded(0):
        bound = likelihood_bound(run.model, experiment.dataset.split("test"), draws=20).total
    entropy = experiment.dataset.entropy()
    # Not below the entropy but by chance (|z| < 5), and less than 0.1 above.  Without the pairs it would be
    # 4 ln 2 = 2.77 nats for 1.79, or 3 ln 2 = 2.08 for 1.10 where the first spin is given.
    assert entropy - 5 * bound.stderr < bound.value < entropy + 0.1
    assert flows_figure(run.model, 3) is not None


def test_a_chain_agrees_as_often_as_its_coupling_says(installed: Registry) -> None:
    chain: Any = installed.get("dataset", "ising").entry.build(spins=3, coupling=-0.5, count=20_000)
    x = chain.split("all").x
    q = torch.sigmoid(torch.tensor(-1.0)).item()
    agree = (x[:, 1:] == x[:, :-1]).float().mean().item()
    assert abs(agree - q) < 5 * (q * (1 - q) / 40_000) ** 0.5
    values = torch.tensor([[a, b, c] for a in (-1.0, 1.0) for b in (-1.0, 1.0) for c in (-1.0, 1.0)]).double()
    log_p = chain.log_prob(values)
    assert abs(log_p.exp().sum().item() - 1.0) < 1e-12
    assert abs(-(log_p.exp() * log_p).sum().item() - chain.entropy()) < 1e-12


def test_what_is_no_spin_is_refused(installed: Registry) -> None:
    spins: Any = installed.get("family", "spins").entry.build(site_shape=(2,))
    spins.check_data(torch.tensor([[1.0, -1.0]]))
    for wrong in (0.5, float("nan")):
        with pytest.raises(DataError, match=r"Spins expects (-1 and \+1, found 0\.5|finite data, found nan)"):
            spins.check_data(torch.tensor([[1.0, wrong]]))


# The broken law of the family page

NUMBER = re.compile(r"\d+\.\d+(?:e[+-]\d+)?|\d+e[+-]\d+")


def test_the_broken_law_of_the_page_says_what_the_page_shows(tmp_path: Path) -> None:
    (wrong,) = (block for block in blocks("write_a_family", "python") if "class WrongSpins" in block)
    (tmp_path / "my_family.py").write_text(source("my_family") + "\n\n" + wrong)
    (shown,) = blocks("write_a_family", "console")
    command, _, output = shown.partition("\n")
    program, *arguments = shlex.split(command.removeprefix("$ "), comments=True)
    assert program == "bfn"
    bfn = [sys.executable, "-c", "import sys; from bfn_toolkit.cli import main; sys.exit(main())"]
    run = subprocess.run([*bfn, *arguments], capture_output=True, text=True, cwd=tmp_path, check=False)
    assert run.returncode == 1, run.stderr
    assert NUMBER.sub("#", run.stdout) == NUMBER.sub("#", output)
    # Errors and p-values in the first digit, for another version of torch may round in another way.
    figures = [[float(n) for n in NUMBER.findall(text)] for text in (run.stdout, output)]
    assert figures[0] == pytest.approx(figures[1], rel=0.5, abs=1e-12)


def test_as_many_laws_are_broken_as_the_page_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (wrong,) = (block for block in blocks("write_a_family", "python") if "class WrongSpins" in block)
    (tmp_path / "wrong_family.py").write_text(source("my_family") + "\n\n" + wrong)
    monkeypatch.syspath_prepend(str(tmp_path))
    subject = importlib.import_module("wrong_family").WrongSpins()
    found = [verdict.fault is not None for verdict in verdicts(subject, examples=5)]
    assert (sum(found), len(found)) == (7, 43)
    assert "Seven of the 43 laws are broken" in page("write_a_family")


# The pages of laws


class BySite(AdditiveFamily[Any]):
    """An additive family whose times may differ by site."""

    site_times = True


CLAIMS = {
    "Every family": lambda law: all(map(law.applies, (plain(AdditiveFamily), plain(SteppedFamily)))),
    "Times by site": lambda law: law.applies(plain(BySite)) and not law.applies(plain(AdditiveFamily)),
    "Additive families": lambda law: law.applies(plain(AdditiveFamily)),
    "Channel families": lambda law: law.applies(plain(ChannelFamily)),
    "Stepped families": lambda law: law.applies(plain(SteppedFamily)),
    "Products": lambda law: law.applies(ProductFamily({"x": plain(AdditiveFamily)})),
}
KINDS = {
    "Schedules": "schedule",
    "Networks": "network",
    "Data sets": "dataset",
    "Samplers": "sampler",
    "Losses": "loss",
    "Time distributions": "time-distribution",
}


def plain(base: type[Any]) -> Any:
    """An instance of a family of this claim and no other."""
    cls = type("Plain", (base,), {})
    cls.__abstractmethods__ = frozenset()  # type: ignore[attr-defined]
    return cls()


LAW_PAGES = ("families", "schedules", "networks", "data_sets", "samplers", "losses")


def sections() -> dict[str, tuple[str, str]]:
    """Heading above, and text, of each law of the pages, in their order."""
    found: dict[str, tuple[str, str]] = {}
    title = ""
    for name in LAW_PAGES:
        text = (ROOT / "docs" / "reference" / "laws" / f"{name}.md").read_text(encoding="utf-8")
        for section in re.split(r"^#+ ", text, flags=re.M)[1:]:
            heading, _, body = section.partition("\n")
            if heading in LAWS:
                assert heading not in found
                found[heading] = (title, body)
            else:
                title = heading.removeprefix("Laws of ").capitalize()
    return found


def home(law: Law) -> str:
    """The heading under which a law belongs: the first for which it is."""
    if law.kind != "family":
        return next(title for title, kind in KINDS.items() if kind == law.kind)
    return next(title for title, holds in CLAIMS.items() if holds(law))


def test_every_law_stands_in_the_pages_and_no_other() -> None:
    titles = [*CLAIMS, *KINDS]
    assert list(sections()) == sorted(LAWS, key=lambda name: titles.index(home(LAWS[name])))
    links = re.findall(r"\[([a-z0-9-]+)\]\(laws/\w+\.md#([a-z0-9-]+)\)", page("laws"))
    assert [text for text, anchor in links if text == anchor] == list(sections())


@pytest.mark.parametrize("law", LAWS.values(), ids=lambda law: law.name)
def test_a_law_stands_under_its_claim_with_its_formula_a_mutant_and_a_tolerance(
    law: Law, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "tests" / "laws"))
    importlib.import_module("other_mutants")
    importlib.import_module("family_mutants")
    mutants = importlib.import_module("mutants").MUTANTS
    title, body = sections()[law.name]
    assert title == home(law)
    assert re.findall(r"^```text\n(.*)\n```$", body, re.M) == [law.formula]
    rejects = re.search(r"^- Rejects (.*?)\n- Tolerance: \S", body, re.M | re.S)
    assert rejects is not None
    named = set(re.findall(r"`([A-Z]\w+)`", rejects[1]))
    assert named
    assert named <= {type(mutant.subject).__name__ for mutant in mutants if law.name in mutant.rejected_by}


def test_every_published_fault_stands_in_the_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "tests" / "laws"))
    importlib.import_module("other_mutants")
    importlib.import_module("family_mutants")
    published = [mutant for mutant in importlib.import_module("mutants").MUTANTS if mutant.published]
    assert len(published) > 10
    pages = "".join(body for _, body in sections().values())
    assert [name for m in published if f"`{(name := type(m.subject).__name__)}`" not in pages] == []


def test_the_page_counts_the_laws_of_each_base_class() -> None:
    counts = {base: int(number) for base, number in re.findall(r"^\| `(\w+)` \| (\d+) \|", page("laws"), re.M)}
    bases = {
        "AccuracySchedule": "schedule",
        "NetworkBuilder": "network",
        "Dataset": "dataset",
        "Sampler": "sampler",
        "Loss": "loss",
        "TimeDistribution": "time-distribution",
    }
    families: dict[str, Any] = {"AdditiveFamily": AdditiveFamily, "ChannelFamily": ChannelFamily}
    families["SteppedFamily"] = SteppedFamily
    family_laws = [law for law in LAWS.values() if law.kind == Family.kind]
    assert counts == {
        "Family": sum(home(law) == "Every family" for law in family_laws),
        **{name: sum(law.applies(plain(base)) for law in family_laws) for name, base in families.items()},
        **{name: sum(law.kind == kind for law in LAWS.values()) for name, kind in bases.items()},
    }


def test_the_page_has_the_thresholds_of_the_kit() -> None:
    assert f"{Z:g} standard errors (`Z`)" in page("laws")
    assert f"p-value of {P:g} (`P`)".replace("e-0", "e-") in page("laws")


# The page on testing


def test_the_profiles_are_as_the_page_says(monkeypatch: pytest.MonkeyPatch) -> None:
    before = settings.get_current_profile_name()
    kept = {name: settings.get_profile(name) for name in ("dev", "ci")}
    try:
        for ci, name in (("true", "ci"), ("", "dev")):
            monkeypatch.setenv("CI", ci)
            settings.load_profile("default")
            register_profiles()
            assert settings.get_current_profile_name() == name
            assert (settings.default.deadline, settings.default.derandomize) == (None, name == "ci")
    finally:
        for name, profile in kept.items():
            settings.register_profile(name, profile)
        settings.load_profile(before)


@pytest.mark.parametrize("name", ["testing", *(f"write_a_{kind}" for kind in FILES)])
def test_the_laws_that_a_page_links_or_tries_exist(name: str) -> None:
    anchors = set(re.findall(r"laws/\w+\.md#([a-z-]+)", page(name)))
    headings = {title.lower().replace(" ", "-") for title in (*CLAIMS, *KINDS)}
    assert anchors <= set(LAWS) | headings
    assert set(re.findall(r"--law ([a-z-]+)", page(name))) <= set(LAWS)
