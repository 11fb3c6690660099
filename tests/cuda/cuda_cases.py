"""Inputs, and the comparison with the plain operators in float64, for the tests here.

Inputs are lists of tensors in the operators' order, without the levels' shapes, which are
``SHAPES``: value, reference points, offsets and logits, or query, key, value and locations.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from sparse_encoders.ops import reference

Shapes = Sequence[tuple[int, int]]
SHAPES = ((7, 9), (4, 5), (2, 3), (1, 1))
FLAT = [side for shape in SHAPES for side in shape]
CHANNELS = (16, 32, 64, 24, 5)  # three of their own layout, any multiple of 8, any at all
CLOSE = {torch.float32: 3e-6, torch.float16: 1e-3, torch.bfloat16: 8e-3}


def deformable_inputs(
    channels: int = 32, coordinates: int = 2, *, queries: int = 37, points: int = 4,
    shapes: Shapes = SHAPES, batch: int = 2, heads: int = 3,
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


def plain_deformable(value: Tensor, *others: Tensor, shapes: Shapes = SHAPES) -> Tensor:
    return reference.deformable_attention(value, shapes, *others)


def plain_key_aware(query: Tensor, *others: Tensor) -> Tensor:
    """Query, key, value and locations; without a key, the value is the key."""
    return reference.key_aware_attention(query, others[0], others[-2], SHAPES, others[-1])


def check(
    operator: Callable[[Sequence[Tensor], Tensor], Sequence[Tensor]],
    plain: Callable[..., Tensor],
    inputs: Sequence[Tensor],
    close: float | None = None,
    plain_inputs: Sequence[Tensor] | None = None,
) -> Sequence[Tensor]:
    """Compare output and gradients of an operator with those of the plain one, in float64.

    Args:
        operator: takes inputs and the output's gradient, returns output and inputs' gradients.
        plain: takes the inputs.
        inputs: of the operator.
        close: see :func:`assert_same`.
        plain_inputs: of the plain operator, where they differ.

    Returns:
        What the operator returned.
    """
    inputs_or_others = inputs if plain_inputs is None else plain_inputs
    exact = [tensor.detach().double().requires_grad_() for tensor in inputs_or_others]
    output = plain(*exact)
    grad = torch.randn(output.shape).to(inputs[0].dtype)
    got = operator(inputs, grad)
    assert_same(got, [output.detach(), *torch.autograd.grad(output, exact, grad.double())], close)
    return got


def assert_same(
    got: Sequence[Tensor], expected: Sequence[Tensor], close: float | None = None
) -> None:
    """Compare every pair by its largest difference over its largest number."""
    assert len(got) == len(expected)
    for number, (a, b) in enumerate(zip(got, expected, strict=True)):
        limit = CLOSE[a.dtype] if close is None else close
        error = float((a.double() - b.double()).abs().max() / b.abs().max())
        assert error <= limit, f"result {number} is off by {error:.2e}, allowed {limit:.0e}"
