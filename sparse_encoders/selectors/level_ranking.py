"""Ranking with quotas for each level (Salience DETR, Hou et al., CVPR 2024, section 3.2)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from sparse_encoders.selectors.ranking import best_first, fill_with_lowest, rankable
from sparse_encoders.tokens import TokenGrid


def rank_by_level(
    scores: Tensor,
    tokens: TokenGrid,
    levels: range,
    sizes: Sequence[int],
    limits: Tensor,
    over_batch: bool,
) -> Tensor:
    """(B, K) int64 token indices: the best of each level, ranked together.

    Args:
        scores: (B, N), NaN where a token has no score.
        tokens: the batch.
        levels: the levels to take from.
        sizes: number of tokens that each of these levels contributes, on the host; K is their sum.
        limits: (B, levels) int64, how many of these an image may keep; the others rank last.
        over_batch: True: padding ranks directly behind the lowest score of its level in the batch
            (as released, where their order is arbitrary), and equal scores rank as ``topk``
            returns them. False: padding ranks last, and equal scores rank by index.
    """
    unusable = tokens.unusable.squeeze(-1)
    indices, values = [], []
    for level, size, limit in zip(levels, sizes, limits.unbind(1), strict=True):
        if size == 0:
            continue
        part, padding = tokens.level_slices[level], tokens.padding_of(range(level, level + 1))
        ranks = scores[:, part]
        if over_batch and padding is not None:
            lowest = fill_with_lowest(ranks, padding, over_batch)
            below = lowest.nextafter(lowest.new_tensor(-torch.inf))  # a valid token ranks first
            ranks = torch.where(padding, below, ranks)
            padding = None
        ranks = rankable(ranks, padding)
        if over_batch:
            best = ranks.topk(size, dim=1).indices
        else:
            best = best_first(ranks, size, unusable[:, part])
        beyond = torch.arange(size, device=best.device) >= limit.unsqueeze(1)
        indices.append(best + part.start)
        values.append(ranks.gather(1, best).masked_fill(beyond, -torch.inf))
    joined, ranks = torch.cat(indices, 1), torch.cat(values, 1)
    if over_batch:
        order = ranks.sort(dim=1, descending=True, stable=True).indices
    else:
        order = best_first(ranks, joined.shape[1], unusable.gather(1, joined))
    return joined.gather(1, order)
