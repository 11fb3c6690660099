"""The CUDA kernels' own source, run on the CPU, against the plain operators in float64.

What this shows: indexing, exchanges between lanes, arithmetic, roundings. What it cannot show: the
GPU's memory model and speed (test_on_gpu.py).
"""

from __future__ import annotations

from functools import partial

import pytest
import torch
from cuda_cases import (
    CHANNELS,
    SHAPES,
    check,
    deformable_inputs,
    key_aware_inputs,
    plain_deformable,
    plain_key_aware,
)

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("coordinates", [2, 4])
@pytest.mark.parametrize("channels", CHANNELS)
def test_deformable_attention(kernels, channels, coordinates):
    inputs = deformable_inputs(channels, coordinates)
    check(kernels.deformable_attention, plain_deformable, inputs)


@pytest.mark.parametrize("key_is_value", [False, True])
@pytest.mark.parametrize("channels", CHANNELS)
def test_key_aware_attention(kernels, channels, key_is_value):
    query, key, value, locations = key_aware_inputs(channels)
    inputs = [query, value if key_is_value else key, value, locations]
    check(kernels.key_aware_attention, plain_key_aware, inputs)


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
    output, *grads = check(kernels.deformable_attention, plain_deformable, inputs)
    assert output.dtype == dtype and grads[3].dtype == others

    *features, locations = key_aware_inputs(channels)
    inputs = [*(tensor.to(dtype) for tensor in features), locations.to(others)]
    check(kernels.key_aware_attention, plain_key_aware, inputs)


def test_expanded_locations_are_read_as_they_are(kernels):
    """One set of locations for all levels (stride 0), x and y not side by side."""
    *features, locations = key_aware_inputs()
    apart = locations[:, :, :, :1].movedim(-1, 0).contiguous().movedim(0, -1)
    expanded = apart.expand(-1, -1, -1, len(SHAPES), -1, -1)
    assert expanded.stride(3) == 0 and expanded.stride(5) != 1
    check(kernels.key_aware_attention, plain_key_aware, [*features, expanded])


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
    inputs = [value, points, offsets.sign().round(), logits]  # whole tokens
    operator = partial(kernels.deformable_attention, shapes=shapes)
    check(operator, partial(plain_deformable, shapes=shapes), inputs)


def test_order_of_lanes_changes_nothing(kernels):
    """A lane that reads what another has not written yet would show here."""
    deformable, key_aware = deformable_inputs(), key_aware_inputs()
    grad = torch.randn(2, 37, 96)
    results = []
    for descending in (False, True):
        kernels.library.set_descending_lanes(int(descending))
        results.append(
            kernels.deformable_attention(deformable, grad)
            + kernels.key_aware_attention(key_aware, grad)
        )
    kernels.library.set_descending_lanes(0)
    added = (1, 2, 7, 8)  # by atomics, in another order
    for number, (a, b) in enumerate(zip(*results, strict=True)):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-5 if number in added else 0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("points", [1, 40, 250])
def test_few_and_many_locations(kernels, points, dtype):
    """Up to L * P = 1000; many of them leave room for one warp in a block, or for one group."""
    sizes = {"queries": 3, "points": points, "batch": 1, "heads": 1}
    value, *others = deformable_inputs(**sizes)
    check(kernels.deformable_attention, plain_deformable, [value.to(dtype), *others])
    *features, locations = key_aware_inputs(**sizes)
    inputs = [*(tensor.to(dtype) for tensor in features), locations]
    check(kernels.key_aware_attention, plain_key_aware, inputs)


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
