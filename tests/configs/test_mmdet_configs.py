"""Every config of mmdet_configs says what its name says, builds, and runs shrunken."""

from __future__ import annotations

import copy
import functools
import re
from pathlib import Path

import pytest
import torch
from mmdet.registry import MODELS
from mmengine.config import Config
from mmengine.registry import init_default_scope

from quick import slow_but
from sparse_encoders.configs import coco_configs
from sparse_encoders.encoders import (
    DenseEncoder,
    DualAttentionEncoder,
    HybridEncoder,
    LiteDETREncoder,
    NoEncoder,
    SparseDETREncoder,
)
from sparse_encoders.selectors.keep import cascade_of_average
from tiny import NUM_CLASSES, build, samples, total

ROOT = Path(__file__).parents[2] / "mmdet_configs"
CONFIGS = sorted(p.relative_to(ROOT) for p in ROOT.rglob("*.py") if "_base_" not in p.parts)
# the part of a file name between detector and data, to what it promises
ENCODERS = {
    "dense": DenseEncoder,
    "dual": DualAttentionEncoder,
    "focus": DualAttentionEncoder,
    "hybrid": HybridEncoder,
    "lite": LiteDETREncoder,
    "none": NoEncoder,
    "salience": DualAttentionEncoder,
    "sparse": SparseDETREncoder,
}
SCHEDULES = {"3p1x2": (3, 2), "6p1x1": (3, 1), "h2l2": (2, 3)}  # high levels, blocks
IMAGE = (64, 96)


def words(path: Path) -> list[str]:
    """['lite', 'focus'] of dino-4scale_r50_lite-focus_8xb2-12e_coco.py."""
    named = [word for word in path.stem.split("_")[1:] if word.split("-")[0] in ENCODERS]
    return named[0].split("-")


@functools.cache
def model_of(path: Path) -> Config:
    """The model's settings; nobody may change them."""
    init_default_scope("mmdet")
    return Config.fromfile(ROOT / path).model


def shrunken(path: Path) -> Config:
    """The model of a config with few layers and channels, for 5 classes."""
    model = copy.deepcopy(model_of(path))
    if model.backbone.type == "ResNet":
        model.backbone.update(depth=18, base_channels=8, init_cfg=None)
        model.neck.in_channels = [16, 32, 64]
    elif model.backbone.type == "SwinTransformer":
        small = dict(embed_dims=12, depths=[1, 1, 1, 1], num_heads=[1, 2, 4, 8], init_cfg=None)
        model.backbone.update(small, window_size=4)
        model.neck.in_channels = [24, 48, 96]
    else:
        model.backbone.weights = None
    for part in ("encoder", "decoder"):
        model[part].num_layers = 2
        model[part].layer_cfg.ffn_cfg.feedforward_channels = 32
    model.encoder.num_cp = min(model.encoder.get("num_cp", 0), 2)
    if model.encoder.type == "LiteDETREncoder":
        high, _ = lite_schedule(words(path))
        model.encoder.update(schedule=None, blocks=1, high_levels=high)
    if "num_queries_one2many" in model:
        model.num_queries_one2many = 20
    model.num_queries = 20
    model.test_cfg.max_per_img = 20
    model.bbox_head.num_classes = NUM_CLASSES
    return model


def lite_schedule(named: list[str]) -> tuple[int, int]:
    """High levels and blocks that an encoder word promises."""
    return next((actual for word, actual in SCHEDULES.items() if word in named), (3, 3))


@functools.cache
def losses_of(path: Path) -> dict:
    """Losses of the shrunken model; configs that differ in their schedule only share them."""
    torch.manual_seed(0)
    shrunk = shrunken(path)
    init_default_scope("mmdet")  # shrunken() may have its config from an earlier test
    model = build(shrunk)
    assert isinstance(model.encoder, ENCODERS[words(path)[0]])
    return model(torch.randn(1, 3, *IMAGE), samples([IMAGE], IMAGE, (3,)), mode="loss")


@functools.cache
def representatives() -> dict[str, Path]:
    """The first config of each distinct model."""
    first: dict[str, Path] = {}
    for path in CONFIGS:
        first.setdefault(repr(model_of(path)), path)
    return first


# the small ones, and of those for COCO, which are of one mould, a few
QUICK = [p for p in CONFIGS if not p.stem.endswith("_coco") or "r50_focus_8xb2-12e" in p.stem]


@pytest.mark.parametrize("path", slow_but(QUICK, CONFIGS), ids=str)
def test_a_shrunken_copy_runs(path):
    losses = losses_of(representatives()[repr(model_of(path))])
    assert total(losses).isfinite()
    assert ("loss_foreground" in losses) == ("focus" in words(path))
    assert ("loss_salience" in losses) == ("salience" in words(path))


@pytest.mark.parametrize("coco", coco_configs(), ids=lambda config: str(config.path))
def test_a_config_is_what_its_name_says(coco):
    model, named = model_of(coco.path), coco.encoder.split("-")
    ratio = next((int(w[1:]) / 100 for w in named if w[0] == "k" and w[1:].isdigit()), 0.3)
    selector = model.encoder.get("selector")
    assert (selector is None) == (
        named[0] in ("dense", "hybrid", "none") or (named[0] == "lite" and "focus" not in named)
    )
    if "salience" in named:  # the released quotas
        assert (selector.type, selector.keep_ratio) == ("SalienceTokenSelector", None)
        assert model.encoder.background_embedding == "released"
        assert ("drawn" in named) == ("train_keep_ratio" in selector)
    elif selector is not None:
        assert selector.keep_ratio == ratio
        kinds = {True: "FocusTokenSelector", False: "DecoderAttentionSelector"}
        assert selector.type == kinds["focus" in named]
    if named[0] == "lite":
        high, blocks = lite_schedule(named)
        layers = {1: 6, 2: 3, 3: 2}[blocks]
        assert model.encoder.schedule == f"H{high}L{4 - high}-({layers}+1)x{blocks}"
    for setting in (model.encoder.get("attention"), model.get("decoder_attention")):
        assert (setting == "key_aware") == ("aware" in named)
    if "aware" in named:  # as in the released models: tests/fixtures/models/lite_dino_r50.npz
        offsets = dict(same_locations_on_every_level=False)
        assert model.encoder.key_aware == model.decoder_key_aware == offsets
    config = Config.fromfile(ROOT / coco.path)
    assert config.max_epochs == config.train_cfg.max_epochs == coco.epochs
    assert [s.end for s in config.param_scheduler if s.by_epoch] == [coco.epochs]
    gpus, batch = map(int, re.search(r"_(\d+)xb(\d+)-", coco.path.stem).groups())
    assert config.train_dataloader.batch_size == batch
    assert config.auto_scale_lr.base_batch_size == gpus * batch


# the first config of each distinct set of parameters: ratios and backbones have none
STRUCTURES = {
    (config.detector, re.sub(r"-k\d+$", "", config.encoder)): config.path
    for config in reversed(coco_configs())
}


@pytest.mark.parametrize("path", STRUCTURES.values(), ids=str)
def test_the_real_size_builds(path):
    model = copy.deepcopy(model_of(path))
    model.backbone = dict(type="ResNet", depth=18, base_channels=8, init_cfg=None)
    with torch.device("meta"):
        built = MODELS.build(model)
    assert len(built.decoder.layers) == 6 and built.encoder.embed_dims == 256
    if model.encoder.type not in ("HybridEncoder", "NoEncoder"):
        assert len(built.encoder.layers) == 6
        assert built.encoder.layers[0].ffn.embed_dims == 256
    if selector := model.encoder.get("selector"):
        actual = built.encoder.selector.schedule.per_layer
        ratio = selector.keep_ratio
        if selector.type == "SalienceTokenSelector":
            # (0.4 * 64 + 0.8 * 16 + 4 + 1) / 85 of all tokens, and the layers' shares of those
            expected = [43.4 / 85 * share for share in (1, 0.8, 0.6, 0.6, 0.4, 0.2)]
        elif selector.type == "FocusTokenSelector":
            expected = cascade_of_average(ratio, len(actual))
        else:
            expected = [ratio] * len(actual)
        assert actual == pytest.approx(tuple(expected))


@pytest.mark.parametrize("backbone", ["r50", "r101", "swin-t", "swin-b-224-22k", "swin-b-384-22k"])
def test_a_backbone_gives_what_the_neck_takes(backbone):
    config = next(p for p in CONFIGS if f"_{backbone}_" in p.name)
    model = copy.deepcopy(model_of(config))
    model.backbone.init_cfg = None
    built = MODELS.build(model.backbone)
    built.eval()
    maps = built(torch.zeros(1, 3, 64, 64))
    assert [m.shape[1] for m in maps] == list(model.neck.in_channels)
    assert [m.shape[2] for m in maps] == [8, 4, 2]


def test_a_config_states_only_its_difference():
    assert max(len((ROOT / path).read_text().splitlines()) for path in CONFIGS) <= 40
