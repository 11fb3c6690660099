"""Runs the cases of a step one after another and records each result."""

from __future__ import annotations

import gc
import time
import traceback
from collections.abc import Callable, Mapping
from typing import Any

import torch

from gpu.record import Record
from gpu.settings import Settings

Run = Callable[[], dict[str, Any]]


class PartlyFailed(Exception):
    """Some parts of a case failed.

    Args:
        result: of the parts that did not fail.
        errors: messages of those that failed, by name.
    """

    def __init__(self, result: dict[str, Any], errors: Mapping[str, str]) -> None:
        super().__init__("; ".join(f"{name}: {error}" for name, error in errors.items()))
        self.result = result

    @classmethod
    def unless_complete(cls, result: dict[str, Any], errors: Mapping[str, str]) -> dict[str, Any]:
        """Return the result, or raise with it if there are errors."""
        if errors:
            raise cls(result, errors)
        return result


class OutOfTime(Exception):
    """The call's time limit was reached before all cases of a step were started."""


class DeviceLost(Exception):
    """A case left the GPU in an error state that lasts as long as the process."""


def run_step(
    step: str,
    plan: Mapping[str, Run],
    line: Callable[[dict[str, Any]], str],
    record: Record,
    settings: Settings,
    say: Callable[[str], None],
) -> bool:
    """Run the cases of a step that are not done yet and print a line for each.

    Args:
        step: name of the step.
        plan: function of each case.
        line: one line that sums up a result.
        record: where results are stored.
        settings: hold the time limit.
        say: prints a line.

    Returns:
        Whether all cases that were run succeeded.

    Raises:
        OutOfTime: the time limit is reached and cases are left.
        DeviceLost: the GPU is in an error state: only a new process can continue.
    """
    cases = record.to_do(step, plan, settings.keep_failed)
    if before := len(plan) - len(cases):
        say(f"{step}: {before} of {len(plan)} cases were run before")
    success = True
    for index, case in enumerate(cases):
        if settings.seconds_left < 0:
            raise OutOfTime(f"{step}: {len(cases) - index} cases are left; run it again")
        success &= _run_case(step, case, plan[case], line, record, settings, say)
    return success


def _run_case(
    step: str,
    case: str,
    run: Run,
    line: Callable[[dict[str, Any]], str],
    record: Record,
    settings: Settings,
    say: Callable[[str], None],
) -> bool:
    """Run one case and record its result or its error; whether it succeeded."""
    record.put(step, case, "begun")
    start, state = time.monotonic(), "failed"
    details: dict[str, Any] = {}
    try:
        details["result"] = run()
        settings.synchronize()
        state, text = "done", line(details["result"])
    except Exception as error:  # the other cases still run
        text = f"FAILED: {type(error).__name__}: {error}"
        details["error"] = "".join(traceback.format_exception(error))[-4000:]
        if isinstance(error, PartlyFailed):
            details["result"] = error.result
    seconds = time.monotonic() - start
    record.put(step, case, state, seconds=round(seconds, 1), **details)
    say(f"{step}: {case}: {text[:600]} [{seconds:.0f} s]")
    gc.collect()
    if settings.on_gpu:
        try:
            settings.synchronize()
            torch.cuda.empty_cache()
        except RuntimeError as error:
            raise DeviceLost(f"{step}: {case}: {error}") from None
    return state == "done"
