"""All that two processes do in the tests of this folder, in one start of them by torchrun.

    torchrun --nproc-per-node 2 launched.py FOLDER

Process 0 writes what it sees to FOLDER: ``alike.pt``, one step on the same two images in each way
of data-parallel training, and ``together.pt``, two steps of each detector where one process has
boxes and the other none (whoever left a parameter without a gradient would wait for ever).
"""

from __future__ import annotations

import logging
import sys
from datetime import timedelta
from inspect import signature
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from mmengine.model import MMDistributedDataParallel
from mmengine.model.wrappers import MMFullyShardedDataParallel
from torch.distributed.fsdp import FullyShardedDataParallel
from torch.nn.utils import parameters_to_vector

sys.path.insert(0, str(Path(__file__).parents[1]))

from tiny import batch, build, flat, ours, total
from tiny_detectors import DETECTORS, ENCODERS, detector_config

SIZE = (96, 128)
# a norm whose statistics do not depend on who has which images
GROUP_NORM = dict(type="HybridEncoder", norm_cfg=dict(type="GN", num_groups=8))
# encoder, gradient checkpointing in the distributed run, what wraps the model there, and boxes of
# the two images: as many on each where the detector denoises (MMDetection pads denoising queries
# to the most of a batch)
ALIKE: dict[str, tuple[dict[str, Any], int, str, tuple[int, int]]] = {
    "dense": (ENCODERS["dense"], 0, "ddp", (3, 3)),
    "focus, checkpointed": (ENCODERS["focus"], 2, "ddp", (3, 3)),
    "hybrid, checkpointed": (GROUP_NORM, 2, "ddp", (3, 3)),
    "none": (ENCODERS["none"], 0, "ddp", (3, 3)),
    "focus, sharded and checkpointed": (ENCODERS["focus"], 2, "fsdp", (3, 3)),
    # Deformable DETR in two stages, with auxiliary heads and the decoder's attention map
    "sparse": (ENCODERS["sparse"], 0, "ddp", (2, 5)),
    "sparse, sharded and checkpointed": (ENCODERS["sparse"], 2, "fsdp", (2, 5)),
}
# next to no noise and a fixed number of groups: the denoising part does not depend on who draws it
DENOISING = dict(
    label_noise_scale=1e-12,
    box_noise_scale=1e-12,
    group_cfg=dict(dynamic=False, num_groups=2, num_dn_queries=None),
)
LITE_FOCUS = dict(ENCODERS["lite + focus"], attention="key_aware")
DRAWN = dict(type="SalienceTokenSelector", train_keep_ratio=(0.1, 0.9))
TOGETHER: dict[str, tuple[str, dict[str, Any]]] = {
    **{name: (name, LITE_FOCUS) for name in DETECTORS},
    "salience": ("DINO", dict(ENCODERS["salience"], selector=DRAWN)),
    "hybrid": ("DeformableDETR", dict(type="HybridEncoder")),
    "none": ("DeformableDETR", ENCODERS["none"]),
}


def runs_here(case: str) -> bool:
    """Whether this torch can: FSDP on CPUs wants a kind of stream that older ones do not have."""
    return "fsdp" not in ALIKE[case] or "priority" in signature(torch.cpu.Stream).parameters


def step(case: str, rank: int, world: int) -> tuple[dict[str, torch.Tensor], Any]:
    """Losses of this process's share of the images, and the model with gradients."""
    encoder, num_cp, wrapper, boxes = ALIKE[case]
    settings = dict(encoder, num_cp=num_cp if world > 1 else 0)
    if case.startswith("sparse"):
        config = detector_config("two-stage DeformableDETR", settings)
    else:
        config = ours(encoder=settings, dn_cfg=DENOISING)
    model: Any = build(config).train()
    if world > 1 and wrapper == "ddp":
        model = MMDistributedDataParallel(module=model, find_unused_parameters=False)
    elif world > 1:
        model = MMFullyShardedDataParallel(module=model, device_id="cpu", use_orig_params=True)
    mine = {name: part[rank::world] for name, part in batch(boxes, (SIZE, SIZE)).items()}
    losses = model(**mine, mode="loss")
    total(losses).backward()
    return {name: loss.detach() for name, loss in flat(losses).items()}, model


def gradients(model: Any) -> dict[str, torch.Tensor]:
    """All gradients of a wrapped model, gathered where they are sharded."""
    if isinstance(model, FullyShardedDataParallel):
        with FullyShardedDataParallel.summon_full_params(model, with_grads=True):
            return _gradients(model)
    return _gradients(model)


def _gradients(model: Any) -> dict[str, torch.Tensor]:
    parameters = model.module.named_parameters()
    return {k: p.grad.clone() for k, p in parameters if p.requires_grad and p.grad is not None}


def train_alike() -> dict[str, dict[str, Any]]:
    """For every case the losses (mean over processes) and the gradients."""
    results = {}
    for case in filter(runs_here, ALIKE):
        losses, model = step(case, dist.get_rank(), dist.get_world_size())
        for value in losses.values():
            dist.all_reduce(value)
            value /= dist.get_world_size()
        results[case] = {"losses": losses, "gradients": gradients(model)}
        del model  # gone before its process group is
    return results


def train_together(case: str, rank: int) -> tuple[float, float]:
    """Largest difference between the processes' weights, and largest change of a weight."""
    detector, encoder = TOGETHER[case]
    model = build(detector_config(detector, encoder, decoder_attention="key_aware")).train()
    start = parameters_to_vector(model.parameters()).detach().clone()
    wrapped = MMDistributedDataParallel(module=model, find_unused_parameters=False)
    optimiser = torch.optim.SGD(model.parameters(), lr=1e-3)
    torch.manual_seed(rank)
    ratios = []
    for number in range(2):
        if model.encoder.selector is not None:
            ratios.append(model.encoder.selector.active_schedule.average)
        loss = total(wrapped(**batch((3 * (rank == number),), seed=number + rank), mode="loss"))
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    weights = parameters_to_vector(model.parameters()).detach()
    weights = torch.cat([weights, torch.tensor(ratios)])  # drawn alike, where they are drawn
    both = [torch.empty_like(weights) for _ in range(dist.get_world_size())]
    dist.all_gather(both, weights)
    moved = (weights[: len(start)] - start).abs().max()
    return float((both[0] - both[1]).abs().max()), float(moved)


if __name__ == "__main__":
    dist.init_process_group("gloo", timeout=timedelta(seconds=180))
    logging.disable(logging.INFO)
    alike = train_alike()
    together = {case: train_together(case, dist.get_rank()) for case in TOGETHER}
    if dist.get_rank() == 0:
        torch.save(alike, Path(sys.argv[1]) / "alike.pt")
        torch.save(together, Path(sys.argv[1]) / "together.pt")
    dist.barrier()
    dist.destroy_process_group()
