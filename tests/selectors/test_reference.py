"""Random and oracle selection."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from grids import make_grid
from sparse_encoders.contracts import DetectorParts, Targets
from sparse_encoders.selectors import OracleSelector, RandomSelector, SalienceTokenSelector
from sparse_encoders.selectors.learned import TokenProjection

SHAPES = ((8, 10), (4, 5), (2, 3), (1, 2))  # of a 64 x 80 image


def lend(*boxes):
    return DetectorParts(
        targets=Targets(
            [torch.tensor(b).reshape(-1, 4) for b in boxes], [torch.zeros(0)] * len(boxes)
        )
    )


def test_random_is_repeatable_at_test_time_and_fresh_in_training():
    selector = RandomSelector(num_layers=1, seed=7).eval()
    three, one = make_grid(SHAPES, [(1.0, 1.0)] * 3), make_grid(SHAPES, [(1.0, 1.0)])
    drawn, alone = selector.score(three, DetectorParts()), selector.score(one, DetectorParts())
    assert all(torch.equal(row, alone[0]) for row in drawn)
    first, second = (selector.train().score(three, DetectorParts()) for _ in range(2))
    assert not torch.equal(first, second) and not torch.equal(first[0], first[1])


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


@pytest.mark.parametrize("kind", [RandomSelector, OracleSelector])
@pytest.mark.parametrize("ratio", [None, 0.2, [0.5, 0.3]])
def test_controls_keep_as_many_of_each_level_as_a_selector_with_quotas(kind, ratio):
    grid = make_grid(SHAPES, [(1.0, 1.0), (0.5, 0.75)], channels=32)
    boxes = lend([[8.0, 8.0, 60.0, 50.0]], [[0.0, 0.0, 30.0, 30.0]])
    lent = replace(boxes, projection=TokenProjection(32))
    settings = dict(num_layers=2, embed_dims=32, keep_ratio=ratio)
    kept = []
    for selector in (SalienceTokenSelector(**settings), kind(by_level=True, **settings)):
        (group,) = selector.eval().select(grid, lent).groups
        masks = [layer.mask(grid.num_tokens) for layer in group.layers]
        levels = [[int(m[:, part].sum()) for part in grid.level_slices] for m in masks]
        kept.append((levels[0], [sum(counts) for counts in levels]))
    assert kept[0] == kept[1]
    plain = kind(**{**settings, "keep_ratio": 0.3}).eval().select(grid, lent).groups[0].layers[0]
    levels = [int(plain.mask(grid.num_tokens)[:, part].sum()) for part in grid.level_slices]
    assert levels != kept[0][0]


@pytest.mark.parametrize("kind", [RandomSelector, OracleSelector])
def test_quotas_are_asked_for(kind):
    with pytest.raises(ValueError, match=r"selector\.level_ratios needs selector\.by_level=True"):
        kind(level_ratios=(0.4, 0.8, 1, 1))
    with pytest.raises(ValueError, match=r"keep_ratio of .* got None"):
        kind(keep_ratio=None)
    selector = kind(by_level=True, level_ratios=(0.2, 0.4, 1, 1))
    assert selector.quotas.shares == (0.2, 0.4, 1.0, 1.0) and not list(selector.parameters())


@pytest.mark.parametrize("seed", [-1, 1.5, True])
def test_random_seed_is_checked(seed):
    with pytest.raises(ValueError, match="seed must be an integer of at least 0"):
        RandomSelector(seed=seed)
