"""Runs steps of the GPU check, records their results and compares them with the goals."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from collections.abc import Callable, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

from gpu import goals
from gpu.record import Record
from gpu.running import DeviceLost, OutOfTime, run_step
from gpu.settings import Settings
from sparse_encoders.analysis.machine import describe_machine

#: module of each step in this folder, which defines ``plan(settings)`` and ``line(result)``
STEPS = {
    "tests": "suite",
    "sanitizer": "sanitizer",
    "ops": "ops",
    "detectors": "detectors",
    "train": "training",
    "compile": "compiling",
}
SUCCESS, FAILED, OUT_OF_TIME, LOST = 0, 1, 3, 4
"""Exit status: all cases done, some failed, some not started in time, the GPU was lost."""
#: entries of the machine's description that results depend on: if one changes, cases run again
KEY = ("device", "driver", "cuda", "python", "versions")


def run(steps: Sequence[str], settings: Settings, say: Callable[[str], None]) -> int:
    """Run the cases of some steps that are not done yet.

    Args:
        steps: of :data:`STEPS`.
        settings: sizes, device, folder.
        say: prints a line of progress.

    Returns:
        An exit status, see :data:`SUCCESS`.

    Raises:
        ValueError: an unknown step, a GPU that torch does not see, or an invalid results.json.
    """
    if unknown := [step for step in steps if step not in STEPS]:
        raise ValueError(f"steps must be some of {', '.join(STEPS)}, got {unknown}")
    machine = machine_of(settings)
    record = Record(settings.work / "results.json", key_of(machine, settings))
    record.note(
        command=" ".join(sys.argv),
        machine=machine,
        commit=_commit(settings.root),
        settings=_sizes(settings),
    )
    status = SUCCESS
    for step in steps:
        try:
            module: Any = import_module(f"gpu.{STEPS[step]}")
            run_step(step, module.plan(settings), module.line, record, settings, say)
        except OutOfTime as error:
            say(f"the time limit is reached: {error}")
            status = OUT_OF_TIME
            break
        except DeviceLost as error:
            say(f"the GPU is usable again only in a new process: {error}")
            status = LOST
            break
    compared = goals.compare(record, settings.on_gpu and not settings.tiny)
    record.note(goals=compared)
    for text in goals.lines(compared):
        say(text)
    if failed := record.failed(steps):
        say(f"{len(failed)} cases failed or were interrupted: {'; '.join(failed)}")
    say(f"all results are in {record.path}")
    return status or (FAILED if failed else SUCCESS)


def machine_of(settings: Settings) -> dict[str, Any]:
    """Description of the machine.

    Raises:
        ValueError: the settings name a GPU and torch sees none.
    """
    import torch

    if settings.on_gpu and not torch.cuda.is_available():
        raise ValueError(
            f"torch {torch.__version__} sees no GPU: --device cpu --tiny tries the steps out"
        )
    return describe_machine(settings.device)


def key_of(machine: dict[str, Any], settings: Settings) -> str:
    """Key of the record: device, versions, kernel sources, full or tiny sizes."""
    sources = sorted((settings.root / "csrc").rglob("*.*"))
    kernels = hashlib.sha256(b"\0".join(path.read_bytes() for path in sources)).hexdigest()[:12]
    parts = [str(machine.get(name)) for name in KEY]
    return "; ".join([*parts, f"csrc {kernels}", "tiny" if settings.tiny else "full size"])


def _sizes(settings: Settings) -> dict[str, Any]:
    return {
        "device": settings.device,
        "tiny": settings.tiny,
        "encoders": settings.encoders,
        "image": settings.image_hw,
        "batches": settings.batches,
        "rounds, warm-up": settings.rounds,
    }


def _commit(root: Path) -> str | None:
    """The checkout's commit, with '+' if files are changed; None without git."""
    command = ["git", "-C", str(root), "describe", "--always", "--dirty=+", "--exclude=*"]
    try:
        result = subprocess.run(command, capture_output=True, text=True)
    except OSError:
        return None
    return result.stdout.strip() or None
