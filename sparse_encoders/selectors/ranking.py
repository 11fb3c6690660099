"""Ranking of scores with padding, NaN and ties."""

from __future__ import annotations

import torch
from torch import Tensor, nn

# Two scores whose difference is below this share of the score (or of 1) count as equal.
ROUNDING = 2.0**-20


def best_first(scores: Tensor, count: int, unusable: Tensor) -> Tensor:
    """(B, count) int64 indices of the highest of (B, N) scores; equal scores rank by index.

    ``topk`` may choose other indices among equal scores when ``count`` changes, and ``count``
    depends on the other images of a batch.

    Args:
        scores: (B, N) without NaN.
        count: how many, known on the host.
        unusable: (B, N) bool, see :func:`without_rounding`.
    """
    if torch.onnx.is_in_onnx_export():
        # ONNX has no stable sort and no cumulative maximum; its TopK ranks equal scores by index,
        # and an exported model takes one image
        return scores.topk(count, dim=1).indices
    scores = without_rounding(scores, unusable)
    return scores.sort(dim=1, descending=True, stable=True).indices[:, :count]


def rankable(scores: Tensor, padding_mask: Tensor | None) -> Tensor:
    """(B, N) scores with -infinity for padding and the lowest finite number for NaN.

    Without this, NaN would be first in a top-k.
    """
    ranked = scores.nan_to_num(nan=torch.finfo(scores.dtype).min)
    return ranked if padding_mask is None else ranked.masked_fill(padding_mask, -torch.inf)


def fill_with_lowest(
    scores: Tensor, padding_mask: Tensor | None, over_batch: bool = False
) -> Tensor:
    """(B, N) scores where padding and NaN are replaced by the smallest score of their image.

    Args:
        scores: (B, N).
        padding_mask: (B, N) bool, True where padded.
        over_batch: replace by the smallest score of the batch, as the released Focus-DETR and
            Sparse DETR do.
    """
    bad = scores.isnan()
    known = scores.masked_fill(bad, torch.inf)
    lowest = known.min() if over_batch else known.amin(1, keepdim=True)
    if padding_mask is not None:
        bad = bad | padding_mask
    # if all scores are NaN, any finite number serves
    return torch.where(bad, lowest.nan_to_num(posinf=0.0), scores)


def without_rounding(scores: Tensor, unusable: Tensor) -> Tensor:
    """(B, N) scores, made equal for unusable tokens whose scores differ by rounding only.

    Tokens without a usable proposal are zeroed before the first-stage projection, so most of them
    have the same score up to the last bit. That bit depends on the other images of a batch, which
    would then decide which of an image's border tokens are kept.

    Args:
        scores: (B, N) without NaN.
        unusable: (B, N) bool, the tokens that were zeroed.
    """
    values, order = scores.masked_fill(~unusable, -torch.inf).sort(dim=1, descending=True)
    gap = values[:, :-1] - values[:, 1:]  # NaN between two infinities
    index = torch.arange(1, scores.shape[1], device=scores.device)
    first = torch.where(gap > ROUNDING * values[:, :-1].abs().clamp(min=1), index, 0)
    run = nn.functional.pad(first, (1, 0)).cummax(1).values  # where each run begins
    levelled = torch.empty_like(scores).scatter(1, order, values.gather(1, run))
    return torch.where(unusable, levelled, scores)
