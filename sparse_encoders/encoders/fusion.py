"""RT-DETR's fusion of levels by convolutions, CCFM (Zhao et al., CVPR 2024, section 4.2).

Maps are (B, C, h, w), finest level first; ``padding`` is (B, 1, h, w) bool, True where padded, or
None; ``norm_cfg`` is MMCV's config of the norms. Padded cells are zeroed before every convolution,
so that valid cells do not depend on the content of padding.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from mmcv.cnn import ConvModule
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm

NormConfig = dict[str, Any]


def zero_padding(x: Tensor, padding: Tensor | None) -> Tensor:
    """``x`` with zeros where ``padding`` is True; as it is without padding."""
    return x if padding is None else x.masked_fill(padding, 0.0)


def convolution(
    in_channels: int, channels: int, size: int, norm_cfg: NormConfig, stride: int = 1
) -> ConvModule:
    """Convolution without bias, norm, SiLU."""
    return ConvModule(
        in_channels,
        channels,
        size,
        stride=stride,
        padding=size // 2,
        norm_cfg=norm_cfg,
        act_cfg=dict(type="SiLU"),
    )


class RepBlock(nn.Module):
    """SiLU(norm(3x3 convolution) + norm(1x1 convolution)), RepVGG's block without the identity."""

    def __init__(self, channels: int, norm_cfg: NormConfig) -> None:
        super().__init__()
        self.neighbours = ConvModule(
            channels, channels, 3, padding=1, norm_cfg=norm_cfg, act_cfg=None
        )
        self.cell = ConvModule(channels, channels, 1, norm_cfg=norm_cfg, act_cfg=None)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, h, w) to the same shape."""
        return F.silu(self.neighbours(x) + self.cell(x))


class CSPRep(nn.Module):
    """out(blocks(deep(x)) + shallow(x)): the fusion block of figure 5.

    Args:
        channels: C of the output; the input has 2 C.
        hidden: channels of both branches; if they are C, ``out`` is the identity.
        depth: number of :class:`RepBlock` in the deep branch.
    """

    def __init__(self, channels: int, hidden: int, depth: int, norm_cfg: NormConfig) -> None:
        super().__init__()
        self.deep = convolution(2 * channels, hidden, 1, norm_cfg)
        self.shallow = convolution(2 * channels, hidden, 1, norm_cfg)
        self.blocks = nn.ModuleList(RepBlock(hidden, norm_cfg) for _ in range(depth))
        self.out = None if hidden == channels else convolution(hidden, channels, 1, norm_cfg)

    def forward(self, x: Tensor, padding: Tensor | None) -> Tensor:
        """(B, 2 C, h, w) to (B, C, h, w)."""
        x = zero_padding(x, padding)
        deep = self.deep(x)
        for block in self.blocks:
            deep = block(zero_padding(deep, padding))
        fused = deep + self.shallow(x)
        return fused if self.out is None else self.out(zero_padding(fused, padding))


class CrossScaleFusion(nn.Module):
    """CCFM: from the coarsest level to the finest, and back (figures 4 and 5).

    Maps are resampled to a level's size if it is not exactly half of the finer level's.

    Args:
        channels: C of every level.
        num_levels: feature levels.
        hidden: channels inside of a :class:`CSPRep`.
        depth: blocks in each of them.
    """

    def __init__(
        self, channels: int, num_levels: int, hidden: int, depth: int, norm_cfg: NormConfig
    ) -> None:
        super().__init__()
        steps = range(num_levels - 1)
        # in the order of the steps: lateral and top_down from the coarsest level on
        self.lateral = nn.ModuleList(convolution(channels, channels, 1, norm_cfg) for _ in steps)
        self.top_down = nn.ModuleList(CSPRep(channels, hidden, depth, norm_cfg) for _ in steps)
        self.down = nn.ModuleList(convolution(channels, channels, 3, norm_cfg, 2) for _ in steps)
        self.bottom_up = nn.ModuleList(CSPRep(channels, hidden, depth, norm_cfg) for _ in steps)

    def fuse_top_down(
        self, maps: Sequence[Tensor], padding: Sequence[Tensor | None]
    ) -> list[Tensor]:
        """Fuse each level with the next coarser one, from the coarsest on.

        Each coarser map is replaced by the output of its lateral convolution.
        """
        fused = list(maps)
        for step, (lateral, block) in enumerate(zip(self.lateral, self.top_down, strict=True)):
            coarse = len(maps) - 1 - step
            fine = coarse - 1
            fused[coarse] = lateral(zero_padding(fused[coarse], padding[coarse]))
            upsampled = F.interpolate(fused[coarse], size=maps[fine].shape[-2:], mode="nearest")
            fused[fine] = block(torch.cat([upsampled, maps[fine]], 1), padding[fine])
        return fused

    def fuse_bottom_up(
        self, maps: Sequence[Tensor], padding: Sequence[Tensor | None]
    ) -> list[Tensor]:
        """Fuse each level with the next finer one, from the finest on."""
        fused = list(maps)
        for fine, (down, block) in enumerate(zip(self.down, self.bottom_up, strict=True)):
            coarse = fine + 1
            smaller = down(zero_padding(fused[fine], padding[fine]))
            size = maps[coarse].shape[-2:]
            if smaller.shape[-2:] != size:
                smaller = F.interpolate(smaller, size=size, mode="nearest")
            fused[coarse] = block(torch.cat([smaller, maps[coarse]], 1), padding[coarse])
        return fused


@contextmanager
def without_averages(module: nn.Module) -> Iterator[None]:
    """Inside, batch norms leave their running averages, and the number of batches, as they are."""
    norms: list[Any] = [m for m in module.modules() if isinstance(m, _BatchNorm)]
    before = [(norm, norm.momentum, norm.num_batches_tracked) for norm in norms]
    for norm in norms:
        norm.momentum, norm.num_batches_tracked = 0.0, None
    try:
        yield
    finally:
        for norm, momentum, batches in before:
            norm.momentum, norm.num_batches_tracked = momentum, batches
