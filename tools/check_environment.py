"""Print what this Python's environment is: versions, compiled operators, device, pip's complaints.

Exit status 1 if a version is out of range, MMCV has no compiled operators, or `pip check`
complains of anything that is not expected. A missing extension of this package is no fault: it
then runs on PyTorch's own operators, slower.
"""

from __future__ import annotations

import importlib
import os
import platform
import re
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterable
from importlib.metadata import PackageNotFoundError, distribution, version

EXPECTED_COMPLAINTS = {
    r"(onedl-)?(mmengine|mmcv) \S+ requires opencv-python, which is not installed": (
        "opencv-python-headless gives the same module without needing libGL"
    ),
    r"(openmim|onedl-mim) \S+ requires opendatalab, which is not installed": (
        "only `mim download --dataset` needs it, and its openxlab pins a setuptools that torch's "
        "extensions can't be built with"
    ),
    r"imaug \S+ requires (opencv-python|imagecorruptions-imaug), which is not installed": (
        "MMDetection's fork uses nothing of it that needs them"
    ),
    r"imaug \S+ has requirement opencv-python": "MMDetection's fork works with this one",
    r"onedl-mim \S+ has requirement pandas==": "what it uses of pandas is in newer ones, too",
}
"""Complaints of `pip check` that the pinned environment has on purpose, and why."""
_ABSENT = "(not installed)"


def main() -> int:
    """Print every check; returns 1 if one found a fault."""
    warnings.filterwarnings("ignore")
    checks: list[tuple[str, Callable[[], Iterable[str]]]] = [
        ("machine", machine),
        ("torch", torch_build),
        ("versions", versions),
        ("mmcv ops", mmcv_operators),
        ("extension", extension),
        ("pip check", pip_check),
    ]
    faults = 0
    for name, check in checks:
        try:
            lines = list(check())
        except Exception as error:  # each check is told of, whatever the one before found
            lines, faults = [f"FAULT: {error}"], faults + 1
        for i, line in enumerate(lines):
            print(f"  {name if i == 0 else '':<10} {line}", flush=True)
    print(f"  {'faults':<10} {faults}")
    return min(faults, 1)


def machine() -> Iterable[str]:
    """System, Python and processor."""
    yield f"{platform.platform()}, {len(os.sched_getaffinity(0))} cores"
    yield f"Python {platform.python_version()} in {sys.prefix}"


def torch_build() -> Iterable[str]:
    """What torch was built for and what it finds here."""
    import torch

    yield f"torch {torch.__version__}, CPU capability {torch.backends.cpu.get_cpu_capability()}"
    if not torch.cuda.is_available():
        yield f"no GPU (built for CUDA {torch.version.cuda or 'none'})"
    for i in range(torch.cuda.device_count()):
        capability = ".".join(map(str, torch.cuda.get_device_capability(i)))
        yield f"GPU {i}: {torch.cuda.get_device_name(i)}, capability {capability}"


def versions() -> Iterable[str]:
    """Versions of the stack; importing the package checks their ranges."""
    compat = importlib.import_module("sparse_encoders.compat")
    fork = _version("onedl-mmengine") != _ABSENT
    stack = ["onedl-mmengine", "onedl-mmcv", "onedl-mmdetection", "onedl-mim"]
    if not fork:
        stack = ["mmengine", "mmcv", "mmdet", "openmim"]
    names = ["sparse_encoders", *stack, "timm", "numpy", "opencv-python-headless"]
    yield ", ".join(f"{name} {_version(name)}" for name in names)
    yield "accepted: " + ", ".join(f"{n} {r}" for n, r in compat.ACCEPTED_VERSIONS.items())
    importlib.import_module("torchvision")
    from torchvision.extension import _has_ops

    state = "loaded" if _has_ops() else "not for this torch build (not needed, schemas declared)"
    yield f"torchvision {_version('torchvision')}, its binary operators: {state}"


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return _ABSENT


def mmcv_operators() -> Iterable[str]:
    """Whether MMCV's operators are compiled, and for what."""
    ops = importlib.import_module("mmcv.ops")
    yield f"compiled with {ops.get_compiler_version()}, CUDA: {ops.get_compiling_cuda_version()}"


def extension() -> Iterable[str]:
    """Whether this package's own operators are loaded, and why not."""
    ops = importlib.import_module("sparse_encoders.ops")
    yield "loaded" if ops.has_extension() else f"not loaded: {ops.why_no_extension()}"


def pip_check() -> Iterable[str]:
    """Complaints of pip, each with the reason why it is expected.

    Raises:
        RuntimeError: pip complains of something else about this environment's own packages.
    """
    run = subprocess.run([sys.executable, "-m", "pip", "check"], capture_output=True, text=True)
    if run.returncode == 0:
        yield "clean"
        return
    unexpected = []
    for line in run.stdout.splitlines():
        reason = next((why for rx, why in EXPECTED_COMPLAINTS.items() if re.match(rx, line)), None)
        if reason is None and _outside(line.split()[0]):
            reason = "a package outside of this environment, beside the torch in use"
        if reason is None:
            unexpected.append(line)
        else:
            yield f"expected: {line} ({reason})"
    if unexpected or not run.stdout.strip():
        raise RuntimeError("; ".join(unexpected) or run.stderr.strip())


def _outside(name: str) -> bool:
    try:
        return not str(distribution(name).locate_file("")).startswith(sys.prefix + os.sep)
    except PackageNotFoundError:
        return False


if __name__ == "__main__":
    sys.exit(main())
