"""Run the tests that are marked ``cuda``."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from functools import partial
from typing import Any

from gpu.processes import run, tail
from gpu.settings import Settings

FIRST = "tests/cuda/test_on_gpu.py"
_COUNT = re.compile(r"(\d+) (passed|failed|errors?|skipped|deselected)")
_FAILED = re.compile(r"^(?:FAILED|ERROR) (\S+)", re.MULTILINE)


def plan(settings: Settings) -> dict[str, Callable[[], dict[str, Any]]]:
    """The cases: the tests of the kernels, then all other tests that are marked ``cuda``."""
    files = sorted(
        path.relative_to(settings.root).as_posix()
        for path in (settings.root / "tests").rglob("test_*.py")
        if "mark.cuda" in path.read_text()
    )
    others = [file for file in files if file != FIRST]
    return {
        "kernels": partial(_run, [FIRST], settings, "kernels"),
        "other tests marked cuda": partial(_run, others, settings, "others"),
    }


def _run(files: list[str], settings: Settings, name: str) -> dict[str, Any]:
    """Run the tests of some files that are marked ``cuda``.

    Raises:
        ValueError: a test failed or, on a GPU, no test ran.
    """
    command = [sys.executable, "-m", "pytest", "-q", "-m", "cuda", "-p", "no:cacheprovider", *files]
    status, output = run(command, settings.work / "logs" / f"tests_{name}.log", settings)
    return read_result(status, output, settings.on_gpu)


def read_result(status: int, output: str, on_gpu: bool) -> dict[str, Any]:
    """Numbers of passed and skipped tests in pytest's output; raises like :func:`_run`."""
    counts = {kind.rstrip("s"): int(number) for number, kind in _COUNT.findall(tail(output, 2))}
    if failed := sorted(set(_FAILED.findall(output))):
        raise ValueError(f"{len(failed)} failed: {', '.join(failed)}\n{tail(output, 60)}")
    if status not in (0, 5) or (on_gpu and not counts.get("passed")):
        raise ValueError(f"pytest ended with status {status}, {counts}\n{tail(output)}")
    return counts


def line(result: dict[str, Any]) -> str:
    """One line that sums up a result."""
    return ", ".join(f"{number} {kind}" for kind, number in result.items())
