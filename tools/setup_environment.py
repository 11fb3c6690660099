"""Make the environment in one go: a virtual environment with the whole stack and this package.

Needs Python 3.11 or newer, a C++ compiler and pip's access to a package index. Running it again
takes seconds; after a change it redoes only the part that the change touches. Environment:

    STACK    ``openmmlab`` (default), or ``onedl`` for the maintained fork of MMEngine, MMCV,
             MMDetection and mim, in an environment of its own (``.venv-onedl``)
    TORCH    which torch to use: a requirement (``torch==2.13.0``, pip options may follow), or
             ``system`` for the one that this Python imports. Without it: the torch that the
             virtual environment has, else the one this Python imports, else the tested default.
    SPARSE_ENCODERS_VENV     the virtual environment's folder, default in the checkout
    SPARSE_ENCODERS_CACHE    where MMCV's built wheel is kept, default ``~/.cache/sparse_encoders``
    MAX_JOBS                 parallel compilers
    PIP_*                    everything pip reads
"""

from __future__ import annotations

import argparse
import fcntl
import hashlib
import json
import os
import shlex
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from build_mmcv import run_with_progress
from environment_stacks import REQUIREMENTS, pinned, pins, stack_name

ROOT = Path(__file__).resolve().parent.parent
STARTED = time.monotonic()
EXTENSION_SETTINGS = (
    "SPARSE_ENCODERS_NO_EXTENSION",
    "SPARSE_ENCODERS_REQUIRE_EXTENSION",
    "SPARSE_ENCODERS_NO_CUDA",
    "TORCH_CUDA_ARCH_LIST",
    "CUDA_HOME",
    "CXX",
)


def say(text: str) -> None:
    """Print a step with the time since the start."""
    print(f"[{time.monotonic() - STARTED:5.0f} s] {text}", flush=True)


def digest(paths: list[Path], *more: str) -> str:
    """Hash of files, their names in the checkout, and strings."""
    found = hashlib.sha256()
    for path in paths:
        found.update(str(path.relative_to(ROOT)).encode() + b"\0" + path.read_bytes() + b"\0")
    for text in more:
        found.update(text.encode() + b"\0")
    return found.hexdigest()


@dataclass(frozen=True)
class TorchFacts:
    """Versions, None where not installed, and the installed distributions that torch asks for."""

    torch: str | None
    torchvision: str | None
    of_torch: list[str]


_ASK_TORCH_FACTS = """
import json, re
from importlib.metadata import distributions
normal = lambda name: re.sub("[-_.]+", "-", name).lower()
found = {}
for d in distributions():
    found.setdefault(normal(d.name), d)
version = lambda name: found[name].version if name in found else None
asked = found["torch"].requires if "torch" in found else []
asked = [normal(re.match(r"[\\w.-]+", line)[0]) for line in asked or []]
print(json.dumps(dict(torch=version("torch"), torchvision=version("torchvision"),
                      of_torch=[name for name in asked if name in found])))
"""


class Environment:
    """A virtual environment and what is known about it from the last run.

    Args:
        folder: the virtual environment.
    """

    def __init__(self, folder: Path):
        self.folder = folder
        self.python = folder / "bin" / "python"
        self.stamp_file = folder / "sparse_encoders_setup.json"

    def create(self) -> None:
        """Make the virtual environment, or a new one where it was moved or does not run."""
        stamp = self.stamp()
        moved = stamp and stamp.get("folder") != str(self.folder)
        runs = self.python.exists() and self.run("-c", "import pip", check=False, quiet=True) == 0
        if runs and not moved:
            return
        say(f"making the virtual environment {self.folder} with {sys.executable}")
        made = subprocess.run([sys.executable, "-m", "venv", "--clear", str(self.folder)])
        if made.returncode:
            raise SystemExit("python -m venv failed (Debian: apt-get install python3.11-venv)")

    def torch_link(self) -> Path:
        """File that makes a torch from outside importable, with the packages beside it."""
        return next(self.folder.glob("lib/python*/site-packages")) / "torch_of_system.pth"

    def stamp(self) -> dict[str, str]:
        """What the last complete steps were made from; empty where there were none."""
        try:
            found = json.loads(self.stamp_file.read_text())
        except (OSError, ValueError):
            return {}
        return found if isinstance(found, dict) else {}

    def note(self, **facts: str) -> None:
        """Add to the stamp."""
        stamp = {**self.stamp(), "folder": str(self.folder), **facts}
        partial = self.stamp_file.with_suffix(".part")
        partial.write_text(json.dumps(stamp, indent=1))
        partial.replace(self.stamp_file)

    def run(self, *arguments: str, check: bool = True, quiet: bool = False) -> int:
        """Run the environment's Python; with ``check`` a failure ends the set-up."""
        output = subprocess.DEVNULL if quiet else None
        command = [str(self.python), *arguments]
        status = subprocess.run(command, stdout=output, stderr=output).returncode
        if check and status:
            raise SystemExit(f"set-up: {shlex.join(arguments)} failed with status {status}")
        return status

    def pip(self, *arguments: str) -> None:
        """Run pip in the environment; its own configuration and PIP_* apply."""
        self.run("-m", "pip", "install", *arguments)

    def torch_facts(self) -> TorchFacts:
        """What the environment has of torch."""
        answer = subprocess.run(
            [str(self.python), "-c", _ASK_TORCH_FACTS], check=True, capture_output=True, text=True
        )
        return TorchFacts(**json.loads(answer.stdout))


def importable_torch() -> tuple[str, str] | None:
    """Version and folder of the torch that this Python imports, if there is one from 2.6 on."""
    code = "import os, torch; print(torch.__version__, os.path.dirname(torch.__path__[0]), sep='|')"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    if found.returncode:
        return None
    version, folder = found.stdout.strip().splitlines()[-1].split("|")
    numbers = tuple(int(number) for number in version.split(".")[:2])
    return (version, folder) if numbers >= (2, 6) else None


def provide_torch(environment: Environment, wanted: str) -> None:
    """Install the torch that is wanted, or keep the one that is there."""
    have = environment.torch_facts().torch
    if not wanted and have:
        say(f"keeping torch {have}")
        return
    system = importable_torch() if wanted in ("", "system") else None
    if wanted == "system" and system is None:
        raise SystemExit(f"TORCH=system, but {sys.executable} imports no torch from 2.6 on")
    if system is not None:
        version, folder = system
        say(f"using torch {version} of {sys.executable}")
        environment.run("-m", "pip", "uninstall", "-y", "torch", check=False, quiet=True)
        environment.torch_link().write_text(folder + "\n")
        return
    environment.torch_link().unlink(missing_ok=True)
    if wanted:
        say(f"installing torch as named: {wanted}")
        environment.pip(*shlex.split(wanted))
    else:
        default = pins("stack.txt")["torch"]
        say(f"installing {default}")
        environment.pip(default, "-c", str(REQUIREMENTS / "constraints.txt"))


def provide_packages(environment: Environment) -> None:
    """Install the locked list, with torchvision to match torch; nothing here replaces torch."""
    facts = environment.torch_facts()
    locked, stack = pinned(stack_name())[0], pins("stack.txt")
    torch, torchvision = str(facts.torch), facts.torchvision
    matching = stack["torchvision"]
    if torch.split("+")[0] != stack["torch"].split("==")[1]:
        # another torch brought packages of its own; torchvision 0.(n + 15) goes with torch 2.n
        locked = {name: line for name, line in locked.items() if name not in facts.of_torch}
        matching = f"torchvision==0.{int(torch.split('.')[1]) + 15}.*"
    if torchvision and environment.torch_link().exists():
        matching = "torchvision"  # the user's own, whichever it is
    say(f"installing {len(locked)} locked packages and {matching}")
    in_use = environment.folder / "requirements-in-use.txt"
    in_use.write_text("\n".join([*locked.values(), ""]))
    # what lies beside a torch from outside has no scripts (mim, pytest) in this environment
    own = ["--ignore-installed"] if environment.torch_link().exists() else []
    if stack_name() != "openmmlab":  # the fork's source distributions need setuptools only
        own.append("--no-build-isolation")
    environment.pip("-q", "--no-deps", *own, "-r", str(in_use))
    environment.pip("-q", "--no-deps", matching)


def provide_stack(environment: Environment) -> None:
    """Everything but this package itself."""
    wanted = os.environ.get("TORCH", "").strip()
    tools = [
        ROOT / "tools" / f"{n}.py"
        for n in ("setup_environment", "environment_stacks", "build_mmcv")
    ]
    key = digest([*sorted(REQUIREMENTS.glob("*.txt")), *tools], stack_name())
    stamp, have = environment.stamp(), environment.torch_facts().torch
    same_torch = have == stamp.get("torch") and wanted in ("", stamp.get("wanted"))
    if stamp.get("stack") == key and same_torch:
        say(f"the stack is up to date (torch {have})")
        return
    locked, mmcv = pinned(stack_name())
    environment.pip("-q", *(locked[name] for name in ("pip", "setuptools", "wheel")))
    provide_torch(environment, wanted)
    provide_packages(environment)
    say(f"{mmcv} with its operators")
    environment.run(str(ROOT / "tools" / "build_mmcv.py"), mmcv)
    torch = str(environment.torch_facts().torch)
    environment.note(stack=key, torch=torch, wanted=wanted or stamp.get("wanted", ""))


def provide_package(environment: Environment) -> None:
    """This package, editable, with the extension of csrc/ as far as setup.py can build it."""
    sources = [path for path in sorted((ROOT / "csrc").rglob("*")) if path.is_file()]
    inputs = [ROOT / "pyproject.toml", *ROOT.glob("setup.py"), *sources]
    settings = [f"{k}={v}" for k, v in sorted(os.environ.items()) if k in EXTENSION_SETTINGS]
    torch, compiler = environment.stamp().get("torch", ""), str(shutil.which("c++"))
    key = digest(inputs, str(ROOT), torch, compiler, *settings)
    stamp = environment.stamp()
    link = "lib/python*/site-packages/mmdet/.mim/configs/sparse_encoders"
    published = any(environment.folder.glob(link))
    same = stamp.get("package") == key and stamp.get("extension") == built_extension()
    if same and published:
        say("the package and its extension are up to date")
        return
    say("installing this package, editable, and building its extension")
    command = [str(environment.python), "-m", "pip", "install", "-v", "--no-deps"]
    command += ["--no-build-isolation", "-e", str(ROOT)]
    log = environment.folder / "sparse_encoders_build.log"
    run_with_progress(command, "compiling csrc", log, ROOT)
    for line in log.read_text(errors="replace").splitlines():
        if line.strip().startswith("sparse_encoders: "):  # why it was not built, or not all of it
            print(f"    {line.strip()}")
    # `mim train mmdet NAME` finds the configs of this checkout
    environment.run("-W", "ignore", "-m", "sparse_encoders.zoo", "publish", quiet=True)
    environment.note(package=key, extension=built_extension())


def built_extension() -> str:
    """Names and times of the compiled extension's files, empty where there is none."""
    files = sorted((ROOT / "sparse_encoders").glob("_C*.so"))
    return " ".join(f"{path.name}@{path.stat().st_mtime_ns}" for path in files)


def main() -> int:
    """Set up and check; returns the status of the check."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    folder = ".venv" if stack_name() == "openmmlab" else f".venv-{stack_name()}"
    default = os.environ.get("SPARSE_ENCODERS_VENV") or ROOT / folder
    parser.add_argument("--venv", type=Path, default=default, help="folder (default: %(default)s)")
    environment = Environment(parser.parse_args().venv.expanduser().absolute())
    environment.folder.parent.mkdir(parents=True, exist_ok=True)
    place = os.open(environment.folder.parent, os.O_RDONLY)
    fcntl.flock(place, fcntl.LOCK_EX)  # a second set-up of the same environment waits
    environment.create()
    provide_stack(environment)
    provide_package(environment)
    say("checking the environment")
    status = environment.run(str(ROOT / "tools" / "check_environment.py"), check=False)
    say("the environment is ready" if status == 0 else "the environment has the faults named above")
    return status


if __name__ == "__main__":
    if sys.version_info < (3, 11):  # noqa: UP036 (this runs before pip could check it)
        raise SystemExit(f"Python 3.11 or newer is needed, this is {sys.version.split()[0]}")
    sys.exit(main())
