"""Configs of the released models, read off their parameters' shapes."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

Shapes = Mapping[str, Sequence[int]]

HOSTS = {
    "dino": "DINO",
    "focus_dino": "DINO",
    "lite_dino": "DINO",
    "dn_deformable_detr": "DNDETR",
    "h_deformable_detr": "HDETR",
    "sparse_deformable_detr": "DeformableDETR",
}
HEADS = {
    "DINO": "DINOHead",
    "DNDETR": "DINOHead",
    "HDETR": "HDETRHead",
    "DeformableDETR": "DeformableDETRHead",
}

# of the sine embedding, where a config does not say: Deformable DETR's repository takes
# the centres of cells, DINO's their ends
POSITION_OFFSETS = {"sparse_deformable_detr": -0.5}


def model_config(family: str, config: Mapping[str, Any], shapes: Shapes) -> dict[str, Any]:
    """MMDetection config of a released ResNet-50 model.

    Args:
        family: a key of :data:`HOSTS`.
        config: ``num_classes``, ``num_queries``, ``position_temperature``,
            ``position_offset``, ``max_per_img`` and what the family's encoder takes.
        shapes: released parameter name to shape; layers and hidden channels follow.

    Raises:
        ValueError: an unknown family.
    """
    if family not in HOSTS:
        raise ValueError(f"no config is known of family {family!r}; accepted: {sorted(HOSTS)}")
    host = HOSTS[family]
    dims, levels = _dims_and_levels(shapes)
    ffn = dict(embed_dims=dims, ffn_drop=0.0)
    model: dict[str, Any] = dict(
        type=f"sparse_encoders.{host}",
        num_queries=config["num_queries"],
        with_box_refine=True,
        as_two_stage=host != "DNDETR",
        num_feature_levels=levels,
        backbone=dict(
            type="ResNet",
            depth=50,
            num_stages=4,
            out_indices=(1, 2, 3),
            frozen_stages=1,
            norm_cfg=dict(type="BN", requires_grad=False),
            norm_eval=True,
            style="pytorch",
        ),
        neck=dict(
            type="ChannelMapper",
            in_channels=[512, 1024, 2048],
            kernel_size=1,
            out_channels=dims,
            bias=True,  # the released necks keep it before their norm
            act_cfg=None,
            norm_cfg=dict(type="GN", num_groups=32),
            num_outs=levels,
        ),
        encoder=dict(
            num_layers=_layers(shapes, "encoder"),
            layer_cfg=dict(
                self_attn_cfg=dict(embed_dims=dims, num_levels=levels, dropout=0.0),
                ffn_cfg=dict(ffn, feedforward_channels=_hidden(shapes, "encoder")),
            ),
        ),
        decoder=dict(
            num_layers=_layers(shapes, "decoder"),
            return_intermediate=True,
            layer_cfg=dict(
                self_attn_cfg=dict(embed_dims=dims, num_heads=8, dropout=0.0),
                cross_attn_cfg=dict(embed_dims=dims, num_levels=levels, dropout=0.0),
                ffn_cfg=dict(ffn, feedforward_channels=_hidden(shapes, "decoder")),
            ),
            post_norm_cfg=None,
        ),
        positional_encoding=dict(
            num_feats=dims // 2,
            normalize=True,
            offset=config.get("position_offset", POSITION_OFFSETS.get(family, 0.0)),
            temperature=config["position_temperature"],
        ),
        bbox_head=dict(
            type=HEADS[host],
            num_classes=config["num_classes"],
            sync_cls_avg_factor=True,
            loss_cls=dict(
                type="FocalLoss", use_sigmoid=True, gamma=2.0, alpha=0.25, loss_weight=1.0
            ),
            loss_bbox=dict(type="L1Loss", loss_weight=5.0),
            loss_iou=dict(type="GIoULoss", loss_weight=2.0),
        ),
        test_cfg=dict(max_per_img=config["max_per_img"]),
    )
    if host == "DINO":
        model["dn_cfg"] = dict(group_cfg=dict(dynamic=True, num_dn_queries=100))
    if family == "sparse_deformable_detr":
        model.update(efficient_query_init=True, class_specific_first_stage=True)
    if host == "HDETR":
        total = shapes["query_embedding.weight"][0]
        model["num_queries_one2many"] = total - config["num_queries"]
    model["encoder"].update(_encoder(family, config, shapes))
    if family == "lite_dino" and config["key_aware"]:
        model["decoder_attention"] = "key_aware"
        model["decoder_key_aware"] = _key_aware(shapes, "decoder.layers.0.cross_attn", levels)
    return model


def _encoder(family: str, config: Mapping[str, Any], shapes: Shapes) -> dict[str, Any]:
    """What is special about a family's encoder."""
    if family == "focus_dino":
        ratio = config["keep_ratio"]
        return dict(
            type="DualAttentionEncoder",
            num_object_tokens=config["topk_self_attention"],
            selector=dict(
                type="FocusTokenSelector", keep_ratio=[ratio * f for f in config["cascade"]]
            ),
        )
    if family == "sparse_deformable_detr":
        return dict(
            type="SparseDETREncoder",
            selector=dict(type="DecoderAttentionSelector", keep_ratio=config["keep_ratio"]),
        )
    if family == "lite_dino":
        key_aware = config["key_aware"]
        levels = _dims_and_levels(shapes)[1]
        return dict(
            type="LiteDETREncoder",
            blocks=config["blocks"],
            high_levels=config["high_levels"],
            small_low_level_ffn=any(".linear12." in name for name in shapes),
            attention="key_aware" if key_aware else "plain",
            key_aware=_key_aware(shapes, "encoder.layers.0.self_attn", levels)
            if key_aware
            else None,
        )
    return dict(type="DenseEncoder")


def _key_aware(shapes: Shapes, attention: str, levels: int, heads: int = 8) -> dict[str, Any]:
    """Settings of a released key-aware attention."""
    offsets = shapes[f"transformer.{attention}.sampling_offsets.weight"][0]
    points = 4
    return dict(
        same_locations_on_every_level=offsets != heads * levels * points * 2,
        separate_key_projection=f"transformer.{attention}.key_proj.weight" in shapes,
    )


def _dims_and_levels(shapes: Shapes) -> tuple[int, int]:
    name = next(name for name in shapes if "level_embed" in name)
    levels, dims = shapes[name]
    return dims, levels


def _layers(shapes: Shapes, part: str) -> int:
    numbers = re.findall(rf"transformer\.{part}\.layers\.(\d+)\.", " ".join(shapes))
    return max(int(n) for n in numbers) + 1


def _hidden(shapes: Shapes, part: str) -> int:
    for name in (f"{part}.layers.0.ffns.0.layers.0.0.weight", f"{part}.layers.0.linear1.weight"):
        if f"transformer.{name}" in shapes:
            return shapes[f"transformer.{name}"][0]
    raise ValueError(f"the released names hold no FFN of the {part}'s first layer")
