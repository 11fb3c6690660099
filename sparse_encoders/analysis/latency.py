"""Times that can be compared: warm-up, repeats, and everything interleaved in one run.

Machines drift (clocks, neighbours, caches). Candidates are therefore timed in
turns, round by round, and compared within a round.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Timing:
    """Seconds of one candidate, one value a round."""

    seconds: tuple[float, ...]

    @property
    def median(self) -> float:
        """Median over rounds, in seconds."""
        return statistics.median(self.seconds)

    @property
    def spread(self) -> tuple[float, float]:
        """Fastest and slowest round, in seconds."""
        return min(self.seconds), max(self.seconds)

    def ratio_to(self, other: Timing) -> float:
        """Median over rounds of this candidate's time over the other's in the same round."""
        pairs = zip(self.seconds, other.seconds, strict=True)
        return statistics.median(mine / theirs for mine, theirs in pairs)


def interleaved(
    candidates: Mapping[str, Callable[[], object]],
    repeats: int = 5,
    warmup: int = 1,
    device: torch.device | str = "cpu",
) -> Iterator[tuple[int, dict[str, Timing]]]:
    """Time candidates in turns.

    Args:
        candidates: name to a call without arguments.
        repeats: timed rounds, at least 1.
        warmup: rounds that are run and forgotten.
        device: where the work runs; a CUDA device is synchronised around each call.

    Yields:
        After each timed round: its number (from 1) and all timings so far.

    Raises:
        ValueError: no candidates, or fewer than one repeat.
    """
    if not candidates or repeats < 1 or warmup < 0:
        raise ValueError(
            f"need at least one candidate, repeats >= 1 and warmup >= 0, got "
            f"{len(candidates)} candidates, {repeats=}, {warmup=}"
        )
    seconds: dict[str, list[float]] = {name: [] for name in candidates}
    for _ in range(warmup):
        for call in candidates.values():
            call()
    for round_number in range(1, repeats + 1):
        for name, call in candidates.items():
            seconds[name].append(_timed(call, torch.device(device)))
        yield round_number, {name: Timing(tuple(s)) for name, s in seconds.items()}


def _timed(call: Callable[[], object], device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    start = time.perf_counter()
    call()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - start
