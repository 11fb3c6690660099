"""All tokens of a batch, from which each layer's rows are gathered and to which they go back."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from sparse_encoders.selectors.selection import LayerSelection
from sparse_encoders.shapes import split_dim
from sparse_encoders.tokens import TokenGrid


@dataclass(frozen=True)
class Rows:
    """The K tokens of each image that a layer refines.

    Attributes:
        chosen: indices of these tokens.
        query: (B, K, C) output of the layer before, also for tokens that it did not keep.
        memory: (B, K, C) rows of the memory: output of the last layer that kept the token, or
            the encoder's input if none did.
        pos_embed: (B, K, C) position plus level embedding.
        reference_points: (B, K, L, 2), see :attr:`TokenGrid.reference_points`.
    """

    chosen: LayerSelection
    query: Tensor
    memory: Tensor
    pos_embed: Tensor
    reference_points: Tensor


class TokenMemory:
    """Gathers the rows of each layer from all tokens; ``layers`` may refine any tokens."""

    def __init__(self, tokens: TokenGrid, layers: Sequence[LayerSelection]) -> None:
        self.tokens, self.layers = tokens, layers
        self.features = tokens.features

    def rows(self, index: int) -> Rows:
        """What layer ``index`` refines."""
        chosen = self.layers[index]
        query = chosen.gather(self.features)
        return Rows(chosen, query, query, *_geometry(chosen, self.tokens))

    def write(self, index: int, refined: Tensor) -> None:
        """Replace what layer ``index`` keeps by (B, K, C) ``refined``."""
        self.features = self.layers[index].scatter_kept(self.features, refined)

    def all_tokens(self) -> Tensor:
        """(B, N, C) all tokens, with the rows that layers wrote."""
        return self.features


class RankedMemory(TokenMemory):
    """Gathers once, for layers that each refine the first rows of what the layer before refined.

    Rows stay in the order of the ranking and are scattered only in :meth:`all_tokens`.
    """

    def __init__(self, tokens: TokenGrid, layers: Sequence[LayerSelection]) -> None:
        super().__init__(tokens, layers)
        self.query = self.kept = layers[0].gather(tokens.features)
        self.geometry = _geometry(layers[0], tokens)
        self.dropped: list[Tensor] = []  # rows that no later layer refines, latest first
        self.written = False

    def rows(self, index: int) -> Rows:
        """What layer ``index`` refines; to be called for the layers in order."""
        size = self.layers[index].size
        if size < self.kept.shape[1]:
            self.dropped.insert(0, self.kept[:, size:])
            self.query, self.kept = self.query[:, :size], self.kept[:, :size]
        pos_embed, points = (x[:, :size] for x in self.geometry)
        return Rows(self.layers[index], self.query, self.kept, pos_embed, points)

    def write(self, index: int, refined: Tensor) -> None:
        """Replace what layer ``index`` keeps by (B, K, C) ``refined``."""
        self.query, self.written = refined, True
        self.kept = self.layers[index].where(refined.to(self.kept.dtype), self.kept)

    def all_tokens(self) -> Tensor:
        """(B, N, C) all tokens, with the rows that layers wrote."""
        if not self.written:
            return self.features
        rows = torch.cat([self.kept, *self.dropped], 1) if self.dropped else self.kept
        return self.layers[0].scatter(self.features, rows)


def _geometry(chosen: LayerSelection, tokens: TokenGrid) -> tuple[Tensor, Tensor]:
    """Position embedding and reference points of the chosen tokens."""
    points = chosen.gather(tokens.reference_points.flatten(2))
    return chosen.gather(tokens.pos_embed), split_dim(points, 2, (tokens.num_levels, 2))
