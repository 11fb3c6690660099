"""Boxes to token labels, by hand."""

from __future__ import annotations

import pytest
import torch

from grids import make_grid
from sparse_encoders.supervision.foreground import (
    INTERVALS,
    ForegroundLabels,
    foreground_focal_loss,
)


@pytest.mark.parametrize(
    ("box", "fine", "coarse"),
    [
        # fine tokens stand at 4, 12, 20, 28; the box holds (12, 12) at 4 to 5 pixels from its sides
        ([8, 8, 17, 17], [5], []),
        # coarse tokens stand at 8 and 24; from (8, 8) the far sides are 23 pixels away
        ([0, 0, 31, 31], [], [0, 1, 2, 3]),
        ([12, 8, 20, 16], [], []),  # x = 12 and 20 lie on the sides
        # from (12, 12) the farthest side is exactly 16 pixels away: open below, closed above
        ([4, 4, 28, 28], [5, 6, 9, 10], [0, 1, 2, 3]),
        ([4, 4, 28.5, 28], [6, 10], [0, 1, 2, 3]),
    ],
)
def test_a_token_is_foreground_where_a_box_of_its_levels_size_holds_it(box, fine, coarse):
    labels = ForegroundLabels(2, ((-1, 16), (16, 64)), (8, 16))
    actual = labels(make_grid(((4, 4), (2, 2))), [torch.tensor([box], dtype=torch.float32)])[0]
    assert [part.nonzero()[:, 0].tolist() for part in actual.split([16, 4])] == [fine, coarse]


def test_overlapping_intervals_mark_more_tokens():
    tokens = make_grid(((32, 32), (16, 16), (8, 8), (4, 4)))
    box = [torch.tensor([[0.0, 0, 250, 250]])]
    counts = {name: int(ForegroundLabels(4, name)(tokens, box).sum()) for name in INTERVALS}
    assert counts["overlapping"] > counts["non_overlapping"] > 0


def test_images_without_boxes_have_no_foreground():
    tokens, labels = make_grid(((2, 2),), [(1.0, 1.0)] * 2), ForegroundLabels(1, [(-1, 64)], [8])
    none, one = torch.zeros(0, 4), torch.tensor([[0.0, 0, 16, 16]])
    assert labels(tokens, [none, one]).sum(1).tolist() == [0, 4]
    assert labels(tokens, [none, none]).sum() == 0


def test_focal_loss_by_hand():
    # p = 1/2 everywhere: 0.25 (1/2)^2 log 2 for the positive, 0.75 (1/2)^2 log 2 for each negative
    loss = foreground_focal_loss(torch.zeros(1, 3), torch.tensor([[True, False, False]]))
    assert loss.item() == pytest.approx((0.25 + 2 * 0.75) * 0.25 * 0.693147, rel=1e-5)
    logits = torch.tensor([[200.0, -200.0]], requires_grad=True)
    loss = foreground_focal_loss(logits, torch.tensor([[False, True]]))
    loss.sum().backward()
    assert loss.isfinite().all() and logits.grad.isfinite().all()
