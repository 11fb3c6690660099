"""Run the operators' driver under compute-sanitizer; without a GPU, run the driver alone."""

from __future__ import annotations

import re
import shutil
import sys
from collections.abc import Callable
from functools import partial
from typing import Any

from gpu import driver
from gpu.processes import run, tail
from gpu.settings import Settings

TOOLS = ("memcheck", "racecheck")
ERROR_STATUS = 9  # exit status that compute-sanitizer returns if it finds an error
DRIVER = [sys.executable, "-m", "gpu.driver"]
_SUMMARY = re.compile(r"(?:ERROR|RACECHECK) SUMMARY: .*")
_NO_ERRORS = re.compile(r"SUMMARY: 0 ")


def plan(settings: Settings) -> dict[str, Callable[[], dict[str, Any]]]:
    """The cases: the driver alone and, on a GPU, under each tool of compute-sanitizer."""
    cases: dict[str, Callable[[], dict[str, Any]]] = {"driver": partial(_driver, settings)}
    for tool in TOOLS if settings.on_gpu else ():
        cases[tool] = partial(_sanitize, tool, settings)
    return cases


def _driver(settings: Settings) -> dict[str, Any]:
    """Run the driver: on the CPU in this process, on a GPU in another, which an error may end."""
    if not settings.on_gpu:
        return {"calls": len(list(driver.calls(settings.device))), "summary": "no GPU"}
    log = settings.work / "logs" / "driver.log"
    status, output = run([*DRIVER, settings.device], log, settings)
    if status:
        raise ValueError(f"the driver ended with status {status}\n{tail(output)}")
    return {"summary": tail(output, 1)}


def command_of(tool: str, device: str) -> list[str]:
    """Command that runs the driver under a tool, which checks this package's kernels only."""
    return [
        *("compute-sanitizer", "--tool", tool, "--error-exitcode", str(ERROR_STATUS)),
        *("--kernel-name", "kns=sparse_encoders", "--launch-timeout", "0"),
        *DRIVER,
        device,
    ]


def _sanitize(tool: str, settings: Settings) -> dict[str, Any]:
    """Run the driver under a tool.

    Raises:
        ValueError: compute-sanitizer is missing, or it reports an error.
    """
    if shutil.which("compute-sanitizer") is None:
        raise ValueError("compute-sanitizer was not found on PATH")
    # allocate each tensor separately, so that an access past its end is detected
    variables = {"PYTORCH_NO_CUDA_MEMORY_CACHING": "1"}
    log = settings.work / "logs" / f"{tool}.log"
    status, output = run(command_of(tool, settings.device), log, settings, variables)
    summary = _SUMMARY.findall(output)
    if status or not summary or not _NO_ERRORS.search(summary[-1]):
        raise ValueError(f"{tool} ended with status {status}, see {log}\n{tail(output, 40)}")
    return {"summary": summary[-1]}


def line(result: dict[str, Any]) -> str:
    """One line that sums up a result."""
    calls = f"{result['calls']} calls, " if "calls" in result else ""
    return f"{calls}{result['summary']}"
