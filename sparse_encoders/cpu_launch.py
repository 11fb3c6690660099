"""Join a process group on machines without CUDA: imported by configs, never by the package.

MMEngine's PyTorch launcher selects a CUDA device before it joins the group, and
fails where torch has none. A group that exists already is left as it is; so a
config that lists this module in its ``custom_imports`` trains on several CPU
processes, started by ``mim train mmdet CONFIG --launcher pytorch --gpus 2`` or
torchrun. Without a launcher, and where torch sees a CUDA device, importing it does nothing.
See ``mmdet_configs/dino/dino_lite0_focus_shapes_cpu-processes.py``.
"""

from __future__ import annotations

import os

import torch
import torch.distributed as dist

LAUNCHER_VARIABLES = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")


def join_group(backend: str = "gloo") -> bool:
    """Join the group that a launcher describes in the environment.

    Returns:
        Whether a group was joined by this call.
    """
    launched = all(name in os.environ for name in LAUNCHER_VARIABLES)
    if not launched or torch.cuda.is_available() or dist.is_initialized():
        return False
    dist.init_process_group(backend)
    return True


join_group()
