"""From a config and a checkpoint to a checked ONNX file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from mmdet.registry import MODELS
from mmengine.config import Config
from mmengine.registry import init_default_scope
from mmengine.runner import load_checkpoint
from torch import Tensor

from sparse_encoders.checkpoints.seeded import seeded_state
from sparse_encoders.deployment.onnx_file import (
    OnnxDifference,
    compare_with_onnx,
    export_onnx,
)
from sparse_encoders.publishing import SCOPE, config_path


def load_detector(config: str | Path, checkpoint: str | Path | None) -> Any:
    """A detector of a config in eval mode.

    Args:
        config: a path, or a name such as 'sparse_encoders::dino/....py'.
        checkpoint: its weights; None fills it with the same made-up ones each time, see
            :mod:`sparse_encoders.checkpoints.seeded`.

    Raises:
        FileNotFoundError: there is no such config or checkpoint.
        ValueError: there is no config of that name.
    """
    init_default_scope("mmdet")
    named = str(config).startswith(f"{SCOPE}::")
    settings = Config.fromfile(config_path(str(config)) if named else config)
    model = MODELS.build(settings.model)
    if checkpoint is None:
        # fresh weights would give all proposals almost the same score
        shapes = {name: value.shape for name, value in model.state_dict().items()}
        model.load_state_dict(seeded_state(shapes, seed=0))
        if model.as_two_stage and hasattr(model, "query_embedding"):
            # proposals of equal scores stand in any order: which query they get must not matter
            with torch.no_grad():
                model.query_embedding.weight[:] = model.query_embedding.weight[0].clone()
    else:
        load_checkpoint(model, str(checkpoint), map_location="cpu")
    return model.eval()


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
) -> OnnxDifference:
    """Export a detector and run both on an image.

    Args:
        config: see :func:`load_detector`.
        checkpoint: see there.
        image_hw: (height, width) in pixels.
        target: the ONNX file.
        exporter: see :func:`export_onnx`.
        normalize: see there.
        picture: an image file; None takes noise.

    Raises:
        FileNotFoundError, ImportError, TypeError, ValueError: see the functions above.
    """
    image = read_image(picture, image_hw)
    model = load_detector(config, checkpoint)
    if not normalize:
        image = (image - 127.5) / 60  # about what normalising gives
    export_onnx(model, image_hw, target, exporter=exporter, normalize=normalize)
    return compare_with_onnx(model, target, image, normalize)
