"""The report's plots: speed and accuracy, keep ratios, shares of the stages."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from dataclasses import dataclass

from sparse_encoders.analysis.compare.results import Report, Row
from sparse_encoders.analysis.compare.svg import (
    Bar,
    Point,
    Series,
    legend,
    line_plot,
    stacked_bars,
)
from sparse_encoders.analysis.latency import STAGES

Get = Callable[[Row], float | None]


@dataclass(frozen=True)
class Plot:
    """A figure of the page: a name for links, a title, what to see, legend and SVG as HTML."""

    name: str
    title: str
    text: str
    html: str


def speed_accuracy(report: Report) -> list[Plot]:
    """AP over latency, and over multiply-adds (the paper's Figure 7)."""
    found = []
    for name, title, unit, get in (
        ("ap-latency", "AP over latency", "latency (ms, one image)", lambda row: row.milliseconds),
        ("ap-madds", "AP over multiply-adds", "multiply-adds (G)", lambda row: row.madds("total")),
    ):
        plot = _curves(report, get, lambda row: row.ap, unit, "AP", title, both=True)
        if plot:
            text = (
                "Up and to the left is better. Numbers are keep ratios; bars show the 95% interval "
                "from resampling the validation images, where they were resampled."
            )
            found.append(Plot(name, title, text, plot))
    return found


def keep_ratio_curves(report: Report) -> list[Plot]:
    """AP, latency and Corr over the keep ratio (the paper's Table 6)."""
    found = []
    for name, title, unit, get, text in (
        (
            "ratio-ap",
            "AP over keep ratio",
            "AP",
            lambda row: row.ap,
            "The same weights throughout.",
        ),
        (
            "ratio-latency",
            "Latency over keep ratio",
            "latency (ms, one image)",
            lambda row: row.milliseconds,
            "Median of the rounds.",
        ),
        (
            "ratio-corr",
            "Corr over keep ratio",
            "Corr",
            lambda row: row.metric("tokens/corr_all"),
            "Share of the decoder's attention that falls on kept tokens (Sparse DETR, 3.4).",
        ),
    ):
        plot = _curves(report, lambda row: row.keep_ratio or 1.0, get, "keep ratio", unit, title)
        if plot:
            every = " Encoders without a keep ratio stand at 1."
            found.append(Plot(name, title, text + every, plot))
    return found


def stage_shares(report: Report) -> list[Plot]:
    """Latency and multiply-adds by stage (the paper's Figure 2)."""
    found = []
    rows = [row for row in report.good if row.timing is not None]
    if rows:
        bars = [
            Bar(row.label, tuple(row.timing.stage(s).median * 1000 for s in STAGES if row.timing))
            for row in rows
            if row.timing is not None
        ]
        html = legend(STAGES) + stacked_bars(bars, STAGES, "ms", "latency by stage")
        text = "Median of each stage; sums of medians, so not exactly the median of the whole."
        found.append(Plot("stage-latency", "Latency by stage", text, html))
    rows = [row for row in report.good if row.complexity is not None]
    if rows:
        parts = ("backbone", "neck", "encoder", "decoder, head and the rest")
        bars = []
        for row in rows:
            known = [row.madds(name) or 0.0 for name in parts[:3]]
            bars.append(Bar(row.label, (*known, max((row.madds("total") or 0) - sum(known), 0.0))))
        html = legend(parts) + stacked_bars(bars, parts, "G", "multiply-adds by stage")
        found.append(Plot("stage-madds", "Multiply-adds by stage", "One image.", html))
    return found


def _curves(
    report: Report, x: Get, y: Get, x_title: str, y_title: str, title: str, both: bool = False
) -> str:
    """Legend and plot of one series an encoder; '' where there is nothing to show."""
    series = []
    for colour, name in enumerate(report.encoders):
        points = []
        for row in report.good:
            across, up = x(row), y(row)
            if row.encoder != name or across is None or up is None:
                continue
            ratio = "" if row.keep_ratio is None or not both else f"{row.keep_ratio:g}"
            tip = f"{row.label}: {y_title} {up:.4g}, {x_title} {across:.4g}"
            points.append(Point(across, up, _error(row) if y_title == "AP" else 0.0, ratio, tip))
        if points:
            series.append(Series(name, colour, tuple(points)))
    if not series or (not both and all(len(one.points) < 2 for one in series)):
        return ""
    names, kinds = [one.name for one in series], [one.colour for one in series]
    return legend(names, kinds) + line_plot(series, x_title, y_title, title)


def _error(row: Row) -> float:
    samples = (row.accuracy or {}).get("resamples") or []
    return 1.96 * statistics.stdev(samples) if len(samples) > 1 else 0.0
