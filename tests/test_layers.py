"""The import directions that import-linter cannot see: plugins are modules, and use public names only."""

import ast
from pathlib import Path

import pytest

STANDS_ON = {
    "bfn_columns": {"bfn_files"},
    "bfn_directional": {"bfn_directional_beliefs", "bfn_directional_outputs", "bfn_matrix_fisher"},
    "bfn_directional_outputs": {"bfn_directional_beliefs"},
    "bfn_gaussian_heads": {"bfn_gaussian"},  # heads of that family
    "bfn_product": {"bfn_categorical", "bfn_gaussian"},  # its examples have to be products of something
    "bfn_table": {"bfn_columns", "bfn_files"},
    "bfn_text": {"bfn_files"},
}
PLUGINS = sorted(Path(__file__).parent.parent.joinpath("plugins").glob("*.py"))


@pytest.mark.parametrize("path", PLUGINS, ids=lambda path: path.stem)
def test_plugins_import_public_names_only(path: Path) -> None:
    tree = ast.parse(path.read_text())
    imports = [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and node.module]
    ours = {node.module for node in imports if node.module.split(".")[0] == "bfn_toolkit"}
    assert ours <= {"bfn_toolkit"}
    plain = [name.name for node in ast.walk(tree) if isinstance(node, ast.Import) for name in node.names]
    assert not [name for name in plain if name.startswith("bfn_")]
    others = {node.module for node in imports if node.module.startswith("bfn_")} - ours
    assert not others - STANDS_ON.get(path.stem, set()), "a plugin stands by itself"
