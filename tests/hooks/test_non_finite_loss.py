"""A loss that is no number stops the training and names where it began."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from mmdet.registry import HOOKS
from torch import Tensor, nn

from skips import needs_scaler
from sparse_encoders.hooks.non_finite_loss import non_finite_losses
from tiny import batch, build, total
from tiny_detectors import ENCODERS, detector_config
from tiny_runs import Pictures, make_runner

FOCUS = ENCODERS["focus"]


@contextmanager
def watched(model: nn.Module) -> Iterator[Any]:
    hook = HOOKS.build(dict(type="NonFiniteLossHook"))
    runner: Any = SimpleNamespace(model=model.train(), iter=6)
    hook.before_train(runner)
    try:
        yield model
    finally:
        hook.after_train(runner)


def tiny(encoder: str, **settings: Any) -> Any:
    return build(detector_config("DINO", {**ENCODERS[encoder], **settings}))


def with_nan() -> dict[str, Any]:
    given = batch((2, 1))
    given["inputs"][1, 0, 30, 40] = torch.nan
    return given


@pytest.mark.parametrize(
    ("encoder", "weight", "loss", "origin"),
    [
        *(
            (encoder, None, "", "the features that the encoder takes from the neck")
            for encoder in ("dense", "sparse", "focus")
        ),
        ("focus", "selector.score_mlp.embed.1.weight", "foreground", "selector.score_mlp.embed.1;"),
        ("focus", "selector.score_mlp.head.2.bias", "foreground", "selector.score_mlp.head.2;"),
        ("sparse", "selector.score_mlp.head.0.weight", "attention", "selector.score_mlp.head.1;"),
        ("focus", "layers.1.ffn.layers.1.bias", "", "layers.1.ffn;"),
    ],
)
def test_nan(encoder: str, weight: str | None, loss: str, origin: str) -> None:
    """In the features or in a weight."""
    with watched(tiny(encoder)) as model:
        if weight is not None:
            model.encoder.get_parameter(weight).data.view(-1)[0] = torch.nan
            origin = f"the output of encoder.{origin}"
        with pytest.raises(FloatingPointError) as stopped:
            model(**(batch() if weight else with_nan()), mode="loss")
    message = str(stopped.value)
    assert message.startswith("training stopped in iteration 7: ")
    assert loss in message.partition(" is nan")[0]
    assert f"not finite is {origin}" in message
    assert ("; not finite among the weights: " in message) == (weight is not None)
    assert message.endswith(f": encoder.{weight}") == (weight is not None)


@pytest.mark.parametrize("name", ["loss_cls", "loss_bbox", "loss_iou"])
def test_infinity_in_one_loss_only(name: str) -> None:
    """Of one decoder layer: what is computed first is not what stands first in the dict."""
    with watched(tiny("focus")) as model:
        getattr(model.bbox_head, name).loss_weight = torch.inf
        with pytest.raises(FloatingPointError) as stopped:
            model(**batch(), mode="loss")
    # DINO's matching losses: layer 0, layer 1 (without prefix), first stage, denoising
    assert f"d0.{name} is inf, the first of 5 losses" in str(stopped.value)
    assert "every tensor of encoder and selector was finite" in str(stopped.value)


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
    def step(model: nn.Module) -> dict[str, Tensor]:
        torch.manual_seed(0)
        losses: dict[str, Tensor] = model(**batch(), mode="loss")
        total(losses).backward()
        return losses

    plain = tiny("focus", num_cp=num_cp).train()
    expected = step(plain)
    with watched(tiny("focus", num_cp=num_cp)) as model:
        torch.testing.assert_close(step(model), expected, rtol=0, atol=0)
        with torch.no_grad():  # only training is watched
            assert model.eval()(**with_nan(), mode="predict")
    for mine, theirs in zip(model.parameters(), plain.parameters(), strict=True):
        assert mine.grad is None or torch.equal(mine.grad, theirs.grad)
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())
    with pytest.raises(ValueError, match="invalid numeric entries"):  # nobody watches any more
        model.train()(**with_nan(), mode="loss")


class Overflowing(nn.Module):
    """A finite loss whose scaled gradient overflows, as under float16's loss scaling."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1))

    def forward(self) -> dict[str, Tensor]:
        return {"loss": (self.weight * 1e30).sum()}


@needs_scaler
def test_a_scaler_s_overflow_stops_nothing() -> None:
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**40)
    with watched(Overflowing()) as model:
        optimiser = torch.optim.SGD(model.parameters(), lr=1.0)
        scaler.scale(model()["loss"]).backward()
        assert not model.weight.grad.isfinite().all()
        scaler.step(optimiser)
        assert model.weight.tolist() == [1.0]
        model.weight.data.fill_(torch.inf)
        with pytest.raises(FloatingPointError, match="the model has no encoder"):
            model()


@pytest.mark.parametrize("wrapper", ["OptimWrapper", "BFloat16OptimWrapper"])
def test_a_config_switches_it_on(wrapper: str, tmp_path: Path) -> None:
    """Image 3 is broken: weights are those after the step of images 0 and 1."""
    runner = make_runner(
        tmp_path,
        FOCUS,
        [dict(type="NonFiniteLossHook")],
        loader=dict(
            batch_size=1,
            dataset=Pictures(bad=3),
            sampler=dict(type="DefaultSampler", shuffle=False),
        ),
        optim_wrapper=dict(
            type=wrapper, optimizer=dict(type="SGD", lr=1e-3), accumulative_counts=2
        ),
    )
    before = runner.model.level_embed.clone()
    with pytest.raises(FloatingPointError, match=r"training stopped in iteration 4: .* is nan"):
        runner.train()
    assert all(p.isfinite().all() for p in runner.model.parameters())
    assert not torch.equal(runner.model.level_embed, before)
