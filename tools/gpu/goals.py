"""Performance goals of the GPU check, and their comparison with the measured values."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from gpu.detectors import passes_name
from gpu.ops import ALL
from gpu.record import Record
from gpu.settings import ENCODERS

#: description, limit, whether values must be at least it (else at most), measured values by case,
#: and how many of them must have been measured for the goal to be met
Goal = tuple[str, float, bool, dict[str, float], int]
_OF_OPERATORS = (
    ("deformable", "deformable attention, {}: times as fast as MMCV's operator", (1.5, 1.3)),
    ("key_aware", "key-aware attention, {}: times as fast as PyTorch", (4.0, 4.0)),
)
_OF_FOCUS = {
    "encoder with Focus 0.3, {}: time relative to the dense encoder": (0.45, "encoder_of_dense"),
    "detector with Focus 0.3, {}: images a second relative to the dense one": (
        1.35,
        "rate_of_dense",
    ),
}


def goals(ops: dict[str, Any], detectors: dict[str, Any]) -> Iterator[Goal]:
    """All goals, each for every dtype, with what was measured.

    Args:
        ops: results of the step of this name, by case.
        detectors: the same.
    """
    for dtype in ("float32", "float16", "bfloat16"):
        for operator, text, limits in _OF_OPERATORS:
            for direction, limit in zip(("forward", "forward + backward"), limits, strict=True):
                start = f"{operator}, {direction}, {dtype}, "
                values = {
                    name: result["speed_up"]  # for each kind of sampling locations
                    for name, result in ops.items()
                    if name.startswith(start) and name.endswith(f", {ALL}")
                }
                yield text.format(f"{direction}, {dtype}"), limit, True, values, 2
    for dtype in ("float32", "float16"):
        case = passes_name(dtype, 1)
        focus = detectors.get(case, {}).get("rows", {}).get("focus", {})
        for text, (limit, key) in _OF_FOCUS.items():
            values = {case: focus[key]} if key in focus else {}
            yield text.format(f"{dtype}, batch 1"), limit, key == "rate_of_dense", values, 1
        waits = detectors.get(f"waiting, {dtype}", {}).get("waits", {})
        text = f"{dtype}: host waits for the GPU between backbone and head"
        yield text, 0.0, False, waits, len(ENCODERS)


def compare(record: Record, on_gpu: bool) -> list[dict[str, Any]]:
    """Every goal with its verdict: 'met', 'missed' or, as all on the CPU, 'not measured'.

    The worst value decides: a goal is missed as soon as one value is beyond the limit.
    """
    results = [record.results(step) if on_gpu else {} for step in ("ops", "detectors")]
    rows = []
    for text, limit, at_least, values, required in goals(*results):
        row: dict[str, Any] = {"goal": text, "limit": limit, "at_least": at_least}
        row["verdict"] = "not measured"
        if values:
            case = (min if at_least else max)(values, key=lambda name: values[name])
            row |= {"worst": values[case], "worst_of": case, "of": values}
            if not (values[case] >= limit if at_least else values[case] <= limit):
                row["verdict"] = "missed"
            elif len(values) >= required:
                row["verdict"] = "met"
        rows.append(row)
    return rows


def lines(compared: list[dict[str, Any]]) -> list[str]:
    """A line for each measured goal, and one for the number of those not measured."""
    measured = [row for row in compared if row["verdict"] != "not measured"]
    if not measured:
        return ["goals: none was measured"]
    texts = []
    for row in measured:
        sign = "at least" if row["at_least"] else "at most"
        texts.append(
            f"goal {row['verdict']}: {row['goal']}: {row['worst']:.2f}, {sign} {row['limit']:g}"
        )
    if missing := len(compared) - len(measured):
        texts.append(f"goals: {missing} were not measured")
    return texts
