"""AP over training, from what MMEngine's runner wrote."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class Evaluation:
    """One evaluation during training.

    Attributes:
        epoch: epochs trained so far.
        ap: COCO box AP in [0, 1], the mean over IoU thresholds 0.50 to 0.95.
        ap50: the same at IoU 0.50.
    """

    epoch: int
    ap: float
    ap50: float


def read_evaluations(work_dir: str | Path) -> list[Evaluation]:
    """Every evaluation of a training run, the latest of each epoch where it was resumed."""
    found: dict[int, Evaluation] = {}
    for path in sorted(Path(work_dir).glob("*/vis_data/scalars.json")):
        for line in path.read_text().splitlines():
            record = json.loads(line)
            if "coco/bbox_mAP_50" in record:
                epoch = int(record["step"])
                found[epoch] = Evaluation(
                    epoch, record["coco/bbox_mAP"], record["coco/bbox_mAP_50"]
                )
    return [found[epoch] for epoch in sorted(found)]


def draw_evaluations(evaluations: Sequence[Evaluation], title: str = "") -> Figure:
    """AP and AP50 over epochs.

    Raises:
        ValueError: there is none.
    """
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    if not evaluations:
        raise ValueError("evaluations must hold at least one, got none")
    figure = Figure(figsize=(5.2, 3.2))
    axis = figure.subplots()
    epochs = [e.epoch for e in evaluations]
    for name, values in (
        ("AP50", [e.ap50 for e in evaluations]),
        ("AP", [e.ap for e in evaluations]),
    ):
        axis.plot(epochs, values, marker="o", markersize=3, label=f"{name} (last {values[-1]:.3f})")
    axis.set_xlabel("epoch")
    axis.set_ylabel("box AP on the validation images")
    axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    axis.set_ylim(0, 1)
    axis.grid(alpha=0.3)
    axis.legend(loc="lower right")
    axis.set_title(title, fontsize=10)
    figure.tight_layout()
    return figure
