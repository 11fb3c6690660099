"""Foreground labels from boxes, and their loss.

Focus-DETR, section 3.2, equation 1 and Figure 8; intervals from the supplement's Table 2.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import inf

import torch
from mmdet.models.losses.focal_loss import py_sigmoid_focal_loss
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from sparse_encoders.tokens import TokenGrid

Intervals = Sequence[tuple[float, float]]

INTERVALS: dict[str, tuple[tuple[float, float], ...]] = {
    # the released code's
    "non_overlapping": ((-1, 64), (64, 128), (128, 256), (256, inf)),
    # the paper's best
    "overlapping": ((-1, 64), (64, 256), (128, 512), (256, inf)),
}


class ForegroundLabels:
    """Labels of tokens on objects whose size fits the token's level.

    Token (i, j) of a level with stride s is at pixel s // 2 + s * (j, i). It is foreground when it
    lies strictly inside a box and its largest distance to that box's four sides is in the level's
    interval (low, high].

    Args:
        num_levels: feature levels L.
        intervals: a name of :data:`INTERVALS` (4 levels) or L (low, high) pairs in pixels.
        strides: pixels between the tokens of each level; None: 8, 16, 32, ...

    Raises:
        ValueError: strides that are no L positive integers; see :func:`level_intervals`.
    """

    def __init__(
        self,
        num_levels: int,
        intervals: str | Intervals = "non_overlapping",
        strides: Sequence[int] | None = None,
    ) -> None:
        self.intervals = level_intervals(num_levels, intervals)
        strides = [8 * 2**level for level in range(num_levels)] if strides is None else strides
        _check_length("strides", strides, num_levels)
        if any(int(s) != s or s < 1 for s in strides):
            raise ValueError(f"strides must be integers of at least 1, got {list(strides)}")
        self.strides = tuple(int(s) for s in strides)

    def __call__(self, tokens: TokenGrid, boxes: Sequence[Tensor]) -> Tensor:
        """(B, N) bool labels.

        ``boxes`` are per image (n, 4) as (x1, y1, x2, y2) in pixels of the batched input; n may be
        0.
        """
        device = tokens.features.device
        # lists are padded with boxes of size 0, which contain no token
        padded = pad_sequence([b.reshape(-1, 4).to(device).float() for b in boxes], True)
        labels = []
        for (h, w), stride, (low, high) in zip(
            tokens.shapes, self.strides, self.intervals, strict=True
        ):
            y = torch.arange(h, device=device) * stride + stride // 2
            x = torch.arange(w, device=device) * stride + stride // 2
            labels.append(_inside(x, y, padded, low, high).flatten(1))
        return torch.cat(labels, 1)


def level_intervals(num_levels: int, intervals: str | Intervals) -> tuple[tuple[float, float], ...]:
    """A (low, high) interval in pixels for each level, from a name or the intervals themselves.

    Raises:
        ValueError: an unknown name, another number of intervals than levels, or an interval
            whose low is not below its high.
    """
    if isinstance(intervals, str):
        if intervals not in INTERVALS:
            raise ValueError(
                f"intervals must be one of {sorted(INTERVALS)} or a (low, high) pair for "
                f"each level, got {intervals!r}"
            )
        intervals = INTERVALS[intervals]
    _check_length("intervals", intervals, num_levels)
    for low, high in intervals:
        if not low < high:
            raise ValueError(f"intervals must be (low, high) with low < high, got {low, high}")
    return tuple((float(low), float(high)) for low, high in intervals)


def _check_length(name: str, values: Sequence[object], num_levels: int) -> None:
    if len(values) != num_levels:
        raise ValueError(
            f"{name} must have one entry for each of the {num_levels} feature levels, "
            f"got {len(values)}: {list(values)}"
        )


def _inside(x: Tensor, y: Tensor, boxes: Tensor, low: float, high: float) -> Tensor:
    """(B, h, w) bool for pixel columns (w,), rows (h,) and boxes (B, n, 4)."""
    x1, y1, x2, y2 = boxes[:, None, None].unbind(-1)  # (B, 1, 1, n)
    left, right = x[None, None, :, None] - x1, x2 - x[None, None, :, None]
    top, bottom = y[None, :, None, None] - y1, y2 - y[None, :, None, None]
    nearest = torch.minimum(torch.minimum(left, right), torch.minimum(top, bottom))
    farthest = torch.maximum(torch.maximum(left, right), torch.maximum(top, bottom))
    return ((nearest > 0) & (farthest > low) & (farthest <= high)).any(-1)


def foreground_focal_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """(B,) focal loss of each image, summed over tokens, divided by its positives (equation 7).

    Of (B, N) logits and bool labels. For an image without positives the sum is divided by one.
    """
    loss = py_sigmoid_focal_loss(
        logits.float(), labels.float(), gamma=2.0, alpha=0.25, reduction="none"
    )
    return loss.sum(1) / labels.sum(1).clamp(min=1)
