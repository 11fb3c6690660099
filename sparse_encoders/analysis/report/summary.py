"""What the numbers say: who won, by how much, at what cost, and how sure that is.

The words are in words.yml; here is only when which of them is said.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.resources import files
from typing import Any

import yaml

from sparse_encoders.analysis.report.results import Report, Row
from sparse_encoders.analysis.variants import REFERENCES

WORDS: dict[str, Any] = yaml.safe_load((files(__package__) / "words.yml").read_text())
#: below this AP nothing has been learned that could be ranked
LEARNED = 0.05
#: more between the quarters of the rounds, and something else was running
UNSTEADY = 0.2


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
        headline: the outcome in a sentence.
        tiles: the numbers behind it.
        points: what else the numbers say.
        caveats: how far they can be trusted.
    """

    headline: str
    tiles: tuple[Tile, ...]
    points: tuple[str, ...]
    caveats: tuple[str, ...]


def say(group: str, name: str, /, **values: Any) -> str:
    """A sentence of words.yml with its values filled in."""
    text: str = WORDS[group][name].format(**values)
    return text


def summarise(report: Report) -> Summary:
    """Say what a report's numbers say."""
    chosen = winner(report)
    return Summary(
        headline=_headline(report, chosen),
        tiles=tuple(_tiles(report, chosen or cheapest(report))),
        points=tuple(_points(report, chosen)),
        caveats=tuple(_caveats(report)),
    )


def winner(report: Report) -> Row | None:
    """The fastest row among those as accurate as the reference; None where none is faster.

    Where no AP was measured, or none worth ranking, the fastest row.
    """
    rows = report.as_accurate() if ranked(report) else report.contenders
    faster = [row for row in rows if report.speed_verdict(row) == "faster"]
    return min(faster, key=lambda row: report.time_share(row) or 1.0, default=None)


def cheapest(report: Report) -> Row | None:
    """The row of fewest multiply-adds among those as accurate as the reference.

    None where none has fewer; where no AP is worth ranking, of all rows.
    """
    rows = report.as_accurate() if ranked(report) else report.contenders
    less = [row for row in rows if (report.work_share(row) or 1.0) < 1.0]
    return min(less, key=lambda row: report.work_share(row) or 1.0, default=None)


def ranked(report: Report) -> bool:
    """Whether AP was measured, of the reference too, and something was learned."""
    values = [row.ap for row in report.good if row.ap is not None]
    known = report.reference is not None and report.reference.ap is not None
    return known and max(values, default=0.0) >= LEARNED


def _facts(report: Report, row: Row | None) -> dict[str, Any]:
    """What sentences about a row are made of."""
    base = report.reference
    facts: dict[str, Any] = {"base": report.baseline}
    if base is not None:
        facts.update(base_ap=base.ap, base_ms=base.milliseconds)
    if row is None:
        return facts
    gain, verdict = report.ap_gain(row), report.ap_verdict(row)
    different = say("points", "differs", verdict=verdict, size=abs(gain or 0.0))
    return facts | {
        "row": row.label,
        "encoder": row.encoder,
        "ap": row.ap,
        "gain": gain,
        "verdict": verdict,
        "compared": say("points", "equal") if verdict == "equal" else different,
        "margin": report.ap_margin(row),
        "times": f"{1 / (report.time_share(row) or 1):.2f} times",
        "ms": row.milliseconds,
        "madds": row.madds() or 0.0,
        "work": _percent(report.work_share(row) or 1.0),
        "ratio": row.keep_ratio,
        "error": row.error,
    }


def _headline(report: Report, chosen: Row | None) -> str:
    facts = _facts(report, chosen)
    if report.reference is None:
        return say("headline", "no_baseline", **facts)
    if chosen is None:
        name = "none_faster_as_accurate" if ranked(report) else "none_faster"
        return say("headline", name, **facts)
    if ranked(report):
        name = "wins_higher" if facts["verdict"] == "higher" else "wins_equal"
        return say("headline", name, **facts)
    why = "untrained"
    if report.reference.ap is None:
        why = "no_base_ap" if any(row.ap is not None for row in report.good) else "no_ap"
    return say("headline", "fastest", **facts, why=say("why", why, **facts))


def _tiles(report: Report, row: Row | None) -> Iterator[Tile]:
    base = report.reference
    if row is None or base is None:
        return
    facts, words = _facts(report, row), WORDS["tiles"]

    def tile(name: str, shown: str, **more: Any) -> Tile:
        return Tile(words[name][0], shown, words[name][1].format(**facts, **more))

    title = "winner" if ranked(report) else "fastest"
    if row is not winner(report):
        title = "fewest"
    yield Tile(words[title], row.label, say("tiles", "against", **facts))
    if row.milliseconds is not None and base.milliseconds is not None:
        yield tile("speed", f"{1 / (report.time_share(row) or 1):.2f} x")
    if facts["gain"] is not None and ranked(report):
        yield tile("ap", f"{row.ap:.3f}")
    for name, mine, theirs in (
        ("madds", row.madds(), base.madds()),
        ("encoder", row.madds("encoder"), base.madds("encoder")),
        ("memory", row.memory_mib, base.memory_mib),
    ):
        if mine is not None and theirs:
            yield tile(name, _percent(mine / theirs), value=mine, base_value=theirs)


def _points(report: Report, chosen: Row | None) -> Iterator[str]:
    sure = ranked(report)
    if sure:
        yield _most_accurate(report)
    timed = [row for row in report.contenders if report.time_share(row) is not None]
    fastest = min(timed, key=lambda row: report.time_share(row) or 1.0, default=None)
    if fastest is not None and fastest not in (chosen, report.reference):
        facts = _facts(report, fastest)
        lost = say("points", "lost", **facts) if sure and fastest.ap is not None else ""
        yield say("points", "fastest", **facts, lost=lost)
    light = cheapest(report)
    if sure and light is not None and light is not chosen:
        yield say("points", "fewest", **_facts(report, light))
    if sure:
        for name in report.encoders:
            yield from _dial(report, name)
        for row in report.good:
            if row.encoder in REFERENCES and row.ap is not None:
                yield say("points", row.encoder, **_facts(report, row))
    for row in report.failed:
        yield say("points", "failed", row=row.label, error=row.error)


def _most_accurate(report: Report) -> str:
    judged = [row for row in report.contenders if row.ap is not None]
    best, *rest = sorted(judged, key=lambda row: row.ap or 0.0, reverse=True)
    equal = [row.label for row in rest if report.ap_verdict(row, best) == "equal"]
    name = "highest_some_equal" if equal else "highest"
    if equal and len(equal) == len(rest):
        name = "highest_all_equal"
    return say("points", name, row=best.label, ap=best.ap, equal=listed(equal))


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
    judged = [row for row in report.good if report.ap_gain(row) is not None]
    if judged and report.data is not None:
        margins = [report.ap_margin(row) for row in judged]
        here = ""
        if max(margins) > report.noise:
            here = say("caveats", "margins", low=min(margins), high=max(margins))
        counts = dict(images=report.data["validated"], boxes=report.data["boxes"])
        yield say("caveats", "noise", **counts, noise=report.noise, margins=here)
        yield say("caveats", "one_run")
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
