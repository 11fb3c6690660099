"""Fixtures; makes the helpers of this folder importable (tests are files here, not packages)."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

import host_kernels


@pytest.fixture(scope="session")
def build_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the session's compiled files lie."""
    return tmp_path_factory.mktemp("cuda_on_host")


@pytest.fixture(scope="session")
def kernels(build_folder: Path) -> host_kernels.HostKernels:
    """The kernels, compiled for the CPU."""
    library = host_kernels.compile_for_host(
        "host_driver.cpp", build_folder / "libhost.so", "-O1", "-shared", "-fPIC"
    )
    return host_kernels.HostKernels(library)
