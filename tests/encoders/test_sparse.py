"""Sparse DETR's encoder: its auxiliary heads, its losses, settings refused."""

from __future__ import annotations

import pytest
import torch

from grids import CLASSES, ENCODERS, PADDED, lent, small_encoder, small_grid
from sparse_encoders.contracts import DetectorParts, Targets


def sparse(**kwargs):
    return small_encoder(**{**ENCODERS["sparse"], **kwargs})


@pytest.mark.parametrize("selector", [dict(), dict(type="FocusTokenSelector")])
def test_auxiliary_heads_and_gradients(selector):
    grid = small_grid(PADDED)
    encoder = sparse(selector=dict(keep_ratio=0.3, **selector)).train()
    seen = []

    def detection_loss(logits, boxes):
        seen.append((logits.shape, boxes))
        return logits.sum(), boxes.sum(), boxes.prod()

    output = encoder(grid, lent())
    targets = Targets([torch.rand(1, 4)] * 2, [torch.zeros(1)] * 2, torch.rand(2, grid.num_tokens))
    losses = encoder.loss(output, targets, detection_loss)
    assert {"enc0.loss_cls", "enc0.loss_bbox", "enc0.loss_iou"} < set(losses)
    assert len(losses) == 4 and len(seen) == encoder.num_layers - 1
    kept = output.layers[0].indices.shape[1]
    assert seen[0][0] == (2, kept, CLASSES)
    assert ((seen[0][1] > 0) & (seen[0][1] <= 1)).all()
    (sum(losses.values()) + output.memory.sum()).backward()
    assert [n for n, p in encoder.named_parameters() if p.grad is None] == []


def test_auxiliary_heads_begin_improbable_and_at_the_proposals():
    encoder, grid = sparse().train(), small_grid(PADDED)
    encoder.init_own_weights()
    output = encoder(grid, lent())
    ((logits, boxes),) = encoder.auxiliary(output.refined, output.layers, grid)
    assert logits.sigmoid().mean() < 0.05
    assert torch.allclose(boxes, output.layers[0].gather(grid.proposals).sigmoid())


def test_nothing_is_kept_for_a_loss_that_nobody_asks_for():
    assert sparse()(small_grid(), lent()).refined == ()
    assert sparse(auxiliary_heads=False).train()(small_grid(), lent()).refined == ()


def test_own_projection_without_a_first_stage():
    grid = small_grid()
    assert sparse(first_stage=False)(grid, DetectorParts()).memory.shape == grid.features.shape


def test_what_a_detector_must_lend():
    grid, encoder = small_grid(), sparse().train()
    with pytest.raises(ValueError, match="build the selector with first_stage=False"):
        encoder(grid, DetectorParts())
    output = encoder(grid, lent())
    with pytest.raises(ValueError, match="recorded none"):
        encoder.loss(output, Targets([torch.zeros(0, 4)], [torch.zeros(0)]))
    with pytest.raises(ValueError, match="need the detector's detection loss, which this"):
        encoder.loss(output, Targets([], [], torch.rand(1, grid.num_tokens)))
