"""The import directions that import-linter cannot see: plugins are modules, and use public names only."""

import ast
from pathlib import Path

import grimp
import pytest

STANDS_ON = {
    "bfn_gaussian_heads": {"bfn_gaussian"},  # heads of that family
    "bfn_columns": {"bfn_masked"},  # the same channel, of points
    "bfn_product": {"bfn_categorical", "bfn_gaussian"},  # its examples have to be products of something
    "bfn_lora": {"bfn_mlp"},
    "bfn_points": {"bfn_files"},
    "bfn_arrays": {"bfn_files"},
    "bfn_table": {"bfn_files"},
    "bfn_text": {"bfn_files"},
    "bfn_lines": {"bfn_files"},
    "bfn_images": {"bfn_files"},
}
ROOT = Path(__file__).parents[2]
PLUGINS = sorted(ROOT.joinpath("plugins").rglob("*.py"))


@pytest.mark.parametrize("path", PLUGINS, ids=lambda path: str(path.relative_to(ROOT / "plugins")))
def test_plugins_import_public_names_only(path: Path) -> None:
    tree = ast.parse(path.read_text())
    imports = [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and node.module]
    ours = {node.module for node in imports if node.module.split(".")[0] == "bfn_toolkit"}
    assert ours <= {"bfn_toolkit"}
    plain = [name.name for node in ast.walk(tree) if isinstance(node, ast.Import) for name in node.names]
    assert not [name for name in plain if name.startswith("bfn_")]
    own = next(part.removesuffix(".py") for part in path.relative_to(ROOT).parts if part.startswith("bfn_"))
    others = {node.module.split(".")[0] for node in imports if node.module.startswith("bfn_")} - {"bfn_toolkit", own}
    assert not others - STANDS_ON.get(own, set()), "a plugin stands by itself"


def plugin_imports(graph: grimp.ImportGraph) -> list[str]:
    """Imports of plugins, by their names, in the core."""
    return [
        f"{importer} imports {module}"
        for module in graph.modules
        if module.startswith("bfn_") and module.split(".")[0] != "bfn_toolkit"
        for importer in graph.find_modules_that_directly_import(module)
    ]


def test_the_core_never_imports_a_plugin() -> None:
    graph = grimp.build_graph("bfn_toolkit", include_external_packages=True, cache_dir=None)
    assert plugin_imports(graph) == []
    graph.add_module("bfn_anything", is_squashed=True)
    graph.add_import(importer="bfn_toolkit.bfn", imported="bfn_anything")
    assert plugin_imports(graph) == ["bfn_toolkit.bfn imports bfn_anything"]
