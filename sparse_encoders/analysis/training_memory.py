"""Memory of training steps of full-size DINO by image size, batch, boxes, encoder and setting."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import product
from typing import TYPE_CHECKING, Any

import torch

from sparse_encoders.analysis.encoder_benchmark import detector_with
from sparse_encoders.analysis.inputs import training_call, under_autocast
from sparse_encoders.analysis.memory import MIB, peak_memory

if TYPE_CHECKING:
    import pandas as pd

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
    progress: Callable[[str], None] = lambda message: None,
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
    import pandas as pd

    unknown = [setting for setting in settings if setting not in SETTINGS]
    if unknown:
        raise ValueError(f"settings must be some of {', '.join(SETTINGS)}, got {unknown}")
    rows = []
    for name in names:
        model: Any = detector_with(name, keep_ratio, max_boxes=max_boxes).to(device).train()
        for setting, size, batch, count in product(settings, sizes, batches, boxes):
            progress(f"{name}, {setting}: {batch} x {size[0]} x {size[1]}, {count} boxes")
            _apply(model, setting)
            dtype = "bfloat16" if SETTINGS[setting][0] else "float32"
            step = training_call(model, size, device, batch, count)
            call = under_autocast(step, device, dtype)
            rows.append(
                {
                    "image": f"{size[0]} x {size[1]}",
                    "batch": batch,
                    "boxes": count,
                    "column": name if len(settings) == 1 else f"{name}, {setting}",
                    "mib": round(peak_memory(_with_gradients(model, call), device) / MIB),
                }
            )
    frame = pd.DataFrame(rows)
    order = list(dict.fromkeys(frame.column))
    lines = list(dict.fromkeys(zip(frame.image, frame.batch, frame.boxes, strict=True)))
    table = frame.pivot(index=["image", "batch", "boxes"], columns="column", values="mib")
    return table.loc[lines, order]


def _apply(model: Any, setting: str) -> None:
    """Checkpoint all layers of encoder and backbone, or none."""
    checkpointed = SETTINGS[setting][1]
    model.encoder.num_cp = model.encoder.num_layers if checkpointed else 0
    for module in model.backbone.modules():
        if hasattr(module, "with_cp"):
            module.with_cp = checkpointed


def _with_gradients(model: Any, call: Callable[[], object]) -> Callable[[], object]:
    """The call, once the weights' gradients have their memory."""
    for parameter in model.parameters():
        if parameter.requires_grad and parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)
    return call
