"""Put MMCV with compiled operators into this Python, from a cached wheel or built from source.

Neither MMCV nor its fork ``onedl-mmcv`` (the same import name) publishes a wheel for current
torch, and the operators have to be compiled against the torch they run on. The wheel built here is
kept outside the checkout, under a name that holds what it depends on (MMCV, Python, torch, CUDA,
machine, C library), so that the next checkout takes a moment. Environment: ``MAX_JOBS`` (parallel
compilers), ``FORCE_CUDA``, ``TORCH_CUDA_ARCH_LIST``, ``SPARSE_ENCODERS_CACHE`` and everything pip
reads.
"""

from __future__ import annotations

import argparse
import fcntl
import os
import platform
import re
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import threading
import time
import zipfile
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path


def cache_folder() -> Path:
    """Folder for what is kept between checkouts."""
    named = os.environ.get("SPARSE_ENCODERS_CACHE")
    if named:
        return Path(named).expanduser().resolve()
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "sparse_encoders"


class Progress:
    """Shows how far a compilation is, from the ``[done/total]`` that ninja prints.

    On a terminal one line is rewritten every second; elsewhere a line is printed every 30 seconds.
    """

    def __init__(self, label: str):
        self.label = label
        self.done = self.total = 0
        self.started = time.monotonic()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._tick, daemon=True)

    def __enter__(self) -> Progress:
        self._thread.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._stop.set()
        self._thread.join()
        self._show(last=True)

    def line(self, text: str) -> None:
        """Take one line of the compiler's output."""
        found = re.match(r"\s*\[(\d+)/(\d+)\]", text)
        if found:
            self.done, self.total = int(found[1]), int(found[2])

    def status(self) -> str:
        """Text of the progress line."""
        elapsed = time.monotonic() - self.started
        if self._stop.is_set() and not self.total:
            return f"{self.label}: nothing to compile"
        text = f"{self.label}: {self.done}/{self.total or '?'} files, {elapsed:.0f} s"
        if self.done >= 5 and self.done < self.total:
            text += f", about {elapsed / self.done * (self.total - self.done):.0f} s left"
        return text

    def _tick(self) -> None:
        while not self._stop.wait(1 if sys.stdout.isatty() else 30):
            self._show()

    def _show(self, last: bool = False) -> None:
        if sys.stdout.isatty():
            print(f"\r\x1b[K    {self.status()}", end="\n" if last else "", flush=True)
        else:
            print(f"    {self.status()}", flush=True)


def run_with_progress(command: list[str], label: str, log: Path, cwd: Path) -> None:
    """Run a build with its output in ``log`` and its progress on the screen.

    Args:
        command: the build, its first element the Python of the environment to build in.
        label: what is built.
        log: file for the whole output.
        cwd: folder to run in.

    Raises:
        SystemExit: the command failed; the last lines of the log are printed first.
    """
    scripts = str(Path(command[0]).parent)  # where pip put ninja
    environment = {
        "MAX_JOBS": str(len(os.sched_getaffinity(0))),
        **os.environ,
        "PATH": scripts + os.pathsep + os.environ.get("PATH", ""),
        "PYTHONUNBUFFERED": "1",
    }
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("w") as sink, Progress(label) as progress:
        process = subprocess.Popen(
            command,
            cwd=cwd,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
        )
        assert process.stdout is not None
        for line in process.stdout:
            sink.write(line)
            sink.flush()
            progress.line(line)
    if process.wait():
        print("".join(log.read_text(errors="replace").splitlines(keepends=True)[-40:]))
        raise SystemExit(f"{label} failed with status {process.returncode}; full output: {log}")


def has_operators() -> bool:
    """Whether this Python imports MMCV's compiled operators."""
    probe = subprocess.run([sys.executable, "-c", "import mmcv.ops"], capture_output=True)
    return probe.returncode == 0


def wheel_key(mmcv: str) -> str:
    """What a built wheel of a requirement depends on, as a file name."""
    import torch
    from torch.utils.cpp_extension import CUDA_HOME

    device = "cpu"
    if torch.cuda.is_available() or os.environ.get("FORCE_CUDA") == "1":
        if CUDA_HOME is None:
            print("    no CUDA compiler (nvcc) found: MMCV's CUDA operators are left out")
            os.environ["CUDA_VISIBLE_DEVICES"] = ""
            os.environ.pop("FORCE_CUDA", None)
        else:
            archs = os.environ.get("TORCH_CUDA_ARCH_LIST")
            if not archs and torch.cuda.is_available():
                archs = "{}.{}".format(*torch.cuda.get_device_capability())
            device = f"cuda{torch.version.cuda}-{archs or 'default'}"
    parts = [
        mmcv.replace("==", "-"),
        sys.implementation.cache_tag,
        f"torch-{torch.__version__}",
        device,
        platform.machine(),
        "-".join(platform.libc_ver()),
    ]
    return re.sub(r"[^\w.+-]+", "_", "_".join(parts))


def usable_wheel(folder: Path) -> Path | None:
    """The complete wheel in a cache folder; a damaged one is deleted."""
    for wheel in sorted(folder.glob("*mmcv-*.whl")):
        if zipfile.is_zipfile(wheel):
            with zipfile.ZipFile(wheel) as archive:
                compiled = any(n.startswith("mmcv/_ext") for n in archive.namelist())
                if compiled and archive.testzip() is None:
                    return wheel
        wheel.unlink()
    return None


def check_compiler() -> None:
    """Refuse to start a build that can't end.

    Raises:
        SystemExit: no C++ compiler or no Python headers.
    """
    compiler = os.environ.get("CXX", "g++").split()[0]
    if shutil.which(compiler) is None:
        raise SystemExit(f"no C++ compiler {compiler!r}: install g++ (Debian: build-essential)")
    header = Path(sysconfig.get_path("include")) / "Python.h"
    if not header.is_file():
        raise SystemExit(f"no {header}: install Python's headers (Debian: python3.11-dev)")


def build_wheel(mmcv: str, folder: Path) -> Path:
    """Build a requirement's wheel from source into a cache folder, about 9 min on 2 cores."""
    check_compiler()
    name = mmcv.split("==")[0]
    with tempfile.TemporaryDirectory(prefix="mmcv-") as work:
        fetch = [sys.executable, "-m", "pip", "download", "-q", "--no-deps"]
        fetch += ["--no-build-isolation", "--no-binary", name, "-d", work, mmcv]
        subprocess.run(fetch, check=True)
        shutil.unpack_archive(next(Path(work).glob("*mmcv-*.tar.gz")), work)
        source = next(path.parent for path in Path(work).glob("*mmcv-*/setup.py"))
        run_with_progress(
            [sys.executable, "setup.py", "bdist_wheel", "--dist-dir", f"{work}/dist"],
            f"compiling {mmcv}",
            folder / "build.log",
            source,
        )
        built = next(Path(work, "dist").glob("*.whl"))
        partial = folder / f"{built.name}.part"
        shutil.copyfile(built, partial)
        partial.rename(folder / built.name)
    wheel = usable_wheel(folder)
    if wheel is None:
        raise SystemExit(f"MMCV was built without its operators; see {folder / 'build.log'}")
    return wheel


def install(mmcv: str) -> None:
    """Install MMCV with operators unless it is here already.

    Args:
        mmcv: a requirement with its version, such as ``mmcv==2.1.0``.
    """
    name, number = mmcv.split("==")
    key = wheel_key(mmcv)
    marker = Path(sys.prefix) / "mmcv-build.txt"
    built_here = marker.read_text().strip() if marker.is_file() else None
    try:
        here = version(name) == number and built_here in (None, key) and has_operators()
    except PackageNotFoundError:
        here = False
    if here:
        print(f"    keeping {mmcv}, its operators load")
        return
    folder = cache_folder() / "mmcv" / key
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # two checkouts build it once
        wheel = usable_wheel(folder)
        print(f"    {'cached wheel' if wheel else 'no cached wheel'} in {folder}", flush=True)
        wheel = wheel or build_wheel(mmcv, folder)
    pip = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--force-reinstall"]
    subprocess.run([*pip, str(wheel)], check=True)
    marker.write_text(key + "\n")
    if not has_operators():
        raise SystemExit(
            f"MMCV is installed but `import mmcv.ops` fails; delete {folder} to rebuild"
        )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("requirement", help="mmcv==2.1.0 or onedl-mmcv==2.3.6, say")
    install(parser.parse_args().requirement)
