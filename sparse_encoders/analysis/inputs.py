"""What detectors are measured on where no image is given."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from mmdet.structures import DetDataSample
from mmengine.structures import InstanceData


def image_call(
    model: Any, size: tuple[int, int], device: torch.device | str, batch: int = 1, boxes: int = 8
) -> Callable[[], object]:
    """A call that detects on images of random pixels with as many random boxes.

    The boxes are for selectors that read annotations; no other looks at them.

    Args:
        model: a detector of this package in evaluation mode.
        size: (height, width) in pixels.
        device: where the model is.
        batch: images.
        boxes: on each image.
    """
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(batch, 3, *size, generator=generator).to(device)
    about = dict(
        img_shape=size, ori_shape=size, batch_input_shape=size, scale_factor=(1.0, 1.0), img_id=0
    )
    extent = torch.tensor([size[1], size[0]], dtype=torch.float32)
    corners = torch.rand(2, boxes, 2, generator=generator) * extent
    found = torch.cat([corners.amin(0), corners.amax(0)], 1).to(device)
    labels = torch.zeros(boxes, dtype=torch.long, device=device)

    @torch.no_grad()
    def call() -> object:
        samples = [DetDataSample(metainfo=about) for _ in range(batch)]
        for sample in samples:
            sample.gt_instances = InstanceData(bboxes=found, labels=labels)
        return model.predict(images, samples)

    return call
