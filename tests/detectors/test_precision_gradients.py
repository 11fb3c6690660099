"""Every weight gets the gradient under autocast that it gets in float32."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.module import register_module_forward_pre_hook

import tiny_detectors
from quick import pairs
from replay import choices
from sparse_encoders.autocast import without_gradient
from tiny import batch, build, total
from tiny_detectors import DETECTORS, detector_config

ENCODERS = {
    **tiny_detectors.ENCODERS,
    # thirty batch norms over the four cells of the coarsest level make chaos of any rounding
    "hybrid": dict(tiny_detectors.ENCODERS["hybrid"], norm_cfg=dict(type="GN", num_groups=32)),
}
#: scales a token that a LayerNorm normalises at once: its gradient is rounding, in any precision
NO_DIRECTION = "encoder.selector.alpha"
#: encoders that do not read pos_embed give the level embedding a gradient of zero
READ_NO_POSITIONS = ("hybrid", "none")


#: draws of the weights: a gradient whose terms all but cancel in one of them is rounding there
DRAWS = (8, 9)


def off_its_start(model: nn.Module, seed: int = DRAWS[0]) -> nn.Module:
    """A model like one in training: no weight is zero, no location lies on a cell's edge.

    Without dropout, whose masks are drawn differently in bfloat16.
    """
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
        elif isinstance(module, nn.MultiheadAttention):
            module.dropout = 0.0
    torch.manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.02)
    return model.train()


def gradients(model: nn.Module, half: bool, taken: list[Any] | None = None) -> Any:
    """Gradient of each parameter that learns, and the choices of the pass."""
    model.zero_grad()
    torch.manual_seed(1)
    with choices(taken) as made, torch.autocast("cpu", torch.bfloat16, enabled=half):
        losses = model(**batch((20, 16)), mode="loss")
    total(losses).backward()
    return {n: p.grad for n, p in model.named_parameters() if p.requires_grad}, made


def disagreements(detector: str, encoder: str, seed: int) -> dict[str, float]:
    """Parameters whose gradients point elsewhere in bfloat16, and the cosines."""
    model = off_its_start(build(detector_config(detector, ENCODERS[encoder])), seed)
    exact, made = gradients(model, half=False)
    rounded, _ = gradients(model, half=True, taken=made)
    unread = ["level_embed"] if encoder in READ_NO_POSITIONS else []
    assert [n for n, g in exact.items() if g is None or g.abs().max() == 0] == unread
    assert [n for n, g in rounded.items() if g is None] == []
    for name in (NO_DIRECTION, *unread):
        exact.pop(name, None)
    cosines = {
        n: float(F.cosine_similarity(g.flatten(), rounded[n].flatten(), 0))
        for n, g in exact.items()
    }
    least = 0.85 if unread else 0.9  # no layer norm behind them: rounding goes further
    return {n: round(c, 3) for n, c in cosines.items() if c <= least}


@pytest.mark.parametrize(
    ("detector", "encoder"), pairs(DETECTORS, ENCODERS, quick=("DINO",), each="focus")
)
def test_bfloat16_gradients_point_where_float32_ones_do(detector: str, encoder: str) -> None:
    """In one of the draws at least: a gradient that is wrong is wrong in each."""
    first, *others = DRAWS
    wrong = disagreements(detector, encoder, first)
    for seed in others:
        if wrong:
            again = disagreements(detector, encoder, seed)
            wrong = {name: cosine for name, cosine in wrong.items() if name in again}
    assert wrong == {}


def seen_by_no_gradient(model: nn.Module) -> dict[str, bool]:
    """Modules with weights that run under ``no_grad``: whether autocast stores their casts."""
    stored = {}
    names = {module: name for name, module in model.named_modules()}

    def look(module: nn.Module, inputs: Any) -> None:
        learns = any(p.requires_grad for p in module.parameters())
        if module in names and learns and not torch.is_grad_enabled():
            stored[names[module]] = torch.is_autocast_cache_enabled()

    handle = register_module_forward_pre_hook(look)
    try:
        with torch.autocast("cpu", torch.bfloat16):
            model(**batch((2, 1)), mode="loss")
            assert torch.is_autocast_cache_enabled()
    finally:
        handle.remove()
    return stored


@pytest.mark.parametrize(
    ("detector", "encoder"), pairs(DETECTORS, ENCODERS, quick=("DINO",), each="focus")
)
def test_no_cast_without_gradient_is_stored(detector: str, encoder: str) -> None:
    """Newer torch forgives it; before December 2025 such a weight got no gradient."""
    model = build(
        detector_config(detector, ENCODERS[encoder], decoder_attention="key_aware")
    ).train()
    stored = seen_by_no_gradient(model)
    heads = "bbox_head.cls_branches"
    ranks = {"sparse": "decoder.layers.0.cross_attn", "focus": heads, "salience": heads}
    assert any(name.startswith(ranks.get(encoder, "")) for name in stored) == (encoder in ranks)
    assert [name for name, kept in stored.items() if kept] == []


def test_the_store_is_neither_read_nor_written_nor_emptied() -> None:
    layer, x = nn.Linear(3, 3, bias=False), torch.ones(1, 3)

    @without_gradient
    def observe() -> Tensor:
        assert not torch.is_grad_enabled()
        return layer(x)

    with torch.autocast("cpu", torch.bfloat16):
        before = layer(x)  # its cast is stored from here on
        layer.weight.data.zero_()
        assert observe().abs().max() == 0  # reads the weight itself
        assert torch.equal(layer(x), before)  # the store is as it was
    with torch.autocast("cpu", torch.bfloat16):
        observe()
        layer.weight.data.fill_(1.0)
        actual = layer(x)  # had it stored its cast, this would be zero
    assert actual.tolist() == [[3.0] * 3]
    actual.sum().backward()
    assert layer.weight.grad is not None

    @without_gradient
    def fail() -> None:
        raise RuntimeError("stop")

    with torch.autocast("cpu", torch.bfloat16), pytest.raises(RuntimeError, match="stop"):
        fail()
    assert torch.is_autocast_cache_enabled() and torch.is_grad_enabled()
