"""Description of the machine and the versions of a measurement."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

PACKAGES = ("torch", "mmcv", "mmengine", "mmdet", "timm", "numpy")


def describe_machine(device: torch.device | str = "cpu") -> dict[str, Any]:
    """Processor, cores, threads, device and versions, for a report; of a GPU its driver, too."""
    gpu = torch.device(device).type == "cuda"
    return {
        "processor": _processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "device": torch.cuda.get_device_name(device) if gpu else "cpu",
        **(_about_gpu(device) if gpu else {}),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "versions": {name: _version(name) for name in PACKAGES},
    }


def _about_gpu(device: torch.device | str) -> dict[str, Any]:
    """What a time on a GPU depends on beside its name."""
    about = torch.cuda.get_device_properties(device)
    command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    driver = None
    if shutil.which(command[0]):
        found = subprocess.run(command, capture_output=True, text=True)
        driver = next(iter(found.stdout.split()), None)
    return {
        "capability": f"{about.major}.{about.minor}",
        "memory_mib": about.total_memory // 2**20,
        "driver": driver,
        "cuda": torch.version.cuda,
        "cudnn": torch.backends.cudnn.version(),
        "tf32_matmul": torch.backends.cuda.matmul.allow_tf32,
        "tf32_cudnn": torch.backends.cudnn.allow_tf32,
        "cudnn_benchmark": torch.backends.cudnn.benchmark,
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
