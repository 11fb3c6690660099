"""The dense encoder of Deformable DETR: every layer refines every token."""

from __future__ import annotations

from typing import Any

from sparse_encoders.contracts import DetectorParts
from sparse_encoders.encoders.base import Encoder, EncoderOutput
from sparse_encoders.encoders.layer import EncoderLayer
from sparse_encoders.registry import MODELS
from sparse_encoders.tokens import TokenGrid


@MODELS.register_module()
class DenseEncoder(Encoder):
    """The baseline (Zhu et al., Deformable DETR, ICLR 2021, section 4.1).

    MMDetection's own encoder layers under their own names: it loads the encoder
    weights of MMDetection's DINO and Deformable DETR without renaming, and with
    the same attention backend computes the same bits.

    Args:
        *args, **kwargs: see :class:`Encoder`.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.layers = self.build_layers(EncoderLayer)

    def forward(self, tokens: TokenGrid, detector: DetectorParts) -> EncoderOutput:
        """(B, N, C) tokens, each refined by every layer."""
        memory = tokens.features
        for index, layer in enumerate(self.layers):
            memory = self.run_layer(
                index,
                layer,
                query=memory,
                query_pos=tokens.pos_embed,
                key_padding_mask=tokens.padding_mask,
                spatial_shapes=tokens.shapes,
                reference_points=tokens.reference_points,
            )
        return EncoderOutput(memory, tokens)
