"""Set up a virtual environment with the whole stack and this package, or bring it up to date.

Needs Python 3.10 or newer, a C++ compiler and a package index for pip. A second run takes seconds;
after a change it repeats only the steps that the change affects. Environment:

    STACK    ``openmmlab`` (default), or ``onedl`` for the maintained fork of MMEngine, MMCV,
             MMDetection and mim
    TORCH    torch's requirement (``torch==2.1.2``, options of pip may follow), or ``system`` for
             the torch that this Python imports. Default: the torch installed in the virtual
             environment, else the one that this Python imports, else the pinned one.
    SPARSE_ENCODERS_VENV     folder of the virtual environment; default: in the checkout, one for
                             each STACK, Python and TORCH (``--folder`` prints it)
    SPARSE_ENCODERS_CACHE    where MMCV's wheels are kept, default ``~/.cache/sparse_encoders``
    MAX_JOBS, PIP_*          number of parallel compilers; settings of pip
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
import shlex
import shutil
import site
import subprocess
import sys
import sysconfig
import time
from concurrent.futures import ThreadPoolExecutor
from importlib import metadata
from pathlib import Path

from build_mmcv import run_logged

ROOT = Path(__file__).resolve().parent.parent
LINK = Path(sysconfig.get_path("purelib"), "torch_of_system.pth")  # adds the folder of its torch
STARTED = time.monotonic()
STACK = os.environ.get("STACK") or "openmmlab"
TORCH = os.environ.get("TORCH", "").strip()
REPLACED = {"openmmlab": (), "onedl": ("mmengine", "mmdet", "openmim")}  # packages by the fork's
INSTALL = ("-m", "pip", "install", "--no-compile")
BUILD_TOOLS = ("pip", "setuptools", "wheel", "ninja", "packaging", "numpy")
SETTINGS = ("SPARSE_ENCODERS_", "TORCH_CUDA_ARCH_LIST", "CUDA_HOME", "CXX")  # of setup.py
WHICH_TORCH = "import os, torch; print(torch.__version__, os.path.dirname(torch.__path__[0]))"
CHECK = """
import platform, sys, warnings; warnings.filterwarnings("ignore")
import numpy, torch, sparse_encoders.ops as ops, mmcv.ops, mmdet.apis, mmengine, timm
import matplotlib.pyplot, mim, pandas, plotly.graph_objects, pycocotools.coco, torch._dynamo
names = [f"{m.__name__} {m.__version__}" for m in (torch, mmengine, mmcv, mmdet, timm, numpy)]
print("    Python", platform.python_version(), "in", sys.prefix, "\\n   ", ", ".join(names))
print("    GPUs:", torch.cuda.device_count(), "MMCV by", mmcv.ops.get_compiler_version(), end="; ")
print("this package's operators:", "loaded" if ops.has_extension() else ops.why_no_extension())"""


def say(text: str) -> None:
    """Print a step with the time since the start."""
    print(f"[{time.monotonic() - STARTED:5.0f} s] {text}", flush=True)


def normalized(name: str) -> str:
    """A package's name in the form in which names are compared."""
    return re.sub(r"[-_.]+", "-", name).lower()


def major_minor(version: str) -> tuple[int, ...]:
    """First two numbers of a version."""
    return tuple(int(number) for number in version.split(".")[:2])


def pins(*files: str) -> dict[str, str]:
    """Lines of files in requirements/ by package name; later files override earlier ones."""
    text = "\n".join((ROOT / "requirements" / file).read_text() for file in files)
    lines = [line for line in text.splitlines() if "==" in line and not line.startswith("#")]
    return {normalized(line.split("==")[0]): line for line in lines}


def locked(stack: str, python: tuple[int, ...], torch: str) -> tuple[dict[str, str], str]:
    """Requirements of a stack by package name without MMCV, and that of MMCV."""
    older = python < (3, 11) or major_minor(torch) < (2, 3)
    packages = pins("constraints.txt", *["constraints-numpy1.txt"] * older)
    default, fork = pins("stack.txt"), pins(f"stack-{stack}.txt") if REPLACED[stack] else {}
    mmcv = fork.pop("onedl-mmcv", default["mmcv"])
    packages = {name: line for name, line in packages.items() if name not in REPLACED[stack]} | fork
    packages["torchvision"] = default["torchvision"]
    if major_minor(torch) != major_minor(default["torch"].split("==")[1]):
        packages["torchvision"] = f"torchvision==0.{major_minor(torch)[1] + 15}.*"  # of torch 2.x
    return packages, mmcv


def folder_name(stack: str, python: tuple[int, ...], torch: str) -> str:
    """Folder name of the environment: ``.venv`` and each setting that is not the default."""
    parts = [stack] * (stack != "openmmlab")
    parts += [f"py{python[0]}.{python[1]}"] * (python[:2] != (3, 11))
    if torch and torch != pins("stack.txt")["torch"]:
        parts.append(re.sub(r"[^\w.+-]+", "_", torch.split()[0].replace("==", "")))
    return "-".join([".venv", *parts])


def installed(name: str) -> str | None:
    """Version of an installed package, None if it is not installed."""
    return next((package.version for package in metadata.distributions(name=name)), None)


def run(*arguments: str) -> None:
    """Run this Python in the checkout; exit if it fails."""
    if status := subprocess.run([sys.executable, *arguments], cwd=ROOT).returncode:
        raise SystemExit(f"set-up: {shlex.join(arguments)} failed with status {status}")


def provide_torch(requirement: str, outer: str) -> None:
    """Install the required torch, or use the installed one or that of the ``outer`` Python."""
    if installed("torch") and not requirement:
        return say(f"keeping torch {installed('torch')}")
    if requirement in ("", "system"):
        result = subprocess.run([outer, "-c", WHICH_TORCH], capture_output=True, text=True)
        version, _, folder = result.stdout.strip().rpartition("\n")[2].partition(" ")
        if folder and major_minor(version) >= (2, 1):
            say(f"using torch {version} of {outer}")
            if installed("torch") and not LINK.exists():
                run("-m", "pip", "uninstall", "-q", "-y", "torch")
            LINK.write_text(folder + "\n")
            return site.addsitedir(str(LINK.parent))
        if requirement:
            raise SystemExit(f"TORCH=system, but {outer} imports no torch from 2.1 on")
    LINK.unlink(missing_ok=True)
    older = "-numpy1" * (sys.version_info < (3, 11))
    default = f"{pins('stack.txt')['torch']} -c requirements/constraints{older}.txt"
    say(f"installing {requirement or default}")
    return run(*INSTALL, *shlex.split(requirement or default))


def provide_packages(packages: dict[str, str]) -> None:
    """Install the pinned packages without resolving dependencies.

    With another torch than the pinned one, the packages that it depends on stay as they are.
    """
    keep = {"torchvision"} if LINK.exists() else set()
    if LINK.exists() or TORCH:
        needs = metadata.requires("torch") or []
        keep |= {normalized(re.split(r"[^\w.-]", need)[0]) for need in needs} - {*BUILD_TOOLS}
    lines = [line for name, line in packages.items() if name not in keep or not installed(name)]
    say(f"installing {len(lines)} pinned packages")
    options = ["-q", "--no-deps", "--no-build-isolation"]
    options += ["--ignore-installed"] * LINK.exists()  # a copy beside that torch lacks scripts here
    run(*INSTALL, *options, *lines)


def provide_package() -> None:
    """Install this package, editable, with its compiled operators if setup.py can build them."""
    say("installing this package, editable, and compiling its operators")
    command = [sys.executable, *INSTALL, "-v", "--no-deps", "--no-build-isolation", "-e", "."]
    log = Path(sys.prefix, "sparse_encoders_build.log")
    run_logged(command, "compiling csrc", log, ROOT)
    messages = re.findall(r"^ *(sparse_encoders: .*)", log.read_text(errors="replace"), re.M)
    print(*(f"    {text}\n" for text in dict.fromkeys(messages)), sep="", end="")


def keys() -> tuple[str, str]:
    """Two lines that change with what the stack and this package with its operators depend on."""

    def key(values: list[object], *patterns: str) -> str:
        files = [path for pattern in patterns for path in sorted(ROOT.glob(pattern))]
        content = hashlib.sha256(b"\0".join(path.read_bytes() for path in files))
        return f"{content.hexdigest()} {[installed('torch'), *values]}\n"

    settings = [item for item in sorted(os.environ.items()) if item[0].startswith(SETTINGS)]
    libraries = [path.stat().st_mtime_ns for path in ROOT.glob("sparse_encoders/_C*.so")]
    package: list[object] = [str(ROOT), shutil.which("c++"), settings, libraries]
    return (
        key([STACK, TORCH], "requirements/*.txt", "tools/setup_*.py", "tools/build_mmcv.py"),
        key(package, "csrc/**/*.*", "setup.py", "pyproject.toml"),
    )


def set_up(outer: str) -> None:
    """Run the steps that are out of date, inside of the virtual environment."""
    # pip does not compile: the check imports what is used, so that it is written as bytecode
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    stamp, jobs = Path(sys.prefix, "sparse_encoders_setup.txt"), []
    done = stamp.read_text() if stamp.exists() else ""
    with ThreadPoolExecutor() as pool:
        if keys()[0] not in done:
            stamp.unlink(missing_ok=True)
            provide_torch(TORCH, outer)
            packages, mmcv = locked(STACK, sys.version_info[:2], str(installed("torch")))
            provide_packages({name: packages.pop(name) for name in BUILD_TOOLS})
            # compiling needs nothing but torch and the build tools
            jobs.append(pool.submit(run, "tools/build_mmcv.py", mmcv))
            jobs.append(pool.submit(provide_packages, packages))
        if keys()[1] not in done:
            jobs.append(pool.submit(provide_package))
        for job in jobs:
            job.result()
    if jobs:
        say("checking the environment")
        run("-c", CHECK)
        stamp.write_text("".join(keys()))
    say(f"the environment {sys.prefix} is ready")


def main() -> None:
    """Create the virtual environment unless there is a working one, and continue inside of it."""
    if STACK not in REPLACED:
        raise SystemExit(f"STACK must be one of {', '.join(REPLACED)}, got {STACK!r}")
    name = folder_name(STACK, sys.version_info[:2], TORCH)
    folder = Path(os.environ.get("SPARSE_ENCODERS_VENV") or ROOT / name).expanduser().absolute()
    if "--folder" in sys.argv:
        print(folder)
        return
    folder.parent.mkdir(parents=True, exist_ok=True)
    lock = os.open(folder.parent, os.O_RDONLY)
    os.set_inheritable(lock, True)
    fcntl.flock(lock, fcntl.LOCK_EX)  # a second set-up of the same environment waits
    python = f"{folder}/bin/python"
    probe = f"{shlex.quote(f'{folder}/bin/pip')} --version 2>/dev/null"  # fails in a moved folder
    if str(folder) not in subprocess.getoutput(probe):
        say(f"creating the virtual environment {folder} with {sys.executable}")
        if subprocess.run([sys.executable, "-m", "venv", "--clear", str(folder)]).returncode:
            package = f"python3.{sys.version_info[1]}-venv"
            raise SystemExit(f"python -m venv failed (Debian: apt-get install {package})")
    os.execv(python, [python, __file__, "--inside", sys.executable])


if __name__ == "__main__":
    if sys.version_info < (3, 10):  # noqa: UP036 (before pip could check it)
        raise SystemExit(f"Python 3.10 or newer is needed, this is {sys.version.split()[0]}")
    set_up(sys.argv[2]) if sys.argv[1:2] == ["--inside"] else main()
