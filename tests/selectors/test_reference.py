"""Random and oracle selection."""

from __future__ import annotations

import pytest
import torch

from grids import make_grid
from sparse_encoders.contracts import DetectorParts, Targets
from sparse_encoders.selectors import OracleSelector, RandomSelector

SHAPES = ((8, 10), (4, 5), (2, 3), (1, 2))  # of a 64 x 80 image


def lend(*boxes):
    return DetectorParts(
        targets=Targets(
            [torch.tensor(b).reshape(-1, 4) for b in boxes], [torch.zeros(0)] * len(boxes)
        )
    )


def test_random_is_repeatable_at_test_time_and_fresh_in_training():
    grid, selector = make_grid(SHAPES), RandomSelector(num_layers=1, seed=7)
    first, second = (selector.eval().score(grid, DetectorParts()) for _ in range(2))
    assert torch.equal(first, second)
    first, second = (selector.train().score(grid, DetectorParts()) for _ in range(2))
    assert not torch.equal(first, second)


def test_random_draws_the_same_for_an_image_wherever_it_stands_in_a_batch():
    selector = RandomSelector(num_layers=1).eval()
    three, one = make_grid(SHAPES, [(1.0, 1.0)] * 3), make_grid(SHAPES, [(1.0, 1.0)])
    drawn, alone = selector.score(three, DetectorParts()), selector.score(one, DetectorParts())
    assert all(torch.equal(row, alone[0]) for row in drawn)
    drawn = selector.train().score(three, DetectorParts())
    assert not torch.equal(drawn[0], drawn[1])


def test_oracle_keeps_foreground_first_then_the_boxes_inside_then_the_nearest():
    grid = make_grid(SHAPES, [(1.0, 1.0)])
    intervals = ((-1, 16), (16, 32), (32, 64), (64, 1e4))
    selector = OracleSelector(num_layers=1, keep_ratio=0.1, intervals=intervals)
    score = selector.score(grid, lend([[8.0, 8.0, 32.0, 24.0]]))[0]
    labels = selector.labels(grid, [torch.tensor([[8.0, 8.0, 32.0, 24.0]])])[0]
    inside = score > 1
    assert labels.any() and (score[labels] > 2).all()
    assert (inside & ~labels).any() and (score[inside & ~labels] < 2).all()
    level0 = score[:80].view(8, 10)
    assert level0[1, 1] > 1 and level0[0, 0] < 0 and level0[0, 0] > level0[7, 9]


def test_oracle_on_images_with_and_without_boxes():
    grid = make_grid(SHAPES, [(1.0, 1.0), (1.0, 1.0)])
    chosen = OracleSelector(num_layers=1, keep_ratio=0.3).select(
        grid, lend([[0.0, 0.0, 80.0, 64.0]], [])
    )
    assert chosen.scores.isfinite().all() and chosen.groups[0].layers[0].kept.any(1).all()
    nothing = OracleSelector(num_layers=1).select(grid, lend([], []))
    assert nothing.scores.isfinite().all()


def test_oracle_without_annotations():
    with pytest.raises(ValueError, match="for evaluation only"):
        OracleSelector(num_layers=1).score(make_grid(SHAPES), DetectorParts())


@pytest.mark.parametrize("seed", [-1, 1.5, True])
def test_random_seed_is_checked(seed):
    with pytest.raises(ValueError, match="seed must be a whole number of at least 0"):
        RandomSelector(seed=seed)


@pytest.mark.parametrize("selector", [OracleSelector, RandomSelector])
def test_no_parameters(selector):
    assert list(selector().parameters()) == []
