"""Rows to name in a report: the Pareto front of AP and cost, the cheapest row of equal AP."""

from __future__ import annotations

from collections.abc import Sequence

from sparse_encoders.analysis.report.results import Report, Row

#: below this AP rows are not ranked
LEARNED = 0.05
#: a baseline below this share of the best row's AP gives a warning
TELLING = 0.5
#: settings of a training that must be equal for a comparison of AP
TRAINING = ("epochs", "iterations", "batch", "schedule", "data")


def ranked(report: Report) -> bool:
    """Whether AP was measured, of the reference too, and something was learned."""
    base, rivals = report.reference, report.rivals
    known = base is not None and base.ap is not None
    return known and bool(rivals) and (rivals[0].ap or 0.0) >= LEARNED


def says_nothing(report: Report) -> bool:
    """Whether the reference learned nothing, or far less than the best row."""
    if not ranked(report) or report.reference is None:
        return False
    return (report.reference.ap or 0.0) < max(LEARNED, TELLING * (report.rivals[0].ap or 0.0))


def trainings(report: Report) -> dict[str, list[str]]:
    """Labels of rows by their training; empty if all trainings are equal.

    A training is text such as '12 epochs, 624 iterations'; unknown values count as equal.
    """
    known = {
        row.label: {key: own[key] for key in TRAINING if own.get(key) is not None}
        for row in report.judged
        if (own := row.weights)
    }
    apart = [k for k in TRAINING if len({str(own[k]) for own in known.values() if k in own}) > 1]
    groups: dict[str, list[str]] = {}
    for label, own in known.items():
        had = ", ".join(f"{key} {own[key]}" for key in apart if key in own)
        if had:
            groups.setdefault(had, []).append(label)
    return groups


def cheaper(report: Report, row: Row, other: Row | None = None) -> str:
    """'faster', 'slower' or 'equal' to another row, or to the reference.

    By latency, or by multiply-adds where nothing was timed; '' where neither is known.
    """
    other = other or report.reference
    verdict = report.speed_verdict(row, other)
    mine, theirs = row.madds(), other.madds() if other else None
    if verdict or mine is None or theirs is None:
        return verdict
    return "equal" if mine == theirs else "faster" if mine < theirs else "slower"


def front(report: Report) -> list[Row]:
    """The contenders that no other beats in AP and cost, the most accurate first.

    A row is beaten by one that is as fast at a higher AP, and by a faster one whose AP is equal
    within the margin.
    """
    faster: list[Row] = []
    for row in report.rivals:
        if all(cheaper(report, row, other) == "faster" for other in faster):
            faster.append(row)
    kept: list[Row] = []
    for row in reversed(faster):
        if all(report.ap_verdict(other, row) != "equal" for other in kept):
            kept.insert(0, row)
    return kept


def as_good(report: Report) -> list[Row]:
    """The contenders that are cheaper than the reference, and whose AP is equal or higher."""
    return [
        row
        for row in report.contenders
        if report.ap_verdict(row) in ("equal", "higher") and cheaper(report, row) == "faster"
    ]


def cheapest(report: Report, rows: Sequence[Row]) -> Row | None:
    """The row of the lowest latency, or multiply-adds; of equal ones the highest in AP."""

    def cost(row: Row) -> tuple[float, float]:
        share = report.time_share(row)
        return (row.madds() or 0.0) if share is None else share, -(row.ap or 0.0)

    return min(rows, key=cost, default=None)


def cheapest_equal(report: Report) -> Row | None:
    """The cheapest row that is as good as the reference; of equally fast ones the most accurate."""
    good = as_good(report)
    first = cheapest(report, good)
    alike = [row for row in good if row is first or cheaper(report, row, first) == "equal"]
    return max(alike, key=lambda row: row.ap or 0.0, default=None)


def shown(report: Report) -> Row | None:
    """The row of the first screen's numbers.

    On the front, cheaper than the reference and not lower in AP, the cheapest of these; where no
    AP was measured or none is worth ranking, the fastest row.
    """
    rows = report.contenders
    if ranked(report):
        rows = [row for row in front(report) if report.ap_verdict(row) != "lower"]
    return cheapest(report, [row for row in rows if cheaper(report, row) == "faster"])
