"""Tiny detectors whose scores differ from each other, as trained ones' do."""

from __future__ import annotations

from typing import Any

import torch
from mmengine.config import Config

from tiny import build
from tiny_detectors import ENCODERS, detector_config

SIZE = (96, 128)


def config(kind: str = "DINO", encoder: str | dict[str, Any] = "focus", **changes: Any) -> Config:
    settings = ENCODERS[encoder] if isinstance(encoder, str) else encoder
    return detector_config(kind, settings, **changes)


def detector(kind: str = "DINO", encoder: str | dict[str, Any] = "focus", **changes: Any) -> Any:
    """In eval mode."""
    model = build(config(kind, encoder, **changes)).eval()
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.normal_(0, 0.05, generator=generator)
    return model


def picture(seed: int = 0, batch: int = 1) -> torch.Tensor:
    """(batch, 3, height, width) pixel values."""
    return torch.rand(batch, 3, *SIZE, generator=torch.Generator().manual_seed(seed)) * 255
