"""One step of data-parallel training; started once for each process by torchrun.

    torchrun --nproc-per-node 2 worker.py ENCODER OUT

Each process takes its share of the same two images. Process 0 writes the losses
(mean over processes) and the gradients to OUT.
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch
import torch.distributed as dist
from mmengine.model import MMDistributedDataParallel

sys.path.insert(0, str(Path(__file__).parents[1]))

from tiny import build, ours, samples, total

SIZE = (96, 128)
# as many boxes on each image (MMDetection pads denoising queries to the most of a batch),
# next to no noise and a fixed number of groups: the denoising part does not depend on who draws it
DENOISING = dict(
    label_noise_scale=1e-12,
    box_noise_scale=1e-12,
    group_cfg=dict(dynamic=False, num_groups=2, num_dn_queries=None),
)


def step(encoder: str, rank: int, world: int) -> tuple[dict[str, torch.Tensor], torch.nn.Module]:
    """Losses of this process's images, and the model with gradients."""
    model = build(ours(encoder=dict(type=encoder), dn_cfg=DENOISING)).train()
    if world > 1:
        model = MMDistributedDataParallel(module=model, find_unused_parameters=False)
    images = torch.randn(2, 3, *SIZE, generator=torch.Generator().manual_seed(3))
    batch = samples([SIZE, SIZE], SIZE, boxes=(3, 3))
    mine = slice(rank, None, world)
    losses = model(images[mine], batch[mine], mode="loss")
    total(losses).backward()
    flat = {k: (sum(v) if isinstance(v, list) else v).detach() for k, v in losses.items()}
    return flat, model


def train(encoder: str, out: str) -> None:
    """Run the step and save what process 0 sees."""
    losses, model = step(encoder, dist.get_rank(), dist.get_world_size())
    for value in losses.values():
        dist.all_reduce(value)
        value /= dist.get_world_size()
    if dist.get_rank() == 0:
        gradients = {k: p.grad for k, p in model.module.named_parameters() if p.grad is not None}
        torch.save({"losses": losses, "gradients": gradients}, out)


if __name__ == "__main__":
    dist.init_process_group("gloo")
    train(*sys.argv[1:])  # the model is gone before its process group is
    dist.barrier()
    dist.destroy_process_group()
