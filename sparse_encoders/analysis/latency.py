"""Comparable times: warm-up, repeats, and all candidates interleaved in one run.

The speed of a machine changes over time (clocks, other processes, caches). Candidates are therefore
timed in turns, round by round, and compared within a round. torch.utils.benchmark, which times one
candidate after the other, is used for the statistics only.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import nn
from torch.utils.benchmark import Measurement
from torch.utils.benchmark.utils.common import TaskSpec

#: stages of a detector's forward pass, in order
STAGES = ("backbone", "neck", "encoder", "decoder and head")


@dataclass(frozen=True)
class Timing:
    """Seconds of one candidate.

    A stage lasts from the end of the one before it to its own end, so the stages add up to the
    whole call: flattening and position embeddings count to the encoder, choosing queries to
    decoder and head.

    Attributes:
        rounds: one tuple a round, of its stages in the order of :data:`STAGES`, or of one number.
    """

    rounds: tuple[tuple[float, ...], ...]

    @property
    def seconds(self) -> list[float]:
        """The whole call, round by round."""
        return [sum(stages) for stages in self.rounds]

    @property
    def median(self) -> float:
        """Median over rounds, in seconds."""
        return float(Measurement(1, self.seconds, TaskSpec("call", "")).median)

    @property
    def spread(self) -> tuple[float, float]:
        """Fastest and slowest round, in seconds."""
        return min(self.seconds), max(self.seconds)

    def stage(self, name: str) -> Timing:
        """One stage, a name of :data:`STAGES`."""
        index = STAGES.index(name)
        return Timing(tuple((stages[index],) for stages in self.rounds))

    def ratios_to(self, other: Timing) -> list[float]:
        """This candidate's time over the other's, round by round."""
        return [a / b for a, b in zip(self.seconds, other.seconds, strict=True)]

    def ratio_to(self, other: Timing) -> float:
        """Median over rounds of this candidate's time over the other's in the same round."""
        return Timing(tuple((ratio,) for ratio in self.ratios_to(other))).median


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

    def marks(self, device: torch.device) -> list[Any]:
        """The start and each stage's end, which is that of the one before if it is missing."""
        ends: dict[str, Any] = {}
        self.prepare()
        with ExitStack() as hooks:
            for name in STAGES[:-1]:
                part = getattr(self.model, name, None)
                if isinstance(part, nn.Module):
                    hook = part.register_forward_hook(
                        lambda *_, name=name: ends.update({name: _mark(device)})
                    )
                    hooks.callback(hook.remove)
            marks = [_mark(device, wait=True)]
            self.call()
            ends[STAGES[-1]] = _mark(device)
        for name in STAGES:
            marks.append(ends.get(name, marks[-1]))
        return marks


def interleaved(
    candidates: Mapping[str, Callable[[], object] | StagedCall],
    repeats: int = 5,
    warmup: int = 1,
    device: torch.device | str = "cpu",
) -> Iterator[tuple[int, dict[str, Timing]]]:
    """Time candidates in turns.

    Args:
        candidates: name to a call without arguments, or to one with stages.
        repeats: timed rounds, at least 1.
        warmup: rounds before them, which are not timed.
        device: where the work runs; a CUDA device is timed by events.

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
    rounds: dict[str, list[tuple[float, ...]]] = {name: [] for name in candidates}
    for number in range(1 - warmup, repeats + 1):
        for name, candidate in candidates.items():
            seconds = _seconds(candidate, torch.device(device))
            if number > 0:
                rounds[name].append(seconds)
        if number > 0:
            yield number, {name: Timing(tuple(done)) for name, done in rounds.items()}


def _seconds(
    candidate: Callable[[], object] | StagedCall, device: torch.device
) -> tuple[float, ...]:
    """Of each stage, or of the whole call."""
    if isinstance(candidate, StagedCall):
        marks = candidate.marks(device)
    else:
        start = _mark(device, wait=True)
        candidate()
        marks = [start, _mark(device)]
    if device.type != "cuda":
        return tuple(end - start for start, end in pairwise(marks))
    torch.cuda.synchronize(device)
    return tuple(start.elapsed_time(end) / 1000 for start, end in pairwise(marks))


def _mark(device: torch.device, wait: bool = False) -> Any:
    """The current time of the host, or a CUDA event on the device's current stream."""
    if device.type != "cuda":
        return time.perf_counter()
    if wait:
        torch.cuda.synchronize(device)
    event = torch.cuda.Event(enable_timing=True)
    event.record(torch.cuda.current_stream(device))
    return event
