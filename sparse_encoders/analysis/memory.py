"""Peak memory of a call's tensors."""

from __future__ import annotations

import gc
import json
import os
from collections.abc import Callable
from itertools import accumulate
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from torch.profiler import ProfilerActivity, profile

MIB = 2**20


def peak_memory(call: Callable[[], object], device: torch.device | str = "cpu") -> int:
    """Bytes that torch's allocator holds for ``call`` at its peak, beyond what it held before.

    On the CPU it is computed from the allocations that torch's profiler records, so it depends
    neither on the memory held before nor on when the system releases memory. Buffers that operators
    do not allocate through torch are not counted.
    """
    device = torch.device(device)
    gc.collect()
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        call()
        torch.cuda.synchronize(device)
        return int(torch.cuda.max_memory_allocated(device) - before)
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # it prints when it starts and stops
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        call()
    with TemporaryDirectory() as folder:
        path = Path(folder) / "trace.json"
        profiler.export_chrome_trace(str(path))
        trace = json.loads(path.read_text())["traceEvents"]
    events = [event for event in trace if event.get("name") == "[memory]"]
    changes = [event["args"]["Bytes"] for event in sorted(events, key=lambda event: event["ts"])]
    return int(max(accumulate(changes), default=0))
