"""Two processes train as one does on the same global batch, and keep the same weights."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent))

from launched import ALIKE, TOGETHER, runs_here, step

from skips import version_lacks

ROOT = Path(__file__).parents[2]

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not torch.distributed.is_gloo_available(), reason="needs torch's gloo"),
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """What two processes found in every case."""
    out = tmp_path_factory.mktemp("ddp")
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    script = Path(__file__).parent / "launched.py"
    finished = subprocess.run(
        [*launcher, "--nproc-per-node", "2", str(script), str(out)],
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert finished.returncode == 0, finished.stderr[-3000:]
    return out


@pytest.mark.parametrize("case", ALIKE)
def test_two_processes_train_as_one(case, folder):
    if not runs_here(case):
        pytest.skip(version_lacks("FSDP on the CPU"))
    actual = torch.load(folder / "alike.pt", weights_only=True)[case]
    losses, model = step(case, rank=0, world=1)
    assert losses.keys() == actual["losses"].keys()
    if case.startswith("sparse"):  # an auxiliary head, and a selector that learns from the decoder
        assert losses["enc0.loss_cls"] > 0
        assert losses["loss_decoder_attention"] > 0
    for name, value in losses.items():
        torch.testing.assert_close(actual["losses"][name], value, rtol=1e-4, atol=1e-5, msg=name)
    gradients = {k: p.grad for k, p in model.named_parameters() if p.requires_grad}
    assert gradients.keys() == actual["gradients"].keys(), "a parameter without a gradient"
    for name, gradient in gradients.items():
        scale = gradient.abs().max().clamp(min=1e-6)
        assert (actual["gradients"][name] - gradient).abs().max() / scale < 1e-2, name


def test_two_processes_keep_the_same_weights(folder):
    """Every detector, and encoders with other parameters; one process has no boxes."""
    results = torch.load(folder / "together.pt", weights_only=True)
    assert results.keys() == TOGETHER.keys()
    for case, (apart, moved) in results.items():
        assert apart == 0, case
        assert moved > 0, case
