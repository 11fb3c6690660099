"""How many tokens of each level are kept: Salience DETR's quotas (Hou et al., CVPR 2024).

A level l with v valid tokens keeps int(v * shares[l]) of them; layer i takes int(K * factors[i])
of the K tokens of all levels. The counts are the released code's, in float32 arithmetic.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from sparse_encoders.selectors.keep import KeepSchedule, check_ratios, floor_share
from sparse_encoders.tokens import TokenGrid

LEVEL_RATIOS = (0.4, 0.8)  # of the two finest levels; 1 on coarser ones
LAYER_RATIOS = (1.0, 0.8, 0.6, 0.6, 0.4, 0.2)  # of what the levels keep, of each of 6 layers


@dataclass(frozen=True)
class LevelQuotas(KeepSchedule):
    """A keep schedule with a share of its own for each level.

    Attributes:
        ratio: share of all tokens that is kept, assuming that each level has a quarter of the
            tokens of the next finer one.
        factors: per layer, share of the kept tokens that the layer takes.
        shares: per level, finest first, share of its valid tokens that is kept.
    """

    shares: tuple[float, ...]

    @classmethod
    def of(cls, shares: Sequence[float], factors: Sequence[float]) -> LevelQuotas:
        """Quotas by level and layer, each in (0, 1].

        Raises:
            ValueError: a number outside of (0, 1], or factors that increase.
        """
        shares = check_ratios("level_ratios", shares)
        factors = check_ratios("layer_ratios", factors)
        weights = _level_weights(len(shares))
        ratio = sum(w * s for w, s in zip(weights, shares, strict=True))
        return cls(min(ratio, 1.0), factors, shares)

    @classmethod
    def of_config(
        cls,
        level_ratios: Sequence[float] | None,
        layer_ratios: Sequence[float] | None,
        num_levels: int,
        num_layers: int,
        cascade: bool,
    ) -> LevelQuotas:
        """The quotas of a config; None takes the released code's numbers.

        Args:
            level_ratios: one for each level; None: 0.4, 0.8, and 1 on the coarser levels.
            layer_ratios: one for each layer; None: 1, 0.8, 0.6, 0.6, 0.4, 0.2, interpolated
                for another number of layers than six.
            num_levels: feature levels.
            num_layers: encoder layers.
            cascade: False: all layers take the same share.

        Raises:
            ValueError: a list of the wrong length, ``layer_ratios`` without a cascade, or see
                :meth:`of`.
        """
        if level_ratios is None:
            level_ratios = (*LEVEL_RATIOS, *(1.0,) * num_levels)[:num_levels]
        if not cascade and layer_ratios is not None:
            raise ValueError("layer_ratios make a cascade; do not set them with cascade=False")
        if not cascade:
            layer_ratios = (1.0,) * num_layers
        if layer_ratios is None:
            layer_ratios = LAYER_RATIOS
            if num_layers != len(LAYER_RATIOS):
                depths = np.linspace(0, 1, num_layers), np.linspace(0, 1, len(LAYER_RATIOS))
                layer_ratios = np.interp(*depths, LAYER_RATIOS).tolist()
        for name, values, wanted, what in (
            ("level_ratios", level_ratios, num_levels, "feature levels"),
            ("layer_ratios", layer_ratios, num_layers, "encoder layers"),
        ):
            if len(values) != wanted:
                raise ValueError(
                    f"{name} must have one entry for each of the {wanted} {what}, "
                    f"got {len(values)}: {list(values)}"
                )
        return cls.of(level_ratios, layer_ratios)

    def at(self, keep_ratio: float | Sequence[float]) -> LevelQuotas:
        """The quotas scaled so that they keep ``keep_ratio`` of all tokens.

        Level l keeps min(1, c * shares[l]), with c such that the mean over the layers is
        ``keep_ratio``. If that mean is not reached with all tokens of all levels, layer i
        takes min(1, d * factors[i]) of them, with d such that it is.

        Args:
            keep_ratio: mean over the layers, or the share of each layer.
        """
        given = KeepSchedule.from_config(keep_ratio, len(self.factors), cascade=False)
        factors, wanted = given.factors, given.ratio
        if isinstance(keep_ratio, (int, float)):
            factors, mean = self.factors, sum(self.factors) / len(self.factors)
            if wanted >= mean:
                even = [1 / len(factors)] * len(factors)
                return LevelQuotas.of((1.0,) * len(self.shares), _scaled(factors, even, wanted))
            wanted /= mean
        shares = _scaled(self.shares, _level_weights(len(self.shares)), wanted)
        return LevelQuotas.of(shares, factors)

    def capacities(self, tokens: TokenGrid, levels: range) -> list[int]:
        """Upper bound, on the host, of the tokens that an image keeps on each of some levels."""
        counts = [
            floor_share(tokens.capacity_of(range(level, level + 1)), self.shares[level])
            for level in levels
        ]
        # an image that would keep no token keeps one of the coarsest level
        if tokens.padding_mask is not None or sum(counts) == 0:
            counts[-1] = max(counts[-1], 1)
        return counts

    def level_counts(self, tokens: TokenGrid, levels: range) -> Tensor:
        """(B, n) int64 tokens that each image keeps on each of n levels, in sum at least one."""
        counts = [
            floor_share(tokens.num_valid(range(level, level + 1)), self.shares[level])
            for level in levels
        ]
        coarsest = counts[-1] + (sum(counts) == 0)
        return torch.stack([*counts[:-1], coarsest], 1)


def _level_weights(num_levels: int) -> list[float]:
    """Share of each level in all tokens, if each has a quarter of the tokens of the one before."""
    sizes = [4.0**-level for level in range(num_levels)]
    return [size / sum(sizes) for size in sizes]


def _scaled(shares: Sequence[float], weights: Sequence[float], wanted: float) -> tuple[float, ...]:
    """min(1, c * share) of each, with c such that their weighted mean is ``wanted``."""
    below = sorted(range(len(shares)), key=lambda i: -shares[i])
    left = wanted
    while below:
        factor = left / sum(weights[i] * shares[i] for i in below)
        if factor * shares[below[0]] <= 1.0:
            return tuple(shares[i] * factor if i in below else 1.0 for i in range(len(shares)))
        left -= weights[below.pop(0)]
    return (1.0,) * len(shares)
