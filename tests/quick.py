"""Which of a long list of cases run when.

``make test ARGS="-m 'not slow'"`` runs the quick subset, ``make test`` all but the cases that are
marked exhaustive, ``make test ARGS="-m exhaustive"`` those. The checks of a change run all.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Any

import pytest

EXHAUSTIVE = (pytest.mark.slow, pytest.mark.exhaustive)


def slow_but(kept: Iterable[Any], cases: Iterable[Any]) -> list[Any]:
    """``cases`` as pytest's parameters, marked slow but for those in ``kept``."""
    kept, cases = list(kept), list(cases)
    assert all(case in cases for case in kept), f"{kept} must be among {cases}"
    return [case if case in kept else pytest.param(case, marks=pytest.mark.slow) for case in cases]


def exhaustive_but(
    kept: Collection[Any], cases: Collection[Any], quick: Collection[Any]
) -> list[Any]:
    """``cases`` as pytest's parameters; not in ``kept``: exhaustive, not in ``quick``: slow.

    A tuple is the values of several parameters.
    """
    assert all(case in cases for case in (*kept, *quick)), f"{kept}, {quick} not all in {cases}"
    return [
        pytest.param(
            *(case if isinstance(case, tuple) else (case,)),
            marks=() if case in quick else pytest.mark.slow if case in kept else EXHAUSTIVE,
        )
        for case in cases
    ]


def pairs(
    firsts: Collection[str], seconds: Collection[str], quick: Collection[str], each: str
) -> list[Any]:
    """Each of ``firsts`` with each of ``seconds``, as pytest's parameters.

    Args:
        firsts: such as detectors.
        seconds: such as encoders.
        quick: those of ``firsts`` that the quick subset runs, with every second.
        each: the second that ``make test`` runs with every first; other pairs are exhaustive.
    """
    assert all(first in firsts for first in quick) and each in seconds, (quick, each)
    return [
        pytest.param(
            first,
            second,
            marks=() if first in quick else pytest.mark.slow if second == each else EXHAUSTIVE,
        )
        for first in firsts
        for second in seconds
    ]
