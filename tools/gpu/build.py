"""Builds the environment of ``gpu_check.py`` on a machine with a GPU, without a network.

It needs Python's headers, g++, nvcc, a Python that imports a CUDA build of torch, and the files
that ``gpu_check.py collect`` fetched. It makes a virtual environment in the work folder that also
sees that Python's packages, and keeps the compiled files beside it.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import sys
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from gpu import FAILED, ROOT
from gpu.processes import run, tail
from gpu.record import Record, kernels_key
from gpu.toolkit import ask_torch, cuda_home, headers
from setup_environment import pins

#: packages by import name that the machine's Python is expected to have; missing ones are reported
EXPECTED = {
    **{name: name for name in ("matplotlib", "pandas", "scipy", "tabulate", "timm", "torchvision")},
    **{name: name for name in ("pytest", "hypothesis", "ninja", "packaging", "psutil", "rich")},
    **{name: name for name in ("click", "platformdirs", "tqdm", "requests", "colorama")},
    **{"cv2": "opencv-python-headless", "yaml": "PyYAML", "PIL": "pillow"},
    **{"markdown": "Markdown", "xdist": "pytest-xdist"},
}
CHECK = """import torch, mmcv, mmdet, mmengine, sparse_encoders
from sparse_encoders.ops.extension import mmcv_has_cuda, why_not_fused
for name in ("deformable_attention", "key_aware_attention"):
    reason = why_not_fused(name, torch.device("cuda"), torch.float32)
    assert reason is None, reason
assert mmcv_has_cuda(), "MMCV was built without CUDA"
print("torch", torch.__version__, "mmcv", mmcv.__version__, "mmdet", mmdet.__version__)"""

READY = "ready.txt"  # marks an environment that was set up completely


@dataclass(frozen=True)
class Task:
    """One part of the build.

    Attributes:
        name: name of the part.
        commands: run one after another.
        environment: variables to set in addition to this process's.
        keeps: files that the commands make, and where a copy is kept for later calls.
    """

    name: str
    commands: Sequence[Sequence[str]]
    environment: Mapping[str, str] = field(default_factory=dict)
    keeps: Mapping[Path, Path] = field(default_factory=dict)


def python_of(work: Path) -> Path | None:
    """Python of the environment in the work folder; None if it is missing or incomplete."""
    python, ready = work / "venv" / "bin" / "python", work / "venv" / READY
    return python if python.exists() and ready.exists() else None


def plan(work: Path, wheels: Path, arch: str, torch: str, sites: Sequence[str]) -> list[Task]:
    """Parts of the build: the environment, this package, MMCV (built at the same time), a check.

    ``sites`` are the site-packages folders of this Python, which the environment sees, too.
    """
    venv, built = work / "venv", work / "built"
    python = str(venv / "bin" / "python")
    scripts = os.path.dirname(sys.executable)  # may hold ninja
    variables = {
        "PATH": os.pathsep.join([str(venv / "bin"), scripts, os.environ.get("PATH", "")]),
        **headers(sites),
        **cuda_home(),
        "TORCH_CUDA_ARCH_LIST": arch,
        "FORCE_CUDA": "1",
        "MAX_JOBS": os.environ.get("MAX_JOBS") or str(len(os.sched_getaffinity(0))),
        "SPARSE_ENCODERS_REQUIRE_EXTENSION": "1",
        "SPARSE_ENCODERS_CACHE": str(built),
        "PIP_NO_INDEX": "1",
        "PIP_FIND_LINKS": str(wheels),
    }
    lines = "".join(f"import site; site.addsitedir({site!r})\n" for site in sites)
    links = f"import pathlib, sysconfig; p = sysconfig.get_path('purelib'); t = {lines!r}; "
    links += "pathlib.Path(p, 'outer.pth').write_text(t)"
    pip = [python, "-m", "pip", "install", "-q", "--no-deps", "--no-index", "--no-compile"]
    library = ROOT / "sparse_encoders" / "_C.so"
    return [
        Task(
            "environment",
            [
                # without pip: it sees this Python's pip and its other packages
                [sys.executable, "-m", "venv", "--clear", "--without-pip", str(venv)],
                [python, "-c", links],
                [*pip, "--ignore-installed", *map(str, sorted(wheels.glob("*.whl")))],
                [python, "-c", f"open({str(venv / READY)!r}, 'w')"],
            ],
        ),
        Task(
            "this package",
            [[python, "setup.py", "build_ext", "--inplace", "--force"]],
            variables,
            {library: built / f"{kernels_key()}-torch{torch}-{arch}" / library.name},
        ),
        Task("mmcv", [[python, "tools/build_mmcv.py", pins("stack.txt")["mmcv"]]], variables),
        Task("check", [[python, "-c", CHECK]]),
    ]


def build(work: Path, wheels: Path, arch: str | None, only_plan: bool, deadline: float) -> int:
    """Build the parts that are missing and return the exit status.

    Args:
        work: folder of all files that are written.
        wheels: folder that ``collect`` filled.
        arch: compute capability to build for; None: that of this machine's GPU.
        only_plan: print the commands without running them.
        deadline: value of ``time.monotonic`` at which the running command is ended; a later call
            resumes it.

    Raises:
        ValueError: torch is no CUDA build, there is neither a GPU nor ``arch``, or no wheels.
    """
    torch, cuda, capability, sites = ask_torch()
    arch = arch or capability
    tasks = plan(work, wheels, arch or "9.0", torch, sites)
    if only_plan:
        for task in tasks:
            for command in task.commands:
                print(f"build: {task.name}: would run {' '.join(command)[:300]}")
        return 0
    if not (any(wheels.glob("*.whl")) and any(wheels.glob("mmcv-*.tar.gz"))):
        raise ValueError(f"no wheels or no mmcv-*.tar.gz in {wheels}: `gpu_check.py collect` first")
    if cuda is None:
        raise ValueError(f"torch {torch} of {sys.executable} is no CUDA build")
    if arch is None:
        about = "sees no GPU: give its compute capability, as in --arch 9.0"
        raise ValueError(f"torch {torch} of {sys.executable} {about}")
    missing = [EXPECTED[name] for name in EXPECTED if importlib.util.find_spec(name) is None]
    collected = {path.name.split("-")[0].lower() for path in wheels.glob("*.whl")}
    missing = [name for name in missing if name.lower().replace("-", "_") not in collected]
    if missing:
        print(f"build: missing packages: run collect again with --also {' '.join(missing)}")
    record = Record(work / "results.json", f"{torch}; CUDA {cuda}; {arch}")
    environment, *compiled, check = tasks
    if python_of(work) is None and not build_task(environment, record, deadline):
        return FAILED
    with ThreadPoolExecutor() as pool:
        done = list(pool.map(lambda task: build_task(task, record, deadline), compiled))
    return 0 if all(done) and build_task(check, record, deadline) else FAILED


def build_task(task: Task, record: Record, deadline: float) -> bool:
    """Build one part, or copy the files that were kept of it; whether that succeeded."""
    start = time.monotonic()
    if task.keeps and all(kept.is_file() for kept in task.keeps.values()):
        for file, kept in task.keeps.items():
            shutil.copyfile(kept, file)
        print(f"build: {task.name}: kept from a former call")
        return True
    log = record.path.parent / "logs" / f"build_{task.name.replace(' ', '_')}.log"
    error = None
    try:
        for command in task.commands:
            status, _ = run(command, log, task.environment, deadline - time.monotonic())
            if status:
                error = f"status {status}"
                break
    except TimeoutError:
        error = "interrupted at the time limit: run it again to resume"
    seconds = round(time.monotonic() - start, 1)
    if error:
        end = tail(log.read_text(errors="replace"), 30)
        record.put("build", task.name, "failed", seconds=seconds, error=f"{error}\n{end}")
        print(f"build: {task.name}: FAILED: {error} [{seconds:.0f} s], see {log}\n{end}")
        return False
    for file, kept in task.keeps.items():
        kept.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(file, kept)
    record.put("build", task.name, "done", seconds=seconds, result={})
    print(f"build: {task.name}: done [{seconds:.0f} s]")
    return True
