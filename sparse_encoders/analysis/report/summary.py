"""The sentences of a report: the best rows, their gains and costs, and caveats.

The texts are in words.yml; this module chooses which of them a report has.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.resources import files
from typing import Any

import yaml

from sparse_encoders.analysis.report.ranking import (
    LEARNED,
    best,
    cheaper,
    cheapest_equal,
    front,
    ranked,
    says_nothing,
    shown,
    trainings,
)
from sparse_encoders.analysis.report.results import Report, Row
from sparse_encoders.analysis.variants import ORACLE

WORDS: dict[str, Any] = yaml.safe_load((files(__package__) / "words.yml").read_text())
#: largest difference between the quarters of the rounds on a quiet machine
UNSTEADY = 0.2
#: rows of the front that the headline names
NAMED = 4


@dataclass(frozen=True)
class Tile:
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
        tiles=tuple(_tiles(report, shown(report))),
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
    gain, verdict = report.gain(row), report.ap_verdict(row)
    share, work = report.time_share(row), report.work_share(row)
    facts |= {
        "row": row.label + (say("points", "control") if row.control else ""),
        "encoder": row.encoder,
        "ap": row.ap,
        "verdict": verdict,
        "gain": 0.0 if gain is None else gain.mean,
        "size": 0.0 if gain is None else abs(gain.mean),
        "times": f"{1 / share:.2f} times as fast" if share else f"{work or 1:.0%} of the work",
        "ms": row.milliseconds,
        "madds": row.madds() or 0.0,
        "ratio": row.keep_ratio,
        "error": row.error,
    }
    return facts | {"compared": say("compared", verdict or "unknown", **facts)}


def _warnings(report: Report) -> Iterator[str]:
    base, top = report.reference, best(report)
    if base is None:
        yield say("warnings", "no_baseline", base=report.baseline)
        return
    if says_nothing(report) and top is not None:
        yield say("warnings", "baseline", **_facts(report, base), best=top.label, best_ap=top.ap)
    apart = trainings(report)
    if apart:
        rows = [say("warnings", "had", rows=listed(r), had=had) for had, r in apart.items()]
        yield say("warnings", "trainings", rows="; ".join(rows))
    as_good = [
        row
        for row in report.contenders
        if row.control
        and report.ap_verdict(row) in ("equal", "higher")
        and cheaper(report, row, base) == "faster"
    ]
    if as_good and ranked(report):
        rows = [say("warnings", "control", **_facts(report, row)) for row in as_good]
        yield say("warnings", "controls", rows=listed(rows), base=report.baseline)


def _headline(report: Report) -> str:
    facts = _facts(report, shown(report))
    base = report.reference
    if not ranked(report):
        why = "untrained"
        if base is None or base.ap is None:
            why = "no_base_ap" if any(row.ap is not None for row in report.good) else "no_ap"
        why = say("why", why, **facts)
        return say("headline", "fastest" if "row" in facts else "none_faster", **facts, why=why)
    rows = front(report)
    if rows == [base]:
        return say("headline", "only_base", **facts)
    named = [
        say("headline", "base" if row is base else "row", **_facts(report, row))
        for row in rows[:NAMED]
    ]
    if len(rows) > NAMED:
        named.append(say("headline", "more", count=len(rows) - NAMED))
    return say("headline", "alone" if len(rows) == 1 else "front", rows=listed(named), **facts)


def _tiles(report: Report, row: Row | None) -> Iterator[Tile]:
    base = report.reference
    if row is None or base is None:
        return
    facts, words = _facts(report, row), WORDS["tiles"]

    def tile(name: str, shown: str, **more: Any) -> Tile:
        return Tile(words[name][0], shown, words[name][1].format(**facts, **more))

    title = words["front" if ranked(report) else "fastest"]
    yield Tile(title, row.label, say("tiles", "against", **facts))
    if row.milliseconds is not None and base.milliseconds is not None:
        yield tile("speed", f"{1 / (report.time_share(row) or 1):.2f} x")
    if row.ap is not None and ranked(report):
        yield tile("ap", f"{row.ap:.3f}")
    for name, mine, theirs in (
        ("madds", row.madds(), base.madds()),
        ("encoder", row.madds("encoder"), base.madds("encoder")),
        ("memory", row.memory_mib, base.memory_mib),
    ):
        if mine is not None and theirs:
            yield tile(name, _percent(mine / theirs), value=mine, base_value=theirs)


def _points(report: Report) -> Iterator[str]:
    if ranked(report):
        light, base = cheapest_equal(report), report.reference
        yield say("points", "cheapest" if light else "no_cheapest", **_facts(report, light))
        yield _most_accurate(report)
        timed = [r for r in report.contenders if report.time_share(r) and r.ap is not None]
        fastest = min(timed, key=lambda row: report.time_share(row) or 1.0, default=None)
        if fastest is not None and fastest is not base:
            yield say("points", "fastest", **_facts(report, fastest))
        for name in report.encoders:
            yield from _dial(report, name)
        for row in report.good:
            if row.encoder in ("random", ORACLE) and row.ap is not None:
                yield say("points", row.encoder, **_facts(report, row))
    for row in report.failed:
        yield say("points", "failed", row=row.label, error=row.error)


def _most_accurate(report: Report) -> str:
    judged = [row for row in report.contenders if row.ap is not None]
    top, *rest = sorted(judged, key=lambda row: row.ap or 0.0, reverse=True)
    near = [row.label for row in rest if report.ap_verdict(row, top) != "lower"]
    name = "highest_of_some" if near else "highest"
    if near and len(near) == len(rest):
        name = "highest_of_all"
    return say("points", name, row=top.label, ap=top.ap, near=listed(near))


def _dial(report: Report, name: str) -> Iterator[str]:
    """How far the keep ratio of an encoder can go down."""
    rows = [r for r in report.good if r.encoder == name and r.ap is not None]
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
    judged = [row for row in report.good if row.ap is not None]
    if judged and report.data is not None:
        runs = sorted({len(row.runs) for row in judged})
        counts = dict(images=report.data["validated"], boxes=report.data["boxes"])
        if runs[-1] == 1:
            yield say("caveats", "one_run")
        else:
            yield say("caveats", "runs", runs=listed([str(count) for count in runs]))
        yield say("caveats", "tests", **counts, margin=report.margin)
        if not any(row.control for row in judged):
            yield say("caveats", "no_control")
        for row in judged:
            for error in row.lost:
                yield say("caveats", "lost", row=row.label, error=error)
    if judged and not ranked(report):
        yield say("caveats", "untrained", learned=LEARNED)
    trained = {row.label: r for row in report.good if (r := _trained(row)) is not None}
    pruned = [row for row in judged if row.label in trained]
    if any(abs((row.keep_ratio or 0) - trained[row.label]) > 1e-6 for row in pruned):
        ratios = listed([f"{ratio:g}" for ratio in sorted(set(trained.values()))])
        yield say("caveats", "other_ratio", ratios=ratios)
    if report.good and all((r.weights or {}).get("source") == "none" for r in report.good):
        yield say("caveats", "random")
    if report.unsteadiness > UNSTEADY:
        yield say("caveats", "busy", share=report.unsteadiness)
    if not report.repeats:
        return
    device = threads_of(report) if report.device == "cpu" else str(report.machine["device"])
    yield say(
        "caveats",
        "machine",
        height=report.size[0],
        width=report.size[1],
        processor=report.machine["processor"],
        device=device,
        rounds=report.repeats,
    )


def _trained(row: Row) -> float | None:
    ratio = (row.weights or {}).get("trained_keep_ratio")
    return None if ratio is None else round(float(ratio), 4)


def _percent(share: float) -> str:
    change = round(100 * (share - 1))
    return "same" if change == 0 else f"{change:+d}%".replace("-", "\N{MINUS SIGN}")


def listed(names: Sequence[str]) -> str:
    """'a, b and c'."""
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)


def threads_of(report: Report) -> str:
    """Such as '2 threads'."""
    threads = report.machine["threads"]
    return f"{threads} thread{'s' if threads > 1 else ''}"
