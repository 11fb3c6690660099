"""Imports go one way: analysis stands above everything, and reports know no comparison."""

import ast
from pathlib import Path

import sparse_encoders

PACKAGE = Path(sparse_encoders.__file__).parent


def imported(file):
    """Modules that a file imports, anywhere in it."""
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.ImportFrom):
            yield node.module or ""
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)


def importers(name, files):
    """Files that import a module or what is below it."""
    actual = {f for f in files if any(f"{m}.".startswith(f"{name}.") for m in imported(f))}
    return {file.relative_to(PACKAGE).as_posix() for file in actual}


def test_nothing_below_analysis_imports_it():
    analysis = PACKAGE / "analysis"
    below = [file for file in PACKAGE.rglob("*.py") if analysis not in file.parents]
    assert importers("sparse_encoders.analysis", below) == set()
    assert importers("sparse_encoders.analysis", analysis.rglob("*.py"))  # the test sees imports


def test_only_comparisons_know_comparisons():
    name = "sparse_encoders.analysis.compare"
    users = importers(name, (PACKAGE / "analysis").rglob("*.py"))
    assert users and all(user.startswith("analysis/compare/") for user in users)
