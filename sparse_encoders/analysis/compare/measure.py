"""Memory and latency of the variants."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from sparse_encoders.analysis.inputs import image_call
from sparse_encoders.analysis.latency import STAGES, StagedCall, Timing, interleaved
from sparse_encoders.analysis.memory import MIB, peak_memory

#: rounds where no one says how many, and seconds that are enough for more than the fewest
FEWEST, MOST, ENOUGH = 5, 30, 60.0


def set_ratio(model: Any, ratio: float | None) -> None:
    """Set the keep ratio of a detector that prunes."""
    if ratio is not None:
        model.set_keep_ratio(ratio)


def measure_memory(model: Any, size: tuple[int, int], device: str) -> dict[str, Any]:
    """Peak memory in MiB of one pass, beyond weights and image."""
    call = image_call(model, size, device)
    call()
    return {"peak_mib": peak_memory(call, device) / MIB}


def measure_latency(
    models: Mapping[str, tuple[Any, float | None]],
    size: tuple[int, int],
    device: str,
    repeats: int | None,
    warmup: int,
    say: Callable[[str], None],
) -> dict[str, Any]:
    """Time all variants in turns.

    Args:
        models: label to (detector, keep ratio); variants may share a detector.
        size: (height, width) in pixels of the one image.
        device: where the models are.
        repeats: timed rounds; None: as many as a minute has, 5 to 30.
        warmup: rounds before them.
        say: called with messages about the progress.

    Returns:
        ``stages``, the names, and ``rounds``: label to a list of rounds, each a list of seconds.
    """
    candidates = {
        label: StagedCall(model, image_call(model, size, device), partial(set_ratio, model, ratio))
        for label, (model, ratio) in models.items()
    }
    timings: dict[str, Timing] = {}
    start = time.perf_counter()
    for number, timings in interleaved(candidates, repeats or MOST, warmup, device):
        if number == 1 or number % 5 == 0:
            whole = sum(timing.seconds[-1] for timing in timings.values())
            say(f"round {number}: {whole:.2f} s for all {len(candidates)}")
        if repeats is None and number >= FEWEST and time.perf_counter() - start > ENOUGH:
            break
    rounds = {
        label: [[round(s, 7) for s in stages] for stages in timing.rounds]
        for label, timing in timings.items()
    }
    return {"stages": list(STAGES), "rounds": rounds}
