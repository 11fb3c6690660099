"""Two processes train as one does on the same global batch."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent))

from worker import step

WORKER = Path(__file__).parent / "worker.py"
ROOT = Path(__file__).parents[2]


@pytest.mark.skipif(not torch.distributed.is_gloo_available(), reason="needs torch's gloo")
@pytest.mark.parametrize("encoder", ["DenseEncoder", "DualAttentionEncoder"])
def test_two_processes_train_as_one(encoder, tmp_path):
    out = tmp_path / "step.pt"
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    finished = subprocess.run(
        [*launcher, "--nproc-per-node", "2", str(WORKER), encoder, str(out)],
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert finished.returncode == 0, finished.stderr[-3000:]
    both = torch.load(out, weights_only=True)
    losses, model = step(encoder, rank=0, world=1)
    assert losses.keys() == both["losses"].keys()
    for name, value in losses.items():
        torch.testing.assert_close(both["losses"][name], value, rtol=1e-4, atol=1e-5, msg=name)
    gradients = {k: p.grad for k, p in model.named_parameters() if p.requires_grad}
    assert gradients.keys() == both["gradients"].keys(), "a parameter without a gradient"
    for name, gradient in gradients.items():
        scale = gradient.abs().max().clamp(min=1e-6)
        assert (both["gradients"][name] - gradient).abs().max() / scale < 1e-2, name
