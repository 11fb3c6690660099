"""Ranking, counting and masking, once for all selectors."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from grids import make_grid
from sparse_encoders.contracts import DetectorParts
from sparse_encoders.selectors.base import LayerSelection, Selector, fill_with_lowest, rankable

SHAPES = ((6, 8), (3, 4), (2, 2), (1, 1))


class GivenScores(Selector):
    """Ranks by scores given from outside."""

    def __init__(self, scores, **kwargs):
        super().__init__(**kwargs)
        self.given = scores

    def score(self, tokens, detector):
        return self.given


def select(grid, scores, **kwargs):
    return GivenScores(scores, **kwargs).select(grid, DetectorParts())


@settings(max_examples=40, deadline=None)
@given(
    st.floats(0.05, 1.0),
    st.sampled_from(["batch", "image"]),
    st.floats(0.2, 1.0),
    st.floats(0.2, 1.0),
    st.integers(0, 2**31),
)
def test_an_image_keeps_its_best_tokens_and_no_padding(ratio, count, rows, columns, seed):
    grid = make_grid(SHAPES, [(1.0, 1.0), (rows, columns)])
    scores = torch.randn(2, grid.num_tokens, generator=torch.Generator().manual_seed(seed))
    chosen = select(grid, scores, num_layers=3, keep_ratio=ratio, cascade=True, count=count)
    valid = grid.valid_counts()
    previous = None
    for layer in chosen.layers:
        mask = layer.mask(grid.num_tokens)
        assert not (mask & grid.padding_mask).any()
        assert (mask.sum(1) >= 1).all()
        assert (mask.sum(1) <= torch.minimum(chosen.counts, valid)).all()
        for image in range(2):
            lowest_kept = chosen.scores[image][mask[image]].min()
            left = ~mask[image] & ~grid.padding_mask[image]
            assert (chosen.scores[image][left] <= lowest_kept).all()
        if previous is not None:
            assert not (mask & ~previous).any(), "a cascade only drops tokens"
        previous = mask


def test_ratio_one_keeps_every_valid_token():
    grid = make_grid(SHAPES, [(1.0, 1.0), (0.5, 0.5)])
    chosen = select(grid, torch.randn(2, grid.num_tokens), keep_ratio=1.0, num_layers=2)
    for layer in chosen.layers:
        assert torch.equal(layer.mask(grid.num_tokens), ~grid.padding_mask)


def test_write_replaces_only_kept_tokens():
    tokens = torch.zeros(1, 5, 2)
    kept = torch.tensor([[True, False]])
    layer = LayerSelection(torch.tensor([[3, 1]]), kept, kept)
    written = layer.write(tokens, torch.ones(1, 2, 2))
    assert written[0, :, 0].tolist() == [0, 0, 0, 1, 0]
    assert tokens.eq(0).all(), "the input is not modified"
    assert layer.gather(torch.arange(5.0)[None]).tolist() == [[3, 1]]


def test_nan_scores_never_rank_first():
    grid = make_grid(SHAPES)
    scores = torch.randn(1, grid.num_tokens)
    scores[0, 7] = torch.nan
    chosen = select(grid, scores, keep_ratio=0.5, num_layers=1)
    assert not chosen.layers[0].mask(grid.num_tokens)[0, 7]


def test_all_nan_scores_still_give_a_selection():
    nothing = torch.full((1, 3), torch.nan)
    assert fill_with_lowest(nothing, None).isfinite().all()
    assert not rankable(nothing, None).isnan().any()


def test_padding_is_filled_with_the_batchs_lowest_score_but_ranks_below_it():
    scores = torch.tensor([[3.0, 1.0, 9.0], [torch.nan, 2.0, 5.0]])
    padding = torch.tensor([[False, False, True], [False, False, False]])
    assert fill_with_lowest(scores, padding).tolist() == [[3.0, 1.0, 1.0], [1.0, 2.0, 5.0]]
    assert rankable(scores, padding).argsort(1, descending=True).tolist() == [[0, 1, 2], [2, 1, 0]]


def test_counts_with_the_hosts_knowledge_of_padding():
    """Knowing the largest valid count shrinks tensors and changes no choice."""
    from dataclasses import replace

    grid = make_grid(SHAPES, [(0.5, 0.5), (0.6, 0.4)])
    scores = torch.randn(2, grid.num_tokens)
    known = replace(grid, max_valid=int(grid.valid_counts().max()))
    wide, narrow = (select(g, scores, keep_ratio=0.4, num_layers=2) for g in (grid, known))
    for a, b in zip(wide.layers, narrow.layers, strict=True):
        assert b.indices.shape[1] < a.indices.shape[1]
        assert torch.equal(a.mask(grid.num_tokens), b.mask(grid.num_tokens))


def test_unknown_count():
    with pytest.raises(ValueError, match=r"count must be one of .*got 'token'"):
        Selector(count="token")
