"""Time the compiled operators against MMCV's and PyTorch's."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from gpu.settings import Settings
from sparse_encoders.analysis.encoder_benchmark import level_shapes
from sparse_encoders.analysis.operator_benchmark import BASELINES, Case, cases, measure
from sparse_encoders.ops import why_no_extension

IMAGE = (800, 1066)  # as in docs/operators.md and in the estimates of docs/cuda.md
KEEP = (1.0, 0.3)  # share of the tokens that are queries
ALL = "all tokens"


def plan(settings: Settings) -> dict[str, Callable[[], dict[str, Any]]]:
    """The cases: every operator, dtype, direction, kind of locations and number of queries."""
    shapes = level_shapes((64, 64) if settings.tiny else IMAGE)
    tokens = sum(h * w for h, w in shapes)
    dtypes = ("float32", "float16", "bfloat16") if settings.on_gpu else ("float32", "bfloat16")
    runs: dict[str, Callable[[], dict[str, Any]]] = {}
    for dtype in dtypes:
        for keep in KEEP[:1] if settings.tiny else KEEP:
            for case in cases([int(tokens * keep)], list(BASELINES), dtype):
                run = partial(_run, case, shapes, case.queries == tokens, settings)
                runs[name_of(case.operator, case.direction, dtype, case.locations, keep)] = run
    return runs


def name_of(operator: str, direction: str, dtype: str, locations: str, keep: float) -> str:
    """Name of a case."""
    queries = ALL if keep == 1 else f"{keep:.0%} of the tokens"
    return f"{operator}, {direction}, {dtype}, {locations}, {queries}"


def _run(
    case: Case, shapes: tuple[tuple[int, int], ...], dense: bool, settings: Settings
) -> dict[str, Any]:
    reason = why_no_extension()
    if reason is not None:
        raise ValueError(f"the compiled operators are missing: {reason}")
    # launching a call takes the host longer than the GPU needs to run it: time many at once
    number = 20 if settings.on_gpu else 1
    repeats = 1 if settings.tiny else 7
    return measure(case, shapes, settings.device, repeats, dense, number)


def line(result: dict[str, Any]) -> str:
    """One line that sums up a result."""
    ours, theirs = result["seconds"] * 1e3, result["baseline_seconds"] * 1e3
    return (
        f"{ours:.3f} ms, {result['baseline']} {theirs:.3f} ms: {result['speed_up']:.2f} times as "
        "fast"
    )
