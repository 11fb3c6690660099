"""Boxes to token labels, by hand."""

from __future__ import annotations

import pytest
import torch

from sparse_encoders.supervision.foreground import (
    INTERVALS,
    ForegroundLabels,
    foreground_focal_loss,
)
from sparse_encoders.tokens import TokenGrid


def tokens(shapes):
    n = sum(h * w for h, w in shapes)
    blank = torch.zeros(1, n, 1)
    return TokenGrid(blank, blank, None, shapes, torch.ones(1, len(shapes), 2))


def label(box, shapes=((4, 4), (2, 2)), intervals=((-1, 16), (16, 64)), strides=(8, 16)):
    actual = ForegroundLabels(len(shapes), intervals, strides)(
        tokens(shapes), [torch.tensor([box], dtype=torch.float32)]
    )
    return [
        sorted(part.nonzero()[:, 0].tolist())
        for part in actual[0].split([h * w for h, w in shapes])
    ]


def test_a_small_box_belongs_to_the_fine_level():
    # fine tokens stand at 4, 12, 20, 28; the box holds (12, 12) at 4 to 5 pixels from its sides
    assert label([8, 8, 17, 17]) == [[5], []]


def test_a_large_box_belongs_to_the_coarse_level():
    # coarse tokens stand at 8 and 24; from (8, 8) the far sides are 23 pixels away
    assert label([0, 0, 31, 31]) == [[], [0, 1, 2, 3]]


def test_the_border_is_outside():
    assert label([12, 8, 20, 16]) == [[], []]  # x = 12 and 20 lie on the sides


def test_an_interval_is_open_below_and_closed_above():
    # from (12, 12) the farthest side is exactly 16 pixels away
    assert 5 in label([4, 4, 28, 28])[0]
    assert 5 not in label([4, 4, 28.5, 28])[0]


def test_overlapping_intervals_mark_more_tokens():
    shapes = ((32, 32), (16, 16), (8, 8), (4, 4))
    box = [torch.tensor([[0.0, 0, 250, 250]])]
    counts = {name: int(ForegroundLabels(4, name)(tokens(shapes), box).sum()) for name in INTERVALS}
    assert counts["overlapping"] > counts["non_overlapping"] > 0


def test_images_without_boxes_have_no_foreground():
    shapes = ((2, 2),)
    blank = torch.zeros(2, 4, 1)
    grid = TokenGrid(blank, blank, None, shapes, torch.ones(2, 1, 2))
    labels = ForegroundLabels(1, [(-1, 64)], [8])(
        grid, [torch.zeros(0, 4), torch.tensor([[0.0, 0, 16, 16]])]
    )
    assert labels.sum(1).tolist() == [0, 4]
    assert ForegroundLabels(1, [(-1, 64)], [8])(grid, [torch.zeros(0, 4)] * 2).sum() == 0


def test_focal_loss_by_hand():
    # p = 1/2 everywhere: 0.25 (1/2)^2 log 2 for the positive, 0.75 (1/2)^2 log 2 for each negative
    loss = foreground_focal_loss(torch.zeros(1, 3), torch.tensor([[True, False, False]]))
    assert loss.item() == pytest.approx((0.25 + 2 * 0.75) * 0.25 * 0.693147, rel=1e-5)


def test_focal_loss_stays_finite_at_extreme_logits():
    logits = torch.tensor([[200.0, -200.0]], requires_grad=True)
    loss = foreground_focal_loss(logits, torch.tensor([[False, True]]))
    loss.sum().backward()
    assert loss.isfinite().all()
    assert logits.grad.isfinite().all()
