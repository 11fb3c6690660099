"""What of a long list of cases the quick subset runs; all of them run without ``-m 'not slow'``."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest


def slow_but(kept: Iterable[Any], cases: Iterable[Any]) -> list[Any]:
    """``cases`` as pytest's parameters, marked slow but for those in ``kept``."""
    kept, cases = list(kept), list(cases)
    assert all(case in cases for case in kept), f"{kept} must be among {cases}"
    return [case if case in kept else pytest.param(case, marks=pytest.mark.slow) for case in cases]
