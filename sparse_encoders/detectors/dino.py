"""DINO (Zhang et al., ICLR 2023) with any encoder."""

from __future__ import annotations

from typing import Any

import torch
from mmdet.models.detectors import DINO as MMDetDINO
from mmdet.models.layers import SinePositionalEncoding
from mmdet.structures import SampleList
from torch import nn

from sparse_encoders.detectors.batches import with_enough_tokens
from sparse_encoders.detectors.decoders import DINODecoder
from sparse_encoders.detectors.denoising_detector import DenoisingDetector
from sparse_encoders.detectors.records import Queries
from sparse_encoders.encoders.base import EncoderOutput
from sparse_encoders.registry import DETECTORS


@DETECTORS.register_module()
class DINO(DenoisingDetector, MMDetDINO):
    """MMDetection's DINO with the encoder that ``encoder.type`` names.

    In a config: ``type='sparse_encoders.DINO'``. With ``DenseEncoder`` (the default) it is
    MMDetection's DINO bit for bit, and loads its checkpoints; also on MMDetection's fork, whose own
    DINO differs in the decoder (see :class:`PositionHead`).

    Args:
        dn_cfg: as MMDetection's, and ``max_boxes``, see :class:`DenoisingDetector`.
        **kwargs: as MMDetection's ``DINO`` and :class:`DenoisingDetector`.
    """

    def __init__(self, *args: Any, dn_cfg: dict[str, Any], **kwargs: Any) -> None:
        dn_cfg = dict(dn_cfg)
        max_boxes = dn_cfg.pop("max_boxes", None)
        super().__init__(*args, dn_cfg=dn_cfg, max_boxes=max_boxes, **kwargs)

    def _init_layers(self) -> None:
        self.positional_encoding = SinePositionalEncoding(**self.positional_encoding)
        self.encoder = self.build_encoder(self.encoder)
        self.decoder = DINODecoder(**self.decoder_config(self.decoder))
        self.embed_dims = self.encoder.embed_dims
        self.query_embedding = nn.Embedding(self.num_queries, self.embed_dims)
        self.level_embed = nn.Parameter(torch.zeros(self.num_feature_levels, self.embed_dims))
        self.memory_trans_fc = nn.Linear(self.embed_dims, self.embed_dims)
        self.memory_trans_norm = nn.LayerNorm(self.embed_dims)

    def prepare_queries(self, encoded: EncoderOutput, samples: SampleList | None = None) -> Queries:
        """The best proposals; see :meth:`DetectorSteps.prepare_queries`.

        In DINO content is learned and reference points are the proposals' boxes (mixed query
        selection, section 3.4); in DDQ-DETR both come from the proposals. In training contrastive
        denoising queries stand before them (section 3.3).
        """
        memory, mask, shapes = with_enough_tokens(encoded, self.num_queries)
        denoised = self.denoised(samples)
        return Queries.from_mmdet(*self.pre_decoder(memory, mask, shapes, denoised))

    def decoder_inputs(self, queries: Queries) -> dict[str, Any]:
        """Arguments of ``forward_decoder`` that come from the queries."""
        return dict(
            query=queries.content,
            reference_points=queries.reference_points,
            dn_mask=queries.attention_mask,
        )
