"""Fixtures of the GPU check."""

from __future__ import annotations

from pathlib import Path

import pytest

from gpu.settings import TINY, Settings


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(tmp_path, **TINY)
