"""Scores to ranks: padding, NaN and ties."""

from __future__ import annotations

import torch
from torch import Tensor


def best_first(scores: Tensor, count: int) -> Tensor:
    """(B, count) indices of the best of (B, N) scores; equal scores stand by their place.

    Tokens whose proposal is out of range all score the same. ``topk`` may choose others
    among them when ``count`` changes, which it does with the other images of a batch.
    """
    if torch.onnx.is_in_onnx_export():
        # ONNX's TopK ranks equal scores by place, and its exporter knows no stable sort
        return scores.topk(count, dim=1).indices
    return scores.sort(dim=1, descending=True, stable=True).indices[:, :count]


def rankable(scores: Tensor, padding_mask: Tensor | None) -> Tensor:
    """(B, N) scores to rank by: padding last of all, NaN last of the real tokens.

    NaN would come first in a top-k.
    """
    ranked = scores.nan_to_num(nan=torch.finfo(scores.dtype).min)
    return ranked if padding_mask is None else ranked.masked_fill(padding_mask, -torch.inf)


def fill_with_lowest(
    scores: Tensor, padding_mask: Tensor | None, over_batch: bool = False
) -> Tensor:
    """(B, N) scores with padding and NaN at the smallest score of their image.

    Args:
        scores: (B, N).
        padding_mask: (B, N) bool, True where padded.
        over_batch: at the batch's smallest score, as the released Focus-DETR and
            Sparse DETR fill padding before anything reads the scores.
    """
    bad = scores.isnan()
    known = scores.masked_fill(bad, torch.inf)
    lowest = known.min() if over_batch else known.amin(1, keepdim=True)
    if padding_mask is not None:
        bad = bad | padding_mask
    # all NaN: nothing to fill with, any finite number will do
    return torch.where(bad, lowest.nan_to_num(posinf=0.0), scores)
