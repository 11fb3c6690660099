"""Which packages make an environment: OpenMMLab's stack, or its maintained fork.

Read from ``requirements/``, without importing anything that the set-up has yet to install.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

REQUIREMENTS = Path(__file__).resolve().parent.parent / "requirements"
STACKS: dict[str, tuple[str, ...]] = {
    "openmmlab": (),
    "onedl": ("mmengine", "mmcv", "mmdet", "openmim"),
}
"""Of each stack, which of the default's distributions it replaces."""


def pins(file: str) -> dict[str, str]:
    """Requirement lines of a file in requirements/, by name in pip's normal form."""
    lines = (REQUIREMENTS / file).read_text().splitlines()
    wanted = [line.strip() for line in lines if "==" in line and not line.startswith("#")]
    return {normal(line.split("==")[0]): line for line in wanted}


def stack_name() -> str:
    """Which stack the environment is for.

    Raises:
        SystemExit: ``STACK`` names no stack.
    """
    stack = os.environ.get("STACK") or "openmmlab"
    if stack not in STACKS:
        raise SystemExit(f"STACK must be one of {', '.join(STACKS)}, got {stack!r}")
    return stack


def pinned(stack: str) -> tuple[dict[str, str], str]:
    """The locked packages of a stack, and its MMCV, which has to be compiled."""
    locked = pins("constraints.txt")
    if stack == "openmmlab":
        return locked, pins("stack.txt")["mmcv"]
    fork = pins(f"stack-{stack}.txt")
    mmcv = fork.pop("onedl-mmcv")
    kept = {name: line for name, line in locked.items() if name not in STACKS[stack]}
    return {**kept, **fork}, mmcv


def normal(name: str) -> str:
    """A distribution's name in the form in which names are compared."""
    return re.sub(r"[-_.]+", "-", name).lower()
