"""The decoder attention map (DAM), pseudo labels made from it, their loss, and the metric Corr.

Sparse DETR (Roh et al., ICLR 2022), sections 3.3 and 3.4: the weights of the decoder's
cross-attention, summed on the token grid, tell which tokens should be refined. Only the logits of
the loss have a gradient.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from sparse_encoders.tokens import LevelShapes


@torch.no_grad()
def decoder_attention_map(
    locations: Tensor, weights: Tensor, shapes: LevelShapes, aligned: bool = False
) -> Tensor:
    """Spread cross-attention bilinearly over the tokens (section 3.3).

    Args:
        locations: (B, ..., L, P, 2) sampling locations of every layer, head and query,
            normalised (x, y).
        weights: (B, ..., L, P) attention weights after the softmax.
        shapes: (height, width) of each level.
        aligned: the centre of token i is at i / size (False, as released) or at (i + 0.5) / size
            (True, as in the attention itself).

    Returns:
        (B, N) float32. Weights outside of a level's map are dropped.

    Raises:
        ValueError: shapes that do not fit each other.
    """
    if locations.shape[:-1] != weights.shape or weights.shape[-2] != len(shapes):
        raise ValueError(
            f"locations must be (B, ..., {len(shapes)}, P, 2) and weights the same without the "
            f"last axis, got {tuple(locations.shape)} and {tuple(weights.shape)}"
        )
    locations = locations.float().movedim(-3, 1).flatten(2, -2)  # (B, L, samples, 2)
    weights = weights.float().movedim(-2, 1).flatten(2)
    maps = []
    for level, (h, w) in enumerate(shapes):
        at = locations[:, level] * locations.new_tensor([w, h]) - (0.5 if aligned else 0.0)
        maps.append(_spread(at, weights[:, level], h, w))
    return torch.cat(maps, 1)


def _spread(at: Tensor, weights: Tensor, h: int, w: int) -> Tensor:
    """(B, h * w) sums of (B, S) weights at (B, S, 2) locations (x, y) in tokens."""
    corner = at.floor()
    share = at - corner
    total = weights.new_zeros(weights.shape[0], h * w)
    for right in (0, 1):
        for down in (0, 1):
            x, y = corner[..., 0] + right, corner[..., 1] + down
            by_x = share[..., 0] if right else 1 - share[..., 0]
            by_y = share[..., 1] if down else 1 - share[..., 1]
            # also False where a location is NaN
            inside = (x >= 0) & (x < w) & (y >= 0) & (y < h)
            index = torch.where(inside, y * w + x, 0.0).long()
            total.scatter_add_(1, index, torch.where(inside, weights * by_x * by_y, 0.0))
    return total


@torch.no_grad()
def attention_labels(
    attention: Tensor, num_positive: Tensor, max_positive: int, padding_mask: Tensor | None = None
) -> Tensor:
    """(B, N) bool pseudo labels: the tokens with the largest attention (section 3.3).

    Args:
        attention: (B, N) decoder attention map.
        num_positive: (B,) positives of each image.
        max_positive: upper bound of ``num_positive``, known on the host.
        padding_mask: (B, N) bool, True where padded: never positive.
    """
    if padding_mask is not None:
        attention = attention.masked_fill(padding_mask, -1.0)
    ranked = attention.topk(min(max_positive, attention.shape[1]), dim=1).indices
    positive = torch.arange(ranked.shape[1], device=ranked.device) < num_positive.unsqueeze(1)
    labels = torch.zeros_like(attention, dtype=torch.bool).scatter(1, ranked, positive)
    return labels if padding_mask is None else labels & ~padding_mask


def token_selection_loss(
    logits: Tensor, labels: Tensor, padding_mask: Tensor | None = None
) -> Tensor:
    """Multi-label soft-margin loss, mean over tokens and images (section 3.3).

    Of the selector's (B, N) logits and (B, N) bool labels. As released, padding, where the (B, N)
    mask is True, takes part as tokens with the batch's smallest logit.
    """
    logits = logits.float()
    if padding_mask is not None:
        logits = torch.where(padding_mask, logits.min(), logits)
    return F.multilabel_soft_margin_loss(logits, labels.float())


@torch.no_grad()
def attention_share(attention: Tensor, chosen: Tensor, shapes: LevelShapes) -> Tensor:
    """Corr: the share of the attention map's sum that lies on the chosen tokens (section 3.4).

    Of a (B, N) decoder attention map and a (B, N) bool mask: (B, 1 + L) shares over all levels,
    then for each level; NaN where the map is zero.
    """
    held = attention * chosen
    sizes = [h * w for h, w in shapes]
    parts = [(held, attention), *zip(held.split(sizes, 1), attention.split(sizes, 1), strict=True)]
    return torch.stack([part.sum(1) / whole.sum(1) for part, whole in parts], 1)


@torch.no_grad()
def best_share(scores: Tensor, share: float, valid: Tensor) -> Tensor:
    """(B, N) bool, the ``share`` of each image's valid tokens with the highest scores.

    Focus-DETR's Table 3 compares the top 10% (share 0.1) of several selectors. At least one token
    is taken.

    Raises:
        ValueError: a share outside of (0, 1].
    """
    if not 0 < share <= 1:
        raise ValueError(f"share must lie in (0, 1], got {share}")
    order = scores.masked_fill(~valid, -torch.inf).argsort(dim=1, descending=True, stable=True)
    counts = (valid.sum(1, keepdim=True) * share).long().clamp(min=1)
    first = torch.arange(scores.shape[1], device=scores.device) < counts
    return torch.zeros_like(valid).scatter(1, order, first) & valid
