"""Install MMCV with compiled operators into this Python, from a kept wheel or from source.

An installed MMCV whose operators load is used as it is. Wheels are kept outside of the checkout, in
folders named after everything a wheel depends on; an interrupted build is resumed there. Most of
MMCV's compile time is parsing torch's headers for each of its 77 files. Its C++ files are therefore
compiled as two, ``pybind.cpp`` and one that includes all others; if that fails, MMCV's own build
runs. Environment: ``MAX_JOBS``, ``CXX``, ``FORCE_CUDA``, ``TORCH_CUDA_ARCH_LIST``,
``SPARSE_ENCODERS_CACHE`` and the variables of pip.
"""

from __future__ import annotations

import fcntl
import os
import platform
import re
import shutil
import subprocess
import sys
import sysconfig
import time
from collections import Counter
from pathlib import Path

DEFINED = re.compile(r"^(?:(?:static|inline) )*(?:struct|void|[TS]|int|float) (\w+)\s*[({]", re.M)
# MMCV's setup.py tries to import cv2 and psutil, which may be partly installed at that moment, and
# reads from locals() what exec() assigned there, which Python 3.13 no longer does
SITECUSTOMIZE = """import builtins, sys
sys.modules.update(cv2=None, psutil=None)
plain, caller = builtins.exec, lambda: sys._getframe(2)
builtins.exec = lambda code, *namespaces, **closure: plain(
    code, *namespaces or (caller().f_globals, caller().f_locals), **closure)"""
LOAD = """import glob, importlib.util as util, sys, torch
folder, = sys.argv[1:] or util.find_spec("mmcv").submodule_search_locations
spec = util.spec_from_file_location("mmcv._ext", *glob.glob(folder + "/_ext*.so"))
spec.loader.exec_module(util.module_from_spec(spec))"""


def run_logged(command: list[str], label: str, log: Path, cwd: Path, **variables: str) -> None:
    """Run a long command: write its output to ``log`` and print its progress every 20 s.

    Raises:
        SystemExit: it failed; the last lines of the log are printed first.
    """
    path = os.path.dirname(sys.executable) + os.pathsep + os.environ.get("PATH", "")  # has ninja
    jobs, started = str(len(os.sched_getaffinity(0))), time.monotonic()
    env = {"MAX_JOBS": jobs, **os.environ, "PATH": path, **variables}
    with log.open("w") as output:
        process = subprocess.Popen(command, cwd=cwd, env=env, stdout=output, stderr=output)
    while process.returncode is None:
        try:
            process.wait(timeout=20)
        except subprocess.TimeoutExpired:
            done = re.findall(r"^\[\d+/\d+\]", log.read_text(errors="replace"), re.M)[-1:]
            print("   ", label, *done, f"{time.monotonic() - started:.0f} s", flush=True)
    if process.returncode:
        print(*log.read_text(errors="replace").splitlines()[-40:], sep="\n", flush=True)
        raise SystemExit(f"{label}: failed with status {process.returncode}; full output: {log}")


def group_sources(source: Path) -> None:
    """Merge MMCV's C++ files except ``pybind.cpp`` into one; CUDA files stay as they are.

    Helpers that several files of ``cpu/`` define under one name are renamed by macros.
    """
    csrc = source / "mmcv" / "ops" / "csrc" / "pytorch"
    files = [p for p in sorted(csrc.glob("*.cpp")) if p.name != "pybind.cpp"]
    helpers = {p: set(DEFINED.findall(p.read_text())) for p in sorted(csrc.glob("cpu/*.cpp"))}
    counts = Counter(name for names in helpers.values() for name in names)
    lines = [f'#include "pytorch_{kind}.hpp"' for kind in ("cpp_helper", "device_registry")]
    for path in [*files, *helpers]:
        repeated = sorted(name for name in helpers.get(path, ()) if counts[name] > 1)
        lines += [f"#define {name} {name}_{path.stem}" for name in repeated]
        renamed = path.rename(path.with_suffix(".inc"))  # MMCV's setup.py compiles every *.cpp
        lines.append(f'#include "{renamed.relative_to(csrc)}"')
        lines += [f"#undef {name}" for name in [*repeated, "min", "max"]]
    (csrc / "all_but_pybind.cpp").write_text("\n".join([*lines, ""]))


def operators_load(*folder: str) -> bool:
    """Whether the library of the MMCV in ``folder``, or of the installed one, loads."""
    # not import mmcv: packages that it needs may not be installed yet
    command = [sys.executable, "-c", LOAD, *folder]
    return not subprocess.run(command, capture_output=True, cwd=Path(__file__).parent).returncode


def fetch_source(mmcv: str, folder: Path) -> dict[str, str]:
    """Download MMCV's source into a folder; returns the environment that its setup.py needs."""
    customize = folder / "customize" / "sitecustomize.py"
    customize.parent.mkdir(parents=True, exist_ok=True)
    customize.write_text(SITECUSTOMIZE)
    variables = {"PYTHONPATH": str(customize.parent)}
    command = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "-d", str(folder), mmcv]
    command += ["--no-build-isolation", "--no-binary", mmcv.split("==")[0]]
    subprocess.run(command, check=True, env={**os.environ, **variables})
    return variables


def compile_mmcv(mmcv: str, folder: Path, variables: dict[str, str], grouped: bool) -> Path:
    """Compile the source in a folder and return the wheel."""
    build = folder / ("grouped" if grouped else "plain")
    resumed = any(build.glob("*/build"))
    if not resumed:
        shutil.rmtree(build, ignore_errors=True)
        shutil.unpack_archive(next(folder.glob("*mmcv-*.tar.gz")), build)
    source = next(build.glob("*/setup.py")).parent
    if grouped and not resumed:
        group_sources(source)
    command, log = [sys.executable, "setup.py", "bdist_wheel"], folder.parent / f"{build.name}.log"
    flags = os.environ.get("CFLAGS", "") + " -O2 -g0"
    run_logged(command, f"compiling {mmcv}", log, source, CFLAGS=flags, **variables)
    if not operators_load(*map(str, source.glob("build/lib*/mmcv"))):
        raise RuntimeError("the compiled library does not load")
    return next(source.glob("dist/*.whl"))


def build_wheel(mmcv: str, folder: Path) -> Path:
    """Build a wheel of MMCV from source into a folder."""
    compiler = os.environ.get("CXX", "g++").split()[0]
    if shutil.which(compiler) is None:
        raise SystemExit(f"no C++ compiler {compiler!r}: install g++ (Debian: build-essential)")
    if not (header := Path(sysconfig.get_path("include"), "Python.h")).is_file():
        debian = f"python3.{sys.version_info[1]}-dev"
        raise SystemExit(f"no {header}: install Python's headers (Debian: {debian})")
    build = folder / "build"
    variables = fetch_source(mmcv, build)
    try:
        built = compile_mmcv(mmcv, build, variables, grouped=True)
    except (Exception, SystemExit) as error:
        print(f"    {mmcv} in grouped files: {error}\n    running MMCV's own build", flush=True)
        built = compile_mmcv(mmcv, build, variables, grouped=False)
    wheel = built.rename(folder / built.name)
    shutil.rmtree(build)
    return wheel


def wheel_key(mmcv: str) -> str:
    """Folder name of a wheel: MMCV, Python, torch, CUDA and GPU, machine and C library."""
    import torch
    from torch.utils.cpp_extension import CUDA_HOME

    device, gpu = "cpu", torch.cuda.is_available()
    cuda = gpu or os.environ.get("FORCE_CUDA") == "1"
    if cuda and CUDA_HOME is None:
        print("    no CUDA compiler (nvcc) found: MMCV is built without CUDA operators")
        os.environ.update(CUDA_VISIBLE_DEVICES="", FORCE_CUDA="0")
    elif cuda:
        capability = "{}.{}".format(*torch.cuda.get_device_capability()) if gpu else "default"
        device = f"cuda{torch.version.cuda}-{os.environ.get('TORCH_CUDA_ARCH_LIST') or capability}"
    parts = [mmcv.replace("==", "-"), sys.implementation.cache_tag, f"torch-{torch.__version__}"]
    parts += [device, platform.machine(), "-".join(platform.libc_ver())]
    return re.sub(r"[^\w.+-]+", "_", "_".join(parts))


def install(mmcv: str) -> None:
    """Install MMCV (such as ``mmcv==2.1.0``), unless one whose operators load is installed."""
    key, marker = wheel_key(mmcv), Path(sys.prefix, "mmcv-build.txt")
    if (not marker.is_file() or marker.read_text() == key) and operators_load():
        print("    keeping the installed MMCV, as its operators load", flush=True)
        return
    base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache", "sparse_encoders")
    folder = Path(os.environ.get("SPARSE_ENCODERS_CACHE") or base).absolute() / "mmcv" / key
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # a second build of the same wheel waits for this one
        wheel = next(folder.glob("*mmcv-*.whl"), None)
        print(f"    {'kept wheel' if wheel else 'no kept wheel'} in {folder}", flush=True)
        wheel = wheel or build_wheel(mmcv, folder)
    marker.write_text(key)
    pip = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--force-reinstall"]
    if subprocess.run([*pip, str(wheel)]).returncode or not operators_load():
        wheel.unlink()
        raise SystemExit(f"{wheel} does not work and is deleted: run this again to rebuild it")


if __name__ == "__main__":
    install(sys.argv[1])
