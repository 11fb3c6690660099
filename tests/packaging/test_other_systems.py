"""What an installation without Linux would need: a package that imports nothing of Unix."""

import ast
from pathlib import Path

import sparse_encoders

UNIX = {"fcntl", "grp", "posix", "pwd", "pty", "resource", "termios", "tty"}


def test_the_package_imports_no_module_that_only_unix_has():
    actual = set()
    for file in Path(sparse_encoders.__file__).parent.rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.ImportFrom) and node.level == 0:
                actual.add((node.module or "").split(".")[0])
            elif isinstance(node, ast.Import):
                actual |= {alias.name.split(".")[0] for alias in node.names}
    assert {"torch", "mmdet", "pathlib"} <= actual
    assert not actual & UNIX
