"""Adaptations to the accepted versions of torch, MMEngine, MMCV and MMDetection.

Importing this module, before the rest of this package, runs ``check_versions``,
``declare_torchvision_schemas`` and ``let_mmengine_load``. Only torch is imported at the top, so
that the schemas are declared before timm or MMEngine's runner import torchvision.

The functions at the end replace features that torch 2.1 lacks. They test for the feature, not for a
version number.
"""

from __future__ import annotations

import importlib
import io
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import cache
from importlib.machinery import PathFinder
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.utils import flop_counter

from sparse_encoders.weights_only import mmengine_types, read_weights_only

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

_TORCHVISION_SCHEMAS = (
    "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
)
_declared: list[torch.library.Library] = []  # kept, because freeing a Library removes its schemas


def declare_torchvision_schemas() -> None:
    """Declare the operators that ``import torchvision`` looks up, if they are missing.

    torchvision registers fake kernels for its operators when it is imported. Its binary part does
    not load with a torch of another build (for example a CPU torch with the CUDA torchvision of the
    package index); the import then fails with ``operator torchvision::nms does not exist``. With
    the schemas declared it succeeds; a call of such an operator still raises torchvision's own
    error.
    """
    spec = find_spec("torchvision")
    if spec is None or "torchvision" in sys.modules:
        return
    binary = PathFinder.find_spec("_C", spec.submodule_search_locations)
    if binary is not None:
        with suppress(OSError):  # as torchvision's own import does
            torch.ops.load_library(binary.origin)
    if not hasattr(torch.ops.torchvision, "nms"):
        library = torch.library.Library("torchvision", "FRAGMENT")
        for schema in _TORCHVISION_SCHEMAS:
            library.define(schema)
        _declared.append(library)


@contextmanager
def checkpoint_types(allowed: Sequence[type] = ()) -> Iterator[None]:
    """Inside, ``torch.load(weights_only=True)`` also accepts the types that MMEngine writes.

    These are the message hub's ``HistoryBuffer`` with its four statistics, and NumPy arrays and
    scalars of float64, float32, int64 and bool. ``HistoryBuffer`` pickles its statistics through
    ``getattr``; the function allowed under that name returns only these four. torch refuses any
    other type as usual, and on exit the list of allowed types is restored.

    A torch without such a list does not read weights-only by default either: MMEngine reads its
    checkpoints there without restrictions, and this package reads them by :func:`load_weights`.

    Args:
        allowed: further classes.
    """
    if not _takes_names():
        yield
        return
    # with names: the fork's MMEngine allows some of these types while it loads a file and removes
    # them afterwards, but only entries without a name
    named: list[Any] = [(value, name) for name, value in mmengine_types().items()]
    known = torch.serialization.get_safe_globals()  # not removed on exit
    with torch.serialization.safe_globals([t for t in (*named, *allowed) if t not in known]):
        yield


def let_mmengine_load() -> None:
    """Let MMEngine read its own checkpoints, from files and over HTTP, through its public registry.

    Without this, ``torch.load`` of torch 2.6 and later, which is weights-only by default, refuses
    them.
    """
    from mmengine.runner import checkpoint

    register = checkpoint.CheckpointLoader.register_scheme
    register("", checkpoint_types()(checkpoint.load_from_local), force=True)
    register(("http://", "https://"), checkpoint_types()(checkpoint.load_from_http), force=True)


@cache
def _takes_names() -> bool:
    """Whether torch has a list of allowed types that takes pairs of object and name.

    The first releases with such a list take classes only, and fail at the next file that is read
    if it has a pair.
    """
    if not hasattr(torch.serialization, "safe_globals"):
        return False
    file = io.BytesIO()
    torch.save({}, file)
    file.seek(0)
    try:
        with torch.serialization.safe_globals([(find_spec, "a.name")]):
            torch.load(file, weights_only=True)
    except Exception:  # the type of the error differs by version
        return False
    return True


def installed_version(package: str) -> str | None:
    """Version of an installed package, or None if it is not installed.

    Args:
        package: import name.
    """
    if find_spec(package) is None:
        return None
    try:
        return version(package)
    except PackageNotFoundError:  # the fork's, which are distributed under other names
        return getattr(importlib.import_module(package), "__version__", None)


def check_versions() -> None:
    """Check the versions of torch, MMEngine, MMCV and MMDetection.

    Raises:
        ImportError: one is missing or out of range; the message has every such package, its
            version and the accepted ranges of all.
    """
    from packaging.specifiers import SpecifierSet

    wrong = []
    for package, accepted in ACCEPTED_VERSIONS.items():
        installed = str(torch.__version__) if package == "torch" else installed_version(package)
        if installed is None:
            wrong.append(f"{package} is not installed")
        elif not SpecifierSet(accepted).contains(installed, prereleases=True):
            wrong.append(f"{package} is {installed}")
    if wrong:
        ranges = "; ".join(f"{name} {accepted}" for name, accepted in ACCEPTED_VERSIONS.items())
        raise ImportError(f"sparse_encoders: {', '.join(wrong)}; accepted: {ranges}")


def load_weights(path: str | Path, allowed: Sequence[type] = ()) -> Any:
    """Read a checkpoint onto the CPU, weights-only, MMEngine's own types included.

    Args:
        path: of the file.
        allowed: further classes that the file may hold.

    Raises:
        pickle.UnpicklingError: the file holds other types.
        OSError, RuntimeError, EOFError: the file cannot be read.
    """
    if not _takes_names():
        return read_weights_only(path, allowed)
    with checkpoint_types(allowed):
        return torch.load(path, map_location="cpu", weights_only=True)


def register_state_dict_post_hook(module: nn.Module, hook: Callable[..., None]) -> None:
    """``module.register_state_dict_post_hook(hook)``, which older torch keeps private."""
    public = getattr(module, "register_state_dict_post_hook", None)
    (public or module._register_state_dict_hook)(hook)


def is_autocast_enabled(device: str) -> bool:
    """Whether autocast is on for a device type such as 'cpu' or 'cuda'."""
    if hasattr(torch, "get_autocast_dtype"):  # added together with the device argument
        return torch.is_autocast_enabled(device)
    return torch.is_autocast_cpu_enabled() if device == "cpu" else torch.is_autocast_enabled()


def register_flop_formula(operator: Any, formula: Callable[..., int]) -> None:
    """Register an operator's formula with torch's flop counter, if it has none yet.

    Args:
        operator: such as ``torch.ops.aten.mm``, all its overloads.
        formula: of the shapes of the operator's arguments and ``out_shape``.
    """
    if not hasattr(flop_counter, "register_flop_formula"):
        known: dict[Any, Any] = flop_counter.flop_mapping  # type: ignore[attr-defined]
        known.setdefault(operator, formula)
    elif operator not in flop_counter.flop_registry:
        flop_counter.register_flop_formula(operator)(formula)


@contextmanager
def no_attention_fastpath() -> Iterator[None]:
    """Inside, ``nn.MultiheadAttention`` uses only operators that can be exported."""
    mha = getattr(torch.backends, "mha", None)
    if mha is None:
        yield
        return
    before = mha.get_fastpath_enabled()
    mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        mha.set_fastpath_enabled(before)


is_compiling: Callable[[], bool] = (
    torch.compiler if hasattr(torch.compiler, "is_compiling") else torch._utils
).is_compiling
"""Whether the caller is being traced by ``torch.compile`` or ``torch.export``."""

check_versions()
declare_torchvision_schemas()
let_mmengine_load()
