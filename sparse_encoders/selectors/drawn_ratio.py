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
        low: smallest keep ratio.
        high: largest one.

    Attributes:
        step: training steps done.
    """

    def __init__(self, low: float, high: float) -> None:
        self.low, self.high = low, high
        self.step = 0

    @classmethod
    def from_config(cls, given: Sequence[float] | None) -> DrawnRatio | None:
        """From a config's ``train_keep_ratio``; None gives None.

        Raises:
            ValueError: anything but two numbers with 0 < low < high <= 1.
        """
        if given is None:
            return None
        pair = () if isinstance(given, (str, int, float)) else tuple(given)
        if (
            len(pair) != 2
            or any(isinstance(x, bool) or not isinstance(x, (int, float)) for x in pair)
            or not 0.0 < pair[0] < pair[1] <= 1.0
        ):
            raise ValueError(
                "selector.train_keep_ratio must be (low, high) with 0 < low < high <= 1, or None, "
                f"got {given!r}"
            )
        return cls(float(pair[0]), float(pair[1]))

    @property
    def ratio(self) -> float:
        """Keep ratio of the current training step."""
        share = np.random.default_rng((_SEED, self.step)).random()
        return self.low + (self.high - self.low) * float(share)
