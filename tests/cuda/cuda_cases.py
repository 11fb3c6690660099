"""Inputs, the plain operators' answers in float64, and the comparison, for the tests here."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from sparse_encoders.ops import reference

SHAPES = ((7, 9), (4, 5), (2, 3), (1, 1))
CLOSE = {torch.float32: 3e-6, torch.float16: 1e-3, torch.bfloat16: 8e-3}


def deformable_inputs(
    channels: int = 32, coordinates: int = 2, *, queries: int = 37, points: int = 4,
    shapes: Sequence[tuple[int, int]] = SHAPES, batch: int = 2, heads: int = 3,
) -> list[Tensor]:  # fmt: skip
    """Value, reference points, offsets and logits; some of the locations are off the map."""
    tokens, levels = sum(h * w for h, w in shapes), len(shapes)
    return [
        torch.randn(batch, tokens, heads, channels),
        torch.rand(batch, queries, levels, coordinates),
        torch.randn(batch, queries, heads, levels, points, 2) * 3,
        torch.randn(batch, queries, heads, levels, points) * 2,
    ]


def key_aware_inputs(
    channels: int = 32, *, queries: int = 37, points: int = 4, batch: int = 2, heads: int = 3
) -> list[Tensor]:
    """Query, key, value and locations; some of the locations are off the map."""
    tokens = sum(h * w for h, w in SHAPES)
    return [
        torch.randn(batch, queries, heads, channels),
        torch.randn(batch, tokens, heads, channels),
        torch.randn(batch, tokens, heads, channels),
        torch.rand(batch, queries, heads, len(SHAPES), points, 2) * 1.4 - 0.2,
    ]


def truth(
    operator: Callable[..., Tensor], inputs: Sequence[Tensor], grad: Tensor
) -> tuple[Tensor, ...]:
    """Output and gradients of the plain operator, in float64."""
    exact = [tensor.detach().double().requires_grad_() for tensor in inputs]
    output = operator(*exact)
    return output.detach(), *torch.autograd.grad(output, exact, grad.double())


def plain_deformable(value: Tensor, *others: Tensor) -> Tensor:
    return reference.deformable_attention(value, SHAPES, *others)


def plain_key_aware(query: Tensor, key: Tensor, value: Tensor, locations: Tensor) -> Tensor:
    return reference.key_aware_attention(query, key, value, SHAPES, locations)


def assert_same(
    got: Sequence[Tensor], expected: Sequence[Tensor], close: float | None = None
) -> None:
    """Compare every pair by its largest difference over its largest number."""
    assert len(got) == len(expected)
    for number, (a, b) in enumerate(zip(got, expected, strict=True)):
        limit = CLOSE[a.dtype] if close is None else close
        error = float((a.double() - b.double()).abs().max() / b.abs().max())
        assert error <= limit, f"result {number} is off by {error:.2e}, allowed {limit:.0e}"
