"""Sparse DETR's encoder, on small tokens."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn

from grids import DIMS, SHAPES, make_grid, small_encoder, small_grid
from skips import needs_float16_autocast
from sparse_encoders.contracts import DetectorParts, Targets
from sparse_encoders.encoders import DenseEncoder, SparseDETREncoder

BATCH = [(1.0, 1.0), (0.6, 0.5)]
CLASSES = 5


def parts(**kwargs):
    torch.manual_seed(1)
    return DetectorParts(nn.Linear(DIMS, DIMS), **kwargs)


def sparse(**kwargs):
    return small_encoder(SparseDETREncoder, num_classes=CLASSES, **kwargs)


def test_keeping_everything_is_the_dense_encoder():
    grid = small_grid(BATCH)
    encoder = sparse(selector=dict(keep_ratio=1.0))
    dense = small_encoder(DenseEncoder)
    dense.layers.load_state_dict(encoder.layers.state_dict())
    ours, theirs = encoder(grid, parts()).memory, dense(grid, parts()).memory
    valid = ~grid.padding_mask
    assert torch.allclose(ours[valid], theirs[valid], atol=1e-5)


def test_only_kept_tokens_change_and_all_layers_keep_the_same():
    grid = small_grid(BATCH)
    output = sparse(selector=dict(keep_ratio=0.3))(grid, parts())
    layers = output.layers
    mask = layers[0].mask(grid.num_tokens)
    assert torch.equal(mask, layers[1].mask(grid.num_tokens))
    assert mask.sum(1).tolist() == output.selection.groups[0].num_foreground.tolist()
    assert torch.equal(output.memory[~mask], grid.features[~mask])
    assert not output.memory[mask].isclose(grid.features[mask]).all()


def test_values_are_updated_by_every_layer():
    grid, encoder, values = small_grid(), sparse(selector=dict(keep_ratio=0.5)), []
    for layer in encoder.layers:
        layer.register_forward_pre_hook(lambda module, args: values.append(args[3]))
    chosen = encoder(grid, parts()).layers[0].mask(grid.num_tokens)
    assert torch.equal(values[0], grid.features)
    assert (values[1] != grid.features).any(-1).equal(chosen)


def test_an_image_does_not_depend_on_its_batch():
    grid = small_grid(BATCH)
    encoder = sparse(selector=dict(keep_ratio=0.4))
    alone = replace(
        grid,
        features=grid.features[1:],
        pos_embed=grid.pos_embed[1:],
        padding_mask=grid.padding_mask[1:],
        valid_ratios=grid.valid_ratios[1:],
    )
    both, one = encoder(grid, parts()).memory[1], encoder(alone, parts()).memory[0]
    assert torch.allclose(both, one, atol=1e-5)


@pytest.mark.parametrize("selector", [dict(), dict(type="FocusTokenSelector")])
def test_auxiliary_heads_and_gradients(selector):
    grid = small_grid(BATCH)
    encoder = sparse(selector=dict(keep_ratio=0.3, **selector)).train()
    seen = []

    def detection_loss(logits, boxes):
        seen.append((logits.shape, boxes))
        return logits.sum(), boxes.sum(), boxes.prod()

    output = encoder(grid, parts())
    targets = Targets([torch.rand(1, 4)] * 2, [torch.zeros(1)] * 2, torch.rand(2, grid.num_tokens))
    losses = encoder.loss(output, targets, detection_loss)
    assert {"enc0.loss_cls", "enc0.loss_bbox", "enc0.loss_iou"} < set(losses)
    assert len(losses) == 4 and len(seen) == encoder.num_layers - 1
    kept = output.layers[0].indices.shape[1]
    assert seen[0][0] == (2, kept, CLASSES)
    assert ((seen[0][1] > 0) & (seen[0][1] <= 1)).all()
    (sum(losses.values()) + output.memory.sum()).backward()
    assert [n for n, p in encoder.named_parameters() if p.grad is None] == []


def test_nothing_is_kept_for_a_loss_that_nobody_asks_for():
    assert sparse()(small_grid(), parts()).refined == ()
    assert sparse(auxiliary_heads=False).train()(small_grid(), parts()).refined == ()


def test_auxiliary_heads_begin_improbable_and_at_the_proposals():
    encoder = sparse().train()
    encoder.init_own_weights()
    grid = small_grid(BATCH)
    output = encoder(grid, parts())
    ((logits, boxes),) = encoder.auxiliary(output.refined, output.layers, grid)
    assert logits.sigmoid().mean() < 0.05
    expected = output.layers[0].gather(grid.proposals).sigmoid()
    assert torch.allclose(boxes, expected)


def test_settings_are_checked():
    with pytest.raises(ValueError, match=r"auxiliary_heads=True needs encoder\.num_classes"):
        small_encoder(SparseDETREncoder)
    with pytest.raises(ValueError, match=r"keep_ratio must lie in \(0, 1\], got 1.5"):
        sparse(selector=dict(keep_ratio=1.5))
    with pytest.raises(ValueError, match="loss_weight must not be negative, got -1"):
        sparse(selector=dict(loss_weight=-1))
    with pytest.raises(ValueError, match="build the selector with first_stage=False"):
        sparse()(small_grid(), DetectorParts())


def test_the_selector_wants_the_decoders_attention():
    grid, encoder = small_grid(), sparse(auxiliary_heads=False)
    output = encoder(grid, parts())
    with pytest.raises(ValueError, match="recorded none"):
        encoder.loss(output, Targets([torch.zeros(0, 4)], [torch.zeros(0)]))


def test_own_projection_without_a_first_stage():
    encoder = sparse(first_stage=False)
    assert encoder(small_grid(), DetectorParts()).memory.shape == (
        1,
        sum(h * w for h, w in SHAPES),
        DIMS,
    )


def test_a_token_of_nan_features_is_kept_out():
    grid = small_grid(BATCH)
    features = grid.features.clone()
    features[0, 5] = torch.nan
    output = sparse(selector=dict(keep_ratio=0.5))(replace(grid, features=features), parts())
    assert not output.layers[0].mask(grid.num_tokens)[0, 5]
    assert output.selection.scores.isfinite().all()
    assert output.memory[1].isfinite().all(), "other images are not touched"


def test_levels_of_one_token():
    grid = make_grid(((2, 2), (1, 1), (1, 1), (1, 1)), channels=DIMS)
    for ratio in (0.1, 1.0):
        output = sparse(selector=dict(keep_ratio=ratio))(grid, parts())
        assert output.memory.isfinite().all()


@pytest.mark.parametrize(
    "dtype", [torch.bfloat16, pytest.param(torch.float16, marks=needs_float16_autocast)]
)
def test_half_precision(dtype):
    grid = small_grid(BATCH)
    encoder = sparse(selector=dict(keep_ratio=0.3)).train()
    attention = torch.rand(2, grid.num_tokens)
    targets = Targets([torch.rand(1, 4)] * 2, [torch.zeros(1)] * 2, attention)
    with torch.autocast("cpu", dtype):
        output = encoder(grid, parts())
        losses = encoder.loss(output, targets, lambda a, b: (a.sum(), b.sum(), (b**2).sum()))
    assert output.memory.dtype == grid.features.dtype
    sum(losses.values()).backward()
    assert all(p.grad.isfinite().all() for p in encoder.parameters() if p.grad is not None)
