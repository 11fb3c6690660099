"""RT-DETR's attention within the coarsest level, AIFI (Zhao et al., CVPR 2024, section 4.2)."""

from __future__ import annotations

import torch
from mmdet.models.layers import DetrTransformerEncoderLayer
from torch import Tensor, nn

from sparse_encoders.shapes import split_dim

POSITIONS = ("rows", "released")


class IntraScaleAttention(nn.Module):
    """A transformer layer over the cells of one map, with padding masked.

    Args:
        channels: C, a multiple of 4.
        num_heads: attention heads.
        feedforward_channels: hidden channels of the FFN (GELU).
        dropout: of the attention and its output.
        ffn_drop: dropout of the FFN.
        position: see :func:`sine_embedding`.

    Raises:
        ValueError: an unknown ``position``, or C is no multiple of 4.
    """

    def __init__(
        self,
        channels: int,
        num_heads: int = 8,
        feedforward_channels: int = 1024,
        dropout: float = 0.0,
        ffn_drop: float = 0.0,
        position: str = "rows",
    ) -> None:
        super().__init__()
        if position not in POSITIONS:
            raise ValueError(f"encoder.position must be one of {POSITIONS}, got {position!r}")
        if channels % 4:
            raise ValueError(f"embed_dims must be a multiple of 4, got {channels}")
        self.channels = channels
        self.position = position
        self.layer = DetrTransformerEncoderLayer(
            self_attn_cfg=dict(
                embed_dims=channels,
                num_heads=num_heads,
                attn_drop=dropout,
                proj_drop=dropout,
                batch_first=True,
            ),
            ffn_cfg=dict(
                embed_dims=channels,
                feedforward_channels=feedforward_channels,
                ffn_drop=ffn_drop,
                act_cfg=dict(type="GELU"),
            ),
        )

    def forward(self, cells: Tensor, padding: Tensor | None) -> Tensor:
        """(B, C, h, w) and (B, 1, h, w) bool padding, or None, to (B, C, h, w)."""
        h, w = cells.shape[-2:]
        embedding = sine_embedding(h, w, self.channels, self.position, cells.device)
        refined: Tensor = self.layer(
            query=cells.flatten(2).transpose(1, 2),
            query_pos=embedding.to(cells.dtype),
            key_padding_mask=None if padding is None else padding.flatten(1),
        )
        return split_dim(refined.transpose(1, 2), 2, (h, w))


def sine_embedding(
    h: int, w: int, channels: int, position: str, device: torch.device | None = None
) -> Tensor:
    """(1, h * w, C) sine position embedding of a map whose tokens are flattened row by row.

    The channels of a token are sin and cos of its column, then of its row, times
    10000^(-k / (C / 4)) for k = 0, ..., C / 4 - 1.

    With ``position='rows'`` every token has the embedding of its own row and column. With
    'released', token n has that of row n % h and column n // h, because the released code flattens
    the embedding column by column and the tokens row by row. C is a multiple of 4.
    """
    number = torch.arange(h * w, dtype=torch.float32, device=device)
    if position == "rows":
        row, column = (number / w).floor(), number % w
    else:
        column, row = (number / h).floor(), number % h
    quarter = channels // 4
    frequency = 10000.0 ** -(torch.arange(quarter, dtype=torch.float32, device=device) / quarter)
    across, along = column[:, None] * frequency, row[:, None] * frequency
    return torch.cat([across.sin(), across.cos(), along.sin(), along.cos()], 1)[None]
