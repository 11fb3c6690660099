"""Which machine and which versions a number was measured on."""

from __future__ import annotations

import os
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

PACKAGES = ("torch", "mmcv", "mmengine", "mmdet", "timm", "numpy")


def describe_machine(device: torch.device | str = "cpu") -> dict[str, Any]:
    """Processor, cores, threads, device and versions, for a report."""
    return {
        "processor": _processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "device": (
            torch.cuda.get_device_name(device) if torch.device(device).type == "cuda" else "cpu"
        ),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "versions": {name: _version(name) for name in PACKAGES},
    }


def _processor() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def _version(name: str) -> str | None:
    if name == "torch":
        return str(torch.__version__)  # with the build, which the package's metadata may lack
    try:
        return version(name)
    except PackageNotFoundError:
        return None
