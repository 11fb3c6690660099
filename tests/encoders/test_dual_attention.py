"""Dual attention: the switches, the write-back and small images."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from grids import DIMS, make_grid
from grids import small_encoder as make
from grids import small_grid as grid
from sparse_encoders.contracts import DetectorParts
from sparse_encoders.encoders import DenseEncoder
from sparse_encoders.encoders.dual_attention import ObjectAttention
from sparse_encoders.selectors.projection import TokenProjection


@pytest.fixture
def lent():
    head = nn.Linear(DIMS, 7)
    return DetectorParts(TokenProjection(DIMS), lambda layer: head)


@torch.no_grad()
def test_tokens_that_are_not_kept_stay_as_they_came(lent):
    tokens = grid([(1.0, 1.0), (0.5, 0.5)])
    output = make(selector=dict(type="FocusTokenSelector", keep_ratio=0.2))(tokens, lent)
    touched = torch.stack([x.mask(tokens.num_tokens) for x in output.layers]).any(0)
    same = (output.memory == tokens.features).all(-1)
    assert torch.equal(same, ~touched)
    assert 0 < touched.sum() < touched.numel()


@torch.no_grad()
def test_everything_kept_without_dual_attention_is_the_dense_encoder(lent):
    """With updated values and all tokens kept, only the order of queries differs."""
    tokens = grid([(1.0, 1.0), (0.6, 0.7)])
    dense = make(DenseEncoder)
    sparse = make(
        values="updated",
        dual_attention=False,
        selector=dict(type="FocusTokenSelector", keep_ratio=1.0, cascade=False),
    )
    missing, unexpected = sparse.load_state_dict(dense.state_dict(), strict=False)
    assert not unexpected
    assert all(name.startswith("selector.") for name in missing)
    valid = ~tokens.padding_mask
    a, b = dense(tokens, lent).memory, sparse(tokens, lent).memory
    assert torch.allclose(a[valid], b[valid], atol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("values", ["input", "updated"])
def test_values_are_the_input_or_what_earlier_layers_made(lent, values):
    """What deformable attention samples: Algorithm 1, line 10, or the released code."""
    tokens = grid([(1.0, 1.0), (0.6, 0.7)])
    encoder = make(
        num_layers=3,
        values=values,
        selector=dict(type="FocusTokenSelector", keep_ratio=[0.6, 0.4, 0.2]),
    )
    sampled, refined = [], []
    for layer in encoder.layers:
        layer.self_attn.register_forward_pre_hook(
            lambda module, args, kwargs: sampled.append(kwargs["value"]), with_kwargs=True
        )
        layer.register_forward_hook(lambda module, args, output: refined.append(output))
    layers = encoder(tokens, lent).layers
    memory = tokens.features
    for value, new, chosen in zip(sampled, refined, layers, strict=True):
        assert torch.equal(value, tokens.features if values == "input" else memory)
        memory = chosen.scatter_kept(memory, new)
    assert not torch.equal(memory, tokens.features)


def test_object_scores_of_both_ways(lent):
    kept = torch.randn(1, 3, DIMS)
    foreground = torch.tensor([[2.0, -1.0, 0.0]])
    head = lent.category_head(0)
    best = head(kept).amax(-1)
    logit = make().object_scores(kept, foreground, head)
    probability = make(object_score="probability").object_scores(kept, foreground, head)
    assert torch.allclose(logit, foreground * best)
    assert torch.allclose(probability, foreground.sigmoid() * best.sigmoid())
    assert not logit.requires_grad


@torch.no_grad()
def test_only_object_tokens_change_in_the_self_attention():
    attention = ObjectAttention(DIMS, 4, num_tokens=2).eval()
    kept, position = torch.randn(1, 5, DIMS), torch.randn(1, 5, DIMS)
    scores = torch.tensor([[0.1, 0.9, 0.3, 0.8, 0.2]])
    taken = torch.ones(1, 5, dtype=torch.bool)
    out, index = attention(kept, position, scores, taken)
    assert index.tolist() == [[1, 3]]
    assert (out != kept).any(-1).tolist() == [[False, True, False, True, False]]


@torch.no_grad()
def test_objects_attend_as_in_mmcvs_module():
    attention = ObjectAttention(DIMS, 4, num_tokens=5).eval()
    kept, position = torch.randn(2, 5, DIMS), torch.randn(2, 5, DIMS)
    usable = torch.tensor([[True] * 5, [True] * 3 + [False] * 2])
    out, _ = attention(kept, position, torch.arange(5.0, 0, -1).expand(2, -1), usable)
    theirs = attention.attention(
        kept, query_pos=position, key_pos=position, key_padding_mask=~usable
    )
    expected = torch.where(usable.unsqueeze(-1), attention.norm(theirs), kept)
    torch.testing.assert_close(out, expected)


@torch.no_grad()
def test_absent_tokens_neither_attend_nor_are_attended_to():
    attention = ObjectAttention(DIMS, 4, num_tokens=300).eval()
    kept, position = torch.randn(1, 5, DIMS), torch.randn(1, 5, DIMS)
    scores, taken = torch.randn(1, 5), torch.tensor([[True, True, True, False, False]])
    out, _ = attention(kept, position, scores, taken)
    alone, _ = attention(kept[:, :3], position[:, :3], scores[:, :3], taken[:, :3])
    assert torch.allclose(out[:, :3], alone, atol=1e-6)
    assert torch.equal(out[:, 3:], kept[:, 3:])


@torch.no_grad()
def test_fewer_kept_tokens_than_object_tokens(lent):
    tiny = make_grid(((2, 2), (1, 1), (1, 1), (1, 1)), channels=DIMS)
    output = make()(tiny, lent)
    assert output.memory.isfinite().all()


@torch.no_grad()
def test_the_paper_way_does_not_depend_on_the_other_images_of_the_batch(lent):
    both = grid([(1.0, 1.0), (0.5, 0.5)])
    encoder = make(
        values="updated",
        object_score="probability",
        selector=dict(type="FocusTokenSelector", count="image", keep_ratio=0.5),
    )
    # the score MLP sees the padding of its own image only; so shapes stay, and image 0 goes
    alone = type(both)(
        both.features[1:],
        both.pos_embed[1:],
        both.padding_mask[1:],
        both.shapes,
        both.valid_ratios[1:],
    )
    memory = encoder(both, lent).memory[1]
    assert torch.allclose(memory, encoder(alone, lent).memory[0], atol=1e-5)


def test_keep_ratio_is_a_dial(lent):
    encoder, tokens = make(selector=dict(type="FocusTokenSelector", keep_ratio=0.3)), grid()
    state = {k: v.clone() for k, v in encoder.state_dict().items()}
    kept = {}
    for ratio in (0.1, 0.5, [1.0, 0.5]):
        encoder.set_keep_ratio(ratio)
        layers = encoder(tokens, lent).layers
        kept[str(ratio)] = [int(x.kept.sum()) for x in layers]
    assert kept["0.1"][0] < kept["0.5"][0] < kept["[1.0, 0.5]"][0] == tokens.num_tokens
    assert all(torch.equal(v, state[k]) for k, v in encoder.state_dict().items())
    with pytest.raises(ValueError, match="no selector, so no keep ratio"):
        make(DenseEncoder).set_keep_ratio(0.5)


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        (dict(values="output"), "encoder.values must be one of"),
        (dict(object_score="logits"), "encoder.object_score must be one of"),
        (dict(num_object_tokens=0), "encoder.num_object_tokens must be at least 1"),
        (dict(num_levels=3), "3 feature levels|each of the 3 feature levels"),
        (dict(selector=dict(type="FocusTokenSelector", keep_ratio=[0.5])), "for 2 encoder layers"),
    ],
)
def test_bad_settings_are_refused_when_built(setting, message):
    with pytest.raises(ValueError, match=message):
        make(**setting)


@pytest.mark.parametrize("name", ["L1Loss", "FocusSelector", "DenseEncoder", None])
def test_a_selector_must_be_a_selector(name):
    with pytest.raises(ValueError, match=r"selector.type must be one of .*FocusTokenSelector"):
        make(selector=dict(type=name))


def test_a_layer_cfg_of_other_levels_is_refused():
    layer = dict(self_attn_cfg=dict(embed_dims=DIMS, num_heads=4, num_levels=3))
    with pytest.raises(ValueError, match="num_levels is 3, the detector has 4"):
        DenseEncoder(num_layers=1, layer_cfg=layer)
    with pytest.raises(ValueError, match="num_layers must be at least 1"):
        DenseEncoder(num_layers=0)


@torch.no_grad()
def test_object_tokens_come_back_by_layer_best_first_and_never_padding(lent):
    tokens = grid([(1.0, 1.0), (0.5, 0.5)])
    encoder = make(num_object_tokens=4, selector=dict(type="FocusTokenSelector", keep_ratio=0.3))
    output = encoder(tokens, lent)
    assert len(output.objects) == encoder.num_layers
    for actual, chosen in zip(output.objects, output.layers, strict=True):
        assert actual.shape == (2, min(4, chosen.indices.shape[1]))
        where = chosen.indices.gather(1, actual)
        assert not tokens.padding_mask.gather(1, where).any()
        assert all(len(set(row)) == len(row) for row in where.tolist())
    first, head = output.layers[0], lent.category_head(0)
    scores = encoder.object_scores(
        first.gather(tokens.features), first.gather(output.selection.scores), head
    )
    best = scores.masked_fill(~first.taken, -torch.inf).topk(4).indices
    assert torch.equal(output.objects[0], best)
    plain = make(dual_attention=False, selector=dict(type="FocusTokenSelector"))
    assert plain(tokens, lent).objects == ()
