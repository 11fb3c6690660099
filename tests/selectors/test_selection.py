"""Ranking, counting and masking, once for all selectors."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from grids import make_grid
from sparse_encoders.contracts import DetectorParts
from sparse_encoders.selectors import LayerSelection, Selector
from sparse_encoders.selectors.ranking import (
    best_first,
    fill_with_lowest,
    rankable,
    without_rounding,
)

SHAPES = ((6, 8), (3, 4), (2, 2), (1, 1))


class GivenScores(Selector):
    """Ranks by scores given from outside."""

    def __init__(self, scores, **kwargs):
        super().__init__(**kwargs)
        self.given = scores

    def score(self, tokens, detector):
        return self.given


def select(grid, scores, groups=None, training=True, **kwargs):
    selector = GivenScores(scores, **kwargs).train(training)
    return selector.select(grid, DetectorParts(), groups)


def image_of(grid, index):
    """One image of a batch, alone at the same padded size."""
    one = slice(index, index + 1)
    alone = replace(
        grid,
        features=grid.features[one],
        pos_embed=grid.pos_embed[one],
        padding_mask=grid.padding_mask[one],
        valid_ratios=grid.valid_ratios[one],
    )
    return replace(alone, max_valid=int(alone.num_valid().max()))


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
    chosen = select(
        grid, scores, num_layers=3, keep_ratio=ratio, cascade=True, test_count=count, training=False
    )
    valid = grid.num_valid()
    previous = None
    for layer in chosen.groups[0].layers:
        mask = layer.mask(grid.num_tokens)
        assert not (mask & grid.padding_mask).any()
        assert (mask.sum(1) >= 1).all()
        assert (mask.sum(1) <= torch.minimum(chosen.groups[0].num_foreground, valid)).all()
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
    for layer in chosen.groups[0].layers:
        assert torch.equal(layer.mask(grid.num_tokens), ~grid.padding_mask)


def test_scatter_kept_replaces_only_kept_tokens():
    tokens = torch.zeros(1, 5, 2)
    kept = torch.tensor([[True, False]])
    layer = LayerSelection(torch.tensor([[3, 1]]), kept, kept)
    written = layer.scatter_kept(tokens, torch.ones(1, 2, 2))
    assert written[0, :, 0].tolist() == [0, 0, 0, 1, 0]
    assert tokens.eq(0).all(), "the input is not modified"
    assert layer.gather(torch.arange(5.0)[None]).tolist() == [[3, 1]]
    chosen = select(
        make_grid(((1, 5),)), torch.arange(5.0)[None], num_layers=2, keep_ratio=[1.0, 0.5]
    )
    dropped = chosen.groups[0].layers[1]  # a cascade's second layer
    written = dropped.scatter_kept(tokens, torch.ones(1, dropped.size, 2))
    assert written[0, :, 0].tolist() == [0, 0, 0, 1, 1]


def test_scores_that_are_not_numbers():
    grid = make_grid(SHAPES)
    scores = torch.randn(1, grid.num_tokens)
    scores[0, 7] = torch.nan
    chosen = select(grid, scores, keep_ratio=0.5, num_layers=1)
    assert not chosen.groups[0].layers[0].mask(grid.num_tokens)[0, 7]
    nothing = torch.full((1, 3), torch.nan)
    assert fill_with_lowest(nothing, None).isfinite().all()
    assert not rankable(nothing, None).isnan().any()


def test_padding_is_filled_with_the_lowest_score_but_ranks_below_it():
    scores = torch.tensor([[3.0, 1.0, 9.0], [torch.nan, 2.0, 5.0]])
    padding = torch.tensor([[False, False, True], [False, False, False]])
    of_image, of_batch = fill_with_lowest(scores, padding), fill_with_lowest(scores, padding, True)
    assert of_image.tolist() == [[3.0, 1.0, 1.0], [2.0, 2.0, 5.0]]
    assert of_batch.tolist() == [[3.0, 1.0, 1.0], [1.0, 2.0, 5.0]]
    assert rankable(scores, padding).argsort(1, descending=True).tolist() == [[0, 1, 2], [2, 1, 0]]


def test_counts_with_the_hosts_knowledge_of_padding():
    """Knowing the largest valid count shrinks tensors and changes no choice."""
    grid = make_grid(SHAPES, [(0.5, 0.5), (0.6, 0.4)])
    scores = torch.randn(2, grid.num_tokens)
    known = replace(grid, max_valid=int(grid.num_valid().max()))
    wide, narrow = (select(g, scores, keep_ratio=0.4, num_layers=2) for g in (grid, known))
    for a, b in zip(wide.groups[0].layers, narrow.groups[0].layers, strict=True):
        assert b.indices.shape[1] < a.indices.shape[1]
        assert torch.equal(a.mask(grid.num_tokens), b.mask(grid.num_tokens))


@pytest.mark.parametrize("name", ["count", "test_count"])
def test_unknown_count(name):
    with pytest.raises(ValueError, match=rf"selector.{name} must be one of .*got 'token'"):
        Selector(**{name: "token"})


sizes = st.integers(1, 9)


@settings(max_examples=80, deadline=None)
@given(
    st.lists(st.tuples(sizes, sizes), min_size=1, max_size=3),
    st.lists(st.floats(0.01, 1.0), min_size=1, max_size=4),
    st.sampled_from(["batch", "image"]),
    st.booleans(),
)
def test_a_layer_is_full_where_everything_it_gathers_is_kept(shapes, ratios, count, training):
    """Host and device count alike: all_kept implies kept, and the sizes are the limits."""
    grid = make_grid(shapes)
    chosen = select(
        grid,
        torch.randn(1, grid.num_tokens),
        num_layers=len(ratios),
        keep_ratio=sorted(ratios, reverse=True),
        count=count,
        test_count=count,
        training=training,
    )
    for layer in chosen.groups[0].layers:
        assert layer.all_kept
        assert layer.kept.all() and layer.taken.all()


@settings(max_examples=40, deadline=None)
@given(
    st.integers(1, 3),
    st.floats(0.1, 1.0),
    st.sampled_from([None, (1.0, 1.0), (0.5, 0.7)]),
    st.integers(0, 2**31),
)
def test_groups_of_levels_are_ranked_and_cut_by_themselves(split, ratio, valid, seed):
    generator = torch.Generator().manual_seed(seed)
    grid = make_grid(SHAPES, valid and [valid, (0.8, 0.4)])
    scores = torch.randn(len(grid.features), grid.num_tokens, generator=generator)
    groups = range(split), range(split, 4)
    settings_ = dict(num_layers=3, keep_ratio=ratio, cascade=True)
    chosen = select(grid, scores, groups, **settings_)
    assert [group.levels for group in chosen.groups] == list(groups)
    for group in chosen.groups:
        part = grid.tokens_of(group.levels)
        assert int(group.num_foreground.max()) <= group.max_foreground
        for before, after in pairwise(group.layers):
            assert torch.equal(after.indices, before.indices[:, : after.size])
        for layer in group.layers:
            assert ((layer.indices >= part.start) & (layer.indices < part.stop)).all()
            assert not layer.all_kept or (layer.kept.all() and layer.taken.all())
        # the same as for a grid of these levels only
        mask = grid.padding_of(group.levels)
        own = replace(
            grid,
            features=grid.features[:, part],
            pos_embed=grid.pos_embed[:, part],
            padding_mask=mask,
            shapes=SHAPES[group.levels.start : group.levels.stop],
            valid_ratios=grid.valid_ratios[:, group.levels.start : group.levels.stop],
        )
        alone = select(own, scores[:, part], **settings_)
        assert torch.equal(alone.groups[0].num_foreground, group.num_foreground)
        for ours, theirs in zip(group.layers, alone.groups[0].layers, strict=True):
            assert torch.equal(ours.indices - part.start, theirs.indices)
            assert torch.equal(ours.kept, theirs.kept)
    for parts in zip(*(group.layers for group in chosen.groups), strict=True):
        masks = torch.stack([part.mask(grid.num_tokens) for part in parts])
        assert torch.equal(LayerSelection.concat(parts).mask(grid.num_tokens), masks.any(0))


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.floats(0.05, 1.0), min_size=1, max_size=3),
    st.tuples(st.floats(0.2, 1.0), st.floats(0.2, 1.0)),
    st.tuples(st.floats(0.2, 1.0), st.floats(0.2, 1.0)),
    st.integers(0, 2**31),
)
def test_at_test_time_an_image_keeps_the_same_in_every_batch(ratios, valid, other, seed):
    grid = make_grid(SHAPES, [valid, other])
    grid = replace(grid, max_valid=int(grid.num_valid().max()))
    generator = torch.Generator().manual_seed(seed)
    # few different scores: many tie
    scores = torch.randint(0, 6, (2, grid.num_tokens), generator=generator).float()
    settings_ = dict(num_layers=len(ratios), keep_ratio=sorted(ratios, reverse=True))
    both = select(grid, scores, training=False, count="batch", **settings_)
    for image in range(2):
        alone = select(
            image_of(grid, image), scores[image : image + 1], training=False, **settings_
        )
        assert torch.equal(alone.scores[0], both.scores[image])
        for ours, theirs in zip(alone.groups[0].layers, both.groups[0].layers, strict=True):
            kept = ours.mask(grid.num_tokens)[0]
            assert torch.equal(kept, theirs.mask(grid.num_tokens)[image])
            assert torch.equal(theirs.kept[image], theirs.taken[image])


def test_the_released_count_of_a_batch_is_for_training_or_by_name():
    """A smaller image takes the larger one's share of a layer, and writes back its own tokens."""
    grid = make_grid(((10, 10),), [(1.0, 1.0), (0.5, 0.8)])
    scores = torch.randn(2, 100)
    settings_ = dict(num_layers=2, keep_ratio=[0.5, 0.25])

    def kept(**how):
        chosen = select(grid, scores, **settings_, **how).groups[0].layers[1]
        return chosen.kept.sum(1).tolist(), chosen.taken.sum(1).tolist()

    by_batch, by_image = ([25, 21], [25, 25]), ([25, 10], [25, 10])
    assert kept(count="batch") == kept(test_count="batch", training=False) == by_batch
    assert kept(count="image") == kept(count="batch", training=False) == by_image


def test_equal_scores_rank_by_index_however_many_are_asked_for():
    scores = torch.randint(0, 3, (2, 500)).float()
    unusable = torch.zeros_like(scores, dtype=torch.bool)
    ranked = best_first(scores, 500, unusable)
    for count in (1, 7, 250, 499):
        assert torch.equal(best_first(scores, count, unusable), ranked[:, :count])
    for row, order in zip(scores, ranked, strict=True):
        assert order.tolist() == sorted(range(500), key=lambda i: (-row[i].item(), i))


def test_rounding_is_taken_off_tokens_that_look_alike_only():
    low, high, bit = 0.5, 2.0, 2.0**-22
    scores = torch.tensor([[low, high + bit, low + bit, 1.0, -torch.inf, high, low - bit, low]])
    unusable = torch.tensor([[True, True, True, False, True, True, True, False]])
    actual = without_rounding(scores, unusable)
    top = low + bit
    assert actual.tolist() == [[top, high + bit, top, 1, -torch.inf, high + bit, top, low]]
    assert torch.equal(actual, without_rounding(actual, unusable))
    assert best_first(scores, 8, unusable).tolist() == [[1, 5, 3, 0, 2, 6, 7, 4]]
