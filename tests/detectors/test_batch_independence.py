"""A picture's detections depend neither on the pictures beside it nor on what is in its padding.

Every encoder, with every selector that it takes, in every detector. The padded size is the same in
all batches; so is what the backbone sees of a picture.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from mmdet.structures import DetDataSample
from torch import Tensor, nn

import tiny_detectors
from quick import pairs
from tiny import NUM_CLASSES, build, samples
from tiny_detectors import QUERIES, SPARSE_DETR, detector_config

PIXELS, SCORE = 1e-3, 1e-5
PADDED = (64, 96)
PICTURES = {"small": (34, 40), "picture": (50, 80), "whole": PADDED}
# pictures of each batch; a batch of whole ones alone has no padding mask
BATCHES = (("picture",), ("picture", "small"), ("whole", "picture"), ("whole",))

ONE_STAGE = "one-stage, unrefined DeformableDETR"
DETECTORS = (ONE_STAGE, *tiny_detectors.DETECTORS, SPARSE_DETR)
SELECTORS = (
    "DecoderAttentionSelector",
    "FocusTokenSelector",
    "OracleSelector",
    "RandomSelector",
    "SalienceTokenSelector",
)
DUAL = dict(type="DualAttentionEncoder", num_object_tokens=12)
LITE = tiny_detectors.ENCODERS["lite"]
PRUNING: dict[str, dict[str, Any]] = {
    "sparse": dict(type="SparseDETREncoder"),
    "dual": DUAL,
    "dual, paper": dict(**DUAL, values="updated", object_score="probability"),
    "lite": dict(**LITE, small_low_level_ffn=True),
    "lite, all pruned": dict(**LITE, prune_high_levels=True),
}
ENCODERS: dict[str, dict[str, Any]] = {
    **{name: tiny_detectors.ENCODERS[name] for name in ("dense", "hybrid", "none")},
    "lite alone": LITE,
    "lite, key-aware": dict(**LITE, attention="key_aware"),
    "salience": dict(tiny_detectors.ENCODERS["salience"], num_object_tokens=12),
    "sparse + RandomSelector by level": dict(
        type="SparseDETREncoder",
        selector=dict(type="RandomSelector", by_level=True, keep_ratio=[0.6, 0.3]),
    ),
    **{
        f"{name} + {selector}": {
            **encoder,
            "selector": dict(type=selector, keep_ratio=[0.6, 0.3], count="batch"),
        }
        for name, encoder in PRUNING.items()
        for selector in SELECTORS
    },
}


def spread_weights(module: nn.Module) -> None:
    """Weights under which detections differ from each other and depend on the memory."""
    generator = torch.Generator().manual_seed(1)
    for name, parameter in module.named_parameters():
        if name.startswith("backbone."):
            continue
        if parameter.dim() > 1:
            # thirty convolutions one after another must not make numbers, and rounding, grow
            std = parameter[0].numel() ** -0.5 if name.startswith("fusion.") else 0.08
            # nn.init.normal_ of torch 2.1 takes no generator
            parameter.data.normal_(std=std, generator=generator)
        elif "cls_branches" in name:
            nn.init.zeros_(parameter)


class Detector:
    """A tiny detector whose encoder is changed, on batches whose features are computed once."""

    def __init__(self, name: str) -> None:
        kind = "DeformableDETR" if name == ONE_STAGE else name
        test_cfg = dict(max_per_img=QUERIES * NUM_CLASSES)  # all: no cut that a tie could move
        config = detector_config(kind, test_cfg=test_cfg, with_box_refine=name != ONE_STAGE)
        self.model: Any = build(config).eval()
        spread_weights(self.model)
        self.layer_cfg = self.model.encoder.layer_cfg
        self.batches = []
        for names in BATCHES:
            images, fed = batch_of(names)
            with torch.no_grad():
                features = self.model.extract_feat(images)
            # MMDetection's DDQ-DETR may choose a token of padding as a query, with what is there
            if kind != "DDQDETR":
                fill_padding(features, [PICTURES[name] for name in names])
            self.batches.append((features, fed))
        self.model.extract_feat = lambda features: features

    @torch.no_grad()
    def detections(self, encoder: dict[str, Any]) -> list[list[DetDataSample]]:
        """Of each batch, with another encoder."""
        config = dict(num_layers=2, layer_cfg=self.layer_cfg, **copy.deepcopy(encoder))
        self.model.encoder = self.model.build_encoder(config).eval()
        spread_weights(self.model.encoder)
        return [self.model.predict(features, copy.deepcopy(fed)) for features, fed in self.batches]


def fill_padding(features: Sequence[Tensor], sizes: Sequence[tuple[int, int]]) -> None:
    """Add noise to the cells of each level that lie beyond an image, other in each batch."""
    for level in features:
        for feature, (height, width) in zip(level, sizes, strict=True):
            rows, columns = feature.shape[-2:]
            noise = torch.randn_like(feature) * 100
            noise[:, : -(-height * rows // PADDED[0]), : -(-width * columns // PADDED[1])] = 0
            feature += noise


def batch_of(names: tuple[str, ...]) -> tuple[Tensor, list[DetDataSample]]:
    """Padded images and their samples; a picture is the same in every batch."""
    images, fed = [], []
    for name in names:
        (height, width), seed = PICTURES[name], list(PICTURES).index(name)
        image = torch.zeros(3, *PADDED)
        generator = torch.Generator().manual_seed(seed)
        image[:, :height, :width] = torch.randn(3, height, width, generator=generator)
        images.append(image)
        fed += samples([(height, width)], PADDED, (3,), seed=seed)
    return torch.stack(images), fed


@pytest.fixture(scope="module")
def detector(request: pytest.FixtureRequest) -> Detector:
    return Detector(request.param)


def farthest(ours: DetDataSample, others: DetDataSample) -> float:
    """Way from a detection to the other set's nearest of its label, in tolerances."""
    a, b = ours.pred_instances, others.pred_instances
    apart = (a.bboxes[:, None] - b.bboxes).abs().amax(-1) / PIXELS
    apart = apart.maximum((a.scores[:, None] - b.scores).abs() / SCORE)
    apart = apart.masked_fill(a.labels[:, None] != b.labels, torch.inf)
    return float(apart.amin(1).max())


@pytest.mark.parametrize(
    ("detector", "encoder"),
    pairs(DETECTORS, ENCODERS, quick=("DINO",), each="dual + FocusTokenSelector"),
    indirect=["detector"],
)
def test_a_picture_is_the_same_alone_and_beside_others(detector: Detector, encoder: str) -> None:
    """Detections are compared as sets: those of equal scores may stand in any order."""
    (alone,), (beside_smaller, _), (whole, beside_larger), (whole_alone,) = detector.detections(
        ENCODERS[encoder]
    )
    assert len(alone.pred_instances) == QUERIES * NUM_CLASSES
    assert alone.pred_instances.scores.unique().numel() > QUERIES
    for one, other in ((alone, beside_smaller), (alone, beside_larger), (whole_alone, whole)):
        assert max(farthest(one, other), farthest(other, one)) <= 1
