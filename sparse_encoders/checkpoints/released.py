"""Configs of the released models, from the shapes of their parameters."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from sparse_encoders.checkpoints.names_backbones import Shapes, backbone_config, neck_channels

DETECTORS = {
    "dino": "DINO",
    "focus_dino": "DINO",
    "lite_dino": "DINO",
    "dn_deformable_detr": "DNDETR",
    "h_deformable_detr": "HDETR",
    "sparse_deformable_detr": "DeformableDETR",
}
HEADS = {
    "DINO": "DINOHead",
    "DNDETR": "DNDETRHead",
    "HDETR": "HDETRHead",
    "DeformableDETR": "DeformableDETRHead",
}

# default offsets of the sine embedding: Deformable DETR's repository uses the centres of cells,
# DINO's their ends
POSITION_OFFSETS = {"sparse_deformable_detr": -0.5}


def model_config(family: str, config: Mapping[str, Any], shapes: Shapes) -> dict[str, Any]:
    """MMDetection config of a released model.

    Args:
        family: a key of :data:`DETECTORS`.
        config: ``num_classes``, ``num_queries``, ``position_temperature``,
            ``position_offset``, ``max_per_img`` and the settings of the family's
            encoder.
        shapes: shapes by released name; layers and hidden channels follow from them.

    Raises:
        ValueError: an unknown family, another number of classes than the heads have, or a
            backbone that is neither a ResNet nor a Swin Transformer.
    """
    if family not in DETECTORS:
        raise ValueError(f"family must be one of {sorted(DETECTORS)}, got {family!r}")
    detector = DETECTORS[family]
    if (classes := released_classes(shapes)) != config["num_classes"]:
        raise ValueError(
            f"num_classes is {config['num_classes']}, but the released heads have {classes} classes"
        )
    dims, levels = _dims_and_levels(shapes)
    ffn = dict(embed_dims=dims, ffn_drop=0.0)
    model: dict[str, Any] = dict(
        type=f"sparse_encoders.{detector}",
        num_queries=config["num_queries"],
        with_box_refine=True,
        as_two_stage=detector != "DNDETR",
        num_feature_levels=levels,
        backbone=backbone_config(shapes),
        neck=dict(
            type="ChannelMapper",
            in_channels=neck_channels(shapes),
            kernel_size=1,
            out_channels=dims,
            bias=True,  # released necks have a bias before their norm
            act_cfg=None,
            norm_cfg=dict(type="GN", num_groups=32),
            num_outs=levels,
        ),
        encoder=dict(
            num_layers=count_layers(shapes, "encoder"),
            layer_cfg=dict(
                self_attn_cfg=dict(embed_dims=dims, num_levels=levels, dropout=0.0),
                ffn_cfg=dict(ffn, feedforward_channels=_hidden(shapes, "encoder")),
            ),
        ),
        decoder=dict(
            num_layers=count_layers(shapes, "decoder"),
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
            type=HEADS[detector],
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
    model["encoder"].update(_encoder(family, config, shapes))
    model.update(_detector_settings(family, config, shapes))
    return model


def _detector_settings(family: str, config: Mapping[str, Any], shapes: Shapes) -> dict[str, Any]:
    """Settings of a family's detector."""
    if DETECTORS[family] == "DINO":
        settings: dict[str, Any] = dict(
            dn_cfg=dict(group_cfg=dict(dynamic=True, num_dn_queries=100))
        )
        cross_attention = "decoder.layers.0.cross_attn"
        if _is_key_aware(shapes, cross_attention):
            settings["decoder_attention"] = "key_aware"
            settings["decoder_key_aware"] = _key_aware(shapes, cross_attention)
        return settings
    if family == "sparse_deformable_detr":
        efficient = shapes["transformer.pos_trans.weight"][0] == _dims_and_levels(shapes)[0]
        return dict(
            efficient_query_init=efficient,
            class_specific_first_stage=config.get("class_specific_first_stage", efficient),
        )
    if family == "h_deformable_detr":
        return dict(num_queries_one2many=learned_queries(shapes) - config["num_queries"])
    return {}


def learned_queries(shapes: Shapes) -> int | None:
    """Number of learned content queries of a released model; None without such queries."""
    names = ("query_embedding", "query_embed", "transformer.tgt_embed", "tgt_embed")
    return next((shapes[f"{n}.weight"][0] for n in names if f"{n}.weight" in shapes), None)


def released_classes(shapes: Shapes) -> int:
    """Outputs of the classification heads.

    Raises:
        ValueError: there are no heads, or their numbers of outputs differ.
    """
    outputs = {s[0] for n, s in shapes.items() if re.search(r"class_embed(\.\d+)?\.weight$", n)}
    if len(outputs) != 1:
        heads = f"heads of {sorted(outputs)} classes" if outputs else "no classification head"
        raise ValueError(f"the file has {heads}; expected heads with one number of classes")
    return outputs.pop()


def _encoder(family: str, config: Mapping[str, Any], shapes: Shapes) -> dict[str, Any]:
    """Settings of a family's encoder."""
    if family == "focus_dino":
        ratio = config["keep_ratio"]
        return dict(
            type="DualAttentionEncoder",
            num_object_tokens=config["topk_self_attention"],
            selector=dict(
                type="FocusTokenSelector",
                keep_ratio=[ratio * f for f in config["cascade"]],
                count="batch",
                test_count="batch",
            ),
        )
    if family == "sparse_deformable_detr":
        return dict(
            type="SparseDETREncoder",
            auxiliary_heads=any("transformer.encoder.class_embed." in name for name in shapes),
            selector=dict(
                type="DecoderAttentionSelector",
                keep_ratio=config["keep_ratio"],
                count="batch",
                test_count="batch",
            ),
        )
    if family == "lite_dino":
        attention = "encoder.layers.0.self_attn"
        key_aware = _is_key_aware(shapes, attention)
        return dict(
            type="LiteDETREncoder",
            blocks=config["blocks"],
            high_levels=config["high_levels"],
            small_low_level_ffn=any(".linear12." in name for name in shapes),
            attention="key_aware" if key_aware else "plain",
            key_aware=_key_aware(shapes, attention) if key_aware else None,
        )
    return dict(type="DenseEncoder")


def _is_key_aware(shapes: Shapes, attention: str) -> bool:
    """Whether an attention module has a query projection instead of attention weights."""
    name = f"transformer.{attention}"
    return (
        f"{name}.query_proj.weight" in shapes and f"{name}.attention_weights.weight" not in shapes
    )


def _key_aware(shapes: Shapes, attention: str, heads: int = 8, points: int = 4) -> dict[str, Any]:
    """Settings of a released key-aware attention."""
    offsets = shapes[f"transformer.{attention}.sampling_offsets.weight"][0]
    levels = _dims_and_levels(shapes)[1]
    return dict(
        same_locations_on_every_level=offsets != heads * levels * points * 2,
        separate_key_projection=f"transformer.{attention}.key_proj.weight" in shapes,
    )


def _dims_and_levels(shapes: Shapes) -> tuple[int, int]:
    name = next(name for name in shapes if "level_embed" in name)
    levels, dims = shapes[name]
    return dims, levels


def count_layers(shapes: Shapes, part: str) -> int:
    """Layers of the released 'encoder' or 'decoder'."""
    numbers = re.findall(rf"transformer\.{part}\.layers\.(\d+)\.", " ".join(shapes))
    return max(int(n) for n in numbers) + 1


def _hidden(shapes: Shapes, part: str) -> int:
    for name in (f"{part}.layers.0.ffns.0.layers.0.0.weight", f"{part}.layers.0.linear1.weight"):
        if f"transformer.{name}" in shapes:
            return shapes[f"transformer.{name}"][0]
    raise ValueError(f"there is no FFN of the {part}'s first layer under the released names")
