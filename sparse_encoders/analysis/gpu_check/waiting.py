"""Where the host waits for the GPU: what reads numbers off it, and what copies to it at once."""

from __future__ import annotations

import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

MESSAGE = "synchronizing CUDA operation"
# ATen's operators whose result, or its size, the host reads; and Python's numbers on their way to
# a tensor (torch.tensor, Tensor.new_tensor), which a GPU gets by a copy that the host waits for
_READS = (
    *("_local_scalar_dense", "nonzero", "masked_select", "equal", "is_nonzero", "lift_fresh"),
    *("_unique2", "unique_dim", "unique_consecutive", "bincount", "repeat_interleave"),
)
_ROOTS = ("sparse_encoders", "mmdet", "mmcv", "mmengine")


def waits(call: Callable[[], object], device: str) -> dict[str, int]:
    """Places at which the host waits for the device during a call, and how often.

    On a GPU torch itself says so (``torch.cuda.set_sync_debug_mode``). On the CPU nobody waits:
    there the operators are counted that would.

    Args:
        call: what is run.
        device: where its tensors are.

    Returns:
        'file:line' to a count; empty where it never waits.
    """
    found: Counter[str] = Counter()
    with _of_cuda(found) if torch.device(device).type == "cuda" else _Reads(found):
        call()
    return dict(found)


@contextmanager
def _of_cuda(found: Counter[str]) -> Iterator[None]:
    """Count torch's warnings of waiting; the mode before is set again."""
    before = torch.cuda.get_sync_debug_mode()
    torch.cuda.synchronize()
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        try:
            yield
        finally:
            torch.cuda.set_sync_debug_mode(before)
    for warning in said:
        if MESSAGE in str(warning.message):
            found[f"{_short(warning.filename)}:{warning.lineno}"] += 1


class _Reads(TorchDispatchMode):
    """Counts what would make the host wait, by the line that asked for it."""

    def __init__(self, found: Counter[str]) -> None:
        super().__init__()
        self.found = found

    def __torch_dispatch__(
        self,
        func: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        name = func.overloadpacket.__name__
        if name in _READS or (name.startswith("index") and _has_mask(args[1:])):
            self.found[_place()] += 1
        return func(*args, **(kwargs or {}))


def _has_mask(arguments: Any) -> bool:
    """Whether tensors are indexed by a mask, whose true elements have to be counted."""
    indices = [i for a in arguments if isinstance(a, list | tuple) for i in a]
    return any(isinstance(i, Tensor) and i.dtype in (torch.bool, torch.uint8) for i in indices)


def _place() -> str:
    """The innermost line of this stack's packages, as 'file:line'."""
    frames = [(_short(frame.filename), frame.lineno) for frame in traceback.extract_stack()[:-2]]
    for name, number in reversed(frames):
        if name.split("/")[0] in _ROOTS:
            return f"{name}:{number}"
    return "elsewhere"


def _short(file: str) -> str:
    """A file from its package on: 'mmdet/models/...', or below the last folder called so."""
    inner = file.rpartition("site-packages/")[2]
    if inner != file:
        return inner
    parts = Path(file).parts
    starts = [i for i, part in enumerate(parts[:-1]) if part in _ROOTS]
    return "/".join(parts[starts[-1] :]) if starts else Path(file).name
