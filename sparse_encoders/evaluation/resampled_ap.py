"""A confidence interval of COCO's box AP, by resampling of the validation images."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from mmdet.evaluation.metrics import CocoMetric
from mmdet.registry import METRICS
from numpy.typing import NDArray
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

FloatArray = NDArray[np.float64]
#: recalls at which COCO reads precision
RECALLS = np.linspace(0.0, 1.0, 101)
#: numbers held at once: sets times detections
BLOCK = 1_000_000


@METRICS.register_module()
class ResampledCocoMetric(CocoMetric):
    """MMDetection's COCO metric, with the spread of its box AP over resampled images.

    Besides what :class:`CocoMetric` gives there is ``bbox_mAP_interval``, the half-width of a 95%
    interval: 1.96 standard deviations of AP over sets of as many images, drawn with replacement
    (the bootstrap of Efron and Tibshirani, 1993, chapter 6). :attr:`resamples` has AP of each set;
    set i is the same for all detectors on the same data, so differences can be taken set by set.

    Args:
        resamples: how many sets; 0 draws none.
        **settings: of :class:`CocoMetric`; ``ann_file`` is needed.
    """

    def __init__(self, resamples: int = 100, **settings: Any) -> None:
        super().__init__(**settings)
        if resamples < 0:
            raise ValueError(f"resamples must be at least 0, got {resamples}")
        if resamples and settings.get("ann_file") is None:
            raise ValueError("ResampledCocoMetric needs ann_file, COCO annotations, got None")
        self.count = resamples
        self.ann_file: Any = settings.get("ann_file")
        self.resamples: list[float] = []

    def compute_metrics(self, results: list[Any]) -> dict[str, float]:
        """COCO's metrics and the interval of ``bbox_mAP``, all in [0, 1]."""
        metrics: dict[str, float] = super().compute_metrics(results)
        if self.count:
            with TemporaryDirectory() as folder:
                predictions = [prediction for _, prediction in results]
                files = self.results2json(predictions, str(Path(folder) / "detections"))
                self.resamples = resampled_ap(
                    self.ann_file, files["bbox"], self.dataset_meta["classes"], self.count
                )
            metrics["bbox_mAP_interval"] = 1.96 * float(np.std(self.resamples, ddof=1))
        return metrics


def resampled_ap(
    annotations: str | Path, detections: str | Path, classes: Sequence[str], count: int = 100
) -> list[float]:
    """Box AP of ``count`` sets of images drawn with replacement from the annotated images.

    pycocotools matches detections to objects once, image by image, because the matches of an image
    do not depend on the others. A set gives each image a weight, the number of times that
    it was drawn, and precision over recall is computed with these weights.

    Args:
        annotations: COCO annotation file.
        detections: COCO result file of the detected boxes.
        classes: names of the classes.
        count: number of sets.

    Returns:
        AP in [0, 1], the mean over classes and over IoU thresholds 0.50 to 0.95, of each set.
    """
    truth = COCO(str(annotations))
    if not json.loads(Path(detections).read_text()):
        return [0.0] * count
    judge = COCOeval(truth, truth.loadRes(str(detections)), "bbox")
    judge.params.catIds = truth.getCatIds(catNms=list(classes))
    judge.params.areaRng, judge.params.areaRngLbl = judge.params.areaRng[:1], ["all"]
    judge.evaluate()
    images = len(judge.params.imgIds)
    drawn = np.random.default_rng(0).integers(0, images, (count, images))
    weights = np.stack([np.bincount(indices, minlength=images) for indices in drawn])
    by_class = [
        _class_ap(judge.evalImgs[start : start + images], weights)
        for start in range(0, len(judge.evalImgs), images)
    ]
    known = np.isfinite(by_class)
    sums = np.where(known, by_class, 0.0).sum(0)
    return [round(float(v), 5) for v in sums / np.maximum(known.sum(0), 1)]


def _class_ap(matches: Sequence[dict[str, Any] | None], weights: NDArray[np.int64]) -> FloatArray:
    """(S,) AP of one class in each of S sets; NaN where a set has no object of it.

    Args:
        matches: of each image, as pycocotools' ``evalImgs`` has them; None: nothing of the class.
        weights: (S, images) how often a set has each image.
    """
    there = [(index, match) for index, match in enumerate(matches) if match is not None]
    objects = np.zeros(len(matches))
    for index, match in there:
        objects[index] = np.sum(np.logical_not(match["gtIgnore"]))
    totals = weights @ objects
    scores = np.concatenate([match["dtScores"] for _, match in there] or [np.zeros(0)])
    if not len(scores):
        return np.where(totals > 0, 0.0, np.nan)
    order = np.argsort(-scores, kind="stable")
    owner = np.concatenate([np.full(len(m["dtScores"]), index) for index, m in there])[order]
    matched = np.concatenate([m["dtMatches"] for _, m in there], 1)[:, order] > 0
    counted = ~np.concatenate([m["dtIgnore"] for _, m in there], 1)[:, order].astype(bool)
    values = np.full(len(weights), np.nan)
    parts = 1 + len(weights) * len(scores) // BLOCK
    for sets in np.array_split(np.arange(len(weights)), parts):
        own = weights[sets][:, owner]
        thresholds = [
            _ap(own * (hit & valid), own * (~hit & valid), totals[sets])
            for hit, valid in zip(matched, counted, strict=True)
        ]
        values[sets] = np.mean(thresholds, 0)
    return np.where(totals > 0, values, np.nan)


def _ap(right: NDArray[np.int64], wrong: NDArray[np.int64], totals: FloatArray) -> FloatArray:
    """(S,) mean precision at COCO's 101 recalls, as ``COCOeval.accumulate`` has it.

    Args:
        right: (S, D) weights of the detections that match an object, best scores first.
        wrong: (S, D) of those that do not.
        totals: (S,) objects.
    """
    hits, misses = right.cumsum(1), wrong.cumsum(1)
    precision = hits / np.maximum(hits + misses, np.spacing(1))
    precision = np.maximum.accumulate(precision[:, ::-1], 1)[:, ::-1]
    recall = hits / np.maximum(totals, 1)[:, None]
    values = np.zeros(len(right))
    for number, (line, reached) in enumerate(zip(precision, recall, strict=True)):
        indices = np.searchsorted(reached, RECALLS, side="left")
        values[number] = line[indices[indices < len(line)]].sum() / len(RECALLS)
    return values
