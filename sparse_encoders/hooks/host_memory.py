"""Log of the host memory of a training, to see whether it grows."""

from __future__ import annotations

import multiprocessing
import os
from pathlib import Path
from typing import Any

from mmdet.registry import HOOKS
from mmengine.hooks import Hook
from mmengine.runner import Runner

MIB = 2**20


@HOOKS.register_module()
class HostMemoryHook(Hook):
    """Log the resident memory of the training process and of its loading workers.

    Every ``interval`` iterations ``host_memory`` and ``worker_memory`` (MiB, the workers' sum)
    go into the log and into MMEngine's ``scalars.json``. Pages that processes share count in
    each of them. Read from ``/proc``, so on Linux only; elsewhere nothing is logged.

    Args:
        interval: iterations from one reading to the next.

    Raises:
        ValueError: an interval below 1.
    """

    priority = "ABOVE_NORMAL"  # before the logger, which is BELOW_NORMAL

    def __init__(self, interval: int = 50) -> None:
        if interval < 1:
            raise ValueError(f"HostMemoryHook.interval must be at least 1, got {interval}")
        self.interval = interval

    def after_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: Any = None
    ) -> None:
        """Log the memory of this process and of its workers."""
        own = resident_memory(os.getpid())
        if own is None or not self.every_n_train_iters(runner, self.interval):
            return
        started = multiprocessing.active_children()
        workers = sum(resident_memory(child.pid) or 0 for child in started)
        runner.message_hub.update_scalar("train/host_memory", own / MIB)
        runner.message_hub.update_scalar("train/worker_memory", workers / MIB)


def resident_memory(process: int | None) -> int | None:
    """Resident memory of a process in bytes; None if it cannot be read."""
    try:
        pages = Path(f"/proc/{process}/statm").read_text().split()[1]
    except (OSError, IndexError):
        return None
    return int(pages) * os.sysconf("SC_PAGE_SIZE")
