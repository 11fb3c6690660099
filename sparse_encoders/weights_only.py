"""A safe reader of checkpoints for versions of torch without a list of allowed types.

Every accepted torch has ``torch.load(weights_only=True)``, but only newer versions let a caller
allow further types. This reader for the others is pickle's reader in Python, restricted to given
names; it calls these functions only and sets the state of objects of these types only.
"""

from __future__ import annotations

import importlib
import pickle
from collections import Counter
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import IO, Any, ClassVar

import torch
from torch import _weights_only_unpickler

_Unpickler: Any = pickle._Unpickler
_STATISTICS = ("min", "max", "current", "mean")
_DTYPES = ("float64", "float32", "int64", "bool")
_REFUSED = "Weights only load failed: "


def mmengine_types() -> dict[str, Any]:
    """Types that MMEngine's runner writes in addition to tensors, by their full name in a file.

    ``getattr`` is replaced by a function that returns the statistics of ``HistoryBuffer`` only.
    """
    import numpy as np
    from mmengine.logging import HistoryBuffer

    multiarray = importlib.import_module(
        "numpy._core.multiarray" if find_spec("numpy._core") else "numpy.core.multiarray"
    )
    types = [HistoryBuffer, np.ndarray, np.dtype]
    types += [type(np.dtype(kind)) for kind in _DTYPES]
    allowed: dict[str, Any] = {f"{kind.__module__}.{kind.__name__}": kind for kind in types}
    allowed["builtins.getattr"] = _statistic
    for module in ("numpy._core.multiarray", "numpy.core.multiarray"):  # NumPy 2 and NumPy 1 files
        for name in ("_reconstruct", "scalar"):
            allowed[f"{module}.{name}"] = getattr(multiarray, name)
    return allowed


def _statistic(owner: object, name: str) -> Any:
    """Replacement of ``getattr`` in a checkpoint: returns a statistic of ``HistoryBuffer``."""
    from mmengine.logging import HistoryBuffer

    if owner is not HistoryBuffer or name not in _STATISTICS:
        raise ValueError(
            f"a checkpoint may look up {', '.join(_STATISTICS)} of HistoryBuffer only, "
            f"got {name!r} of {owner!r}"
        )
    return getattr(HistoryBuffer, name)


def read_weights_only(path: str | Path, allowed: Sequence[type] = ()) -> Any:
    """Read a checkpoint with the types that torch allows and :func:`mmengine_types`, on the CPU.

    Args:
        path: of the file.
        allowed: further classes that the file may hold.

    Raises:
        pickle.UnpicklingError: the file holds another type; the message names it.
        ValueError: NumPy values of another dtype.
    """
    names: dict[str, Any] = dict(_weights_only_unpickler._get_allowed_globals())
    names |= {str(v): v for v in vars(torch).values() if isinstance(v, torch.dtype)}
    names |= mmengine_types()
    names |= {"numpy.dtype": _plain_dtype, "_codecs.encode": _latin1, "builtins.set": set}
    names["collections.Counter"] = Counter  # of a schedule's milestones
    for name in ("getattr", "set"):
        names[f"__builtin__.{name}"] = names[f"builtins.{name}"]  # as protocol 2 writes it
    names |= {f"{kind.__module__}.{kind.__name__}": kind for kind in allowed}
    reader = type("Reader", (_Reader,), {"names": names})

    def load(file: IO[bytes], **settings: Any) -> Any:
        return reader(file, **settings).load()

    module = SimpleNamespace(__name__=__name__, Unpickler=reader, load=load)
    return torch.load(path, map_location="cpu", pickle_module=module, weights_only=False)


def _plain_dtype(name: str, align: bool = False, copy: bool = True) -> Any:
    """Replacement of ``numpy.dtype`` in a checkpoint."""
    import numpy as np

    made = np.dtype(name)
    if made.name not in _DTYPES:
        raise ValueError(f"{_REFUSED}numpy.dtype({name!r})")
    return made


def _latin1(text: str, encoding: str) -> bytes:
    """Replacement of ``codecs.encode``, with which pickle's protocol 2 writes bytes."""
    if encoding != "latin1":
        raise ValueError(f"{_REFUSED}text as {encoding}")
    return text.encode(encoding)


class _Reader(_Unpickler):
    """Pickle's reader in Python, with checks of each name, call and state."""

    names: Mapping[str, Any] = {}
    dispatch: ClassVar[dict[int, Any]] = dict(_Unpickler.dispatch)

    def find_class(self, module: str, name: str) -> Any:
        """The object for a name in the file, if it is allowed."""
        full = f"{module}.{name}"
        if full not in self.names:
            raise pickle.UnpicklingError(f"{_REFUSED}Unsupported global: GLOBAL {full}")
        return self.names[full]

    def load_reduce(self) -> None:
        """Call a function, if it is one of the allowed ones."""
        self._check(self.stack[-2], "call of")
        super().load_reduce()

    def load_build(self) -> None:
        """Fill in an object's state, if its class is one of the allowed ones."""
        self._check(type(self.stack[-2]), "state of")
        super().load_build()

    def _check(self, used: object, use: str) -> None:
        if not any(used is allowed for allowed in self.names.values()):
            raise pickle.UnpicklingError(f"{_REFUSED}Unsupported {use} {used!r}")

    def load_refused(self) -> None:
        """Refuse what torch never writes: calls by older opcodes, and extension codes."""
        raise pickle.UnpicklingError(f"{_REFUSED}Unsupported opcode")

    dispatch[pickle.REDUCE[0]] = load_reduce
    dispatch[pickle.BUILD[0]] = load_build
    for _code in (pickle.INST, pickle.OBJ, pickle.EXT1, pickle.EXT2, pickle.EXT4):
        dispatch[_code[0]] = load_refused
