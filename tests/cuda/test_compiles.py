"""The CUDA sources compile with plain nvcc, and the kernels stay in registers."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parents[2] / "tools" / "build_cuda_objects.sh"


@pytest.mark.slow
@pytest.mark.exhaustive
@pytest.mark.skipif(shutil.which("nvcc") is None, reason="nvcc was not found")
def test_nvcc_compiles_every_kernel_without_spills(tmp_path):
    """One architecture here; CI runs the script itself, for all of them."""
    done = subprocess.run(
        ["bash", str(SCRIPT), str(tmp_path)],
        env={**os.environ, "ARCHS": "90"}, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    rows = [line.split() for line in done.stdout.splitlines() if line.startswith("sm_90")]
    # 4 kernels x 3 dtypes x (3 numbers of channels of their own, 2 for any)
    assert len(rows) == 60
    assert {row[1] for row in rows} == {
        "deformable_forward", "deformable_backward", "key_aware_forward", "key_aware_backward",
    }  # fmt: skip
    own = [row for row in rows if row[3] != "any"]
    assert len(own) == 36 and all(row[7] == row[8] == "0" for row in own)


def test_the_script_says_what_is_missing():
    bash = shutil.which("bash")
    tools = shutil.which("dirname")
    if bash is None or tools is None:
        pytest.skip("bash was not found")
    if shutil.which("nvcc", path=str(Path(tools).parent)):
        pytest.skip("nvcc lies beside the system's own tools here")
    done = subprocess.run(
        [bash, str(SCRIPT)], env={"PATH": str(Path(tools).parent)}, capture_output=True, text=True
    )
    assert done.returncode == 2 and "nvcc was not found" in done.stderr
