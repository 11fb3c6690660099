"""What ``gpu_check.py build`` builds with: torch, the GPU, CUDA's compiler and headers."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

ASK = """import json, site, sys, sysconfig, torch
gpu = torch.cuda.is_available()
found = "{}.{}".format(*torch.cuda.get_device_capability()) if gpu else None
paths = [sysconfig.get_path("purelib"), *site.getsitepackages()]
print(json.dumps([torch.__version__, torch.version.cuda, found, sorted(set(paths))]))"""


def ask() -> tuple[str, str | None, str | None, list[str]]:
    """Version of this Python's torch, of its CUDA, the GPU's capability, folders of packages.

    Raises:
        ValueError: it imports no torch.
    """
    done = subprocess.run([sys.executable, "-c", ASK], capture_output=True, text=True)
    if done.returncode:
        raise ValueError(f"{sys.executable} imports no torch: {done.stderr.strip()[-300:]}")
    found: tuple[str, str | None, str | None, list[str]] = json.loads(done.stdout.splitlines()[-1])
    return found


def headers(sites: Sequence[str]) -> dict[str, str]:
    """A variable that names folders of headers beside the compiler's own; none without folders.

    Torch's headers include those of CUDA's libraries, which nvcc alone does not bring; the packages
    that torch needs do.
    """
    folders = [str(path) for site in sites for path in Path(site).glob("nvidia/cu*/include")]
    if not folders:
        return {}
    before = [os.environ["CPATH"]] if os.environ.get("CPATH") else []
    return {"CPATH": os.pathsep.join([*before, *folders])}


def cuda_home(usual: Path = Path("/usr/local/cuda")) -> dict[str, str]:
    """CUDA_HOME, the toolkit with headers that ``nvcc`` is of; none where it is set, or not found.

    Torch takes the folder above the one in which it finds ``nvcc``, which may be a link.
    """
    nvcc = shutil.which("nvcc")
    found = [] if nvcc is None else [Path(nvcc).resolve().parents[1], Path(nvcc).parents[1]]
    for home in [] if os.environ.get("CUDA_HOME") else [*found, usual]:
        if (home / "include" / "cuda_runtime.h").is_file():
            return {"CUDA_HOME": str(home)}
    return {}
