"""Times that can be compared: warm-up, repeats, and everything interleaved in one run.

Machines drift (clocks, neighbours, caches). Candidates are therefore timed in
turns, round by round, and compared within a round.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import nn

T = TypeVar("T")

#: what the time of a detector's forward pass is split into, in the order of running
STAGES = ("backbone", "neck", "encoder", "decoder and head")


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

    def ratios_to(self, other: Timing) -> tuple[float, ...]:
        """This candidate's time over the other's, round by round."""
        pairs = zip(self.seconds, other.seconds, strict=True)
        return tuple(mine / theirs for mine, theirs in pairs)

    def ratio_to(self, other: Timing) -> float:
        """Median over rounds of this candidate's time over the other's in the same round."""
        return statistics.median(self.ratios_to(other))


@dataclass(frozen=True)
class StageTiming:
    """Seconds of one candidate's stages: one tuple a round, in the order of :data:`STAGES`.

    A stage lasts from the end of the one before it to its own end, so the stages
    add up to the whole pass: flattening and position embeddings count to the
    encoder, choosing queries to decoder and head.
    """

    rounds: tuple[tuple[float, ...], ...]

    @property
    def total(self) -> Timing:
        """The whole pass."""
        return Timing(tuple(sum(stages) for stages in self.rounds))

    def stage(self, name: str) -> Timing:
        """One stage, a name of :data:`STAGES`."""
        place = STAGES.index(name)
        return Timing(tuple(stages[place] for stages in self.rounds))


@dataclass(frozen=True)
class StagedCall:
    """A detector's forward pass to be timed stage by stage.

    Attributes:
        model: with ``backbone``, ``encoder`` and, maybe, ``neck``.
        call: the pass.
        prepare: called before it, untimed, such as setting a keep ratio.
    """

    model: Any
    call: Callable[[], object]
    prepare: Callable[[], object] = lambda: None


class Clock:
    """Marks in time: of the host, or CUDA events on the device's current stream."""

    def __init__(self, device: torch.device | str) -> None:
        self.device = torch.device(device)

    def wait(self) -> None:
        """Until the device has done all its work."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def mark(self) -> Any:
        """A mark at this place of the work."""
        if self.device.type != "cuda":
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record(torch.cuda.current_stream(self.device))
        return event

    def seconds(self, first: Any, last: Any) -> float:
        """From one mark to another, after :meth:`wait`."""
        if self.device.type != "cuda":
            return float(last - first)
        return float(first.elapsed_time(last)) / 1000


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
        device: where the work runs; a CUDA device is timed by events.

    Yields:
        After each timed round: its number (from 1) and all timings so far.

    Raises:
        ValueError: no candidates, or fewer than one repeat.
    """
    clock = Clock(device)
    measures = {name: _whole(call, clock) for name, call in candidates.items()}
    for number, found in _rounds(measures, repeats, warmup):
        yield number, {name: Timing(tuple(seconds)) for name, seconds in found.items()}


def interleaved_stages(
    candidates: Mapping[str, StagedCall],
    repeats: int = 5,
    warmup: int = 1,
    device: torch.device | str = "cpu",
) -> Iterator[tuple[int, dict[str, StageTiming]]]:
    """Time the stages of detectors in turns; as :func:`interleaved` otherwise."""
    clock = Clock(device)
    measures = {name: _staged(candidate, clock) for name, candidate in candidates.items()}
    for number, found in _rounds(measures, repeats, warmup):
        yield number, {name: StageTiming(tuple(rounds)) for name, rounds in found.items()}


def _rounds(
    measures: Mapping[str, Callable[[], T]], repeats: int, warmup: int
) -> Iterator[tuple[int, dict[str, list[T]]]]:
    if not measures or repeats < 1 or warmup < 0:
        raise ValueError(
            f"need at least one candidate, repeats >= 1 and warmup >= 0, got "
            f"{len(measures)} candidates, {repeats=}, {warmup=}"
        )
    found: dict[str, list[T]] = {name: [] for name in measures}
    for _ in range(warmup):
        for measure in measures.values():
            measure()
    for round_number in range(1, repeats + 1):
        for name, measure in measures.items():
            found[name].append(measure())
        yield round_number, found


def _whole(call: Callable[[], object], clock: Clock) -> Callable[[], float]:
    def measure() -> float:
        clock.wait()
        start = clock.mark()
        call()
        end = clock.mark()
        clock.wait()
        return clock.seconds(start, end)

    return measure


def _staged(candidate: StagedCall, clock: Clock) -> Callable[[], tuple[float, ...]]:
    def measure() -> tuple[float, ...]:
        marks: dict[str, Any] = {}

        def mark_end(name: str) -> Callable[..., None]:
            def hook(*_: object) -> None:
                marks[name] = clock.mark()

            return hook

        parts = [(name, getattr(candidate.model, name, None)) for name in STAGES[:-1]]
        handles = [
            part.register_forward_hook(mark_end(name))
            for name, part in parts
            if isinstance(part, nn.Module)
        ]
        candidate.prepare()
        clock.wait()
        last = clock.mark()
        try:
            candidate.call()
        finally:
            for handle in handles:
                handle.remove()
        marks[STAGES[-1]] = clock.mark()
        clock.wait()
        stages = []
        for name in STAGES:
            end = marks.get(name, last)
            stages.append(clock.seconds(last, end))
            last = end
        return tuple(stages)

    return measure
