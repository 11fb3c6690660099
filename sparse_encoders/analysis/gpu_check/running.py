"""Runs the cases of a step one after another, each into the record."""

from __future__ import annotations

import gc
import time
import traceback
from collections.abc import Callable, Mapping
from typing import Any

import torch

from sparse_encoders.analysis.gpu_check.record import Record
from sparse_encoders.analysis.gpu_check.settings import Settings

Run = Callable[[], dict[str, Any]]


class PartlyFailed(Exception):
    """Some of a case went wrong.

    Args:
        result: what did not.
        errors: what did, by name.
    """

    def __init__(self, result: dict[str, Any], errors: Mapping[str, str]) -> None:
        super().__init__("; ".join(f"{name}: {error}" for name, error in errors.items()))
        self.result = result

    @classmethod
    def unless_whole(cls, result: dict[str, Any], errors: Mapping[str, str]) -> dict[str, Any]:
        """The result; raises where there are errors."""
        if errors:
            raise cls(result, errors)
        return result


class OutOfTime(Exception):
    """The call's time is over before the step is finished."""


class DeviceLost(Exception):
    """A case left the GPU in an error that ends only with the process."""


def run_step(
    step: str,
    plan: Mapping[str, Run],
    line: Callable[[dict[str, Any]], str],
    record: Record,
    settings: Settings,
    say: Callable[[str], None],
) -> bool:
    """Run what is not done yet, a line for each.

    Args:
        step: its name.
        plan: of each case, what runs it.
        line: a result in words.
        record: of the whole check.
        settings: say when the time is over.
        say: is told each line.

    Returns:
        Whether all cases that were run went well.

    Raises:
        OutOfTime: there is no time left to begin the next case.
        DeviceLost: another process has to go on.
    """
    left = record.to_do(step, plan, settings.keep_failed)
    if before := len(plan) - len(left):
        say(f"{step}: {before} of {len(plan)} cases were run before")
    well = True
    for number, case in enumerate(left, 1):
        if settings.seconds_left < 0:
            raise OutOfTime(f"{step}: {len(left) - number + 1} cases are left; run it again")
        well &= _run_case(step, case, plan[case], line, record, settings, say)
    return well


def _run_case(
    step: str,
    case: str,
    run: Run,
    line: Callable[[dict[str, Any]], str],
    record: Record,
    settings: Settings,
    say: Callable[[str], None],
) -> bool:
    """Run one case; whether it went well. What goes wrong is in the record."""
    record.put(step, case, "begun")
    start, state = time.monotonic(), "failed"
    more: dict[str, Any] = {}
    try:
        more["result"] = run()
        settings.synchronize()
        state, words = "done", line(more["result"])
    except Exception as error:  # one case does not keep the others from being measured
        words = f"FAILED: {type(error).__name__}: {error}"
        more["error"] = "".join(traceback.format_exception(error))[-4000:]
        if isinstance(error, PartlyFailed):
            more["result"] = error.result
    seconds = time.monotonic() - start
    record.put(step, case, state, seconds=round(seconds, 1), **more)
    say(f"{step}: {case}: {words[:600]} [{seconds:.0f} s]")
    gc.collect()
    if settings.on_gpu:
        try:
            settings.synchronize()
            torch.cuda.empty_cache()
        except RuntimeError as error:
            raise DeviceLost(f"{step}: {case}: {error}") from None
    return state == "done"
