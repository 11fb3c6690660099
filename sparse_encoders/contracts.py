"""Records that a detector passes to its encoder; detectors, encoders and selectors import them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from torch import Tensor

CategoryHead = Callable[[Tensor], Tensor]
DetectionLoss = Callable[[Tensor, Tensor], tuple[Tensor, Tensor, Tensor]]
"""Function of (B, K, classes) logits and (B, K, 4) boxes, (cx, cy, w, h) as shares of the image,
that returns the class, box and IoU losses, with the matching of a decoder layer."""


@dataclass(frozen=True)
class DetectorParts:
    """Parts of a detector that its encoder may use during one call.

    They are passed as functions and never stored, so that no parameter appears twice in a
    state dict.

    Attributes:
        projection: the first stage's LayerNorm(Linear(.)), (B, N, C) to (B, N, C); None
            for a detector without a first stage.
        category_head: maps the index of an encoder layer to a head, (B, K, C) tokens to
            (B, K, classes) logits; None if the detector has no such head.
        targets: boxes of the images, for a selector with :attr:`Selector.needs_boxes`.
    """

    projection: Callable[[Tensor], Tensor] | None = None
    category_head: Callable[[int], CategoryHead] | None = None
    targets: Targets | None = None


@dataclass(frozen=True)
class Targets:
    """Ground truth of a batch, in pixels of the batched (resized, padded) input.

    Attributes:
        boxes: per image (n, 4) as (x1, y1, x2, y2).
        labels: per image (n,) int64 class indices.
        attention_map: (B, N) float32 decoder attention map, for a selector with
            :attr:`Selector.learns_from_decoder`; None otherwise.
    """

    boxes: Sequence[Tensor]
    labels: Sequence[Tensor]
    attention_map: Tensor | None = None
