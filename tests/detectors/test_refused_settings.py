"""Settings that are refused when a detector is built, before any training starts."""

from __future__ import annotations

from typing import Any

import pytest
from mmengine.config import Config

from tiny import build
from tiny_detectors import detector_config

FOCUS = dict(type="DualAttentionEncoder")
SPARSE = dict(type="SparseDETREncoder", selector=dict(keep_ratio=0.5))
OTHER_HEAD = dict(type="DeformableDETRHead")


def dial(ratio: Any, encoder: dict[str, Any] = SPARSE) -> dict[str, Any]:
    return dict(encoder=encoder, test_cfg=dict(keep_ratio=ratio))


REFUSED: list[tuple[str, dict[str, Any], str]] = [
    ("DINO", dict(encoder=dict(type="L1Loss")), r"model.encoder.type must be one of .*Dense"),
    ("DINO", dict(encoder=dict(type="FocusEncoder")), r"must be one of .*got 'FocusEncoder'"),
    (
        "DINO",
        dict(encoder=dict(type="DenseEncoder", keepratio=0.3)),
        r"model.encoder.keepratio is not a setting of DenseEncoder; accepted: .*num_layers",
    ),
    ("DINO", dict(num_queries=8), "max_per_img is 50, but 8 queries of 5 classes"),
    ("DINO", dict(positional_encoding=dict(num_feats=64)), "num_feats must be 128, .* got 64"),
    ("DINO", dict(attention_backend="fastest"), "backend"),
    ("DINO", dict(decoder=dict(post_norm_cfg="LN")), "post_norm_cfg must be None"),
    ("DINO", dict(decoder_attention="linear"), r"decoder_attention must be one of .*got 'linear'"),
    ("DINO", dict(decoder_key_aware=dict(separate_key_projection=True)), "key_aware is set"),
    (
        "DINO",
        dict(encoder=dict(selector=dict(keep_ratio=0), **FOCUS)),
        r"keep_ratio must lie in \(0, 1\]",
    ),
    ("DINO", dial(0), r"keep_ratio must lie in \(0, 1\], got 0"),
    ("DINO", dial(1.2), r"keep_ratio must lie in \(0, 1\], got 1.2"),
    ("DINO", dial([0.5]), "keep_ratio lists 1 values for 2 encoder layers"),
    ("DINO", dial([0.2, 0.5]), "a cascade must not increase from layer to layer"),
    ("DINO", dial(0.5, encoder={}), "DenseEncoder has no selector, so no keep ratio"),
    *(
        ("DINO", dict(dn_cfg=dict(max_boxes=most)), r"dn_cfg.max_boxes must be an integer")
        for most in (0, -1, 2.5)
    ),
    (
        "DINO",
        dict(dn_cfg=dict(max_boxes=2), bbox_head=OTHER_HEAD),
        r"model.dn_cfg.max_boxes needs a bbox_head with denoising",
    ),
    ("DDQDETR", dict(decoder=dict(num_layers=1)), r"decoder\.num_layers must be at least 2"),
    *(
        ("DeformableDETR", {option: True}, rf"model\.{option}=True needs model\.as_two_stage=True")
        for option in ("efficient_query_init", "class_specific_first_stage")
    ),
    ("DNDETR", dict(as_two_stage=True), "model.as_two_stage must be False for DNDETR"),
    ("DNDETR", dict(with_box_refine=False), "model.with_box_refine must be True for DNDETR"),
    ("DNDETR", dict(dn_cfg=dict(label_noise_scale=1.5)), r"label_noise_scale must lie in \[0, 1\]"),
    ("DNDETR", dict(dn_cfg=dict(box_noise_scale=-0.1)), r"box_noise_scale must lie in \[0, 1\]"),
    (
        "DNDETR",
        dict(dn_cfg=dict(group_cfg=dict(dynamic=False, num_groups=0))),
        "dn_cfg.group_cfg.num_groups must be at least 1",
    ),
    (
        "DNDETR",
        dict(dn_cfg=dict(group_cfg=dict(dynamic=True))),
        "dn_cfg.group_cfg.num_dn_queries must be at least 1",
    ),
    ("DNDETR", dict(bbox_head=OTHER_HEAD), "must be a DINOHead"),
    ("HDETR", dict(as_two_stage=False), "model.as_two_stage must be True for HDETR"),
    ("HDETR", dict(with_box_refine=False), "model.with_box_refine must be True for HDETR"),
    ("HDETR", dict(num_queries_one2many=0), "num_queries_one2many must be at least 1, got 0"),
    ("HDETR", dict(bbox_head=dict(k_one2many=0)), "bbox_head.k_one2many must be at least 1"),
    ("HDETR", dict(bbox_head=dict(one2many_weight=-1.0)), "one2many_weight must not be negative"),
    ("HDETR", dict(bbox_head=OTHER_HEAD), "must be HDETRHead"),
]


@pytest.mark.parametrize(("detector", "changes", "message"), REFUSED)
def test_it_is_refused(detector: str, changes: dict[str, Any], message: str) -> None:
    config = Config(detector_config(detector).to_dict())
    config.merge_from_dict(changes)
    with pytest.raises((ValueError, TypeError), match=message):
        build(config._cfg_dict)
