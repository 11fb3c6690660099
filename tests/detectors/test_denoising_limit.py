"""``dn_cfg.max_boxes`` bounds the denoising queries, and does nothing where no image has more."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from mmdet.structures.bbox import bbox_cxcywh_to_xyxy

from tiny import build, samples
from tiny_detectors import detector_config

SIZE = (64, 96)
DETECTORS = ("DINO", "DDQDETR", "DNDETR")


def detector(name: str, max_boxes: int | None = None) -> Any:
    """A tiny detector in training mode, the same weights each time."""
    config = detector_config(name)
    config.dn_cfg = {**config.get("dn_cfg", {}), "max_boxes": max_boxes}
    torch.manual_seed(0)
    return build(config).train()


def batch(*boxes: int) -> tuple[torch.Tensor, list[Any]]:
    """Images with so many boxes, and their data samples."""
    pixels = torch.randn(len(boxes), 3, *SIZE, generator=torch.Generator().manual_seed(1))
    return pixels, samples([SIZE] * len(boxes), SIZE, boxes=boxes)


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
    pixels, given = batch(30, 3)
    before = [sample.gt_instances.bboxes.clone() for sample in given]
    model = detector(name, max_boxes=4)
    model.dn_query_generator.num_dn_queries = 10
    seen = watch(model)
    losses = model.loss(pixels, given)
    # DINO: 10 // 4 groups of 4 boxes, each positive and negative; DN-DETR: 5 groups of 4
    assert seen["queries"] == (20 if name == "DNDETR" else 16)
    total, _ = model.parse_losses(losses)
    assert torch.isfinite(total)
    total.backward()
    # the first image learns four of its boxes, one as often as another; the second its three
    scale = torch.tensor([SIZE[1], SIZE[0]] * 2)
    per_layer = model.decoder.num_layers
    learned = [bbox_cxcywh_to_xyxy(actual) * scale for actual in seen["learned"][:2]]
    assert len(seen["learned"]) == 2 * per_layer
    for actual, own, most in zip(learned, before, (4, 3), strict=True):
        apart = (actual[:, None] - own[None]).abs().amax(-1)
        nearest = apart.argmin(1)
        assert (apart.amin(1) < 1e-3).all()
        assert nearest.unique().numel() == most
        assert (nearest.bincount()[nearest.unique()] == len(actual) // most).all()
    # nobody else's data is changed
    for sample, own in zip(given, before, strict=True):
        assert torch.equal(sample.gt_instances.bboxes, own)


@pytest.mark.parametrize("name", DETECTORS)
def test_enough_is_no_limit(name: str) -> None:
    pixels, given = batch(3, 1)
    actual = []
    for most in (None, 3):
        model = detector(name, max_boxes=most)
        torch.manual_seed(2)
        actual.append(model.loss(pixels, given))
    assert actual[0].keys() == actual[1].keys()
    for key, value in actual[0].items():
        torch.testing.assert_close(actual[1][key], value, rtol=0, atol=0)


def test_boxes_are_drawn_anew() -> None:
    pixels, given = batch(30)
    model = detector("DINO", max_boxes=2)
    seen = watch(model)
    torch.manual_seed(3)
    for _ in range(6):
        model.loss(pixels, given)
    firsts = torch.stack([actual[0] for actual in seen["learned"]])
    assert len(firsts.unique(dim=0)) > 3


def test_without_it_queries_grow_with_the_boxes() -> None:
    model = detector("DINO")
    model.dn_query_generator.num_dn_queries = 10
    seen = watch(model)
    model.loss(*batch(30, 3))
    assert seen["queries"] == 60


@pytest.mark.parametrize("most", [0, -1, 2.5])
def test_a_wrong_limit_is_refused(most: Any) -> None:
    with pytest.raises(ValueError, match=r"model.dn_cfg.max_boxes must be an integer"):
        detector("DINO", max_boxes=most)


def test_a_head_without_denoising_is_refused() -> None:
    config = detector_config("DINO")
    config.dn_cfg.max_boxes = 2
    config.bbox_head.type = "DeformableDETRHead"
    with pytest.raises(TypeError, match=r"model.dn_cfg.max_boxes needs a bbox_head with denoising"):
        build(config)
