"""H-Deformable-DETR (Jia et al., DETRs with Hybrid Matching, CVPR 2023) with any encoder."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from mmdet.models.dense_heads import DeformableDETRHead, DETRHead
from mmdet.structures import SampleList
from mmengine.structures import InstanceData
from torch import Tensor, nn

from sparse_encoders.detectors.batches import targets_of
from sparse_encoders.detectors.decoders import RefiningDecoder
from sparse_encoders.detectors.deformable_detr import DeformableDETR
from sparse_encoders.detectors.records import Decoded, Queries
from sparse_encoders.encoders.base import EncoderOutput
from sparse_encoders.registry import DETECTORS, MODELS


@MODELS.register_module()
class HDETRHead(DeformableDETRHead):
    """Deformable DETR's head with a second, one-to-many matching (section 3.2).

    Args:
        k_one2many: copies of each box for the one-to-many queries (6 in the released models).
        one2many_weight: weight of their losses, lambda in equation 4.

    Raises:
        ValueError: fewer than one copy, or a negative weight.
    """

    def __init__(
        self, *args: Any, k_one2many: int = 6, one2many_weight: float = 1.0, **kwargs: Any
    ) -> None:
        super().__init__(*args, **kwargs)
        if k_one2many < 1:
            raise ValueError(f"bbox_head.k_one2many must be at least 1, got {k_one2many}")
        if one2many_weight < 0:
            raise ValueError(
                f"bbox_head.one2many_weight must not be negative, got {one2many_weight}"
            )
        self.k_one2many = k_one2many
        self.one2many_weight = one2many_weight

    def loss(
        self,
        hidden_states: Tensor,
        references: list[Tensor],
        enc_outputs_class: Tensor,
        enc_outputs_coord: Tensor,
        batch_data_samples: SampleList,
        num_one2one: int,
    ) -> dict[str, Tensor]:
        """Losses of both matchings; those of the second end in ``_one2many``.

        Args:
            hidden_states: (layers, B, Q, C), one-to-one queries first.
            references: per layer (B, Q, 4).
            enc_outputs_class: (B, N, classes) of the first stage.
            enc_outputs_coord: (B, N, 4) of the first stage.
            batch_data_samples: with ground truth.
            num_one2one: number of queries, the first of the Q, that are matched one to one.
        """
        instances = [sample.gt_instances for sample in batch_data_samples]
        metas = [sample.metainfo for sample in batch_data_samples]
        classes, boxes = self(hidden_states, references)
        losses: dict[str, Tensor] = self.loss_by_feat(
            classes[:, :, :num_one2one],
            boxes[:, :, :num_one2one],
            enc_outputs_class,
            enc_outputs_coord,
            instances,
            metas,
        )
        targets, k = targets_of(batch_data_samples), self.k_one2many
        repeated = [
            InstanceData(bboxes=boxes_of.repeat(k, 1), labels=labels.repeat(k))
            for boxes_of, labels in zip(targets.boxes, targets.labels, strict=True)
        ]
        # DETRHead's losses, because these queries have no first stage
        many = DETRHead.loss_by_feat(
            self, classes[:, :, num_one2one:], boxes[:, :, num_one2one:], repeated, metas
        )
        weight = self.one2many_weight
        return {**losses, **{f"{name}_one2many": weight * loss for name, loss in many.items()}}


@DETECTORS.register_module()
class HDETR(DeformableDETR):
    """Two-stage Deformable DETR with an additional one-to-many group of queries in training.

    In a config: ``type='sparse_encoders.HDETR'`` with ``bbox_head.type='HDETRHead'``.
    The two groups of queries do not attend to each other. At test time only the ``num_queries``
    one-to-one queries exist.

    Args:
        num_queries_one2many: additional queries in training (1500 in the released models).
        mixed_selection: content is learned and only the position embedding comes from the
            proposals (the released "tricks"); False: both come from the proposals.
        look_forward_twice: see :class:`RefiningDecoder`.
        **kwargs: as :class:`DeformableDETR`.

    Raises:
        TypeError: a head without the second matching.
        ValueError: no one-to-many queries, a one-stage model, or no box refinement.
    """

    def __init__(
        self,
        *args: Any,
        num_queries_one2many: int = 1500,
        mixed_selection: bool = True,
        look_forward_twice: bool = True,
        with_box_refine: bool = True,
        as_two_stage: bool = True,
        **kwargs: Any,
    ) -> None:
        for name, given in (("as_two_stage", as_two_stage), ("with_box_refine", with_box_refine)):
            if not given:
                raise ValueError(f"model.{name} must be True for HDETR, got {given}")
        if num_queries_one2many < 1:
            raise ValueError(
                "model.num_queries_one2many must be at least 1, got "
                f"{num_queries_one2many}; without such queries use DeformableDETR"
            )
        self.num_queries_one2many = num_queries_one2many
        self.mixed_selection = mixed_selection
        self.look_forward_twice = look_forward_twice
        super().__init__(*args, with_box_refine=True, as_two_stage=True, **kwargs)
        if not isinstance(self.bbox_head, HDETRHead):
            raise TypeError(
                f"model.bbox_head.type must be HDETRHead, got {type(self.bbox_head).__name__}"
            )

    def build_decoder(self) -> nn.Module:
        """A decoder that refines boxes and takes an attention mask between queries."""
        return RefiningDecoder(
            **self.decoder_config(self.decoder), look_forward_twice=self.look_forward_twice
        )

    def _init_layers(self) -> None:
        super()._init_layers()
        if self.mixed_selection:
            total = self.num_queries + self.num_queries_one2many
            self.query_embedding = nn.Embedding(total, self.embed_dims)

    def prepare_queries(self, encoded: EncoderOutput, samples: SampleList | None = None) -> Queries:
        """The best proposals; see :meth:`DetectorSteps.prepare_queries`.

        The first ``num_queries`` are matched one to one; in training as many as
        ``num_queries_one2many`` more follow, matched one to many (section 3.2).
        """
        count = self.num_queries + (self.num_queries_one2many if self.training else 0)
        queries = self.proposal_queries(encoded, count)
        content, mask = queries.content, None
        if self.mixed_selection:
            content = self.query_embedding.weight[:count].expand(content.shape[0], -1, -1)
        if self.training:  # the two groups do not attend to each other
            many = torch.arange(count, device=content.device) >= self.num_queries
            mask = many[:, None] != many
        return replace(queries, content=content, attention_mask=mask)

    def run_decoder(self, queries: Queries, encoded: EncoderOutput) -> Decoded:
        """See :class:`RefiningDecoder`."""
        decoded: Decoded = self.decoder(queries, encoded, self.bbox_head.reg_branches)
        return decoded

    def head_inputs(self, queries: Queries, decoded: Decoded) -> dict[str, Any]:
        """In training with the size of the one-to-one group."""
        inputs = super().head_inputs(queries, decoded)
        return dict(**inputs, num_one2one=self.num_queries) if self.training else inputs
