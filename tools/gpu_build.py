"""Builds what ``gpu_check.py`` runs on, without a network.

It needs Python's headers, g++, nvcc, a CUDA build of torch in the Python that runs it, and what
``gpu_check.py collect`` fetched. It makes a virtual environment in the work folder that sees that
Python's packages, too, and keeps what it compiled beside it.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.util
import math
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from gpu_collect import collect
from gpu_toolkit import ask, cuda_home, headers
from setup_environment import pins

ROOT = Path(__file__).resolve().parent.parent
#: what it has, as a rule, by import name: said where it is missing
EXPECTED = {
    **{name: name for name in ("matplotlib", "pandas", "scipy", "tabulate", "timm", "torchvision")},
    **{name: name for name in ("pytest", "hypothesis", "ninja", "packaging", "psutil", "rich")},
    **{"cv2": "opencv-python-headless", "yaml": "PyYAML", "PIL": "pillow", "click": "click"},
    **{"platformdirs": "platformdirs", "tqdm": "tqdm", "requests": "requests"},
    **{"colorama": "colorama", "markdown": "Markdown", "xdist": "pytest-xdist"},
}
CHECK = """import torch, mmcv, mmdet, mmengine, sparse_encoders
from sparse_encoders.ops.extension import mmcv_has_cuda, why_not_fused
for name in ("deformable_attention", "key_aware_attention"):
    reason = why_not_fused(name, torch.device("cuda"), torch.float32)
    assert reason is None, reason
assert mmcv_has_cuda(), "MMCV was built without CUDA"
print("torch", torch.__version__, "mmcv", mmcv.__version__, "mmdet", mmdet.__version__)"""

READY = "ready.txt"  # in an environment that is whole

Say = Callable[[str], None]


@dataclass(frozen=True)
class Task:
    """Something that is built.

    Attributes:
        name: of it.
        commands: what builds it, one after another.
        environment: variables beside this process's.
        keeps: files that it makes, and where they are kept for another call.
    """

    name: str
    commands: Sequence[Sequence[str]]
    environment: Mapping[str, str] = field(default_factory=dict)
    keeps: Mapping[Path, Path] = field(default_factory=dict)


def add_options(parser: argparse.ArgumentParser) -> None:
    """What ``collect`` and ``build`` take."""
    parser.add_argument("--wheels", type=Path, help="folder of what is carried (WORK/wheels)")
    parser.add_argument("--python", default="3.12", help="collect: Python of the machine")
    parser.add_argument(
        "--also", nargs="+", default=[], metavar="NAME", help="collect: further packages"
    )
    parser.add_argument("--arch", help="build: for this GPU, as in 9.0, where there is none")


def run(step: str, args: argparse.Namespace, say: Say) -> int:
    """Run 'collect' or 'build'; the exit status."""
    wheels = (args.wheels or args.work / "wheels").absolute()
    if step == "collect":
        return collect(wheels, args.python, args.also, say)
    return build(args.work, wheels, args.arch, args.device == "cpu", args.minutes, say)


def python_of(work: Path) -> Path | None:
    """The Python of the environment in the work folder; None where there is no whole one."""
    python, ready = work / "venv" / "bin" / "python", work / "venv" / READY
    return python if python.exists() and ready.exists() else None


def plan(
    work: Path, wheels: Path, arch: str, torch: str, sites: Sequence[str], missing_is_fine: bool
) -> list[Task]:
    """What is built: the environment, then this package and MMCV beside each other, then a check.

    Args:
        work: folder of everything.
        wheels: folder that ``collect`` filled.
        arch: of the GPU, such as '9.0'.
        torch: its version.
        sites: folders of packages of the outer Python.
        missing_is_fine: there need be no wheels: for a look at the plan.

    Raises:
        ValueError: there are no wheels.
    """
    files = sorted(wheels.glob("*.whl"))
    if not (missing_is_fine or (files and list(wheels.glob("mmcv-*.tar.gz")))):
        raise ValueError(f"no wheels or no mmcv-*.tar.gz in {wheels}: `gpu_check.py collect` first")
    venv, built = work / "venv", work / "built"
    python = str(venv / "bin" / "python")
    outer = os.path.dirname(sys.executable)  # where ninja may be
    variables = {
        "PATH": os.pathsep.join([str(venv / "bin"), outer, os.environ.get("PATH", "")]),
        **headers(sites),
        **cuda_home(),
        "TORCH_CUDA_ARCH_LIST": arch,
        "FORCE_CUDA": "1",
        "MAX_JOBS": os.environ.get("MAX_JOBS") or str(len(os.sched_getaffinity(0))),
        "SPARSE_ENCODERS_REQUIRE_EXTENSION": "1",
        "SPARSE_ENCODERS_CACHE": str(built),
        "MMCV_BUILD_FOLDER": str(work / "mmcv_build"),
        "PIP_NO_INDEX": "1",
        "PIP_FIND_LINKS": str(wheels),
    }
    lines = "".join(f"import site; site.addsitedir({site!r})\n" for site in sites)
    links = f"import pathlib, sysconfig; p = sysconfig.get_path('purelib'); t = {lines!r}; "
    links += "pathlib.Path(p, 'outer.pth').write_text(t)"
    pip = [python, "-m", "pip", "install", "-q", "--no-deps", "--no-index", "--no-compile"]
    own = ROOT / "sparse_encoders" / "_C.so"
    return [
        Task(
            "environment",
            [
                # its pip is the outer Python's, as everything that is not carried
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
            {own: built / f"{kernels_key()}-torch{torch}-{arch}" / own.name},
        ),
        Task("mmcv", [[python, "tools/build_mmcv.py", pins("stack.txt")["mmcv"]]], variables),
        Task("check", [[python, "-c", CHECK]]),
    ]


def kernels_key() -> str:
    """What the operators are compiled from."""
    files = [*sorted((ROOT / "csrc").rglob("*.*")), ROOT / "setup.py"]
    return hashlib.sha256(b"\0".join(path.read_bytes() for path in files)).hexdigest()[:12]


def build(
    work: Path, wheels: Path, arch: str | None, only_plan: bool, minutes: float, say: Say
) -> int:
    """Build what is not there yet; the exit status.

    Args:
        work: folder of everything.
        wheels: folder that ``collect`` filled.
        arch: of the GPU; None: of the one that is there.
        only_plan: say what would be built, and end.
        minutes: after which what runs is ended; a later call goes on with it.
        say: is told how it goes.

    Raises:
        ValueError: no CUDA build of torch, no GPU and no ``arch``, or no wheels.
    """
    torch, cuda, found, sites = ask()
    arch = arch or found or ("9.0" if only_plan else None)
    tasks = plan(work, wheels, str(arch), torch, sites, only_plan)
    if only_plan:
        for task in tasks:
            for command in task.commands:
                say(f"build: {task.name}: would run {' '.join(command)[:300]}")
        return 0
    if cuda is None or arch is None:
        raise ValueError(
            f"torch {torch} of {sys.executable} "
            + ("is no CUDA build" if cuda is None else "sees no GPU: name one by --arch, as in 9.0")
        )
    missing = [EXPECTED[name] for name in EXPECTED if importlib.util.find_spec(name) is None]
    carried = {path.name.split("-")[0].lower() for path in wheels.glob("*.whl")}
    missing = [name for name in missing if name.lower().replace("-", "_") not in carried]
    if missing:
        say(f"build: missing here: collect them by --also {' '.join(missing)}")
    record = load_record().Record(work / "results.json", f"{torch}; CUDA {cuda}; {arch}")
    until = time.monotonic() + minutes * 60
    first, *beside, last = tasks
    if python_of(work) is None and not _build(first, record, work, until, say):
        return 1
    with ThreadPoolExecutor() as pool:
        done = list(pool.map(lambda task: _build(task, record, work, until, say), beside))
    return 0 if all(done) and _build(last, record, work, until, say) else 1


def _build(task: Task, record: Any, work: Path, until: float, say: Say) -> bool:
    """Build one thing, or take what was kept of it; whether it is there."""
    start = time.monotonic()
    if task.keeps and all(kept.is_file() for kept in task.keeps.values()):
        for place, kept in task.keeps.items():
            shutil.copyfile(kept, place)
        say(f"build: {task.name}: kept from a former call")
        return True
    log = work / "logs" / f"build_{task.name.replace(' ', '_')}.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    error = None
    with log.open("w") as file:
        for command in task.commands:
            if error := _run(command, task.environment, file, until):
                break
    for place, kept in {} if error else task.keeps.items():
        kept.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(place, kept)
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
    command: Sequence[str], environment: Mapping[str, str], log: IO[str], until: float
) -> str | None:
    """Run a command until a moment of ``time.monotonic``; what went wrong, None if nothing did."""
    with subprocess.Popen(
        list(command),
        cwd=ROOT,
        env={**os.environ, **environment},
        stdout=log,
        stderr=subprocess.STDOUT,
        start_new_session=True,  # so that ending it ends the compilers, too
    ) as process:
        try:
            status = process.wait(None if until == math.inf else max(0.0, until - time.monotonic()))
        except BaseException as error:
            os.killpg(process.pid, signal.SIGTERM)  # upon which ninja ends its compilers
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
            if isinstance(error, subprocess.TimeoutExpired):
                return "cut off: no time was left, run it again"
            raise
    return f"status {status}" if status else None


def load_record() -> Any:
    """The package's module of records, by its file: the package cannot be imported yet."""
    path = ROOT / "sparse_encoders" / "analysis" / "gpu_check" / "record.py"
    spec = importlib.util.spec_from_file_location("gpu_check_record", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
