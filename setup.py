"""Builds the compiled operators beside the package (metadata and settings: pyproject.toml).

``python setup.py build_ext --inplace`` puts ``sparse_encoders/_C.so`` into the checkout;
``pip install --no-build-isolation .`` builds it for an installation. The package works without it,
only slower, so whatever keeps it from being built is printed and the package is installed pure.
The configs of ``mmdet_configs`` go into the package's ``.mim`` folder, where MMEngine and mim look.

Environment:
    SPARSE_ENCODERS_NO_EXTENSION=1: do not build it.
    SPARSE_ENCODERS_REQUIRE_EXTENSION=1: fail instead of installing pure.
    SPARSE_ENCODERS_NO_CUDA=1: build for the CPU only, whatever torch there is.
    CXX, CUDA_HOME, TORCH_CUDA_ARCH_LIST, MAX_JOBS: as for any extension of torch.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

from setuptools import setup
from setuptools.command.build_py import build_py

ROOT = Path(__file__).resolve().parent
SOURCES = Path("csrc")


def asked(name: str) -> bool:
    """Whether an environment variable is set to something other than 0."""
    return os.environ.get(name, "0") not in ("", "0")


def why_pure() -> str | None:
    """Why the extension cannot be built here; None if it can."""
    if asked("SPARSE_ENCODERS_NO_EXTENSION"):
        return "SPARSE_ENCODERS_NO_EXTENSION is set"
    try:
        import torch
    except ImportError as error:
        return f"torch is not there while building ({error}); use --no-build-isolation"
    if sys.platform == "win32":
        return "the operators are not built on Windows"
    if not any(shutil.which(c) for c in (os.environ.get("CXX", ""), "c++", "g++", "clang++") if c):
        return "no C++ compiler was found (CXX, c++, g++ or clang++)"
    del torch
    return None


def nvcc_release(nvcc: Path) -> str | None:
    """CUDA's release, such as 13.0, that a compiler belongs to; None where it does not run."""
    try:
        said = subprocess.run([nvcc, "--version"], capture_output=True, text=True).stdout
    except OSError:
        return None
    found = re.search(r"release (\d+\.\d+)", said)
    return found and found[1]


def cuda_sources() -> list[str]:
    """Kernels and glue for CUDA, where torch has CUDA and its toolkit is there."""
    import torch
    from torch.utils.cpp_extension import CUDA_HOME

    if torch.version.cuda is None or asked("SPARSE_ENCODERS_NO_CUDA"):
        return []
    if CUDA_HOME is None:
        print("sparse_encoders: CUDA_HOME is not set and nvcc was not found: CPU operators only")
        return []
    release = nvcc_release(Path(CUDA_HOME, "bin", "nvcc"))
    if release is not None and release.split(".")[0] != torch.version.cuda.split(".")[0]:
        print(
            f"sparse_encoders: {CUDA_HOME} is CUDA {release}, this torch is built for CUDA "
            f"{torch.version.cuda}: CPU operators only; set CUDA_HOME to a CUDA of that release"
        )
        return []
    if not os.environ.get("TORCH_CUDA_ARCH_LIST") and not torch.cuda.is_available():
        print(
            "sparse_encoders: this machine has no GPU to build for: CPU operators only; to build "
            "for others set TORCH_CUDA_ARCH_LIST, as in TORCH_CUDA_ARCH_LIST=9.0"
        )
        return []
    folder = SOURCES / "cuda"
    return sorted(str(p) for pattern in ("*.cu", "*.cpp") for p in folder.glob(pattern))


def extension() -> Any:
    """The one shared library with everything that can be built here."""
    import torch
    from torch.utils.cpp_extension import CppExtension, CUDAExtension

    os.chdir(ROOT)  # sources are named relative to the project
    cuda = cuda_sources()
    flags = ["-O3", "-Wall", "-g0"]
    if torch.backends.openmp.is_available() and sys.platform != "darwin":
        # Only for the compiler: the threads are those of torch's own OpenMP library. Linking a
        # second one would start a second pool that fights with the first.
        flags.append("-fopenmp")
    sources = [str(SOURCES / "ops.cpp"), *sorted(map(str, (SOURCES / "cpu").glob("*.cpp"))), *cuda]
    depends = [str(p) for p in SOURCES.rglob("*") if p.suffix in (".h", ".inc", ".cuh")]
    made = (CUDAExtension if cuda else CppExtension)(
        "sparse_encoders._C",
        sources,
        include_dirs=[str(ROOT / SOURCES)],
        extra_compile_args={"cxx": flags, "nvcc": ["-O3"]},
    )
    made.depends = depends
    return made


def build_command() -> Any:
    """Torch's build_ext, with one file name for every Python, giving way to a pure package."""
    from torch.utils.cpp_extension import BuildExtension

    class Build(BuildExtension):
        def run(self) -> None:
            try:
                super().run()
            except Exception as error:
                if asked("SPARSE_ENCODERS_REQUIRE_EXTENSION") or "build_ext" in sys.argv:
                    raise
                self.extensions.clear()
                print(f"sparse_encoders: installing without compiled operators: {error}")

    return Build.with_options(no_python_abi_suffix=True)


class BuildWithConfigs(build_py):
    """Copies what a checkout has links to: the configs, their index and the scripts for mim."""

    def run(self) -> None:
        super().run()
        if self.editable_mode:
            return  # the links of the checkout are used
        package = Path(self.build_lib, "sparse_encoders")
        for file, place in mim_files():
            self.mkpath(str((package / place).parent))
            self.copy_file(str(file), str(package / place))

    def get_outputs(self, include_bytecode: bool = True) -> list[str]:
        package = Path(self.build_lib, "sparse_encoders")
        own = [str(package / place) for _, place in mim_files()]
        return super().get_outputs(include_bytecode) + own


def mim_files() -> list[tuple[Path, Path]]:
    """Files of the ``.mim`` folder: where they are, and their places in the package."""
    folder = ROOT / "mmdet_configs"
    found = [(p, Path(".mim/configs") / p.relative_to(folder)) for p in folder.rglob("*")]
    scripts = (ROOT / "sparse_encoders" / ".mim" / "tools").glob("*.py")
    found += [(p, Path(".mim/tools") / p.name) for p in scripts]
    found.append((ROOT / "model-index.yml", Path(".mim/model-index.yml")))
    return [(p, place) for p, place in found if p.suffix in (".py", ".yml", ".md")]


def main() -> None:
    """Set up the package, compiled where that is possible."""
    reason = why_pure()
    if reason is not None:
        if asked("SPARSE_ENCODERS_REQUIRE_EXTENSION"):
            raise SystemExit(f"sparse_encoders: the extension cannot be built: {reason}")
        print(f"sparse_encoders: installing without compiled operators: {reason}")
        setup(cmdclass={"build_py": BuildWithConfigs})
        return
    commands = {"build_py": BuildWithConfigs, "build_ext": build_command()}
    setup(ext_modules=[extension()], cmdclass=commands)


if __name__ == "__main__":
    main()
