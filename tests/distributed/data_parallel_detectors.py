"""Two steps of data-parallel training in each case, in each of two processes (``launched.py``).

One process has boxes, the other none: whoever left a parameter without a gradient would wait for
ever.
"""

from __future__ import annotations

import torch
import torch.distributed as dist
from mmengine.model import MMDistributedDataParallel

from tiny import build, samples, total
from tiny_detectors import DETECTORS, detector_config

SIZE = (64, 96)
LITE_FOCUS = dict(
    type="LiteDETREncoder",
    blocks=1,
    attention="key_aware",
    small_low_level_ffn=True,
    selector=dict(type="FocusTokenSelector"),
)
# detector and encoder
CASES = {name: (name, LITE_FOCUS) for name in DETECTORS} | {
    "salience": (
        "DINO",
        dict(
            type="DualAttentionEncoder",
            background_embedding="released",
            selector=dict(type="SalienceTokenSelector", train_keep_ratio=(0.1, 0.9)),
        ),
    ),
    "hybrid": ("DeformableDETR", dict(type="HybridEncoder")),
    "none": ("DeformableDETR", dict(type="NoEncoder")),
}


def train(case: str, rank: int) -> tuple[float, float]:
    """Largest difference between the processes' weights, and largest change of a weight."""
    detector, encoder = CASES[case]
    model = build(detector_config(detector, encoder, decoder_attention="key_aware")).train()
    start = torch.nn.utils.parameters_to_vector(model.parameters()).detach().clone()
    wrapped = MMDistributedDataParallel(module=model, find_unused_parameters=False)
    optimiser = torch.optim.SGD(model.parameters(), lr=1e-3)
    torch.manual_seed(rank)
    ratios = []
    for step in range(2):
        if model.encoder.selector is not None:
            ratios.append(model.encoder.selector.active_schedule.average)
        batch = samples([SIZE], SIZE, boxes=(3 * (rank == step % 2),), seed=step)
        loss = total(wrapped(torch.randn(1, 3, *SIZE), batch, mode="loss"))
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    weights = torch.nn.utils.parameters_to_vector(model.parameters()).detach()
    weights = torch.cat([weights, torch.tensor(ratios)])  # drawn alike, where they are drawn
    both = [torch.empty_like(weights) for _ in range(dist.get_world_size())]
    dist.all_gather(both, weights)
    moved = (weights[: len(start)] - start).abs().max()
    return float((both[0] - both[1]).abs().max()), float(moved)


def run() -> dict[str, tuple[float, float]]:
    """For each case how far the processes' weights are apart, and how far they moved."""
    return {case: train(case, dist.get_rank()) for case in CASES}
