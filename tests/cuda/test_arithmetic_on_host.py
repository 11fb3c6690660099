"""The CUDA kernels' own source, run on the CPU, against the plain operators in float64.

What this shows: indexing, exchanges between lanes, arithmetic, roundings. What it cannot show: the
GPU's memory model and speed (test_on_gpu.py).
"""

from __future__ import annotations

import pytest
import torch
from cuda_cases import (
    SHAPES,
    assert_same,
    deformable_inputs,
    key_aware_inputs,
    plain_deformable,
    plain_key_aware,
    truth,
)

from sparse_encoders.ops import reference

pytestmark = pytest.mark.slow
CHANNELS = (16, 32, 64, 24, 5)  # three of their own layout, any multiple of 8, any at all


@pytest.mark.parametrize("coordinates", [2, 4])
@pytest.mark.parametrize("channels", CHANNELS)
def test_deformable_attention(kernels, channels, coordinates):
    value, *others = inputs = deformable_inputs(channels, coordinates)
    grad = torch.randn(2, 37, 3 * channels)
    output = kernels.deformable_attention(value, SHAPES, *others)
    grads = kernels.deformable_attention_backward(grad, value, SHAPES, *others)
    assert_same([output, *grads], truth(plain_deformable, inputs, grad))


@pytest.mark.parametrize("key_is_value", [False, True])
@pytest.mark.parametrize("channels", CHANNELS)
def test_key_aware_attention(kernels, channels, key_is_value):
    query, key, value, locations = key_aware_inputs(channels)
    inputs = [query, value if key_is_value else key, value, locations]
    grad = torch.randn(2, 37, 3 * channels)
    output = kernels.key_aware_attention(*inputs[:3], SHAPES, locations)
    grads = kernels.key_aware_attention_backward(grad, *inputs[:3], SHAPES, locations)
    assert_same([output, *grads], truth(plain_key_aware, inputs, grad))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize(
    ("channels", "others"),
    [(32, None), *((channels, torch.float32) for channels in CHANNELS)],
    ids=lambda x: "alike" if x is None else str(x),
)
def test_half_types(kernels, channels, dtype, others):
    """Rounded inputs, float32 inside: only the results' own rounding is left."""
    others = others or dtype
    value, *rest = deformable_inputs(channels, 4)
    inputs = [value.to(dtype), *(tensor.to(others) for tensor in rest)]
    grad = torch.randn(2, 37, 3 * channels).to(dtype)
    output = kernels.deformable_attention(inputs[0], SHAPES, *inputs[1:])
    grads = kernels.deformable_attention_backward(grad, inputs[0], SHAPES, *inputs[1:])
    assert output.dtype == dtype and grads[3].dtype == others
    assert_same([output, *grads], truth(plain_deformable, inputs, grad))

    *features, locations = key_aware_inputs(channels)
    inputs = [*(tensor.to(dtype) for tensor in features), locations.to(others)]
    output = kernels.key_aware_attention(*inputs[:3], SHAPES, inputs[3])
    grads = kernels.key_aware_attention_backward(grad, *inputs[:3], SHAPES, inputs[3])
    assert_same([output, *grads], truth(plain_key_aware, inputs, grad))


def test_expanded_locations_are_read_as_they_are(kernels):
    """One set of locations for all levels (stride 0), x and y not side by side."""
    query, key, value, locations = key_aware_inputs()
    apart = locations[:, :, :, :1].movedim(-1, 0).contiguous().movedim(0, -1)
    expanded = apart.expand(-1, -1, -1, len(SHAPES), -1, -1)
    assert expanded.stride(3) == 0 and expanded.stride(5) != 1
    grad = torch.randn(2, 37, 96)
    got = kernels.key_aware_attention(query, key, value, SHAPES, expanded)
    grads = kernels.key_aware_attention_backward(grad, query, key, value, SHAPES, expanded)
    inputs = [query, key, value, expanded.contiguous()]
    assert_same([got, *grads], truth(plain_key_aware, inputs, grad))


def test_locations_on_token_centres_and_borders(kernels):
    """A 4 x 8 map: centres and borders are exact in binary, so both sides round alike.

    Not exactly one token before the first: grid_sample gives the slope to its right there, MMCV's
    rule (and ours) none.
    """
    shapes = ((4, 8),)
    columns, rows = torch.arange(1, 10) / 8 + 1 / 16, torch.arange(1, 6) / 4 + 1 / 8
    centres = torch.cartesian_prod(columns, rows)
    borders = torch.tensor([[0.0, 0.5], [1.0, 0.5], [0.5, 0.0], [0.5, 1.0], [0.0, 0.0], [1.0, 1.0]])
    points = torch.cat([centres, borders])[None, :, None]
    value, _, offsets, logits = deformable_inputs(
        queries=points.shape[1], shapes=shapes, points=2, batch=1
    )
    offsets = offsets.sign().round()  # whole tokens
    grad = torch.randn(1, points.shape[1], 96)
    output = kernels.deformable_attention(value, shapes, points, offsets, logits)
    grads = kernels.deformable_attention_backward(grad, value, shapes, points, offsets, logits)
    operator = lambda v, *rest: reference.deformable_attention(v, shapes, *rest)  # noqa: E731
    assert_same([output, *grads], truth(operator, [value, points, offsets, logits], grad))


def test_order_of_lanes_changes_nothing(kernels):
    """A lane that reads what another has not written yet would show here."""
    value, *others = deformable_inputs()
    query, key, features, locations = key_aware_inputs()
    grad = torch.randn(2, 37, 96)
    results = []
    for descending in (False, True):
        kernels.set_descending_lanes(descending)
        results.append([
            kernels.deformable_attention(value, SHAPES, *others),
            *kernels.deformable_attention_backward(grad, value, SHAPES, *others),
            kernels.key_aware_attention(query, key, features, SHAPES, locations),
            *kernels.key_aware_attention_backward(grad, query, key, features, SHAPES, locations),
        ])  # fmt: skip
    kernels.set_descending_lanes(False)
    added = (1, 2, 7, 8)  # by atomics, in another order
    for number, (a, b) in enumerate(zip(*results, strict=True)):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-5 if number in added else 0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("points", [1, 40, 250])
def test_few_and_many_locations(kernels, points, dtype):
    """Up to L * P = 1000; many of them leave room for one warp in a block, or for one group."""
    grad = torch.randn(1, 3, 32).to(dtype)
    sizes = {"queries": 3, "points": points, "batch": 1, "heads": 1}
    value, *others = deformable_inputs(**sizes)
    inputs = [value.to(dtype), *others]
    output = kernels.deformable_attention(inputs[0], SHAPES, *others)
    grads = kernels.deformable_attention_backward(grad, inputs[0], SHAPES, *others)
    assert_same([output, *grads], truth(plain_deformable, inputs, grad))

    query, key, value, locations = key_aware_inputs(**sizes)
    inputs = [query.to(dtype), key.to(dtype), value.to(dtype), locations]
    output = kernels.key_aware_attention(*inputs[:3], SHAPES, locations)
    grads = kernels.key_aware_attention_backward(grad, *inputs[:3], SHAPES, locations)
    assert_same([output, *grads], truth(plain_key_aware, inputs, grad))


def test_locations_agree_with_the_cpu_kernels_header(kernels):
    """Corners and weights, against csrc/common/bilinear.h, over maps of many sizes."""
    assert kernels.library.compare_locations(200_000) == 0


def test_emulated_half_types_round_as_torch_does(kernels):
    bits = torch.arange(65536, dtype=torch.int32).to(torch.int16)
    numbers = torch.randn(50_000) * 10.0 ** torch.randint(-9, 6, (50_000,))
    edges = torch.tensor([65519.9, 65520.0, 2.0**-25, 1.5 * 2.0**-25, -0.0])
    halves = bits.view(torch.float16).float(), bits.view(torch.bfloat16).float()
    wide = torch.cat([numbers, edges, *halves])
    for dtype in (torch.float16, torch.bfloat16):
        narrow, back = torch.empty(wide.shape, dtype=dtype), torch.empty(wide.shape)
        kernels.round_trip(wide, narrow, back)
        torch.testing.assert_close(narrow, wide.to(dtype), rtol=0, atol=0, equal_nan=True)
        torch.testing.assert_close(back, narrow.float(), rtol=0, atol=0, equal_nan=True)
