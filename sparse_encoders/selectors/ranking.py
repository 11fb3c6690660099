"""Scores to ranks: padding, NaN and ties."""

from __future__ import annotations

import torch
from torch import Tensor, nn

# Share of a score (or of 1) up to which two scores may differ by rounding alone.
ROUNDING = 2.0**-20


def best_first(scores: Tensor, count: int, unusable: Tensor) -> Tensor:
    """(B, count) indices of the best of (B, N) scores; equal scores in the order of their indices.

    Among equal scores ``topk`` may choose others when ``count`` changes, which it does
    with the other images of a batch.

    Args:
        scores: (B, N) without NaN.
        count: how many, known on the host.
        unusable: (B, N) bool, see :func:`without_rounding`.
    """
    if torch.onnx.is_in_onnx_export():
        # a file is for one image, has a TopK that ranks equal scores by index, and neither
        # a stable sort nor a cumulative maximum
        return scores.topk(count, dim=1).indices
    scores = without_rounding(scores, unusable)
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


def without_rounding(scores: Tensor, unusable: Tensor) -> Tensor:
    """(B, N) scores, equal for unusable tokens whose scores differ by rounding alone.

    Tokens without a usable proposal are zeroed before the first-stage projection, so most
    of them score the same but for a last bit, and that changes with the other images of a
    batch: with an image's border tokens at the cut, others would be kept.

    Args:
        scores: (B, N) without NaN.
        unusable: (B, N) bool, the tokens that were zeroed.
    """
    values, order = scores.masked_fill(~unusable, -torch.inf).sort(dim=1, descending=True)
    gap = values[:, :-1] - values[:, 1:]  # no number between two infinities
    index = torch.arange(1, scores.shape[1], device=scores.device)
    first = torch.where(gap > ROUNDING * values[:, :-1].abs().clamp(min=1), index, 0)
    run = nn.functional.pad(first, (1, 0)).cummax(1).values  # where each run begins
    levelled = torch.empty_like(scores).scatter(1, order, values.gather(1, run))
    return torch.where(unusable, levelled, scores)
