"""Keep ratios, cascades and counts."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sparse_encoders.selectors.keep import (
    CASCADES,
    KeepSchedule,
    cascade_of_average,
)


@pytest.mark.parametrize("average", sorted(CASCADES))
def test_the_supplements_rows_come_by_their_average(average):
    schedule = KeepSchedule.from_config(average, 6, cascade=True)
    assert schedule.per_layer == pytest.approx(CASCADES[average])
    assert schedule.average == pytest.approx(average)


def test_the_released_cascade_is_the_row_of_0_3():
    schedule = KeepSchedule.from_config(0.3, 6, cascade=True)
    assert schedule.ratio == 0.5
    assert schedule.factors == pytest.approx((1.0, 0.8, 0.6, 0.6, 0.4, 0.2))


@settings(max_examples=60, deadline=None)
@given(st.floats(0.01, 1.0), st.integers(1, 9))
def test_any_average_gives_a_falling_cascade(average, num_layers):
    ratios = cascade_of_average(average, num_layers)
    assert len(ratios) == num_layers
    assert all(0 < r <= 1 for r in ratios)
    assert all(b <= a + 1e-12 for a, b in pairwise(ratios))
    KeepSchedule.from_config(average, num_layers, cascade=True)


@settings(max_examples=100, deadline=None)
@given(st.integers(1, 30_000), st.lists(st.floats(0.01, 1.0), min_size=1, max_size=4))
def test_host_and_device_count_alike(valid, ratios):
    ratios = sorted(ratios, reverse=True)
    schedule = KeepSchedule.from_config(ratios, len(ratios), cascade=False)
    counts = schedule.foreground_counts(torch.tensor([valid]))
    limits = schedule.layer_counts(counts)
    on_host = schedule.foreground_counts(valid)
    assert counts.tolist() == [on_host]
    assert [int(limit) for limit in limits] == list(schedule.layer_counts(on_host))
    assert all(1 <= limit <= on_host <= valid for limit in schedule.layer_counts(on_host))


def test_counts_of_a_padded_batch():
    schedule = KeepSchedule(0.5, (1.0, 0.5))
    counts = schedule.foreground_counts(torch.tensor([100, 40]))
    assert counts.tolist() == [51, 21]
    assert [x.tolist() for x in schedule.layer_counts(counts)] == [[51, 21], [25, 10]]


def test_all_tokens_and_then_a_part_of_them():
    """The released count at ratio 1, one more than there are tokens, is cut before any share."""
    whole = KeepSchedule.from_config(1.0, 6, cascade=True)
    assert whole.foreground_counts(100) == 100 and whole.layer_counts(100) == (100,) * 6
    half = KeepSchedule.from_config([1.0, 0.5], 2, cascade=False)
    assert half.layer_counts(half.foreground_counts(5)) == (5, 2)


OUTSIDE = r"keep_ratio must lie in \(0, 1\]"


@pytest.mark.parametrize(
    ("ratio", "message"),
    [
        *((ratio, OUTSIDE) for ratio in (0.0, -0.1, 1.01, float("nan"), True, [0.5, 0.0])),
        ([0.5, 0.4, 0.3], "lists 3 values for 2 encoder layers"),
        ([], "lists 0 values"),
        ([0.3, 0.4], "must not increase"),
    ],
)
def test_bad_keep_ratios(ratio, message):
    for cascade in (False, True):
        with pytest.raises(ValueError, match=message):
            KeepSchedule.from_config(ratio, 2, cascade)


def test_bad_shares_of_a_schedule():
    with pytest.raises(ValueError, match=r"keep_ratio must lie in \(0, 1\], got 1\.5"):
        KeepSchedule(1.5, (1.0, 0.5))
    with pytest.raises(ValueError, match=r"cascade factor must lie in \(0, 1\], got 1\.2"):
        KeepSchedule(0.5, (1.2, 0.5))
