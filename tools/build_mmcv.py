"""Put MMCV with compiled operators into this Python: kept, from a cached wheel, or from source.

Nearly all of MMCV's compile time is reading torch's headers once for each of its 77 files, so its
C++ files are compiled as two units: ``pybind.cpp``, and one that includes all others. Where that
fails (another version, another compiler), MMCV's own build is run. The wheel is kept outside the
checkout under a name that holds what it depends on. Environment: ``MAX_JOBS``, ``CXX``,
``FORCE_CUDA``, ``TORCH_CUDA_ARCH_LIST``, ``SPARSE_ENCODERS_CACHE`` and everything pip reads;
``MMCV_BUILD_FOLDER`` keeps what was compiled, so that a build that was cut off goes on.
"""

from __future__ import annotations

import fcntl
import importlib.util
import os
import platform
import re
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections import Counter
from contextlib import nullcontext
from pathlib import Path

DEFINED = re.compile(r"^(?:(?:static|inline) )*(?:struct|void|[TS]|int|float) (\w+)\s*[({]", re.M)
EXPORTED = re.compile(r'\bm\.def\(\s*"(\w+)"')
EXEC = """import builtins, sys
plain = builtins.exec
def exec_into_locals(code, *spaces, **more):
    caller, found = sys._getframe(1), {}
    if spaces or more or caller.f_locals is caller.f_globals:
        return plain(code, *(spaces or [caller.f_globals]), **more)
    plain(code, caller.f_globals, found)
    caller.f_locals.update(found)
builtins.exec = exec_into_locals"""
LOAD = """import importlib.util as u, sys, torch
spec = u.spec_from_file_location("mmcv._ext", sys.argv[1])
module = u.module_from_spec(spec)
spec.loader.exec_module(module)
print(*dir(module))"""


def run_logged(command: list[str], label: str, log: Path, cwd: Path | None = None) -> None:
    """Run a long command: output in ``log``, every 20 s a line on the screen.

    Raises:
        SystemExit: it failed; the last lines of the log are printed first.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    started, scripts = time.monotonic(), str(Path(command[0]).parent)  # where pip put ninja
    jobs = {"MAX_JOBS": str(len(os.sched_getaffinity(0)))}
    env = {**jobs, **os.environ, "PATH": scripts + os.pathsep + os.environ.get("PATH", "")}
    with log.open("w") as sink:
        process = subprocess.Popen(command, cwd=cwd, env=env, stdout=sink, stderr=sink)
        while True:
            try:
                status = process.wait(timeout=20)
                break
            except subprocess.TimeoutExpired:
                done = re.findall(r"^\[\d+/\d+\]", log.read_text(errors="replace"), re.M)[-1:]
                print("   ", label, *done, f"{time.monotonic() - started:.0f} s", flush=True)
    if status:
        print(*log.read_text(errors="replace").splitlines()[-40:], sep="\n", flush=True)
        raise SystemExit(f"{label}: failed with status {status}; full output: {log}")


def group_sources(source: Path) -> None:
    """Make one unit of MMCV's C++ files but ``pybind.cpp``; CUDA's files stay as they are.

    Some files of ``cpu/`` define helpers of the same name: each gets a name of its own.
    """
    csrc = source / "mmcv" / "ops" / "csrc" / "pytorch"
    files = [p for p in sorted(csrc.glob("*.cpp")) if p.name != "pybind.cpp"]
    helpers = {p: set(DEFINED.findall(p.read_text())) for p in sorted(csrc.glob("cpu/*.cpp"))}
    times = Counter(name for names in helpers.values() for name in names)
    unit = [f'#include "pytorch_{kind}.hpp"' for kind in ("cpp_helper", "device_registry")]
    for path in [*files, *helpers]:
        shared = sorted(name for name in helpers.get(path, ()) if times[name] > 1)
        unit += [f"#define {name} {name}_{path.stem}" for name in shared]
        moved = path.rename(path.with_suffix(".inc"))  # MMCV's setup.py takes every *.cpp
        unit.append(f'#include "{moved.relative_to(csrc)}"')
        unit += [f"#undef {name}" for name in [*shared, "min", "max"]]
    (csrc / "all_but_pybind.cpp").write_text("\n".join([*unit, ""]))


def functions(folder: Path) -> set[str]:
    """Names in the compiled library of MMCV in ``folder``; none where it does not load."""
    command = [sys.executable, "-c", LOAD, *map(str, folder.glob("_ext*.so"))]
    return set(subprocess.run(command, capture_output=True, text=True).stdout.split())


def installed_functions() -> set[str]:
    """Names in the library of this Python's MMCV, which need not be importable as a whole yet."""
    importlib.invalidate_caches()
    spec = importlib.util.find_spec("mmcv")
    return functions(Path(spec.origin).parent) if spec and spec.origin else set()


def build_wheel(mmcv: str, folder: Path) -> Path:
    """Build a requirement's wheel from source into a cache folder.

    Raises:
        SystemExit: no C++ compiler, no Python headers, or neither build ends well.
    """
    compiler = os.environ.get("CXX", "g++").split()[0]
    if shutil.which(compiler) is None:
        raise SystemExit(f"no C++ compiler {compiler!r}: install g++ (Debian: build-essential)")
    header = Path(sysconfig.get_path("include")) / "Python.h"
    if not header.is_file():
        debian = f"python3.{sys.version_info[1]}-dev"
        raise SystemExit(f"no {header}: install Python's headers (Debian: {debian})")
    kept = os.environ.get("MMCV_BUILD_FOLDER")
    with nullcontext(kept) if kept else tempfile.TemporaryDirectory(prefix="mmcv-") as name:
        work = Path(name)
        work.mkdir(parents=True, exist_ok=True)
        fetch_source(mmcv, work)
        os.environ["PYTHONPATH"] = str(work / "beside")
        try:
            built = compile_mmcv(mmcv, work, folder, grouped=True)
        except (Exception, SystemExit) as error:
            print(f"    {mmcv} in grouped files: {error}\n    MMCV's own build instead", flush=True)
            built = compile_mmcv(mmcv, work, folder, grouped=False)
        partial = shutil.copyfile(built, folder / "part")
        return partial.rename(folder / built.name)


def fetch_source(mmcv: str, folder: Path) -> None:
    """Put MMCV's source distribution into a folder; what its setup.py needs, too.

    Raises:
        subprocess.CalledProcessError: pip does not find it.
    """
    beside = folder / "beside"
    beside.mkdir(exist_ok=True)
    for module in ("cv2", "psutil"):  # asked for by setup.py, and perhaps being installed now
        (beside / f"{module}.py").write_text("raise ModuleNotFoundError")
    if sys.version_info >= (3, 13):  # MMCV 2.1's setup.py reads what exec() leaves in locals()
        (beside / "sitecustomize.py").write_text(EXEC)
    fetch = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "-d", str(folder), mmcv]
    fetch += ["--no-build-isolation", "--no-binary", mmcv.split("==")[0]]
    subprocess.run(fetch, check=True, env={**os.environ, "PYTHONPATH": str(beside)})


def compile_mmcv(mmcv: str, work: Path, folder: Path, grouped: bool) -> Path:
    """Compile MMCV's source distribution in ``work``; the wheel's place. Logs go to ``folder``."""
    place = work / ("grouped" if grouped else "plain")
    if not place.exists():  # else it was cut off
        part = place.with_suffix(".part")
        shutil.rmtree(part, ignore_errors=True)
        shutil.unpack_archive(next(work.glob("*mmcv-*.tar.gz")), part)
        if grouped:
            group_sources(next(part.glob("*/setup.py")).parent)
        part.rename(place)
    source = next(place.glob("*/setup.py")).parent
    kept = os.environ.get("CFLAGS", "")
    if grouped:
        os.environ["CFLAGS"] = f"{kept} -O2 -g0"
    try:
        command = [sys.executable, "setup.py", "bdist_wheel"]
        run_logged(command, f"compiling {mmcv}", folder / f"{place.name}.log", source)
    finally:
        os.environ["CFLAGS"] = kept
    named = EXPORTED.findall((source / "mmcv/ops/csrc/pytorch/pybind.cpp").read_text())
    if missing := sorted(set(named) - functions(next(source.glob("build/lib*/mmcv")))):
        raise RuntimeError(f"{len(missing)} functions are not exported: {missing[:5]} ...")
    return next(source.glob("dist/*.whl"))


def wheel_key(mmcv: str) -> str:
    """What a built wheel of a requirement depends on, as a file name."""
    import torch
    from torch.utils.cpp_extension import CUDA_HOME

    device = "cpu"
    if torch.cuda.is_available() or os.environ.get("FORCE_CUDA") == "1":
        if CUDA_HOME is None:
            print("    no CUDA compiler (nvcc) found: MMCV's CUDA operators are left out")
            os.environ.update(CUDA_VISIBLE_DEVICES="", FORCE_CUDA="0")
        else:
            archs = os.environ.get("TORCH_CUDA_ARCH_LIST")
            if not archs and torch.cuda.is_available():
                archs = "{}.{}".format(*torch.cuda.get_device_capability())
            device = f"cuda{torch.version.cuda}-{archs or 'default'}"
    parts = [mmcv.replace("==", "-"), sys.implementation.cache_tag, f"torch-{torch.__version__}"]
    parts += [device, platform.machine(), "-".join(platform.libc_ver())]
    return re.sub(r"[^\w.+-]+", "_", "_".join(parts))


def install(mmcv: str) -> None:
    """Install MMCV, ``mmcv==2.1.0`` say, unless this Python has one whose operators load.

    Raises:
        SystemExit: it cannot be built, or what was built does not load.
    """
    key, marker = wheel_key(mmcv), Path(sys.prefix) / "mmcv-build.txt"
    if (not marker.is_file() or marker.read_text() == key) and installed_functions():
        return print("    keeping the MMCV that is here, its operators load", flush=True)
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    cache = Path(os.environ.get("SPARSE_ENCODERS_CACHE") or Path(base, "sparse_encoders"))
    folder = cache.absolute() / "mmcv" / key
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # two checkouts build it once
        wheel = next(folder.glob("*mmcv-*.whl"), None)
        print(f"    {'cached wheel' if wheel else 'no cached wheel'} in {folder}", flush=True)
        wheel = wheel or build_wheel(mmcv, folder)
    pip = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--force-reinstall"]
    marker.write_text(key)
    if subprocess.run([*pip, str(wheel)]).returncode or not installed_functions():
        wheel.unlink()
        raise SystemExit(f"{wheel} was no good and is deleted: run this again to build it anew")
    return None


if __name__ == "__main__":
    install(sys.argv[1])
