"""DINO (Zhang et al., ICLR 2023) with any encoder."""

from __future__ import annotations

from typing import Any

import torch
from mmdet.models.detectors import DINO as MMDetDINO
from mmdet.models.layers import SinePositionalEncoding
from mmdet.structures import SampleList
from torch import nn

from sparse_encoders.detectors.base import EncoderDetector
from sparse_encoders.detectors.batches import with_enough_tokens
from sparse_encoders.detectors.decoders import DINODecoder
from sparse_encoders.detectors.records import Decoded, Queries
from sparse_encoders.encoders.base import EncoderOutput
from sparse_encoders.registry import DETECTORS


@DETECTORS.register_module()
class DINO(EncoderDetector, MMDetDINO):
    """MMDetection's DINO; ``encoder.type`` chooses how tokens are refined.

    In a config: ``type='sparse_encoders.DINO'``. With ``DenseEncoder`` (the
    default) it is MMDetection's DINO bit for bit, and loads its checkpoints; also
    on MMDetection's fork, whose own DINO differs in the decoder (see
    :class:`PublishedPositionHead`).
    """

    def _init_layers(self) -> None:
        self.positional_encoding = SinePositionalEncoding(**self.positional_encoding)
        self.encoder = self.build_encoder(self.encoder)
        self.decoder = DINODecoder(**self.decoder_config(self.decoder))
        self.embed_dims = self.encoder.embed_dims
        self.check_position_channels()
        self.query_embedding = nn.Embedding(self.num_queries, self.embed_dims)
        self.level_embed = nn.Parameter(torch.empty(self.num_feature_levels, self.embed_dims))
        self.memory_trans_fc = nn.Linear(self.embed_dims, self.embed_dims)
        self.memory_trans_norm = nn.LayerNorm(self.embed_dims)

    def prepare_queries(self, encoded: EncoderOutput, samples: SampleList | None = None) -> Queries:
        """The best proposals, behind denoising queries in training (DINO, section 3.3)."""
        memory, mask, shapes = with_enough_tokens(encoded, self.num_queries)
        return Queries.from_mmdet(*self.pre_decoder(memory, mask, shapes, samples))

    def decoder_inputs(self, queries: Queries) -> dict[str, Any]:
        """What ``forward_decoder`` takes of the queries."""
        return dict(
            query=queries.content,
            reference_points=queries.reference_points,
            dn_mask=queries.attention_mask,
        )

    def head_inputs(self, queries: Queries, decoded: Decoded) -> dict[str, Any]:
        """What the head takes, in training with the numbers of denoising queries."""
        inputs = super().head_inputs(queries, decoded)
        return dict(**inputs, dn_meta=queries.denoising) if self.training else inputs
