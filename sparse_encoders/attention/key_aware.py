"""Lite DETR's key-aware deformable attention."""

from __future__ import annotations

import math

import torch
from mmdet.registry import MODELS
from torch import Tensor, nn

from sparse_encoders.attention.base import LevelShapes, SamplingAttention
from sparse_encoders.ops import key_aware_attention
from sparse_encoders.ops.extension import check_backend
from sparse_encoders.shapes import rows_of, split_dim


@MODELS.register_module()
class KeyAwareDeformableAttention(SamplingAttention):
    """Key-aware deformable attention (Li et al., Lite DETR, CVPR 2023, section 3.4).

    Like :class:`DeformableAttention`, but the weights of the L * P sampled values are
    softmax(q . k / sqrt(D)) over keys sampled at the same locations, instead of a projection of the
    query alone.

    Args:
        embed_dims: channels C.
        num_heads: attention heads M; C is divisible by it.
        num_levels: feature levels L.
        num_points: sampling points P per head and level.
        dropout: of the output, before ``identity`` is added.
        same_locations_on_every_level: one set of P offsets for all levels, in tokens of each
            level with 2-d reference points (the released models); False learns one set per level.
        separate_key_projection: keys have a projection of their own; False uses the projected
            values as keys.
        backend: 'auto', 'fused' or 'torch', see :func:`sparse_encoders.ops.key_aware_attention`.
        batch_first: queries are (B, Q, C); False is (Q, B, C).

    Raises:
        ValueError: an unknown backend, or ``embed_dims`` not divisible by ``num_heads``.
    """

    def __init__(
        self,
        embed_dims: int = 256,
        num_heads: int = 8,
        num_levels: int = 4,
        num_points: int = 4,
        dropout: float = 0.0,
        same_locations_on_every_level: bool = True,
        separate_key_projection: bool = False,
        backend: str = "auto",
        batch_first: bool = True,
    ) -> None:
        super().__init__()
        if embed_dims % num_heads:
            raise ValueError(
                f"embed_dims must be divisible by num_heads, got {embed_dims} and {num_heads}"
            )
        self.embed_dims, self.num_heads = embed_dims, num_heads
        self.num_levels, self.num_points = num_levels, num_points
        self.batch_first = batch_first
        self.backend = check_backend("key_aware_attention", backend)
        self.offset_levels = 1 if same_locations_on_every_level else num_levels
        self.sampling_offsets = nn.Linear(
            embed_dims, num_heads * self.offset_levels * num_points * 2
        )
        self.value_proj = nn.Linear(embed_dims, embed_dims)
        self.key_proj = nn.Linear(embed_dims, embed_dims) if separate_key_projection else None
        self.query_proj = nn.Linear(embed_dims, embed_dims)
        self.output_proj = nn.Linear(embed_dims, embed_dims)
        self.dropout = nn.Dropout(dropout)
        self.init_weights()

    def init_weights(self) -> None:
        """As Deformable DETR: point p of head m starts p + 1 tokens along direction m."""
        angles = torch.arange(self.num_heads, dtype=torch.float32) * (2 * math.pi / self.num_heads)
        directions = torch.stack([angles.cos(), angles.sin()], -1)
        directions = directions / directions.abs().amax(-1, keepdim=True)
        steps = torch.arange(1, self.num_points + 1, dtype=torch.float32)
        grid = directions[:, None, None, :] * steps[None, None, :, None]
        nn.init.zeros_(self.sampling_offsets.weight)
        with torch.no_grad():
            bias = grid.expand(-1, self.offset_levels, -1, -1).reshape(-1)
            self.sampling_offsets.bias.copy_(bias)
        for projection in (self.value_proj, self.key_proj, self.query_proj, self.output_proj):
            if projection is not None:
                nn.init.xavier_uniform_(projection.weight)
                nn.init.zeros_(projection.bias)

    def attend(
        self,
        query: Tensor,
        value: Tensor,
        key_padding_mask: Tensor | None,
        reference_points: Tensor,
        shapes: LevelShapes,
    ) -> Tensor:
        """See :meth:`SamplingAttention.attend`: section 3.4 without the output projection."""
        values, keys = self.project(value, key_padding_mask)
        return key_aware_attention(
            self.split_heads(self.query_proj(query)),
            self.split_heads(keys),
            self.split_heads(values),
            shapes,
            self.sampling_locations(query, reference_points, shapes),
            backend=self.backend,
        )

    def project(self, value: Tensor, padding: Tensor | None) -> tuple[Tensor, Tensor]:
        """Projected values and keys, (B, N, C) each, zero on padding."""
        values = self.value_proj(value)
        keys = None if self.key_proj is None else self.key_proj(value)
        if padding is not None:
            values = values.masked_fill(padding[..., None], 0.0)
            keys = None if keys is None else keys.masked_fill(padding[..., None], 0.0)
        return values, values if keys is None else keys

    def split_heads(self, tokens: Tensor) -> Tensor:
        """(B, N, C) to (B, N, M, D)."""
        return split_dim(tokens, -1, (self.num_heads, self.embed_dims // self.num_heads))

    def sampling_locations(
        self, query: Tensor, reference_points: Tensor, shapes: LevelShapes
    ) -> Tensor:
        """(B, Q, M, L, P, 2) sampling locations, in the dtype of ``reference_points``."""
        batch, queries, _ = query.shape
        offsets = self.sampling_offsets(query).view(
            batch, queries, self.num_heads, self.offset_levels, self.num_points, 2
        )
        centres = reference_points[:, :, None, :, None, :2]
        if reference_points.shape[-1] == 2:
            # points and coordinates in one dimension: longer rows, three times as fast on a CPU
            rows = (len(shapes), 2 * self.num_points)
            scale = rows_of([[1 / w, 1 / h] for h, w in shapes], reference_points)
            locations = torch.addcmul(
                centres.expand(-1, -1, -1, -1, self.num_points, -1).reshape(
                    batch, queries, 1, *rows
                ),
                offsets.flatten(-2).to(reference_points.dtype),
                scale[:, None].expand(-1, self.num_points, -1).reshape(rows),
            )
            return split_dim(locations, -1, (self.num_points, 2))
        sides = reference_points[:, :, None, :, None, 2:]
        return centres + offsets / self.num_points * sides * 0.5
