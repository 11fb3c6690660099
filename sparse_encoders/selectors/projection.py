"""A selector's own stand-in for the first-stage projection."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from sparse_encoders.tokens import TokenGrid


class TokenProjection(nn.Module):
    """LN(Linear(x)), the shape of two-stage Deformable DETR's projection.

    Selectors share the detector's own where it has one (design of both
    Focus-DETR and Sparse DETR); one-stage detectors have none to share.
    """

    def __init__(self, embed_dims: int = 256) -> None:
        super().__init__()
        self.fc = nn.Linear(embed_dims, embed_dims)
        self.norm = nn.LayerNorm(embed_dims)

    def forward(self, tokens: Tensor) -> Tensor:
        """(B, N, C) to (B, N, C)."""
        return self.norm(self.fc(tokens))


def project_tokens(
    tokens: TokenGrid,
    own: TokenProjection | None,
    lent: Callable[[Tensor], Tensor] | None,
    selector: str,
) -> Tensor:
    """(B, N, C) z = LN(Linear(x + p)), with padding and out-of-range proposals zeroed first.

    Args:
        tokens: the batch.
        own: the selector's own projection, where it has one.
        lent: the detector's, else.
        selector: name of the selector, for the error.

    Raises:
        ValueError: there is neither.
    """
    projection = own or lent
    if projection is None:
        raise ValueError(
            f"{selector} was built for a two-stage detector, but this one lends no "
            "first-stage projection; build it with first_stage=False"
        )
    x = tokens.features + tokens.pos_embed
    # NaN features would reach every token by the score MLP's mean
    return projection(torch.where(tokens.unusable | tokens.broken, x.new_zeros(()), x))
