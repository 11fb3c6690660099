"""Sizes that a traced graph follows, where a number of Python's would be written into it."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def split_dim(x: Tensor, dim: int, sizes: Sequence[int]) -> Tensor:
    """``x.unflatten(dim, sizes)``, a view, through sizes that are read off ``x``.

    The tracing exporter to ONNX takes what comes out of ``unflatten`` to have the example's
    shape, and writes the example's batch as a number into all that follows.

    Args:
        x: any tensor.
        dim: the dimension that is split; negative ones count from the end.
        sizes: what it is split into, whose product is its size.
    """
    dim %= x.dim()
    return x.view(*x.shape[:dim], *sizes, *x.shape[dim + 1 :])


def is_traced(size: object) -> bool:
    """Whether a size is no number but a value of the graph that is being traced."""
    return isinstance(size, Tensor)


def rows_of(rows: Sequence[Sequence[float]], like: Tensor) -> Tensor:
    """(L, n) tensor of numbers, or of traced sizes, in the dtype and on the device of ``like``.

    Each number is filled in on the device: a tensor of Python numbers would be copied there, which
    the host waits for.
    """
    values = [
        size.to(like) if isinstance(size, Tensor) else like.new_full((), size)
        for row in rows
        for size in row
    ]
    return torch.stack(values).view(len(rows), len(rows[0]))


def at_most(size: int, limit: int) -> int:
    """The smaller one of a size, traced or not, and a number."""
    return size.clamp(max=limit) if isinstance(size, Tensor) else min(size, limit)
