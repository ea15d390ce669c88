"""Imports point one way, as CONTRIBUTING.md says."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent

# What the files of a folder may import, besides its own and packages of others.
ALLOWED = {
    "tools": set(),
    "envs": {"tools"},
    "episodes": {"tools", "envs"},
    "planners": {"tools", "optimizers"},
    "world_model": {"tools", "models", "optimizers"},
    "policies": {"tools", "models", "optimizers", "planners", "world_model"},
    "analysis": {"tools", "envs", "training"},
}
OURS = {path.name if path.is_dir() else path.stem for path in ROOT.iterdir() if path.suffix in ("", ".py")}


def imported(path: Path) -> set[str]:
    """The packages and modules that a file imports, within functions too."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names.add(node.module.partition(".")[0])
    return names


@pytest.mark.parametrize("folder", ALLOWED)
def test_a_folder_imports_only_what_it_may(folder):
    files = sorted((ROOT / folder).glob("*.py"))
    found = {path.name: imported(path) & OURS - {folder} - ALLOWED[folder] for path in files}
    assert files and not {name: names for name, names in found.items() if names}


def test_environments_import_no_tensorflow():
    assert not [path.name for path in (ROOT / "envs").glob("*.py") if "tensorflow" in imported(path)]
