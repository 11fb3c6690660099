"""Standard error of a mean of AP over training runs and images, and tests based on it.

The standard error is of other runs and other images at once. With n runs, each judged on B sets of
resampled images, the variance of the mean is that over runs, plus that over sets of the mean over
runs, less their interaction, which both of them hold (two crossed random factors, as in Owen, The
pigeonhole bootstrap, 2007). Degrees of freedom are Satterthwaite's (1946). Without sets of images
the tests are paired t-tests over runs, as SciPy's ``ttest_rel``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import inf, sqrt

import numpy as np
from scipy import stats

#: of both tests
LEVEL = 0.05


@dataclass(frozen=True)
class Estimate:
    """A mean of AP or of paired differences of AP.

    Attributes:
        mean: over runs.
        runs: how many.
        spread: standard deviation over runs; None for one.
        error: standard error of the mean; None with one run and no resampled images.
        freedom: degrees of freedom of ``error``.
    """

    mean: float
    runs: int
    spread: float | None = None
    error: float | None = None
    freedom: float = inf

    def half_width(self, share: float = 0.95) -> float | None:
        """Half of an interval that holds the true mean with this probability."""
        if self.error is None:
            return None
        return float(stats.t.ppf((1 + share) / 2, self.freedom) * self.error)

    def p_different(self) -> float | None:
        """Of a two-sided t-test against no difference."""
        one_side = self._beyond(abs(self.mean))
        return None if one_side is None else 2 * one_side

    def p_equal(self, margin: float) -> float | None:
        """The larger one of two one-sided t-tests against differences of ``margin`` or more."""
        return self._beyond(margin - abs(self.mean))

    def _beyond(self, size: float) -> float | None:
        """Probability that t is larger than ``size`` in standard errors."""
        if self.error is None:
            return None
        never = inf if size > 0 else -inf if size < 0 else 0.0
        return float(stats.t.sf(size / self.error if self.error else never, self.freedom))

    def verdict(self, margin: float) -> str:
        """'equal' (within the margin), 'higher', 'lower', or 'undecided', each test at 5%."""
        equal, different = self.p_equal(margin), self.p_different()
        if equal is None or different is None:
            return "undecided"
        if equal < LEVEL:
            return "equal"
        if different < LEVEL:
            return "higher" if self.mean > 0 else "lower"
        return "undecided"


def estimate(values: Sequence[float], sets: Sequence[Sequence[float]], images: int) -> Estimate:
    """The mean over runs.

    Args:
        values: (n,) AP, or differences, of each run.
        sets: (n, B) the same on each set of resampled images; B is 0 where there are none.
        images: that the sets were drawn from.
    """
    by_run, drawn = np.asarray(values, float), np.asarray(sets, float)
    runs, known = len(by_run), drawn.ndim == 2 and drawn.shape[1] > 1
    of_runs = by_run.var(ddof=1) / runs if runs > 1 else 0.0
    of_images = drawn.mean(0).var(ddof=1) if known else 0.0
    mean, spread = float(by_run.mean()), sqrt(of_runs * runs) if runs > 1 else None
    if runs < 2 and not known:
        return Estimate(mean, runs)
    of_both = 0.0
    if known and runs > 1:
        of_both = (drawn - drawn.mean(0)).var(1, ddof=1).mean() / (runs - 1)
    variance = max(of_runs + of_images - of_both, of_runs, of_images)
    parts = of_runs**2 / max(runs - 1, 1) + of_images**2 / max(images - 1, 1)
    freedom = variance**2 / parts if parts else inf
    return Estimate(mean, runs, spread, sqrt(variance), float(freedom))
