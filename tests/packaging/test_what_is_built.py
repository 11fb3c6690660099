"""setup.py builds what torch, nvcc and the machine allow, and says what it leaves out."""

from __future__ import annotations

import runpy
import sys
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
    for name in ("NO_CUDA", "NO_EXTENSION"):
        monkeypatch.delenv(f"SPARSE_ENCODERS_{name}", raising=False)
    return runpy.run_path("setup.py", run_name="not_main")


def test_windows_gets_the_pure_package(
    script: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "platform", "win32")
    assert "Windows" in script["reason_not_to_build"]()


RELEASES = "is CUDA 13.0, this torch is built for CUDA 12.1"
NO_GPU = "TORCH_CUDA_ARCH_LIST=9.0"  # torch's own error names no cause


@pytest.mark.parametrize(
    ("nvcc", "gpu", "architectures", "message"),
    [
        ("13.0", False, "9.0", RELEASES),
        ("12.9", False, "9.0", ""),
        (None, False, "9.0", ""),
        (None, False, "", NO_GPU),  # a CUDA build of torch without a GPU is what PyPI gives
        (None, True, "9.0", ""),
        (None, True, "", ""),
    ],
)
def test_cuda_is_built_by_its_release_where_a_gpu_is_known(
    script: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    nvcc: str | None,
    gpu: bool,
    architectures: str,
    message: str,
) -> None:
    if nvcc is not None:
        compiler = tmp_path / "bin" / "nvcc"
        compiler.parent.mkdir()
        compiler.write_text(f"#!/bin/sh\necho 'Cuda compilation tools, release {nvcc}, V'\n")
        compiler.chmod(0o755)
    monkeypatch.setattr(torch.version, "cuda", "12.1")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpu)
    monkeypatch.setattr(cpp_extension, "CUDA_HOME", str(tmp_path))
    monkeypatch.setenv("TORCH_CUDA_ARCH_LIST", architectures)
    sources, said = script["cuda_sources"](), capsys.readouterr().out
    assert ("csrc/cuda/glue.cpp" in sources) == (not message)
    assert message in said and bool(said) == bool(message)
