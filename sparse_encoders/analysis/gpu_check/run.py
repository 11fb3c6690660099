"""Runs steps of the check, keeps their record, and compares it with the goals."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from collections.abc import Callable, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

from sparse_encoders.analysis.gpu_check import goals
from sparse_encoders.analysis.gpu_check.record import Record
from sparse_encoders.analysis.gpu_check.running import DeviceLost, OutOfTime, run_step
from sparse_encoders.analysis.gpu_check.settings import Settings
from sparse_encoders.analysis.machine import describe_machine

#: each step's module beside this one, with ``plan(settings)`` and ``line(result)``
STEPS = {
    "tests": "suite",
    "sanitizer": "sanitizer",
    "ops": "ops",
    "detectors": "detectors",
    "train": "training",
    "compile": "compiling",
}
WELL, FAILED, CUT, LOST = 0, 1, 3, 4
"""Exit status: all went well, something failed, there was no time for all, the GPU was lost."""
KEY = ("device", "driver", "cuda", "python", "versions")  # what makes former results former


def run(steps: Sequence[str], settings: Settings, say: Callable[[str], None]) -> int:
    """Run steps one after another, each as far as it is not done.

    Args:
        steps: of :data:`STEPS`.
        settings: sizes, device, folder.
        say: is told how it goes, line by line.

    Returns:
        An exit status, see :data:`WELL`.

    Raises:
        ValueError: an unknown step, no GPU where one is asked for, or a file that is no record.
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
    status = WELL
    for step in steps:
        try:
            module: Any = import_module(f"sparse_encoders.analysis.gpu_check.{STEPS[step]}")
            run_step(step, module.plan(settings), module.line, record, settings, say)
        except OutOfTime as error:
            say(f"the time is over: {error}")
            status = CUT
            break
        except DeviceLost as error:
            say(f"the GPU has to be taken anew: {error}")
            status = LOST
            break
    compared = goals.compare(record, settings.on_gpu and not settings.tiny)
    record.note(goals=compared)
    for text in goals.lines(compared):
        say(text)
    if failed := record.failed(steps):
        say(f"{len(failed)} cases failed or were cut off: {'; '.join(failed)}")
    say(f"everything is in {record.path}")
    return status or (FAILED if failed else WELL)


def machine_of(settings: Settings) -> dict[str, Any]:
    """The machine.

    Raises:
        ValueError: the GPU is not there.
    """
    import torch

    if settings.on_gpu and not torch.cuda.is_available():
        raise ValueError(
            f"torch {torch.__version__} sees no GPU: --device cpu --tiny rehearses the steps"
        )
    return describe_machine(settings.device)


def key_of(machine: dict[str, Any], settings: Settings) -> str:
    """What results depend on: device, versions, kernels, sizes."""
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
    """The checkout's commit, '+' where files are changed; None without git."""
    command = ["git", "-C", str(root), "describe", "--always", "--dirty=+", "--exclude=*"]
    try:
        found = subprocess.run(command, capture_output=True, text=True)
    except OSError:
        return None
    return found.stdout.strip() or None
