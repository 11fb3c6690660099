"""Verdicts on AP: against SciPy's tests, numbers worked by hand, and simulated studies."""

import numpy as np
import pytest
from scipy import stats

from compared import report, row
from sparse_encoders.analysis.report.estimate import Estimate, estimate

DENSE, OTHER = [0.50, 0.52, 0.49, 0.51], [0.53, 0.54, 0.525, 0.55]


def paired(mine, theirs):
    return estimate([a - b for a, b in zip(mine, theirs, strict=True)], [[]] * len(mine), 87)


def test_over_runs_alone_the_tests_are_scipys_paired_t_tests():
    actual = paired(OTHER, DENSE)
    assert actual.mean == pytest.approx(np.mean(OTHER) - np.mean(DENSE))
    assert actual.spread == pytest.approx(np.std(np.subtract(OTHER, DENSE), ddof=1))
    assert actual.p_different() == pytest.approx(stats.ttest_rel(OTHER, DENSE).pvalue)
    low, high = stats.ttest_rel(OTHER, DENSE).confidence_interval(0.95)
    assert actual.half_width() == pytest.approx((high - low) / 2)
    for margin in (0.01, 0.05):
        less = stats.ttest_1samp(np.subtract(OTHER, DENSE), margin, alternative="less")
        more = stats.ttest_1samp(np.subtract(OTHER, DENSE), -margin, alternative="greater")
        assert actual.p_equal(margin) == pytest.approx(max(less.pvalue, more.pvalue))


def test_verdicts():
    assert paired(OTHER, DENSE).verdict(0.01) == "higher"
    assert paired(DENSE, OTHER).verdict(0.01) == "lower"
    assert paired(OTHER, DENSE).verdict(0.05) == "equal"  # different, but within the margin
    assert paired([0.50, 0.53], [0.51, 0.50]).verdict(0.01) == "undecided"
    # by hand: mean 0.002, deviation 0.001, error 0.0005; t of 16 at three degrees of freedom
    close = paired([0.502, 0.503, 0.501, 0.502], [0.5] * 4)
    assert close.error == pytest.approx(0.001 * (2 / 3) ** 0.5 / 2)
    assert close.verdict(0.01) == "equal" and close.verdict(0.0025) == "higher"


def test_one_run_is_judged_by_images_and_nothing_by_nothing():
    sets = np.random.default_rng(0).normal(0.03, 0.01, (1, 100))
    one = estimate([0.03], sets, 87)
    assert one.spread is None and one.error == pytest.approx(sets.std(ddof=1))
    assert one.freedom == 86 and one.verdict(0.01) == "higher"
    alone = estimate([0.03], [[]], 87)
    assert alone.half_width() is None and alone.verdict(0.01) == "undecided"
    assert Estimate(0.0, 2, 0.0, 0.0).verdict(0.01) == "equal"  # the same in every run and set
    assert Estimate(0.2, 2, 0.0, 0.0).verdict(0.01) == "higher"


def test_runs_and_images_add_up_without_counting_their_interaction_twice():
    draw = np.random.default_rng(1)
    runs, images, sets = 4, 60, 200
    indices = draw.integers(0, images, (sets, images))
    actual = []
    for _ in range(300):
        # a difference is of its run, of its image, and of both
        each = draw.normal(0, 0.3, images) + draw.normal(0, 0.02, (runs, 1))
        each = each + draw.normal(0, 0.5, (runs, images))
        actual.append(estimate(each.mean(1), each[:, indices].mean(2), images))
    true = 0.3**2 / images + 0.02**2 / runs + 0.5**2 / (runs * images)  # 0.0026; the sum: 0.0037
    assert np.var([one.mean for one in actual]) == pytest.approx(true, rel=0.15)
    assert np.mean([one.error**2 for one in actual]) == pytest.approx(true, rel=0.15)


def test_rows_are_compared_run_by_run():
    dense = row("dense", None, [0.50, 0.54, 0.58], 0.06, 2.0, noise=1e-4)
    lite = row("lite", None, [0.501, 0.541, 0.581, 0.70], 0.03, 1.0, noise=1e-4)
    actual = report([dense, lite])
    gain = actual.gain(lite)  # the fourth run has no partner
    assert gain.mean == pytest.approx(0.001) and gain.runs == 3 and gain.error < 0.001
    assert actual.ap_verdict(lite) == "equal"
    assert lite.ap == pytest.approx(np.mean([0.501, 0.541, 0.581, 0.70]))
    assert lite.estimate.spread == pytest.approx(np.std([0.501, 0.541, 0.581, 0.70], ddof=1))
    for run in lite.runs:
        run["seed"] += 10  # none in common: the means, as one run
    gain = actual.gain(lite)
    assert gain.runs == 1 and gain.mean == pytest.approx(lite.ap - dense.ap)
