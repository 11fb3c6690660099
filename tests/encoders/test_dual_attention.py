"""Dual attention: object scores, the attention among object tokens, the background's embedding."""

from __future__ import annotations

import pytest
import torch

from grids import DIMS, PADDED, SHAPES, lent, make_grid, small_encoder, small_grid
from sparse_encoders.encoders.background import BackgroundEmbedding
from sparse_encoders.encoders.dual_attention import ObjectAttention
from sparse_encoders.selectors import LayerSelection
from tiny import build
from tiny_detectors import detector_config


def test_object_scores_of_both_ways():
    kept, foreground = torch.randn(1, 3, DIMS), torch.tensor([[2.0, -1.0, 0.0]])
    head = lent().category_head(0)
    best = head(kept).amax(-1)
    logit = small_encoder().object_scores(kept, foreground, head)
    probability = small_encoder(object_score="probability").object_scores(kept, foreground, head)
    assert torch.allclose(logit, foreground * best)
    assert torch.allclose(probability, foreground.sigmoid() * best.sigmoid())
    assert not logit.requires_grad


@torch.no_grad()
def test_only_object_tokens_attend_to_each_other_as_in_mmcvs_module():
    attention = ObjectAttention(DIMS, 4, num_tokens=3).eval()
    kept, position = torch.randn(2, 5, DIMS), torch.randn(2, 5, DIMS)
    scores = torch.tensor([0.8, 0.6, 0.1, 0.9, 0.2]).expand(2, -1)
    eligible = torch.tensor([[True] * 5, [True, False, False, True, False]])
    out, index = attention(kept, position, scores, eligible)
    expected = kept.clone()
    for image, objects in enumerate(([3, 0, 1], [3, 0])):
        assert index[image, : len(objects)].tolist() == objects
        query, pos = kept[image : image + 1, objects], position[image : image + 1, objects]
        theirs = attention.attention(query, query_pos=pos, key_pos=pos)
        expected[image, objects] = attention.norm(theirs)[0]
    torch.testing.assert_close(out, expected)


@torch.no_grad()
def test_object_tokens_come_back_by_layer_best_first_and_never_padding():
    tokens, parts = small_grid(PADDED), lent()
    focus = dict(type="FocusTokenSelector", keep_ratio=0.3)
    encoder = small_encoder(num_object_tokens=4, selector=focus)
    output = encoder(tokens, parts)
    assert len(output.objects) == encoder.num_layers
    for actual, chosen in zip(output.objects, output.layers, strict=True):
        assert actual.shape == (2, min(4, chosen.indices.shape[1]))
        where = chosen.indices.gather(1, actual)
        assert not tokens.padding_mask.gather(1, where).any()
        assert all(len(set(row)) == len(row) for row in where.tolist())
    first = output.layers[0]
    foreground = first.gather(output.selection.scores)
    scores = encoder.object_scores(
        first.gather(tokens.features), foreground, parts.category_head(0)
    )
    best = scores.masked_fill(~first.taken, -torch.inf).topk(4).indices
    assert torch.equal(output.objects[0], best)
    assert small_encoder(dual_attention=False)(tokens, parts).objects == ()


@torch.no_grad()
@pytest.mark.parametrize("where", ["released", "never_kept"])
@pytest.mark.parametrize("count", ["image", "batch"])
def test_tokens_that_are_not_refined_get_the_embedding_of_their_cell(where, count):
    tokens, parts = small_grid(PADDED), lent()
    selector = dict(type="SalienceTokenSelector", test_count=count)
    encoder = small_encoder(background_embedding=where, selector=selector)
    output = encoder(tokens, parts)
    embedding, encoder.background = encoder.background, None
    difference = output.memory - encoder(tokens, parts).memory
    cells = [
        torch.cat([embedding.columns[j], embedding.rows[i]])
        for h, w in SHAPES
        for i in range(h)
        for j in range(w)
    ]
    first = output.layers[0].mask(tokens.num_tokens)
    last = output.layers[-1].mask(tokens.num_tokens, carried=True)
    without = ((last if where == "released" else first) | tokens.padding_mask).unsqueeze(-1)
    assert without.any() and not without.all()
    expected = torch.where(without, 0.0, torch.stack(cells))
    assert torch.allclose(difference, expected, atol=1e-5)
    dropped = first & ~last
    assert dropped.any()
    assert (difference[dropped].abs().sum(-1) > 0).all() == (where == "released")


@torch.no_grad()
def test_a_level_of_more_cells_than_the_tables_is_interpolated():
    embedding = BackgroundEmbedding(4, cells=200, where="never_kept")
    embedding.rows.copy_(torch.arange(200.0)[:, None].expand(-1, 2))
    embedding.columns.zero_()
    nothing = torch.zeros(1, 0, dtype=torch.long)
    layers = [LayerSelection(nothing, nothing.bool(), nothing.bool())]
    # 399 rows over 200 entries: every second one is an entry of its own
    for shape, step in (((399, 2), 2), ((200, 1), 1)):
        tokens = make_grid((shape,))
        memory = embedding(torch.zeros_like(tokens.features), tokens, layers)
        rows = memory[0, :: shape[1], 2]
        torch.testing.assert_close(rows, torch.arange(shape[0]) / step, atol=1e-3, rtol=0)


def test_a_detectors_initialisation_leaves_the_tables_uniform():
    settings = dict(type="DualAttentionEncoder", background_embedding="released")
    background = build(detector_config("DINO", settings)).encoder.background
    for table in (background.rows, background.columns):
        assert table.shape == (200, 128)
        assert 0 <= table.min() < 0.01 and 0.99 < table.max() <= 1
