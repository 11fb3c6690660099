"""Which packages make an environment: OpenMMLab's stack, or its maintained fork.

Read from ``requirements/``, without importing anything that the set-up has yet to install.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

REQUIREMENTS = Path(__file__).resolve().parent.parent / "requirements"
STACKS: dict[str, dict[str, str]] = {
    "openmmlab": {},
    "onedl": {
        "mmengine": "onedl-mmengine",
        "mmcv": "onedl-mmcv",
        "mmdet": "onedl-mmdetection",
        "openmim": "onedl-mim",
    },
}
"""Of each stack, which distributions take the place of the default's."""


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
    for original, replacement in STACKS[stack].items():
        locked.pop(original, None)
        if replacement != "onedl-mmcv":
            locked[replacement] = fork[replacement]
    return locked, fork["onedl-mmcv"]


def normal(name: str) -> str:
    """A distribution's name in the form in which names are compared."""
    return re.sub(r"[-_.]+", "-", name).lower()
