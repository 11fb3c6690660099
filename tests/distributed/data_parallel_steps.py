"""One step of data-parallel training in each way, in each of two processes (``launched.py``).

Each process takes its share of the same two images.
"""

from __future__ import annotations

from inspect import signature
from typing import Any

import torch
import torch.distributed as dist
from mmengine.model import MMDistributedDataParallel
from mmengine.model.wrappers import MMFullyShardedDataParallel
from torch.distributed.fsdp import FullyShardedDataParallel

from tiny import build, ours, samples, total
from tiny_detectors import detector_config

SIZE = (96, 128)
# a norm whose statistics do not depend on who has which images
GROUP_NORM = dict(type="HybridEncoder", norm_cfg=dict(type="GN", num_groups=8))
# encoder, gradient checkpointing in the distributed run, what wraps the model there, and boxes of
# the two images: as many on each where the detector denoises (MMDetection pads denoising queries
# to the most of a batch)
CASES = {
    "dense": ("DenseEncoder", 0, "ddp", (3, 3)),
    "focus, checkpointed": ("DualAttentionEncoder", 2, "ddp", (3, 3)),
    "hybrid, checkpointed": (GROUP_NORM, 2, "ddp", (3, 3)),
    "none": ("NoEncoder", 0, "ddp", (3, 3)),
    "focus, sharded and checkpointed": ("DualAttentionEncoder", 2, "fsdp", (3, 3)),
    # Deformable DETR in two stages, with auxiliary heads and the decoder's attention map
    "sparse": ("SparseDETREncoder", 0, "ddp", (2, 5)),
    "sparse, sharded and checkpointed": ("SparseDETREncoder", 2, "fsdp", (2, 5)),
}
# next to no noise and a fixed number of groups: the denoising part does not depend on who draws it
DENOISING = dict(
    label_noise_scale=1e-12,
    box_noise_scale=1e-12,
    group_cfg=dict(dynamic=False, num_groups=2, num_dn_queries=None),
)


def runs_here(case: str) -> bool:
    """Whether this torch can: FSDP on CPUs wants a kind of stream that older ones do not have."""
    return "fsdp" not in CASES[case] or "priority" in signature(torch.cpu.Stream).parameters


def step(case: str, rank: int, world: int) -> tuple[dict[str, torch.Tensor], Any]:
    """Losses of this process's images, and the model with gradients."""
    encoder, num_cp, wrapper, boxes = CASES[case]
    settings = dict(type=encoder) if isinstance(encoder, str) else dict(encoder)
    settings["num_cp"] = num_cp if world > 1 else 0
    if encoder == "SparseDETREncoder":
        config = detector_config("two-stage DeformableDETR", settings)
    else:
        config = ours(encoder=settings, dn_cfg=DENOISING)
    model: Any = build(config).train()
    if world > 1 and wrapper == "ddp":
        model = MMDistributedDataParallel(module=model, find_unused_parameters=False)
    elif world > 1:
        model = MMFullyShardedDataParallel(module=model, device_id="cpu", use_orig_params=True)
    images = torch.randn(2, 3, *SIZE, generator=torch.Generator().manual_seed(3))
    batch = samples([SIZE, SIZE], SIZE, boxes)
    mine = slice(rank, None, world)
    losses = model(images[mine], batch[mine], mode="loss")
    total(losses).backward()
    flat = {k: (sum(v) if isinstance(v, list) else v).detach() for k, v in losses.items()}
    return flat, model


def gradients(model: Any) -> dict[str, torch.Tensor]:
    """All gradients of a wrapped model, gathered where they are sharded."""
    if isinstance(model, FullyShardedDataParallel):
        with FullyShardedDataParallel.summon_full_params(model, with_grads=True):
            return {k: p.grad.clone() for k, p in _named(model) if p.grad is not None}
    return {k: p.grad for k, p in _named(model) if p.grad is not None}


def _named(model: Any) -> list[tuple[str, torch.nn.Parameter]]:
    return [(k, p) for k, p in model.module.named_parameters() if p.requires_grad]


def run() -> dict[str, dict[str, Any]]:
    """For every case the losses (mean over processes) and the gradients."""
    results = {}
    for case in filter(runs_here, CASES):
        losses, model = step(case, dist.get_rank(), dist.get_world_size())
        for value in losses.values():
            dist.all_reduce(value)
            value /= dist.get_world_size()
        results[case] = {"losses": losses, "gradients": gradients(model)}
        del model  # gone before its process group is
    return results
