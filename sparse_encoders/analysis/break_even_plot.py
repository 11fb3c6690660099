"""The picture of a sweep: time as a share of dense over the number of tokens."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

from sparse_encoders.analysis.break_even import BASELINE, PASSES, WORTH

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

#: columns of a sweep and titles of their axes
ROWS = {"share": "encoder", "detector_share": "detector"}


def draw(frame: pd.DataFrame) -> Figure:
    """A picture: a column for each number of layers, a row for each part and width of the FFN.

    Inference is drawn in full lines, training steps in dashed ones. The dotted line is where
    ``WORTH`` of the detector's time is saved.

    Args:
        frame: of :func:`sparse_encoders.analysis.break_even.sweep`.
    """
    from matplotlib.figure import Figure

    names = [name for name in frame["encoder"].unique() if name != BASELINE]
    layers = sorted(frame["layers"].unique())
    rows = list(itertools.product(ROWS.items(), sorted(frame["ffn"].unique())))
    size = (3.1 * len(layers), 2.4 * len(rows))
    figure = Figure(figsize=size, layout="constrained")
    axes = figure.subplots(len(rows), len(layers), sharex=True, sharey=True, squeeze=False)
    for line_of_axes, ((column, part), ffn) in zip(axes, rows, strict=True):
        for axis, number in zip(line_of_axes, layers, strict=True):
            chosen = frame[(frame["layers"] == number) & (frame["ffn"] == ffn)]
            _draw_shares(axis, chosen, column, names)
        line_of_axes[0].set_ylabel(f"{part}, FFN {ffn}:\nshare of dense")
    for axis, number in zip(axes[0], layers, strict=True):
        axis.set_title(f"{number} layer{'s' if number > 1 else ''}")
    for axis in axes[-1]:
        axis.set_xlabel("tokens")
    axes[0][-1].legend(fontsize=8)
    return figure


def _draw_shares(axis: Axes, frame: pd.DataFrame, column: str, names: list[str]) -> None:
    """Every strategy's share of dense over the number of tokens."""
    axis.axhline(1, color="0.5", linewidth=1)
    if column == "detector_share":
        axis.axhline(1 - WORTH, color="0.5", linewidth=1, linestyle=":")
    for index, name in enumerate(names):
        for run, style in zip(PASSES, ("-", "--"), strict=True):
            lines = frame[(frame["encoder"] == name) & (frame["pass"] == run)]
            lines = lines.sort_values("tokens")
            axis.plot(
                lines["tokens"],
                lines[column],
                color=f"C{index}",
                linestyle=style,
                marker=".",
                label=name if run == PASSES[0] else None,
            )
    axis.set_xscale("log")
    axis.set_ylim(0, 1.4)
    axis.grid(alpha=0.2)
