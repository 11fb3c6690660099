"""DN-Deformable-DETR (Li et al., DN-DETR, CVPR 2022) with any encoder."""

from __future__ import annotations

from typing import Any

import torch
from mmcv.ops import MultiScaleDeformableAttention
from mmdet.models.dense_heads import DINOHead
from mmdet.models.detectors import DeformableDETR as MMDetDeformableDETR
from mmdet.models.layers import SinePositionalEncoding
from mmdet.structures import SampleList
from torch import nn

from sparse_encoders.detectors.decoders import AnchorDecoder
from sparse_encoders.detectors.denoising import DNDETRHead, DNQueryGenerator
from sparse_encoders.detectors.denoising_detector import DenoisingDetector
from sparse_encoders.detectors.records import Decoded, Queries
from sparse_encoders.encoders.base import EncoderOutput
from sparse_encoders.registry import DETECTORS, MODELS


@DETECTORS.register_module()
class DNDETR(DenoisingDetector, MMDetDeformableDETR):
    """Deformable DETR with learned 4-d anchors and denoising training.

    A query has a learned content of C - 1 channels and an indicator, and a learned anchor box. In a
    config: ``type='sparse_encoders.DNDETR'`` with ``bbox_head.type='DNDETRHead'``; ``'DINOHead'``
    is replaced by it, because it counts padding queries as background.

    Args:
        bbox_head: config of the head, see above.
        dn_cfg: settings of :class:`DNQueryGenerator`: ``label_noise_scale``,
            ``box_noise_scale``, ``group_cfg``; and ``max_boxes``, see :class:`DenoisingDetector`.
        **kwargs: as MMDetection's ``DeformableDETR`` and :class:`DenoisingDetector`.

    Raises:
        TypeError: a head without denoising losses.
        ValueError: a two-stage model, or one without box refinement.
    """

    def __init__(
        self,
        *args: Any,
        bbox_head: dict[str, Any],
        dn_cfg: dict[str, Any] | None = None,
        with_box_refine: bool = True,
        as_two_stage: bool = False,
        **kwargs: Any,
    ) -> None:
        if as_two_stage:
            raise ValueError("model.as_two_stage must be False for DNDETR: it learns its anchors")
        if not with_box_refine:
            raise ValueError("model.with_box_refine must be True for DNDETR")
        kind = bbox_head["type"]
        if kind is DINOHead or (isinstance(kind, str) and MODELS.get(kind) is DINOHead):
            bbox_head = {**bbox_head, "type": DNDETRHead}
        dn_cfg = dict(dn_cfg or {})
        super().__init__(
            *args,
            bbox_head=bbox_head,
            max_boxes=dn_cfg.pop("max_boxes", None),
            with_box_refine=True,
            as_two_stage=False,
            **kwargs,
        )
        if not isinstance(self.bbox_head, DINOHead):
            raise TypeError(
                "model.bbox_head.type must be a DINOHead, such as DNDETRHead, got "
                f"{type(self.bbox_head).__name__}"
            )
        self.dn_query_generator = DNQueryGenerator(
            num_classes=self.bbox_head.num_classes,
            embed_dims=self.embed_dims,
            num_matching_queries=self.num_queries,
            **dn_cfg,
        )

    def _init_layers(self) -> None:
        self.positional_encoding = SinePositionalEncoding(**self.positional_encoding)
        self.encoder = self.build_encoder(self.encoder)
        self.decoder = AnchorDecoder(**self.decoder_config(self.decoder))
        self.embed_dims = self.encoder.embed_dims
        self.level_embed = nn.Parameter(torch.zeros(self.num_feature_levels, self.embed_dims))
        # the last channel is the indicator
        self.query_embedding = nn.Embedding(self.num_queries, self.embed_dims - 1)
        self.anchor_embedding = nn.Embedding(self.num_queries, 4)

    def init_weights(self) -> None:
        """As Deformable DETR's, but without reference points: the anchors are an embedding."""
        super(MMDetDeformableDETR, self).init_weights()
        for coder in (self.encoder, self.decoder):
            for parameter in coder.parameters():
                if parameter.dim() > 1:
                    nn.init.xavier_uniform_(parameter)
        for module in self.modules():
            if isinstance(module, MultiScaleDeformableAttention):
                module.init_weights()
        nn.init.normal_(self.level_embed)
        self.init_own_weights()

    def prepare_queries(self, encoded: EncoderOutput, samples: SampleList | None = None) -> Queries:
        """Learned contents and anchor boxes; see :meth:`DetectorSteps.prepare_queries`.

        In training denoising queries stand before them (DN-DETR, section 4), which needs samples.
        """
        batch = encoded.memory.shape[0]
        content = self.query_embedding.weight
        content = torch.cat([content, torch.zeros_like(content[:, :1])], 1).expand(batch, -1, -1)
        anchors = self.anchor_embedding.weight.expand(batch, -1, -1)
        if not self.training:
            return Queries(content, anchors.sigmoid())
        noised, boxes, mask, meta = self.dn_query_generator(self.denoised(samples))
        return Queries(
            content=torch.cat([noised, content], 1),
            reference_points=torch.cat([boxes, anchors], 1).sigmoid(),
            attention_mask=mask,
            denoising=meta,
        )

    def run_decoder(self, queries: Queries, encoded: EncoderOutput) -> Decoded:
        """See :class:`RefiningDecoder`."""
        decoded: Decoded = self.decoder(queries, encoded, self.bbox_head.reg_branches)
        return decoded
