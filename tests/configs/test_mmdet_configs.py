"""Every config of mmdet_configs builds, says what its name says, and runs shrunken."""

from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.registry import init_default_scope

from sparse_encoders.encoders import DenseEncoder, DualAttentionEncoder
from tiny import build, samples, total

ROOT = Path(__file__).parents[2] / "mmdet_configs"
CONFIGS = sorted(p.relative_to(ROOT) for p in ROOT.rglob("*.py") if "_base_" not in p.parts)


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
    model.num_queries = 50
    model.test_cfg.max_per_img = 50
    model.bbox_head.num_classes = 5
    return model


@pytest.mark.parametrize("path", CONFIGS, ids=str)
def test_config(path):
    model = build(shrunken(path))
    dense = "dense" in path.name
    assert isinstance(model.encoder, DenseEncoder if dense else DualAttentionEncoder)
    if "paper" in path.name:
        assert model.encoder.values == "updated" and model.encoder.selector.count == "image"
    losses = model(torch.randn(1, 3, 64, 96), samples([(64, 96)], (64, 96), (3,)), mode="loss")
    assert total(losses).isfinite()
    assert ("loss_foreground" in losses) == (not dense)


@pytest.mark.parametrize("path", CONFIGS, ids=str)
def test_a_config_states_only_its_difference(path):
    assert len((ROOT / path).read_text().splitlines()) <= 40
