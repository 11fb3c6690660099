"""The sentences of a report: the best rows, their gains and costs, and caveats.

The texts are in words.yml; this module chooses which of them a report has.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.resources import files
from typing import Any, NamedTuple

import yaml

from sparse_encoders.analysis.report import ranking
from sparse_encoders.analysis.report.results import Report, Row
from sparse_encoders.analysis.variants import ORACLE

WORDS: dict[str, Any] = yaml.safe_load((files(__package__) / "words.yml").read_text())
#: largest difference between the quarters of the rounds on a quiet machine
UNSTEADY = 0.2
#: rows of the front that the headline names
NAMED = 4


class Tile(NamedTuple):
    """One number of the first screen: a title, the number, a line below it."""

    title: str
    value: str
    note: str


@dataclass(frozen=True)
class Summary:
    """The first screen.

    Attributes:
        warnings: what has to be known before the headline.
        headline: the outcome in a sentence.
        tiles: the numbers behind it.
        points: what else the numbers say.
        caveats: how far they can be trusted.
    """

    warnings: tuple[str, ...]
    headline: str
    tiles: tuple[Tile, ...]
    points: tuple[str, ...]
    caveats: tuple[str, ...]


def say(group: str, name: str, /, **values: Any) -> str:
    """A sentence of words.yml with its values filled in."""
    text: str = WORDS[group][name].format(**values)
    return text


def summarise(report: Report) -> Summary:
    """The sentences of a report."""
    return Summary(
        warnings=tuple(_warnings(report)),
        headline=_headline(report),
        tiles=tuple(_tiles(report)),
        points=tuple(_points(report)),
        caveats=tuple(_caveats(report)),
    )


def _facts(report: Report, row: Row | None) -> dict[str, Any]:
    """Values for the sentences about a row."""
    base = report.reference
    facts: dict[str, Any] = {"base": report.baseline, "margin": report.margin}
    if base is not None:
        facts.update(base_ap=base.ap, base_ms=base.milliseconds)
    if row is None:
        return facts
    gain, share = report.gain(row), report.time_share(row)
    mine, theirs = row.madds(), base and base.madds()
    work = mine / theirs if mine and theirs else 1.0
    facts |= {
        "row": row.label + (say("points", "control") if row.control else ""),
        "ap": row.ap,
        "gain": 0.0 if gain is None else gain.mean,
        "size": 0.0 if gain is None else abs(gain.mean),
        "times": f"{1 / share:.2f} times as fast" if share else f"{work:.0%} of the work",
        "ms": row.milliseconds,
    }
    return facts | {"compared": say("compared", report.ap_verdict(row) or "unknown", **facts)}


def _warnings(report: Report) -> Iterator[str]:
    base = report.reference
    if base is None:
        yield say("warnings", "no_baseline", base=report.baseline)
        return
    if ranking.says_nothing(report):
        best = report.rivals[0]
        yield say("warnings", "baseline", **_facts(report, base), best=best.label, best_ap=best.ap)
    apart = ranking.trainings(report)
    if apart:
        rows = [say("warnings", "had", rows=listed(r), had=had) for had, r in apart.items()]
        yield say("warnings", "trainings", rows="; ".join(rows))
    controls = [row for row in ranking.as_good(report) if row.control]
    if controls and ranking.ranked(report):
        rows = [say("warnings", "control", **_facts(report, row)) for row in controls]
        yield say("warnings", "controls", rows=listed(rows), base=report.baseline)


def _headline(report: Report) -> str:
    base, row = report.reference, ranking.shown(report)
    facts = _facts(report, row)
    if not ranking.ranked(report):
        why = "untrained"
        if base is None or base.ap is None:
            why = "no_base_ap" if report.judged else "no_ap"
        why = say("why", why, **facts)
        return say("headline", "fastest" if row else "none_faster", **facts, why=why)
    rows = ranking.front(report)
    if rows == [base]:
        return say("headline", "only_base", **facts)
    named = [
        say("headline", "base" if row is base else "row", **_facts(report, row))
        for row in rows[:NAMED]
    ]
    if len(rows) > NAMED:
        named.append(say("headline", "more", count=len(rows) - NAMED))
    return say("headline", "alone" if len(rows) == 1 else "front", rows=listed(named), **facts)


def _tiles(report: Report) -> Iterator[Tile]:
    base, row = report.reference, ranking.shown(report)
    if row is None or base is None:
        return
    facts, words = _facts(report, row), WORDS["tiles"]

    def tile(name: str, text: str, **more: Any) -> Tile:
        return Tile(words[name][0], text, words[name][1].format(**facts, **more))

    title = words["front" if ranking.ranked(report) else "fastest"]
    yield Tile(title, row.label, say("tiles", "against", **facts))
    share = report.time_share(row)
    if share is not None:
        yield tile("speed", f"{1 / share:.2f} x")
    if row.ap is not None and ranking.ranked(report):
        yield tile("ap", f"{row.ap:.3f}")
    for name, mine, theirs in (
        ("madds", row.madds(), base.madds()),
        ("encoder", row.madds("encoder"), base.madds("encoder")),
        ("memory", row.memory_mib, base.memory_mib),
    ):
        if mine is not None and theirs:
            change = f"{round(100 * (mine / theirs - 1)):+d}%".replace("-", "\N{MINUS SIGN}")
            text = "same" if change == "+0%" else change
            yield tile(name, text, value=mine, base_value=theirs)


def _points(report: Report) -> Iterator[str]:
    if ranking.ranked(report):
        light, (top, *rest) = ranking.cheapest_equal(report), report.rivals
        yield say("points", "cheapest" if light else "no_cheapest", **_facts(report, light))
        near = [row.label for row in rest if report.ap_verdict(row, top) != "lower"]
        of = "" if not near else "_of_all" if len(near) == len(rest) else "_of_some"
        yield say("points", f"highest{of}", row=top.label, ap=top.ap, near=listed(near))
        timed = [row for row in report.rivals if report.time_share(row)]
        fastest = min(timed, key=lambda row: report.time_share(row) or 1.0, default=None)
        if fastest not in (None, report.reference):
            yield say("points", "fastest", **_facts(report, fastest))
        for name in report.encoders:
            yield from _dial(report, name)
        for row in report.judged:
            if row.encoder in ("random", ORACLE):
                yield say("points", row.encoder, **_facts(report, row))
    for row in report.rows:
        if row.error is not None:
            yield say("points", "failed", row=row.label, error=row.error)


def _dial(report: Report, name: str) -> Iterator[str]:
    """How far the keep ratio of an encoder can go down."""
    rows = [row for row in report.judged if row.encoder == name]
    if len(rows) < 2:
        return
    full, last = rows[0], rows[-1]  # the largest ratio comes first
    lower = [row for row in rows[1:] if report.ap_verdict(row, full) == "lower"]
    if not lower:
        yield say("points", "holds", encoder=name, ratio=last.keep_ratio)
        return
    held = rows[rows.index(lower[0]) - 1]
    steps = [say("points", "step", ap=r.ap, ratio=r.keep_ratio) for r in (held, lower[0], last)]
    shown = ", ".join(dict.fromkeys(steps))
    yield say("points", "loses", encoder=name, ratio=held.keep_ratio, steps=shown)


def _caveats(report: Report) -> Iterator[str]:
    judged, data = report.judged, report.data
    if judged and data is not None:
        runs = sorted({len(row.runs) for row in judged})
        yield say("caveats", "one_run" if runs[-1] == 1 else "runs", runs=listed(runs))
        counts = dict(images=data["validated"], boxes=data["boxes"])
        yield say("caveats", "tests", **counts, margin=report.margin)
        if not any(row.control for row in judged):
            yield say("caveats", "no_control")
        for row in judged:
            for error in row.lost:
                yield say("caveats", "lost", row=row.label, error=error)
    if judged and not ranking.ranked(report):
        yield say("caveats", "untrained", learned=ranking.LEARNED)
    trained = [
        (row.keep_ratio or 0.0, round(ratio, 4))
        for row in judged
        if (ratio := (row.weights or {}).get("trained_keep_ratio")) is not None
    ]
    if any(abs(used - ratio) > 1e-6 for used, ratio in trained):
        ratios = sorted({ratio for _, ratio in trained})
        yield say("caveats", "other_ratio", ratios=listed([f"{ratio:g}" for ratio in ratios]))
    if report.good and all((r.weights or {}).get("source") == "none" for r in report.good):
        yield say("caveats", "random")
    if report.unsteadiness > UNSTEADY:
        yield say("caveats", "busy", share=report.unsteadiness)
    if report.repeats:
        yield say("caveats", "machine", **measured_on(report))


def listed(names: Sequence[object]) -> str:
    """'a, b and c'."""
    *first, last = map(str, names) if names else [""]
    return f"{', '.join(first)} and {last}" if first else last


def measured_on(report: Report) -> dict[str, Any]:
    """Values for the sentences about the machine and the measured image."""
    machine, threads = report.machine, report.machine["threads"]
    threads = f"{threads} thread{'s' if threads > 1 else ''}"
    return {
        **machine,
        "height": report.size[0],
        "width": report.size[1],
        "rounds": report.repeats,
        "threads": threads,
        "device": threads if report.device == "cpu" else str(machine["device"]),
    }
