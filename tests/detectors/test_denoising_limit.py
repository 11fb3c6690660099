"""``dn_cfg.max_boxes`` bounds the denoising queries, and does nothing where no image has more."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from mmdet.structures.bbox import bbox_cxcywh_to_xyxy

from tiny import batch, build
from tiny_detectors import detector_config

SIZE = (64, 96)
DETECTORS = ("DINO", "DDQDETR", "DNDETR")


def detector(name: str, max_boxes: int | None = None) -> Any:
    """A tiny detector in training mode, the same weights each time."""
    config = detector_config(name)
    config.dn_cfg = {**config.get("dn_cfg", {}), "max_boxes": max_boxes}
    return build(config).train()


def watch(model: Any) -> dict[str, Any]:
    """What the denoising queries of the next steps are: their number, and the boxes they learn."""
    seen: dict[str, Any] = {"learned": []}
    targets = model.bbox_head._get_dn_targets_single

    def learn(instances: Any, about: Any, dn_meta: dict[str, int]) -> Any:
        actual = targets(instances, about, dn_meta)
        seen["queries"] = dn_meta["num_denoising_queries"]
        seen["learned"].append(actual[2][actual[4]])
        return actual

    model.bbox_head._get_dn_targets_single = learn
    return seen


@pytest.mark.parametrize("name", DETECTORS)
def test_many_boxes_make_no_more_queries_than_asked_for(name: str) -> None:
    given = batch((30, 3), (SIZE, SIZE))
    before = [sample.gt_instances.bboxes.clone() for sample in given["data_samples"]]
    model = detector(name, max_boxes=4)
    seen = watch(model)
    total, _ = model.parse_losses(model(**given, mode="loss"))
    # DINO: 10 // 4 groups of 4 boxes, each positive and negative; DN-DETR: 5 groups of 4
    assert seen["queries"] == (20 if name == "DNDETR" else 16)
    assert torch.isfinite(total)
    total.backward()
    # the first image learns four of its boxes, one as often as another; the second its three
    scale = torch.tensor([SIZE[1], SIZE[0]] * 2)
    learned = [bbox_cxcywh_to_xyxy(actual) * scale for actual in seen["learned"][:2]]
    assert len(seen["learned"]) == 2 * model.decoder.num_layers
    for actual, own, most in zip(learned, before, (4, 3), strict=True):
        apart = (actual[:, None] - own[None]).abs().amax(-1)
        nearest = apart.argmin(1)
        assert (apart.amin(1) < 1e-3).all()
        assert nearest.unique().numel() == most
        assert (nearest.bincount()[nearest.unique()] == len(actual) // most).all()
    for sample, own in zip(given["data_samples"], before, strict=True):
        assert torch.equal(sample.gt_instances.bboxes, own), "nobody else's data is changed"


@pytest.mark.parametrize("name", DETECTORS)
def test_enough_is_no_limit(name: str) -> None:
    actual = []
    for most in (None, 3):
        model = detector(name, max_boxes=most)
        torch.manual_seed(2)
        actual.append(model(**batch((3, 1)), mode="loss"))
    torch.testing.assert_close(actual[1], actual[0], rtol=0, atol=0)


def test_boxes_are_drawn_anew_and_without_a_limit_grow_with_the_image() -> None:
    model = detector("DINO", max_boxes=2)
    seen = watch(model)
    for _ in range(6):
        model(**batch((30,)), mode="loss")
    assert len(torch.stack([actual[0] for actual in seen["learned"]]).unique(dim=0)) > 3
    model = detector("DINO")
    seen = watch(model)
    model(**batch((30, 3)), mode="loss")
    assert seen["queries"] == 60
