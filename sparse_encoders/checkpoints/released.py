"""Configs of the released models, from the shapes of their parameters."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from sparse_encoders.checkpoints.backbones import Shapes, backbone_config, neck_channels

DETECTORS = {
    "dino": "DINO",
    "focus_dino": "DINO",
    "lite_dino": "DINO",
    "dn_deformable_detr": "DNDETR",
    "h_deformable_detr": "HDETR",
    "sparse_deformable_detr": "DeformableDETR",
}


def model_config(family: str, config: Mapping[str, Any], shapes: Shapes) -> dict[str, Any]:
    """MMDetection config of a released model.

    Args:
        family: a key of :data:`DETECTORS`.
        config: values of the settings that :func:`.settings.release_settings` lists.
        shapes: shapes by released name; layers and hidden channels follow from them.

    Raises:
        ValueError: a backbone that is neither a ResNet nor a Swin Transformer, or no FFN.
        KeyError, StopIteration: the file lacks another tensor.
    """
    detector = DETECTORS[family]
    dims, levels = _dims_and_levels(shapes)
    attention = dict(embed_dims=dims, num_levels=levels, dropout=0.0)
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
                self_attn_cfg=dict(attention),
                ffn_cfg=dict(ffn, feedforward_channels=_hidden(shapes, "encoder")),
            ),
            **_encoder(family, config, shapes),
        ),
        decoder=dict(
            num_layers=count_layers(shapes, "decoder"),
            return_intermediate=True,
            layer_cfg=dict(
                self_attn_cfg=dict(embed_dims=dims, num_heads=8, dropout=0.0),
                cross_attn_cfg=dict(attention),
                ffn_cfg=dict(ffn, feedforward_channels=_hidden(shapes, "decoder")),
            ),
            post_norm_cfg=None,
        ),
        positional_encoding=dict(
            num_feats=dims // 2,
            normalize=True,
            offset=config["position_offset"],
            temperature=config["position_temperature"],
        ),
        bbox_head=dict(
            type=f"{detector}Head",
            num_classes=config["num_classes"],
            loss_cls=dict(type="FocalLoss", use_sigmoid=True),  # one output a class
        ),
        test_cfg=dict(max_per_img=config["max_per_img"]),
    )
    if detector == "DINO":
        model["dn_cfg"] = dict(group_cfg=dict(dynamic=True, num_dn_queries=100))
        if key_aware := _key_aware(shapes, "decoder.layers.0.cross_attn"):
            model.update(decoder_attention="key_aware", decoder_key_aware=key_aware)
    elif detector == "DeformableDETR":
        efficient = shapes["transformer.pos_trans.weight"][0] == dims
        model.update(
            efficient_query_init=efficient,
            class_specific_first_stage=config.get("class_specific_first_stage", efficient),
        )
    elif detector == "HDETR":
        model["num_queries_one2many"] = learned_queries(shapes) - config["num_queries"]
    return model


def _encoder(family: str, config: Mapping[str, Any], shapes: Shapes) -> dict[str, Any]:
    """Settings of a family's encoder."""
    as_in_training = dict(count="batch", test_count="batch")
    if family == "focus_dino":
        ratios = [config["keep_ratio"] * factor for factor in config["cascade"]]
        return dict(
            type="DualAttentionEncoder",
            num_object_tokens=config["topk_self_attention"],
            selector=dict(type="FocusTokenSelector", keep_ratio=ratios, **as_in_training),
        )
    if family == "sparse_deformable_detr":
        ratio = config["keep_ratio"]
        return dict(
            type="SparseDETREncoder",
            auxiliary_heads=any("transformer.encoder.class_embed." in name for name in shapes),
            selector=dict(type="DecoderAttentionSelector", keep_ratio=ratio, **as_in_training),
        )
    if family == "lite_dino":
        key_aware = _key_aware(shapes, "encoder.layers.0.self_attn")
        return dict(
            type="LiteDETREncoder",
            blocks=config["blocks"],
            high_levels=config["high_levels"],
            small_low_level_ffn=any(".linear12." in name for name in shapes),
            attention="key_aware" if key_aware else "plain",
            key_aware=key_aware,
        )
    return dict(type="DenseEncoder")


def _key_aware(
    shapes: Shapes, attention: str, heads: int = 8, points: int = 4
) -> dict[str, Any] | None:
    """Settings of a released key-aware attention; None if the attention is plain."""
    name = f"transformer.{attention}"
    # plain attention may keep an unused query projection
    if f"{name}.query_proj.weight" not in shapes or f"{name}.attention_weights.weight" in shapes:
        return None
    offsets = shapes[f"{name}.sampling_offsets.weight"][0]
    levels = _dims_and_levels(shapes)[1]
    return dict(
        same_locations_on_every_level=offsets != heads * levels * points * 2,
        separate_key_projection=f"{name}.key_proj.weight" in shapes,
    )


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


def count_layers(shapes: Shapes, part: str) -> int:
    """Layers of the released 'encoder' or 'decoder'."""
    numbers = re.findall(rf"transformer\.{part}\.layers\.(\d+)\.", " ".join(shapes))
    return max(int(n) for n in numbers) + 1


def _dims_and_levels(shapes: Shapes) -> tuple[int, int]:
    name = next(name for name in shapes if "level_embed" in name)
    levels, dims = shapes[name]
    return dims, levels


def _hidden(shapes: Shapes, part: str) -> int:
    for name in (f"{part}.layers.0.ffns.0.layers.0.0.weight", f"{part}.layers.0.linear1.weight"):
        if f"transformer.{name}" in shapes:
            return shapes[f"transformer.{name}"][0]
    raise ValueError(f"there is no FFN of the {part}'s first layer under the released names")
