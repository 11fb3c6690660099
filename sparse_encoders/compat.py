"""What the stack below needs, and what one of its accepted versions lacks.

``prepare()`` runs when this module is imported, before anything else of this package, and does
three things, each of them harmless when done twice and each a no-op where it is not needed:

* ``declare_torchvision_schemas``: lets ``import torchvision`` work beside a torch that its binary
  operators were not built for.
* ``let_mmengine_load``: while MMEngine's loader reads a file, ``torch.load(weights_only=True)``
  takes MMEngine's own types, and nothing else; before and after it takes what it always does.
* ``check_versions``: says at once which version of the stack is out of range.

The functions at the end stand for what torch 2.1 does not have yet, asked for by whether it is
there and not by version number; where a feature cannot be had, they say so.

Only torch is imported at the top, so that the schemas are there before timm or MMEngine's runner
import torchvision.
"""

from __future__ import annotations

import importlib
import io
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache, wraps
from importlib.machinery import EXTENSION_SUFFIXES, ModuleSpec
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

_TORCHVISION_SCHEMAS = {
    "nms": "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms": "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
}
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


@contextmanager
def checkpoint_types(allowed: Sequence[type] = ()) -> Iterator[None]:
    """Inside, ``torch.load(weights_only=True)`` takes exactly what MMEngine's runner writes, too.

    That is the message hub's ``HistoryBuffer`` with its four statistics, and NumPy arrays and
    scalars of float64, float32, int64 and bool. ``HistoryBuffer`` pickles its statistics through
    ``getattr``; what is allowed under that name gives these four functions only. Any other type
    in a file is refused by torch as before. Afterwards nothing more is allowed than before.

    A torch that cannot be told so has no weights-only reading by default either: MMEngine reads
    its checkpoints there as it always did, and this package reads by :func:`load_weights`.

    Args:
        allowed: further classes.
    """
    if not _takes_names():
        yield
        return
    # With their names: the fork's MMEngine allows some of these types while it loads a file
    # and takes them back afterwards, but only the entries that have no name.
    named: list[Any] = [(value, name) for name, value in mmengine_types().items()]
    known = torch.serialization.get_safe_globals()  # stay when the others are taken back
    with torch.serialization.safe_globals([t for t in (*named, *allowed) if t not in known]):
        yield


def let_mmengine_load() -> None:
    """Let MMEngine read its own checkpoints, from files and over HTTP, by its public registry.

    From torch 2.6 on ``torch.load`` is weights-only by default and refuses them otherwise.
    """
    from mmengine.runner import checkpoint

    def with_types(load: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(load)  # MMEngine's log names the loader
        def loader(*arguments: Any, **settings: Any) -> Any:
            with checkpoint_types():
                return load(*arguments, **settings)

        return loader

    register = checkpoint.CheckpointLoader.register_scheme
    register("", with_types(checkpoint.load_from_local), force=True)
    register(("http://", "https://"), with_types(checkpoint.load_from_http), force=True)


@cache
def _takes_names() -> bool:
    """Whether torch can be told what to allow in a file, by object and name.

    The first releases that have a list of allowed types take classes without a name only, and
    stumble over a pair at the next file that is read.
    """
    if not hasattr(torch.serialization, "safe_globals"):
        return False
    file = io.BytesIO()
    torch.save({}, file)
    file.seek(0)
    try:
        with torch.serialization.safe_globals([(find_spec, "a.name")]):
            torch.load(file, weights_only=True)
    except Exception:  # whatever it is that stumbles
        return False
    return True


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
    """Check the versions, then give the stack what it needs. Runs on import."""
    check_versions()
    declare_torchvision_schemas()
    let_mmengine_load()


def load_weights(path: str | Path, allowed: Sequence[type] = ()) -> Any:
    """Read a checkpoint onto the CPU, weights-only, MMEngine's own types included.

    Args:
        path: of the file.
        allowed: further classes that the file may hold.

    Raises:
        pickle.UnpicklingError: it holds something else.
        OSError, RuntimeError, EOFError: it cannot be read.
    """
    if _takes_names():
        with checkpoint_types(allowed):
            return torch.load(path, map_location="cpu", weights_only=True)
    return read_weights_only(path, allowed)


def register_state_dict_post_hook(module: nn.Module, hook: Callable[..., None]) -> None:
    """``module.register_state_dict_post_hook(hook)``, which older torch keeps private."""
    public = getattr(module, "register_state_dict_post_hook", None)
    (public or module._register_state_dict_hook)(hook)


def is_autocast_enabled(device: str) -> bool:
    """Whether autocast is on for a device type such as 'cpu' or 'cuda'."""
    if _AUTOCAST_BY_DEVICE:
        return torch.is_autocast_enabled(device)
    return torch.is_autocast_cpu_enabled() if device == "cpu" else torch.is_autocast_enabled()


def disabled_scaler() -> Any:
    """A gradient scaler that scales nothing, for training without loss scaling."""
    if hasattr(torch.amp, "GradScaler"):
        return torch.amp.GradScaler("cpu", enabled=False)
    return torch.cuda.amp.GradScaler(enabled=False)


def register_flop_formula(operator: Any, formula: Callable[..., int]) -> None:
    """Tell torch's flop counter what an operator costs; a second time changes nothing.

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
    """Inside, ``nn.MultiheadAttention`` runs in operators that an exporter knows."""
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


OutOfMemoryError: type[RuntimeError] = getattr(
    torch, "OutOfMemoryError", torch.cuda.OutOfMemoryError
)
"""What torch raises where a device has no memory left."""
_AUTOCAST_BY_DEVICE = hasattr(torch, "get_autocast_dtype")  # came with the device as an argument
is_compiling: Callable[[], bool] = getattr(
    torch.compiler, "is_compiling", getattr(torch._utils, "is_compiling", lambda: False)
)
"""Whether the caller is being traced by ``torch.compile`` or ``torch.export``."""

prepare()
