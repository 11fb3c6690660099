"""Conversions between MMDetection's data samples and the records of this package."""

from __future__ import annotations

from dataclasses import replace

import torch
from mmdet.structures import SampleList
from mmengine.structures import BaseDataElement
from torch import Tensor
from torch.nn import functional as F

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
    """Boxes and labels of test images, boxes scaled to pixels of the resized input.

    MMDetection's test pipelines load annotations after resizing, in pixels of the original image.

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

    A two-stage detector ranks as many proposals as it has queries, and a small image may have fewer
    tokens. The missing ones are added as a level of padding, whose proposals are out of range.

    Returns:
        (B, N', C) memory, (B, N') bool mask or None, (h, w) of each level, on the host.

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
        if mask is None:
            mask = memory.new_zeros(memory.shape[:2], dtype=torch.bool)
        memory, mask = F.pad(memory, (0, 0, 0, missing)), F.pad(mask, (0, missing), value=True)
        shapes.append((1, missing))
    return memory, mask, tuple(shapes)


def token_reports(encoded: EncoderOutput, attention_map: Tensor) -> list[BaseDataElement]:
    """Kept tokens and (B, N) decoder attention map, an element of data samples for each image.

    An encoder without a selector counts as one layer that keeps every valid token.

    Returns:
        Elements with ``kept`` (layers, N) bool, ``valid`` (N,) bool, ``scores`` (N,) float32 (a
        selector's, else absent), ``attention`` (N,) float32, and the level ``shapes`` as metainfo.
    """
    tokens, selection, layers = encoded.tokens, encoded.selection, encoded.layers
    if tokens.padding_mask is None:
        valid = torch.ones(attention_map.shape, dtype=torch.bool, device=attention_map.device)
    else:
        valid = ~tokens.padding_mask
    if layers:
        kept = torch.stack([layer.mask(tokens.num_tokens) for layer in layers], 1)
    else:
        kept = valid.unsqueeze(1)
    reports = []
    for image in range(len(valid)):
        report = BaseDataElement(metainfo=dict(shapes=tokens.shapes))
        report.kept, report.valid = kept[image], valid[image]
        report.attention = attention_map[image]
        if selection is not None:
            report.scores = selection.scores[image]
        reports.append(report)
    return reports
