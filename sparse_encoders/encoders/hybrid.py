"""RT-DETR's hybrid encoder (Zhao et al., DETRs Beat YOLOs on Real-time Object Detection, 2024)."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint

from sparse_encoders.contracts import DetectorParts
from sparse_encoders.encoders.aifi import IntraScaleAttention
from sparse_encoders.encoders.base import Encoder, EncoderOutput
from sparse_encoders.encoders.fusion import CrossScaleFusion, without_averages
from sparse_encoders.encoders.none import with_pos_embed_gradient
from sparse_encoders.registry import MODELS
from sparse_encoders.shapes import split_dim
from sparse_encoders.tokens import TokenGrid

STEPS = 3  # attention, down, up
BLOCKS = 3  # of a fusion block, times depth_mult


@MODELS.register_module()
class HybridEncoder(Encoder):
    """Attention on the coarsest level and convolutions between levels, on all tokens.

    Three steps: self-attention among the cells of the coarsest level
    (:class:`IntraScaleAttention`), then convolutions from the coarsest level to the finest, and
    back (:class:`CrossScaleFusion`). The detector's own position embedding is not read. Padding is
    masked in the attention and zeroed before each convolution; in training it enters the statistics
    of batch norm.

    Args:
        num_levels: feature levels, any number.
        layer_cfg: MMDetection's encoder ``layer_cfg``, of which channels, heads and dropouts are
            used, but not the FFN's hidden channels.
        feedforward_channels: hidden channels of the attention layer's FFN.
        expansion: channels inside of the fusion blocks, as a share of C.
        depth_mult: round(3 * depth_mult) convolution blocks in each fusion block.
        position: 'rows', or 'released' for published weights, see :func:`sine_embedding`.
        norm_cfg: MMCV's config of the convolutions' norms; batch norm by default, as released. For
            batches of few images use ``dict(type='GN', num_groups=32)`` or 'SyncBN'.
        num_cp: see :class:`Encoder`; the three steps count as layers. Numbers above three mean all
            three, because a config may inherit the number of another encoder's layers.

    Raises:
        ValueError: an unknown ``position``, channels that are no multiple of 4, an ``expansion`` or
            ``depth_mult`` that gives no channels or blocks, groups that do not divide the channels;
            in :meth:`forward`, another number of levels, or batch norm in training on one cell.
    """

    def __init__(
        self,
        num_levels: int = 4,
        layer_cfg: dict[str, Any] | None = None,
        feedforward_channels: int = 1024,
        expansion: float = 1.0,
        depth_mult: float = 1.0,
        position: str = "rows",
        norm_cfg: dict[str, Any] | None = None,
        num_cp: int = 0,
        init_cfg: dict[str, Any] | None = None,
    ) -> None:
        num_cp = min(num_cp, STEPS) if type(num_cp) is int else num_cp
        super().__init__(STEPS, num_levels, layer_cfg, num_cp=num_cp, init_cfg=init_cfg)
        channels, norm = self.embed_dims, dict(norm_cfg or dict(type="BN"))
        hidden, depth = int(channels * expansion), round(BLOCKS * depth_mult)
        for name, given, count in (
            ("expansion", expansion, hidden),
            ("depth_mult", depth_mult, depth),
        ):
            if count < 1:
                raise ValueError(f"encoder.{name} is too small: no channels or blocks at {given}")
        groups = norm.get("num_groups", 1)
        if channels % groups or hidden % groups:
            raise ValueError(
                f"encoder.norm_cfg.num_groups must divide the {channels} channels of a token and "
                f"the {hidden} of a fusion block, got {groups}"
            )
        attention, ffn = self.layer_cfg["self_attn_cfg"], self.layer_cfg["ffn_cfg"]
        self.attention = IntraScaleAttention(
            channels,
            attention.get("num_heads", 8),
            feedforward_channels,
            attention["dropout"],
            ffn["ffn_drop"],
            position,
        )
        self.fusion = CrossScaleFusion(channels, num_levels, hidden, depth, norm)

    def init_own_weights(self) -> None:
        """Torch's own initialisation of convolutions, as released."""
        for module in self.fusion.modules():
            if isinstance(module, nn.Conv2d):
                module.reset_parameters()

    def forward(self, tokens: TokenGrid, detector: DetectorParts) -> EncoderOutput:
        """Attention, then top-down and bottom-up fusion; see :meth:`Encoder.forward`."""
        self._check_tokens(tokens)
        maps, padding = to_maps(tokens)
        coarsest = self.run_layer(0, self.attention, maps[-1], padding[-1])
        maps = self.run_layer(1, self.fusion.fuse_top_down, [*maps[:-1], coarsest], padding)
        maps = self.run_layer(2, self.fusion.fuse_bottom_up, maps, padding)
        memory = torch.cat([m.flatten(2).transpose(1, 2) for m in maps], 1)
        if self.training:
            memory = with_pos_embed_gradient(memory, tokens)
        return EncoderOutput(memory, tokens)

    def run_layer(self, index: int, call: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """See :meth:`Encoder.run_layer`; a second run leaves batch norm's averages as they are."""
        if index < self.num_cp and torch.is_grad_enabled():
            return checkpoint(
                call,
                *args,
                use_reentrant=False,
                context_fn=lambda: (nullcontext(), without_averages(self.fusion)),
                **kwargs,
            )
        return call(*args, **kwargs)

    def refined_levels(self, layer: int) -> range:
        """Attention: the coarsest level; top-down: all levels; bottom-up: all but the finest."""
        return range((self.num_levels - 1, 0, 1)[layer], self.num_levels)

    def _check_tokens(self, tokens: TokenGrid) -> None:
        self.check_levels(tokens)
        norms = [m for m in self.fusion.modules() if isinstance(m, _BatchNorm)]
        cells = tokens.features.shape[0] * tokens.level_sizes[-1]
        if cells == 1 and any(norm.training for norm in norms):
            raise ValueError(
                "encoder.norm_cfg: batch norm cannot be trained on one image whose coarsest level "
                "is a single cell; take larger images or batches, or "
                "norm_cfg=dict(type='GN', num_groups=32)"
            )


def to_maps(tokens: TokenGrid) -> tuple[list[Tensor], list[Tensor | None]]:
    """Per level the (B, C, h, w) map, and its (B, 1, h, w) bool padding or None."""
    maps: list[Tensor] = []
    padding: list[Tensor | None] = []
    mask = tokens.padding_mask
    for shape, part in zip(tokens.shapes, tokens.level_slices, strict=True):
        maps.append(split_dim(tokens.features[:, part].transpose(1, 2), 2, shape))
        padding.append(None if mask is None else split_dim(mask[:, None, part], 2, shape))
    return maps, padding
