"""The base of selectors that learn to score tokens, and the modules that it is made of."""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sparse_encoders.contracts import DetectorParts
from sparse_encoders.selectors.base import Selector
from sparse_encoders.tokens import TokenGrid


class TokenProjection(nn.Sequential):
    """LN(Linear(x)), of the same form as the first-stage projection of Deformable DETR."""

    def __init__(self, embed_dims: int) -> None:
        fc, norm = nn.Linear(embed_dims, embed_dims), nn.LayerNorm(embed_dims)
        super().__init__(OrderedDict(fc=fc, norm=norm))


class ScoreMLP(nn.Module):
    """One logit for each token, from the token and the mean over its set.

    LN, Linear C-C, GELU; the second half of the channels is replaced by its mean
    over the given tokens; Linear C-C/2, GELU, C/2-C/4, GELU, C/4-1 (Sparse DETR,
    section 3.3 and appendix A.1; Focus-DETR's MLP_F, section 3.2).

    Args:
        embed_dims: channels C, a multiple of 4.

    Raises:
        ValueError: C is not a multiple of 4.
    """

    def __init__(self, embed_dims: int) -> None:
        super().__init__()
        if embed_dims % 4:
            raise ValueError(f"embed_dims must be a multiple of 4, got {embed_dims}")
        half, quarter = embed_dims // 2, embed_dims // 4
        self.embed = nn.Sequential(
            nn.LayerNorm(embed_dims), nn.Linear(embed_dims, embed_dims), nn.GELU()
        )
        self.head = nn.Sequential(
            nn.Linear(embed_dims, half),
            nn.GELU(),
            nn.Linear(half, quarter),
            nn.GELU(),
            nn.Linear(quarter, 1),
        )

    def forward(self, tokens: Tensor, factor: Tensor | None = None) -> Tensor:
        """(B, n, C) tokens of one set (a level, or all levels) to (B, n) logits.

        Args:
            tokens: (B, n, C).
            factor: (B, n, 1) what the normalised tokens are multiplied with.
        """
        norm, linear, activation = self.embed.children()
        normed = norm(tokens)
        embedded = activation(linear(normed if factor is None else normed * factor))
        local, shared = embedded.chunk(2, dim=-1)
        # Linear(cat(local, mean)) = Linear_l(local) + Linear_m(mean), where Linear_m needs to be
        # computed for one row only
        first, *others = self.head.children()
        assert isinstance(first, nn.Linear)
        by_token, by_mean = first.weight.chunk(2, dim=1)
        offset = F.linear(shared.mean(1, keepdim=True), by_mean, first.bias)
        logits = F.linear(local, by_token) + offset
        for module in others:
            logits = module(logits)
        return logits.squeeze(-1)


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
