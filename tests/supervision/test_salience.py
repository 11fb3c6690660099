"""Salience DETR's soft targets and loss, by hand."""

from __future__ import annotations

from dataclasses import replace
from math import exp, log, sqrt

import pytest
import torch

from grids import make_grid
from sparse_encoders.supervision.salience import SalienceLabels, salience_loss


def labels(shape, boxes, intervals=None, image_hw=None, valid=None):
    tokens = replace(make_grid((shape,), valid), image_hw=image_hw)
    return SalienceLabels(1, intervals)(tokens, [torch.tensor(b).reshape(-1, 4) for b in boxes])


def test_targets_by_a_tokens_distance_to_the_box_sides():
    # tokens of 4 x 4 stand at 4, 12, 20, 28; the box from 0 to 24 has its centre at 12
    one, other = [0.0, 0.0, 24.0, 24.0], [8.0, 8.0, 32.0, 32.0]
    actual = labels((4, 4), [[one]])
    side = (20 - 4) / 24  # left 20, right 4 in column 2
    cells = actual.reshape(4, 4)
    assert cells[1, 1] == 1
    assert cells[1, 2] == pytest.approx(1 - 0.5 * side)
    assert cells[0, 2] == pytest.approx(1 - 0.5 * sqrt(2) * side)
    assert not cells[3].any() and not cells[:, 3].any()
    # the largest of all boxes counts
    assert torch.equal(labels((4, 4), [[one, other]]), actual.maximum(labels((4, 4), [[other]])))
    assert not labels((1, 1), [[[4.0, 0.0, 12.0, 8.0]]]).any()  # a side is outside


def test_token_centres_in_pixels_of_the_padded_input():
    # 40 x 60 pixels on 2 x 2 cells: the token of row 1, column 0 stands at (15, 30)
    actual = labels((2, 2), [[[5.0, 20.0, 25.0, 40.0]]], image_hw=(40, 60))
    assert actual.tolist() == [[0, 0, 1, 0]]


def test_a_box_of_another_levels_size_only_gates():
    # at (4, 4): farthest side 20 pixels of the large box, 5 of the small one, 24 of the centred one
    large, small = [0.0, 0.0, 24.0, 24.0], [0.0, 0.0, 9.0, 9.0]
    shifted, centre = [3.0, 3.0, 5.5, 5.5], [-20.0, -20.0, 28.0, 28.0]

    def value(boxes, low, high):
        return labels((1, 1), [boxes], [(low, high)]).item()

    assert value([large], 0, 10) == value([large], 20, 30) == value([centre], 0, 10) == 0
    assert value([large], 10, 20) > 0  # (low, high]
    # once a box opens the gate, the largest over all boxes counts
    assert value([small, large], 0, 10) == value([small], 0, 10)
    assert value([centre, shifted], 0, 10) == 1


def test_padding_no_boxes_and_boxes_of_no_size_have_no_target():
    actual = labels(
        (4, 4), [[[0.0, 0.0, 32.0, 32.0]], [], [[4.0, 4.0, 4.0, 4.0]]], valid=[(0.5, 1.0)] * 3
    )
    assert actual[0, :8].all() and not actual[0, 8:].any()
    assert not actual[1:].any() and actual.isfinite().all()
    assert not labels((2, 2), [[], []]).any()


def test_the_loss_by_hand():
    # logits 0 and 2, targets 0.6 and 0
    s = 1 / (1 + exp(-2))
    first = (0.75 * 0.25 * 0.4 + 0.25 * 0.6 * 0.25) * log(2)
    second = 0.75 * s**2 * -log(1 - s)
    loss = salience_loss(torch.tensor([[0.0, 2.0]]), torch.tensor([[0.6, 0.0]]))
    assert loss.item() == pytest.approx(first + second, rel=1e-5)
    nothing = salience_loss(torch.tensor([[2.0]]), torch.zeros(1, 1))
    assert nothing.item() == pytest.approx(second, rel=1e-5)  # over 1 where nothing is positive


def test_the_gradient_passes_through_the_weight_and_is_finite():
    logit, target, step = torch.tensor([[0.7]], requires_grad=True), torch.tensor([[0.6]]), 1e-2
    salience_loss(logit, target).backward()
    up, down = (salience_loss(logit.detach() + d, target) for d in (step, -step))
    assert logit.grad.item() == pytest.approx(float(up - down) / (2 * step), rel=1e-3)
    extreme = torch.tensor([[200.0, -200.0, 200.0]], requires_grad=True)
    salience_loss(extreme, torch.tensor([[0.0, 1.0, 0.5]])).backward()
    assert extreme.grad.isfinite().all()
