"""The report's Plotly figures: speed and accuracy, keep ratios, shares of the stages.

Colours are left to the page's script, which takes them from the style sheet: a trace's ``meta``
says which number of colour is its own.
"""

from __future__ import annotations

from collections.abc import Sequence
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


def plots(report: Report) -> dict[str, go.Figure]:
    """All figures that the report has numbers for, by name.

    AP over latency and multiply-adds (Focus-DETR's Figure 7), AP, latency and Corr over the keep
    ratio (Sparse DETR's Table 6), latency and multiply-adds by stage (Sparse DETR's Figure 2).
    """
    figures = {}
    for name in CURVES:
        figure, longest = _curves(report, name)
        if longest > name.startswith("ratio-"):  # a curve over ratios has at least two
            figures[name] = figure
    timed = [row for row in report.good if row.timing is not None]
    if timed:
        times = {s: [r.timing.stage(s).median * 1e3 for r in timed if r.timing] for s in STAGES}
        figures["stage-latency"] = _bars([row.label for row in timed], times, "ms")
    counted = [row for row in report.good if row.complexity is not None]
    if counted:
        work = {p: [row.madds(p) or 0.0 for row in counted] for p in STAGES[:3]}
        sums = map(sum, zip(*work.values(), strict=True))
        work[WORDS["plots"]["stage-madds"]["rest"]] = [
            max((row.madds() or 0.0) - known, 0.0) for row, known in zip(counted, sums, strict=True)
        ]
        figures["stage-madds"] = _bars([row.label for row in counted], work, "G")
    return figures


def _number(row: Row, name: str) -> float | None:
    return {
        "ratio": row.keep_ratio or 1.0,
        "corr": row.metric("tokens/corr_all"),
        "latency": row.milliseconds,
        "madds": row.madds(),
        "ap": row.ap,
    }[name]


def _curves(report: Report, name: str) -> tuple[go.Figure, int]:
    """One line an encoder; and the points of the longest line."""
    (x, y), words = CURVES[name], WORDS["plots"][name]
    figure = _figure(words["x"], words["y"])
    known = [row for row in report.good if None not in (_number(row, x), _number(row, y))]
    for colour, encoder in enumerate(report.encoders):
        rows = [row for row in known if row.encoder == encoder]
        if rows:
            figure.add_trace(_line(rows, encoder, colour, x, y))
    return figure, max((len(line.x) for line in figure.data), default=0)


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
