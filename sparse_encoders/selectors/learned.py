"""The base of selectors that learn to score tokens."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from sparse_encoders.contracts import DetectorParts
from sparse_encoders.selectors.base import Selector
from sparse_encoders.selectors.projection import TokenProjection
from sparse_encoders.selectors.score_mlp import ScoreMLP
from sparse_encoders.tokens import TokenGrid


class LearnedSelector(Selector):
    """A score MLP on projected tokens, z = LN(Linear(x + p)), trained by a loss.

    A two-stage detector lends its first stage's projection; for others the selector has its own
    (Sparse DETR, section 3.3; Focus-DETR, section 3.2). A subclass implements :meth:`score` with
    :meth:`project` and ``self.score_mlp``, and :meth:`loss` with ``self.loss_weight``.

    Args:
        *args, **kwargs: see :class:`Selector`.
        loss_weight: weight of the loss, not negative.

    Raises:
        ValueError: a negative ``loss_weight``; see also :class:`Selector`.
    """

    def __init__(self, *args: Any, loss_weight: float = 1.0, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if loss_weight < 0:
            raise ValueError(f"loss_weight must not be negative, got {loss_weight}")
        self.loss_weight = loss_weight
        self.score_mlp = ScoreMLP(self.embed_dims)
        self.projection = None if self.first_stage else TokenProjection(self.embed_dims)

    def project(self, tokens: TokenGrid, detector: DetectorParts) -> Tensor:
        """(B, N, C) z, with padding and out-of-range proposals zeroed before the projection.

        Raises:
            ValueError: neither the selector nor the detector has a projection.
        """
        projection = self.projection or detector.projection
        if projection is None:
            raise ValueError(
                f"{type(self).__name__} was built for a two-stage detector, but this detector has "
                "no first-stage projection; build the selector with first_stage=False"
            )
        x = tokens.features + tokens.pos_embed
        # the score MLP's mean over tokens would spread NaN features to every token
        zeroed = torch.where(tokens.unusable | tokens.broken, x.new_zeros(()), x)
        projected: Tensor = projection(zeroed)
        return projected
