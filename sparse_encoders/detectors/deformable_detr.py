"""Deformable DETR (Zhu et al., ICLR 2021) with any encoder, and Sparse DETR's variant of it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from mmdet.models.detectors import DeformableDETR as MMDetDeformableDETR
from mmdet.models.layers import SinePositionalEncoding
from mmdet.structures import SampleList
from torch import nn

from sparse_encoders.detectors.base import EncoderDetector, Losses
from sparse_encoders.detectors.batches import with_enough_tokens
from sparse_encoders.detectors.decoders import DeformableDecoder
from sparse_encoders.detectors.records import Decoded, Proposals, Queries
from sparse_encoders.encoders.base import EncoderOutput
from sparse_encoders.registry import DETECTORS


@DETECTORS.register_module()
class DeformableDETR(EncoderDetector, MMDetDeformableDETR):
    """MMDetection's Deformable DETR with the encoder that ``encoder.type`` names.

    One-stage (learned queries), with box refinement, or two-stage, by MMDetection's settings. In a
    config: ``type='sparse_encoders.DeformableDETR'``. With ``DenseEncoder`` (the default) it is
    MMDetection's bit for bit, and loads its checkpoints. Sparse DETR's detector (Roh et al., ICLR
    2022, section 4 and appendix) is two-stage with box refinement and both options on.

    Args:
        efficient_query_init: a query's content is the memory of its proposal, and only its position
            embedding, LN(Linear(sine embedding)), comes from the proposal's box (Efficient DETR).
            Changes the shape of ``pos_trans_fc`` and ``pos_trans_norm``.
        class_specific_first_stage: the first stage predicts the classes, and proposals are ranked
            by their highest class score. False: its first class means any object.

    Raises:
        ValueError: one of the two options on a one-stage detector.
    """

    def __init__(
        self,
        *args: Any,
        efficient_query_init: bool = False,
        class_specific_first_stage: bool = False,
        as_two_stage: bool = False,
        **kwargs: Any,
    ) -> None:
        self.efficient_query_init = efficient_query_init
        self.class_specific_first_stage = class_specific_first_stage
        for name in ("efficient_query_init", "class_specific_first_stage"):
            if getattr(self, name) and not as_two_stage:
                raise ValueError(f"model.{name}=True needs model.as_two_stage=True, got False")
        super().__init__(*args, as_two_stage=as_two_stage, **kwargs)

    def _init_layers(self) -> None:
        self.positional_encoding = SinePositionalEncoding(**self.positional_encoding)
        self.encoder = self.build_encoder(self.encoder)
        self.decoder = self.build_decoder()
        dims = self.embed_dims = self.encoder.embed_dims
        if not self.as_two_stage:
            self.query_embedding = nn.Embedding(self.num_queries, 2 * dims)
        self.level_embed = nn.Parameter(torch.zeros(self.num_feature_levels, dims))
        if self.as_two_stage:
            self.memory_trans_fc = nn.Linear(dims, dims)
            self.memory_trans_norm = nn.LayerNorm(dims)
            # position embedding and content of a query, or its position embedding only
            channels = dims if self.efficient_query_init else 2 * dims
            self.pos_trans_fc = nn.Linear(2 * dims, channels)
            self.pos_trans_norm = nn.LayerNorm(channels)
        else:
            self.reference_points_fc = nn.Linear(dims, 2)

    def build_decoder(self) -> nn.Module:
        """Deformable DETR's decoder."""
        return DeformableDecoder(**self.decoder_config(self.decoder))

    def prepare_queries(self, encoded: EncoderOutput, samples: SampleList | None = None) -> Queries:
        """Learned queries or the best proposals; see :meth:`DetectorSteps.prepare_queries`."""
        if not (self.efficient_query_init or self.class_specific_first_stage):
            return super().prepare_queries(encoded, samples)
        return self.proposal_queries(encoded, self.num_queries)

    def proposal_queries(self, encoded: EncoderOutput, count: int) -> Queries:
        """The ``count`` best proposals as queries (Deformable DETR, appendix A.4).

        In training ``proposals`` are those of all tokens.
        """
        memory, mask, shapes = with_enough_tokens(encoded, count)
        projected, anchors = self.gen_encoder_output_proposals(memory, mask, shapes)
        head, stage = self.bbox_head, int(self.decoder.num_layers)
        logits = head.cls_branches[stage](projected)
        boxes = head.reg_branches[stage](projected) + anchors
        scores = logits.amax(-1) if self.class_specific_first_stage else logits[..., 0]
        best = scores.topk(count, dim=1).indices.unsqueeze(-1)
        chosen = boxes.gather(1, best.expand(-1, -1, 4)).detach()
        embedded = self.pos_trans_norm(
            self.pos_trans_fc(self.get_proposal_pos_embed(chosen, self.embed_dims // 2))
        )
        if self.efficient_query_init:
            pos_embed, content = embedded, memory.gather(1, best.expand(-1, -1, memory.shape[-1]))
        else:
            pos_embed, content = embedded.split(self.embed_dims, dim=2)
        return Queries(
            content=content,
            pos_embed=pos_embed,
            reference_points=chosen.sigmoid(),
            proposals=Proposals(logits, boxes.sigmoid()) if self.training else None,
        )

    def head_loss(self, queries: Queries, decoded: Decoded, samples: SampleList) -> Losses:
        """The head's losses, with those of a class-specific first stage."""
        first = queries.proposals
        if not self.class_specific_first_stage or first is None:
            return super().head_loss(queries, decoded, samples)
        # MMDetection's head would train the first stage with one class for all objects
        losses = super().head_loss(replace(queries, proposals=None), decoded, samples)
        parts = self.detection_loss(samples)(first.logits, first.boxes)
        names = ("enc_loss_cls", "enc_loss_bbox", "enc_loss_iou")
        return {**losses, **dict(zip(names, parts, strict=True))}
