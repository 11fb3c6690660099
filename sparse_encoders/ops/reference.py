"""Both operators in plain PyTorch, the reference for tests of the compiled ones.

They run on any device and dtype without the extension and are differentiated by autograd. Unlike
the compiled operators they hold all sampled vectors in memory.

In half precision, locations, softmax and sums are computed in float32, and the output is rounded to
the dtype of ``value``.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from sparse_encoders.shapes import rows_of

Shapes = Sequence[tuple[int, int]]


def check_fit(shapes: Shapes, value: Tensor, **others: tuple[Tensor, str]) -> None:
    """Check shapes, dtypes and devices of an operator's tensors, with messages that name them.

    Args:
        shapes: (h, w) per level.
        value: (B, N, M, D).
        others: by name of the argument, the tensor and its layout, one character for each
            dimension.

    Raises:
        TypeError: a tensor that is not floating point.
        ValueError: a tensor does not fit; the message has its layout and the sizes.
    """
    if not shapes or any(height < 1 or width < 1 for height, width in shapes):
        raise ValueError(f"every level in shapes must be at least 1 x 1, got {tuple(shapes)}")
    tokens = sum(height * width for height, width in shapes)
    sizes = {"N": tokens, "L": len(shapes), "2": 2, "4": 4}
    for name, (tensor, layout) in {"value": (value, "BNMD"), **others}.items():
        pairs = zip(layout, tensor.shape, strict=False)
        wanted = [sizes.setdefault(letter, size) for letter, size in pairs]
        text = f"{name} must be ({', '.join(layout)})"
        if not tensor.is_floating_point():
            raise TypeError(f"{text} of floating point, got {tensor.dtype}")
        if list(tensor.shape) != wanted or len(wanted) != len(layout):
            raise ValueError(f"{text} = {tuple(wanted)}, got {tuple(tensor.shape)}; {shapes=}")
        if tensor.device != value.device:
            raise ValueError(f"{name} must be on {value.device} as value, got {tensor.device}")


def sampling_locations(shapes: Shapes, reference_points: Tensor, offsets: Tensor) -> Tensor:
    """Sampling locations of each query (Zhu et al., Deformable DETR, ICLR 2021, section 4.1).

    Args:
        shapes: (h, w) per level.
        reference_points: (B, Q, L, 2) as (x, y) or (B, Q, L, 4) as (x, y, w, h), in [0, 1] over
            the padded map.
        offsets: (B, Q, M, L, P, 2) as (x, y); in tokens of the level with 2-d reference points,
            in P-ths of half a box side with 4-d ones.

    Returns:
        (B, Q, M, L, P, 2) normalised (x, y).
    """
    centres = reference_points[:, :, None, :, None, :2]
    if reference_points.shape[-1] == 2:
        sizes = rows_of([[w, h] for h, w in shapes], offsets)
        return centres + offsets / sizes[:, None, :]
    sides = reference_points[:, :, None, :, None, 2:]
    return centres + offsets / offsets.shape[-2] * sides * 0.5


def sample(feature: Tensor, shapes: Shapes, locations: Tensor) -> Tensor:
    """Bilinear samples with zeros outside (a token's centre is at (i + 0.5) / size).

    A location with a NaN or infinite coordinate is outside of every map: it gives zeros and gets no
    gradient, as in MMCV's CUDA operator.

    Args:
        feature: (B, N, M, D).
        shapes: (h, w) per level, N = sum of h * w.
        locations: (B, Q, M, L, P, 2) normalised (x, y).

    Returns:
        (B, M, Q, L * P, D).
    """
    batch, _, heads, depth = feature.shape
    queries = locations.shape[1]
    outside = (~locations.isfinite()).any(-1, keepdim=True)
    grids = locations.masked_fill(outside, -2.0).clamp(-2.0, 3.0).mul(2.0).sub(1.0)
    sampled = []
    start = 0
    for level, (height, width) in enumerate(shapes):
        tokens = feature[:, start : start + height * width]
        start += height * width
        maps = tokens.permute(0, 2, 3, 1).reshape(batch * heads, depth, height, width)
        grid = grids[:, :, :, level].transpose(1, 2).flatten(0, 1)
        taken = F.grid_sample(maps, grid, padding_mode="zeros", align_corners=False)
        sampled.append(taken.view(batch, heads, depth, queries, locations.shape[4]))
    return torch.cat(sampled, dim=-1).permute(0, 1, 3, 4, 2)


def deformable_attention(
    value: Tensor, shapes: Shapes, reference_points: Tensor, offsets: Tensor, logits: Tensor
) -> Tensor:
    """Plain form of :func:`sparse_encoders.ops.deformable_attention`, same arguments."""
    wide = _accumulate_dtype(value.dtype)
    locations = sampling_locations(shapes, reference_points.to(wide), offsets.to(wide))
    weights = logits.to(wide).flatten(-2).softmax(-1).transpose(1, 2)  # (B, M, Q, L*P)
    sampled = sample(value.to(wide), shapes, locations)
    output = (weights.unsqueeze(-1) * sampled).sum(-2)  # (B, M, Q, D)
    return output.transpose(1, 2).flatten(2).to(value.dtype)


def key_aware_attention(
    query: Tensor, key: Tensor, value: Tensor, shapes: Shapes, locations: Tensor
) -> Tensor:
    """Plain form of :func:`sparse_encoders.ops.key_aware_attention`, same arguments."""
    wide = _accumulate_dtype(value.dtype)
    locations = locations.to(wide)
    keys = sample(key.to(wide), shapes, locations)  # (B, M, Q, L*P, D)
    values = sample(value.to(wide), shapes, locations)
    queries = query.to(wide).transpose(1, 2).unsqueeze(-2)  # (B, M, Q, 1, D)
    logits = (queries * keys).sum(-1) / math.sqrt(query.shape[-1])
    output = (logits.softmax(-1).unsqueeze(-1) * values).sum(-2)
    return output.transpose(1, 2).flatten(2).to(value.dtype)


def _accumulate_dtype(dtype: torch.dtype) -> torch.dtype:
    """float64 for float64, float32 for every other dtype."""
    return torch.float64 if dtype == torch.float64 else torch.float32
