"""Every encoder in every detector: an epoch of three batches, then predictions."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from mmdet.registry import MODELS

from quick import pairs, slow_but
from tiny import NUM_CLASSES, build, samples, total
from tiny_detectors import DETECTORS, detector_config

ENCODERS = {
    "dense": dict(type="DenseEncoder"),
    "sparse": dict(type="SparseDETREncoder"),
    "focus": dict(type="DualAttentionEncoder"),
    "salience": dict(
        type="DualAttentionEncoder",
        background_embedding="released",
        selector=dict(type="SalienceTokenSelector", modulation_place="after_norm"),
    ),
    "hybrid": dict(type="HybridEncoder", feedforward_channels=64),
    "none": dict(type="NoEncoder"),
    "lite": dict(type="LiteDETREncoder", blocks=1),
    "lite key-aware": dict(
        type="LiteDETREncoder", blocks=1, attention="key_aware", small_low_level_ffn=True
    ),
    "lite + focus": dict(
        type="LiteDETREncoder",
        blocks=1,
        small_low_level_ffn=True,
        selector=dict(type="FocusTokenSelector", keep_ratio=0.3),
    ),
}
# boxes on the two images of each batch: none at all must train as well
EPOCH = ((3, 2), (2, 0), (0, 0))
INPUT = (64, 96)


@pytest.fixture
def uninitialised_memory_is_nan() -> Iterator[None]:
    torch.use_deterministic_algorithms(True, warn_only=True)
    yield
    torch.use_deterministic_algorithms(False)


@pytest.mark.parametrize(
    ("detector", "encoder"),
    [*(("DINO", encoder) for encoder in ENCODERS), *((kind, "focus") for kind in DETECTORS)],
)
def test_what_is_built_holds_numbers(
    detector: str, encoder: str, uninitialised_memory_is_nan: None
) -> None:
    """Before ``init_weights``, too: a detector that is to be loaded may be run as it is built."""
    model = MODELS.build(detector_config(detector, ENCODERS[encoder]))
    assert [n for n, tensor in model.state_dict().items() if not tensor.isfinite().all()] == []


@pytest.mark.parametrize(
    ("detector", "encoder"),
    pairs(DETECTORS, ENCODERS, quick=("DeformableDETR", "DINO"), each="focus"),
)
def test_trains_and_predicts(detector: str, encoder: str) -> None:
    model = build(detector_config(detector, ENCODERS[encoder]))
    optimiser = torch.optim.SGD((p for p in model.parameters() if p.requires_grad), lr=1e-3)
    model.train()
    for step, boxes in enumerate(EPOCH):
        batch = samples([INPUT, (50, 80)], INPUT, boxes=boxes, seed=step)
        losses = model(torch.randn(2, 3, *INPUT), batch, mode="loss")
        loss = total(losses)
        assert loss.isfinite()
        optimiser.zero_grad()
        loss.backward()
        unused = [n for n, p in model.named_parameters() if p.requires_grad and p.grad is None]
        assert unused == []
        assert all(p.grad.isfinite().all() for p in model.parameters() if p.requires_grad)
        optimiser.step()
    model.eval()
    with torch.no_grad():
        actual = model(
            torch.randn(2, 3, *INPUT), samples([INPUT] * 2, INPUT, (0, 0)), mode="predict"
        )
    for sample in actual:
        detected = sample.pred_instances
        assert detected.bboxes.shape == (50, 4)
        assert detected.bboxes.isfinite().all()
        assert ((detected.scores > 0) & (detected.scores < 1)).all()
        assert (detected.labels < NUM_CLASSES).all()


@pytest.mark.parametrize("detector", slow_but(["DeformableDETR", "DINO"], DETECTORS))
def test_key_aware_decoder(detector: str) -> None:
    model = build(
        detector_config(
            detector,
            decoder_attention="key_aware",
            decoder_key_aware=dict(separate_key_projection=True),
        )
    ).train()
    names = [n for n, _ in model.decoder.named_parameters()]
    assert any("cross_attn.key_proj" in n for n in names)
    assert not any("cross_attn.attention_weights" in n for n in names)
    offsets = model.decoder.layers[0].cross_attn.sampling_offsets.weight
    assert offsets.abs().sum() == 0  # MMDetection's initialisation of all matrices did not stay
    losses = model(torch.randn(2, 3, *INPUT), samples([INPUT] * 2, INPUT, (2, 1)), mode="loss")
    total(losses).backward()
    assert [n for n, p in model.named_parameters() if p.requires_grad and p.grad is None] == []


@pytest.mark.parametrize("detector", slow_but(["DeformableDETR", "DINO"], DETECTORS))
def test_tiny_image(detector: str) -> None:
    """A 32 x 32 image has fewer tokens than a two-stage detector has queries."""
    model = build(detector_config(detector, ENCODERS["lite + focus"])).train()
    losses = model(torch.randn(1, 3, 32, 32), samples([(32, 32)], (32, 32), (1,)), mode="loss")
    assert total(losses).isfinite()
    model.eval()
    with torch.no_grad():
        unseen = samples([(32, 32)], (32, 32), (0,))
        actual = model(torch.randn(1, 3, 32, 32), unseen, mode="predict")
    assert actual[0].pred_instances.scores.isfinite().all()


@pytest.mark.parametrize("detector", slow_but(["DeformableDETR", "DINO"], DETECTORS))
def test_bfloat16(detector: str) -> None:
    config = detector_config(detector, ENCODERS["lite key-aware"], decoder_attention="key_aware")
    model = build(config).train()
    batch = samples([INPUT, (50, 80)], INPUT, boxes=(2, 1))
    with torch.autocast("cpu", torch.bfloat16):
        losses = model(torch.randn(2, 3, *INPUT), batch, mode="loss")
    total(losses).backward()
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.requires_grad)


def test_refused_decoder_settings() -> None:
    with pytest.raises(ValueError, match=r"decoder_attention must be one of .*got 'linear'"):
        build(detector_config("DINO", decoder_attention="linear"))
    with pytest.raises(ValueError, match="decoder_key_aware is set"):
        build(detector_config("DINO", decoder_key_aware=dict(separate_key_projection=True)))
