"""The picture of a sweep: time as a share of dense over the number of tokens."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sparse_encoders.analysis.break_even import BASELINE, PASSES, WORTH

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

#: column of a sweep and what its axis says
ROWS = {"share": "encoder", "detector_share": "detector"}


def draw(frame: pd.DataFrame) -> Figure:
    """A picture: a column for each number of layers, rows for encoder and detector.

    Inference is drawn in full lines, training steps in dashed ones; the widest FFN that was
    measured in strong colours, the others pale.

    Args:
        frame: of :func:`sparse_encoders.analysis.break_even.sweep`.
    """
    from matplotlib.figure import Figure

    layers = sorted(frame["layers"].unique())
    names = [name for name in frame["encoder"].unique() if name != BASELINE]
    widest = frame["ffn"].max()
    figure = Figure(figsize=(3.1 * len(layers), 6), layout="constrained")
    axes = figure.subplots(len(ROWS), len(layers), sharex=True, sharey=True, squeeze=False)
    for row, (column, part) in enumerate(ROWS.items()):
        for place, number in enumerate(layers):
            axis = axes[row][place]
            axis.axhline(1, color="0.5", linewidth=1)
            if part == "detector":
                axis.axhline(1 - WORTH, color="0.5", linewidth=1, linestyle=":")
            for index, name in enumerate(names):
                for (ffn, run), lines in frame[
                    (frame["layers"] == number) & (frame["encoder"] == name)
                ].groupby(["ffn", "pass"]):
                    axis.plot(
                        lines["tokens"],
                        lines[column],
                        color=f"C{index}",
                        linestyle="-" if run == PASSES[0] else "--",
                        alpha=1.0 if ffn == widest else 0.35,
                        marker=".",
                        label=name if (ffn, run) == (widest, PASSES[0]) else None,
                    )
            axis.set_xscale("log")
            axis.set_ylim(0, 1.4)
            axis.grid(alpha=0.2)
            if row == 0:
                axis.set_title(f"{number} layer{'s' if number > 1 else ''}")
            if place == 0:
                axis.set_ylabel(f"{part}: share of dense")
        axes[-1][0].set_xlabel("tokens")
    axes[0][-1].legend(fontsize=8)
    return figure
