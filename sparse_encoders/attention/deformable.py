"""MMCV's deformable attention module over this package's operator."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from mmcv.ops import MultiScaleDeformableAttention
from mmdet.registry import MODELS
from torch import Tensor

from sparse_encoders.ops import BACKENDS, deformable_attention

LevelShapes = Sequence[tuple[int, int]]


@MODELS.register_module()
class DeformableAttention(MultiScaleDeformableAttention):
    """Multi-scale deformable attention (Zhu et al., Deformable DETR, ICLR 2021, equation 3).

    MMCV's module with the same arguments, parameters and initialisation; only the operator behind
    it is chosen here, and the level shapes may come from the host.

    Args:
        *args: as MMCV's.
        backend: 'auto', 'fused', 'mmcv' (bit for bit MMCV's own forward) or 'torch', see
            :func:`sparse_encoders.ops.deformable_attention`.
        **kwargs: as MMCV's (embed_dims, num_heads, num_levels, num_points, dropout, batch_first,
            value_proj_ratio, ...).

    Raises:
        ValueError: an unknown backend, or ``embed_dims`` not divisible by ``num_heads``.
    """

    def __init__(self, *args: Any, backend: str = "auto", **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.backend = check_backend(backend, BACKENDS)

    def forward(
        self,
        query: Tensor,
        key: Tensor | None = None,
        value: Tensor | None = None,
        identity: Tensor | None = None,
        query_pos: Tensor | None = None,
        key_padding_mask: Tensor | None = None,
        reference_points: Tensor | None = None,
        spatial_shapes: Tensor | LevelShapes | None = None,
        level_start_index: Tensor | None = None,
        **kwargs: Any,
    ) -> Tensor:
        """Attend from ``query`` to the tokens of all levels.

        Args:
            query: (B, Q, C), or (Q, B, C) when not ``batch_first``.
            key: ignored, as in MMCV.
            value: (B, N, C) or (N, B, C); ``query`` if None.
            identity: added to the output, shape of ``query``; ``query`` if None.
            query_pos: added to ``query`` before its projections.
            key_padding_mask: (B, N) bool, True = padding: its values count as zero.
            reference_points: (B, Q, L, 2) or (B, Q, L, 4), normalised (x, y[, w, h]).
            spatial_shapes: (h, w) per level, as a host tuple (no device synchronisation) or as an
                (L, 2) integer tensor (read back to the host).
            level_start_index: (L,), needed by nobody; may be None.
            **kwargs: ignored, as in MMCV.

        Returns:
            Shape of ``query``.

        Raises:
            TypeError: ``reference_points`` or ``spatial_shapes`` is missing.
            ValueError: shapes that do not fit each other.
        """
        if reference_points is None or spatial_shapes is None:
            raise TypeError("DeformableAttention needs reference_points and spatial_shapes")
        if self.backend == "mmcv":
            shapes_tensor, starts = _as_tensors(spatial_shapes, query.device)
            output: Tensor = super().forward(
                query,
                value=value,
                identity=identity,
                query_pos=query_pos,
                key_padding_mask=key_padding_mask,
                reference_points=reference_points,
                spatial_shapes=shapes_tensor,
                level_start_index=starts,
            )
            return output
        value = query if value is None else value
        identity = query if identity is None else identity
        query = query if query_pos is None else query + query_pos
        if not self.batch_first:
            query, value = query.transpose(0, 1), value.transpose(0, 1)
        attended = self.attend(
            query, value, key_padding_mask, reference_points, level_shapes(spatial_shapes)
        )
        output = self.output_proj(attended)
        if not self.batch_first:
            output = output.transpose(0, 1)
        result: Tensor = self.dropout(output) + identity
        return result

    def attend(
        self,
        query: Tensor,
        value: Tensor,
        key_padding_mask: Tensor | None,
        reference_points: Tensor,
        shapes: LevelShapes,
    ) -> Tensor:
        """(B, Q, C) before the output projection; everything batch first."""
        batch, queries, _ = query.shape
        value = self.value_proj(value)
        if key_padding_mask is not None:
            value = value.masked_fill(key_padding_mask[..., None], 0.0)
        sets = (batch, queries, self.num_heads, self.num_levels, self.num_points)
        return deformable_attention(
            value.view(batch, value.shape[1], self.num_heads, -1),
            shapes,
            reference_points,
            self.sampling_offsets(query).view(*sets, 2),
            self.attention_weights(query).view(sets),
            backend=self.backend,
        )


def check_backend(backend: str, offered: Sequence[str]) -> str:
    """The backend, if it is one of ``offered``.

    Raises:
        ValueError: it is not.
    """
    if backend not in offered:
        raise ValueError(f"backend must be one of {', '.join(offered)}, got {backend!r}")
    return backend


def level_shapes(spatial_shapes: Tensor | LevelShapes) -> tuple[tuple[int, int], ...]:
    """Level shapes as host integers; a tensor on a device is read back (a synchronisation)."""
    if isinstance(spatial_shapes, Tensor):
        spatial_shapes = spatial_shapes.tolist()
    return tuple((h, w) for h, w in spatial_shapes)


def _as_tensors(
    spatial_shapes: Tensor | LevelShapes, device: torch.device
) -> tuple[Tensor, Tensor]:
    """(L, 2) level shapes and (L,) start indices, as MMCV wants them."""
    shapes = torch.as_tensor(spatial_shapes, dtype=torch.long, device=device)
    ends = shapes.prod(1).cumsum(0)
    return shapes, torch.cat([ends.new_zeros(1), ends[:-1]])
