"""Find the lines of code at which the host waits for the GPU (CUDA synchronisation)."""

from __future__ import annotations

import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

MESSAGE = "synchronizing CUDA operation"
# ATen operators that make the host wait: it needs their result, or its size, or (lift_fresh:
# torch.tensor, Tensor.new_tensor) copies Python numbers to the GPU by a blocking copy
_WAITING = (
    *("_local_scalar_dense", "nonzero", "masked_select", "equal", "is_nonzero", "lift_fresh"),
    *("_unique2", "unique_dim", "unique_consecutive", "bincount", "repeat_interleave"),
)
_ROOTS = ("sparse_encoders", "mmdet", "mmcv", "mmengine")


def waits(call: Callable[[], object], device: str) -> dict[str, int]:
    """Count how often each line of code makes the host wait for the device during a call.

    On a GPU torch reports it (``torch.cuda.set_sync_debug_mode``). On the CPU, where the host never
    waits, the operators that would make it wait on a GPU are counted.

    Args:
        call: the function to run.
        device: device of its tensors.

    Returns:
        Counts by 'file:line'; empty if the host never waits.
    """
    counts: Counter[str] = Counter()
    with _count_on_gpu(counts) if torch.device(device).type == "cuda" else _CountOnCPU(counts):
        call()
    return dict(counts)


@contextmanager
def _count_on_gpu(counts: Counter[str]) -> Iterator[None]:
    """Count torch's synchronisation warnings; restores the debug mode at the end."""
    previous = torch.cuda.get_sync_debug_mode()
    torch.cuda.synchronize()
    with warnings.catch_warnings(record=True) as messages:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        try:
            yield
        finally:
            torch.cuda.set_sync_debug_mode(previous)
    for warning in messages:
        if MESSAGE in str(warning.message):
            counts[f"{_short(warning.filename)}:{warning.lineno}"] += 1


class _CountOnCPU(TorchDispatchMode):
    """Counts operators that would make the host wait on a GPU, by the line that calls them."""

    def __init__(self, counts: Counter[str]) -> None:
        super().__init__()
        self.counts = counts

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        if name in _WAITING or (name.startswith("index") and _has_mask(args[1:])):
            self.counts[_calling_line()] += 1
        return func(*args, **(kwargs or {}))


def _has_mask(arguments: Any) -> bool:
    """Whether a tensor is indexed by a mask, whose true elements the host has to count."""
    indices = [i for a in arguments if isinstance(a, list | tuple) for i in a]
    return any(isinstance(i, Tensor) and i.dtype in (torch.bool, torch.uint8) for i in indices)


def _calling_line() -> str:
    """The innermost line of code of the packages in ``_ROOTS``, as 'file:line'."""
    for frame in reversed(traceback.extract_stack()[:-2]):
        name = _short(frame.filename)
        if name.split("/")[0] in _ROOTS:
            return f"{name}:{frame.lineno}"
    return "elsewhere"


def _short(file: str) -> str:
    """A file's path from its package on, such as 'mmdet/models/...'."""
    inner = file.rpartition("site-packages/")[2]
    if inner != file:
        return inner
    parts = Path(file).parts
    starts = [i for i, part in enumerate(parts[:-1]) if part in _ROOTS]
    return "/".join(parts[starts[-1] :]) if starts else Path(file).name
