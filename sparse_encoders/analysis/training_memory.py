"""Memory of training steps of full-size DINO by image size, batch, boxes, encoder and setting."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product
from typing import Any

import pandas as pd
import torch

from sparse_encoders.analysis.benchmark import Say
from sparse_encoders.analysis.encoder_benchmark import detector_with
from sparse_encoders.analysis.inputs import training_call, under_autocast
from sparse_encoders.analysis.memory import MIB, peak_memory

SETTINGS: dict[str, tuple[bool, bool]] = {
    "float32": (False, False),
    "bfloat16": (True, False),
    "checkpointed": (False, True),
    "bfloat16, checkpointed": (True, True),
}
"""What a step is measured with: bfloat16 autocast; encoder and backbone checkpointed."""


def training_memory(
    names: Sequence[str],
    sizes: Sequence[tuple[int, int]],
    batches: Sequence[int] = (1,),
    boxes: Sequence[int] = (8,),
    settings: Sequence[str] = ("float32",),
    keep_ratio: float = 0.3,
    max_boxes: int | None = None,
    device: str = "cpu",
    progress: Say = lambda message: None,
) -> pd.DataFrame:
    """Measure the peak memory of one training step, forward and backward, of each combination.

    Args:
        names: encoders by their short names, see :data:`analysis.variants.VARIANTS`.
        sizes: (height, width) in pixels.
        batches: images of a step.
        boxes: objects of each image.
        settings: keys of :data:`SETTINGS`.
        keep_ratio: average keep ratio of encoders that prune.
        max_boxes: so many of an image are denoised; None: all of them.
        device: 'cpu' or a CUDA device.
        progress: called with messages about the progress.

    Returns:
        A line for each image size, batch and number of boxes, a column for each encoder and
        setting: MiB that the device's allocator holds at the peak, beyond weights, their
        gradients and the images. The optimiser's state is not among them.

    Raises:
        ValueError: an unknown encoder or setting.
    """
    unknown = [setting for setting in settings if setting not in SETTINGS]
    if unknown:
        raise ValueError(f"settings must be some of {', '.join(SETTINGS)}, got {unknown}")
    columns: dict[str, dict[tuple[str, int, int], int]] = {}
    for name in names:
        model: Any = detector_with(name, keep_ratio, max_boxes=max_boxes).to(device).train()
        for setting, size, batch, count in product(settings, sizes, batches, boxes):
            progress(f"{name}, {setting}: {batch} x {size[0]} x {size[1]}, {count} boxes")
            mixed, checkpointed = SETTINGS[setting]
            _checkpoint(model, checkpointed)
            step = training_call(model, size, device, batch, count)
            call = under_autocast(step, device, "bfloat16" if mixed else "float32")
            for parameter in model.parameters():  # gradients have their memory before the step
                if parameter.requires_grad and parameter.grad is None:
                    parameter.grad = torch.zeros_like(parameter)
            column = columns.setdefault(name if len(settings) == 1 else f"{name}, {setting}", {})
            line = (f"{size[0]} x {size[1]}", batch, count)
            column[line] = round(peak_memory(call, device) / MIB)
    return pd.DataFrame(columns).rename_axis(["image", "batch", "boxes"])


def _checkpoint(model: Any, checkpointed: bool) -> None:
    """Checkpoint all layers of encoder and backbone, or none."""
    model.encoder.num_cp = model.encoder.num_layers if checkpointed else 0
    for module in model.backbone.modules():
        if hasattr(module, "with_cp"):
            module.with_cp = checkpointed
