"""Every config of mmdet_configs builds, says what its name says, and runs shrunken."""

from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.registry import init_default_scope

from sparse_encoders.encoders import (
    DenseEncoder,
    DualAttentionEncoder,
    LiteDETREncoder,
    SparseDETREncoder,
)
from tiny import build, samples, total

ROOT = Path(__file__).parents[2] / "mmdet_configs"
CONFIGS = sorted(p.relative_to(ROOT) for p in ROOT.rglob("*.py") if "_base_" not in p.parts)
# the part of a file name between detector and data, to what it promises
ENCODERS = {
    "dense": DenseEncoder,
    "dual": DualAttentionEncoder,
    "focus": DualAttentionEncoder,
    "lite": LiteDETREncoder,
    "sparse": SparseDETREncoder,
}


def encoder_word(path: Path) -> str:
    """'lite-focus' of dino-4scale_r50_lite-focus_8xb2-12e_coco.py."""
    return next(word for word in path.stem.split("_") if word.split("-")[0] in ENCODERS)


def shrunken(path: Path) -> Config:
    """The model of a config with few layers and a small backbone, for 5 classes."""
    init_default_scope("mmdet")
    model = Config.fromfile(ROOT / path).model
    if model.backbone.type == "ResNet":
        model.backbone.update(depth=18, init_cfg=None)
        model.neck.in_channels = [128, 256, 512]
    else:
        model.backbone.weights = None
    for part in ("encoder", "decoder"):
        model[part].num_layers = 2
    if model.encoder.type == "LiteDETREncoder":
        model.encoder.update(schedule=None, blocks=1)
    if "num_queries_one2many" in model:
        model.num_queries_one2many = 60
    model.num_queries = 50
    model.test_cfg.max_per_img = 50
    model.bbox_head.num_classes = 5
    return model


@pytest.mark.parametrize("path", CONFIGS, ids=str)
def test_config(path):
    model = build(shrunken(path))
    word = encoder_word(path)
    assert isinstance(model.encoder, ENCODERS[word.split("-")[0]])
    if "paper" in path.name:
        assert model.encoder.values == "updated" and model.encoder.selector.count == "image"
    losses = model(torch.randn(1, 3, 64, 96), samples([(64, 96)], (64, 96), (3,)), mode="loss")
    assert total(losses).isfinite()
    assert ("loss_foreground" in losses) == ("focus" in word)


@pytest.mark.parametrize("path", CONFIGS, ids=str)
def test_a_config_states_only_its_difference(path):
    assert len((ROOT / path).read_text().splitlines()) <= 40
