"""A limit on denoising queries, whose number otherwise grows with the boxes of an image.

DINO has two denoising queries for each box and group, with at least one group; DN-DETR has one for
each box in every group. For an image of 500 boxes that is 1000 and 2500 queries, and the memory of
attention between queries grows with the square. ``dn_cfg.max_boxes`` limits how many boxes of an
image are denoised; each step draws which. All boxes take part in matching and losses.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from mmdet.models.dense_heads import DINOHead
from mmdet.structures import DetDataSample, SampleList
from mmengine.structures import InstanceData
from torch import Tensor

from sparse_encoders.registry import MODELS


def split_limit(dn_cfg: Mapping[str, Any] | None) -> tuple[dict[str, Any] | None, int | None]:
    """``dn_cfg`` without ``max_boxes``, and ``max_boxes``.

    Raises:
        ValueError: it is below 1.
    """
    if dn_cfg is None:
        return None, None
    rest = dict(dn_cfg)
    max_boxes = rest.pop("max_boxes", None)
    if max_boxes is not None and (not isinstance(max_boxes, int) or max_boxes < 1):
        raise ValueError(
            f"model.dn_cfg.max_boxes must be an integer of at least 1, or None, got {max_boxes!r}"
        )
    return rest, max_boxes


def limited_head(
    bbox_head: Mapping[str, Any] | None, max_boxes: int | None
) -> dict[str, Any] | None:
    """A head's config with the limit; unchanged without a limit.

    Raises:
        TypeError: a head without denoising queries.
    """
    if bbox_head is None or max_boxes is None:
        return None if bbox_head is None else dict(bbox_head)
    kind = bbox_head["type"]
    head = MODELS.get(kind) if isinstance(kind, str) else kind
    if head is None or not issubclass(head, DINOHead):
        raise TypeError(
            f"model.dn_cfg.max_boxes needs a bbox_head with denoising queries, got {kind!r}"
        )
    return {**bbox_head, "type": type(head.__name__, (DenoisesSomeBoxes, head), {})}


class DenoisesSomeBoxes:
    """A head whose denoising targets are the first ``dn_meta['max_boxes']`` boxes of an image."""

    def _get_dn_targets_single(
        self, gt_instances: InstanceData, img_meta: dict[str, Any], dn_meta: dict[str, int]
    ) -> tuple[Tensor, ...]:
        """Targets of an image's denoising queries."""
        first = gt_instances[: dn_meta["max_boxes"]]
        targets: tuple[Tensor, ...] = super()._get_dn_targets_single(  # type: ignore[misc]
            first, img_meta, dn_meta
        )
        return targets


def in_drawn_order(samples: SampleList, max_boxes: int | None) -> SampleList:
    """The samples, with boxes in random order for images that have more than ``max_boxes``."""
    if max_boxes is None:
        return samples
    return [
        sample if len(sample.gt_instances) <= max_boxes else _with_boxes(sample, _drawn(sample))
        for sample in samples
    ]


def first_boxes(samples: SampleList, max_boxes: int | None) -> SampleList:
    """The samples with the first ``max_boxes`` boxes of each image, which are denoised."""
    if max_boxes is None:
        return samples
    return [_with_boxes(sample, sample.gt_instances[:max_boxes]) for sample in samples]


def _drawn(sample: DetDataSample) -> InstanceData:
    labels = sample.gt_instances.labels
    return sample.gt_instances[torch.randperm(len(labels), device=labels.device)]


def _with_boxes(sample: DetDataSample, instances: InstanceData) -> DetDataSample:
    """A sample of the same image with other ground truth."""
    new = sample.new()
    new.gt_instances = instances
    return new
