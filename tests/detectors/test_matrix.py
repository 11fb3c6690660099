"""Every encoder in every detector: an epoch of three batches, then predictions."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from mmdet.registry import MODELS

from quick import pairs, slow_but
from tiny import NUM_CLASSES, batch, build, total, without_gradient
from tiny_detectors import DETECTORS, ENCODERS, SPARSE_DETR, detector_config

# boxes on the two images of each batch: none at all must train as well
EPOCH = ((3, 2), (2, 0), (0, 0))
SMALL = ((32, 32),)


@pytest.fixture
def uninitialised_memory_is_nan() -> Iterator[None]:
    torch.use_deterministic_algorithms(True, warn_only=True)
    yield
    torch.use_deterministic_algorithms(False)


@pytest.mark.parametrize(
    ("detector", "encoder"),
    [*(("DINO", encoder) for encoder in ENCODERS), *((kind, "focus") for kind in DETECTORS)],
)
def test_what_is_built_holds_numbers_once(
    detector: str, encoder: str, uninitialised_memory_is_nan: None
) -> None:
    """Before ``init_weights``, too: a detector that is to be loaded may be run as it is built."""
    model = MODELS.build(detector_config(detector, ENCODERS[encoder]))
    assert [n for n, tensor in model.state_dict().items() if not tensor.isfinite().all()] == []
    state = model.state_dict(keep_vars=True)
    encoder = {id(v) for k, v in state.items() if k.startswith("encoder.")}
    assert not encoder & {id(v) for k, v in state.items() if not k.startswith("encoder.")}


@pytest.mark.parametrize(
    ("detector", "encoder"),
    pairs(DETECTORS, ENCODERS, quick=("DeformableDETR", "DINO"), each="focus"),
)
def test_trains_and_predicts(detector: str, encoder: str) -> None:
    model = build(detector_config(detector, ENCODERS[encoder]))
    optimiser = torch.optim.SGD((p for p in model.parameters() if p.requires_grad), lr=1e-3)
    model.train()
    for step, boxes in enumerate(EPOCH):
        loss = total(model(**batch(boxes, seed=step), mode="loss"))
        assert loss.isfinite()
        optimiser.zero_grad()
        loss.backward()
        assert without_gradient(model) == []
        assert all(p.grad.isfinite().all() for p in model.parameters() if p.requires_grad)
        optimiser.step()
    with torch.no_grad():
        actual = model.eval()(**batch((0, 0)), mode="predict")
    for sample in actual:
        detected = sample.pred_instances
        assert detected.bboxes.shape == (50, 4)
        assert detected.bboxes.isfinite().all()
        assert ((detected.scores > 0) & (detected.scores < 1)).all()
        assert (detected.labels < NUM_CLASSES).all()


def test_the_swap_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    """Changing ``encoder.type`` alone works both ways, whatever else the encoder dict says."""
    said: list[str] = []
    monkeypatch.setattr("sparse_encoders.registry.print_log", lambda m, *_, **__: said.append(m))
    rest = dict(values="updated", selector=dict(type="FocusTokenSelector", keep_ratio=0.2))
    for name in ("DualAttentionEncoder", "DenseEncoder"):
        model = build(detector_config("DINO", dict(type=name, **rest)))
        assert type(model.encoder).__name__ == name
        assert len(said) == (0 if name == "DualAttentionEncoder" else 2)
    assert "model.encoder.values belongs to DualAttentionEncoder: DenseEncoder ignores it" in said


@pytest.mark.parametrize("detector", slow_but(["DeformableDETR", "DINO"], DETECTORS))
def test_key_aware_decoder_in_bfloat16(detector: str) -> None:
    config = detector_config(
        detector,
        ENCODERS["lite key-aware"],
        decoder_attention="key_aware",
        decoder_key_aware=dict(separate_key_projection=True),
    )
    model = build(config).train()
    names = [n for n, _ in model.decoder.named_parameters()]
    assert any("cross_attn.key_proj" in n for n in names)
    assert not any("cross_attn.attention_weights" in n for n in names)
    offsets = model.decoder.layers[0].cross_attn.sampling_offsets.weight
    assert offsets.abs().sum() == 0  # MMDetection's initialisation of all matrices did not stay
    with torch.autocast("cpu", torch.bfloat16):
        losses = model(**batch((2, 1)), mode="loss")
    total(losses).backward()
    assert without_gradient(model) == []
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.requires_grad)


@pytest.mark.parametrize(
    "detector", slow_but(["DeformableDETR", "DINO", SPARSE_DETR], [*DETECTORS, SPARSE_DETR])
)
def test_tiny_image(detector: str) -> None:
    """A 32 x 32 image has fewer tokens than a two-stage detector has queries."""
    model = build(detector_config(detector, ENCODERS["lite + focus"])).train()
    loss = total(model(**batch((1,), SMALL), mode="loss"))
    loss.backward()
    assert loss.isfinite() and without_gradient(model) == []
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.requires_grad)
    with torch.no_grad():
        (actual,) = model.eval()(**batch((0,), SMALL), mode="predict")
    assert actual.pred_instances.scores.isfinite().all()
