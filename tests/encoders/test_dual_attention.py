"""Dual attention: object scores, the attention among object tokens, settings refused."""

from __future__ import annotations

import pytest
import torch

from grids import DIMS, PADDED, lent, small_encoder, small_grid
from sparse_encoders.encoders import DenseEncoder
from sparse_encoders.encoders.dual_attention import ObjectAttention


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


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        (dict(values="output"), "encoder.values must be one of"),
        (dict(object_score="logits"), "encoder.object_score must be one of"),
        (dict(background_embedding="always"), "encoder.background_embedding must be one of"),
        (
            dict(background_embedding="released", background_cells=0),
            "encoder.background_cells must be at least 1",
        ),
        (dict(num_object_tokens=0), "encoder.num_object_tokens must be at least 1"),
        (dict(num_levels=3), "3 feature levels|each of the 3 feature levels"),
        (dict(selector=dict(type="FocusTokenSelector", keep_ratio=[0.5])), "for 2 encoder layers"),
        (
            dict(encoder=DenseEncoder, layer_cfg=dict(self_attn_cfg=dict(num_levels=3))),
            "num_levels is 3, the detector has 4",
        ),
        (dict(encoder=DenseEncoder, num_layers=0), "num_layers must be at least 1"),
    ],
)
def test_bad_settings_are_refused_when_built(setting, message):
    with pytest.raises(ValueError, match=message):
        small_encoder(**setting)
