"""A selector's own projection, for detectors without a first stage."""

from __future__ import annotations

from torch import Tensor, nn


class TokenProjection(nn.Module):
    """LN(Linear(x)), of the same form as the first-stage projection of Deformable DETR."""

    def __init__(self, embed_dims: int = 256) -> None:
        super().__init__()
        self.fc = nn.Linear(embed_dims, embed_dims)
        self.norm = nn.LayerNorm(embed_dims)

    def forward(self, tokens: Tensor) -> Tensor:
        """(B, N, C) to (B, N, C)."""
        projected: Tensor = self.norm(self.fc(tokens))
        return projected
