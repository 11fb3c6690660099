"""compute-sanitizer over a small driver; without a GPU the driver alone."""

from __future__ import annotations

import re
import shutil
import sys
from collections.abc import Callable
from functools import partial
from typing import Any

from sparse_encoders.analysis.gpu_check import driver
from sparse_encoders.analysis.gpu_check.processes import run, tail
from sparse_encoders.analysis.gpu_check.settings import Settings

TOOLS = ("memcheck", "racecheck")
FOUND = 9  # the exit status that is asked for where something was found
DRIVER = [sys.executable, "-m", "sparse_encoders.analysis.gpu_check.driver"]
_SUMMARY = re.compile(r"(?:ERROR|RACECHECK) SUMMARY: .*")
_NOTHING = re.compile(r"SUMMARY: 0 ")


def plan(settings: Settings) -> dict[str, Callable[[], dict[str, Any]]]:
    """The driver alone, then under each tool where there is a GPU."""
    found: dict[str, Callable[[], dict[str, Any]]] = {"driver": partial(_alone, settings)}
    for tool in TOOLS if settings.on_gpu else ():
        found[tool] = partial(_under, tool, settings)
    return found


def _alone(settings: Settings) -> dict[str, Any]:
    """On the CPU in this process; on a GPU in one of its own, that may be lost."""
    if not settings.on_gpu:
        return {"calls": len(list(driver.calls(settings.device))), "summary": "no GPU"}
    log = settings.work / "logs" / "driver.log"
    status, output = run([*DRIVER, settings.device], log, settings)
    if status:
        raise ValueError(f"the driver ended with status {status}\n{tail(output)}")
    return {"summary": tail(output, 1)}


def command_of(tool: str, device: str) -> list[str]:
    """What runs the driver under a tool; only this package's kernels are looked at."""
    return [
        *("compute-sanitizer", "--tool", tool, "--error-exitcode", str(FOUND)),
        *("--kernel-name", "kns=sparse_encoders", "--launch-timeout", "0"),
        *DRIVER,
        device,
    ]


def _under(tool: str, settings: Settings) -> dict[str, Any]:
    """Run the driver under a tool.

    Raises:
        ValueError: there is no compute-sanitizer, or it found something.
    """
    if shutil.which("compute-sanitizer") is None:
        raise ValueError("compute-sanitizer was not found on PATH")
    # every tensor a piece of memory of its own: a read past its end is seen
    alone = {"PYTORCH_NO_CUDA_MEMORY_CACHING": "1"}
    log = settings.work / "logs" / f"{tool}.log"
    status, output = run(command_of(tool, settings.device), log, settings, alone)
    summary = _SUMMARY.findall(output)
    if status or not summary or not _NOTHING.search(summary[-1]):
        raise ValueError(f"{tool} ended with status {status}, see {log}\n{tail(output, 40)}")
    return {"summary": summary[-1]}


def line(result: dict[str, Any]) -> str:
    """A result in words."""
    calls = f"{result['calls']} calls, " if "calls" in result else ""
    return f"{calls}{result['summary']}"
