"""The plain PyTorch operators: numbers worked out by hand, and an independent slow form."""

import math

import pytest
import torch

from op_cases import deformable_inputs, key_aware_inputs, largest_errors
from sparse_encoders.ops import deformable_attention, key_aware_attention


def bilinear(feature, height, width, x, y):
    """Sample one (h * w, D) map at a location in tokens, corner by corner."""
    total = torch.zeros(feature.shape[-1], dtype=feature.dtype)
    if not (math.isfinite(x) and math.isfinite(y)):
        return total
    for row in (math.floor(y), math.floor(y) + 1):
        for column in (math.floor(x), math.floor(x) + 1):
            if 0 <= row < height and 0 <= column < width:
                weight = (1 - abs(x - column)) * (1 - abs(y - row))
                total += weight * feature[row * width + column]
    return total


def slow_samples(feature, shapes, locations, b, q, m):
    samples, start = [], 0
    for level, (height, width) in enumerate(shapes):
        tokens = feature[b, start : start + height * width, m]
        start += height * width
        for x, y in locations[b, q, m, level].tolist():
            samples.append(bilinear(tokens, height, width, x * width - 0.5, y * height - 0.5))
    return torch.stack(samples)


def slow_deformable(value, shapes, reference_points, offsets, logits):
    batch, queries, heads, _, points, _ = offsets.shape
    sizes = torch.tensor([[w, h] for h, w in shapes], dtype=offsets.dtype)
    centre = reference_points[:, :, None, :, None, :2]
    if reference_points.shape[-1] == 2:
        locations = centre + offsets / sizes[:, None]
    else:
        locations = centre + offsets / points * reference_points[:, :, None, :, None, 2:] * 0.5
    output = torch.zeros(batch, queries, heads, value.shape[-1], dtype=value.dtype)
    for b in range(batch):
        for q in range(queries):
            for m in range(heads):
                weights = logits[b, q, m].flatten().softmax(0)
                output[b, q, m] = weights @ slow_samples(value, shapes, locations, b, q, m)
    return output.flatten(2)


def slow_key_aware(query, key, value, shapes, locations):
    output = torch.zeros_like(query)
    for b in range(query.shape[0]):
        for q in range(query.shape[1]):
            for m in range(query.shape[2]):
                keys = slow_samples(key, shapes, locations, b, q, m)
                values = slow_samples(value, shapes, locations, b, q, m)
                logits = keys @ query[b, q, m] / math.sqrt(query.shape[-1])
                output[b, q, m] = logits.softmax(0) @ values
    return output.flatten(2)


@pytest.mark.parametrize("reference", [2, 4])
def test_deformable_is_its_equation(reference):
    inputs = deformable_inputs(queries=5, reference=reference)
    output = deformable_attention(*inputs, backend="torch")
    assert largest_errors([output], [slow_deformable(*inputs)])[0] < 1e-12


def test_key_aware_is_its_equation():
    inputs = key_aware_inputs(queries=5)
    output = key_aware_attention(*inputs, backend="torch")
    assert largest_errors([output], [slow_key_aware(*inputs)])[0] < 1e-12


def test_by_hand():
    # one 1 x 2 level holding 10 and 30; x = 0.5 is half way: 0.5 * 10 + 0.5 * 30 = 20
    value = torch.tensor([10.0, 30.0]).view(1, 2, 1, 1)
    reference_points = torch.full((1, 1, 1, 2), 0.5)
    offsets = torch.zeros(1, 1, 1, 1, 2, 2)
    offsets[..., 1, 0] = 0.5  # second point half a token to the right: at 30
    logits = torch.tensor([0.0, math.log(3.0)]).view(1, 1, 1, 1, 2)  # weights 1/4, 3/4
    output = deformable_attention(value, [(1, 2)], reference_points, offsets, logits)
    assert output.item() == pytest.approx(0.25 * 20 + 0.75 * 30)


def test_box_offsets_reach_the_sides_of_the_box():
    # offset P along x is half a box width: from the centre 0.5 to 0.5 + 0.5 * 0.5 = 0.75
    value = torch.tensor([10.0, 30.0]).view(1, 2, 1, 1)
    reference_points = torch.tensor([0.5, 0.5, 0.5, 0.5]).view(1, 1, 1, 4)
    offsets = torch.tensor([[4.0, 0.0]] * 4).view(1, 1, 1, 1, 4, 2)
    logits = torch.zeros(1, 1, 1, 1, 4)
    output = deformable_attention(value, [(1, 2)], reference_points, offsets, logits)
    assert output.item() == pytest.approx(30.0)
