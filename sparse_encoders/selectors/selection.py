"""The output of a selector: token indices, in tensors whose sizes are known on the host.

The tokens that the layers of an encoder then refine are in
:attr:`sparse_encoders.encoders.EncoderOutput.layers`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from sparse_encoders.selectors.rows import gather_rows, scatter_rows
from sparse_encoders.tokens import TokenGrid


@dataclass(frozen=True)
class LayerSelection:
    """The tokens that one encoder layer refines.

    Attributes:
        indices: (B, K) int64 token indices. K is the same for every image and known
            on the host.
        kept: (B, K) bool, True where the layer's result is written back. An image that
            keeps fewer than K tokens has False in its last rows.
        taken: (B, K) bool, True where a token takes part in the layer. With numbers counted over
            the batch, an image takes as many tokens as the batch's largest image keeps, as in
            the released Focus-DETR; otherwise the same as ``kept``.
        all_kept: True if the host knows that all of ``kept`` and ``taken`` is True.
    """

    indices: Tensor
    kept: Tensor
    taken: Tensor
    all_kept: bool = False

    @classmethod
    def concat(cls, parts: Sequence[LayerSelection]) -> LayerSelection:
        """Concatenate selections that have no token in common."""
        if len(parts) == 1:
            return parts[0]
        return cls(
            torch.cat([part.indices for part in parts], 1),
            torch.cat([part.kept for part in parts], 1),
            torch.cat([part.taken for part in parts], 1),
            all(part.all_kept for part in parts),
        )

    @classmethod
    def from_ranking(
        cls,
        ranked: Tensor,
        sizes: Sequence[int],
        limits: Sequence[Tensor],
        num_foreground: Tensor,
        all_kept: bool,
        allowed: Tensor | None = None,
    ) -> tuple[LayerSelection, ...]:
        """One selection for each layer: the first rows of a ranking.

        Args:
            ranked: (B, K) int64 token indices, best first.
            sizes: K of each layer, on the host; none is larger than the ranking's.
            limits: for each layer (B,) int64, how many of its rows are ``taken``.
            num_foreground: (B,) int64; rows of an image from this rank on are not ``kept``.
            all_kept: whether all limits and num_foreground equal the sizes.
            allowed: (B, K) bool, False for rows that are never ``kept``; None: all may be.
        """
        layers = []
        for size, limit in zip(sizes, limits, strict=True):
            rank = torch.arange(size, device=ranked.device)
            taken = rank < limit.unsqueeze(1)
            kept = taken & (rank < num_foreground.unsqueeze(1))
            if allowed is not None:
                kept = kept & allowed[:, :size]
            layers.append(cls(ranked[:, :size], kept, taken, all_kept))
        return tuple(layers)

    @property
    def size(self) -> int:
        """K."""
        return self.indices.shape[1]

    def gather(self, tokens: Tensor) -> Tensor:
        """(B, K, C) rows of (B, N, C), or (B, K) entries of (B, N)."""
        if tokens.dim() == 2:
            return tokens.gather(1, self.indices)
        return gather_rows(tokens, self.indices)

    def scatter(self, tokens: Tensor, rows: Tensor) -> Tensor:
        """(B, N, C) ``tokens`` with the K tokens replaced by (B, K, C) ``rows``."""
        return scatter_rows(tokens, self.indices, rows)

    def scatter_kept(self, tokens: Tensor, new: Tensor) -> Tensor:
        """(B, N, C) ``tokens`` with the kept ones replaced by (B, K, C) ``new``."""
        new = new.to(tokens.dtype)
        if self.all_kept:
            return self.scatter(tokens, new)
        return self.scatter(tokens, self.where(new, self.gather(tokens)))

    def where(self, new: Tensor, old: Tensor) -> Tensor:
        """(B, K, C) ``new`` where a token is kept, ``old`` elsewhere."""
        return new if self.all_kept else torch.where(self.kept.unsqueeze(-1), new, old)

    def mask(self, num_tokens: int, carried: bool = False) -> Tensor:
        """(B, N) bool, True where a token is kept or, with ``carried``, taken."""
        blank = torch.zeros(
            self.indices.shape[0], num_tokens, dtype=torch.bool, device=self.indices.device
        )
        return blank.scatter(1, self.indices, self.taken if carried else self.kept)


@dataclass(frozen=True)
class TokenRange(LayerSelection):
    """All tokens from index ``start`` on, gathered as a view.

    As in a dense encoder, padding is refined, too, but it is not ``kept``.
    """

    start: int = 0

    @classmethod
    def of(cls, tokens: TokenGrid, start: int) -> TokenRange:
        """The tokens of a batch from index ``start`` on."""
        batch, device = tokens.features.shape[0], tokens.features.device
        indices = torch.arange(start, tokens.num_tokens, device=device).expand(batch, -1)
        mask = tokens.padding_mask
        kept = torch.ones_like(indices, dtype=torch.bool) if mask is None else ~mask[:, start:]
        return cls(indices, kept, kept, mask is None, start)

    def gather(self, tokens: Tensor) -> Tensor:
        """(B, K, C) of (B, N, C)."""
        return tokens[:, self.start :]

    def scatter_kept(self, tokens: Tensor, new: Tensor) -> Tensor:
        """(B, N, C) ``tokens`` with those of the range replaced by (B, K, C) ``new``."""
        if self.start == 0:
            return new
        return torch.cat([tokens[:, : self.start].to(new.dtype), new], 1)


@dataclass(frozen=True)
class GroupSelection:
    """The kept tokens of a group of levels, which are ranked together.

    Attributes:
        levels: neighbouring feature levels.
        layers: for each encoder layer the tokens of these levels that it keeps, as
            indices into all N tokens, highest score first. All layers share one
            ranking: the indices of a layer are the first ones of the layer before it.
        num_foreground: (B,) int64 foreground tokens of each image on these levels,
            before any cascade.
        max_foreground: upper bound of ``num_foreground``, known on the host.
    """

    levels: range
    layers: tuple[LayerSelection, ...]
    num_foreground: Tensor
    max_foreground: int


@dataclass(frozen=True)
class Selection:
    """The output of a selector for one batch.

    Attributes:
        groups: the kept tokens of each group of levels, finest group first. Together
            the groups hold every level once; most encoders have one group.
        logits: (B, N) scores with their gradient, for the selector's loss.
        scores: (B, N) float32 scores without gradient, for encoders. Padding and NaN have
            the smallest score of their image, or of the batch if numbers are counted over it.
    """

    groups: tuple[GroupSelection, ...]
    logits: Tensor
    scores: Tensor
