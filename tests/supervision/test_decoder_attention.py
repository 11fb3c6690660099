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


@pytest.mark.parametrize(
    ("x", "y", "level", "aligned", "expected"),
    [
        # between four tokens a weight is shared by distance; level 0 has 3 rows of 4 tokens
        (1.25 / 4, 1.5 / 3, 0, False, {5: 0.375, 6: 0.125, 9: 0.375, 10: 0.125}),
        (2.5 / 4, 1.5 / 3, 0, True, {6: 1.0}),  # counted from a token's centre
        (0.5, 0.5, 1, False, {15: 1.0}),
        *((x, 0.5, 0, False, {}) for x in (-5.0, 7.0, torch.nan, torch.inf, 1e30)),
    ],
)
def test_where_a_sample_lands(x, y, level, aligned, expected):
    locations = torch.tensor([x, y]).expand(1, 1, 1, 1, 2, 1, 2)  # B, layer, Q, M, L, P, xy
    weights = torch.zeros(1, 1, 1, 1, 2, 1)
    weights[..., level, 0] = 1.0
    actual = decoder_attention_map(locations, weights, SHAPES, aligned)[0]
    wanted = torch.zeros(16)
    for token, share in expected.items():
        wanted[token] = share
    assert torch.allclose(actual, wanted, atol=1e-6)


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
    attention = torch.tensor([[5.0, 1, 4, 3], [9.0, 8, 0, 7], [9.0, 8, 7, 0]])
    padding = torch.tensor([[False] * 4, [True, False, False, False], [True, True, True, False]])
    # the last image has fewer valid tokens than positives
    labels = attention_labels(attention, torch.tensor([3, 1, 2]), 5, padding)
    assert labels.int().tolist() == [[1, 0, 1, 1], [0, 1, 0, 0], [0, 0, 0, 1]]


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
