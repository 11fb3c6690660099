"""The documentation, built once."""

import subprocess
import sys

import pytest


@pytest.fixture(scope="session")
def site(request, tmp_path_factory):
    """The folder that ``make docs`` writes; a warning is an error."""
    pytest.importorskip("mkdocs", reason="mkdocs is not installed")
    pytest.importorskip("material", reason="mkdocs-material is not installed")
    folder = tmp_path_factory.mktemp("site")
    build = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)]
    done = subprocess.run(build, cwd=request.config.rootpath, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    return folder
