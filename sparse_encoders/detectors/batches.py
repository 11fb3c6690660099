"""Conversions between MMDetection's data samples and the records of this package."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from mmdet.structures import SampleList
from mmengine.structures import InstanceData
from torch import Tensor

from sparse_encoders.contracts import Targets
from sparse_encoders.encoders.base import EncoderOutput
from sparse_encoders.shapes import is_traced
from sparse_encoders.tokens import LevelShapes


def sizes_of(
    samples: SampleList | None,
) -> tuple[tuple[int, int], list[tuple[int, int]]]:
    """(height, width) of the padded input in pixels, and of each image in it.

    Raises:
        ValueError: there are no data samples.
    """
    if not samples:
        raise ValueError("the detector needs data samples, which hold the size of each image")
    height, width = samples[0].batch_input_shape[:2]
    sizes = [(int(s.img_shape[0]), int(s.img_shape[1])) for s in samples]
    return (int(height), int(width)), sizes


def targets_of(samples: SampleList) -> Targets:
    """Boxes (x1, y1, x2, y2) in pixels and labels of MMDetection's data samples."""
    boxes = []
    for sample in samples:
        bboxes = sample.gt_instances.bboxes
        boxes.append(bboxes if isinstance(bboxes, Tensor) else bboxes.tensor)
    return Targets(boxes, [s.gt_instances.labels for s in samples])


def annotations_of(samples: SampleList | None) -> Targets:
    """Boxes and labels of test images, boxes in pixels of the resized input.

    MMDetection's test pipelines load annotations after resizing, in pixels of the original image;
    the boxes are scaled here.

    Raises:
        ValueError: a sample without annotations.
    """
    if not samples or any("gt_instances" not in sample for sample in samples):
        raise ValueError(
            "the encoder's selector needs the boxes of the images at test time too, but the data "
            "samples have no gt_instances: keep LoadAnnotations in the test pipeline, or choose "
            "a selector that predicts"
        )
    targets = targets_of(samples)
    boxes = []
    for sample, scaled in zip(samples, targets.boxes, strict=True):
        x, y = sample.metainfo.get("scale_factor", (1.0, 1.0))[:2]
        boxes.append(scaled * scaled.new_tensor([x, y, x, y]))
    return replace(targets, boxes=boxes)


def with_enough_tokens(
    encoded: EncoderOutput, num_queries: int
) -> tuple[Tensor, Tensor | None, LevelShapes]:
    """Memory, padding mask and level shapes with at least ``num_queries`` tokens.

    A two-stage detector ranks as many proposals as it has queries, and a small
    image may have fewer tokens. The missing ones are added as a level of padding,
    whose proposals MMDetection marks as out of range.

    Returns:
        (B, N', C) memory, (B, N') bool mask or None, (h, w) of each of the L' levels, on
        the host.

    Raises:
        ValueError: tokens are missing where sizes are traced: a file cannot decide it.
    """
    memory, mask = encoded.memory, encoded.tokens.padding_mask
    shapes = list(encoded.tokens.shapes)
    missing = num_queries - memory.shape[1]
    if missing > 0:
        if is_traced(shapes[0][0]):
            raise ValueError(
                f"dynamic_size needs an example image of at least model.num_queries={num_queries} "
                f"tokens, got one of {int(memory.shape[1])}: give a larger image_hw (--size)"
            )
        batch = memory.shape[0]
        if mask is None:
            mask = torch.zeros(batch, memory.shape[1], dtype=torch.bool, device=memory.device)
        memory = torch.cat([memory, memory.new_zeros(batch, missing, memory.shape[-1])], 1)
        mask = torch.cat([mask, mask.new_ones(batch, missing)], 1)
        shapes.append((1, missing))
    return memory, mask, tuple(shapes)


def detections_in_float32(results: Sequence[InstanceData]) -> Sequence[InstanceData]:
    """Convert boxes and scores to float32, because metrics convert them to NumPy arrays.

    Args:
        results: detections of each image, with ``bboxes`` and ``scores``; changed in place.
    """
    for detections in results:
        detections.set_data(
            dict(bboxes=detections.bboxes.float(), scores=detections.scores.float())
        )
    return results
