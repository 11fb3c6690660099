"""Whether backbone and neck follow other batches and sizes than a traced example's."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

RELATIVE = 1e-3  # of the largest feature: what a graph may round differently


class _Features(nn.Module):
    """Backbone and neck of a detector alone."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.backbone = model.backbone
        self.neck = model.neck if model.with_neck else nn.Identity()

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        """(B, 3, height, width) to (B, C, h, w) for each level."""
        return tuple(self.neck(self.backbone(image)))


def check_backbone(model: Any, example: Tensor, dynamic_batch: bool, dynamic_size: bool) -> None:
    """Refuse a backbone that computes with numbers of the example.

    Swin's windows do: a file of it would run on another batch, and find other boxes.

    Args:
        model: a detector.
        example: (B, 3, height, width) that will be traced.
        dynamic_batch: other batches must give what they give in torch.
        dynamic_size: other sizes must.

    Raises:
        ValueError: they do not.
    """
    features = _Features(model).eval()
    traced = torch.jit.trace(features, example, check_trace=False)
    height, width = example.shape[2:]
    for name, asked, shape in (
        ("dynamic_batch", dynamic_batch, (example.shape[0] + 1, 3, height, width)),
        ("dynamic_size", dynamic_size, (example.shape[0], 3, height + 37, width + 21)),
    ):
        other = torch.rand(shape, generator=torch.Generator().manual_seed(0)).to(example)
        if asked and not _alike(traced, features, other):
            backbone = type(model.backbone).__name__
            raise ValueError(
                f"{name}=True cannot be written for model.backbone {backbone}, which computes with "
                f"the example's numbers: leave {name} out, or take a convolutional one (ResNet)"
            )


def _alike(traced: Any, features: nn.Module, image: Tensor) -> bool:
    wanted = features(image)
    try:
        found = traced(image)
    except RuntimeError:
        return False
    return all(
        one.shape == two.shape and bool((one - two).abs().max() <= RELATIVE * two.abs().max())
        for one, two in zip(found, wanted, strict=True)
    )
