"""Finds what ``gpu_check.py build`` builds with: torch, the GPU, CUDA's compiler and headers."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

QUERY = """import json, site, sys, sysconfig, torch
gpu = torch.cuda.is_available()
capability = "{}.{}".format(*torch.cuda.get_device_capability()) if gpu else None
paths = [sysconfig.get_path("purelib"), *site.getsitepackages()]
print(json.dumps([torch.__version__, torch.version.cuda, capability, sorted(set(paths))]))"""


def ask_torch() -> tuple[str, str | None, str | None, list[str]]:
    """Versions of this Python's torch and its CUDA, the GPU's capability, site-packages folders.

    Raises:
        ValueError: this Python cannot import torch.
    """
    run = subprocess.run([sys.executable, "-c", QUERY], capture_output=True, text=True)
    if run.returncode:
        raise ValueError(f"{sys.executable} cannot import torch: {run.stderr.strip()[-300:]}")
    answer: tuple[str, str | None, str | None, list[str]] = json.loads(run.stdout.splitlines()[-1])
    return answer


def headers(sites: Sequence[str]) -> dict[str, str]:
    """CPATH with the CUDA headers of torch's nvidia packages; no variable if there are none.

    Torch's headers include those of CUDA libraries such as cuBLAS, which an installation of nvcc
    alone lacks.
    """
    folders = [str(path) for site in sites for path in Path(site).glob("nvidia/cu*/include")]
    if not folders:
        return {}
    return {"CPATH": os.pathsep.join(filter(None, [os.environ.get("CPATH"), *folders]))}


def cuda_home(usual: Path = Path("/usr/local/cuda")) -> dict[str, str]:
    """CUDA_HOME of the toolkit of ``nvcc``; no variable if it is set, or no toolkit has headers.

    Needed where ``nvcc`` is a link to the toolkit: torch looks in the folder of the link.
    """
    nvcc = shutil.which("nvcc")
    homes = [] if nvcc is None else [Path(nvcc).resolve().parents[1], Path(nvcc).parents[1]]
    for home in [] if os.environ.get("CUDA_HOME") else [*homes, usual]:
        if (home / "include" / "cuda_runtime.h").is_file():
            return {"CUDA_HOME": str(home)}
    return {}
