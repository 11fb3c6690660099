"""Records of one image: which layer of an encoder refined which tokens, with their scores."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mmcv
import numpy as np
import torch
from mmcv.transforms import Compose
from mmdet.utils import get_test_pipeline_cfg
from mmengine.dataset import pseudo_collate
from numpy.typing import NDArray
from torch import nn

from sparse_encoders.encoders.base import Encoder, EncoderOutput

BoolArray = NDArray[np.bool_]
FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]
ImageArray = NDArray[np.uint8]


@dataclass(frozen=True)
class Detections:
    """Boxes on one image.

    Attributes:
        boxes: (n, 4) as (x1, y1, x2, y2) in pixels of the picture.
        labels: (n,) class indices.
        scores: (n,) in [0, 1].
    """

    boxes: FloatArray
    labels: IntArray
    scores: FloatArray


@dataclass(frozen=True)
class TokenRecord:
    """Kept tokens and detections of one image; N tokens, finest level first.

    Attributes:
        image: (H, W, 3) uint8 RGB, resized as for the detector, not padded.
        batch_hw: (height, width) of the detector's input, padding included.
        shapes: (height, width) of each level, finest first.
        kept: (layers, N) bool, True where an encoder layer refined a token.
        valid: (N,) bool, False where a token is padding.
        foreground: (N,) the selector's scores in [0, 1]; None without a selector.
        objects: for each layer of dual attention the (k,) indices of its object
            tokens, highest score first; empty without dual attention.
        detections: the detector's output.
        classes: class names.
        encoder: name of the encoder's class.
        selector: name of the selector's class; empty without a selector.
    """

    image: ImageArray
    batch_hw: tuple[int, int]
    shapes: tuple[tuple[int, int], ...]
    kept: BoolArray
    valid: BoolArray
    foreground: FloatArray | None
    objects: tuple[IntArray, ...]
    detections: Detections
    classes: tuple[str, ...]
    encoder: str = "encoder"
    selector: str = ""

    @property
    def num_layers(self) -> int:
        """Encoder layers."""
        return len(self.kept)

    @property
    def num_levels(self) -> int:
        """Feature levels."""
        return len(self.shapes)

    @property
    def strategy(self) -> str:
        """Encoder and selector, as a title."""
        return f"{self.encoder}, {self.selector}" if self.selector else self.encoder

    def part(self, level: int) -> slice:
        """Slice of a level's tokens in N."""
        start = sum(h * w for h, w in self.shapes[:level])
        return slice(start, start + self.shapes[level][0] * self.shapes[level][1])

    def share(self, layer: int | None = None, level: int | None = None) -> float:
        """Share of the valid tokens that a layer refines, of all levels or of one.

        Without ``layer`` it is the mean over layers. A level that is all padding has 0.
        """
        where = slice(None) if level is None else self.part(level)
        kept = self.kept[:, where] if layer is None else self.kept[layer : layer + 1, where]
        return float(kept.sum() / max(1, len(kept) * self.valid[where].sum()))

    def object_mask(self, layer: int) -> BoolArray:
        """(N,) True where a token is one of a layer's object tokens."""
        mask = np.zeros(self.kept.shape[1], dtype=np.bool_)
        mask[self.objects[layer]] = True
        return mask

    def level(self, values: NDArray[Any], level: int) -> NDArray[Any]:
        """(H, W) values of one level's tokens, from (N,), each token spread over its pixels."""
        h, w = self.shapes[level]
        grid = values[self.part(level)].reshape(h, w)
        rows = np.arange(self.image.shape[0]) * h // self.batch_hw[0]
        cols = np.arange(self.image.shape[1]) * w // self.batch_hw[1]
        return grid[rows][:, cols]

    def maps(self, values: NDArray[Any]) -> NDArray[Any]:
        """(levels, H, W): :meth:`level` of each level."""
        return np.stack([self.level(values, level) for level in range(self.num_levels)])

    def boxes(self, indices: IntArray) -> tuple[FloatArray, IntArray]:
        """(k, 4) (x, y, width, height) in pixels that k tokens cover, and their (k,) levels."""
        starts = np.array([self.part(level).start for level in range(self.num_levels)])
        levels = np.searchsorted(starts, indices, side="right") - 1
        h, w = np.array(self.shapes)[levels].T
        rows, cols = np.divmod(indices - starts[levels], w)
        tall, wide = self.batch_hw[0] / h, self.batch_hw[1] / w
        return np.stack([cols * wide, rows * tall, wide, tall], 1), levels.astype(np.int64)


def record_tokens(model: nn.Module, image: str | Path, min_score: float = 0.3) -> TokenRecord:
    """Run a detector on one image file and record which tokens its encoder refines.

    Args:
        model: a detector of this package, from ``mmdet.apis.init_detector``.
        image: path of the image.
        min_score: leave out detections below this score.

    Raises:
        ValueError: the image cannot be read, the model has no encoder of this
            package, or ``min_score`` is not in [0, 1].
    """
    if not Path(image).is_file() or mmcv.imread(str(image)) is None:
        raise ValueError(f"{image} is not an image file that can be read")
    detector: Any = model
    sample = Compose(get_test_pipeline_cfg(detector.cfg))(dict(img_path=str(image), img_id=0))
    return record_sample(model, sample, detector.dataset_meta["classes"], min_score)


def record_sample(
    model: nn.Module, sample: Mapping[str, Any], classes: Sequence[str], min_score: float = 0.3
) -> TokenRecord:
    """The same for one item of an MMDetection data set, for use during a training.

    The model is set to evaluation mode during the call; no gradient is computed.

    Args:
        model: a detector of this package, not wrapped for distribution.
        sample: ``inputs``, (3, H, W) uint8 in BGR, and ``data_samples``, as
            MMDetection's test pipelines pack them.
        classes: names of the classes.
        min_score: leave out detections below this score.

    Raises:
        ValueError: as :func:`record_tokens`, the image aside.
    """
    detector: Any = model
    encoder = getattr(model, "encoder", None)
    if not 0 <= min_score <= 1:
        raise ValueError(f"min_score must lie in [0, 1], got {min_score}")
    if not isinstance(encoder, Encoder):
        raise ValueError(
            f"{type(model).__name__} has no encoder of sparse_encoders; "
            "its type must be one of the sparse_encoders detectors"
        )
    outputs: list[EncoderOutput] = []
    hook = encoder.register_forward_hook(lambda module, args, output: outputs.append(output))
    training = detector.training
    detector.eval()
    try:
        with hook, torch.no_grad():
            result = detector.test_step(pseudo_collate([sample]))[0]
    finally:
        detector.train(training)
    height, width = (int(s) for s in result.img_shape[:2])
    pixels = sample["inputs"].cpu().numpy()[::-1, :height, :width].transpose(1, 2, 0)
    image = np.ascontiguousarray(pixels).astype(np.uint8)
    return _make_record(model, outputs[-1], image, result, classes, min_score)


def _make_record(
    model: Any,
    output: EncoderOutput,
    image: ImageArray,
    result: Any,
    classes: Sequence[str],
    min_score: float,
) -> TokenRecord:
    """The record of the first image of a batch."""
    tokens, selection, encoder = output.tokens, output.selection, model.encoder
    hw = (image.shape[0], image.shape[1])
    valid = np.ones(tokens.num_tokens, dtype=np.bool_)
    if tokens.padding_mask is not None:
        valid = ~tokens.padding_mask[0].cpu().numpy()
    foreground, objects = None, []
    if selection is None:
        kept = np.stack([_levels_mask(output, encoder, i) for i in range(encoder.num_layers)])
    else:
        layers = output.layers
        kept = np.stack([layer.mask(tokens.num_tokens)[0].cpu().numpy() for layer in layers])
        foreground = selection.logits[0].detach().double().sigmoid().cpu().numpy()
        for rows, layer in zip(output.objects, layers, strict=False):
            usable = layer.kept[0].gather(0, rows[0])
            objects.append(layer.indices[0].gather(0, rows[0])[usable].cpu().numpy())
    return TokenRecord(
        image=image,
        batch_hw=tokens.image_hw or hw,
        shapes=tokens.shapes,
        kept=kept & valid,
        valid=valid,
        foreground=foreground,
        objects=tuple(objects),
        detections=_detections(result, hw, min_score),
        classes=tuple(classes),
        encoder=type(encoder).__name__,
        selector="" if encoder.selector is None else type(encoder.selector).__name__,
    )


def _levels_mask(output: EncoderOutput, encoder: Encoder, layer: int) -> BoolArray:
    """(N,) True for tokens of the levels that a layer refines."""
    mask = np.zeros(output.tokens.num_tokens, dtype=np.bool_)
    for level in encoder.refined_levels(layer):
        mask[output.tokens.level_slices[level]] = True
    return mask


def _detections(result: Any, hw: tuple[int, int], min_score: float) -> Detections:
    """Detections of a data sample, scaled from the original image to ``hw``."""
    instances = result.pred_instances.cpu().numpy()
    strong = instances.scores >= min_score
    ratio = np.array([hw[1] / result.ori_shape[1], hw[0] / result.ori_shape[0]])
    return Detections(
        boxes=instances.bboxes[strong].astype(np.float64) * np.tile(ratio, 2),
        labels=instances.labels[strong].astype(np.int64),
        scores=instances.scores[strong].astype(np.float64),
    )
