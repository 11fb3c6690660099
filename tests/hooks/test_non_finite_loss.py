"""A loss that is no number stops the training and names where it began."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from mmdet.registry import HOOKS
from mmengine.config import Config
from mmengine.runner import Runner
from torch import Tensor, nn
from torch.utils.data import Dataset

from skips import needs_scaler
from sparse_encoders.hooks.non_finite_loss import non_finite_losses
from tiny import build, samples
from tiny_detectors import detector_config

INPUT = (64, 96)
SPARSE = dict(type="SparseDETREncoder")
FOCUS = dict(type="DualAttentionEncoder")
FINITE = "every tensor of encoder and selector was finite"


@contextmanager
def watched(model: nn.Module) -> Iterator[nn.Module]:
    hook = HOOKS.build(dict(type="NonFiniteLossHook"))
    runner: Any = SimpleNamespace(model=model.train(), iter=6)
    hook.before_train(runner)
    try:
        yield model
    finally:
        hook.after_train(runner)


def losses(model: nn.Module, nan_at: Any = None, **settings: Any) -> dict[str, Tensor]:
    torch.manual_seed(0)
    images = torch.randn(2, 3, *INPUT)
    if nan_at is not None:
        images[nan_at] = torch.nan
    actual: dict[str, Tensor] = model(
        images, samples([INPUT] * 2, INPUT, boxes=(2, 1)), mode="loss", **settings
    )
    return actual


def sentence(model: nn.Module, **settings: Any) -> str:
    with pytest.raises(FloatingPointError) as stopped:
        losses(model, **settings)
    return str(stopped.value)


def set_nan(parameter: nn.Parameter) -> None:
    with torch.no_grad():
        parameter.view(-1)[0] = torch.nan


@pytest.mark.parametrize("encoder", [dict(type="DenseEncoder"), SPARSE, FOCUS], ids=str)
def test_nan_in_the_features(encoder: dict[str, Any]) -> None:
    with watched(build(detector_config("DINO", encoder))) as model:
        message = sentence(model, nan_at=(1, 0, 30, 40))
    assert "training stopped in iteration 7: " in message
    assert "not finite is the features that the encoder takes from the neck" in message
    assert "among the weights" not in message


@pytest.mark.parametrize(
    ("encoder", "weight", "module", "loss"),
    [
        (FOCUS, "selector.score_mlp.embed.1.weight", "selector.score_mlp.embed.1", "foreground"),
        (FOCUS, "selector.score_mlp.head.2.bias", "selector.score_mlp.head.2", "foreground"),
        (SPARSE, "selector.score_mlp.head.0.weight", "selector.score_mlp.head.1", "attention"),
    ],
)
def test_nan_in_a_weight_of_the_selector(
    encoder: dict[str, Any], weight: str, module: str, loss: str
) -> None:
    with watched(build(detector_config("DINO", encoder))) as model:
        set_nan(model.encoder.get_parameter(weight))
        message = sentence(model)
    assert f"not finite is the output of encoder.{module};" in message
    assert message.endswith(f"; not finite among the weights: encoder.{weight}")
    assert loss in message.partition(" is nan")[0]


def test_nan_in_a_layer() -> None:
    with watched(build(detector_config("DINO", FOCUS))) as model:
        set_nan(model.encoder.layers[1].ffn.layers[1].bias)
        message = sentence(model)
    assert "is the output of encoder.layers.1.ffn;" in message


@pytest.mark.parametrize("name", ["loss_cls", "loss_bbox", "loss_iou"])
def test_infinity_in_one_loss_only(name: str) -> None:
    """Of one decoder layer: what is computed first is not what stands first in the dict."""
    with watched(build(detector_config("DINO", FOCUS))) as model:
        module = getattr(model.bbox_head, name)
        module.loss_weight = torch.inf
        message = sentence(model)
    # DINO's matching losses: layer 0, layer 1 (without prefix), first stage, denoising
    assert f"d0.{name} is inf, the first of 5 losses" in message
    assert FINITE in message


def test_the_order_is_that_of_computation() -> None:
    x = torch.ones((), requires_grad=True)
    early, late = x * torch.nan, x * torch.inf
    actual = non_finite_losses({"loss": late, "acc": x * torch.nan, "a_loss": [x * 1, early]})
    assert [name for name, _ in actual] == ["a_loss", "loss"]
    assert actual[1][1] == torch.inf
    assert non_finite_losses({"loss": x * 1, "acc": x * torch.nan}) == []
    assert [name for name, _ in non_finite_losses({"loss": torch.tensor(torch.nan)})] == ["loss"]


@pytest.mark.parametrize("num_cp", [0, 2])
def test_it_changes_nothing_else(num_cp: int) -> None:
    plain = build(detector_config("DINO", {**FOCUS, "num_cp": num_cp})).train()
    expected = losses(plain)
    sum(x.sum() for x in expected.values()).backward()
    with watched(build(detector_config("DINO", {**FOCUS, "num_cp": num_cp}))) as model:
        actual = losses(model)
        sum(x.sum() for x in actual.values()).backward()
    for name in expected:
        assert torch.equal(actual[name], expected[name])
    for mine, theirs in zip(model.parameters(), plain.parameters(), strict=True):
        assert mine.grad is None or torch.equal(mine.grad, theirs.grad)
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())
    with pytest.raises(ValueError, match="invalid numeric entries"):  # nobody watches any more
        losses(model, nan_at=(0, 0, 0, 0))


def test_only_training_is_watched() -> None:
    with watched(build(detector_config("DINO", FOCUS))) as model, torch.no_grad():
        model.eval()
        image = torch.full((1, 3, *INPUT), torch.nan)
        assert model(image, samples([INPUT], INPUT, (1,)), mode="predict")


class Overflowing(nn.Module):
    """A finite loss whose scaled gradient overflows, as under float16's loss scaling."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1))

    def forward(self) -> dict[str, Tensor]:
        return {"loss": (self.weight * 1e30).sum()}


@needs_scaler
def test_a_scaler_s_overflow_stops_nothing() -> None:
    model = Overflowing()
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**40)
    optimiser = torch.optim.SGD(model.parameters(), lr=1.0)
    with watched(model):
        for _ in range(2):
            scaler.scale(model()["loss"]).backward()
            assert not model.weight.grad.isfinite().all()
            scaler.step(optimiser)
            scaler.update()
            optimiser.zero_grad()
        assert model.weight.tolist() == [1.0]
        with torch.no_grad():
            model.weight.fill_(torch.inf)
        assert "the model has no encoder" in _stopped(model)


def _stopped(model: nn.Module) -> str:
    with pytest.raises(FloatingPointError) as stopped:
        model()
    return str(stopped.value)


class Pictures(Dataset[Any]):
    """Six random images; those from ``bad`` on are NaN."""

    def __init__(self, bad: int) -> None:
        self.bad = bad

    def __len__(self) -> int:
        return 6

    def __getitem__(self, index: int) -> dict[str, Any]:
        image = torch.randn(3, *INPUT, generator=torch.Generator().manual_seed(index))
        if index >= self.bad:
            image = image * torch.nan
        return dict(inputs=image, data_samples=samples([INPUT], INPUT, (2,), seed=index)[0])


@pytest.mark.parametrize(
    "wrapper",
    [
        dict(type="OptimWrapper", accumulative_counts=2),
        dict(type="BFloat16OptimWrapper", accumulative_counts=2),
    ],
    ids=lambda w: w["type"],
)
def test_a_config_switches_it_on(wrapper: dict[str, Any], tmp_path: Any) -> None:
    """Image 3 is broken: weights are those after the step of images 0 and 1."""
    text = 'custom_hooks = [dict(type="NonFiniteLossHook")]\n'
    config = Config.fromstring(text, ".py")
    model = detector_config("DINO", FOCUS)
    model.data_preprocessor = dict(type="DetDataPreprocessor")
    made: dict[str, Any] = dict(
        work_dir=str(tmp_path),
        experiment_name=f"nan {wrapper['type']}",
        default_scope="mmdet",
        train_dataloader=dict(
            batch_size=1,
            dataset=Pictures(bad=3),
            sampler=dict(type="DefaultSampler", shuffle=False),
            collate_fn=dict(type="pseudo_collate"),
        ),
        train_cfg=dict(by_epoch=True, max_epochs=1),
        optim_wrapper={"optimizer": dict(type="SGD", lr=1e-3), **wrapper},
    )
    runner = Runner(model=build(model), **made, **config)
    before = runner.model.level_embed.clone()
    with pytest.raises(FloatingPointError, match=r"training stopped in iteration 4: .* is nan"):
        runner.train()
    assert all(p.isfinite().all() for p in runner.model.parameters())
    assert not torch.equal(runner.model.level_embed, before)
