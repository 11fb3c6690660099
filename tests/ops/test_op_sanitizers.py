"""The CPU kernels under the address and undefined-behaviour sanitizers, without torch."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "tools" / "sanitize_cpu_kernels.sh"


@pytest.mark.slow
@pytest.mark.skipif(
    not os.environ.get("SPARSE_ENCODERS_SANITIZE"),
    reason="takes minutes to compile: set SPARSE_ENCODERS_SANITIZE=1",
)
def test_no_finding_on_fuzzed_shapes_and_locations():
    if shutil.which(os.environ.get("CXX", "g++")) is None:
        pytest.skip("no C++ compiler")
    done = subprocess.run([str(SCRIPT), "300"], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("no finding") + done.stdout.count("skipped") == 3
