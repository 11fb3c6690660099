"""Inputs for measurements of detectors: random images, or images of a data set."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from mmdet.structures import DetDataSample
from mmengine.structures import InstanceData
from torch import Tensor

BOXES = 8  # objects of a random image


def random_batch(
    size: tuple[int, int],
    device: torch.device | str,
    batch: int = 1,
    classes: int = 1,
    boxes: int = BOXES,
) -> tuple[Tensor, list[DetDataSample]]:
    """Random pixels, (batch, 3, height, width), with random boxes of random classes.

    Args:
        size: (height, width) in pixels.
        device: of the images and boxes.
        batch: images.
        classes: how many there are.
        boxes: of each image.
    """
    generator = torch.Generator().manual_seed(0)
    sides = torch.tensor(size[::-1]).float()
    images = torch.randn(batch, 3, *size, generator=generator).to(device)
    about = dict(
        img_shape=size, ori_shape=size, batch_input_shape=size, scale_factor=(1.0, 1.0), img_id=0
    )
    samples = []
    for _ in range(batch):
        corner = torch.rand(boxes, 2, generator=generator) * sides * 0.6
        far = corner + torch.rand(boxes, 2, generator=generator) * sides * 0.3 + 4
        labels = torch.randint(classes, (boxes,), generator=generator)
        objects = InstanceData(bboxes=torch.cat([corner, far], 1), labels=labels)
        samples.append(DetDataSample(metainfo=about, gt_instances=objects.to(device)))
    return images, samples


def image_call(
    model: Any, size: tuple[int, int], device: torch.device | str, batch: int = 1
) -> Callable[[], object]:
    """A call that detects on a :func:`random_batch`, of a detector in evaluation mode.

    The boxes are for selectors that read annotations; other selectors ignore them.
    """
    images, samples = random_batch(size, device, batch)

    @torch.no_grad()
    def call() -> object:
        return model.predict(images, [sample.clone() for sample in samples])

    return call


def training_call(
    model: Any,
    size: tuple[int, int],
    device: torch.device | str,
    batch: int = 1,
    boxes: int = BOXES,
) -> Callable[[], object]:
    """A call that runs a training step, forward and backward, on a :func:`random_batch`."""
    images, samples = random_batch(size, device, batch, model.bbox_head.num_classes, boxes)

    def call() -> object:
        model.zero_grad(set_to_none=False)
        loss, _ = model.parse_losses(model(images, samples, mode="loss"))
        return loss.backward()

    return call


def under_autocast(
    call: Callable[[], object], device: torch.device | str, dtype: str
) -> Callable[[], object]:
    """The call under autocast to ``dtype``, such as 'bfloat16'; as it is for 'float32'."""
    if dtype == "float32":  # torch 2.1 refuses it for autocast on the CPU, even where disabled
        return call

    def run() -> object:
        with torch.autocast(torch.device(device).type, getattr(torch, dtype)):
            return call()

    return run


def choose_images(annotations: Path, images: Path, count: int) -> list[Path]:
    """Images with objects, drawn with a fixed seed.

    Args:
        annotations: COCO annotation file.
        images: folder of its images.
        count: number of images, or all if there are fewer.
    """
    content = json.loads(annotations.read_text())
    full = {a["image_id"] for a in content["annotations"]}
    names = [i["file_name"] for i in content["images"] if i["id"] in full]
    return [images / name for name in random.Random(0).sample(names, min(count, len(names)))]
