"""Laws of the registry: a broken plugin breaks only itself, and no name is silently shadowed."""

from __future__ import annotations

import subprocess
import sys
from types import SimpleNamespace

import attrs
import pytest

from bfn_toolkit.errors import ConfigError, PluginError, UnknownPlugin
from bfn_toolkit.registry.hookspecs import KINDS, Entry, hookimpl
from bfn_toolkit.registry.registry import Registry
from fake_dists import BUILT_IN, FakeDists, fake_dists, plugin_source

fake_dist = pytest.fixture(fake_dists)

HEADER = """
import attrs
from bfn_toolkit.registry.hookspecs import Entry, hookimpl

@attrs.frozen
class Part:
    width: int = 1
"""

BROKEN = {
    "import-error": ("import a_module_that_is_not_there", "ModuleNotFoundError"),
    "syntax-error": ("def (", "SyntaxError"),
    "system-exit": ("import sys; sys.exit(3)", "SystemExit: 3"),
    "any-exception": ("raise BaseException('no\\nreason')", "BaseException: no reason"),
    "unreadable-exception": (
        "class E(Exception):\n    def __str__(self): raise ValueError\nraise E",
        "exception str() failed",
    ),
    "misspelt-hook": (
        HEADER + "@hookimpl\ndef bfn_familys():\n    return []",
        "no hook named 'bfn_familys'. Did you mean 'bfn_families'?",
    ),
    "hook-raises": (
        HEADER + "@hookimpl\ndef bfn_families():\n    raise RuntimeError('inside')",
        "RuntimeError: inside",
    ),
    "hook-asks-for-arguments": (HEADER + "@hookimpl\ndef bfn_families(x):\n    return []", "PluginValidationError"),
    "newer-api": (HEADER + "BFN_HOOK_API = 99\n@hookimpl\ndef bfn_families():\n    return []", "99"),
    "api-of-wrong-type": (HEADER + "BFN_HOOK_API = '1'\n@hookimpl\ndef bfn_families():\n    return []", "an integer"),
    "no-hook": (HEADER + "def bfn_families():\n    return []", "@hookimpl"),
    "returns-none": (HEADER + "@hookimpl\ndef bfn_families():\n    pass", "returned None"),
    "returns-one-entry": (
        HEADER + "@hookimpl\ndef bfn_families():\n    return Entry('x', Part)",
        "expected a list of Entry",
    ),
    "returns-classes": (HEADER + "@hookimpl\ndef bfn_families():\n    return [Part]", "expected an Entry"),
    "same-name-twice": (
        HEADER + "@hookimpl\ndef bfn_families():\n    return [Entry('x', Part), Entry('x', Part)]",
        "'x' twice",
    ),
    "name-not-kebab": (
        HEADER + "@hookimpl\ndef bfn_families():\n    return [Entry('My_Name', Part)]",
        "Entry.name: expected lower-case letters, digits and single hyphens, such as my-part, got 'My_Name'",
    ),
    "build-not-attrs": (HEADER + "@hookimpl\ndef bfn_families():\n    return [Entry('x', int)]", "an attrs class"),
    "wrong-kind": (
        HEADER + "@attrs.frozen\nclass Net:\n    kind = 'network'\n"
        "@hookimpl\ndef bfn_families():\n    return [Entry('x', Net)]",
        "bfn_networks",
    ),
    "abstract": (
        HEADER + "import abc\n@attrs.frozen\nclass A(abc.ABC):\n    @abc.abstractmethod\n    def f(self): ...\n"
        "@hookimpl\ndef bfn_families():\n    return [Entry('x', A)]",
        "abstract",
    ),
    "field-called-name": (
        HEADER
        + "@attrs.frozen\nclass N:\n    name: str = ''\n@hookimpl\ndef bfn_families():\n    return [Entry('x', N)]",
        "'name'",
    ),
}


@pytest.mark.parametrize("fault", BROKEN)
def test_a_broken_plugin_is_recorded_and_the_others_load(fake_dist: FakeDists, fault: str) -> None:
    source, reason = BROKEN[fault]
    fake_dist("fake-broken", {"broken": f"fake_broken_{fault.replace('-', '_')}"}, {}, version="2.5")
    (fake_dist.root / f"fake_broken_{fault.replace('-', '_')}.py").write_text(source)
    fake_dist.part("fake-sound", "sound", "bfn_networks", "sound")
    registry = Registry.from_entry_points()

    assert registry.names("network") == ["sound"]
    (failure,) = registry.failures
    assert (failure.distribution, failure.version, failure.entry_point) == ("fake-broken", "2.5", "broken")
    assert reason in failure.reason
    assert "\n" not in failure.reason
    assert "Traceback" in failure.traceback
    with pytest.raises(PluginError, match=r"fake-broken 2\.5 .*could not be loaded") as raised:
        registry.get("family", "broken")
    assert raised.value.exit_status == 5


@pytest.mark.parametrize("value", ["no_such_module_of_ours", "fake_fake_sound_sound:nothing", "not a module!", ""])
def test_an_entry_point_that_leads_nowhere_is_recorded(fake_dist: FakeDists, value: str) -> None:
    fake_dist("fake-broken", {"broken": value}, {})
    fake_dist.part("fake-sound", "sound", "bfn_networks", "sound")
    registry = Registry.from_entry_points()
    assert registry.get("network", "sound").distribution == "fake-sound"
    with pytest.raises(UnknownPlugin, match=r"1 plugin\(s\) could not be loaded; see bfn plugins"):
        registry.get("network", "absent")


def test_both_api_versions_are_named(fake_dist: FakeDists) -> None:
    fake_dist.part("fake-new", "new", "bfn_families", "new", before="BFN_HOOK_API = 2")
    with pytest.raises(PluginError, match=r"hook API 2.*hook API 1"):
        Registry.from_entry_points().get("family", "new")


def test_our_own_api_version_is_accepted(fake_dist: FakeDists) -> None:
    fake_dist.part("fake-same", "same", "bfn_families", "same", before="BFN_HOOK_API = 1")
    assert Registry.from_entry_points().get("family", "same").name == "same"


def test_keyboard_interrupt_is_not_swallowed(fake_dist: FakeDists) -> None:
    fake_dist.part("fake-slow", "slow", "bfn_families", "slow", before="raise KeyboardInterrupt")
    with pytest.raises(KeyboardInterrupt):
        Registry.from_entry_points().names("family")


def test_malformed_metadata_of_another_distribution_do_no_harm(fake_dist: FakeDists) -> None:
    fake_dist.part("fake-sound", "sound", "bfn_networks", "sound")
    fake_dist("fake-malformed", {}, {})
    (fake_dist.root / "fake_malformed-1.0.dist-info" / "entry_points.txt").write_text("[bfn_toolkit]\nnonsense\n")
    (fake_dist.root / "nameless-1.0.dist-info").mkdir()
    (fake_dist.root / "nameless-1.0.dist-info" / "entry_points.txt").write_text("[bfn_toolkit]\na = nothing\n")
    assert Registry.from_entry_points().names("network") == ["sound"]


@pytest.mark.parametrize("entry_points", [("same", "same"), ("one", "other")])
@pytest.mark.parametrize("load_all_first", [False, True])
@pytest.mark.parametrize("swapped", [False, True])
def test_a_name_in_two_distributions_is_an_error_that_names_both(
    fake_dist: FakeDists,
    entry_points: tuple[str, str],
    load_all_first: bool,
    swapped: bool,
) -> None:
    pairs = list(zip(("fake-aa", "fake-bb"), entry_points, strict=True))
    for distribution, entry_point in reversed(pairs) if swapped else pairs:
        fake_dist.part(distribution, entry_point, "bfn_networks", "same")
    registry = Registry.from_entry_points()
    if load_all_first:
        registry.entries()
    with pytest.raises(PluginError) as raised:
        registry.get("network", "same")
    message = f"{raised.value}"
    assert all(part in message for part in ("fake-aa 1.0", "fake-bb 1.0", "'fake-aa:same' or 'fake-bb:same'"))
    one = registry.get("network", "fake-aa:same")
    assert one.distribution == "fake-aa"
    assert registry.name_of("network", one.entry.build) == "fake-aa:same"
    assert registry.names("network") == ["fake-aa:same", "fake-bb:same"]


@pytest.mark.parametrize("load_all_first", [False, True])
def test_the_entry_point_of_that_very_name_comes_before_others(fake_dist: FakeDists, load_all_first: bool) -> None:
    fake_dist.part("fake-aa", "other", "bfn_networks", "wanted")
    fake_dist.part("fake-bb", "wanted", "bfn_networks", "wanted")
    registry = Registry.from_entry_points()
    if load_all_first:
        registry.entries()
    assert registry.get("network", "wanted").distribution == "fake-bb"
    registry.entries()
    (problem,) = registry.problems
    assert "fake-aa" in problem
    assert "'fake-aa:wanted'" in problem


@pytest.mark.parametrize("built_in_point", ["gaussian", "standard"])
@pytest.mark.parametrize("load_all_first", [False, True])
def test_names_of_built_ins_are_reserved(fake_dist: FakeDists, built_in_point: str, load_all_first: bool) -> None:
    fake_dist.part(BUILT_IN, built_in_point, "bfn_families", "gaussian")
    fake_dist.part("a-stranger", "gaussian", "bfn_families", "gaussian")
    registry = Registry.from_entry_points()
    if load_all_first:
        registry.entries()
    assert registry.get("family", "gaussian").distribution == BUILT_IN
    assert registry.get("family", "a-stranger:gaussian").distribution == "a-stranger"
    registry.entries()
    (problem,) = registry.problems
    assert problem.startswith("a-stranger 1.0")


def test_a_stranger_does_not_step_in_for_a_broken_built_in(fake_dist: FakeDists) -> None:
    fake_dist.part(BUILT_IN, "gaussian", "bfn_families", "gaussian", before="1 / 0")
    fake_dist.part("a-stranger", "gaussian", "bfn_families", "gaussian")
    with pytest.raises(PluginError, match="ZeroDivisionError"):
        Registry.from_entry_points().get("family", "gaussian")


def test_an_unknown_name_gets_the_nearest_and_all(fake_dist: FakeDists) -> None:
    fake_dist.part(BUILT_IN, "gaussian", "bfn_families", "gaussian")
    fake_dist.part("fake-dist", "categorical", "bfn_families", "categorical")
    with pytest.raises(UnknownPlugin) as raised:
        Registry.from_entry_points().get("family", "gausian")
    expected = "no family named 'gausian'. Did you mean 'gaussian'? Installed: categorical, gaussian."
    assert str(raised.value) == expected
    with pytest.raises(UnknownPlugin, match=r"no network named 'gaussian'\. Installed: none\."):
        Registry.from_entry_points().get("network", "gaussian")


def test_an_unknown_kind_is_an_error() -> None:
    with pytest.raises(ConfigError, match="family, network"):
        Registry().get("familly", "x")


@pytest.mark.parametrize("disable", ["wanted", "fake-dist", "Fake_Dist", "fake-dist:wanted", "else, wanted"])
def test_disabled_plugins_are_left_out(
    fake_dist: FakeDists,
    monkeypatch: pytest.MonkeyPatch,
    disable: str,
) -> None:
    module = fake_dist.part("fake-dist", "wanted", "bfn_families", "wanted")
    monkeypatch.setenv("BFN_DISABLE_PLUGINS", disable)
    registry = Registry.from_entry_points()
    with pytest.raises(UnknownPlugin, match="disabled by BFN_DISABLE_PLUGINS"):
        registry.get("family", "wanted")
    assert module not in sys.modules
    assert Registry.from_entry_points(disable=()).get("family", "wanted").name == "wanted"


def test_only_the_plugin_that_is_asked_for_is_imported(fake_dist: FakeDists) -> None:
    modules = {
        name: fake_dist.part(distribution, name, "bfn_networks", name)
        for distribution, name in (
            (BUILT_IN, "siren"),
            (BUILT_IN, "unet"),
            ("fake-slow", "slow"),
            ("fake-dist", "mine"),
        )
    }
    registry = Registry.from_entry_points()
    assert not set(modules.values()) & sys.modules.keys()
    siren = registry.get("network", "siren").entry.build
    assert set(modules.values()) & sys.modules.keys() == {modules["siren"]}
    assert registry.name_of("network", siren) == "siren"
    registry.get("network", "fake-dist:mine")
    assert set(modules.values()) & sys.modules.keys() == {modules["siren"], modules["mine"]}
    registry.get("network", "unet")
    registry.get("network", "mine")
    assert modules["slow"] not in sys.modules


def test_plugins_are_listed_without_importing_them(fake_dist: FakeDists) -> None:
    module = fake_dist.part("fake-dist", "mine", "bfn_networks", "mine")
    (plugin,) = Registry.from_entry_points().plugins
    assert (plugin.distribution, plugin.version, plugin.entry_point, plugin.module) == (
        "fake-dist",
        "1.0",
        "mine",
        module,
    )
    assert module not in sys.modules


def test_stdout_belongs_to_results(fake_dist: FakeDists, capsys: pytest.CaptureFixture[str]) -> None:
    source = plugin_source("bfn_networks", "loud", before="print('at import')")
    source = source.replace("return [", "print('in the hook')\n    return [")
    fake_dist("fake-loud", {"loud": "fake_loud"}, {"fake_loud": source})
    Registry.from_entry_points().get("network", "loud")
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err == "at import\nin the hook\n"


def test_every_kind_has_its_hook(fake_dist: FakeDists) -> None:
    for kind, hook in KINDS.items():
        fake_dist.part("fake-" + kind, kind, hook, "part")
    registry = Registry.from_entry_points()
    for kind in KINDS:
        assert registry.get(kind, "part").kind == kind
    assert len(registry.entries()) == len(KINDS)


@attrs.frozen
class Local:
    width: int = 1


@hookimpl
def _networks() -> list[Entry]:
    return [Entry("local", Local, (Local(),))]


def test_a_plugin_can_be_registered_in_process() -> None:
    registry = Registry()
    with pytest.raises(ConfigError, match=r"test_registry.Local is not registered as a network.*bfn_networks"):
        registry.name_of("network", Local)
    registry.register(SimpleNamespace(bfn_networks=_networks), "mine")
    assert registry.get("network", "local").distribution == "(this process)"
    assert registry.get("network", "(this process):local").entry.build is Local
    assert registry.name_of("network", Local) == "local"
    with pytest.raises(PluginError, match="already"):
        registry.register(SimpleNamespace(bfn_networks=_networks), "mine")
    with pytest.raises(PluginError, match="no hook named 'bfn_network'"):
        registry.register(SimpleNamespace(bfn_network=_networks), "other")


def test_a_plugin_may_ask_the_registry_while_it_loads(fake_dist: FakeDists) -> None:
    before = "from bfn_toolkit import Registry\nRegistry.from_entry_points(disable=['mine']).names('network')"
    fake_dist.part("fake-dist", "mine", "bfn_networks", "mine", before=before)
    assert Registry.from_entry_points().names("network") == ["mine"]


def test_an_entry_point_that_shares_a_module_is_no_conflict(fake_dist: FakeDists) -> None:
    module = fake_dist.part("fake-dist", "one", "bfn_networks", "one")
    (fake_dist.root / "fake_dist-1.0.dist-info" / "entry_points.txt").write_text(
        f"[bfn_toolkit]\none = {module}\ntwo = {module}\n"
    )
    registry = Registry.from_entry_points()
    assert registry.names("network") == ["one"]


@pytest.mark.parametrize(
    "module",
    [
        "registry.hookspecs",
        "registry.registry",
        "registry.scaffold",
        "config.toml_files",
        "config.layers",
        "config.schema",
        "config.structure",
        "config.unstructure",
        "config.experiment",
        "validators",
    ],
)
def test_the_machinery_does_not_import_the_mathematics(module: str) -> None:
    code = f"import bfn_toolkit.{module}, sys; assert 'torch' not in sys.modules and 'numpy' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("module", ["hookspecs", "registry", "scaffold"])
def test_the_registry_does_not_import_the_configuration(module: str) -> None:
    code = f"import bfn_toolkit.registry.{module}, sys; assert 'bfn_toolkit.config' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
