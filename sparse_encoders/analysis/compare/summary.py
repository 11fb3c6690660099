"""What the numbers say, in words: who won, by how much, at what cost, and how sure that is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from sparse_encoders.analysis.compare.results import Report, Row, threads_of
from sparse_encoders.analysis.variants import REFERENCES

#: below this AP nothing has been learned that could be ranked
LEARNED = 0.05
#: more between the quarters of the rounds, and something else was running
UNSTEADY = 0.2

_MEANING = {"random": "Tokens at random", "oracle": "Tokens of the annotated objects"}


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


def summarise(report: Report) -> Summary:
    """Say what a report's numbers say."""
    chosen = winner(report)
    shown = chosen or cheapest(report)
    return Summary(
        headline=_headline(report, chosen),
        tiles=() if shown is None else _tiles(report, shown),
        points=tuple(_points(report, chosen)),
        caveats=tuple(_caveats(report)),
    )


def winner(report: Report) -> Row | None:
    """The fastest row among those as accurate as the reference; None where none is faster.

    Where no AP was measured, or none worth ranking, the fastest row.
    """
    reference = report.reference
    if reference is None:
        return None
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
    reference = report.reference
    known = reference is not None and reference.ap is not None
    return known and max(values, default=0.0) >= LEARNED


def _headline(report: Report, chosen: Row | None) -> str:
    reference = report.reference
    if reference is None:
        return f"The baseline {report.baseline} failed, so nothing can be compared to it."
    name = reference.label
    if chosen is None and not ranked(report):
        return f"No strategy is faster than {name} here."
    if chosen is None:
        return f"No strategy is faster than {name} here and as accurate."
    speed = f"{_times(report, chosen)} as fast as {name}"
    if not ranked(report):
        why = "trained too little to rank accuracy"
        if reference.ap is None:
            some = any(row.ap is not None for row in report.good)
            why = f"accuracy {f'of {name} ' if some else ''}was not measured"
        return f"{chosen.label} is the fastest, {speed}; {why}."
    against = f"{chosen.ap:.3f} against {reference.ap:.3f}"
    margin = f"{report.ap_margin(chosen):.3f}"
    if report.ap_verdict(chosen) == "higher":
        return f"{chosen.label} wins: {speed} at higher AP ({against}, noise {margin})."
    return f"{chosen.label} wins: {speed} at equal AP ({against}, equal within {margin})."


def _tiles(report: Report, row: Row) -> tuple[Tile, ...]:
    reference = report.reference
    assert reference is not None
    name = reference.label
    title = "winner" if ranked(report) else "fastest"
    if row is not winner(report):
        title = "fewest multiply-adds"
    found = [Tile(title, row.label, f"against {name}")]
    if row.milliseconds is not None and reference.milliseconds is not None:
        times = f"{row.milliseconds:.0f} ms, {name} {reference.milliseconds:.0f} ms"
        found.append(Tile("speed", f"{1 / (report.time_share(row) or 1):.2f} x", times))
    gain = report.ap_gain(row)
    if gain is not None and ranked(report):
        against = f"{gain:+.3f} to {name}: {report.ap_verdict(row)}"
        found.append(Tile("AP", f"{row.ap:.3f}", against))
    for title, mine, theirs, unit in (
        ("multiply-adds", row.madds("total"), reference.madds("total"), "G"),
        ("of the encoder", row.madds("encoder"), reference.madds("encoder"), "G"),
        ("peak memory", row.memory_mib, reference.memory_mib, "MiB"),
    ):
        if mine is not None and theirs:
            digits = 0 if unit == "MiB" else 2
            note = f"{mine:.{digits}f} {unit}, {name} {theirs:.{digits}f} {unit}"
            found.append(Tile(title, _percent(mine / theirs), note))
    return tuple(found)


def _points(report: Report, chosen: Row | None) -> list[str]:
    found: list[str] = []
    if ranked(report):
        found += [_most_accurate(report)]
    fastest = min(
        (row for row in report.contenders if report.time_share(row) is not None),
        key=lambda row: report.time_share(row) or 1.0,
        default=None,
    )
    reference = report.reference
    if fastest is not None and reference is not None and fastest not in (chosen, reference):
        lost = ""
        if ranked(report) and fastest.ap is not None:
            lost = f", at AP {fastest.ap:.3f} ({_compared(report, fastest)})"
        found.append(
            f"Fastest of all: {fastest.label}, {_times(report, fastest)} as fast as "
            f"{reference.label}{lost}."
        )
    light = cheapest(report)
    if ranked(report) and light is not None and light is not chosen:
        change = _percent(report.work_share(light) or 1.0)
        found.append(
            f"Fewest multiply-adds of those as accurate: {light.label}, {change} "
            f"({light.madds('total') or 0:.2f} G), at AP {light.ap:.3f} "
            f"({_compared(report, light)}) and {_times(report, light)} the speed."
        )
    if ranked(report):
        for name in report.encoders:
            found += _dial(report, name)
    if ranked(report):
        for row in report.good:
            if row.encoder in REFERENCES and row.ap is not None:
                found.append(f"{_MEANING[row.encoder]} ({row.label}): AP {row.ap:.3f}.")
    for row in report.failed:
        found.append(f"{row.label} FAILED: {row.error}")
    return found


def _most_accurate(report: Report) -> str:
    judged = sorted(
        (row for row in report.contenders if row.ap is not None),
        key=lambda r: r.ap or 0,
        reverse=True,
    )
    best, rest = judged[0], judged[1:]
    equal = [row.label for row in rest if report.ap_verdict(row, best) == "equal"]
    text = f"Highest AP: {best.label}, {best.ap:.3f}"
    if not equal:
        return f"{text}; every other row is lower by more than the noise."
    if len(equal) == len(rest):
        return f"{text}, but no row differs from it by more than the noise."
    return f"{text}; equal to it within the noise: {_listed(equal)}."


def _dial(report: Report, name: str) -> list[str]:
    """How far the keep ratio of an encoder can go down."""
    rows = [r for r in report.good if r.encoder == name and r.ap is not None]
    if len(rows) < 2:
        return []
    full = rows[0]  # the largest ratio comes first
    held = full
    for row in rows[1:]:
        if report.ap_verdict(row, full) == "lower":
            break
        held = row
    last = rows[-1]
    if held is last:
        return [f"{name} holds its AP down to a keep ratio of {last.keep_ratio:g}."]
    below = rows[rows.index(held) + 1]
    shown = list(
        dict.fromkeys(f"{row.ap:.3f} at {row.keep_ratio:g}" for row in (held, below, last))
    )
    return [f"{name} loses AP below a keep ratio of {held.keep_ratio:g}: {', '.join(shown)}."]


def _caveats(report: Report) -> list[str]:
    found = []
    judged = [row for row in report.good if report.ap_gain(row) is not None]
    if judged and report.data is not None:
        margins = [report.ap_margin(r) for r in judged if r is not report.reference]
        sure = (
            f" (here {min(margins):.3f} to {max(margins):.3f})"
            if margins and max(margins) > report.noise
            else ""
        )
        found.append(
            f"AP is of {report.data['validated']} images with {report.data['boxes']} boxes. A gain "
            f"or loss counts only beyond the larger of {report.noise:g} and the 95% interval from "
            f"resampling these images{sure}; anything less is called equal."
        )
        found.append(
            "One training run an encoder: how much AP changes from run to run was not measured "
            "and comes on top."
        )
    if judged and not ranked(report):
        found.append(f"AP stays below {LEARNED:g}: trained too little to rank accuracy.")
    ratios = sorted({r for row in report.good if (r := _trained(row)) is not None})
    others = [row for row in judged if _trained(row) is not None]
    if any(abs((row.keep_ratio or 0) - (_trained(row) or 0)) > 1e-6 for row in others):
        found.append(
            f"Pruning encoders were trained at keep ratio {_listed([f'{r:g}' for r in ratios])} "
            "and run at the others without retraining; trained at its own ratio each may do better."
        )
    if report.good and all((r.weights or {}).get("source") == "none" for r in report.good):
        found.append(
            "Nothing was trained or loaded: speed and size are of random weights "
            "(--train or --checkpoints, with --data, add accuracy)."
        )
    if report.unsteadiness > UNSTEADY:
        found.append(
            f"The machine was busy: the same pass took {report.unsteadiness:.0%} longer in some "
            "rounds than in others. Measure speed again when it is quiet."
        )
    height, width = report.size
    found.append(
        f"Times are of one image of {height} x {width} pixels on {report.machine['processor']}, "
        f"{_device(report)}, in {report.repeats} rounds in turns: other machines rank otherwise."
    )
    return found


def _device(report: Report) -> str:
    if report.device != "cpu":
        return str(report.machine["device"])
    return threads_of(report)


def _trained(row: Row) -> float | None:
    ratio = (row.weights or {}).get("trained_keep_ratio")
    return None if ratio is None else round(float(ratio), 4)


def _times(report: Report, row: Row) -> str:
    return f"{1 / (report.time_share(row) or 1):.2f} times"


def _compared(report: Report, row: Row) -> str:
    gain, verdict = report.ap_gain(row) or 0.0, report.ap_verdict(row)
    return "equal within the noise" if verdict == "equal" else f"{verdict} by {abs(gain):.3f}"


def _percent(share: float) -> str:
    change = round(100 * (share - 1))
    return "same" if change == 0 else f"{change:+d}%".replace("-", "\N{MINUS SIGN}")


def _listed(names: Sequence[str]) -> str:
    if len(names) < 2:
        return "".join(names)
    return f"{', '.join(names[:-1])} and {names[-1]}"
