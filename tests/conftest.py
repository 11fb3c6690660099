"""Shared by all tests: where helpers are found, and a fixed seed."""

import sys
from pathlib import Path

import pytest
import torch

from skips import (  # noqa: F401 (hooks of pytest's)
    pytest_collectreport,
    pytest_runtest_logreport,
    pytest_sessionfinish,
)

# Tiny tensors: a second thread costs more in waiting than it saves.
torch.set_num_threads(1)

sys.path.insert(0, str(Path(__file__).parent))


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)
