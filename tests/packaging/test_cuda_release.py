"""setup.py leaves the CUDA kernels out where nvcc cannot build them for this torch."""

from __future__ import annotations

import runpy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils import cpp_extension

ROOT = Path(__file__).parents[2]


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """The functions of setup.py, run in the project's folder."""
    monkeypatch.chdir(ROOT)
    monkeypatch.delenv("SPARSE_ENCODERS_NO_CUDA", raising=False)
    return runpy.run_path("setup.py", run_name="not_main")


@pytest.mark.parametrize(("nvcc", "built"), [("13.0", False), ("12.9", True), (None, True)])
def test_another_release_of_cuda_builds_for_the_cpu_only(
    script: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    nvcc: str | None,
    built: bool,
) -> None:
    compiler = tmp_path / "bin" / "nvcc"
    compiler.parent.mkdir()
    if nvcc is not None:
        compiler.write_text(
            f"#!/bin/sh\necho 'Cuda compilation tools, release {nvcc}, V{nvcc}.1'\n"
        )
        compiler.chmod(0o755)
    monkeypatch.setattr(torch.version, "cuda", "12.1")
    monkeypatch.setattr(cpp_extension, "CUDA_HOME", str(tmp_path))
    monkeypatch.setenv("TORCH_CUDA_ARCH_LIST", "9.0")
    sources = script["cuda_sources"]()
    assert ("csrc/cuda/glue.cpp" in sources) == built
    assert ("is CUDA 13.0, this torch is built for CUDA 12.1" in capsys.readouterr().out) != built


@pytest.mark.parametrize("gpu", [False, True])
@pytest.mark.parametrize("architectures", [None, "9.0"])
def test_nothing_to_build_for_builds_for_the_cpu_only(
    script: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    gpu: bool,
    architectures: str | None,
) -> None:
    """A CUDA build of torch without a GPU is what PyPI gives; torch's own error names no cause."""
    monkeypatch.setattr(torch.version, "cuda", "12.1")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpu)
    monkeypatch.setattr(cpp_extension, "CUDA_HOME", str(tmp_path))
    monkeypatch.delenv("TORCH_CUDA_ARCH_LIST", raising=False)
    if architectures is not None:
        monkeypatch.setenv("TORCH_CUDA_ARCH_LIST", architectures)
    sources = script["cuda_sources"]()
    built = gpu or architectures is not None
    assert ("csrc/cuda/glue.cpp" in sources) == built
    assert ("TORCH_CUDA_ARCH_LIST=9.0" in capsys.readouterr().out) != built
