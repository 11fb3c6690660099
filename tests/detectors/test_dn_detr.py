"""DN-DETR: its denoising queries, that nothing leaks from them, settings refused."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from mmdet.models.dense_heads import DINOHead
from torch import Tensor
from torch.nn import functional as F

from sparse_encoders.detectors.denoising import DNDETRHead, DNQueryGenerator
from tiny import NUM_CLASSES, batch, build, samples
from tiny_detectors import QUERIES, detector_config

SIZE = (64, 96)
STATIC = dict(dynamic=False, num_groups=3)


def generator(**settings: Any) -> DNQueryGenerator:
    return DNQueryGenerator(NUM_CLASSES, 16, 4, **{"group_cfg": STATIC, **settings})


def test_queries_of_two_images() -> None:
    given = samples([SIZE, SIZE], SIZE, boxes=(2, 1))
    content, logits, _, meta = generator(label_noise_scale=0.0, box_noise_scale=0.0)(given)
    assert meta == dict(num_denoising_queries=6, num_denoising_groups=3)
    assert content.shape == (2, 6, 16)
    assert logits.shape == (2, 6, 4)
    # two queries for each group; the second image fills one of them
    assert content[0, :, -1].tolist() == [1.0] * 6
    assert content[1, :, -1].tolist() == [1.0, 0.0] * 3
    assert (content[1, 1::2] == 0).all()
    assert (logits[1, 1::2] == 0).all()
    # without noise every group holds the box itself
    x1, y1, x2, y2 = given[1].gt_instances.bboxes[0]
    expected = torch.stack([(x1 + x2) / 2 / 96, (y1 + y2) / 2 / 64, (x2 - x1) / 96, (y2 - y1) / 64])
    for index in (0, 2, 4):
        torch.testing.assert_close(logits[1, index].sigmoid(), expected)
        assert torch.equal(content[1, index], content[1, 0])


def test_mask_by_hand() -> None:
    mask = generator().attention_mask(2, 2, torch.device("cpu")).int()
    assert mask.tolist() == [
        [0, 0, 1, 1, 0, 0, 0, 0],
        [0, 0, 1, 1, 0, 0, 0, 0],
        [1, 1, 0, 0, 0, 0, 0, 0],
        [1, 1, 0, 0, 0, 0, 0, 0],
        *[[1, 1, 1, 1, 0, 0, 0, 0]] * 4,
    ]


def test_noise_stays_in_its_range() -> None:
    made = generator(label_noise_scale=0.2, box_noise_scale=0.4)
    boxes = torch.tensor([0.5, 0.5, 0.2, 0.1]).expand(20000, 4)
    moved = made.noise_boxes(boxes) - boxes
    limit = torch.tensor([0.04, 0.02, 0.08, 0.04])
    assert (moved.abs() <= limit + 1e-6).all()
    assert (moved.abs().amax(0) > 0.99 * limit).all()
    labels = torch.zeros(20000, dtype=torch.long)
    noised = made.noise_labels(labels)
    assert noised.max() == NUM_CLASSES - 1
    # a fifth is drawn anew, and a fifth of those hits the old class
    assert abs((noised != 0).float().mean() - 0.2 * (1 - 1 / NUM_CLASSES)) < 0.01


def test_dynamic_groups_bound_the_queries_and_without_boxes_are_none() -> None:
    made = generator(group_cfg=dict(dynamic=True, num_dn_queries=7))
    meta = made(samples([SIZE], SIZE, boxes=(3,)))[3]
    assert meta == dict(num_denoising_queries=6, num_denoising_groups=2)
    content, logits, mask, _ = generator()(samples([SIZE, SIZE], SIZE, boxes=(0, 0)))
    assert content.shape == (2, 0, 16) and logits.shape == (2, 0, 4)
    assert mask.shape == (4, 4) and not mask.any()


def test_matching_queries_do_not_see_the_ground_truth() -> None:
    model, given, states = build(detector_config("DNDETR")), batch((3,)), {}
    for training in (False, True):
        model.train(training)
        with torch.no_grad():
            features = model.extract_feat(given["inputs"])
            decoded = model.forward_transformer(features, given["data_samples"])
            states[training] = decoded["hidden_states"]
    assert states[True].shape[2] > states[False].shape[2] == QUERIES
    torch.testing.assert_close(states[True][:, :, -QUERIES:], states[False])


def test_losses_by_name() -> None:
    losses = build(detector_config("DNDETR")).train()(**batch((2,)), mode="loss")
    kinds = [f"{dn}loss_{what}" for dn in ("", "dn_") for what in ("cls", "bbox", "iou")]
    assert set(losses) == {f"{layer}{kind}" for layer in ("", "d0.") for kind in kinds}


def dn_losses(boxes: tuple[int, ...], changed: float = 0.0) -> dict[str, list[Tensor]]:
    """The denoising losses of random predictions; ``changed`` moves those that pad an image."""
    torch.manual_seed(4)
    head = build(detector_config("DNDETR")).bbox_head
    given = samples([SIZE] * len(boxes), SIZE, boxes=boxes)
    content, _, _, meta = generator()(given)
    pads = content[..., -1:] == 0
    logits = torch.randn(2, *content.shape[:2], NUM_CLASSES)
    predicted = torch.rand(2, *content.shape[:2], 4)
    actual = head.loss_dn(
        torch.where(pads, logits + changed, logits),
        torch.where(pads, predicted * (1 - changed / 10), predicted),
        batch_gt_instances=[sample.gt_instances for sample in given],
        batch_img_metas=[sample.metainfo for sample in given],
        dn_meta=meta,
    )
    # the focal loss written out, over the queries that denoise
    labels = [sample.gt_instances.labels.repeat(3) for sample in given]
    target = F.one_hot(torch.cat(labels), NUM_CLASSES).float()
    p = logits.sigmoid()[:, ~pads[..., 0]]
    each = -0.25 * (1 - p) ** 2 * p.log() * target - 0.75 * p**2 * (1 - p).log() * (1 - target)
    expected = each.sum((1, 2)) / max(1, len(target))
    return {**dict(zip(("cls", "bbox", "iou"), actual, strict=True)), "expected": list(expected)}


@pytest.mark.parametrize("boxes", [(5, 2), (3, 0), (1,), (0, 0), (2, 2, 7)])
def test_only_what_denoises_a_box_has_a_loss(boxes: tuple[int, ...]) -> None:
    actual, moved = dn_losses(boxes), dn_losses(boxes, changed=3.0)
    for kind in ("cls", "bbox", "iou"):
        for one, other in zip(actual[kind], moved[kind], strict=True):
            assert torch.equal(one, other)
    for loss, expected in zip(actual["cls"], actual["expected"], strict=True):
        torch.testing.assert_close(loss.reshape(()), expected)


@pytest.mark.parametrize("name", ["DINOHead", "mmdet.DINOHead", DINOHead])
def test_dinohead_is_replaced_by_dndetrhead(name: Any) -> None:
    config = detector_config("DNDETR")
    config.bbox_head.type = name
    assert type(build(config).bbox_head) is DNDETRHead
