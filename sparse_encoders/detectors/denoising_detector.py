"""The base of detectors with denoising queries, and a limit on their number.

DINO has two denoising queries for each box and group, with at least one group; DN-DETR has one for
each box in every group. For an image of 500 boxes that is 1000 and 2500 queries, and the memory of
attention between queries grows with the square. ``dn_cfg.max_boxes`` limits how many boxes of an
image are denoised; each step draws which. All boxes take part in matching and losses.
"""

from __future__ import annotations

from typing import Any

import torch
from mmdet.models.dense_heads import DINOHead
from mmdet.structures import DetDataSample, SampleList
from mmengine.structures import InstanceData
from torch import Tensor

from sparse_encoders.detectors.base import EncoderDetector
from sparse_encoders.detectors.records import Decoded, Queries
from sparse_encoders.registry import MODELS


class DenoisingDetector(EncoderDetector):
    """Base of the detectors with denoising queries.

    Args:
        bbox_head: config of the head.
        max_boxes: ``dn_cfg.max_boxes``: at most so many boxes of an image are denoised, chosen at
            random in each step; None: all.
        *args, **kwargs: as :class:`EncoderDetector`.

    Raises:
        ValueError: ``max_boxes`` below 1.
        TypeError: ``max_boxes`` for a head without denoising queries.
    """

    def __init__(
        self, *args: Any, bbox_head: dict[str, Any], max_boxes: int | None = None, **kwargs: Any
    ) -> None:
        self.max_boxes = max_boxes
        if max_boxes is not None:
            bbox_head = {**bbox_head, "type": _limited(bbox_head["type"], max_boxes)}
        super().__init__(*args, bbox_head=bbox_head, **kwargs)

    def training_samples(self, samples: SampleList) -> SampleList:
        """The batch's samples, with the boxes to be denoised first in a random order."""
        if self.max_boxes is None:
            return samples
        return [
            sample if len(sample.gt_instances) <= self.max_boxes else _shuffled(sample)
            for sample in samples
        ]

    def denoised(self, samples: SampleList | None) -> SampleList | None:
        """The samples with only the boxes that are denoised."""
        if self.max_boxes is None or samples is None:
            return samples
        return [_with_boxes(sample, sample.gt_instances[: self.max_boxes]) for sample in samples]

    def head_inputs(self, queries: Queries, decoded: Decoded) -> dict[str, Any]:
        """In training with the numbers of denoising queries."""
        inputs = super().head_inputs(queries, decoded)
        return dict(**inputs, dn_meta=queries.denoising) if self.training else inputs


class DenoisesSomeBoxes:
    """A head whose denoising targets are the first ``max_boxes`` boxes of an image."""

    max_boxes: int

    def _get_dn_targets_single(
        self, gt_instances: InstanceData, img_meta: dict[str, Any], dn_meta: dict[str, int]
    ) -> tuple[Tensor, ...]:
        targets: tuple[Tensor, ...] = super()._get_dn_targets_single(  # type: ignore[misc]
            gt_instances[: self.max_boxes], img_meta, dn_meta
        )
        return targets


def _limited(kind: Any, max_boxes: int) -> type:
    """A head's class, given by name or itself, with the limit."""
    if not isinstance(max_boxes, int) or max_boxes < 1:
        raise ValueError(
            f"model.dn_cfg.max_boxes must be an integer of at least 1, or None, got {max_boxes!r}"
        )
    head = MODELS.get(kind) if isinstance(kind, str) else kind
    if head is None or not issubclass(head, DINOHead):
        raise TypeError(
            f"model.dn_cfg.max_boxes needs a bbox_head with denoising queries, got {kind!r}"
        )
    return type(head.__name__, (DenoisesSomeBoxes, head), {"max_boxes": max_boxes})


def _shuffled(sample: DetDataSample) -> DetDataSample:
    labels = sample.gt_instances.labels
    order = torch.randperm(len(labels), device=labels.device)
    return _with_boxes(sample, sample.gt_instances[order])


def _with_boxes(sample: DetDataSample, instances: InstanceData) -> DetDataSample:
    """A sample of the same image with other ground truth."""
    new = sample.new()
    new.gt_instances = instances
    return new
