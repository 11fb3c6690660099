"""Sizes that a traced graph follows."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from sparse_encoders.shapes import at_most, is_traced, rows_of, split_dim


@pytest.mark.parametrize("shape", [(2, 6, 3), (2, 6, 0)])
def test_split_dim_is_unflatten(shape: tuple[int, ...]) -> None:
    x = torch.rand(shape).transpose(1, 2)
    split = split_dim(x, -1, (2, 3))
    assert torch.equal(split, x.unflatten(-1, (2, 3))) and split.data_ptr() == x.data_ptr()
    assert split_dim(x, 0, (1, 2)).shape == (1, 2, *x.shape[1:])
    with pytest.raises(RuntimeError, match="invalid for input of size"):
        split_dim(torch.rand(shape[:2]), 1, (4, 2))


def halves(x: Tensor) -> tuple[Tensor, Tensor]:
    """What of ``x`` is no more than three rows, and its sizes as a tensor."""
    height, width = x.shape
    assert is_traced(height) == torch.jit.is_tracing()
    return x[: at_most(height, 3)], rows_of([[width, height], [1 / width, 2]], x)


def test_a_trace_follows_sizes() -> None:
    traced = torch.jit.trace(halves, torch.rand(5, 4), check_trace=False)
    for shape in ((5, 4), (2, 8), (9, 2)):
        x = torch.rand(shape)
        for actual, expected in zip(traced(x), halves(x), strict=True):
            assert torch.equal(actual, expected) and actual.dtype == expected.dtype
    assert halves(torch.rand(2, 8))[1].tolist() == [[8.0, 2.0], [0.125, 2.0]]
