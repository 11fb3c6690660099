"""Time the compiled operators against MMCV's and PyTorch's."""

from __future__ import annotations

from functools import partial
from typing import Any

from gpu.settings import KEEP_RATIO, Cases, Settings
from sparse_encoders.analysis.encoder_benchmark import level_shapes
from sparse_encoders.analysis.operator_benchmark import BASELINES, Case, cases, measure
from sparse_encoders.ops import why_no_extension

IMAGE = (800, 1066)  # as in docs/operators.md and in the estimates of docs/cuda.md
ALL = "all tokens"


def plan(settings: Settings) -> Cases:
    """Every operator, dtype, direction, kind of locations and number of queries."""
    shapes = level_shapes((64, 64) if settings.tiny else IMAGE)
    tokens = sum(h * w for h, w in shapes)
    dtypes = ("float32", "float16", "bfloat16") if settings.on_gpu else ("float32", "bfloat16")
    runs: Cases = {}
    for dtype in dtypes:
        for keep in (1.0,) if settings.tiny else (1.0, KEEP_RATIO):
            for case in cases([int(tokens * keep)], list(BASELINES), dtype):
                name = name_of(case.operator, case.direction, dtype, case.locations, keep)
                runs[name] = partial(_run, case, shapes, case.queries == tokens, settings)
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
    return measure(case, shapes, settings.device, 1 if settings.tiny else 7, dense, number)


def line(result: dict[str, Any]) -> str:
    """Times of the operator and of its baseline."""
    ours, theirs = result["seconds"] * 1e3, result["baseline_seconds"] * 1e3
    baseline, speed_up = result["baseline"], result["speed_up"]
    return f"{ours:.3f} ms, {baseline} {theirs:.3f} ms: {speed_up:.2f} times as fast"
