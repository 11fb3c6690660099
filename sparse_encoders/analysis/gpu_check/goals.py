"""What the check is to show, beside what it measured."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from sparse_encoders.analysis.gpu_check.detectors import latency_name
from sparse_encoders.analysis.gpu_check.ops import ALL
from sparse_encoders.analysis.gpu_check.record import Record
from sparse_encoders.analysis.gpu_check.settings import ENCODERS

Values = dict[str, float]


@dataclass(frozen=True)
class Goal:
    """A number and its limit.

    Attributes:
        text: what is measured, in words.
        limit: its worst value that is good enough.
        at_least: larger is better; False: smaller.
        values: what was measured, by case; empty where it was not.
        wanted: how many values there must be before the goal can be met.
    """

    text: str
    limit: float
    at_least: bool
    values: Callable[[Record], Values]
    wanted: int = 1

    def compared(self, record: Record, on_gpu: bool) -> dict[str, Any]:
        """The goal with its verdict: 'met', 'missed' or 'not measured'.

        A goal is met where the worst value is good enough; one bad value is enough to miss it.
        """
        found = self.values(record) if on_gpu else {}
        row: dict[str, Any] = {"goal": self.text, "limit": self.limit, "at_least": self.at_least}
        if not found:
            return {**row, "verdict": "not measured"}
        worst = (min if self.at_least else max)(found, key=lambda name: found[name])
        good = found[worst] >= self.limit if self.at_least else found[worst] <= self.limit
        verdict = "missed" if not good else "met" if len(found) >= self.wanted else "not measured"
        return {**row, "verdict": verdict, "worst": found[worst], "worst_of": worst, "of": found}


def _speed_up(operator: str, direction: str, dtype: str) -> Callable[[Record], Values]:
    """Of an operator with all tokens as queries, over all kinds of locations."""

    def values(record: Record) -> Values:
        start = f"{operator}, {direction}, {dtype}, "
        return {
            name: result["speed_up"]
            for name, result in record.results("ops").items()
            if name.startswith(start) and name.endswith(f", {ALL}")
        }

    return values


def _of_focus(key: str, dtype: str) -> Callable[[Record], Values]:
    """A ratio of the pruned to the dense detector, at batch 1."""

    def values(record: Record) -> Values:
        name = latency_name(dtype, 1)
        row = record.results("detectors").get(name, {}).get("rows", {}).get("focus", {})
        return {name: row[key]} if key in row else {}

    return values


def _waits(dtype: str) -> Callable[[Record], Values]:
    """How often the host waits, by encoder."""

    def values(record: Record) -> Values:
        found = record.results("detectors").get(f"waiting, {dtype}", {}).get("waits", {})
        return {name: float(number) for name, number in found.items()}

    return values


def goals() -> Iterator[Goal]:
    """All of them, one for each dtype."""
    for dtype in ("float32", "float16", "bfloat16"):
        for direction, least in (("forward", 1.5), ("forward + backward", 1.3)):
            text = f"deformable attention, {direction}, {dtype}: times as fast as MMCV's operator"
            yield Goal(text, least, True, _speed_up("deformable", direction, dtype), 2)
        for direction in ("forward", "forward + backward"):
            text = f"key-aware attention, {direction}, {dtype}: times as fast as PyTorch"
            yield Goal(text, 4.0, True, _speed_up("key_aware", direction, dtype), 2)
    for dtype in ("float32", "float16"):
        text = f"Focus 0.3's encoder, {dtype}, batch 1: time, of the dense one's"
        yield Goal(text, 0.45, False, _of_focus("encoder_of_dense", dtype))
        text = f"detector with Focus 0.3, {dtype}, batch 1: frames a second, of the dense one's"
        yield Goal(text, 1.35, True, _of_focus("rate_of_dense", dtype))
        text = f"{dtype}: waits of the host between backbone and head"
        yield Goal(text, 0.0, False, _waits(dtype), len(ENCODERS))


def compare(record: Record, on_gpu: bool) -> list[dict[str, Any]]:
    """Every goal with its verdict; on the CPU nothing is measured that they speak of."""
    return [goal.compared(record, on_gpu) for goal in goals()]


def lines(compared: list[dict[str, Any]]) -> list[str]:
    """The goals in words; one line where none was measured."""
    measured = [row for row in compared if row["verdict"] != "not measured"]
    if not measured:
        return ["goals: none was measured"]
    found = []
    for row in measured:
        sign = "at least" if row["at_least"] else "at most"
        found.append(
            f"goal {row['verdict']}: {row['goal']}: {row['worst']:.2f}, {sign} {row['limit']:g}"
        )
    if missing := len(compared) - len(measured):
        found.append(f"goals: {missing} were not measured")
    return found
