"""MMCV's deformable attention module with this package's operators."""

from __future__ import annotations

from typing import Any

from mmcv.ops import MultiScaleDeformableAttention
from mmdet.registry import MODELS
from torch import Tensor, nn

from sparse_encoders.attention.base import LevelShapes, SamplingAttention
from sparse_encoders.ops import deformable_attention
from sparse_encoders.ops.extension import check_backend


@MODELS.register_module()
class DeformableAttention(SamplingAttention, MultiScaleDeformableAttention):
    """Multi-scale deformable attention (Zhu et al., Deformable DETR, ICLR 2021, equation 3).

    MMCV's module with the same arguments, parameters and initialisation. Two things differ: which
    operator computes it is a setting, and level shapes may be given as a tuple on the host.

    Args:
        *args: as MMCV's.
        backend: 'auto', 'fused', 'mmcv' (the same bits as MMCV's own module) or 'torch', see
            :func:`sparse_encoders.ops.deformable_attention`.
        **kwargs: as MMCV's (embed_dims, num_heads, num_levels, num_points, dropout, batch_first,
            value_proj_ratio, ...).

    Raises:
        ValueError: an unknown backend, or ``embed_dims`` not divisible by ``num_heads``.
    """

    # MMCV's, which is not typed
    num_heads: int
    num_levels: int
    num_points: int
    value_proj: nn.Linear
    sampling_offsets: nn.Linear
    attention_weights: nn.Linear

    def __init__(self, *args: Any, backend: str = "auto", **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.backend = check_backend("deformable_attention", backend)

    def attend(
        self,
        query: Tensor,
        value: Tensor,
        key_padding_mask: Tensor | None,
        reference_points: Tensor,
        shapes: LevelShapes,
    ) -> Tensor:
        """See :meth:`SamplingAttention.attend`: equation 3 without the output projection."""
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
