"""What torch's flop counter must be told: formulas of the operators that it does not know.

Torch counts matrix products and convolutions. A number that attention samples from a feature map
takes 4 multiply-adds (bilinear), and one more where it is used: times its weight in the sum, or
times the query's in key-aware attention. Operators, MMCV's fallback and plain PyTorch sample the
same numbers, so the count does not depend on the attention backend.

A formula gives floating-point operations, of which a multiply-add has two, as torch's own do.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import prod
from typing import Any

import torch

from sparse_encoders.compat import register_flop_formula
from sparse_encoders.ops import has_extension

OPERATIONS_PER_MADD = 2
MADDS_PER_SAMPLE = 5

Shape = Sequence[int]


def deformable_attention(
    value: Shape,
    level_shapes: Sequence[int],
    reference_points: Shape,
    offsets: Shape,
    logits: Shape,
    *args: Any,
    **kwargs: Any,
) -> int:
    """Operations of ``torch.ops.sparse_encoders.deformable_attention``.

    Args:
        value: (B, N, M, D), the shape of the values.
        level_shapes: not needed.
        reference_points: not needed.
        offsets: not needed.
        logits: (B, Q, M, L, P): each query and head samples L * P vectors of D numbers.
        *args: not needed.
        **kwargs: not needed.
    """
    return OPERATIONS_PER_MADD * MADDS_PER_SAMPLE * prod(logits) * value[3]


def key_aware_attention(
    query: Shape,
    key: Shape,
    value: Shape,
    level_shapes: Sequence[int],
    locations: Shape,
    *args: Any,
    **kwargs: Any,
) -> int:
    """Operations of ``torch.ops.sparse_encoders.key_aware_attention``: keys and values are sampled.

    Args:
        query: not needed.
        key: (B, N, M, D).
        value: (B, N, M, D).
        level_shapes: not needed.
        locations: (B, Q, M, L, P, 2).
        *args: not needed.
        **kwargs: not needed.
    """
    sampled = prod(locations[:-1])
    return OPERATIONS_PER_MADD * MADDS_PER_SAMPLE * sampled * (key[3] + value[3])


def grid_sample(*args: Any, out_shape: Shape, **kwargs: Any) -> int:
    """Operations of ``grid_sample`` and of the use of what it samples, inside attention.

    Args:
        *args: not needed.
        **kwargs: not needed.
        out_shape: every number of the output is sampled.
    """
    return OPERATIONS_PER_MADD * MADDS_PER_SAMPLE * prod(out_shape)


def dot_product_attention(query: Shape, key: Shape, value: Shape, *args: Any, **kwargs: Any) -> int:
    """Operations of ``scaled_dot_product_attention`` on the CPU, which torch's counter leaves out.

    Args:
        query: (B, M, Q, D).
        key: (B, M, K, D).
        value: (B, M, K, E).
        *args: not needed.
        **kwargs: not needed.
    """
    return OPERATIONS_PER_MADD * prod(query[:3]) * key[2] * (query[3] + value[3])


# for this package's counter only: elsewhere a grid_sample need not belong to an attention
FORMULAS: dict[Any, Callable[..., int]] = {torch.ops.aten.grid_sampler_2d: grid_sample}
if hasattr(torch.ops.aten, "_scaled_dot_product_flash_attention_for_cpu"):
    FORMULAS[torch.ops.aten._scaled_dot_product_flash_attention_for_cpu] = dot_product_attention


def _register() -> None:
    """Let any ``FlopCounterMode`` count this package's operators."""
    for name, formula in (
        ("deformable_attention", deformable_attention),
        ("key_aware_attention", key_aware_attention),
    ):
        register_flop_formula(getattr(torch.ops.sparse_encoders, name), formula)


if has_extension():
    _register()
