"""The score MLP of Sparse DETR, which Focus-DETR and Salience DETR also use."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F


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

    def __init__(self, embed_dims: int = 256) -> None:
        super().__init__()
        if embed_dims % 4:
            raise ValueError(f"embed_dims must be a multiple of 4, got {embed_dims}")
        self.embed = nn.Sequential(
            nn.LayerNorm(embed_dims), nn.Linear(embed_dims, embed_dims), nn.GELU()
        )
        self.head = nn.Sequential(
            nn.Linear(embed_dims, embed_dims // 2),
            nn.GELU(),
            nn.Linear(embed_dims // 2, embed_dims // 4),
            nn.GELU(),
            nn.Linear(embed_dims // 4, 1),
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
