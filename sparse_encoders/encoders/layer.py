"""Deformable encoder layers: on all tokens, and on the tokens that a selector keeps."""

from __future__ import annotations

from typing import Any

from mmcv.cnn import build_norm_layer
from mmdet.models.layers import DeformableDetrTransformerEncoderLayer
from mmengine.model import ModuleList
from torch import Tensor

from sparse_encoders.encoders.ffn import SlicedFFN
from sparse_encoders.registry import MODELS
from sparse_encoders.tokens import TokenGrid


class EncoderLayer(DeformableDetrTransformerEncoderLayer):
    """Deformable attention, norm, FFN, norm (Zhu et al., Deformable DETR, section 4.1).

    Parameters have MMDetection's names, order and initialisation.

    Args:
        self_attn_cfg: with its ``type``, see :func:`sparse_encoders.attention.attention_config`.
        ffn_cfg: as MMDetection's, and ``slice_tokens``, see :class:`SlicedFFN`.
        norm_cfg: as MMDetection's.
    """

    def _init_layers(self) -> None:
        self.self_attn = MODELS.build(self.self_attn_cfg)
        self.embed_dims = self.self_attn.embed_dims
        self.ffn = SlicedFFN(**self.ffn_cfg)
        self.norms = ModuleList(
            build_norm_layer(self.norm_cfg, self.embed_dims)[1] for _ in range(2)
        )


class KeptTokensLayer(EncoderLayer):
    """The same layer with the kept tokens as queries and all tokens as values.

    The checkpoint of a dense encoder fits.
    """

    def forward(
        self,
        query: Tensor,
        query_pos: Tensor,
        reference_points: Tensor,
        value: Tensor,
        tokens: TokenGrid,
        *further: Any,
    ) -> Tensor:
        """Refine the queries (Sparse DETR, section 3.2).

        Args:
            query: (B, K, C) kept tokens.
            query_pos: (B, K, C) their position embedding.
            reference_points: (B, K, L, 2) their centres.
            value: (B, N, C) all tokens, which they attend to.
            tokens: padding and shapes of the batch.
            *further: arguments of :meth:`feed_forward`.

        Returns:
            (B, K, C).
        """
        attended = self.self_attn(
            query=query,
            value=value,
            query_pos=query_pos,
            key_padding_mask=tokens.padding_mask,
            spatial_shapes=tokens.shapes,
            reference_points=reference_points,
        )
        return self.feed_forward(self.norms[0](attended), *further)

    def feed_forward(self, attended: Tensor) -> Tensor:
        """(B, K, C) queries after FFN and norm."""
        refined: Tensor = self.norms[1](self.ffn(attended))
        return refined
