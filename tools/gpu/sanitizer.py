"""Run the operators' driver under compute-sanitizer; without a GPU, run the driver alone."""

from __future__ import annotations

import re
import shutil
import sys
from functools import partial
from typing import Any

from gpu import driver
from gpu.processes import run, tail
from gpu.settings import Cases, Settings

TOOLS = ("memcheck", "racecheck")
ERROR_STATUS = 9  # exit status that compute-sanitizer returns if it finds an error
DRIVER = [sys.executable, "-m", "gpu.driver"]
_SUMMARY = re.compile(r"(?:ERROR|RACECHECK) SUMMARY: .*")


def plan(settings: Settings) -> Cases:
    """The driver alone and, on a GPU, under each tool of compute-sanitizer."""
    tools = TOOLS if settings.on_gpu else ()
    return {"driver": partial(_drive, settings)} | {
        t: partial(_sanitize, t, settings) for t in tools
    }


def _drive(settings: Settings) -> dict[str, Any]:
    """Run the driver: on the CPU in this process, on a GPU in another, which an error may end."""
    if not settings.on_gpu:
        return {"summary": f"{len(list(driver.calls(settings.device)))} calls, no GPU"}
    status, output = run([*DRIVER, settings.device], settings.work / "logs" / "driver.log")
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
    status, output = run(command_of(tool, settings.device), log, variables)
    summary = _SUMMARY.findall(output)
    if status or not summary or "SUMMARY: 0 " not in summary[-1]:
        raise ValueError(f"{tool} ended with status {status}, see {log}\n{tail(output, 40)}")
    return {"summary": summary[-1]}


def line(result: dict[str, Any]) -> str:
    """The last line of the driver or of the tool."""
    summary: str = result["summary"]
    return summary
