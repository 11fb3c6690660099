"""All that two processes do in the tests of this folder, in one start of them by torchrun.

    torchrun --nproc-per-node 2 launched.py FOLDER

Process 0 writes what was found to FOLDER, a file for each of the two modules.
"""

from __future__ import annotations

import logging
import sys
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist

sys.path.insert(0, str(Path(__file__).parents[1]))

import data_parallel_detectors
import data_parallel_steps


def main(folder: str) -> None:
    """Run every case of both and save what process 0 sees."""
    logging.disable(logging.INFO)
    for module in (data_parallel_steps, data_parallel_detectors):
        results = module.run()
        if dist.get_rank() == 0:
            torch.save(results, Path(folder) / f"{module.__name__}.pt")


if __name__ == "__main__":
    dist.init_process_group("gloo", timeout=timedelta(seconds=180))
    main(*sys.argv[1:])
    dist.barrier()
    dist.destroy_process_group()
