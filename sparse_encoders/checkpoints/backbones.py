"""MMDetection's configs of released backbones, from the shapes of their tensors."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

Shapes = Mapping[str, Sequence[int]]

# blocks of a ResNet's third stage to its depth
RESNET_DEPTHS = {6: 50, 23: 101, 36: 152}
RESNET_CHANNELS = (256, 512, 1024, 2048)
SWIN_SIGN = "patch_embed.proj.weight"


def neck_channels(shapes: Shapes) -> list[int]:
    """Channels of the backbone's outputs, finest first: inputs of the neck's 1 x 1 projections.

    Raises:
        ValueError: there is no such projection.
    """
    channels: dict[int, int] = {}
    for name, shape in shapes.items():
        match = re.fullmatch(r"(?:input_proj\.(\d+)\.0|neck\.convs\.(\d+)\.conv)\.weight", name)
        if match and tuple(shape[2:]) == (1, 1):
            channels[int(match[1] or match[2])] = shape[1]
    if not channels:
        raise ValueError("there is no 1 x 1 projection (input_proj.N.0 or neck.convs.N.conv)")
    return [channels[index] for index in sorted(channels)]


def swin_prefix(names: Mapping[str, Any]) -> str | None:
    """Prefix of the names of a Swin Transformer; None if there is none."""
    return next((n.removesuffix(SWIN_SIGN) for n in names if n.endswith(SWIN_SIGN)), None)


def backbone_config(shapes: Shapes) -> dict[str, Any]:
    """MMDetection's config of a backbone with the released shapes.

    Raises:
        ValueError: neither a ResNet of 50, 101 or 152 layers nor a Swin Transformer.
    """
    channels = neck_channels(shapes)
    prefix = swin_prefix(shapes)
    if prefix is not None:
        return _swin_config({k.removeprefix(prefix): v for k, v in shapes.items()}, channels)
    third_stage = r"^backbone\.(?:0\.body\.layer3|res4)\.(\d+)\."
    blocks = set(re.findall(third_stage, "\n".join(shapes), re.MULTILINE))
    depth = RESNET_DEPTHS.get(len(blocks))
    if depth is None or any(c not in RESNET_CHANNELS for c in channels):
        raise ValueError(
            f"the backbone is not a ResNet of {sorted(RESNET_DEPTHS.values())} layers or a Swin "
            f"Transformer: {len(blocks)} blocks in its third stage, outputs of {channels} channels"
        )
    return dict(
        type="ResNet",
        depth=depth,
        num_stages=4,
        out_indices=tuple(RESNET_CHANNELS.index(c) for c in channels),
        frozen_stages=1,
        norm_cfg=dict(type="BN", requires_grad=False),
        norm_eval=True,
        style="pytorch",
    )


def _swin_config(shapes: Shapes, channels: Sequence[int]) -> dict[str, Any]:
    """The config of a Swin Transformer, from shapes by its own names."""
    dims = shapes[SWIN_SIGN][0]
    blocks = re.findall(r"layers\.(\d+)\.blocks\.(\d+)\.norm1\.weight", " ".join(shapes))
    stages = sorted({int(stage) for stage, _ in blocks})
    # (2 * window size - 1)^2 rows and a column for each head
    tables = [
        shapes[f"layers.{stage}.blocks.0.attn.relative_position_bias_table"] for stage in stages
    ]
    widths = [dims * 2**stage for stage in stages]
    if any(c not in widths for c in channels):
        raise ValueError(
            f"a Swin Transformer of {widths} channels cannot give outputs of {channels}"
        )
    return dict(
        type="SwinTransformer",
        embed_dims=dims,
        depths=[len({b for s, b in blocks if int(s) == stage}) for stage in stages],
        num_heads=[table[1] for table in tables],
        window_size=(round(tables[0][0] ** 0.5) + 1) // 2,
        patch_norm="patch_embed.norm.weight" in shapes,
        out_indices=tuple(widths.index(c) for c in channels),
        drop_path_rate=0.2,
    )
