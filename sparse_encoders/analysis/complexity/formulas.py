"""Formulas for torch's flop counter, of operators that it does not know.

Torch counts matrix products and convolutions. A number that attention samples from a feature map
takes 4 multiply-adds (bilinear) and one more for its use: its product with the weight in the sum,
or with the query in key-aware attention. The compiled operators, MMCV's fallback and plain PyTorch
sample the same numbers, so the count does not depend on the attention backend.

Like torch's own, a formula takes the shapes of an operator's arguments and returns floating-point
operations, two for each multiply-add.
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


def _of_samples(count: int) -> int:
    """Operations to sample ``count`` numbers and use each once."""
    return OPERATIONS_PER_MADD * MADDS_PER_SAMPLE * count


def deformable_attention(
    value: Shape, levels: Any, points: Any, offsets: Any, logits: Shape, *args: Any, **kwargs: Any
) -> int:
    """A query and head samples L * P vectors of D: value (B, N, M, D), logits (B, Q, M, L, P)."""
    return _of_samples(prod(logits) * value[3])


def key_aware_attention(
    query: Shape, key: Shape, value: Shape, levels: Any, locations: Shape, *args: Any, **kwargs: Any
) -> int:
    """Keys and values (B, N, M, D) are sampled at the locations (B, Q, M, L, P, 2)."""
    return _of_samples(prod(locations[:-1]) * (key[3] + value[3]))


def grid_sample(*args: Any, out_shape: Shape, **kwargs: Any) -> int:
    """Every number of the output is sampled, and used inside attention."""
    return _of_samples(prod(out_shape))


def dot_product_attention(query: Shape, key: Shape, value: Shape, *args: Any, **kwargs: Any) -> int:
    """``scaled_dot_product_attention`` on the CPU, which torch's counter leaves out.

    Queries are (B, M, Q, D), keys (B, M, K, D), values (B, M, K, E).
    """
    return OPERATIONS_PER_MADD * prod(query[:3]) * key[2] * (query[3] + value[3])


# for this package's counter only: elsewhere a grid_sample need not belong to an attention
FORMULAS: dict[Any, Callable[..., int]] = {torch.ops.aten.grid_sampler_2d: grid_sample}
if hasattr(torch.ops.aten, "_scaled_dot_product_flash_attention_for_cpu"):
    FORMULAS[torch.ops.aten._scaled_dot_product_flash_attention_for_cpu] = dot_product_attention


if has_extension():  # any FlopCounterMode counts this package's operators
    for formula in (deformable_attention, key_aware_attention):
        register_flop_formula(getattr(torch.ops.sparse_encoders, formula.__name__), formula)
