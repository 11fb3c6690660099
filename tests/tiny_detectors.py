"""Tiny configs of every detector, with any encoder."""

from __future__ import annotations

import copy
from typing import Any

from mmengine.config import Config
from torch import nn

from sparse_encoders.analysis.variants import encoder_config
from tiny import build, mmdet_config

DETECTORS = ("DeformableDETR", "two-stage DeformableDETR", "DNDETR", "DINO", "HDETR", "DDQDETR")
SPARSE_DETR = "Sparse DETR's DeformableDETR"  # two-stage
QUERIES = 40

ENCODERS: dict[str, dict[str, Any]] = {
    "dense": dict(type="DenseEncoder"),
    "sparse": dict(type="SparseDETREncoder"),
    "focus": dict(type="DualAttentionEncoder"),
    "salience": dict(
        type="DualAttentionEncoder",
        background_embedding="released",
        selector=dict(type="SalienceTokenSelector", modulation_place="after_norm"),
    ),
    "hybrid": dict(type="HybridEncoder", feedforward_channels=64),
    "none": dict(type="NoEncoder"),
    "lite": dict(type="LiteDETREncoder", blocks=1),
    "lite key-aware": dict(
        type="LiteDETREncoder", blocks=1, attention="key_aware", small_low_level_ffn=True
    ),
    "lite + focus": dict(
        type="LiteDETREncoder",
        blocks=1,
        small_low_level_ffn=True,
        selector=dict(type="FocusTokenSelector", keep_ratio=0.3),
    ),
}
# EncoderDetector refuses more detections than queries times classes
TEST_CFG = dict(max_per_img=50)


def detector_config(detector: str, encoder: dict[str, Any] | None = None, **changes: Any) -> Config:
    """One of DETECTORS or SPARSE_DETR, with ``encoder`` settings merged over MMDetection's."""
    model = mmdet_config(num_queries=QUERIES, test_cfg=TEST_CFG)
    model.backbone.base_channels = 16
    model.neck.in_channels = [32, 64, 128]
    kind = detector.rpartition(" ")[2]
    model.type, model.bbox_head.type = f"sparse_encoders.{kind}", f"{kind}Head"
    model.update(with_box_refine=True, as_two_stage=detector not in ("DeformableDETR", "DNDETR"))
    if kind in ("DINO", "DDQDETR"):
        model.dn_cfg.group_cfg.num_dn_queries = 10
    else:
        model.pop("dn_cfg")
    if kind == "HDETR":
        model.num_queries_one2many = 60
    if detector == SPARSE_DETR:
        model.update(efficient_query_init=True, class_specific_first_stage=True)
    model.encoder.update(copy.deepcopy(encoder or {}))
    model.update(changes)
    return model


def detector_with(
    name: str,
    keep_ratio: float,
    backend: str = "auto",
    layers: int = 2,
    ffn: int = 64,
    max_boxes: int | None = None,
) -> nn.Module:
    """A tiny DINO in place of the full-size one of ``analysis.encoder_benchmark``."""
    base = dict(num_layers=layers, layer_cfg=dict(ffn_cfg=dict(feedforward_channels=ffn)))
    encoder = encoder_config(name, base, keep_ratio)
    config = detector_config("DINO", encoder, attention_backend=backend)
    config.dn_cfg.max_boxes = max_boxes
    return build(config).eval()
