"""The report as one HTML file: nothing is loaded from anywhere."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from sparse_encoders.analysis.compare.columns import Column
from sparse_encoders.analysis.compare.plots import (
    Plot,
    keep_ratio_curves,
    speed_accuracy,
    stage_shares,
)
from sparse_encoders.analysis.compare.results import Report, Row
from sparse_encoders.analysis.compare.style import CSS, JS
from sparse_encoders.analysis.compare.summary import Summary, ranked, summarise, winner
from sparse_encoders.analysis.compare.text import conditions, sections


def as_html(report: Report) -> str:
    """The page."""
    summary = summarise(report)
    speed, curves, stages = speed_accuracy(report), keep_ratio_curves(report), stage_shares(report)
    # an AP that says nothing is not shown first
    first = (speed if ranked(report) else []) or stages or curves or speed
    rest = [plot for plot in [*speed, *curves, *stages] if plot not in first[:1]]
    title = f"{report.detector.split('.')[-1]}: encoders compared"
    data = "" if report.data is None else f" on {report.data['name']}"
    body = [
        f"<header><p>{escape(title)} &middot; {escape(report.config)}{escape(data)}</p>",
        f"<h1>{escape(summary.headline)}</h1></header>",
        _first_screen(report, summary, first[:1]),
    ]
    tables = [_section(report, *section) for section in sections(report)]
    body += tables[:1]
    if rest:
        body.append("<h2>Plots</h2>")
        body.append(f'<div class="plots">{"".join(map(_figure, rest))}</div>')
    body += tables[1:]
    body += [_pictures(report), _conditions(report)]
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        '<link rel="icon" href="data:,">'
        f"<title>{escape(title)}</title><style>{CSS}</style></head>\n"
        f"<body><main>{''.join(body)}</main>\n<script>{JS}</script></body></html>\n"
    )


def _first_screen(report: Report, summary: Summary, plots: Sequence[Plot]) -> str:
    tiles = "".join(
        f'<div class="tile"><span>{escape(tile.title)}</span><b>{escape(tile.value)}</b>'
        f"<span>{escape(tile.note)}</span></div>"
        for tile in summary.tiles
    )
    points = "".join(f"<li>{escape(point)}</li>" for point in summary.points)
    caveats = "".join(f"<li>{escape(caveat)}</li>" for caveat in summary.caveats)
    words = (f"<ul>{points}</ul>" if points else "") + (
        f'<h3>How sure is this?</h3><ul class="sure">{caveats}</ul>' if caveats else ""
    )
    shown = "".join(map(_figure, plots))
    return (
        f'<div class="tiles">{tiles}</div>'
        f'<div class="first"><div class="card">{words}</div>{shown}</div>'
    )


def _figure(plot: Plot) -> str:
    return (
        f'<div class="card" id="{plot.name}"><h3>{escape(plot.title)}</h3>{plot.html}'
        f'<p class="note">{escape(plot.text)}</p></div>'
    )


def _section(report: Report, title: str, text: str, columns: Sequence[Column]) -> str:
    heads = "".join(
        f'<th scope="col" title="{escape(column.note)}"><button type="button">'
        f"{escape(column.head)}</button></th>"
        for column in columns
    )
    chosen = winner(report)
    lines = []
    for row in report.rows:
        kind = "winner" if row is chosen else "baseline" if row.label == report.baseline else ""
        cells = "".join(_cell(report, row, column) for column in columns)
        lines.append(f'<tr class="{kind}">{cells}</tr>')
    return (
        f'<h2>{escape(title)}</h2><p class="note">{escape(text)} A click on a head sorts.</p>'
        f'<div class="scroll"><table><thead><tr>{heads}</tr></thead>'
        f"<tbody>{''.join(lines)}</tbody></table></div>"
    )


def _cell(report: Report, row: Row, column: Column) -> str:
    value = column.get(report, row)
    kind, tip = "", ""
    if column.key == "status" and row.error is not None:
        kind, tip = "bad", row.error
    elif column.key == "ap_gain":
        kind = report.ap_verdict(row)
    elif column.key == "speedup":
        kind = report.speed_verdict(row)
    plain = "" if value is None else str(value)
    return (
        f'<td class="{kind}" data-value="{escape(plain)}" title="{escape(tip)}">'
        f"{escape(column.text(report, row))}</td>"
    )


def _pictures(report: Report) -> str:
    if not report.pictures:
        return ""
    figures = "".join(
        f'<figure class="card"><img alt="kept tokens of each strategy on {escape(p["title"])}" '
        f'src="data:image/jpeg;base64,{p["jpeg"]}"><figcaption class="note">'
        f"{escape(p['title'])}</figcaption></figure>"
        for p in report.pictures
    )
    return (
        '<h2>Kept tokens</h2><p class="note">Each strategy on the same validation images: '
        "detections, then where its layers refine tokens, on all levels and on each "
        f"(dark: not refined).</p>{figures}"
    )


def _conditions(report: Report) -> str:
    items = "".join(
        f"<dt>{escape(name)}</dt><dd>"
        + (f"<code>{escape(text)}</code>" if name == "command" else escape(text))
        + "</dd>"
        for name, text in conditions(report)
    )
    return f'<h2>Measured on</h2><div class="card"><dl>{items}</dl></div>'
