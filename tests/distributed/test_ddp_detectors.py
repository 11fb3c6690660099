"""Every detector, and encoders with other parameters, on two processes, one without boxes."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent))

from worker_detectors import CASES

WORKER = Path(__file__).parent / "worker_detectors.py"
ROOT = Path(__file__).parents[2]


@pytest.mark.slow
@pytest.mark.skipif(not torch.distributed.is_gloo_available(), reason="needs torch's gloo")
def test_two_processes_keep_the_same_weights(tmp_path: Path) -> None:
    out = tmp_path / "detectors.pt"
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    finished = subprocess.run(
        [*launcher, "--nproc-per-node", "2", str(WORKER), str(out)],
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert finished.returncode == 0, finished.stderr[-3000:]
    results = torch.load(out, weights_only=True)
    assert results.keys() == CASES.keys()
    for case, (apart, moved) in results.items():
        assert apart == 0, case
        assert moved > 0, case
