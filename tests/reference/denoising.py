"""Check of the DN-DETR fixtures: its denoising losses of given predictions."""

from __future__ import annotations

from typing import Any

import torch
from mmdet.structures import DetDataSample
from mmdet.structures.bbox import bbox_cxcywh_to_xyxy
from mmengine.structures import InstanceData
from torch import Tensor

from reference.checks import Check, Fixture, close
from reference.seeded import uniform
from sparse_encoders.detectors.denoising import DNDETRHead, DNQueryGenerator

LOSSES = ("loss_cls", "loss_bbox", "loss_iou")
SIDE = 640  # pixels of the images; predictions and targets are shares of them


def check_dn_loss(fixture: Fixture, config: dict[str, Any]) -> list[Check]:
    """Class, box and IoU loss of the denoising queries of each decoder layer, unweighted."""
    batch = [_sample(fixture, image) for image in range(len(config["boxes_per_image"]))]
    head = DNDETRHead(
        num_classes=config["num_classes"],
        embed_dims=4,
        num_pred_layer=config["layers"],
        sync_cls_avg_factor=True,
        loss_cls=dict(
            type="FocalLoss",
            use_sigmoid=True,
            gamma=config.get("gamma", 2.0),
            alpha=config.get("alpha", 0.25),
            loss_weight=1.0,
        ),
        loss_bbox=dict(type="L1Loss", loss_weight=1.0),
        loss_iou=dict(type="GIoULoss", loss_weight=1.0),
    )
    generator = DNQueryGenerator(
        config["num_classes"], 4, 1, group_cfg=dict(dynamic=False, num_groups=config["groups"])
    )
    meta = generator(batch)[-1]
    logits, boxes = _predictions(config, meta["num_denoising_queries"])
    actual = head.loss_dn(
        logits,
        boxes,
        batch_gt_instances=[sample.gt_instances for sample in batch],
        batch_img_metas=[sample.metainfo for sample in batch],
        dn_meta=meta,
    )
    return [
        close(name, torch.stack([x.reshape(()) for x in layers]), fixture[name])
        for name, layers in zip(LOSSES, actual, strict=True)
    ]


def _sample(fixture: Fixture, image: int) -> DetDataSample:
    boxes = torch.from_numpy(fixture[f"boxes_image{image}"]).float().reshape(-1, 4)
    labels = torch.from_numpy(fixture[f"labels_image{image}"]).long().reshape(-1)
    sample = DetDataSample(metainfo=dict(img_shape=(SIDE, SIDE)))
    sample.gt_instances = InstanceData(bboxes=bbox_cxcywh_to_xyxy(boxes) * SIDE, labels=labels)
    return sample


def _predictions(config: dict[str, Any], queries: int) -> tuple[Tensor, Tensor]:
    """(layers, B, queries, classes) logits and (layers, B, queries, 4) boxes of the fixture."""
    shape = (config["layers"], len(config["boxes_per_image"]), queries)
    logits = 8 * uniform("logits", (*shape, config["num_classes"]), config["seed"]) - 4
    u = uniform("boxes", (*shape, 4), config["seed"])
    u[..., :2] = 0.2 + 0.6 * u[..., :2]
    u[..., 2:] = 0.05 + 0.35 * u[..., 2:]
    return torch.from_numpy(logits).float(), torch.from_numpy(u).float()
