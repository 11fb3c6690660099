"""Rows to name in a report: the Pareto front of AP and cost, the cheapest row of equal AP."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from sparse_encoders.analysis.report.results import Report, Row

#: below this AP rows are not ranked
LEARNED = 0.05
#: a baseline below this share of the best row's AP gives a warning
TELLING = 0.5
#: settings of a training that must be equal for a comparison of AP
TRAINING = ("epochs", "iterations", "batch", "schedule", "data")


def best(report: Report) -> Row | None:
    """The contender of the highest AP."""
    judged = [row for row in report.contenders if row.ap is not None]
    return max(judged, key=lambda row: row.ap or 0.0, default=None)


def ranked(report: Report) -> bool:
    """Whether AP was measured, of the reference too, and something was learned."""
    top, base = best(report), report.reference
    known = base is not None and base.ap is not None
    return known and top is not None and (top.ap or 0.0) >= LEARNED


def says_nothing(report: Report) -> bool:
    """Whether the reference learned nothing, or far less than the best row."""
    top, base = best(report), report.reference
    if not ranked(report) or top is None or base is None:
        return False
    return (base.ap or 0.0) < max(LEARNED, TELLING * (top.ap or 0.0))


def trainings(report: Report) -> dict[str, list[str]]:
    """Labels of rows by their training; empty if all trainings are equal.

    A training is text such as '12 epochs, 624 iterations'; unknown values count as equal.
    """
    known = {row.label: row.weights or {} for row in report.good if row.ap is not None}
    keys = [
        key
        for key in TRAINING
        if len({str(w[key]) for w in known.values() if w.get(key) is not None}) > 1
    ]
    groups: dict[str, list[str]] = {}
    for label, weights in known.items():
        facts = [f"{key} {weights[key]}" for key in keys if weights.get(key) is not None]
        if facts:
            groups.setdefault(", ".join(facts), []).append(label)
    return groups


def cheaper(report: Report, row: Row, other: Row) -> str:
    """'faster', 'slower' or 'equal': by latency, by multiply-adds where nothing was timed.

    '' where neither is known.
    """
    verdict = report.speed_verdict(row, other)
    mine, theirs = row.madds(), other.madds()
    if verdict or mine is None or theirs is None:
        return verdict
    return "equal" if mine == theirs else "faster" if mine < theirs else "slower"


def front(report: Report) -> list[Row]:
    """The contenders that no other beats in AP and cost, the most accurate first.

    A row is beaten by one that is as fast at a higher AP, and by a faster one whose AP is equal
    within the margin.
    """
    judged = [row for row in report.contenders if row.ap is not None]
    faster: list[Row] = []
    for row in sorted(judged, key=lambda row: row.ap or 0.0, reverse=True):
        if all(cheaper(report, row, other) == "faster" for other in faster):
            faster.append(row)
    kept: list[Row] = []
    for row in reversed(faster):
        if all(report.ap_verdict(other, row) != "equal" for other in kept):
            kept.insert(0, row)
    return kept


def cost(report: Report) -> Callable[[Row], Any]:
    """What rows are sorted by, the cheapest first: latency, or multiply-adds; then AP."""

    def key(row: Row) -> tuple[float, float]:
        share = report.time_share(row)
        return (row.madds() or 0.0) if share is None else share, -(row.ap or 0.0)

    return key


def cheapest_equal(report: Report) -> Row | None:
    """The cheapest contender, cheaper than the reference, whose AP is equal to its or higher.

    Of those as fast as the cheapest the most accurate one.
    """
    base = report.reference
    if base is None:
        return None
    good = [
        row
        for row in report.contenders
        if report.ap_verdict(row) in ("equal", "higher") and cheaper(report, row, base) == "faster"
    ]
    first = min(good, key=cost(report), default=None)
    if first is None:
        return None
    alike = [row for row in good if row is first or cheaper(report, row, first) == "equal"]
    return max(alike, key=lambda row: row.ap or 0.0)


def shown(report: Report) -> Row | None:
    """The row of the first screen's numbers.

    On the front, cheaper than the reference and not lower in AP, the cheapest of these; where no
    AP was measured or none is worth ranking, the fastest row.
    """
    base = report.reference
    if base is None:
        return None
    rows = [r for r in front(report) if report.ap_verdict(r) != "lower"]
    rows = rows if ranked(report) else report.contenders
    return min(
        (row for row in rows if cheaper(report, row, base) == "faster"),
        key=cost(report),
        default=None,
    )
