"""The first stage's proposals are MMDetection's, without its copies to the device."""

from __future__ import annotations

import pytest
import torch
from mmdet.models.detectors import DeformableDETR

from sparse_encoders.detectors.steps import DetectorSteps
from tiny import build
from tiny_detectors import detector_config

SHAPES = ((5, 7), (3, 4), (1, 1))


@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("detector", ["DINO", "two-stage DeformableDETR"])
def test_proposals_are_mmdetections(detector: str, padded: bool) -> None:
    model = build(detector_config(detector)).eval()
    memory = torch.randn(2, sum(h * w for h, w in SHAPES), 256)
    mask = None
    if padded:
        masks = [torch.zeros(2, h, w, dtype=torch.bool) for h, w in SHAPES]
        for level in masks[:2]:
            level[1, 2:], level[1, :, 3:] = True, True
        mask = torch.cat([level.flatten(1) for level in masks], 1)
    assert type(model).gen_encoder_output_proposals is DetectorSteps.gen_encoder_output_proposals
    with torch.no_grad():
        actual = model.gen_encoder_output_proposals(memory, mask, SHAPES)
        expected = DeformableDETR.gen_encoder_output_proposals(model, memory, mask, SHAPES)
    for ours, theirs in zip(actual, expected, strict=True):
        assert torch.equal(ours, theirs)
