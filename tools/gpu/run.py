"""Runs steps of the GPU check, records their results and compares them with the goals."""

from __future__ import annotations

import gc
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import asdict
from importlib import import_module
from typing import Any

import torch

from gpu import FAILED, LOST, OUT_OF_TIME, ROOT, goals
from gpu.record import Record, kernels_key
from gpu.settings import Cases, Settings
from sparse_encoders.analysis.machine import describe_machine

Line = Callable[[dict[str, Any]], str]
#: entries of the machine's description that results depend on: if one changes, cases run again
KEY = ("device", "driver", "cuda", "python", "versions")


class Stopped(Exception):
    """Ends a call, with an exit status, before all of its cases were run."""

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(reason)
        self.status = status


def run(steps: Sequence[str], settings: Settings) -> int:
    """Run the cases of some steps that are not done yet; returns 0 or an exit status of ``gpu``.

    Raises:
        ValueError: a GPU that torch does not see, or an invalid results.json.
    """
    if settings.on_gpu and not torch.cuda.is_available():
        raise ValueError(
            f"torch {torch.__version__} sees no GPU: --device cpu --tiny tries the steps out"
        )
    machine = describe_machine(settings.device)
    size = "tiny" if settings.tiny else "full size"
    parts = [*(str(machine.get(name)) for name in KEY), f"csrc {kernels_key()}", size]
    record = Record(settings.work / "results.json", "; ".join(parts))
    record.note(
        command=" ".join(sys.argv),
        machine=machine,
        commit=_commit(),
        settings={k: v for k, v in asdict(settings).items() if k not in ("work", "deadline")},
    )
    status = 0
    try:
        for step in steps:
            module: Any = import_module(f"gpu.{step}")
            run_step(step, module.plan(settings), module.line, record, settings)
    except Stopped as stopped:
        print(stopped)
        status = stopped.status
    compared = goals.compare(record, settings.on_gpu and not settings.tiny)
    record.note(goals=compared)
    print(*goals.lines(compared), sep="\n")
    if failed := record.failed(steps):
        print(f"{len(failed)} cases failed or were interrupted: {'; '.join(failed)}")
    print(f"all results are in {record.path}")
    return status or (FAILED if failed else 0)


def _commit() -> str:
    """The checkout's commit, with '+' if files are changed; empty without git."""
    command = "git describe --always --dirty=+ --exclude='*'"
    done = subprocess.run(command, shell=True, cwd=ROOT, capture_output=True, text=True)
    return done.stdout.strip()


def run_step(step: str, plan: Cases, line: Line, record: Record, settings: Settings) -> None:
    """Run the cases of a step that are not done yet; record each result and print it in a line.

    Raises:
        Stopped: the time limit is reached and cases are left, or the GPU is in an error state
            that lasts as long as the process.
    """
    cases = record.to_do(step, plan, settings.keep_failed)
    if before := len(plan) - len(cases):
        print(f"{step}: {before} of {len(plan)} cases were run before")
    for index, case in enumerate(cases):
        start = time.monotonic()
        if start > settings.deadline:
            left = f"{step}: {len(cases) - index} cases are left; run it again"
            raise Stopped(OUT_OF_TIME, f"the time limit is reached: {left}")
        record.put(step, case, "begun")
        text, outcome = _run_case(plan[case], line, settings)
        seconds = time.monotonic() - start
        record.put(step, case, seconds=round(seconds, 1), **outcome)
        print(f"{step}: {case}: {text[:600]} [{seconds:.0f} s]")
        gc.collect()
        try:
            settings.synchronize()
            torch.cuda.empty_cache()  # does nothing without a GPU
        except RuntimeError as error:
            text = f"the GPU is usable again only in a new process: {step}: {case}: {error}"
            raise Stopped(LOST, text) from None


def _run_case(
    case: Callable[[], dict[str, Any]], line: Line, settings: Settings
) -> tuple[str, dict[str, Any]]:
    """Run a case; returns a line about it, and its state with its result or its error."""
    outcome: dict[str, Any] = {"state": "failed"}
    try:
        result = case()
        errors = result.pop("errors", {})
        outcome["result"] = result
        settings.synchronize()
        if errors:
            raise RuntimeError("; ".join(f"{name}: {error}" for name, error in errors.items()))
        return line(result), {**outcome, "state": "done"}
    except Exception as error:  # the other cases still run
        outcome["error"] = "".join(traceback.format_exception(error))[-4000:]
        return f"FAILED: {type(error).__name__}: {error}", outcome
