"""Our DINO against MMDetection's, and with each of its encoders."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from mmdet.models.layers import MLP
from mmdet.models.layers.transformer.utils import coordinate_to_encoding
from mmdet.registry import MODELS

from sparse_encoders.detectors.decoders import PositionHead
from tiny import build, dino_config, ours, samples, total

SAME = ([(96, 128), (96, 128)], (96, 128))
PADDED = ([(96, 128), (70, 100)], (96, 128))


def flat(losses: dict[str, Any]) -> dict[str, torch.Tensor]:
    return {k: sum(v) if isinstance(v, list) else v for k, v in losses.items()}


@pytest.fixture(scope="module")
def pair():
    theirs = build(dino_config())
    dims = theirs.embed_dims
    if theirs.decoder.ref_point_head.layers[0].in_features == 4 * dims:  # MMDetection's fork
        theirs.decoder.ref_point_head = PositionHead(dims)
    dense = build(ours(attention_backend="mmcv"))
    dense.load_state_dict(theirs.state_dict())  # strict: no renaming, nothing missing
    return theirs, dense


@pytest.mark.parametrize("shapes", [SAME, PADDED], ids=["same size", "padded"])
def test_dense_is_mmdetections_bit_for_bit(pair, shapes):
    images = torch.randn(2, 3, *shapes[1])
    batch = samples(*shapes, boxes=(3, 2))
    results = []
    for model in pair:
        model.eval()
        with torch.no_grad():
            actual = model(images, copy.deepcopy(batch), mode="predict")
        model.train()
        torch.manual_seed(1)  # the denoising noise
        losses = flat(model(images, copy.deepcopy(batch), mode="loss"))
        results.append((actual, losses))
    (actual, losses), (our_found, our_losses) = results
    for a, b in zip(actual, our_found, strict=True):
        for field in ("bboxes", "scores", "labels"):
            assert torch.equal(a.pred_instances[field], b.pred_instances[field])
    assert losses.keys() == our_losses.keys()
    assert all(torch.equal(losses[k], our_losses[k]) for k in losses)


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


def test_importing_the_package_leaves_mmdetections_dino_alone():
    assert MODELS.get("DINO").__module__.startswith("mmdet.")
    assert MODELS.get("sparse_encoders.DINO").__module__ == "sparse_encoders.detectors.dino"


@pytest.mark.parametrize("boxes", [(3, 2), (3, 0), (0, 0)])
@pytest.mark.parametrize("encoder", ["DenseEncoder", "DualAttentionEncoder"])
def test_every_parameter_gets_a_gradient(encoder, boxes):
    """Distributed training waits for each, also in a batch without boxes."""
    model = build(ours(encoder=dict(type=encoder))).train()
    losses = model(torch.randn(2, 3, *PADDED[1]), samples(*PADDED, boxes=boxes), mode="loss")
    assert ("loss_foreground" in losses) == (encoder == "DualAttentionEncoder")
    total(losses).backward()
    without = [k for k, p in model.named_parameters() if p.requires_grad and p.grad is None]
    assert without == []


def test_the_swap_is_one_line(monkeypatch):
    """Changing ``encoder.type`` alone works both ways, whatever else the encoder dict says."""
    said = []
    monkeypatch.setattr("sparse_encoders.registry.print_log", lambda m, *_, **__: said.append(m))
    rest = dict(values="updated", selector=dict(type="FocusTokenSelector", keep_ratio=0.2))
    for name in ("DualAttentionEncoder", "DenseEncoder"):
        model = build(ours(encoder=dict(type=name, **rest)))
        assert type(model.encoder).__name__ == name
        assert len(said) == (0 if name == "DualAttentionEncoder" else 2)
    assert "model.encoder.values belongs to DualAttentionEncoder: DenseEncoder ignores it" in said


def test_a_dense_checkpoint_starts_a_pruned_model(pair):
    pruned = build(ours(encoder=dict(type="DualAttentionEncoder")))
    missing, unexpected = pruned.load_state_dict(pair[0].state_dict(), strict=False)
    assert not unexpected
    assert all("selector" in k or "object_attention" in k for k in missing)


def test_no_parameter_is_twice_in_the_state_dict():
    model = build(ours(encoder=dict(type="DualAttentionEncoder")))
    state = model.state_dict(keep_vars=True)
    heads = {id(v) for k, v in state.items() if "branches" in k}
    encoder = {id(v) for k, v in state.items() if k.startswith("encoder.")}
    assert not heads & encoder


@pytest.mark.parametrize("encoder", ["DenseEncoder", "DualAttentionEncoder"])
def test_an_image_of_32_pixels_trains_and_tests(encoder):
    model = build(ours(encoder=dict(type=encoder)))
    images, batch = torch.randn(1, 3, 32, 32), samples([(32, 32)], (32, 32), boxes=(1,))
    loss = total(model.train()(images, batch, mode="loss"))
    loss.backward()
    assert loss.isfinite()
    assert not any(p.grad.isnan().any() for p in model.parameters() if p.grad is not None)
    with torch.no_grad():
        actual = model.eval()(images, batch, mode="predict")[0].pred_instances
    assert actual.bboxes.isfinite().all()


@torch.no_grad()
def test_padding_is_honoured_at_test_time():
    """What stands in the padding changes no detection."""
    model = build(ours(encoder=dict(type="DualAttentionEncoder"))).eval()
    images = torch.randn(2, 3, *PADDED[1])
    images[1, :, 70:] = 0
    images[1, :, :, 100:] = 0
    batch = samples(*PADDED, boxes=(1, 1))
    clean = model(images, copy.deepcopy(batch), mode="predict")[1].pred_instances
    neck = model.extract_feat

    def noisy(inputs):
        features = neck(inputs)
        for feature in features:
            h, w = feature.shape[-2:]
            rows = -(-70 * h // 96)
            feature[1, :, rows:] += torch.randn_like(feature[1, :, rows:]) * 100
            del w
        return features

    model.extract_feat = noisy
    dirty = model(images, copy.deepcopy(batch), mode="predict")[1].pred_instances
    assert torch.allclose(clean.scores, dirty.scores, atol=1e-5)
    assert torch.allclose(clean.bboxes, dirty.bboxes, atol=1e-2)


def test_keep_ratio_changes_on_the_detector():
    model = build(ours(encoder=dict(type="DualAttentionEncoder")))
    model.set_keep_ratio(0.1)
    assert model.encoder.selector.schedule.average == pytest.approx(0.1)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (dict(encoder=dict(type="L1Loss")), r"model.encoder.type must be one of .*DenseEncoder"),
        (dict(encoder=dict(type="FocusEncoder")), r"must be one of .*got 'FocusEncoder'"),
        (
            dict(encoder=dict(type="DenseEncoder", keepratio=0.3)),
            r"model.encoder.keepratio is not a setting of DenseEncoder; accepted: .*num_layers",
        ),
        (dict(num_queries=20), "max_per_img is 300, but 20 queries of 5 classes"),
        (dict(attention_backend="fastest"), "backend"),
        (
            dict(encoder=dict(type="DualAttentionEncoder", selector=dict(keep_ratio=0))),
            r"keep_ratio must lie in \(0, 1\]",
        ),
    ],
)
def test_bad_settings_are_refused_when_built(settings, message):
    with pytest.raises(ValueError, match=message):
        build(ours(**settings))


def test_bfloat16_autocast_trains():
    model = build(ours(encoder=dict(type="DualAttentionEncoder"))).train()
    batch = samples(*PADDED, boxes=(3, 2))
    with torch.autocast("cpu", torch.bfloat16):
        loss = total(model(torch.randn(2, 3, *PADDED[1]), batch, mode="loss"))
    loss.backward()
    assert loss.isfinite()
