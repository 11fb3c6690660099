"""Inputs for the tests of the attention operators and modules."""

from __future__ import annotations

import torch

from sparse_encoders.ops import deformable_attention, key_aware_attention, why_no_extension

SHAPES = ((7, 9), (4, 5), (2, 3), (1, 1))
needs_extension = why_no_extension() or ""


def deformable_inputs(
    batch=2,
    queries=11,
    heads=2,
    depth=8,
    points=3,
    shapes=SHAPES,
    reference=2,
    dtype=torch.float64,
    spread=3.0,
    seed=0,
    device="cpu",
):
    """(value, shapes, reference_points, offsets, logits); some locations are outside."""
    draw = torch.Generator().manual_seed(seed)
    levels, tokens = len(shapes), sum(h * w for h, w in shapes)

    def normal(*size):
        return torch.randn(*size, generator=draw, dtype=torch.float64).to(device, dtype)

    reference_points = torch.rand(batch, queries, levels, reference, generator=draw).double()
    return (
        normal(batch, tokens, heads, depth),
        shapes,
        reference_points.to(device, dtype),
        normal(batch, queries, heads, levels, points, 2) * spread,
        normal(batch, queries, heads, levels, points),
    )


def key_aware_inputs(same_locations=False, spread=0.3, **settings):
    """(query, key, value, shapes, locations); locations of one level for all, if asked."""
    value, shapes, reference_points, offsets, _ = deformable_inputs(**settings)
    batch, queries, heads = offsets.shape[:3]
    draw = torch.Generator().manual_seed(settings.get("seed", 0) + 1)
    query = torch.randn(batch, queries, heads, value.shape[-1], generator=draw).to(value)
    key = torch.randn(value.shape, generator=draw).to(value)
    locations = reference_points[:, :, None, :, None, :2] + offsets * spread / 3
    if same_locations:
        locations = locations[:, :, :, :1].expand(locations.shape)
    return query, key, value, shapes, locations


def with_gradients(operator, inputs, backend, seed=5):
    """Output and gradients of all tensors, for one fixed gradient of the output."""
    taken = [x.detach().requires_grad_() if torch.is_tensor(x) else x for x in inputs]
    output = operator(*taken, backend=backend)
    draw = torch.Generator().manual_seed(seed)
    grad = torch.randn(output.shape, generator=draw, dtype=torch.float64)
    output.backward(grad.to(output))
    return [output.detach()] + [x.grad for x in taken if torch.is_tensor(x)]


def largest_errors(actual, expected):
    """Per tensor, the largest difference over the largest magnitude."""
    return [
        float((a.double() - b.double()).abs().max() / b.double().abs().max().clamp(min=1e-30))
        if b.numel()
        else 0.0
        for a, b in zip(actual, expected, strict=True)
    ]


OPERATORS = {
    "deformable": (deformable_attention, deformable_inputs),
    "key_aware": (key_aware_attention, key_aware_inputs),
}
