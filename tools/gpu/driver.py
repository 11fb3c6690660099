"""Call both operators, forward and backward, on small tensors, for compute-sanitizer to check.

    PYTHONPATH=.:tools compute-sanitizer --tool memcheck python -m gpu.driver cuda

The calls take every path of the kernels: channels with and without a specialised kernel, addresses
not aligned to 16 bytes, few and many queries, sampling locations outside the map and not finite.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator
from itertools import product
from typing import Any

import torch
from torch import Tensor

from sparse_encoders.ops import deformable_attention, key_aware_attention

SHAPES = ((7, 9), (4, 5), (1, 1))
HEADS, POINTS = 3, 4
CHANNELS = (16, 32, 64, 24, 5)
QUERIES = (1, 37, 300)


def calls(device: str) -> Iterator[str]:
    """Run all calls; yields the name of each.

    Raises:
        ValueError: an output or a gradient is not finite.
    """
    gpu = torch.device(device).type == "cuda"
    dtypes = [torch.float32, torch.bfloat16, *[torch.float16] * gpu]
    torch.manual_seed(0)
    for sizes in product(dtypes, CHANNELS, QUERIES):
        for name, output, inputs in _operators(device, *sizes):
            grads = torch.autograd.grad(output.float().square().sum(), inputs)
            if not all(tensor.isfinite().all() for tensor in (output, *grads)):
                raise ValueError(f"{name}: the output or a gradient is not finite")
            yield name


def _operators(
    device: str, dtype: torch.dtype, channels: int, queries: int
) -> Iterator[tuple[str, Tensor, list[Tensor]]]:
    """Run each operator; yields its name, its output and the inputs that require gradients."""
    tokens, levels = sum(h * w for h, w in SHAPES), len(SHAPES)

    def draw(*size: int, skip: int = 0) -> Tensor:  # skip: elements before it, which misalign it
        flat = torch.randn(skip + math.prod(size), device=device, dtype=dtype)
        return flat[skip:].view(size).requires_grad_()

    samples = (2, queries, HEADS, levels, POINTS)
    case = f"{dtype}, {channels} channels, {queries} queries"
    for skip in (0, 1):
        value = draw(2, tokens, HEADS, channels, skip=skip)
        points: Any = torch.rand(2, queries, levels, 4 if skip else 2, device=device)
        offsets, logits = draw(*samples, 2), draw(*samples)
        with torch.no_grad():
            # the gradient of a box's size is multiplied by the offset, which then must be finite
            offsets[:, ::3, :, 1, 2, 0] = -1e4 if skip else (torch.nan, torch.inf)[queries % 2]
        inputs = [value, points.requires_grad_(), offsets, logits]
        output = deformable_attention(value, SHAPES, *inputs[1:], backend="fused")
        yield f"deformable, {case}", output, inputs
        query, key = draw(2, queries, HEADS, channels), draw(2, tokens, HEADS, channels, skip=skip)
        locations = (torch.rand(*samples, 2, device=device) * 1.4 - 0.2).requires_grad_()
        keys = value if skip else key  # also one tensor as keys and values
        output = key_aware_attention(query, keys, value, SHAPES, locations, backend="fused")
        yield f"key-aware, {case}", output, [query, keys, *[value] * (not skip), locations]


if __name__ == "__main__":
    number = len(list(calls(sys.argv[1])))
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    print(f"{number} calls, forward and backward, on {sys.argv[1]}")
