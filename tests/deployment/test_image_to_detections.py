"""The deployed function gives what the detector predicts; it compiles and runs in bfloat16."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from deployed import SIZE, detector, picture
from quick import exhaustive_but
from skips import skip_without_graphs_of_dataclasses
from sparse_encoders.deployment import ImageToDetections, attention_backend
from sparse_encoders.mixed_precision import BFloat16OptimWrapper
from tiny import samples, total
from tiny_detectors import DETECTORS


@pytest.mark.parametrize("kind", DETECTORS)
def test_it_gives_what_predict_gives(kind: str) -> None:
    model = detector(kind)
    image = picture()
    given = {"inputs": [image[0]], "data_samples": samples([SIZE], SIZE, [0])}
    with torch.no_grad():
        actual = ImageToDetections(model, SIZE)(image)
        fed = model.data_preprocessor(given)
        (sample,) = model.predict(fed["inputs"], fed["data_samples"], rescale=False)
    expected = sample.pred_instances
    assert actual[0].shape == (1, 50, 4) and actual[2].dtype == torch.int64
    torch.testing.assert_close(actual[0][0], expected.bboxes)
    torch.testing.assert_close(actual[1][0], expected.scores)
    assert torch.equal(actual[2][0], expected.labels)
    assert actual[1][0, 0] > actual[1][0, -1]


def test_an_image_of_few_tokens() -> None:
    model = detector()
    with torch.no_grad():
        boxes, _, _ = ImageToDetections(model, (32, 32))(torch.rand(1, 3, 32, 32))
    assert boxes.isfinite().all() and boxes.max() <= 32


def test_a_normalised_image() -> None:
    mean, std = torch.tensor([1.0, 2.0, 3.0]), torch.tensor([4.0, 5.0, 6.0])
    numbers = dict(mean=mean.tolist(), std=std.tolist(), bgr_to_rgb=True)
    model = detector(data_preprocessor=dict(type="DetDataPreprocessor", **numbers))
    given = (picture().flip(1) - mean.view(3, 1, 1)) / std.view(3, 1, 1)
    with torch.no_grad():
        raw = ImageToDetections(model, SIZE)(picture())
        normalised = ImageToDetections(model, SIZE, normalize=False)(given)
    torch.testing.assert_close(raw[1], normalised[1])


@pytest.mark.parametrize(
    "encoder",
    exhaustive_but(["focus", "hybrid"], ["focus", "salience", "hybrid", "none"], quick=()),
)
def test_it_compiles_as_one_graph(encoder: str) -> None:
    """With the operators of this package in it; 'eager' runs the captured graph as it is."""
    skip_without_graphs_of_dataclasses()
    model = detector(encoder=encoder)
    function = ImageToDetections(model, SIZE).eval()
    with torch.no_grad():
        actual = torch.compile(function, backend="eager", fullgraph=True)(picture())
        for ours, expected in zip(actual, function(picture()), strict=True):
            torch.testing.assert_close(ours, expected)


@pytest.mark.parametrize(
    ("kind", "encoder"), [("DINO", "focus"), ("HDETR", "lite"), ("DNDETR", "lite key-aware")]
)
def test_bfloat16(kind: str, encoder: str) -> None:
    """Inference with float32 and with bfloat16 weights, and a training step."""
    model = detector(kind, encoder)
    function = ImageToDetections(model, SIZE)
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        boxes, scores, _ = function(picture())
        fed = samples([SIZE], SIZE, [0])
        predicted = model.predict(function._normalised(picture()), fed)[0].pred_instances
    torch.testing.assert_close(predicted.bboxes, boxes[0])  # metrics need float32
    exact = function(picture())[1]
    assert boxes.dtype == scores.dtype == torch.float32
    assert (scores - exact).abs().max() < 0.1
    model.train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)
    wrapper = BFloat16OptimWrapper(optimizer, clip_grad=dict(max_norm=0.1))
    before = model.encoder.layers[0].norms[0].weight.clone()
    shapes = [(96, 128), (64, 100)]
    with wrapper.optim_context(model):
        loss = total(model.loss(torch.randn(2, 3, *SIZE), samples(shapes, SIZE, [3, 2])))
    wrapper.update_params(loss)
    assert loss.isfinite() and not torch.equal(before, model.encoder.layers[0].norms[0].weight)
    assert all(p.dtype == torch.float32 and p.isfinite().all() for p in model.parameters())
    model.eval().to(torch.bfloat16)
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        assert function(picture().bfloat16())[0].isfinite().all()


def test_the_bfloat16_wrapper_settles_its_dtype() -> None:
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.1)
    with pytest.raises(TypeError, match=r"optim_wrapper\.loss_scale is no setting of BFloat16"):
        BFloat16OptimWrapper(optimizer, loss_scale="dynamic")
    wrapper = BFloat16OptimWrapper(optimizer)
    wrapper.load_state_dict(wrapper.state_dict())


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="float16 needs a GPU")
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_on_a_gpu(dtype: torch.dtype) -> None:
    from mmengine.optim import AmpOptimWrapper

    model = detector().cuda()
    with torch.no_grad(), torch.autocast("cuda", dtype=dtype):
        boxes, scores, _ = ImageToDetections(model, SIZE)(picture().cuda())
    assert boxes.isfinite().all() and scores.dtype == torch.float32
    model.train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)
    wrapper = AmpOptimWrapper(optimizer=optimizer, dtype=str(dtype).removeprefix("torch."))
    fed = [sample.to("cuda") for sample in samples([SIZE], SIZE, [3])]
    with wrapper.optim_context(model):
        loss = total(model.loss(torch.randn(1, 3, *SIZE, device="cuda"), fed))
    wrapper.update_params(loss)
    assert loss.isfinite()


ORACLE = dict(type="DualAttentionEncoder", selector=dict(type="OracleSelector"))


@pytest.mark.parametrize(
    ("model", "size", "error", "message"),
    [
        (lambda: torch.nn.Linear(1, 1), SIZE, TypeError, "detector of sparse_encoders, got Linear"),
        (detector, (0, 5), ValueError, r"image_hw must be at least \(1, 1\), got \(0, 5\)"),
        (lambda: detector().train(), SIZE, ValueError, r"in training mode; call model\.eval"),
        (lambda: detector(encoder=ORACLE), SIZE, ValueError, "OracleSelector reads the boxes"),
    ],
)
def test_what_cannot_be_deployed(model: Any, size: Any, error: Any, message: str) -> None:
    with pytest.raises(error, match=message):
        ImageToDetections(model(), size)


def test_backends_come_back() -> None:
    model = detector(attention_backend="auto")
    attention = model.encoder.layers[0].self_attn
    with pytest.raises(RuntimeError), attention_backend(model, "torch"):
        assert attention.backend == "torch"
        raise RuntimeError
    assert attention.backend == "auto"
