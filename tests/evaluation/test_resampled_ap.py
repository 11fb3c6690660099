"""AP of resampled images is pycocotools' AP of a data set that has the drawn images."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from mmdet.registry import METRICS
from mmengine.evaluator import Evaluator
from mmengine.structures import InstanceData
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

import sparse_encoders.evaluation  # noqa: F401  (registers the metric)
from sparse_encoders.evaluation.resampled_ap import resampled_ap

CLASSES, IMAGES = ("a", "b", "c"), (3, 5, 7, 11, 12, 20)


@pytest.fixture
def files(tmp_path):
    """Annotations with a crowd and a class without objects; boxes found near and far of them."""
    rng = np.random.default_rng(1)
    truth = {
        "images": [dict(id=i, width=100, height=100) for i in IMAGES],
        "categories": [dict(id=i + 1, name=n) for i, n in enumerate((*CLASSES, "other"))],
        "annotations": [],
    }
    actual = []
    for number, image in enumerate(truth["images"] * 4):
        kind = int(rng.integers(1, 3))
        box = [*rng.uniform(0, 60, 2).tolist(), *rng.uniform(8, 40, 2).tolist()]
        truth["annotations"].append(
            dict(id=number + 1, image_id=image["id"], category_id=kind, bbox=box)
            | dict(area=box[2] * box[3], iscrowd=int(number == 2))
        )
        for wide in (1.0, 1.3, 4.0):
            near = [box[0] + rng.normal(0, wide), box[1] + rng.normal(0, wide), *box[2:]]
            named = kind if rng.random() < 0.8 else 3
            one = dict(image_id=image["id"], category_id=named, bbox=near)
            actual.append(one | dict(score=float(rng.random())))
    files = [tmp_path / "truth.json", tmp_path / "found.json"]
    for file, content in zip(files, (truth, actual), strict=True):
        file.write_text(json.dumps(content))
    return files


def ap_of_images(files, images):
    """pycocotools' AP of a set that has these images, those drawn twice under two numbers."""
    truth, actual = (json.loads(file.read_text()) for file in files)
    own = {"images": [], "categories": truth["categories"], "annotations": []}
    results = []
    for new, image in enumerate(images, 1):
        own["images"].append(dict(id=new, width=100, height=100))
        for one in truth["annotations"]:
            if one["image_id"] == image:
                own["annotations"].append(one | dict(id=len(own["annotations"]) + 1, image_id=new))
        results += [one | dict(image_id=new) for one in actual if one["image_id"] == image]
    loaded = COCO()
    loaded.dataset = own
    loaded.createIndex()
    judge = COCOeval(loaded, loaded.loadRes(results), "bbox")
    judge.params.catIds = [1, 2, 3]
    judge.evaluate()
    judge.accumulate()
    judge.summarize()
    return judge.stats[0]


def test_every_set_has_pycocotools_ap(files):
    samples = resampled_ap(*files, CLASSES, 8)
    drawn = np.random.default_rng(0).integers(0, len(IMAGES), (8, len(IMAGES)))
    expected = [ap_of_images(files, [IMAGES[index] for index in indices]) for indices in drawn]
    assert samples == pytest.approx(expected, abs=1e-5) and len(set(samples)) > 5
    assert min(samples) > 0.05 and max(samples) < 0.95


def test_in_blocks_and_without_detections(files, monkeypatch):
    whole = resampled_ap(*files, CLASSES, 9)
    monkeypatch.setattr("sparse_encoders.evaluation.resampled_ap.BLOCK", 100)
    assert resampled_ap(*files, CLASSES, 9) == whole
    files[1].write_text("[]")
    assert resampled_ap(*files, CLASSES, 2) == [0.0, 0.0]


def test_as_a_metric_of_an_evaluator(files):
    config = dict(type="ResampledCocoMetric", ann_file=str(files[0]), resamples=20)
    evaluator = Evaluator([METRICS.build(config)])
    evaluator.dataset_meta = dict(classes=CLASSES)
    actual = json.loads(files[1].read_text())
    for image in IMAGES:
        own = [one for one in actual if one["image_id"] == image]
        boxes = torch.tensor([one["bbox"] for one in own])
        boxes[:, 2:] += boxes[:, :2]
        predicted = InstanceData(
            bboxes=boxes,
            scores=torch.tensor([one["score"] for one in own]),
            labels=torch.tensor([one["category_id"] - 1 for one in own]),
        )
        evaluator.process([dict(img_id=image, ori_shape=(100, 100), pred_instances=predicted)])
    metrics, resamples = evaluator.evaluate(6), evaluator.metrics[0].resamples
    assert metrics["coco/bbox_mAP"] == pytest.approx(ap_of_images(files, IMAGES), abs=1e-3)
    assert metrics["coco/bbox_mAP_interval"] == pytest.approx(1.96 * np.std(resamples, ddof=1))
    assert resamples == pytest.approx(resampled_ap(*files, CLASSES, 20), abs=2e-3)


@pytest.mark.parametrize(
    ("settings", "message"),
    [(dict(resamples=-1), "at least 0, got -1"), ({}, "needs ann_file")],
)
def test_bad_settings(settings, message):
    with pytest.raises(ValueError, match=message):
        METRICS.build(dict(type="ResampledCocoMetric", **settings))
