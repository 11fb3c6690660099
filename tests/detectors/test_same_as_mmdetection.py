"""With the dense encoder a detector is MMDetection's bit for bit, and loads its weights."""

from __future__ import annotations

import copy

import pytest
import torch
from mmdet.models.detectors import DeformableDETR
from mmdet.models.layers import MLP
from mmdet.models.layers.transformer.utils import coordinate_to_encoding

from sparse_encoders.detectors.decoders import PositionHead
from sparse_encoders.detectors.steps import DetectorSteps
from tiny import MMDET_CONFIGS, batch, build, flat, mmdet_config, ours
from tiny_detectors import detector_config

HW = (96, 128)


@pytest.fixture(scope="module", params=["DDQDETR", *MMDET_CONFIGS])
def pair(request):
    if request.param == "DDQDETR":
        config = detector_config("DDQDETR")
        config.type = "DDQDETR"
    else:
        config = mmdet_config(request.param)
    theirs = build(config)
    head, dims = getattr(theirs.decoder, "ref_point_head", None), theirs.embed_dims
    if head is not None and head.layers[0].in_features == 4 * dims:  # MMDetection's fork
        theirs.decoder.ref_point_head = PositionHead(dims)
    config.update(type=f"sparse_encoders.{config.type}", attention_backend="mmcv")
    dense = build(config)
    assert (type(theirs).__module__ + type(dense).__module__).count("sparse_encoders") == 1
    dense.load_state_dict(theirs.state_dict())  # strict: no renaming, nothing missing
    return theirs, dense


@pytest.mark.parametrize(
    ("boxes", "other"), [((3, 2), HW), ((3, 0), (70, 100))], ids=["same size", "padded"]
)
def test_predictions_and_losses(pair, boxes, other):
    given, results = batch(boxes, (HW, other)), []
    for model in pair:
        model.eval()
        with torch.no_grad():
            predicted = model(**copy.deepcopy(given), mode="predict")
        model.train()
        torch.manual_seed(1)  # dropout, the denoising noise
        results.append((predicted, flat(model(**copy.deepcopy(given), mode="loss"))))
    (predicted, losses), (our_predicted, our_losses) = results
    for a, b in zip(predicted, our_predicted, strict=True):
        for field in ("bboxes", "scores", "labels"):
            assert torch.equal(a.pred_instances[field], b.pred_instances[field])
    assert losses.keys() == our_losses.keys()
    assert [name for name in losses if not torch.equal(losses[name], our_losses[name])] == []


@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("detector", ["DINO", "two-stage DeformableDETR"])
def test_proposals(detector: str, padded: bool) -> None:
    """Of the first stage; computed without MMDetection's copies to the device."""
    model, shapes = build(detector_config(detector)).eval(), ((5, 7), (3, 4), (1, 1))
    memory = torch.randn(2, sum(h * w for h, w in shapes), 256)
    masks = [torch.zeros(2, h, w, dtype=torch.bool) for h, w in shapes]
    for level in masks[:2]:
        level[1, 2:], level[1, :, 3:] = True, True
    mask = torch.cat([level.flatten(1) for level in masks], 1) if padded else None
    assert type(model).gen_encoder_output_proposals is DetectorSteps.gen_encoder_output_proposals
    with torch.no_grad():
        actual = model.gen_encoder_output_proposals(memory, mask, shapes)
        expected = DeformableDETR.gen_encoder_output_proposals(model, memory, mask, shapes)
    assert torch.equal(actual[0], expected[0]) and torch.equal(actual[1], expected[1])


def test_a_dense_checkpoint_starts_a_pruned_model():
    pruned = build(ours(encoder=dict(type="DualAttentionEncoder")))
    dense = build(ours())
    missing, unexpected = pruned.load_state_dict(dense.state_dict(), strict=False)
    assert not unexpected
    assert missing and all("selector" in k or "object_attention" in k for k in missing)


def test_the_published_position_head_takes_the_forks_embedding():
    """The fork embeds each coordinate in C channels, DINO in C / 2; the frequencies are DINO's."""
    boxes, dims = torch.rand(2, 7, 4), 64
    head = PositionHead(dims)
    plain = MLP(2 * dims, dims, dims, 2)
    plain.load_state_dict(head.state_dict())
    narrow = coordinate_to_encoding(boxes, num_feats=dims // 2)
    wide = coordinate_to_encoding(boxes, num_feats=dims)
    assert torch.equal(head(wide), plain(narrow))
    assert torch.equal(head(narrow), plain(narrow))
