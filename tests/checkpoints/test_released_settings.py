"""Released models of other settings than the fixtures': they build, fill up and run."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from mmdet.registry import MODELS

import fake_releases as releases
from reference.model import fixture_images, released_model
from reference.seeded import seeded_state
from sparse_encoders.checkpoints.conversion import convert
from sparse_encoders.checkpoints.families import check_family
from sparse_encoders.checkpoints.names_detectors import used_name
from sparse_encoders.checkpoints.released import count_layers, model_config
from sparse_encoders.checkpoints.settings import release_settings
from sparse_encoders.loading import check_fit

FOCUS = releases.shapes("focus_dino")
LITE = releases.shapes("lite_dino")
SPARSE = releases.shapes("sparse_deformable_detr")
HEADS = r"class_embed|enhance_MCSP"


def plain_lite(offsets: int) -> dict[str, Any]:
    """Lite DETR without key-aware attention, which keeps projections that it does not use."""
    changed = releases.with_rows(LITE, r"encoder.*sampling_offsets", offsets)
    for part, attention in (("encoder", "self_attn"), ("decoder", "cross_attn")):
        for layer in range(6):
            name = f"transformer.{part}.layers.{layer}.{attention}"
            changed |= releases.linear(f"{name}.attention_weights", 128, 256)
    return changed


def schedule(blocks: int) -> dict[str, Any]:
    """Lite DETR's small FFNs in the last layers of other blocks."""
    small = r"linear[12]2\.|norm22\."
    own = {n.split("layers.1.")[1]: s for n, s in LITE.items() if "encoder.layers.1." in n}
    own = {n: s for n, s in own.items() if n not in releases.without(own, small)}
    changed = releases.without(LITE, small)
    for layer in range(5, 0, -6 // blocks):
        changed |= {f"transformer.encoder.layers.{layer}.{n}": s for n, s in own.items()}
    return changed


def key_projections() -> dict[str, Any]:
    changed = releases.with_rows(LITE, r"encoder.*sampling_offsets", 64)
    for layer in range(6):
        name = f"transformer.encoder.layers.{layer}.self_attn.key_proj"
        changed |= releases.linear(name, 256, 256)
    return changed


def five_scales() -> dict[str, Any]:
    """Five levels, the finest one of the backbone's first stage."""
    changed = releases.with_rows(releases.official_dino(), "level_embed", 5)
    changed = releases.with_rows(changed, "sampling_offsets", 320)
    changed = releases.with_rows(changed, "attention_weights", 160)
    sizes = (256, 512, 1024, 2048)
    for index, size in enumerate(sizes):
        changed[f"input_proj.{index}.0.weight"] = [256, size, 1, 1]
    changed["input_proj.4.0.weight"] = [256, 2048, 3, 3]
    for part in ("0.bias", "1.weight", "1.bias"):
        changed[f"input_proj.4.{part}"] = [256]
    return changed


def deeper() -> dict[str, Any]:
    """ResNet-101."""
    changed = dict(FOCUS)
    for block in range(6, 23):
        changed |= {
            n.replace("res4.1.", f"res4.{block}."): s for n, s in FOCUS.items() if "res4.1." in n
        }
    return changed


ALL_QUERIES = r"tgt_embed"
VARIANTS: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
    "20 classes": ("focus_dino", releases.with_rows(FOCUS, rf"{HEADS}|label_enc", 20), {}),
    "100 queries": ("focus_dino", releases.with_rows(FOCUS, ALL_QUERIES, 100), {}),
    "2 and 3 layers": (
        "focus_dino",
        releases.with_layers(FOCUS, 2, 3),
        dict(keep_ratio=[0.5, 0.2]),
    ),
    "resnet101": ("focus_dino", deeper(), {}),
    "detrex swin": ("focus_dino", releases.on_swin(FOCUS, "backbone."), {}),
    "plain lite": ("lite_dino", plain_lite(256), {}),
    "plain lite, shared locations": ("lite_dino", plain_lite(64), {}),
    "key projections": ("lite_dino", key_projections(), {}),
    "one ffn": ("lite_dino", releases.without(LITE, r"linear[12]2\.|norm22\."), {}),
    "(3+1)x2": ("lite_dino", schedule(2), {}),
    "(6+1)x1": ("lite_dino", schedule(1), {}),
    "H2L2": ("lite_dino", LITE, dict(schedule="H2L2-(2+1)x3")),
    "3 + 4 layers": ("sparse_deformable_detr", releases.with_layers(SPARSE, 3, 4), {}),
    "no encoder heads": (
        "sparse_deformable_detr",
        releases.without(SPARSE, r"encoder\.(class|bbox)_embed|_embed\.([789]|1\d)\."),
        {},
    ),
    "sparse swin": (
        "sparse_deformable_detr",
        releases.on_swin(SPARSE, "backbone.0.body."),
        dict(keep_ratio=0.1),
    ),
    "official dino": ("dino", releases.official_dino(), {}),
    "five scales": ("dino", five_scales(), {}),
    "official h-detr": ("h_deformable_detr", releases.official_h_detr(), dict(num_queries=900)),
    "official dn-detr": ("dn_deformable_detr", releases.official_dn_detr(), {}),
}


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_released_tensor_is_converted(variant: str) -> None:
    family, shapes, options = VARIANTS[variant]
    state = releases.hollow(shapes)
    check_family(state, family)
    settings = release_settings(family, shapes, {}, options)
    model = model_config(family, {n: s.value for n, s in settings.items()}, shapes)
    done = convert(state, family, model)
    assert set(done.sources.values()) | done.left_out.keys() == shapes.keys()
    # shapes alone: nothing is drawn or copied; Swin's constructor computes with numbers
    with torch.device("meta" if model["backbone"]["type"] == "ResNet" else "cpu"):
        check_fit(MODELS.build(model), done.state, "the file")


def test_counts_follow_the_shapes() -> None:
    family, shapes, _ = VARIANTS["five scales"]
    settings = {n: s.value for n, s in release_settings(family, shapes).items()}
    model = model_config(family, settings, shapes)
    assert model["num_feature_levels"] == 5 and model["neck"]["in_channels"][0] == 256
    assert model["backbone"]["out_indices"] == (0, 1, 2, 3)
    family, shapes, options = VARIANTS["official h-detr"]
    settings = {n: s.value for n, s in release_settings(family, shapes, {}, options).items()}
    assert model_config(family, settings, shapes)["num_queries_one2many"] == 900
    family, shapes, _ = VARIANTS["sparse swin"]
    settings = {n: s.value for n, s in release_settings(family, shapes).items()}
    backbone = model_config(family, settings, shapes)["backbone"]
    assert (backbone["embed_dims"], backbone["depths"]) == (32, [1, 1, 2, 1])
    assert (backbone["num_heads"], backbone["window_size"]) == ([1, 2, 4, 8], 7)


@pytest.mark.parametrize(
    ("family", "shapes", "changes"),
    [
        ("lite_dino", releases.with_layers(plain_lite(64), 2, 1), dict(blocks=1, high_levels=2)),
        (
            "focus_dino",
            releases.with_layers(FOCUS, 2, 1),
            dict(keep_ratio=0.9, cascade=[0.8, 0.7], topk_self_attention=20),
        ),
        ("sparse_deformable_detr", releases.with_layers(SPARSE, 2, 1), dict(keep_ratio=1.0)),
    ],
    ids=["lite", "focus", "sparse"],
)
def test_other_settings_run(family: str, shapes: Any, changes: dict[str, Any]) -> None:
    """Odd sizes, padding, other ratios and schedules: finite detections of each image."""
    if family == "lite_dino":
        shapes = releases.without(shapes, r"layers\.0\.(linear[12]2|norm22)")
    # parameters that two owners share hold one value
    twins = {n: used_name(n, count_layers(shapes, "decoder")) for n in shapes}
    state = seeded_state(shapes, 3, twins)
    config = {**releases.config(family), **changes, "height": 161, "width": 203}
    config["image_shapes"] = [[161, 203], [97, 120]] if family != "focus_dino" else [[161, 203]]
    with torch.no_grad():
        model = released_model(family, config, shapes, state)
        batch, samples = fixture_images(config, seed=3)
        actual = model.predict(batch, samples)
    for sample in actual:
        assert len(sample.pred_instances) == config["max_per_img"]
        assert sample.pred_instances.bboxes.isfinite().all()
