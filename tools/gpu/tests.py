"""Run the tests that are marked ``cuda``."""

from __future__ import annotations

import re
import sys
from functools import partial
from typing import Any

from gpu import ROOT
from gpu.processes import run, tail
from gpu.settings import Cases, Settings

FIRST = "tests/cuda/test_on_gpu.py"
_COUNT = re.compile(r"(\d+) (passed|failed|errors?|skipped|deselected)")
_FAILED = re.compile(r"^(?:FAILED|ERROR) (\S+)", re.MULTILINE)


def plan(settings: Settings) -> Cases:
    """The tests of the kernels, then all other tests that are marked ``cuda``."""
    files = sorted((ROOT / "tests").rglob("test_*.py"))
    marked = [str(path.relative_to(ROOT)) for path in files if "mark.cuda" in path.read_text()]
    others = [file for file in marked if file != FIRST]
    return {
        "kernels": partial(_run, [FIRST], settings, "kernels"),
        "other tests marked cuda": partial(_run, others, settings, "others"),
    }


def _run(files: list[str], settings: Settings, name: str) -> dict[str, Any]:
    command = [sys.executable, "-m", "pytest", "-q", "-m", "cuda", "-p", "no:cacheprovider", *files]
    status, output = run(command, settings.work / "logs" / f"tests_{name}.log")
    return read_result(status, output, settings.on_gpu)


def read_result(status: int, output: str, on_gpu: bool) -> dict[str, Any]:
    """Numbers of passed and skipped tests in pytest's output.

    Raises:
        ValueError: a test failed or, on a GPU, no test ran.
    """
    counts = {kind.rstrip("s"): int(number) for number, kind in _COUNT.findall(tail(output, 2))}
    if failed := sorted(set(_FAILED.findall(output))):
        raise ValueError(f"{len(failed)} failed: {', '.join(failed)}\n{tail(output, 60)}")
    if status not in (0, 5) or (on_gpu and not counts.get("passed")):
        raise ValueError(f"pytest ended with status {status}, {counts}\n{tail(output)}")
    return counts


def line(result: dict[str, Any]) -> str:
    """Numbers of tests by outcome."""
    return ", ".join(f"{number} {kind}" for kind, number in result.items())
