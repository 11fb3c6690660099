"""Performance goals of the GPU check, and their comparison with the measured values."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from gpu.detectors import latency_name
from gpu.ops import ALL
from gpu.record import Record
from gpu.settings import ENCODERS

Values = dict[str, float]


@dataclass(frozen=True)
class Goal:
    """A limit for measured values.

    Attributes:
        text: description of the value.
        limit: the value that must be reached.
        at_least: values must be at least ``limit``; False: at most.
        values: reads the measured values from a record, by case; empty if there are none.
        required: how many values must have been measured for the goal to be met.
    """

    text: str
    limit: float
    at_least: bool
    values: Callable[[Record], Values]
    required: int = 1

    def compared(self, record: Record, on_gpu: bool) -> dict[str, Any]:
        """The goal with its verdict: 'met', 'missed' or 'not measured'.

        The worst value decides: the goal is missed as soon as one value is beyond the limit.
        """
        values = self.values(record) if on_gpu else {}
        row: dict[str, Any] = {"goal": self.text, "limit": self.limit, "at_least": self.at_least}
        if not values:
            return {**row, "verdict": "not measured"}
        case = (min if self.at_least else max)(values, key=lambda name: values[name])
        worst = values[case]
        reached = worst >= self.limit if self.at_least else worst <= self.limit
        complete = len(values) >= self.required
        verdict = "missed" if not reached else "met" if complete else "not measured"
        return {**row, "verdict": verdict, "worst": worst, "worst_of": case, "of": values}


def _speed_up(operator: str, direction: str, dtype: str) -> Callable[[Record], Values]:
    """Speed-ups of an operator with all tokens as queries, for each kind of sampling locations."""

    def values(record: Record) -> Values:
        start = f"{operator}, {direction}, {dtype}, "
        return {
            name: result["speed_up"]
            for name, result in record.results("ops").items()
            if name.startswith(start) and name.endswith(f", {ALL}")
        }

    return values


def _of_focus(key: str, dtype: str) -> Callable[[Record], Values]:
    """A ratio of the detector with Focus 0.3 to the dense one, at batch 1."""

    def values(record: Record) -> Values:
        name = latency_name(dtype, 1)
        row = record.results("detectors").get(name, {}).get("rows", {}).get("focus", {})
        return {name: row[key]} if key in row else {}

    return values


def _waits(dtype: str) -> Callable[[Record], Values]:
    """Number of host waits by encoder."""

    def values(record: Record) -> Values:
        waits = record.results("detectors").get(f"waiting, {dtype}", {}).get("waits", {})
        return {name: float(number) for name, number in waits.items()}

    return values


def goals() -> Iterator[Goal]:
    """All goals, each for every dtype."""
    for dtype in ("float32", "float16", "bfloat16"):
        for direction, limit in (("forward", 1.5), ("forward + backward", 1.3)):
            text = f"deformable attention, {direction}, {dtype}: times as fast as MMCV's operator"
            yield Goal(text, limit, True, _speed_up("deformable", direction, dtype), 2)
        for direction in ("forward", "forward + backward"):
            text = f"key-aware attention, {direction}, {dtype}: times as fast as PyTorch"
            yield Goal(text, 4.0, True, _speed_up("key_aware", direction, dtype), 2)
    for dtype in ("float32", "float16"):
        text = f"encoder with Focus 0.3, {dtype}, batch 1: time relative to the dense encoder"
        yield Goal(text, 0.45, False, _of_focus("encoder_of_dense", dtype))
        text = (
            f"detector with Focus 0.3, {dtype}, batch 1: images a second relative to the dense one"
        )
        yield Goal(text, 1.35, True, _of_focus("rate_of_dense", dtype))
        text = f"{dtype}: host waits for the GPU between backbone and head"
        yield Goal(text, 0.0, False, _waits(dtype), len(ENCODERS))


def compare(record: Record, on_gpu: bool) -> list[dict[str, Any]]:
    """Every goal with its verdict; on the CPU all are 'not measured'."""
    return [goal.compared(record, on_gpu) for goal in goals()]


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
