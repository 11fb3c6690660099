"""Mixed precision: losses in float32, and every weight gets its gradient."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from mmdet.models.losses import FocalLoss, GIoULoss, L1Loss
from torch import Tensor, nn

from quick import pairs
from skips import needs_float16_autocast
from sparse_encoders.compat import is_autocast_enabled
from sparse_encoders.selectors import decoder_attention, focus
from tiny import batch, build, flat
from tiny_detectors import DETECTORS, ENCODERS, SPARSE_DETR, detector_config

LOSSES = {"FocalLoss", "L1Loss", "GIoULoss"}
HALVES = [torch.bfloat16, pytest.param(torch.float16, marks=needs_float16_autocast)]


@contextmanager
def spied(monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, set[Any]]]:
    """Dtypes of all floating tensors that reach each loss function, and autocast's state there."""
    seen: dict[str, set[Any]] = {}

    def spy(owner: Any, name: str, label: str) -> None:
        original = getattr(owner, name)

        def call(*args: Any, **kwargs: Any) -> Any:
            given = [x for x in (*args, *kwargs.values()) if isinstance(x, Tensor)]
            notes = {x.dtype for x in given if x.is_floating_point()}
            notes |= {"autocast"} if is_autocast_enabled("cpu") else set()
            seen.setdefault(label, set()).update(notes)
            return original(*args, **kwargs)

        patch.setattr(owner, name, call)

    with monkeypatch.context() as patch:
        for kind in (FocalLoss, L1Loss, GIoULoss):
            spy(kind, "forward", kind.__name__)
        spy(focus, "foreground_focal_loss", "foreground")
        spy(decoder_attention, "token_selection_loss", "decoder attention")
        yield seen


def losses_in(model: nn.Module, dtype: torch.dtype) -> dict[str, Tensor]:
    try:
        with torch.autocast("cpu", dtype):
            actual: dict[str, Tensor] = model(**batch(), mode="loss")
    except RuntimeError as error:  # older torch has bfloat16 only, or lacks an operator
        lacking = ("not implemented for 'Half'", "only support Bfloat16")
        if dtype == torch.float16 and any(text in str(error) for text in lacking):
            pytest.skip(f"torch {torch.__version__}: {error}")
        raise
    return actual


@pytest.mark.parametrize("dtype", HALVES, ids=str)
@pytest.mark.parametrize(
    ("detector", "encoder"),
    pairs([*DETECTORS, SPARSE_DETR], ["sparse", "focus"], quick=("DINO",), each="focus"),
)
def test_what_reaches_a_loss_is_float32(
    detector: str, encoder: str, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = build(detector_config(detector, ENCODERS[encoder])).train()
    with spied(monkeypatch) as seen:
        losses = losses_in(model, dtype)
    own = "decoder attention" if encoder == "sparse" else "foreground"
    assert set(seen) == LOSSES | {own}
    assert {label: kinds for label, kinds in seen.items() if kinds != {torch.float32}} == {}
    assert {loss.dtype for loss in flat(losses).values()} == {torch.float32}
    assert all(loss.isfinite().all() for loss in flat(losses).values())
