"""Plots as SVG text: no library, colours from the page's style sheet (light and dark)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from math import ceil, cos, floor, log10, pi, sin

WIDTH, HEIGHT = 560, 360
LEFT, RIGHT, TOP, BOTTOM = 58, 16, 16, 46


@dataclass(frozen=True)
class Point:
    """One point: where, how sure (half-width in y), a short label, a tooltip."""

    x: float
    y: float
    error: float = 0.0
    label: str = ""
    tip: str = ""


@dataclass(frozen=True)
class Series:
    """Points joined by a line.

    Attributes:
        name: in the legend.
        colour: number of the colour and of the marker.
        points: in the order of the line.
    """

    name: str
    colour: int
    points: tuple[Point, ...]


@dataclass(frozen=True)
class Bar:
    """One stacked bar: its name, and a value of each part."""

    name: str
    parts: tuple[float, ...]


def ticks(low: float, high: float, count: int = 6) -> list[float]:
    """About ``count`` round numbers that cover low to high."""
    span = (high - low) or abs(high) or 1.0
    raw = span / max(count - 1, 1)
    power = 10.0 ** floor(log10(raw))
    step = next(m * power for m in (1, 2, 2.5, 5, 10) if m * power >= raw * 0.999)
    first, last = floor(low / step + 1e-9), ceil(high / step - 1e-9)
    return [round(i * step, 10) for i in range(first, max(last, first + 1) + 1)]


def line_plot(
    series: Sequence[Series], x_title: str, y_title: str, title: str, from_zero: bool = False
) -> str:
    """Points and lines.

    Args:
        series: what is drawn; none without points.
        x_title: axis title with unit.
        y_title: the same.
        title: what the plot shows, read by screen readers.
        from_zero: whether the x axis starts at 0.

    Raises:
        ValueError: there is no point.
    """
    points = [point for one in series for point in one.points]
    if not points:
        raise ValueError("series must hold at least one point, got none")
    xs = ticks(0.0 if from_zero else min(p.x for p in points), max(p.x for p in points))
    ys = ticks(min(p.y - p.error for p in points), max(p.y + p.error for p in points))
    frame = _Frame((xs[0], xs[-1]), (ys[0], ys[-1]))
    body = frame.axes(xs, ys, x_title, y_title)
    for one in series:
        places = [(frame.x(p.x), frame.y(p.y)) for p in one.points]
        if len(places) > 1:
            path = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
            body.append(f'<polyline class="line s{one.colour}" points="{path}"/>')
        for (x, y), point in zip(places, one.points, strict=True):
            tip = f"<title>{escape(point.tip)}</title>" if point.tip else ""
            if point.error:
                top, bottom = frame.y(point.y + point.error), frame.y(point.y - point.error)
                body.append(
                    f'<line class="error s{one.colour}" x1="{x:.1f}" x2="{x:.1f}" y1="{top:.1f}" '
                    f'y2="{bottom:.1f}"/>'
                )
            body.append(f'<g class="point">{marker(one.colour, x, y)}{tip}</g>')
            if point.label:
                body.append(
                    f'<text class="label" x="{x + 7:.1f}" y="{y - 7:.1f}">{escape(point.label)}'
                    "</text>"
                )
    return _svg(body, HEIGHT, title)


def stacked_bars(bars: Sequence[Bar], parts: Sequence[str], unit: str, title: str) -> str:
    """Horizontal stacked bars under each other, their sums at the end.

    Args:
        bars: from top to bottom.
        parts: names of the parts of every bar.
        unit: of the values.
        title: what the plot shows, read by screen readers.

    Raises:
        ValueError: there is no bar.
    """
    if not bars:
        raise ValueError("bars must hold at least one, got none")
    step, thick, left = 26, 18, 8 + 7 * max(len(bar.name) for bar in bars)
    height = TOP + step * len(bars) + 40
    xs = ticks(0.0, max(sum(bar.parts) for bar in bars) * 1.08)
    scale = (WIDTH - left - 64) / xs[-1]
    body = []
    for value in xs:
        x = left + value * scale
        body.append(
            f'<line class="grid" x1="{x:.1f}" x2="{x:.1f}" y1="{TOP - 6}" y2="{height - 38}"/>'
            f'<text class="tick" x="{x:.1f}" y="{height - 22}" text-anchor="middle">{value:g}'
            "</text>"
        )
    body.append(f'<text class="axis" x="{left}" y="{height - 5}">{escape(unit)}</text>')
    for number, bar in enumerate(bars):
        y, x = TOP + number * step, float(left)
        body.append(
            f'<text class="tick" x="{left - 6}" y="{y + 13}" text-anchor="end">{escape(bar.name)}'
            "</text>"
        )
        whole = sum(bar.parts) or 1.0
        for place, (name, value) in enumerate(zip(parts, bar.parts, strict=True)):
            tip = f"{bar.name}: {name} {value:.4g} {unit} ({value / whole:.0%})"
            body.append(
                f'<rect class="b{place}" x="{x:.1f}" y="{y}" width="{value * scale:.1f}" '
                f'height="{thick}"><title>{escape(tip)}</title></rect>'
            )
            x += value * scale
        body.append(f'<text class="label" x="{x + 5:.1f}" y="{y + 13}">{whole:.4g}</text>')
    return _svg(body, height, title)


def marker(kind: int, x: float, y: float, size: float = 5.0) -> str:
    """A filled mark of one of six shapes, so that colour is not the only difference."""
    shape = kind % 6
    if shape == 0:
        return f'<circle class="mark m{kind}" cx="{x:.1f}" cy="{y:.1f}" r="{size}"/>'
    corners = {1: (4, pi / 4), 2: (3, -pi / 2), 3: (4, 0.0), 4: (3, pi / 2), 5: (5, -pi / 2)}
    count, start = corners[shape]
    radius = size * (1.35 if count == 3 else 1.25)
    places = [
        (x + radius * cos(start + 2 * pi * i / count), y + radius * sin(start + 2 * pi * i / count))
        for i in range(count)
    ]
    path = " ".join(f"{a:.1f},{b:.1f}" for a, b in places)
    return f'<polygon class="mark m{kind}" points="{path}"/>'


def legend(names: Sequence[str], kinds: Sequence[int] | None = None) -> str:
    """Names with their marks (of ``kinds``), or with the colours of bars' parts, as HTML."""
    found = []
    for place, name in enumerate(names):
        mark = (
            f'<rect class="b{place}" width="14" height="14"/>'
            if kinds is None
            else marker(kinds[place], 7, 7)
        )
        found.append(
            f'<span><svg width="14" height="14" aria-hidden="true">{mark}</svg>{escape(name)}'
            "</span>"
        )
    return f'<p class="legend">{"".join(found)}</p>'


class _Frame:
    """From values to pixels."""

    def __init__(self, xs: tuple[float, float], ys: tuple[float, float]) -> None:
        self.xs, self.ys = xs, ys

    def x(self, value: float) -> float:
        low, high = self.xs
        return LEFT + (value - low) / (high - low) * (WIDTH - LEFT - RIGHT)

    def y(self, value: float) -> float:
        low, high = self.ys
        return HEIGHT - BOTTOM - (value - low) / (high - low) * (HEIGHT - TOP - BOTTOM)

    def axes(
        self, xs: Sequence[float], ys: Sequence[float], x_title: str, y_title: str
    ) -> list[str]:
        found = []
        for value in xs:
            x = self.x(value)
            found.append(
                f'<line class="grid" x1="{x:.1f}" x2="{x:.1f}" y1="{TOP}" y2="{HEIGHT - BOTTOM}"/>'
                f'<text class="tick" x="{x:.1f}" y="{HEIGHT - BOTTOM + 17}" text-anchor="middle">'
                f"{value:g}</text>"
            )
        for value in ys:
            y = self.y(value)
            found.append(
                f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>'
                f'<text class="tick" x="{LEFT - 7}" y="{y + 4:.1f}" text-anchor="end">{value:g}'
                "</text>"
            )
        middle = TOP + (HEIGHT - TOP - BOTTOM) / 2
        found.append(
            f'<text class="axis" x="{LEFT + (WIDTH - LEFT - RIGHT) / 2:.0f}" y="{HEIGHT - 8}" '
            f'text-anchor="middle">{escape(x_title)}</text>'
            f'<text class="axis" transform="translate(14 {middle:.0f}) rotate(-90)" '
            f'text-anchor="middle">{escape(y_title)}</text>'
        )
        return found


def _svg(body: Sequence[str], height: int, title: str) -> str:
    return (
        f'<svg class="plot" viewBox="0 0 {WIDTH} {height}" role="img" '
        f'aria-label="{escape(title)}">{"".join(body)}</svg>'
    )
