"""AP over training."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def evaluations_of(records: Iterable[Mapping[str, Any]]) -> dict[int, tuple[float, float]]:
    """Box AP and AP50 of each evaluation by epoch; the latest one if an epoch was repeated.

    Args:
        records: lines of MMEngine's scalars.json, in order.
    """
    evaluations = {
        int(record["step"]): (record["coco/bbox_mAP"], record["coco/bbox_mAP_50"])
        for record in records
        if "coco/bbox_mAP_50" in record
    }
    return dict(sorted(evaluations.items()))


def draw_evaluations(evaluations: Mapping[int, tuple[float, float]]) -> Figure:
    """AP50 and AP over epochs, as :func:`evaluations_of` gives them."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    figure = Figure(figsize=(5.2, 3.2), layout="constrained")
    axis = figure.subplots()
    for index, name in ((1, "AP50"), (0, "AP")):
        values = [pair[index] for pair in evaluations.values()]
        label = f"{name} (last {values[-1]:.3f})"
        axis.plot(list(evaluations), values, marker="o", markersize=3, label=label)
    axis.set(xlabel="epoch", ylabel="box AP on the validation images", ylim=(0, 1))
    axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    axis.grid(alpha=0.3)
    axis.legend(loc="lower right")
    return figure
