"""The report's Plotly figures: speed and accuracy, keep ratios, shares of the stages.

Colours are left to the page's script, which takes them from the style sheet: a trace's ``meta``
says which number of colour is its own.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import plotly.graph_objects as go

from sparse_encoders.analysis.latency import STAGES
from sparse_encoders.analysis.report.results import Report, Row
from sparse_encoders.analysis.report.summary import WORDS

SYMBOLS = ("circle", "square", "triangle-up", "diamond", "triangle-down", "star")
#: a plot's two axes: what of a row is drawn
CURVES = {
    "ap-latency": ("latency", "ap"),
    "ap-madds": ("madds", "ap"),
    "ratio-ap": ("ratio", "ap"),
    "ratio-latency": ("ratio", "latency"),
    "ratio-corr": ("ratio", "corr"),
}


@dataclass(frozen=True)
class Plot:
    """A figure of the page: a name for links, a title, what to see, and Plotly's figure."""

    name: str
    title: str
    text: str
    figure: go.Figure


def plots(report: Report) -> Iterator[Plot]:
    """All figures that the report has numbers for.

    AP over latency and multiply-adds (Focus-DETR's Figure 7), AP, latency and Corr over the keep
    ratio (Sparse DETR's Table 6), latency and multiply-adds by stage (Sparse DETR's Figure 2).
    """
    for name in CURVES:
        figure = _curves(report, name)
        if figure is not None:
            yield _plot(name, figure)
    timed = [row for row in report.good if row.timing is not None]
    if timed:
        times = {s: [r.timing.stage(s).median * 1e3 for r in timed if r.timing] for s in STAGES}
        yield _plot("stage-latency", _bars([row.label for row in timed], times, "ms"))
    counted = [row for row in report.good if row.complexity is not None]
    if counted:
        work = {p: [row.madds(p) or 0.0 for row in counted] for p in STAGES[:3]}
        rest = [
            max((row.madds() or 0.0) - sum(known), 0.0)
            for row, *known in zip(counted, *work.values(), strict=True)
        ]
        work[WORDS["plots"]["stage-madds"]["rest"]] = rest
        yield _plot("stage-madds", _bars([row.label for row in counted], work, "G"))


def _plot(name: str, figure: go.Figure) -> Plot:
    words = WORDS["plots"][name]
    return Plot(name, words["title"], words["text"], figure)


def _number(row: Row, name: str) -> float | None:
    if name == "ratio":
        return row.keep_ratio or 1.0
    if name == "corr":
        return row.metric("tokens/corr_all")
    return {"latency": row.milliseconds, "madds": row.madds(), "ap": row.ap}[name]


def _curves(report: Report, name: str) -> go.Figure | None:
    """One line an encoder; None where there is nothing to show.

    Over the keep ratio there is, where an encoder has at least two ratios.
    """
    (x, y), words = CURVES[name], WORDS["plots"][name]
    figure, longest = _figure(words["x"], words["y"]), 0
    for colour, encoder in enumerate(report.encoders):
        rows = [
            row
            for row in report.good
            if row.encoder == encoder and None not in (_number(row, x), _number(row, y))
        ]
        longest = max(longest, len(rows))
        if rows:
            figure.add_trace(_line(rows, encoder, colour, x, y))
    return figure if longest > (x == "ratio") else None


def _line(rows: Sequence[Row], encoder: str, colour: int, x: str, y: str) -> go.Scatter:
    plain = x == "ratio"
    ratios = ["" if plain or row.keep_ratio is None else f"{row.keep_ratio:g}" for row in rows]
    errors = [(e.half_width() or 0.0) if y == "ap" and (e := row.estimate) else 0.0 for row in rows]
    return go.Scatter(
        name=encoder,
        x=[_number(row, x) for row in rows],
        y=[_number(row, y) for row in rows],
        text=ratios,
        customdata=[row.label for row in rows],
        mode="lines+markers+text",
        textposition="top right",
        error_y=dict(array=errors, thickness=1.2, width=0) if any(errors) else None,
        marker=dict(symbol=SYMBOLS[colour % len(SYMBOLS)], size=9),
        hovertemplate="<b>%{customdata}</b><br>%{yaxis.title.text} %{y:.4g}<br>"
        "%{xaxis.title.text} %{x:.4g}<extra></extra>",
        meta=dict(colour=colour),
    )


def _bars(labels: Sequence[str], parts: dict[str, list[float]], unit: str) -> go.Figure:
    """Horizontal bars of parts under each other, the first at the top, their sums at the end."""
    figure = _figure(unit, "")
    wholes = [sum(values) for values in zip(*parts.values(), strict=True)]
    for colour, (name, values) in enumerate(parts.items()):
        shares = [v / whole if whole else 0.0 for v, whole in zip(values, wholes, strict=True)]
        figure.add_trace(
            go.Bar(
                name=name,
                x=values,
                y=list(labels),
                orientation="h",
                customdata=shares,
                hovertemplate=f"<b>%{{y}}</b><br>{name} %{{x:.4g}} {unit} "
                "(%{customdata:.0%})<extra></extra>",
                meta=dict(part=colour),
            )
        )
    sums = dict(x=wholes, y=list(labels), text=[f"{whole:.4g}" for whole in wholes])
    quiet: dict[str, Any] = dict(mode="text", textposition="middle right", hoverinfo="skip")
    figure.add_trace(go.Scatter(**sums, **quiet, showlegend=False, cliponaxis=False))
    figure.update_layout(barmode="stack", height=110 + 28 * len(labels))
    figure.update_yaxes(autorange="reversed", showgrid=False)
    return figure


def _figure(x: str, y: str) -> go.Figure:
    """An empty figure without a theme; axes and legend make their own room."""
    return go.Figure(
        layout=dict(
            template="none",
            xaxis=dict(title=x, automargin=True, zeroline=False),
            yaxis=dict(title=y, automargin=True, zeroline=False),
            legend=dict(
                orientation="h", traceorder="normal", yanchor="bottom", y=1.0, xanchor="left", x=0
            ),
            margin=dict(l=8, r=16, t=8, b=8),
            height=380,
        )
    )
