"""Shared by all tests: where helpers are found, and a fixed seed."""

import sys
from pathlib import Path

import pytest
import torch

# Tiny tensors: a second thread costs more in waiting than it saves.
torch.set_num_threads(1)

sys.path.insert(0, str(Path(__file__).parent))


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)
