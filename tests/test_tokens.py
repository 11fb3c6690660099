"""The token grid's geometry against MMDetection's and against hand-worked numbers."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from mmdet.models.detectors import DeformableDETR
from mmdet.models.layers import DeformableDetrTransformerEncoder
from torch import nn
from torch.nn import functional as F

from grids import make_grid
from sparse_encoders.tokens import TokenGrid, count_valid

shapes_strategy = st.lists(
    st.tuples(st.integers(1, 9), st.integers(1, 9)), min_size=1, max_size=5
).map(tuple)


class Projecting(nn.Module):
    """Lends MMDetection's proposal code, with an identity as its projection."""

    memory_trans_fc = nn.Identity()
    memory_trans_norm = nn.Identity()
    generate = DeformableDETR.gen_encoder_output_proposals


@settings(max_examples=30, deadline=None)
@given(shapes_strategy, st.booleans())
def test_geometry_is_mmdetections(shapes, padded):
    grid = make_grid(shapes, [(1.0, 1.0), (0.6, 0.5)] if padded else None)
    points = DeformableDetrTransformerEncoder.get_encoder_reference_points(
        shapes, grid.valid_ratios, "cpu"
    )
    assert torch.equal(grid.reference_points, points)
    memory, _ = Projecting().generate(grid.features, grid.padding_mask, shapes)
    assert torch.equal(grid.features.masked_fill(grid.unusable, 0.0), memory)


def test_padding_shrinks_valid_ratios_and_counts():
    grid = make_grid(((4, 4), (2, 2)), [(1.0, 1.0), (0.5, 0.5)])
    assert grid.num_valid().tolist() == [20, 5]
    assert grid.valid_ratios[1].tolist() == [[0.5, 0.5], [0.5, 0.5]]
    assert grid.level_sizes == (16, 4)
    assert grid.level_slices == (slice(0, 16), slice(16, 20))


@settings(max_examples=50, deadline=None)
@given(
    st.tuples(st.integers(1, 200), st.integers(1, 200)),
    st.floats(0.01, 1.0),
    st.floats(0.01, 1.0),
)
def test_host_count_of_valid_tokens_is_the_masks(image_hw, share_h, share_w):
    valid_hw = (max(1, int(image_hw[0] * share_h)), max(1, int(image_hw[1] * share_w)))
    shapes = tuple((-(-image_hw[0] // s), -(-image_hw[1] // s)) for s in (8, 16, 32, 64))
    pixels = torch.ones(1, 1, *image_hw)
    pixels[..., : valid_hw[0], : valid_hw[1]] = 0
    counted = tuple(int((F.interpolate(pixels, size=s) == 0).sum()) for s in shapes)
    assert count_valid(shapes, image_hw, valid_hw) == counted


@pytest.mark.parametrize(
    ("features", "pos_embed", "message"),
    [
        ((1, 7, 4), (1, 7, 4), r"features must be \(B, 8, C\).*got \(1, 7, 4\)"),
        ((1, 8, 4), (1, 8, 3), "pos_embed must have the features' shape"),
    ],
)
def test_wrong_shapes_are_refused(features, pos_embed, message):
    with pytest.raises(ValueError, match=message):
        TokenGrid(torch.zeros(features), torch.zeros(pos_embed), None, ((2, 4),), torch.ones(1))
