"""What the stack below needs before anything else of this package is imported.

``prepare()`` runs when this module is imported and does three things, each of them harmless when
done twice and each a no-op where it is not needed:

* ``declare_torchvision_schemas``: lets ``import torchvision`` work beside a torch that its binary
  operators were not built for.
* ``allow_mmengine_checkpoints``: lets ``torch.load(weights_only=True)`` read MMEngine's own
  checkpoints, and nothing else.
* ``check_versions``: says at once which version of the stack is out of range.

Only torch is imported at the top, so that the schemas are there before timm or MMEngine's runner
import torchvision.
"""

from __future__ import annotations

import importlib
import sys
from importlib.machinery import EXTENSION_SUFFIXES, ModuleSpec
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

ACCEPTED_VERSIONS: dict[str, str] = {
    "torch": ">=2.1,<3",
    "mmengine": ">=0.10.5,<1",
    "mmcv": ">=2.1,!=2.2.*,<2.4",
    "mmdet": ">=3.3,!=3.4.*,<3.6",
}
"""Accepted range of each package of the stack, as a version specifier.

MMCV 2.1 and MMDetection 3.3 are OpenMMLab's; 2.3 and 3.5 are those of the maintained fork
(``onedl-mmcv``, ``onedl-mmdetection``), which has the same import names.
"""

_TORCHVISION_SCHEMAS = {
    "nms": "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms": "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
}
_STATISTICS = ("min", "max", "current", "mean")
_declared: list[torch.library.Library] = []  # a Library takes its schemas along when it is freed


def declare_torchvision_schemas() -> tuple[str, ...]:
    """Declare the operators that ``import torchvision`` looks up, where they are missing.

    torchvision registers fake kernels for its operators when it is imported. Its binary part does
    not load beside a torch of another build (a CPU torch and the CUDA torchvision of the package
    index, say); the lookup then fails with ``operator torchvision::nms does not exist``. With the
    schemas declared the import goes through; calling such an operator still raises torchvision's
    own error.

    Returns:
        Names of the operators declared by this call; empty where torchvision is not installed, is
        imported already, or has loadable operators.
    """
    if "torchvision" in sys.modules:
        return ()
    spec = find_spec("torchvision")
    if spec is None or _load_torchvision_operators(spec):
        return ()
    missing = tuple(n for n in _TORCHVISION_SCHEMAS if not hasattr(torch.ops.torchvision, n))
    if missing:
        library = torch.library.Library("torchvision", "FRAGMENT")
        for name in missing:
            library.define(_TORCHVISION_SCHEMAS[name])
        _declared.append(library)
    return missing


def _load_torchvision_operators(spec: ModuleSpec) -> bool:
    """Load torchvision's binary operators the way its own import does; False where they do not."""
    for folder in spec.submodule_search_locations or ():
        for suffix in EXTENSION_SUFFIXES:
            library = Path(folder) / f"_C{suffix}"
            if library.is_file():
                try:
                    torch.ops.load_library(library)
                except OSError:
                    return False
                return hasattr(torch.ops.torchvision, "nms")
    return False


def allow_mmengine_checkpoints() -> None:
    """Allow exactly what MMEngine's runner writes into a checkpoint under ``weights_only=True``.

    That is the message hub's ``HistoryBuffer`` with its four statistics, and NumPy arrays and
    scalars of float64, float32, int64 and bool. ``HistoryBuffer`` pickles its statistics through
    ``getattr``; what is allowed under that name gives these four functions only. Any other type
    in a file is refused by torch as before.
    """
    import numpy as np
    from mmengine.logging import HistoryBuffer

    multiarray = importlib.import_module(
        "numpy._core.multiarray" if find_spec("numpy._core") else "numpy.core.multiarray"
    )
    # With their names: the fork's MMEngine allows some of these types while it loads a file and
    # takes them back afterwards, but only the entries that have no name.
    types = [HistoryBuffer, np.ndarray, np.dtype]
    types += [type(np.dtype(kind)) for kind in ("float64", "float32", "int64", "bool")]
    allowed: list[Any] = [(kind, f"{kind.__module__}.{kind.__name__}") for kind in types]
    allowed.append((_statistic, "builtins.getattr"))
    for module in ("numpy._core.multiarray", "numpy.core.multiarray"):  # NumPy 2 and NumPy 1 files
        allowed += [(getattr(multiarray, n), f"{module}.{n}") for n in ("_reconstruct", "scalar")]
    torch.serialization.add_safe_globals(allowed)


def _statistic(owner: object, name: str) -> Any:
    """Give a statistic of ``HistoryBuffer``: stands in for ``getattr`` when a checkpoint is read.

    Raises:
        ValueError: anything else is asked for.
    """
    from mmengine.logging import HistoryBuffer

    if owner is not HistoryBuffer or name not in _STATISTICS:
        raise ValueError(
            f"a checkpoint may look up {', '.join(_STATISTICS)} of HistoryBuffer only, "
            f"got {name!r} of {owner!r}"
        )
    return getattr(HistoryBuffer, name)


def installed_version(package: str) -> str | None:
    """Version of an installed package, or None where it is not there.

    Args:
        package: import name, which is also the name it is distributed under.
    """
    try:
        return version(package)
    except PackageNotFoundError:
        pass
    if find_spec(package) is None:
        return None
    found = getattr(importlib.import_module(package), "__version__", None)
    return None if found is None else str(found)


def check_versions() -> None:
    """Check the versions of torch, MMEngine, MMCV and MMDetection.

    Raises:
        ImportError: one is missing or out of range; the message names every such package, what
            was found and the accepted ranges of all.
    """
    from packaging.specifiers import SpecifierSet

    wrong = []
    for package, accepted in ACCEPTED_VERSIONS.items():
        found = str(torch.__version__) if package == "torch" else installed_version(package)
        if found is None:
            wrong.append(f"{package} is not installed")
        elif not SpecifierSet(accepted).contains(found, prereleases=True):
            wrong.append(f"{package} is {found}")
    if wrong:
        ranges = "; ".join(f"{name} {accepted}" for name, accepted in ACCEPTED_VERSIONS.items())
        raise ImportError(f"sparse_encoders: {', '.join(wrong)}; accepted: {ranges}")


def prepare() -> None:
    """Check the versions, then declare and allow what the stack needs. Runs on import."""
    check_versions()
    declare_torchvision_schemas()
    allow_mmengine_checkpoints()


prepare()
