"""What an installation without Linux would need: a pure package that imports nothing of Unix."""

import ast
import importlib.util
import sys
from pathlib import Path

import sparse_encoders

PACKAGE = Path(sparse_encoders.__file__).parent
UNIX = {"fcntl", "grp", "posix", "pwd", "pty", "resource", "termios", "tty"}


def imported(file):
    """First names of the modules that a file imports, anywhere in it."""
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.ImportFrom) and node.level == 0:
            yield (node.module or "").split(".")[0]
        elif isinstance(node, ast.Import):
            yield from (alias.name.split(".")[0] for alias in node.names)


def test_the_package_imports_no_module_that_only_unix_has():
    files = list(PACKAGE.rglob("*.py"))
    actual = {name for file in files for name in imported(file)}
    assert {"torch", "mmdet", "pathlib"} <= actual
    assert not actual & UNIX


def test_windows_gets_the_pure_package(monkeypatch):
    spec = importlib.util.spec_from_file_location("its_setup", PACKAGE.parent / "setup.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.delenv("SPARSE_ENCODERS_NO_EXTENSION", raising=False)
    monkeypatch.setattr(sys, "platform", "win32")
    assert "Windows" in module.reason_not_to_build()
