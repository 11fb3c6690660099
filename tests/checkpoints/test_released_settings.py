"""Released models, of the fixtures' and of other settings: what is read off their shapes."""

from __future__ import annotations

import re
from typing import Any

import pytest
import torch
from mmdet.registry import MODELS

import fake_releases as releases
from sparse_encoders.checkpoints.conversion import convert
from sparse_encoders.checkpoints.families import FAMILIES, check_family
from sparse_encoders.checkpoints.released import model_config
from sparse_encoders.checkpoints.settings import release_settings
from sparse_encoders.loading import check_fit

FOCUS = releases.shapes("focus_dino")
LITE = releases.shapes("lite_dino")
SPARSE = releases.shapes("sparse_deformable_detr")
SMALL_FFN = r"linear[12]2\.|norm22\."


def plain_lite(offsets: int) -> releases.Shapes:
    """Lite DETR without key-aware attention, which keeps projections that it does not use."""
    changed = releases.with_rows(LITE, r"encoder.*sampling_offsets", offsets)
    return changed | releases.in_each_layer("attention_weights", 128)


def schedule(blocks: int) -> releases.Shapes:
    """Lite DETR's small FFNs in the last layers of other blocks."""
    last = "encoder.layers.1."  # of the first block
    small = {n: s for n, s in LITE.items() if last in n and re.search(SMALL_FFN, n)}
    changed = releases.without(LITE, SMALL_FFN)
    for layer in range(5, 0, -6 // blocks):
        changed |= {n.replace(last, f"encoder.layers.{layer}."): s for n, s in small.items()}
    return changed


def key_projections() -> releases.Shapes:
    changed = releases.with_rows(LITE, r"encoder.*sampling_offsets", 64)
    return changed | releases.in_each_layer("key_proj", 256, decoder=False)


def five_scales() -> releases.Shapes:
    """Five levels, the finest one of the backbone's first stage."""
    changed = releases.official_dino()
    for pattern, rows in (("level_embed", 5), ("sampling_offsets", 320), ("attention_wei", 160)):
        changed = releases.with_rows(changed, pattern, rows)
    for index, size in enumerate((256, 512, 1024, 2048)):
        changed[f"input_proj.{index}.0.weight"] = [256, size, 1, 1]
    changed["input_proj.4.0.weight"] = [256, 2048, 3, 3]
    return changed | {f"input_proj.4.{part}": [256] for part in ("0.bias", "1.weight", "1.bias")}


def deeper() -> releases.Shapes:
    """ResNet-101."""
    block = {n: s for n, s in FOCUS.items() if "res4.1." in n}
    more = range(6, 23)
    return FOCUS | {n.replace("4.1.", f"4.{i}.", 1): s for i in more for n, s in block.items()}


HEADS = r"class_embed|enhance_MCSP|label_enc"
NO_ENCODER_HEADS = r"encoder\.(class|bbox)_embed|_embed\.([789]|1\d)\."
TWO_RATIOS = dict(keep_ratio=[0.5, 0.2])
VARIANTS: dict[str, tuple[str, releases.Shapes, dict[str, Any]]] = {
    **{family: (family, releases.shapes(family), {}) for family in FAMILIES},
    "20 classes": ("focus_dino", releases.with_rows(FOCUS, HEADS, 20), {}),
    "100 queries": ("focus_dino", releases.with_rows(FOCUS, "tgt_embed", 100), {}),
    "2 and 3 layers": ("focus_dino", releases.with_layers(FOCUS, 2, 3), TWO_RATIOS),
    "resnet101": ("focus_dino", deeper(), {}),
    "detrex swin": ("focus_dino", releases.on_swin(FOCUS, "backbone."), {}),
    "plain lite": ("lite_dino", plain_lite(256), {}),
    "plain lite, shared locations": ("lite_dino", plain_lite(64), {}),
    "key projections": ("lite_dino", key_projections(), {}),
    "one ffn": ("lite_dino", releases.without(LITE, SMALL_FFN), {}),
    "(3+1)x2": ("lite_dino", schedule(2), {}),
    "(6+1)x1": ("lite_dino", schedule(1), {}),
    "H2L2": ("lite_dino", LITE, dict(schedule="H2L2-(2+1)x3")),
    "3 + 4 layers": ("sparse_deformable_detr", releases.with_layers(SPARSE, 3, 4), {}),
    "no encoder heads": (
        "sparse_deformable_detr",
        releases.without(SPARSE, NO_ENCODER_HEADS),
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


def model_of(variant: str) -> dict[str, Any]:
    family, shapes, options = VARIANTS[variant]
    settings = release_settings(family, shapes, {}, options)
    return model_config(family, {n: s.value for n, s in settings.items()}, shapes)


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_tensor_is_converted_or_left_out_with_a_reason(variant: str) -> None:
    family, shapes, _ = VARIANTS[variant]
    state, model = releases.hollow(shapes), model_of(variant)
    check_family(state, family)
    for other in FAMILIES.keys() - {family}:
        with pytest.raises(ValueError, match=f"not a {other} model: it looks like {family}"):
            check_family(state, other)
    done = convert(state, family, model)
    used = set(done.sources.values())
    assert used.isdisjoint(done.left_out)
    assert used | done.left_out.keys() == shapes.keys()
    # shapes alone: nothing is drawn or copied; Swin's constructor computes with numbers
    with torch.device("meta" if model["backbone"]["type"] == "ResNet" else "cpu"):
        check_fit(MODELS.build(model), done.state, "the file")


def test_counts_follow_the_shapes() -> None:
    model = model_of("five scales")
    assert model["num_feature_levels"] == 5 and model["neck"]["in_channels"][0] == 256
    assert model["backbone"]["out_indices"] == (0, 1, 2, 3)
    assert model_of("official h-detr")["num_queries_one2many"] == 900
    backbone = model_of("sparse swin")["backbone"]
    assert (backbone["embed_dims"], backbone["depths"]) == (32, [1, 1, 2, 1])
    assert (backbone["num_heads"], backbone["window_size"]) == ([1, 2, 4, 8], 7)
