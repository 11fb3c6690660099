"""Corr and foreground recall of one small picture, worked by hand."""

from __future__ import annotations

import math

import pytest
import torch
from mmdet.structures import DetDataSample
from mmengine.structures import BaseDataElement, InstanceData

from sparse_encoders.evaluation import DecoderCorrelation, ForegroundRecall

SHAPES = ((4, 4), (2, 2))  # a 32 x 32 input
EVERYWHERE = ((-1, 1e4), (-1, 1e4))


def sample(kept, boxes=((8.0, 8.0, 24.0, 24.0),), attention=None, scores=None, scale=1.0):
    report = BaseDataElement(metainfo=dict(shapes=SHAPES))
    report.kept = torch.zeros(len(kept), 20, dtype=torch.bool)
    for layer, tokens in enumerate(kept):
        report.kept[layer, tokens] = True
    report.valid = torch.ones(20, dtype=torch.bool)
    report.attention = torch.ones(20) if attention is None else attention
    if scores is not None:
        report.scores = scores
    actual = DetDataSample(metainfo=dict(scale_factor=(scale, scale)))
    actual.gt_instances = InstanceData(bboxes=torch.tensor(boxes).reshape(-1, 4) / scale)
    actual.token_selection = report
    return actual.to_dict()


def measure(metric, *samples):
    metric.process(None, samples)
    return metric.evaluate(len(samples))


def test_corr_over_all_levels_each_and_the_best_tenth():
    attention = torch.zeros(20)
    attention[0], attention[5], attention[16] = 1.0, 2.0, 1.0
    scores = torch.zeros(20)
    scores[0], scores[1] = 2.0, 1.0
    actual = measure(
        DecoderCorrelation(), sample([[5, 16], [5]], attention=attention, scores=scores)
    )
    assert actual["tokens/corr_all"] == pytest.approx(0.75)
    assert actual["tokens/corr_level0"] == pytest.approx(2 / 3)
    assert actual["tokens/corr_level1"] == 1
    assert actual["tokens/corr_top10"] == pytest.approx(0.25)


def test_images_that_nobody_looked_at_do_not_count():
    actual = measure(DecoderCorrelation(), sample([[0]]), sample([[0]], attention=torch.zeros(20)))
    assert actual["tokens/corr_all"] == pytest.approx(1 / 20)


@pytest.mark.parametrize("scale", [1.0, 0.5])
def test_recall_of_each_layer_and_object_size(scale):
    """The box holds the centres of tokens (1, 1), (1, 2), (2, 1), (2, 2) and no level-1 token's
    but (8, 8)'s, which lies on its border."""
    metric = ForegroundRecall(intervals=EVERYWHERE, strides=(8, 16))
    actual = measure(metric, sample([[5, 6, 9, 0], [5, 0]], scale=scale))
    assert actual["tokens/recall_layer0"] == pytest.approx(3 / 4)
    assert actual["tokens/recall_layer1"] == pytest.approx(1 / 4)
    assert actual["tokens/recall"] == pytest.approx(1 / 2)
    size, other = ("small", "medium") if scale == 1.0 else ("medium", "small")
    area = (16 / scale) ** 2
    assert (area < 32**2) == (size == "small")
    assert actual[f"tokens/recall_layer0_{size}"] == pytest.approx(3 / 4)
    assert math.isnan(actual[f"tokens/recall_layer0_{other}"])


def test_recall_without_boxes_is_not_a_number():
    metric = ForegroundRecall(intervals=EVERYWHERE, strides=(8, 16))
    assert math.isnan(measure(metric, sample([[0]], boxes=()))["tokens/recall"])


def test_bad_settings_and_samples_that_lack_something():
    with pytest.raises(ValueError, match=r"top must lie in \(0, 1\], got 0"):
        DecoderCorrelation(top=0)
    with pytest.raises(ValueError, match=r"model\.test_cfg\.report_tokens=True"):
        DecoderCorrelation().process(None, [{}])
    bare = sample([[0]])
    del bare["gt_instances"]
    with pytest.raises(ValueError, match="keep LoadAnnotations in the test pipeline"):
        ForegroundRecall().process(None, [bare])
