"""Both operators, forward and backward, on small tensors: what compute-sanitizer looks at.

    compute-sanitizer --tool memcheck python -m sparse_encoders.analysis.gpu_check.driver cuda

Every path of the kernels: channels of a kernel of their own and others, addresses off 16 bytes,
few and many queries, places off the map and not finite.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from sparse_encoders.ops import deformable_attention, key_aware_attention

SHAPES = ((7, 9), (4, 5), (1, 1))
HEADS, POINTS = 3, 4
CHANNELS = (16, 32, 64, 24, 5)
QUERIES = (1, 37, 300)


def calls(device: str) -> Iterator[str]:
    """Run everything; names what was run.

    Raises:
        ValueError: a result of finite places that is not finite.
    """
    gpu = torch.device(device).type == "cuda"
    dtypes = [torch.float32, torch.bfloat16, *[torch.float16] * gpu]
    torch.manual_seed(0)
    for dtype in dtypes:
        for channels in CHANNELS:
            for queries in QUERIES:
                for name, output, inputs in _operators(device, dtype, channels, queries):
                    grads = torch.autograd.grad(output.float().square().sum(), inputs)
                    if not all(tensor.isfinite().all() for tensor in (output, *grads)):
                        raise ValueError(f"{name}: not finite")
                    yield name


def _operators(
    device: str, dtype: torch.dtype, channels: int, queries: int
) -> Iterator[tuple[str, Tensor, list[Tensor]]]:
    """Each operator's name, output, and the tensors that get gradients."""
    tokens, levels = sum(h * w for h, w in SHAPES), len(SHAPES)

    def draw(*size: int, off: int = 0) -> Tensor:
        flat = torch.randn(off + math.prod(size), device=device, dtype=dtype)
        return flat[off:].view(size).requires_grad_()

    sets = (2, queries, HEADS, levels, POINTS)
    about = f"{dtype}, {channels} channels, {queries} queries"
    for off in (0, 1):
        value = draw(2, tokens, HEADS, channels, off=off)
        points: Any = torch.rand(2, queries, levels, 4 if off else 2, device=device)
        offsets, logits = draw(*sets, 2), draw(*sets)
        with torch.no_grad():
            # a box's side gets gradient times offset, so there only far ones
            offsets[:, ::3, :, 1, 2, 0] = -1e4 if off else (torch.nan, torch.inf)[queries % 2]
        inputs = [value, points.requires_grad_(), offsets, logits]
        output = deformable_attention(value, SHAPES, *inputs[1:], backend="fused")
        yield f"deformable, {about}", output, inputs
        query, key = draw(2, queries, HEADS, channels), draw(2, tokens, HEADS, channels, off=off)
        places = (torch.rand(*sets, 2, device=device) * 1.4 - 0.2).requires_grad_()
        used = value if off else key
        output = key_aware_attention(query, used, value, SHAPES, places, backend="fused")
        yield f"key-aware, {about}", output, [query, used, *[value] * (not off), places]


def main(device: str) -> int:
    """Run everything; prints how many calls there were."""
    done = list(calls(device))
    if torch.device(device).type == "cuda":
        torch.cuda.synchronize(device)
    print(f"{len(done)} calls, forward and backward, on {device}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1] if len(sys.argv) > 1 else "cuda"))
