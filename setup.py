"""Build script of the compiled operators (metadata and settings: pyproject.toml).

``python setup.py build_ext --inplace`` writes ``sparse_encoders/_C.so`` into the checkout;
``pip install --no-build-isolation .`` builds it for an installation. If it cannot be built, the
reason is printed and the package is installed without it: it then works, but slower. The configs
of ``mmdet_configs`` are copied to the package's ``.mim`` folder, where MMEngine and mim look.

Environment:
    SPARSE_ENCODERS_NO_EXTENSION=1: do not build it.
    SPARSE_ENCODERS_REQUIRE_EXTENSION=1: fail if it cannot be built.
    SPARSE_ENCODERS_NO_CUDA=1: build for the CPU only, even with a CUDA build of torch.
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


def is_set(name: str) -> bool:
    """Whether an environment variable is set to something other than 0."""
    return os.environ.get(name, "0") not in ("", "0")


def reason_not_to_build() -> str | None:
    """Why the extension cannot be built on this machine; None if it can."""
    if is_set("SPARSE_ENCODERS_NO_EXTENSION"):
        return "SPARSE_ENCODERS_NO_EXTENSION is set"
    try:
        import torch  # noqa: F401
    except ImportError as error:
        return f"torch cannot be imported ({error}); use pip's --no-build-isolation"
    if sys.platform == "win32":
        return "the operators are not built on Windows"
    if not any(shutil.which(c) for c in (os.environ.get("CXX", ""), "c++", "g++", "clang++") if c):
        return "no C++ compiler was found (CXX, c++, g++ or clang++)"
    return None


def nvcc_release(nvcc: Path) -> str | None:
    """CUDA release of a compiler, such as 13.0; None if it does not run."""
    try:
        output = subprocess.run([nvcc, "--version"], capture_output=True, text=True).stdout
    except OSError:
        return None
    match = re.search(r"release (\d+\.\d+)", output)
    return match and match[1]


def cuda_sources() -> list[str]:
    """CUDA sources of the extension; empty, with a message, if they cannot be compiled."""
    import torch
    from torch.utils.cpp_extension import CUDA_HOME

    if torch.version.cuda is None or is_set("SPARSE_ENCODERS_NO_CUDA"):
        return []
    release = CUDA_HOME and nvcc_release(Path(CUDA_HOME, "bin", "nvcc"))
    if CUDA_HOME is None:
        problem = "nvcc was not found and CUDA_HOME is not set: CPU operators only"
    elif release and release.split(".")[0] != torch.version.cuda.split(".")[0]:
        problem = (
            f"{CUDA_HOME} is CUDA {release}, this torch is built for CUDA {torch.version.cuda}: "
            "CPU operators only; set CUDA_HOME to a CUDA of that release"
        )
    elif not os.environ.get("TORCH_CUDA_ARCH_LIST") and not torch.cuda.is_available():
        problem = (
            "this machine has no GPU: CPU operators only; to build for other GPUs "
            "set TORCH_CUDA_ARCH_LIST, as in TORCH_CUDA_ARCH_LIST=9.0"
        )
    else:
        folder = SOURCES / "cuda"
        return sorted(str(p) for pattern in ("*.cu", "*.cpp") for p in folder.glob(pattern))
    print(f"sparse_encoders: {problem}")
    return []


def extension() -> Any:
    """The extension module: CPU operators, and CUDA operators if they can be compiled."""
    import torch
    from torch.utils.cpp_extension import CppExtension, CUDAExtension

    os.chdir(ROOT)  # the sources' paths are relative
    cuda = cuda_sources()
    flags = ["-O3", "-Wall", "-g0"]
    if torch.backends.openmp.is_available() and sys.platform != "darwin":
        # For the compiler only, not the linker: the operators use torch's OpenMP library. A second
        # OpenMP library would start a second pool of threads that competes for the cores.
        flags.append("-fopenmp")
    sources = [str(SOURCES / "ops.cpp"), *sorted(map(str, (SOURCES / "cpu").glob("*.cpp"))), *cuda]
    depends = [str(p) for p in SOURCES.rglob("*") if p.suffix in (".h", ".inc", ".cuh")]
    module = (CUDAExtension if cuda else CppExtension)(
        "sparse_encoders._C",
        sources,
        include_dirs=[str(ROOT / SOURCES)],
        extra_compile_args={"cxx": flags, "nvcc": ["-O3"]},
    )
    module.depends = depends
    return module


def build_command() -> Any:
    """Torch's build_ext, but the library is ``_C.so``; a failing build installs without it."""
    from torch.utils.cpp_extension import BuildExtension

    class Build(BuildExtension):
        def run(self) -> None:
            try:
                super().run()
            except Exception as error:
                if is_set("SPARSE_ENCODERS_REQUIRE_EXTENSION") or "build_ext" in sys.argv:
                    raise
                self.extensions.clear()
                print(f"sparse_encoders: installing without compiled operators: {error}")

    return Build.with_options(no_python_abi_suffix=True)


class BuildWithConfigs(build_py):
    """Copies the targets of ``.mim``'s links in a checkout: configs, model index, scripts."""

    def run(self) -> None:
        super().run()
        if self.editable_mode:
            return  # an editable installation uses the links
        for source, part in (("mmdet_configs", "configs"), ("sparse_encoders/.mim/tools", "tools")):
            target = Path(self.build_lib, "sparse_encoders", ".mim", part)
            ignored = shutil.ignore_patterns("__pycache__")
            shutil.copytree(ROOT / source, target, ignore=ignored, dirs_exist_ok=True)
        shutil.copy(ROOT / "model-index.yml", target.parent)


def main() -> None:
    """Build and install the package, with the extension if it can be built."""
    commands = {"build_py": BuildWithConfigs}
    if (reason := reason_not_to_build()) is None:
        setup(ext_modules=[extension()], cmdclass=commands | {"build_ext": build_command()})
    elif is_set("SPARSE_ENCODERS_REQUIRE_EXTENSION"):
        raise SystemExit(f"sparse_encoders: the extension cannot be built: {reason}")
    else:
        print(f"sparse_encoders: installing without compiled operators: {reason}")
        setup(cmdclass=commands)


if __name__ == "__main__":
    main()
