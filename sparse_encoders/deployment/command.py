"""From a config and a checkpoint to a checked ONNX file."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from sparse_encoders.deployment.onnx_file import (
    OnnxDifference,
    compare_with_onnx,
    export_onnx,
)
from sparse_encoders.deployment.runtimes import open_onnx
from sparse_encoders.loading import load_detector


def read_image(path: Path | None, image_hw: tuple[int, int]) -> Tensor:
    """(1, 3, height, width) float32 pixel values in OpenCV's order; noise where path is None.

    Raises:
        FileNotFoundError: no image can be read there.
    """
    if path is None:
        generator = torch.Generator().manual_seed(0)
        return torch.rand(1, 3, *image_hw, generator=generator) * 255
    import cv2

    pixels = cv2.imread(str(path))
    if pixels is None:
        raise FileNotFoundError(f"{path} is no image that OpenCV reads")
    pixels = cv2.resize(pixels, (image_hw[1], image_hw[0]))
    return torch.from_numpy(pixels).permute(2, 0, 1).unsqueeze(0).float()


def export_and_compare(
    config: str | Path,
    checkpoint: str | Path | None,
    image_hw: tuple[int, int],
    target: Path,
    *,
    exporter: str = "torchscript",
    normalize: bool = True,
    picture: Path | None = None,
    dynamic_batch: bool = False,
    dynamic_size: bool = False,
) -> list[OnnxDifference]:
    """Export a detector and run both on an image, and on what else the file takes.

    Args:
        config: see :func:`load_detector`.
        checkpoint: see there.
        image_hw: (height, width) in pixels.
        target: the ONNX file.
        exporter: see :func:`export_onnx`.
        normalize: see there.
        picture: an image file; None takes noise. A batch has it as it is, mirrored, and
            upside down.
        dynamic_batch: see :func:`export_onnx`.
        dynamic_size: see there.

    Returns:
        How the file differs from torch on one image, with ``dynamic_batch`` on three, and with
        ``dynamic_size`` on one of (width, height + 32) pixels.

    Raises:
        FileNotFoundError, ImportError, TypeError, ValueError: see the functions above.
    """
    image = read_image(picture, image_hw)
    inputs = [image]
    if dynamic_batch:
        inputs.append(torch.cat([image, image.flip(3), image.flip(2)]))
    if dynamic_size:
        inputs.append(read_image(picture, (image_hw[1], image_hw[0] + 32)))
    if not normalize:
        inputs = [(image - 127.5) / 60 for image in inputs]  # about what normalising gives
    model = load_detector(config, checkpoint)
    export_onnx(
        model,
        image_hw,
        target,
        exporter=exporter,
        normalize=normalize,
        dynamic_batch=dynamic_batch,
        dynamic_size=dynamic_size,
    )
    detect = open_onnx(target)
    return [compare_with_onnx(model, detect, each, normalize) for each in inputs]
