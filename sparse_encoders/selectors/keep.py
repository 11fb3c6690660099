"""How many tokens each encoder layer keeps: keep ratios and cascades.

Focus-DETR keeps fewer tokens in each layer (supplement, section A.1, Table 1);
Sparse DETR keeps the same ones in all. Counts follow the released code: an
image with v valid tokens has n = int(v * ratio) + 1 foreground tokens (at most v),
and layer i keeps int(factor_i * n) of them (at least 1), in float32 arithmetic. One
formula serves on the host, for the sizes of tensors, and on the device, for masks.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

# Tokens of one image on the host, or (B,) int64 tokens of each image on the device.
Count = TypeVar("Count", int, Tensor)

# Table 1 of the supplement: average keep ratio -> keep ratio of each of 6 layers.
CASCADES: dict[float, tuple[float, ...]] = {
    0.1: (0.1, 0.1, 0.1, 0.1, 0.1, 0.1),
    0.2: (0.3, 0.3, 0.2, 0.2, 0.1, 0.1),
    0.3: (0.5, 0.4, 0.3, 0.3, 0.2, 0.1),
    0.4: (0.65, 0.55, 0.45, 0.35, 0.25, 0.15),
    0.5: (0.75, 0.65, 0.55, 0.45, 0.35, 0.25),
}
COUNTS = ("batch", "image")


@dataclass(frozen=True)
class KeepSchedule:
    """Share of an image's valid tokens that each encoder layer keeps.

    Attributes:
        ratio: share of valid tokens that are foreground, in (0, 1].
        factors: per layer, share of the foreground that the layer keeps,
            in (0, 1], never increasing.
    """

    ratio: float
    factors: tuple[float, ...]

    def __post_init__(self) -> None:
        check_ratios("keep_ratio", [self.ratio])
        if any(b > a for a, b in zip(self.factors, self.factors[1:], strict=False)):
            raise ValueError(
                f"a cascade must not increase from layer to layer, got factors {self.factors}"
            )
        check_ratios("keep_ratio's cascade factor", self.factors)

    @classmethod
    def from_config(
        cls, keep_ratio: float | Sequence[float], num_layers: int, cascade: bool
    ) -> KeepSchedule:
        """Schedule of a config's ``keep_ratio``.

        Args:
            keep_ratio: one keep ratio for each layer, or their average.
            num_layers: encoder layers.
            cascade: with an average, follow Table 1 of the supplement
                (interpolated between its rows and over other layer counts)
                instead of the same ratio in every layer.
        """
        if isinstance(keep_ratio, (int, float)):
            check_ratios("keep_ratio", [keep_ratio])
            average = float(keep_ratio)
            ratios = (average,) * num_layers
            if cascade:
                ratios = cascade_of_average(average, num_layers)
        else:
            ratios = check_ratios("keep_ratio", keep_ratio)
            if len(ratios) != num_layers:
                raise ValueError(
                    f"keep_ratio lists {len(ratios)} values for {num_layers} encoder layers; "
                    "give one for each layer, or one number for their average"
                )
        return cls(ratios[0], tuple(r / ratios[0] for r in ratios))

    @property
    def per_layer(self) -> tuple[float, ...]:
        """Keep ratio of each layer."""
        return tuple(self.ratio * f for f in self.factors)

    @property
    def average(self) -> float:
        """Mean keep ratio over the layers."""
        return sum(self.per_layer) / len(self.factors)

    def foreground_counts(self, valid: Count) -> Count:
        """Foreground tokens of images with ``valid`` tokens: int(valid * ratio) + 1, at most all.

        Args:
            valid: tokens of one image (an int, on the host) or of each image, (B,) int64.
        """
        wanted = floor_share(valid, self.ratio) + 1
        if isinstance(wanted, Tensor):
            return torch.minimum(wanted, valid)
        return min(wanted, valid)

    def layer_counts(self, foreground: Count) -> tuple[Count, ...]:
        """Tokens that each layer takes of n ``foreground`` ones: int(factor * n), at least 1."""
        shares = [floor_share(foreground, factor) for factor in self.factors]
        return tuple(s.clamp(min=1) if isinstance(s, Tensor) else max(s, 1) for s in shares)


def floor_share(count: Count, share: float) -> Count:
    """int(count * share) in float32, as in the released code; the same on host and device."""
    if isinstance(count, Tensor):
        return (count.float() * share).long()
    return int(np.float32(count) * np.float32(share))


def cascade_of_average(average: float, num_layers: int) -> tuple[float, ...]:
    """Per-layer ratios whose mean is ``average``, after Table 1 of the supplement.

    The five averages of the table give its rows exactly. Other averages above 0.1 are
    interpolated between rows, up to 1.0, where every layer keeps all tokens; below 0.1
    every layer keeps the same share. For an encoder without six layers the rows are
    interpolated over the layers, too.
    """
    table = {0.0: (0.0,) * 6, **CASCADES, 1.0: (1.0,) * 6}
    columns = zip(*table.values(), strict=True)
    row = np.array([np.interp(average, list(table), column) for column in columns])
    if num_layers != 6:
        row = np.interp(np.linspace(0, 1, num_layers), np.linspace(0, 1, 6), row)
        row = np.minimum(row * (average / row.mean()), 1.0)
    # rounding in the interpolation may make a later layer larger by the last bit
    return tuple(float(r) for r in np.minimum.accumulate(row))


def check_ratios(name: str, ratios: Sequence[float]) -> tuple[float, ...]:
    """``ratios`` as floats.

    Raises:
        ValueError: one of them lies outside of (0, 1].
    """
    for ratio in ratios:
        if isinstance(ratio, bool) or not 0.0 < float(ratio) <= 1.0:
            raise ValueError(f"{name} must lie in (0, 1], got {ratio!r}")
    return tuple(map(float, ratios))
