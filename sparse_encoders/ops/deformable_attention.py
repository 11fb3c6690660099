"""Multi-scale deformable attention from raw offsets and logits."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from sparse_encoders.ops import reference
from sparse_encoders.ops.extension import choose_backend, flatten, register


def deformable_attention(
    value: Tensor,
    shapes: Sequence[tuple[int, int]],
    reference_points: Tensor,
    offsets: Tensor,
    logits: Tensor,
    *,
    backend: str = "auto",
) -> Tensor:
    """Multi-scale deformable attention (Zhu et al., Deformable DETR, ICLR 2021, equation 3).

    Softmax over all L * P logits of a query and head, bilinear sampling with zeros outside
    (a token's centre is at (i + 0.5) / size), weighted sum. A location with a NaN or
    infinite coordinate samples zeros and gets no gradient.

    The compiled operator takes ``value`` in float32, float64 (CPU only), float16 (CUDA only) or
    bfloat16; the other three may be of any of these dtypes each. Sums are in float32 (float64 for
    float64), and every gradient has its input's dtype.

    Args:
        value: (B, N, M, D), tokens of all levels one after another, row by row.
        shapes: (h, w) of each level, on the host; N is the sum of h * w.
        reference_points: (B, Q, L, 2) as (x, y) or (B, Q, L, 4) as (x, y, w, h), normalised. Q is
            any number, 0 included.
        offsets: (B, Q, M, L, P, 2) as (x, y), as the projection gives them: in tokens of the
            level with 2-d reference points, in P-ths of half a box side with 4-d ones.
        logits: (B, Q, M, L, P), before the softmax.
        backend: 'auto', 'fused' (compiled), 'mmcv' (MMCV's operator) or 'torch' (plain).

    Returns:
        (B, Q, M * D) in the dtype of ``value``.

    Raises:
        TypeError: an argument is not a floating-point tensor.
        ValueError: shapes or devices that do not fit each other, a level without tokens, or a
            backend that is unknown or cannot take these tensors. The compiled operators check this
            themselves (csrc/common/checks.h), the others by :func:`.reference.check_fit`.
    """
    chosen = choose_backend("deformable_attention", backend, value)
    if chosen == "fused":
        operator = torch.ops.sparse_encoders.deformable_attention
        result: Tensor = operator(value, flatten(shapes), reference_points, offsets, logits)
        return result
    reference.check_fit(
        shapes,
        value,
        offsets=(offsets, "BQMLP2"),
        logits=(logits, "BQMLP"),
        reference_points=(reference_points, f"BQL{2 if reference_points.shape[-1] == 2 else 4}"),
    )
    if chosen == "mmcv":
        return _mmcv(value, shapes, reference_points, offsets, logits)
    return reference.deformable_attention(value, shapes, reference_points, offsets, logits)


def _mmcv(
    value: Tensor,
    shapes: Sequence[tuple[int, int]],
    reference_points: Tensor,
    offsets: Tensor,
    logits: Tensor,
) -> Tensor:
    """MMCV's operator, with softmax and sampling locations computed before."""
    from mmcv.ops.multi_scale_deform_attn import (
        MultiScaleDeformableAttnFunction,
        multi_scale_deformable_attn_pytorch,
    )

    weights = logits.flatten(-2).softmax(-1).view_as(logits)
    locations = reference.sampling_locations(shapes, reference_points, offsets)
    sizes = torch.tensor(list(map(list, shapes)), device=value.device)
    if value.is_cuda:
        starts = torch.cat([sizes.new_zeros(1), sizes.prod(1).cumsum(0)[:-1]])
        result: Tensor = MultiScaleDeformableAttnFunction.apply(
            value.contiguous(), sizes, starts, locations, weights, 64
        )
        return result
    if offsets.shape[1] == 0:
        return value.new_zeros(value.shape[0], offsets.shape[1], value.shape[2] * value.shape[3])
    output: Tensor = multi_scale_deformable_attn_pytorch(value, sizes, locations, weights)
    return output


def _meta(
    value: Tensor, shapes: Sequence[int], reference_points: Tensor, offsets: Tensor, logits: Tensor
) -> Tensor:
    batch, _, heads, depth = value.shape
    return value.new_empty(batch, offsets.shape[1], heads * depth)


register("deformable_attention", _meta)
