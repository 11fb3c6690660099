"""AP curves from a run's own records."""

import json

import pytest

from sparse_encoders.analysis.curves import Evaluation, draw_evaluations, read_evaluations


def write(folder, *records):
    (folder / "vis_data").mkdir(parents=True)
    (folder / "vis_data" / "scalars.json").write_text(
        "\n".join(json.dumps(record) for record in records)
    )


def test_evaluations_of_a_run_that_was_resumed(tmp_path):
    write(
        tmp_path / "20260101_000000",
        {"loss": 3.0, "step": 25},
        {"coco/bbox_mAP": 0.1, "coco/bbox_mAP_50": 0.2, "step": 1},
        {"coco/bbox_mAP": 0.2, "coco/bbox_mAP_50": 0.3, "step": 2},
    )
    write(
        tmp_path / "20260102_000000",
        {"coco/bbox_mAP": 0.25, "coco/bbox_mAP_50": 0.35, "step": 2},
    )
    assert read_evaluations(tmp_path) == [Evaluation(1, 0.1, 0.2), Evaluation(2, 0.25, 0.35)]
    assert read_evaluations(tmp_path / "none") == []


def test_drawing():
    figure = draw_evaluations([Evaluation(1, 0.1, 0.2), Evaluation(2, 0.25, 0.35)], "cells")
    assert [line.get_ydata().tolist() for line in figure.axes[0].lines] == [
        [0.2, 0.35],
        [0.1, 0.25],
    ]
    with pytest.raises(ValueError, match="at least one"):
        draw_evaluations([])
