"""Make the environment in one go: a virtual environment with the whole stack and this package.

Needs Python 3.10 or newer, a C++ compiler and pip's access to a package index. Running it again
takes seconds; after a change it redoes only the part that the change touches. Environment:

    STACK    ``openmmlab`` (default), or ``onedl`` for the maintained fork of MMEngine, MMCV,
             MMDetection and mim
    TORCH    which torch to use: a requirement (``torch==2.1.2``, pip options may follow), or
             ``system`` for the one that this Python imports. Without it: the torch that the
             virtual environment has, else the one this Python imports, else the tested default.
    SPARSE_ENCODERS_VENV     the virtual environment's folder; by default in the checkout, one for
                             each STACK, Python and TORCH (``--folder`` prints it)
    SPARSE_ENCODERS_CACHE    where MMCV's built wheel is kept, default ``~/.cache/sparse_encoders``
    MAX_JOBS, PIP_*          parallel compilers; everything pip reads
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
LINK = Path(sysconfig.get_path("purelib"), "torch_of_system.pth")  # to a torch from outside
TOOLS = ("setup_environment.py", "build_mmcv.py")
BUILD_TOOLS = ("pip", "setuptools", "wheel", "ninja", "packaging", "numpy")
STARTED = float(os.environ.get("SETUP_STARTED") or time.time())
STACK = os.environ.get("STACK") or "openmmlab"
TORCH = os.environ.get("TORCH", "").strip()
REPLACED = {"openmmlab": (), "onedl": ("mmengine", "mmdet", "openmim")}  # by the fork's own
SETTINGS = ("SPARSE_ENCODERS_NO_EXTENSION", "SPARSE_ENCODERS_REQUIRE_EXTENSION", "CXX")
SETTINGS += ("SPARSE_ENCODERS_NO_CUDA", "TORCH_CUDA_ARCH_LIST", "CUDA_HOME")
WHICH_TORCH = "import os, torch; print(torch.__version__, os.path.dirname(torch.__path__[0]))"
CHECK = """
import platform, sys, warnings; warnings.filterwarnings("ignore")
import numpy, torch, sparse_encoders.ops as own, mmcv.ops, mmdet.apis, mmengine, timm
import matplotlib.pyplot, mim, pandas, plotly.graph_objects, pycocotools.coco, torch._dynamo
names = [f"{m.__name__} {m.__version__}" for m in (torch, mmengine, mmcv, mmdet, timm, numpy)]
print("    Python", platform.python_version(), "in", sys.prefix, "\\n   ", ", ".join(names))
print("    GPUs:", torch.cuda.device_count(), "MMCV by", mmcv.ops.get_compiler_version(), end="; ")
print("this package's operators:", "loaded" if own.has_extension() else own.why_no_extension())"""


def say(text: str) -> None:
    """Print a step with the time since the start."""
    print(f"[{time.time() - STARTED:5.0f} s] {text}", flush=True)


def normal(name: str) -> str:
    """A distribution's name in the form in which names are compared."""
    return re.sub(r"[-_.]+", "-", name).lower()


def numbers(version: str) -> tuple[int, ...]:
    """Major and minor version."""
    return tuple(int(number) for number in version.split(".")[:2])


def pins(*files: str) -> dict[str, str]:
    """Requirement lines of files in requirements/ by name; later files win."""
    text = "\n".join((ROOT / "requirements" / file).read_text() for file in files)
    lines = [line for line in text.splitlines() if "==" in line and not line.startswith("#")]
    return {normal(line.split("==")[0]): line for line in lines}


def locked(stack: str, python: tuple[int, ...], torch: str) -> tuple[dict[str, str], str]:
    """The packages to install as they are, and MMCV, which has to be compiled."""
    older = python < (3, 11) or numbers(torch) < (2, 3)
    found = pins("constraints.txt", *["constraints-numpy1.txt"] * older)
    default, fork = pins("stack.txt"), pins(f"stack-{stack}.txt") if REPLACED[stack] else {}
    mmcv = fork.pop("onedl-mmcv", default["mmcv"])
    found = {name: line for name, line in found.items() if name not in REPLACED[stack]} | fork
    found["torchvision"] = default["torchvision"]
    if numbers(torch) != numbers(default["torch"].split("==")[1]):  # 0.(n + 15) goes with 2.n
        found["torchvision"] = f"torchvision==0.{numbers(torch)[1] + 15}.*"
    return found, mmcv


def folder_name(stack: str, python: tuple[int, ...], torch: str) -> str:
    """Folder of the environment: ``.venv``, and what is not the default in it."""
    parts = [stack] * (stack != "openmmlab")
    parts += [f"py{python[0]}.{python[1]}"] * (python[:2] != (3, 11))
    if torch and torch != pins("stack.txt")["torch"]:
        parts.append(re.sub(r"[^\w.+-]+", "_", torch.split()[0].replace("==", "")))
    return "-".join([".venv", *parts])


def installed(name: str) -> str | None:
    """Version of a distribution in this environment, None without it."""
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def run(*arguments: str) -> None:
    """Run this Python; a failure ends the set-up."""
    if status := subprocess.run([sys.executable, *arguments], cwd=ROOT).returncode:
        raise SystemExit(f"set-up: {shlex.join(arguments)} failed with status {status}")


def pip(*arguments: str) -> None:
    """Install into this environment; pip's own configuration and PIP_* apply."""
    run("-m", "pip", "install", "--no-compile", *arguments)


def provide_torch(wanted: str, outer: str) -> None:
    """Install the torch that is wanted, or use the one that is here or in the ``outer`` Python."""
    have = installed("torch")
    if have and not wanted:
        return say(f"keeping torch {have}")
    if wanted in ("", "system"):
        found = subprocess.run([outer, "-c", WHICH_TORCH], capture_output=True, text=True).stdout
        version, _, place = found.strip().rpartition("\n")[2].partition(" ")
        if place and numbers(version) >= (2, 1):
            say(f"using torch {version} of {outer}")
            if have and not LINK.exists():
                run("-m", "pip", "uninstall", "-q", "-y", "torch")
            LINK.write_text(place + "\n")
            return site.addsitedir(str(LINK.parent))
        if wanted:
            raise SystemExit(f"TORCH=system, but {outer} imports no torch from 2.1 on")
    LINK.unlink(missing_ok=True)
    default = pins("stack.txt")["torch"]
    say(f"installing {wanted or default}")
    older = sys.version_info < (3, 11)
    constraints = ROOT / "requirements" / ("constraints-numpy1.txt" if older else "constraints.txt")
    pip(*(shlex.split(wanted) or [default, "-c", str(constraints)]))
    return None


def provide_packages(versions: dict[str, str]) -> None:
    """Install the locked list as it is, without resolving; nothing here replaces torch."""
    outside, needs = LINK.exists(), metadata.requires("torch") or []
    if str(installed("torch")).split("+")[0] != pins("stack.txt")["torch"].split("==")[1]:
        own = {normal(re.split(r"[^\w.-]", line)[0]) for line in needs}  # another torch's packages
        versions = {n: line for n, line in versions.items() if n not in own or not installed(n)}
    if outside and "torchvision" in versions and installed("torchvision"):
        versions["torchvision"] = "torchvision"  # the user's own, whichever it is
    say(f"installing {len(versions)} pinned packages")
    # what lies beside a torch from outside has no scripts (mim, pytest) in this environment;
    # the fork's source distributions need setuptools only
    flags = ["-q", "--no-deps", "--no-build-isolation", *["--ignore-installed"] * outside]
    pip(*flags, *versions.values())


def provide_package() -> None:
    """This package, editable, with the extension of csrc/ as far as setup.py can build it."""
    say("installing this package, editable, and building its extension")
    command = [sys.executable, "-m", "pip", "install", "-v", "--no-deps", "--no-build-isolation"]
    log = Path(sys.prefix, "sparse_encoders_build.log")
    run_logged([*command, "-e", str(ROOT)], "compiling csrc", log)
    for line in log.read_text(errors="replace").splitlines():
        if line.strip().startswith("sparse_encoders: "):  # why it was not built, or not all of it
            print(f"    {line.strip()}")


def stack_key() -> str:
    """What everything but this package is made from."""
    files = [
        *sorted((ROOT / "requirements").glob("*.txt")),
        *(ROOT / "tools" / name for name in TOOLS),
    ]
    found = hashlib.sha256(b"\0".join(path.read_bytes() for path in files))
    return f"{found.hexdigest()} {STACK} {TORCH} {installed('torch')}"


def package_key() -> str:
    """What the installed package was made from, and what came out."""
    sources = [*sorted((ROOT / "csrc").rglob("*.*")), ROOT / "setup.py", ROOT / "pyproject.toml"]
    found = hashlib.sha256(b"\0".join(path.read_bytes() for path in sources))
    settings = [f"{name}={os.environ.get(name)}" for name in SETTINGS]
    made = [path.stat().st_mtime_ns for path in (ROOT / "sparse_encoders").glob("_C*.so")]
    more = [str(ROOT), installed("torch"), shutil.which("c++"), settings, made]
    return f"{found.hexdigest()} {more}"


def set_up(outer: str) -> None:
    """Everything that happens inside of the virtual environment."""
    # pip does not compile: the check imports what is used, so that it is written as bytecode
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    stamp = Path(sys.prefix, "sparse_encoders_setup.txt")
    before = stamp.read_text() if stamp.exists() else ""
    new = f"{stack_key()}\n" not in before
    if new:
        stamp.unlink(missing_ok=True)
        provide_torch(TORCH, outer)
        versions, mmcv = locked(STACK, sys.version_info[:2], str(installed("torch")))
        provide_packages({name: versions.pop(name) for name in BUILD_TOOLS})
    changed = f"{package_key()}\n" not in before

    def fetch_all() -> None:
        provide_packages(versions)
        # on a core that waits for the compilers; MMCV may not be there yet
        imports = [sys.executable, "-c", "import timm, mmengine.runner, mmdet.apis"]
        subprocess.run(imports, capture_output=True)

    with ThreadPoolExecutor() as pool:  # what compiles needs only torch
        builder = str(ROOT / "tools" / "build_mmcv.py")
        jobs = [pool.submit(fetch_all), pool.submit(run, builder, mmcv)] if new else []
        jobs += [pool.submit(provide_package)] if changed else []
        for job in jobs:
            job.result()
    if new or changed:
        say("checking the environment")
        run("-c", CHECK)
        stamp.write_text(f"{stack_key()}\n{package_key()}\n")
    say(f"the environment {sys.prefix} is ready")


def main() -> None:
    """Make the virtual environment where there is none that runs, and go on inside of it."""
    if STACK not in REPLACED:
        raise SystemExit(f"STACK must be one of {', '.join(REPLACED)}, got {STACK!r}")
    name = folder_name(STACK, sys.version_info[:2], TORCH)
    folder = Path(os.environ.get("SPARSE_ENCODERS_VENV") or ROOT / name).expanduser().absolute()
    if "--folder" in sys.argv:
        return print(folder)
    folder.parent.mkdir(parents=True, exist_ok=True)
    lock = os.open(folder.parent, os.O_RDONLY)
    os.set_inheritable(lock, True)
    fcntl.flock(lock, fcntl.LOCK_EX)  # a second set-up of the same environment waits
    python = str(folder / "bin" / "python")
    probe = f"{shlex.quote(str(folder / 'bin' / 'pip'))} --version"  # fails in a moved folder
    if str(folder) not in subprocess.run(probe, shell=True, capture_output=True, text=True).stdout:
        say(f"making the virtual environment {folder} with {sys.executable}")
        if subprocess.run([sys.executable, "-m", "venv", "--clear", str(folder)]).returncode:
            package = f"python3.{sys.version_info[1]}-venv"
            raise SystemExit(f"python -m venv failed (Debian: apt-get install {package})")
    os.environ["SETUP_STARTED"] = str(STARTED)
    return os.execv(python, [python, __file__, "--inside", sys.executable])


if __name__ == "__main__":
    if sys.version_info < (3, 10):  # noqa: UP036 (before pip could check it)
        raise SystemExit(f"Python 3.10 or newer is needed, this is {sys.version.split()[0]}")
    set_up(sys.argv[2]) if sys.argv[1:2] == ["--inside"] else main()
