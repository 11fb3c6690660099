"""The most memory that a call holds at once."""

from __future__ import annotations

import ctypes
import ctypes.util
import gc
from collections.abc import Callable
from pathlib import Path

import torch

MIB = 2**20


def peak_memory(call: Callable[[], object], device: torch.device | str = "cpu") -> int | None:
    """Bytes that ``call`` needs at its peak, beyond what is held before it.

    On a CUDA device by the allocator's own count. On the CPU by the kernel's
    high-water mark of this process (Linux); None where that cannot be reset.
    """
    device = torch.device(device)
    gc.collect()
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        call()
        torch.cuda.synchronize(device)
        return torch.cuda.max_memory_allocated(device) - before
    return _resident_peak(call)


def _resident_peak(call: Callable[[], object]) -> int | None:
    _release_free_memory()
    try:
        # "5" resets the high-water mark to what is resident now (man 5 proc)
        Path("/proc/self/clear_refs").write_text("5")
        before = _status("VmRSS")
    except OSError:
        return None
    call()
    return max(_status("VmHWM") - before, 0)


def _status(field: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field + ":"):
            return int(line.split()[1]) * 1024
    raise OSError(f"/proc/self/status has no {field}")


def _release_free_memory() -> None:
    """Give what malloc holds in reserve back, so that it does not hide new use."""
    libc = ctypes.CDLL(ctypes.util.find_library("c"))
    if hasattr(libc, "malloc_trim"):
        libc.malloc_trim(0)
