"""What travels between a detector and its encoder.

Kept apart from both so that imports point one way: detectors know encoders,
encoders know selectors, and all of them know these two small records.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from torch import Tensor

CategoryHead = Callable[[Tensor], Tensor]
DetectionLoss = Callable[[Tensor, Tensor], tuple[Tensor, Tensor, Tensor]]
"""(B, K, classes) logits and (B, K, 4) boxes, as (cx, cy, w, h) shares of the image, to the class,
box and IoU losses: matched to the ground truth of the batch like one decoder layer's."""


@dataclass(frozen=True)
class DetectorParts:
    """What a detector lends to its encoder for the length of one call.

    Lent as callables and never stored, so that no parameter appears twice in a
    state dict.

    Attributes:
        projection: the first stage's LayerNorm(Linear(.)) on (B, N, C); None in
            a detector without a first stage.
        category_head: encoder layer index -> head giving (B, K, classes) logits
            for (B, K, C) tokens; None where the detector has none to lend.
        targets: boxes of the images, lent to a selector that cannot do without
            them (:attr:`Selector.needs_boxes`); None otherwise.
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
        attention_map: (B, N) how much the decoder looked at each token, for a
            selector that learns from it (:attr:`Selector.learns_from_decoder`).
    """

    boxes: Sequence[Tensor]
    labels: Sequence[Tensor]
    attention_map: Tensor | None = None
