"""The decoder attention map, its labels, its loss and Corr, on numbers worked by hand."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sparse_encoders.supervision.decoder_attention import (
    attention_labels,
    attention_share,
    best_share,
    decoder_attention_map,
    token_selection_loss,
)

SHAPES = ((3, 4), (2, 2))


def at_location(x, y, level=0, weight=1.0, **kwargs):
    """Map of one sample; levels other than ``level`` have no weight."""
    locations = torch.tensor([x, y]).expand(1, 1, 1, 1, 2, 1, 2)  # B, layer, Q, M, L, P, xy
    weights = torch.zeros(1, 1, 1, 1, 2, 1)
    weights[..., level, 0] = weight
    return decoder_attention_map(locations, weights, SHAPES, **kwargs)[0]


def test_a_location_between_four_tokens_is_shared_by_distance():
    actual = at_location(1.25 / 4, 1.5 / 3)[:12].view(3, 4)
    expected = torch.zeros(3, 4)
    expected[1, 1], expected[1, 2], expected[2, 1], expected[2, 2] = 0.375, 0.125, 0.375, 0.125
    assert torch.allclose(actual, expected)


def test_aligned_counts_from_the_tokens_centre():
    actual = at_location(2.5 / 4, 1.5 / 3, aligned=True)[:12].view(3, 4)
    assert torch.allclose(actual[1, 2], torch.tensor(1.0)) and torch.allclose(
        actual.sum(), actual[1, 2]
    )


def test_levels_lie_one_after_another():
    actual = at_location(0.5, 0.5, level=1)
    assert actual[:12].eq(0).all() and torch.allclose(
        actual[12:].view(2, 2)[1, 1], torch.tensor(1.0)
    )


@pytest.mark.parametrize("x", [-5.0, 7.0, torch.nan, torch.inf, 1e30])
def test_locations_far_outside_leave_nothing(x):
    assert at_location(x, 0.5).eq(0).all()


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**31), st.integers(1, 3), st.integers(1, 4))
def test_the_whole_weight_lands_inside_and_order_does_not_matter(seed, layers, queries):
    generator = torch.Generator().manual_seed(seed)
    # where all four corners are on the map
    locations = torch.rand(2, layers, queries, 2, 2, 3, 2, generator=generator) * 0.5
    weights = torch.rand(2, layers, queries, 2, 2, 3, generator=generator)
    actual = decoder_attention_map(locations, weights, SHAPES)
    assert torch.allclose(actual.sum(1), weights.flatten(1).sum(1), rtol=1e-4)
    flipped = decoder_attention_map(locations.flip(1, 2, 3), weights.flip(1, 2, 3), SHAPES)
    assert torch.allclose(actual, flipped, atol=1e-5)


def test_wrong_shapes_say_what_is_wanted():
    with pytest.raises(ValueError, match=r"locations must be \(B, ..., 2, P, 2\)"):
        decoder_attention_map(torch.rand(1, 3, 4, 2, 2), torch.rand(1, 3, 4, 2), SHAPES)


def test_labels_are_the_valid_tokens_with_the_largest_attention():
    attention = torch.tensor([[5.0, 1, 4, 3], [9.0, 8, 0, 7]])
    padding = torch.tensor([[False] * 4, [True, False, False, False]])
    labels = attention_labels(attention, torch.tensor([3, 1]), 3, padding)
    assert labels.tolist() == [[True, False, True, True], [False, True, False, False]]


def test_labels_of_an_image_with_fewer_valid_tokens_than_its_count():
    padding = torch.tensor([[False, True, True]])
    labels = attention_labels(torch.rand(1, 3), torch.tensor([2]), 5, padding)
    assert labels.tolist() == [[True, False, False]]


def test_loss_is_the_binary_cross_entropy_and_padding_counts_as_the_smallest_logit():
    logits = torch.tensor([[2.0, -1.0, 50.0]], requires_grad=True)
    labels = torch.tensor([[True, False, False]])
    padding = torch.tensor([[False, False, True]])
    loss = token_selection_loss(logits, labels, padding)
    filled = torch.tensor([[2.0, -1.0, -1.0]])
    expected = torch.nn.functional.binary_cross_entropy_with_logits(filled, labels.float())
    assert torch.allclose(loss, expected)
    loss.backward()
    assert logits.grad.isfinite().all() and logits.grad[0, 2] == 0


def test_attention_share_over_all_levels_and_each():
    attention = torch.tensor([[1.0, 3.0, 0, 4.0, 0, 0], [0.0, 0, 0, 0, 0, 0]])
    chosen = torch.tensor([[False, True, True, True, False, False]]).expand(2, -1)
    share = attention_share(attention, chosen, ((1, 3), (1, 3)))
    assert share[0].tolist() == [7 / 8, 3 / 4, 1.0]
    assert share[1].isnan().all(), "nothing was looked at"


def test_best_share_takes_a_tenth_of_the_valid_tokens():
    scores = torch.arange(30.0).expand(2, -1)
    valid = torch.ones(2, 30, dtype=torch.bool)
    valid[1, 10:] = False
    best = best_share(scores, 0.1, valid)
    assert best[0].nonzero().flatten().tolist() == [27, 28, 29]
    assert best[1].nonzero().flatten().tolist() == [9]
    with pytest.raises(ValueError, match=r"share must lie in \(0, 1\], got 0"):
        best_share(scores, 0, valid)
