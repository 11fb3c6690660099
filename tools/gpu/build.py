"""Builds the environment of ``gpu_check.py`` on a machine with a GPU, without a network.

It needs Python's headers, g++, nvcc, a Python that imports a CUDA build of torch, and the files
that ``gpu_check.py collect`` fetched. It makes a virtual environment in the work folder that also
sees that Python's packages, and keeps the compiled files beside it.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.util
import math
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from gpu.collect import collect
from gpu.processes import wait
from gpu.record import Record
from gpu.toolkit import ask_torch, cuda_home, headers
from setup_environment import pins

ROOT = Path(__file__).resolve().parents[2]
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

Say = Callable[[str], None]


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


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of ``collect`` and ``build``."""
    parser.add_argument(
        "--wheels", type=Path, help="folder of the collected packages (WORK/wheels)"
    )
    parser.add_argument(
        "--python", default="3.12", help="collect: Python version of the machine with the GPU"
    )
    parser.add_argument(
        "--also", nargs="+", default=[], metavar="NAME", help="collect: further packages"
    )
    parser.add_argument(
        "--arch",
        help="build: compute capability to build for, such as 9.0, on a machine without a GPU",
    )


def run(step: str, args: argparse.Namespace, say: Say) -> int:
    """Run 'collect' or 'build' and return the exit status."""
    wheels = (args.wheels or args.work / "wheels").absolute()
    if step == "collect":
        return collect(wheels, args.python, args.also, say)
    return build(args.work, wheels, args.arch, args.device == "cpu", args.minutes, say)


def python_of(work: Path) -> Path | None:
    """Python of the environment in the work folder; None if it is missing or incomplete."""
    python, ready = work / "venv" / "bin" / "python", work / "venv" / READY
    return python if python.exists() and ready.exists() else None


def plan(
    work: Path, wheels: Path, arch: str, torch: str, sites: Sequence[str], need_wheels: bool = True
) -> list[Task]:
    """Parts of the build: the environment, this package, MMCV (built at the same time), a check.

    Args:
        work: folder of all files that are written.
        wheels: folder that ``collect`` filled.
        arch: compute capability of the GPU, such as '9.0'.
        torch: version of torch.
        sites: site-packages folders of this Python, which the environment sees, too.
        need_wheels: False: the wheels may be missing, as the plan is only shown.

    Raises:
        ValueError: there are no wheels.
    """
    files = sorted(wheels.glob("*.whl"))
    if need_wheels and not (files and list(wheels.glob("mmcv-*.tar.gz"))):
        raise ValueError(f"no wheels or no mmcv-*.tar.gz in {wheels}: `gpu_check.py collect` first")
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
                [*pip, "--ignore-installed", *map(str, files)],
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


def kernels_key() -> str:
    """Hash of the sources of the compiled operators."""
    files = [*sorted((ROOT / "csrc").rglob("*.*")), ROOT / "setup.py"]
    return hashlib.sha256(b"\0".join(path.read_bytes() for path in files)).hexdigest()[:12]


def build(
    work: Path, wheels: Path, arch: str | None, only_plan: bool, minutes: float, say: Say
) -> int:
    """Build the parts that are missing and return the exit status.

    Args:
        work: folder of all files that are written.
        wheels: folder that ``collect`` filled.
        arch: compute capability to build for; None: that of this machine's GPU.
        only_plan: print the commands without running them.
        minutes: time limit; the running command is then ended, and a later call resumes it.
        say: prints a line of progress.

    Raises:
        ValueError: torch is no CUDA build, there is neither a GPU nor ``arch``, or no wheels.
    """
    torch, cuda, capability, sites = ask_torch()
    arch = arch or capability or ("9.0" if only_plan else None)
    tasks = plan(work, wheels, str(arch), torch, sites, need_wheels=not only_plan)
    if only_plan:
        for task in tasks:
            for command in task.commands:
                say(f"build: {task.name}: would run {' '.join(command)[:300]}")
        return 0
    if cuda is None or arch is None:
        raise ValueError(
            f"torch {torch} of {sys.executable} "
            + (
                "is no CUDA build"
                if cuda is None
                else "sees no GPU: give its compute capability, as in --arch 9.0"
            )
        )
    missing = [EXPECTED[name] for name in EXPECTED if importlib.util.find_spec(name) is None]
    collected = {path.name.split("-")[0].lower() for path in wheels.glob("*.whl")}
    missing = [name for name in missing if name.lower().replace("-", "_") not in collected]
    if missing:
        say(f"build: missing packages: run collect again with --also {' '.join(missing)}")
    record = Record(work / "results.json", f"{torch}; CUDA {cuda}; {arch}")
    deadline = time.monotonic() + minutes * 60
    environment, *compiled, check = tasks
    if python_of(work) is None and not _build(environment, record, work, deadline, say):
        return 1
    with ThreadPoolExecutor() as pool:
        done = list(pool.map(lambda task: _build(task, record, work, deadline, say), compiled))
    return 0 if all(done) and _build(check, record, work, deadline, say) else 1


def _build(task: Task, record: Record, work: Path, deadline: float, say: Say) -> bool:
    """Build one part, or copy the files that were kept of it; whether that succeeded."""
    start = time.monotonic()
    if task.keeps and all(kept.is_file() for kept in task.keeps.values()):
        for file, kept in task.keeps.items():
            shutil.copyfile(kept, file)
        say(f"build: {task.name}: kept from a former call")
        return True
    log = work / "logs" / f"build_{task.name.replace(' ', '_')}.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    error = None
    with log.open("w") as output:
        for command in task.commands:
            if error := _run(command, task.environment, output, deadline):
                break
    for file, kept in {} if error else task.keeps.items():
        kept.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(file, kept)
    seconds = round(time.monotonic() - start, 1)
    if error is None:
        record.put("build", task.name, "done", seconds=seconds, result={})
        say(f"build: {task.name}: done [{seconds:.0f} s]")
        return True
    end = "\n".join(log.read_text(errors="replace").splitlines()[-30:])
    record.put("build", task.name, "failed", seconds=seconds, error=f"{error}\n{end}")
    say(f"build: {task.name}: FAILED: {error} [{seconds:.0f} s], see {log}\n{end}")
    return False


def _run(
    command: Sequence[str], environment: Mapping[str, str], log: IO[str], deadline: float
) -> str | None:
    """Run a command until a deadline of ``time.monotonic``; an error message, None on success."""
    seconds = None if deadline == math.inf else max(0.0, deadline - time.monotonic())
    with subprocess.Popen(
        list(command),
        cwd=ROOT,
        env={**os.environ, **environment},
        stdout=log,
        stderr=subprocess.STDOUT,
        start_new_session=True,  # one process group: the compilers end with it
    ) as process:
        status = wait(process, seconds)
    if status is None:
        return "interrupted at the time limit: run it again to resume"
    return f"status {status}" if status else None
