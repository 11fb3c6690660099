"""DN-Deformable-DETR (Li et al., DN-DETR, CVPR 2022) with any encoder."""

from __future__ import annotations

from typing import Any

import torch
from mmcv.ops import MultiScaleDeformableAttention
from mmdet.models.dense_heads import DINOHead
from mmdet.models.detectors import DeformableDETR as MMDetDeformableDETR
from mmdet.models.layers import DeformableDetrTransformerEncoder, SinePositionalEncoding
from mmdet.structures import SampleList
from torch import Tensor, nn

from sparse_encoders.detectors.decoders import AnchorDecoder
from sparse_encoders.detectors.denoising import DNDETRHead, DNQueryGenerator
from sparse_encoders.detectors.host import EncoderHost
from sparse_encoders.encoders.base import EncoderOutput
from sparse_encoders.registry import DETECTORS, MODELS


class AnchorDETR(MMDetDeformableDETR):
    """MMDetection's one-stage Deformable DETR with learned 4-d anchors for queries."""

    # configs until they are built; MMDetection is not typed
    positional_encoding: Any
    encoder: Any
    decoder: Any

    def _init_layers(self) -> None:
        self.positional_encoding = SinePositionalEncoding(**self.positional_encoding)
        self.encoder = DeformableDetrTransformerEncoder(**self.encoder)
        self.decoder = AnchorDecoder(**self.decoder)
        self.embed_dims = self.encoder.embed_dims
        self.level_embed = nn.Parameter(torch.empty(self.num_feature_levels, self.embed_dims))
        # the last channel is the indicator
        self.query_embedding = nn.Embedding(self.num_queries, self.embed_dims - 1)
        self.anchor_embedding = nn.Embedding(self.num_queries, 4)

    def init_weights(self) -> None:
        """Deformable DETR's, without its reference points."""
        super(MMDetDeformableDETR, self).init_weights()
        for coder in (self.encoder, self.decoder):
            for parameter in coder.parameters():
                if parameter.dim() > 1:
                    nn.init.xavier_uniform_(parameter)
        for module in self.modules():
            if isinstance(module, MultiScaleDeformableAttention):
                module.init_weights()
        nn.init.normal_(self.level_embed)


@DETECTORS.register_module()
class DNDETR(EncoderHost, AnchorDETR):
    """Deformable DETR with learned 4-d anchors and denoising training.

    A query is a learned content of C - 1 channels and an indicator, and a learned
    anchor box; while training, noised ground truth is denoised beside it. In a
    config: ``type='sparse_encoders.DNDETR'`` with
    ``bbox_head.type='DNDETRHead'``; for ``'DINOHead'``, which counts padding queries as
    background, it builds the same.

    Args:
        bbox_head: config of the head, see above.
        dn_cfg: settings of :class:`DNQueryGenerator`: ``label_noise_scale``,
            ``box_noise_scale``, ``group_cfg``.
        with_box_refine: True; each layer refines the anchors.
        as_two_stage: False; the anchors are learned.
        **kwargs: as MMDetection's ``DeformableDETR`` and :class:`EncoderHost`.

    Raises:
        TypeError: a head without denoising losses.
        ValueError: a two-stage model, or one without box refinement.
    """

    def __init__(
        self,
        *args: Any,
        bbox_head: dict[str, Any] | None = None,
        dn_cfg: dict[str, Any] | None = None,
        with_box_refine: bool = True,
        as_two_stage: bool = False,
        **kwargs: Any,
    ) -> None:
        if as_two_stage:
            raise ValueError("model.as_two_stage must be False for DNDETR: it learns its anchors")
        if not with_box_refine:
            raise ValueError("model.with_box_refine must be True for DNDETR")
        kind = (bbox_head or {}).get("type")
        if kind is DINOHead or (isinstance(kind, str) and MODELS.get(kind) is DINOHead):
            bbox_head = {**(bbox_head or {}), "type": DNDETRHead}
        super().__init__(
            *args, bbox_head=bbox_head, with_box_refine=True, as_two_stage=False, **kwargs
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
            **(dn_cfg or {}),
        )

    def _pre_decoder(
        self, encoded: EncoderOutput, samples: SampleList | None
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """Queries and boxes, the denoising ones first."""
        batch = encoded.memory.shape[0]
        content = self.query_embedding.weight
        content = torch.cat([content, torch.zeros_like(content[:, :1])], 1).expand(batch, -1, -1)
        anchors = self.anchor_embedding.weight.expand(batch, -1, -1)
        if not self.training:
            return dict(query=content, reference_points=anchors.sigmoid(), dn_mask=None), {}
        noised, boxes, mask, meta = self.dn_query_generator(samples)
        queries = dict(
            query=torch.cat([noised, content], 1),
            reference_points=torch.cat([boxes, anchors], 1).sigmoid(),
            dn_mask=mask,
        )
        return queries, dict(enc_outputs_class=None, enc_outputs_coord=None, dn_meta=meta)

    def forward_decoder(
        self,
        query: Tensor,
        memory: Tensor,
        memory_mask: Tensor | None,
        reference_points: Tensor,
        spatial_shapes: Any,
        valid_ratios: Tensor,
        dn_mask: Tensor | None,
        **kwargs: Any,
    ) -> dict[str, Any]:
        """The head's inputs, see :class:`RefiningDecoder`."""
        states, references = self.decoder(
            query=query,
            value=memory,
            key_padding_mask=memory_mask,
            reference_points=reference_points,
            spatial_shapes=spatial_shapes,
            valid_ratios=valid_ratios,
            reg_branches=self.bbox_head.reg_branches,
            self_attn_mask=dn_mask,
        )
        return dict(hidden_states=states, references=references)
