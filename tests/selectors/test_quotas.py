"""Salience DETR's quotas by level."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from grids import make_grid
from sparse_encoders.selectors.quotas import LevelQuotas


def released(num_levels=4, num_layers=6, cascade=True, **ratios):
    given = {"level_ratios": None, "layer_ratios": None, **ratios}
    return LevelQuotas.of_config(
        **given, num_levels=num_levels, num_layers=num_layers, cascade=cascade
    )


def test_the_released_shares_of_an_image_of_800_by_1066_pixels():
    tokens = make_grid(((100, 134), (50, 67), (25, 34), (13, 17)), channels=1)
    quotas = released()
    capacities = quotas.capacities(tokens, tokens.all_levels)
    assert capacities == [5360, 2680, 850, 221]  # 0.4 and 0.8 of 13400 and 3350, the rest whole
    shares = [count / tokens.num_tokens for count in quotas.layer_counts(sum(capacities))]
    assert shares == pytest.approx([0.511, 0.409, 0.307, 0.307, 0.204, 0.102], abs=5e-4)
    assert sum(shares) / 6 == pytest.approx(0.307, abs=5e-4)
    assert quotas.per_layer == pytest.approx(shares, abs=2e-3)


def test_other_numbers_of_levels_and_layers():
    assert released(num_levels=2).shares == (0.4, 0.8)
    assert released(num_levels=5).shares == (0.4, 0.8, 1, 1, 1)
    assert released(num_layers=1).factors == (1.0,)
    assert released(num_layers=3).factors == pytest.approx((1.0, 0.6, 0.2))
    assert released(cascade=False).factors == (1.0,) * 6


@settings(max_examples=100, deadline=None)
@given(st.floats(0.01, 1.0), st.integers(1, 6), st.integers(1, 8), st.booleans())
def test_the_dial_sets_the_mean_over_the_layers(ratio, num_levels, num_layers, cascade):
    quotas = released(num_levels, num_layers, cascade).at(ratio)
    assert quotas.average == pytest.approx(ratio)
    assert all(0 < share <= 1 for share in quotas.shares)


def test_the_dial_scales_the_levels_first():
    quotas = released().at(0.3)  # mean of the factors 0.6: half of all tokens
    assert quotas.factors == released().factors
    assert sum(s * 4.0**-i for i, s in enumerate(quotas.shares)) / (85 / 64) == pytest.approx(0.5)
    assert quotas.shares[1] == pytest.approx(2 * quotas.shares[0])
    # at 0.54, nine tenths of all tokens, the coarser levels are whole
    assert released().at(0.54).shares[1:] == (1.0, 1.0, 1.0)
    # beyond 0.6 all levels are whole, and the later layers take more of them
    more = released().at(0.8)
    assert more.shares == (1.0,) * 4
    assert more.factors[:1] == (1.0,) and more.factors[-1] > 0.2
    assert released().at(1.0).per_layer == pytest.approx((1.0,) * 6)


def test_the_dial_takes_a_ratio_for_each_layer():
    quotas = released(num_layers=2).at([0.6, 0.3])
    assert quotas.per_layer == pytest.approx((0.6, 0.3))


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.integers(1, 9), st.integers(1, 9)), min_size=4, max_size=4),
    st.lists(st.tuples(st.floats(0.05, 1.0), st.floats(0.05, 1.0)), min_size=1, max_size=3),
    st.floats(0.02, 1.0),
)
def test_host_and_device_count_alike(shapes, valid, ratio):
    quotas, padded = released().at(ratio), make_grid(shapes, valid, channels=1)
    for tokens in (padded, make_grid(shapes, channels=1)):
        for levels in (tokens.all_levels, range(1), range(1, 4)):
            capacities = torch.tensor(quotas.capacities(tokens, levels))
            counts = quotas.level_counts(tokens, levels)
            assert (counts <= capacities).all()
            assert (counts.sum(1) >= 1).all()
            for column, level in enumerate(levels):
                assert (counts[:, column] <= tokens.num_valid(range(level, level + 1))).all()
            if tokens.padding_mask is None:
                assert (counts == capacities).all()


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        (dict(level_ratios=(0.4, 0.8)), "level_ratios must have one entry for each of the 4"),
        (dict(layer_ratios=(1.0,)), "layer_ratios must have one entry for each of the 6"),
        (dict(level_ratios=(0.4, 0.8, 1, 1.2)), r"level_ratios must lie in \(0, 1\], got 1.2"),
        (dict(layer_ratios=(1, 1, 1, 1, 1, 0)), r"layer_ratios must lie in \(0, 1\], got 0"),
        (dict(layer_ratios=(0.2, 1, 1, 1, 1, 1)), "a cascade must not increase"),
        (dict(layer_ratios=(1,) * 6, cascade=False), "do not set them with cascade=False"),
    ],
)
def test_bad_quotas_are_refused(setting, message):
    with pytest.raises(ValueError, match=message):
        released(**setting)


@pytest.mark.parametrize("ratio", [0.0, 1.5, True, [0.3], [0.1] * 5 + [0.2]])
def test_bad_keep_ratios_are_refused(ratio):
    with pytest.raises(ValueError, match=r"keep_ratio|cascade"):
        released().at(ratio)
