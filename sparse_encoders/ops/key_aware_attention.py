"""Key-aware deformable attention: the weights come from the sampled keys."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from sparse_encoders.compat import is_autocast_enabled
from sparse_encoders.ops import reference
from sparse_encoders.ops.extension import choose_backend, flatten, register


def key_aware_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    shapes: Sequence[tuple[int, int]],
    locations: Tensor,
    *,
    backend: str = "auto",
) -> Tensor:
    """Key-aware deformable attention (Li et al., Lite DETR, CVPR 2023, section 3.4).

    Keys and values are sampled at the same L * P locations of a query and head (bilinear, zeros
    outside); the weights are softmax(q . k / sqrt(D)) over them. A location with a NaN or
    infinite coordinate samples zeros and gets no gradient; it still takes part in the softmax, with
    a logit of 0, like any location outside.

    The compiled operator never holds the sampled keys or values: its memory is O(Q * M * D).

    Args:
        query: (B, Q, M, D); Q is any number, 0 included.
        key: (B, N, M, D), tokens of all levels one after another, row by row.
        value: (B, N, M, D).
        shapes: (h, w) of each level, on the host; N is the sum of h * w.
        locations: (B, Q, M, L, P, 2) normalised (x, y); any strides (an expanded level dimension
            is read as it is), any dtype of the operator's.
        backend: 'auto', 'fused' (compiled) or 'torch' (plain).

    Returns:
        (B, Q, M * D) in the dtype of ``value``.

    Raises:
        TypeError: an argument is not a floating-point tensor, or query, key and value differ in
            dtype.
        ValueError: shapes or devices that do not fit each other, a level without tokens, or a
            backend that is unknown or cannot take these tensors; checked as in
            :func:`.deformable_attention`.
    """
    if choose_backend("key_aware_attention", backend, value) == "fused":
        operator = torch.ops.sparse_encoders.key_aware_attention
        result: Tensor = operator(query, key, value, flatten(shapes), locations)
        return result
    others = {"key": (key, "BNMD"), "locations": (locations, "BQMLP2"), "query": (query, "BQMD")}
    reference.check_fit(shapes, value, **others)
    mixed = not query.dtype == key.dtype == value.dtype
    if mixed and not is_autocast_enabled(value.device.type):
        raise TypeError(
            "query, key and value must have one dtype, got "
            f"{query.dtype}, {key.dtype} and {value.dtype}"
        )
    return reference.key_aware_attention(query, key, value, shapes, locations)


def _meta(
    query: Tensor, key: Tensor, value: Tensor, shapes: Sequence[int], locations: Tensor
) -> Tensor:
    batch, queries, heads, depth = query.shape
    return value.new_empty(batch, queries, heads * depth)


register("key_aware_attention", _meta)
