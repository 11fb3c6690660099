"""Salience DETR's embedding of the background (Hou et al., CVPR 2024, section 3.3)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sparse_encoders.selectors.selection import LayerSelection
from sparse_encoders.tokens import TokenGrid

BACKGROUNDS = ("released", "never_kept", None)


class BackgroundEmbedding(nn.Module):
    """Adds a learned embedding of its cell to every token that was not refined.

    A token in row i and column j of its level gets (columns[j], rows[i]); all levels share
    the two tables. For a level with more rows or columns than a table has, the table is
    interpolated to that size.

    Args:
        embed_dims: channels C.
        cells: entries of each table, 200 as released.
        where: 'released', tokens outside of the last layer's selection, also those that an
            earlier layer refined; or 'never_kept', tokens that no layer kept. Padding gets no
            embedding.

    Raises:
        ValueError: an odd number of channels, fewer than one cell.
    """

    def __init__(self, embed_dims: int, cells: int = 200, where: str = "released") -> None:
        super().__init__()
        if embed_dims % 2:
            raise ValueError(f"embed_dims must be even, got {embed_dims}")
        if cells < 1:
            raise ValueError(f"encoder.background_cells must be at least 1, got {cells}")
        self.where = where
        self.rows = nn.Parameter(torch.empty(cells, embed_dims // 2))
        self.columns = nn.Parameter(torch.empty(cells, embed_dims // 2))
        self.init_weights()

    def init_weights(self) -> None:
        """Uniform in (0, 1), as released."""
        nn.init.uniform_(self.rows)
        nn.init.uniform_(self.columns)

    def forward(
        self, memory: Tensor, tokens: TokenGrid, layers: Sequence[LayerSelection]
    ) -> Tensor:
        """(B, N, C) memory with the embedding added.

        ``layers`` are the tokens that each encoder layer refined; every layer keeps a subset of
        what the layer before it keeps.
        """
        if self.where == "released":
            without = layers[-1].mask(tokens.num_tokens, carried=True)
        else:
            without = layers[0].mask(tokens.num_tokens)
        if tokens.padding_mask is not None:
            without = without | tokens.padding_mask
        embedding = torch.cat([self._level(h, w) for h, w in tokens.shapes]).to(memory.dtype)
        return memory + embedding * (~without).unsqueeze(-1)

    def _level(self, h: int, w: int) -> Tensor:
        """(h * w, C), row by row."""
        rows, columns = _table(self.rows, h), _table(self.columns, w)
        grid = [columns.expand(h, -1, -1), rows.unsqueeze(1).expand(-1, w, -1)]
        return torch.cat(grid, -1).flatten(0, 1)


def _table(table: Tensor, cells: int) -> Tensor:
    """(cells, C / 2), the first entries of the table, or a shorter table interpolated."""
    if cells <= table.shape[0]:
        return table[:cells]
    wide = F.interpolate(table.T[None], size=cells, mode="linear", align_corners=True)
    return wide[0].T
