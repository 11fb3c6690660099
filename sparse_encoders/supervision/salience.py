"""Soft salience targets from boxes, and their loss.

Salience DETR (Hou et al., CVPR 2024), section 3.1; the arithmetic is that of the released code.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.nn.utils.rnn import pad_sequence

from sparse_encoders.supervision.foreground import Intervals, level_intervals
from sparse_encoders.tokens import TokenGrid

# Pixels between tokens of the finest level, if the size of the batched input is not known.
FINEST_STRIDE = 8
ALPHA, GAMMA = 0.25, 2.0  # of the loss: weight of positives, focusing power


class SalienceLabels:
    """How close each token is to a box's centre, from 1 there to 0.29 in the box's corners.

    For a box that strictly contains the token, with distances to its four sides,
    ``1 - sqrt(((left - right) / w)^2 + ((top - bottom) / h)^2) / 2``; a token takes the
    largest value of all boxes, 0 outside of all. The token in row i and column j is at pixel
    ((j + 0.5) s, (i + 0.5) s), with s the size of the padded input over that of the level.

    Args:
        num_levels: feature levels L.
        intervals: as in :class:`~sparse_encoders.supervision.foreground.ForegroundLabels`; a token
            has a target only if a box around it is of its level's size. None: boxes of any size
            give targets on every level.
    """

    def __init__(
        self, num_levels: int, intervals: str | Intervals | None = "non_overlapping"
    ) -> None:
        self.intervals: tuple[tuple[float, float] | None, ...] = (None,) * num_levels
        if intervals is not None:
            self.intervals = level_intervals(num_levels, intervals)

    def __call__(self, tokens: TokenGrid, boxes: Sequence[Tensor]) -> Tensor:
        """(B, N) float32 targets in [0, 1], 0 at padding.

        ``boxes`` are per image (n, 4) as (x1, y1, x2, y2) in pixels of the batched input; n may be
        0. Without ``tokens.image_hw``, tokens of the finest level are assumed to be 8 pixels apart.
        """
        device = tokens.features.device
        finest_h, finest_w = tokens.shapes[0]
        height, width = tokens.image_hw or (FINEST_STRIDE * finest_h, FINEST_STRIDE * finest_w)
        # lists are padded with boxes of size 0, which contain no token, to at least one box
        padded = pad_sequence([b.reshape(-1, 4).to(device).float() for b in boxes], True)
        padded = F.pad(padded, (0, 0, 0, 1))
        targets = []
        for (h, w), interval in zip(tokens.shapes, self.intervals, strict=True):
            y = (torch.arange(h, device=device) + 0.5) * (height / h)
            x = (torch.arange(w, device=device) + 0.5) * (width / w)
            targets.append(_centrality(x, y, padded, interval).flatten(1))
        joined = torch.cat(targets, 1)
        if tokens.padding_mask is not None:
            joined = joined.masked_fill(tokens.padding_mask, 0.0)
        return joined


def _centrality(
    x: Tensor, y: Tensor, boxes: Tensor, interval: tuple[float, float] | None
) -> Tensor:
    """(B, h, w) targets for pixel columns (w,), rows (h,) and boxes (B, n, 4)."""
    x1, y1, x2, y2 = boxes[:, None, None].unbind(-1)  # (B, 1, 1, n)
    left, right = x[None, None, :, None] - x1, x2 - x[None, None, :, None]
    top, bottom = y[None, :, None, None] - y1, y2 - y[None, :, None, None]
    nearest = torch.minimum(torch.minimum(left, right), torch.minimum(top, bottom))
    outside = nearest <= 0
    # clamped: a box of size 0 contains no token, so its value is not used
    across = (left - right) / (x2 - x1).clamp(min=1e-6)
    along = (top - bottom) / (y2 - y1).clamp(min=1e-6)
    centrality = 1 - 0.5 * (across.square() + along.square()).sqrt()
    targets = centrality.masked_fill(outside, 0.0).amax(-1)
    if interval is None:
        return targets
    low, high = interval
    farthest = torch.maximum(torch.maximum(left, right), torch.maximum(top, bottom))
    of_this_level = (~outside & (farthest > low) & (farthest <= high)).any(-1)
    return targets * of_this_level


def salience_loss(logits: Tensor, targets: Tensor) -> Tensor:
    """Focal loss with soft targets, a scalar: the sum divided by the number of positive targets.

    Of (B, N) logits and targets t in [0, 1]. The binary cross-entropy of each token is weighted by
    ``(1 - alpha) s^gamma (1 - t) + alpha t (1 - s)^gamma``, s = sigmoid(logit). The gradient also
    passes through this weight.
    """
    logits = logits.float()
    s = logits.sigmoid()
    weight = (1 - ALPHA) * s.pow(GAMMA) * (1 - targets) + ALPHA * targets * (1 - s).pow(GAMMA)
    loss = weight * F.binary_cross_entropy_with_logits(logits, targets, reduction="none")
    return loss.sum() / (targets > 0).sum().clamp(min=1)
