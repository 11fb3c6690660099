"""DDQ-DETR (Zhang et al., Dense Distinct Query, CVPR 2023) with any encoder."""

from __future__ import annotations

from typing import Any

import torch
from mmdet.models.detectors import DDQDETR as MMDetDDQDETR
from mmdet.models.layers import DDQTransformerDecoder, SinePositionalEncoding
from torch import nn

from sparse_encoders.detectors.decoders import DINODecoder
from sparse_encoders.detectors.dino import DINO
from sparse_encoders.detectors.records import Decoded, Queries
from sparse_encoders.registry import DETECTORS


class DDQDecoder(DDQTransformerDecoder):
    """DDQ-DETR's decoder, with the layers of DINO's."""

    _init_layers = DINODecoder._init_layers


class DistinctQueries(MMDetDDQDETR):
    """MMDetection's DDQ-DETR with a constructor that does not read the encoder's layers."""

    def __init__(
        self,
        *args: Any,
        decoder: dict[str, Any],
        dense_topk_ratio: float = 1.5,
        dqs_cfg: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        if decoder.get("num_layers", 6) < 2:
            raise ValueError(
                "model.decoder.num_layers must be at least 2 for DDQDETR, which selects distinct "
                f"queries between its layers, got {decoder['num_layers']}"
            )
        self.dense_topk_ratio = dense_topk_ratio
        self.dqs_cfg = dqs_cfg or dict(type="nms", iou_threshold=0.8)
        # MMDetection's constructor reads the number of heads from the encoder, which here may have
        # no layers. Its parent's constructor is called instead; the rest follows below, with the
        # number of heads of the decoder.
        super(MMDetDDQDETR, self).__init__(*args, decoder=decoder, **kwargs)
        shared: dict[str, Any] = dict(
            dis_query_info=[0, 0],
            distinct_query_mask=[],
            cls_branches=self.bbox_head.cls_branches,
            num_heads=self.decoder.layers[0].self_attn.num_heads,
            dqs_cfg=self.dqs_cfg,
        )
        for module in self.modules():
            module.cache_dict = shared


@DETECTORS.register_module()
class DDQDETR(DINO, DistinctQueries):
    """MMDetection's DDQ-DETR with the encoder that ``encoder.type`` names.

    Queries are the proposals that non-maximum suppression leaves, again after every decoder layer;
    a dense branch of queries exists in training only. In a config:
    ``type='sparse_encoders.DDQDETR'`` with ``bbox_head.type='DDQDETRHead'``. With ``DenseEncoder``
    (the default) it is MMDetection's DDQ-DETR bit for bit, and loads its checkpoints.

    Args:
        dense_topk_ratio, dqs_cfg: as MMDetection's ``DDQDETR``.
        **kwargs: as :class:`DINO`.

    Raises:
        ValueError: fewer than two decoder layers.
    """

    def _init_layers(self) -> None:
        self.positional_encoding = SinePositionalEncoding(**self.positional_encoding)
        self.encoder = self.build_encoder(self.encoder)
        self.decoder = DDQDecoder(**self.decoder_config(self.decoder))
        self.embed_dims = self.encoder.embed_dims
        self.query_embedding: Any = None  # a query's content is its proposal's memory
        self.level_embed = nn.Parameter(torch.zeros(self.num_feature_levels, self.embed_dims))
        self.memory_trans_fc = nn.Linear(self.embed_dims, self.embed_dims)
        self.memory_trans_norm = nn.LayerNorm(self.embed_dims)
        self.query_map = nn.Linear(self.embed_dims, self.embed_dims)

    def head_inputs(self, queries: Queries, decoded: Decoded) -> dict[str, Any]:
        """In training with the dense branch's first stage."""
        inputs = super().head_inputs(queries, decoded)
        if queries.dense is not None:
            inputs["aux_enc_outputs_class"] = queries.dense.logits
            inputs["aux_enc_outputs_coord"] = queries.dense.boxes
        return inputs
