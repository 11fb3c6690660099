"""DN-DETR's denoising queries (Li et al., CVPR 2022, section 4)."""

from __future__ import annotations

from typing import Any

import torch
from mmdet.models.dense_heads import DINOHead
from mmdet.models.layers import CdnQueryGenerator, inverse_sigmoid
from mmdet.structures import SampleList
from mmdet.structures.bbox import bbox_xyxy_to_cxcywh
from mmengine.structures import InstanceData
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from sparse_encoders.detectors.batches import targets_of
from sparse_encoders.detectors.decoders import BORDER
from sparse_encoders.registry import MODELS


@MODELS.register_module()
class DNDETRHead(DINOHead):
    """MMDetection's ``DINOHead`` with DN-DETR's denoising loss.

    Only queries that denoise a box have a loss. Images with fewer boxes than the largest of the
    batch have padding queries, which have no loss here, as in the released DN-DETR; DINO counts
    them as background. All three losses are divided by the number of denoised boxes of the batch.
    """

    def _get_dn_targets_single(
        self, gt_instances: InstanceData, img_meta: dict[str, Any], dn_meta: dict[str, int]
    ) -> tuple[Tensor, ...]:
        """MMDetection's targets of an image, with weight 0 for padding queries."""
        labels, _, boxes, weights, denoising, _ = super()._get_dn_targets_single(
            gt_instances, img_meta, dn_meta
        )
        return labels, weights[:, 0], boxes, weights, denoising, denoising[:0]


class DNQueryGenerator(CdnQueryGenerator):
    """Noised ground truth as additional queries, which the decoder learns to denoise.

    DINO's generator without contrastive negatives, with DN-DETR's noise and an
    indicator in the last channel: 1 for a denoising query, 0 for a matching one.

    Args:
        num_classes: classes.
        embed_dims: channels C of a query, indicator included.
        num_matching_queries: queries that are not denoising ones.
        label_noise_scale: probability that a label is replaced by a random one, in [0, 1]
            (0.2 in the released model).
        box_noise_scale: a centre moves by up to this share of half the box's sides,
            a side changes by up to this share of itself, in [0, 1] (0.4).
        group_cfg: ``dict(dynamic=False, num_groups=5)`` as released, or DINO's
            ``dict(dynamic=True, num_dn_queries=100)``.

    Raises:
        ValueError: a noise scale outside of [0, 1], or fewer than one group or query.
    """

    def __init__(
        self,
        num_classes: int,
        embed_dims: int,
        num_matching_queries: int,
        label_noise_scale: float = 0.2,
        box_noise_scale: float = 0.4,
        group_cfg: dict[str, Any] | None = None,
    ) -> None:
        for name, noise in (("label", label_noise_scale), ("box", box_noise_scale)):
            if not 0 <= noise <= 1:
                raise ValueError(f"dn_cfg.{name}_noise_scale must lie in [0, 1], got {noise}")
        groups = group_cfg or {"dynamic": False, "num_groups": 5}
        kind = "num_dn_queries" if groups.get("dynamic", True) else "num_groups"
        if int(groups.get(kind) or 0) < 1:
            raise ValueError(
                f"dn_cfg.group_cfg.{kind} must be at least 1 with "
                f"dynamic={groups.get('dynamic', True)}, got {groups.get(kind)}"
            )
        super().__init__(
            num_classes,
            embed_dims - 1,
            num_matching_queries,
            label_noise_scale,
            box_noise_scale,
            groups,
        )

    def __call__(self, batch_data_samples: SampleList) -> tuple[Tensor, Tensor, Tensor, dict]:
        """Denoising queries of a batch with at most n boxes an image, in G groups.

        Returns:
            (B, G * n, C) content with indicator, (B, G * n, 4) box logits (zero where
            an image has fewer boxes), (G * n + Q, G * n + Q) bool attention mask
            (True = may not attend) and ``dn_meta`` for MMDetection's ``DINOHead``.
        """
        targets = targets_of(batch_data_samples)
        max_boxes = max(len(labels) for labels in targets.labels)
        groups = self.get_num_groups(max_boxes)
        boxes = [
            bbox_xyxy_to_cxcywh(b / b.new_tensor([*s.img_shape[:2]]).flip(0).repeat(2))
            for b, s in zip(targets.boxes, batch_data_samples, strict=True)
        ]
        labels = pad_sequence(list(targets.labels), True).repeat(1, groups)
        filled = pad_sequence([torch.ones_like(t) for t in targets.labels], True)
        filled = filled.repeat(1, groups).unsqueeze(-1)
        content = self.label_embedding(self.noise_labels(labels))
        content = torch.cat([content, torch.ones_like(content[..., :1])], -1) * filled
        noised = self.noise_boxes(pad_sequence(boxes, True).repeat(1, groups, 1))
        logits = inverse_sigmoid(noised, eps=BORDER) * filled
        mask = self.attention_mask(max_boxes, groups, content.device)
        meta = dict(num_denoising_queries=max_boxes * groups, num_denoising_groups=groups)
        return content, logits, mask, meta

    def noise_labels(self, labels: Tensor) -> Tensor:
        """Class indices of any shape, some of them replaced by random ones."""
        drawn = torch.randint_like(labels, self.num_classes)
        chosen = torch.rand(labels.shape, device=labels.device) < self.label_noise_scale
        return torch.where(chosen, drawn, labels)

    def noise_boxes(self, boxes: Tensor) -> Tensor:
        """(..., 4) boxes (x, y, w, h) in [0, 1], shifted and scaled at random."""
        sides = boxes[..., 2:]
        max_shift = torch.cat([sides / 2, sides], -1) * self.box_noise_scale
        return (boxes + (torch.rand_like(boxes) * 2 - 1) * max_shift).clamp(0, 1)

    def attention_mask(self, size: int, groups: int, device: torch.device) -> Tensor:
        """(Q', Q') bool, True where a query may not attend.

        Groups do not attend to each other, and matching queries to none of them.
        """
        denoising = torch.arange(groups, device=device).repeat_interleave(size)
        group = torch.cat([denoising, denoising.new_full((self.num_matching_queries,), -1)])
        different: Tensor = group[:, None] != group
        return different & (group != -1)
