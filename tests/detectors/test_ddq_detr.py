"""DDQ-DETR: MMDetection's bit for bit with the dense encoder, and with any other."""

from __future__ import annotations

import copy

import pytest
import torch

from tiny import build, samples
from tiny_detectors import detector_config

SAME = ([(64, 96), (64, 96)], (64, 96))
PADDED = ([(64, 96), (50, 80)], (64, 96))


@pytest.fixture(scope="module")
def pair():
    ours = detector_config("DDQDETR")
    theirs = copy.deepcopy(ours)
    theirs.type = "DDQDETR"
    theirs = build(theirs)
    dense = build(detector_config("DDQDETR", attention_backend="mmcv"))
    dense.load_state_dict(theirs.state_dict())  # strict: no renaming, nothing missing
    return theirs, dense


@pytest.mark.parametrize("shapes", [SAME, PADDED], ids=["same size", "padded"])
def test_dense_is_mmdetections_bit_for_bit(pair, shapes):
    images, batch = torch.randn(2, 3, *shapes[1]), samples(*shapes, boxes=(3, 2))
    results = []
    for model in pair:
        model.eval()
        with torch.no_grad():
            actual = model(images, copy.deepcopy(batch), mode="predict")
        model.train()
        torch.manual_seed(1)  # the denoising noise
        losses = model(images, copy.deepcopy(batch), mode="loss")
        losses = {k: sum(v) if isinstance(v, list) else v for k, v in losses.items()}
        results.append((actual, losses))
    (actual, losses), (our_found, our_losses) = results
    for a, b in zip(actual, our_found, strict=True):
        for field in ("bboxes", "scores", "labels"):
            assert torch.equal(a.pred_instances[field], b.pred_instances[field])
    assert losses.keys() == our_losses.keys()
    assert any(name.startswith("aux_") for name in losses)
    for name, value in losses.items():
        assert torch.equal(value, our_losses[name]), name


def test_the_decoder_is_recorded_at_its_distinct_queries():
    """The selector that learns from the decoder sees neither denoising nor dense queries."""
    encoder = dict(type="SparseDETREncoder")
    model = build(detector_config("DDQDETR", encoder)).train()
    batch = samples(*PADDED, boxes=(3, 2))
    losses = model(torch.randn(2, 3, *PADDED[1]), batch, mode="loss")
    assert losses["loss_decoder_attention"].isfinite()
    with torch.no_grad():
        features = model.extract_feat(torch.randn(2, 3, *PADDED[1]))
        encoded = model.encode(features, PADDED[1], PADDED[0])
        queries = model.prepare_queries(encoded, batch)
    chosen = model.matching_queries(queries)
    denoising = queries.denoising["num_denoising_queries"]
    assert denoising > 0
    assert (chosen.start, chosen.stop) == (denoising, denoising + model.num_queries)
    assert queries.content.shape[1] > chosen.stop  # the dense ones stand behind


def test_one_decoder_layer_is_refused():
    config = detector_config("DDQDETR")
    config.decoder.num_layers = 1
    with pytest.raises(ValueError, match=r"model\.decoder\.num_layers must be at least 2"):
        build(config)
