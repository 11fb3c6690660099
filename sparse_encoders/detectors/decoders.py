"""MMDetection's decoders with this package's attention, and further decoders."""

from __future__ import annotations

from typing import Any

import torch
from mmcv.cnn import build_norm_layer
from mmcv.cnn.bricks.transformer import FFN, MultiheadAttention
from mmdet.models.layers import (
    MLP,
    DeformableDetrTransformerDecoder,
    DeformableDetrTransformerDecoderLayer,
    DinoTransformerDecoder,
    inverse_sigmoid,
)
from mmdet.models.layers.transformer.utils import coordinate_to_encoding
from mmengine.model import ModuleList
from torch import Tensor, nn

from sparse_encoders.detectors.records import Decoded, Queries
from sparse_encoders.encoders.base import EncoderOutput
from sparse_encoders.registry import MODELS
from sparse_encoders.shapes import split_dim

# References are clamped to this distance from the image's border before the inverse sigmoid
# (released DN-DETR, DINO and H-Deformable-DETR in detrex).
BORDER = 1e-3


class DecoderLayer(DeformableDetrTransformerDecoderLayer):
    """MMDetection's deformable decoder layer, with the cross-attention that its config names.

    Args:
        cross_attn_cfg: with its ``type``, see :func:`sparse_encoders.attention.attention_config`.
        self_attn_cfg, ffn_cfg, norm_cfg: as MMDetection's.
    """

    def _init_layers(self) -> None:
        self.self_attn = MultiheadAttention(**self.self_attn_cfg)
        self.cross_attn = MODELS.build(self.cross_attn_cfg)
        self.embed_dims = self.self_attn.embed_dims
        self.ffn = FFN(**self.ffn_cfg)
        self.norms = ModuleList(
            build_norm_layer(self.norm_cfg, self.embed_dims)[1] for _ in range(3)
        )


class DeformableDecoder(DeformableDetrTransformerDecoder):
    """Deformable DETR's decoder (Zhu et al., ICLR 2021, section 4.1) of :class:`DecoderLayer`.

    Raises:
        ValueError: a ``post_norm_cfg``; the decoder has no such norm.
    """

    def _init_layers(self) -> None:
        if self.post_norm_cfg is not None:
            raise ValueError(f"decoder.post_norm_cfg must be None, got {self.post_norm_cfg}")
        self.layers = ModuleList(DecoderLayer(**self.layer_cfg) for _ in range(self.num_layers))
        self.embed_dims = self.layers[0].embed_dims


class DINODecoder(DinoTransformerDecoder):
    """DINO's decoder of :class:`DecoderLayer`, with DINO's MLP for ``query_pos`` as published."""

    def _init_layers(self) -> None:
        DeformableDecoder._init_layers(self)
        self.ref_point_head = PositionHead(self.embed_dims)
        self.norm = nn.LayerNorm(self.embed_dims)


class RefiningDecoder(DeformableDecoder):
    """Deformable DETR's decoder for boxes (x, y, w, h), with an attention mask between queries.

    Args:
        look_forward_twice: the box that a layer refines keeps its gradient, so that the layer's
            box loss also trains the layer before (DINO, section 3.5).
    """

    def __init__(self, *args: Any, look_forward_twice: bool = False, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.look_forward_twice = look_forward_twice

    def query_pos_of(
        self, layer: int, query: Tensor, points: Tensor, query_pos: Tensor | None
    ) -> Tensor | None:
        """(B, Q, C) position embedding of a layer's queries; by default the detector's.

        Args:
            layer: decoder layer, from 0.
            query: (B, Q, C) output of the layer before.
            points: (B, Q, 4) their boxes, relative to the padded input.
            query_pos: (B, Q, C) of the detector, or None.
        """
        return query_pos

    def forward(
        self, queries: Queries, encoded: EncoderOutput, reg_branches: nn.ModuleList
    ) -> Decoded:
        """Refine queries and boxes (B, Q, 4) layer by layer, with a box branch for each layer."""
        states, references = [], []
        scale = encoded.tokens.valid_ratios.repeat(1, 1, 2)[:, None]
        query, reference_points = queries.content, queries.reference_points
        reported = reference_points
        for index, layer in enumerate(self.layers):
            references.append(reported.clamp(BORDER, 1 - BORDER))
            points = reference_points[:, :, None] * scale
            query = layer(
                query,
                query_pos=self.query_pos_of(index, query, points[:, :, 0], queries.pos_embed),
                value=encoded.memory,
                key_padding_mask=encoded.tokens.padding_mask,
                self_attn_mask=queries.attention_mask,
                spatial_shapes=encoded.tokens.shapes,
                reference_points=points,
            )
            states.append(query)
            if index + 1 < len(self.layers):
                step = reg_branches[index](query)
                refined = (step + inverse_sigmoid(reference_points, eps=BORDER)).sigmoid()
                reference_points = refined.detach()
                reported = refined if self.look_forward_twice else reference_points
        return Decoded(torch.stack(states), references)


class AnchorDecoder(RefiningDecoder):
    """The decoder of DN-Deformable-DETR, where ``query_pos`` depends on box and content.

    ``query_pos`` is MLP(sine embedding of the box), from the second layer on times
    MLP(content) (Liu et al., DAB-DETR, ICLR 2022, section 4.2).
    """

    def _init_layers(self) -> None:
        super()._init_layers()
        dims = self.embed_dims
        self.ref_point_head = MLP(2 * dims, dims, dims, 2)
        # the first layer does not scale
        self.query_scale = MLP(dims, dims, dims, 2) if self.num_layers > 1 else None

    def query_pos_of(
        self, layer: int, query: Tensor, points: Tensor, query_pos: Tensor | None
    ) -> Tensor | None:
        """(B, Q, C), see the class."""
        sine = coordinate_to_encoding(points, num_feats=self.embed_dims // 2)
        pos_embed: Tensor = self.ref_point_head(sine)
        if layer == 0 or self.query_scale is None:
            return pos_embed
        return pos_embed * self.query_scale(query)


class PositionHead(MLP):
    """DINO's MLP from the sine embedding of a box to the query's ``query_pos``, as published.

    DINO embeds each of a box's four coordinates in C / 2 channels. MMDetection's fork
    (``onedl-mmdetection``) uses C channels and an MLP twice as wide, which published weights do not
    fit; every second frequency of its embedding is one of DINO's.
    """

    def __init__(self, dims: int) -> None:
        super().__init__(2 * dims, dims, dims, 2)
        self.dims = dims

    def forward(self, x: Tensor) -> Tensor:
        """(B, Q, 2 C) sine embedding, or the fork's (B, Q, 4 C), to (B, Q, C)."""
        if x.shape[-1] == 4 * self.dims:
            # coordinate, frequency, sine and cosine
            pairs = split_dim(x, -1, (4, self.dims // 2, 2))
            x = pairs[..., ::2, :].flatten(-3)
        pos_embed: Tensor = super().forward(x)
        return pos_embed
