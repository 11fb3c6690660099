"""Builds the compiled operators beside the package (metadata and settings: pyproject.toml).

``python setup.py build_ext --inplace`` puts ``sparse_encoders/_C.so`` into the checkout;
``pip install --no-build-isolation .`` builds it for an installation. The package works without it,
only slower, so whatever keeps it from being built is printed and the package is installed pure.

Environment:
    SPARSE_ENCODERS_NO_EXTENSION=1: do not build it.
    SPARSE_ENCODERS_REQUIRE_EXTENSION=1: fail instead of installing pure.
    SPARSE_ENCODERS_NO_CUDA=1: build for the CPU only, whatever torch there is.
    CXX, CUDA_HOME, TORCH_CUDA_ARCH_LIST, MAX_JOBS: as for any extension of torch.
"""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path
from typing import Any

from setuptools import setup

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


def cuda_sources() -> list[str]:
    """Kernels and glue for CUDA, where torch has CUDA and its toolkit is there."""
    import torch
    from torch.utils.cpp_extension import CUDA_HOME

    if torch.version.cuda is None or asked("SPARSE_ENCODERS_NO_CUDA"):
        return []
    if CUDA_HOME is None:
        print("sparse_encoders: CUDA_HOME is not set and nvcc was not found: CPU operators only")
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


def main() -> None:
    """Set up the package, compiled where that is possible."""
    reason = why_pure()
    if reason is not None:
        if asked("SPARSE_ENCODERS_REQUIRE_EXTENSION"):
            raise SystemExit(f"sparse_encoders: the extension cannot be built: {reason}")
        print(f"sparse_encoders: installing without compiled operators: {reason}")
        setup()
        return
    setup(ext_modules=[extension()], cmdclass={"build_ext": build_command()})


if __name__ == "__main__":
    main()
