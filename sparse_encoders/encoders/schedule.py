"""Lite DETR's schedules: which levels each layer refines (CVPR 2023, section 3.3)."""

from __future__ import annotations

import re
from dataclasses import dataclass

# The paper's schedules; ``schedule`` also accepts other numbers in this form.
SCHEDULES = ("H3L1-(2+1)x3", "H3L1-(3+1)x2", "H3L1-(6+1)x1", "H2L2-(2+1)x3")
_SCHEDULE = re.compile(r"H(\d+)L(\d+)-\((\d+)\+1\)x(\d+)")


@dataclass(frozen=True)
class InterleavedSchedule:
    """Which levels each layer refines.

    A block of n layers has n - 1 layers on the high levels and a last one on all levels.

    Attributes:
        num_layers: encoder layers.
        blocks: blocks of ``num_layers / blocks`` layers each.
        high_levels: coarse levels refined in every layer.
        num_levels: feature levels.
    """

    num_layers: int
    blocks: int
    high_levels: int
    num_levels: int

    def __post_init__(self) -> None:
        if self.blocks < 1 or self.num_layers % self.blocks:
            raise ValueError(
                f"encoder.blocks must divide encoder.num_layers, got {self.blocks} blocks and "
                f"{self.num_layers} layers"
            )
        if not 1 <= self.high_levels < self.num_levels:
            raise ValueError(
                f"encoder.high_levels must lie in [1, {self.num_levels - 1}] for "
                f"{self.num_levels} feature levels, got {self.high_levels}"
            )

    @classmethod
    def from_name(cls, name: str, num_levels: int) -> InterleavedSchedule:
        """The schedule of a name such as 'H3L1-(2+1)x3': 3 high levels, 3 blocks of 2 layers.

        Raises:
            ValueError: not such a name, or H + L is not ``num_levels``.
        """
        match = _SCHEDULE.fullmatch(name)
        if match is None:
            raise ValueError(
                f"encoder.schedule must be named like {', '.join(SCHEDULES)}, got {name!r}"
            )
        high, low, layers, blocks = (int(group) for group in match.groups())
        if high + low != num_levels:
            raise ValueError(
                f"encoder.schedule {name!r} is for {high + low} feature levels, "
                f"the detector has {num_levels}"
            )
        return cls(layers * blocks, blocks, high, num_levels)

    def refines_all(self, layer: int) -> bool:
        """Whether ``layer`` (from 0) is the last of its block."""
        return (layer + 1) % (self.num_layers // self.blocks) == 0


def make_schedule(
    num_layers: int | None,
    num_levels: int,
    name: str | None,
    blocks: int | None,
    high_levels: int | None,
) -> InterleavedSchedule:
    """The schedule of a config, from its name or from the numbers.

    Numbers that are None follow from the name, or are 6 layers, 3 blocks and all levels but one.

    Raises:
        ValueError: numbers that do not fit each other, or do not fit the name.
    """
    numbers = {"num_layers": num_layers, "blocks": blocks, "high_levels": high_levels}
    given = {setting: number for setting, number in numbers.items() if number is not None}
    if name is None:
        defaults = {"num_layers": 6, "blocks": 3, "high_levels": num_levels - 1}
        return InterleavedSchedule(num_levels=num_levels, **{**defaults, **given})
    named = InterleavedSchedule.from_name(name, num_levels)
    for setting, number in given.items():
        if number != getattr(named, setting):
            raise ValueError(
                f"encoder.schedule {name!r} means {setting}={getattr(named, setting)}, but "
                f"encoder.{setting} is {number}; give one of the two"
            )
    return named
