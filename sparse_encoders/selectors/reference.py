"""Selectors without parameters that bound a comparison: random tokens, and tokens inside boxes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from sparse_encoders.contracts import DetectorParts
from sparse_encoders.registry import MODELS
from sparse_encoders.selectors.by_level import LevelSelector
from sparse_encoders.supervision.foreground import ForegroundLabels, Intervals
from sparse_encoders.tokens import TokenGrid


@MODELS.register_module()
class RandomSelector(LevelSelector):
    """Keeps random tokens: the lower bound in a comparison of selectors.

    Args:
        *args, **kwargs: see :class:`LevelSelector`. With ``by_level=True`` it takes as many
            tokens of each level as Salience DETR, for a comparison of the scores alone.
        seed: at test time every call draws scores from this seed, the same for all images of
            the batch, so that an image's tokens depend on its (padded) size only. In training
            every call draws new scores for each image.

    Raises:
        ValueError: a seed that is not an integer of at least 0.
    """

    def __init__(self, *args: Any, seed: int = 0, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if isinstance(seed, bool) or not isinstance(seed, int) or seed < 0:
            raise ValueError(f"seed must be an integer of at least 0, got {seed!r}")
        self.seed = seed

    def score(self, tokens: TokenGrid, detector: DetectorParts) -> Tensor:
        """(B, N) uniform in [0, 1); see :meth:`Selector.score`."""
        shape, device = tokens.features.shape[:2], tokens.features.device
        if self.training:
            return torch.rand(shape, device=device)
        generator = torch.Generator(device).manual_seed(self.seed)
        drawn = torch.rand(shape[1:], generator=generator, device=device)
        return drawn.expand(shape)


@MODELS.register_module()
class OracleSelector(LevelSelector):
    """Keeps the tokens inside boxes: an upper bound, for evaluation only.

    It reads the boxes of the images in every forward pass, so it cannot predict on images without
    annotations. Tokens that are foreground by Focus-DETR's rule rank first, then the other tokens
    inside a box, then those outside, the nearest first. Inside a box, tokens far from its sides
    rank first.

    Args:
        *args, **kwargs: see :class:`LevelSelector`.
        intervals, strides: see :class:`ForegroundLabels`, also for their errors.
    """

    needs_boxes = True

    def __init__(
        self,
        *args: Any,
        intervals: str | Intervals = "non_overlapping",
        strides: Sequence[int] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        self.labels = ForegroundLabels(self.num_levels, intervals, strides)

    @torch.no_grad()
    def score(self, tokens: TokenGrid, detector: DetectorParts) -> Tensor:
        """(B, N): above 2 foreground, above 1 inside a box, negative outside.

        Raises:
            ValueError: missing boxes.
        """
        if detector.targets is None:
            raise ValueError(
                "OracleSelector needs the boxes of the images, but the detector gave none; use it "
                "for evaluation only, with annotations in the data samples"
            )
        boxes = detector.targets.boxes
        depth = self._depth(tokens, boxes)
        return depth + (depth > 0).float() + self.labels(tokens, boxes).float()

    def _depth(self, tokens: TokenGrid, boxes: Sequence[Tensor]) -> Tensor:
        """(B, N) distance to the nearest box side over the box's size, negative outside.

        At most 0.5, in a box's centre; -1e4 where the image has no box.
        """
        device = tokens.features.device
        padded = pad_sequence([b.reshape(-1, 4).to(device).float() for b in boxes], True)
        centres = [
            torch.cartesian_prod(
                torch.arange(h, device=device) * stride + stride // 2,
                torch.arange(w, device=device) * stride + stride // 2,
            )
            for (h, w), stride in zip(tokens.shapes, self.labels.strides, strict=True)
        ]
        y, x = torch.cat(centres)[None, :, None].unbind(-1)  # (1, N, 1)
        x1, y1, x2, y2 = padded[:, None].unbind(-1)  # (B, 1, n)
        width, height = (x2 - x1).clamp(min=1e-3), (y2 - y1).clamp(min=1e-3)
        across = torch.minimum(x - x1, x2 - x) / width
        along = torch.minimum(y - y1, y2 - y) / height
        depth = torch.minimum(across, along)
        # boxes of size 0 only pad the lists of images that have fewer boxes
        depth = depth.masked_fill((x2 <= x1) | (y2 <= y1), -1e4)
        if depth.shape[-1] == 0:
            return depth.new_full(tokens.features.shape[:2], -1e4)
        return depth.amax(-1).clamp(min=-1e4)
