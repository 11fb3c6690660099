"""A keep ratio drawn for each training step, so that one checkpoint works at many keep ratios.

PnP-DETR (Wang et al., ICCV 2021) is trained with a ratio drawn for each step, from (1/3, 0.8) in
its release, and run with any of them.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

# the same in every run: the ratio of a step follows from the number of the step alone
_SEED = 20211017


class DrawnRatio:
    """A ratio uniform in [low, high) for each training step.

    It follows from the number of the step, so all processes draw the same. Checkpoints hold that
    number, so a resumed run draws what an uninterrupted one does.

    Args:
        bounds: (low, high), the smallest and the largest keep ratio.

    Raises:
        ValueError: anything but two numbers with 0 < low < high <= 1.

    Attributes:
        step: training steps done.
    """

    def __init__(self, bounds: Sequence[float]) -> None:
        try:
            self.low, self.high = (float(bound) for bound in bounds)
        except (TypeError, ValueError):
            self.low = self.high = 0.0
        if not 0.0 < self.low < self.high <= 1.0:
            raise ValueError(
                "selector.train_keep_ratio must be (low, high) with 0 < low < high <= 1, or None, "
                f"got {bounds!r}"
            )
        self.step = 0

    @property
    def ratio(self) -> float:
        """Keep ratio of the current training step."""
        share = np.random.default_rng((_SEED, self.step)).random()
        return self.low + (self.high - self.low) * float(share)
