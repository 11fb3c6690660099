"""A detector as a module from images to detections, for exporters and compilers."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from mmdet.structures.bbox import bbox_cxcywh_to_xyxy
from torch import Tensor, nn

from sparse_encoders.attention import DeformableAttention, KeyAwareDeformableAttention
from sparse_encoders.autocast import in_float32
from sparse_encoders.detectors.base import EncoderDetector
from sparse_encoders.shapes import rows_of


class ImageToDetections(nn.Module):
    """Images of one size to boxes, scores and labels.

    It calls the detector's own parts with plain tensors: no data samples, no padding, fixed
    shapes. It shares the detector's parameters.

    Args:
        model: a detector of this package, in eval mode.
        image_hw: (height, width) of the images in pixels. None: of any size, read off the
            images of each call.
        normalize: the image has pixel values as the data pipeline loads them, 0 to 255 in
            the order that ``data_preprocessor`` expects, and is normalised here; False
            takes a normalised one.

    Raises:
        TypeError: another model.
        ValueError: a size below one pixel, a model in training mode, an encoder that
            reads annotations, a head with a softmax.
    """

    def __init__(
        self, model: Any, image_hw: tuple[int, int] | None, normalize: bool = True
    ) -> None:
        super().__init__()
        if not isinstance(model, EncoderDetector):
            raise TypeError(
                f"model must be a detector of sparse_encoders, got {type(model).__name__}"
            )
        if image_hw is not None and min(image_hw) < 1:
            raise ValueError(f"image_hw must be at least (1, 1), got {tuple(image_hw)}")
        if model.training:
            raise ValueError("the model is in training mode; call model.eval() first")
        if model.encoder.needs_boxes:
            raise ValueError(
                f"{type(model.encoder.selector).__name__} reads the boxes of the images: a model "
                "with it cannot be deployed"
            )
        if not model.bbox_head.loss_cls.use_sigmoid:
            raise ValueError("bbox_head.loss_cls.use_sigmoid must be True, got False")
        self.model = model
        self.image_hw = None if image_hw is None else (int(image_hw[0]), int(image_hw[1]))
        self.normalize = normalize
        detector: Any = model  # MMDetection is not typed
        self.max_per_img = int((detector.test_cfg or {}).get("max_per_img", detector.num_queries))

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Detect.

        Args:
            image: (B, 3, height, width), one image or several.

        Returns:
            (B, K, 4) boxes (x1, y1, x2, y2) in pixels of the image, (B, K) scores, best
            first, and (B, K) int64 labels; K is ``test_cfg.max_per_img``.
        """
        model: Any = self.model
        image_hw = self.image_hw or (image.shape[2], image.shape[3])
        encoded = model.encode(model.extract_feat(self._normalised(image)), image_hw)
        queries = model.prepare_queries(encoded)
        decoded = model.decode(queries, encoded)
        logits, boxes = in_float32(
            lambda given: model.bbox_head(**given),
            model.head_inputs(queries, decoded),
            model.bbox_head,
        )
        return self._best(logits[-1], boxes[-1], image_hw)

    def _normalised(self, image: Tensor) -> Tensor:
        """(B, 3, height, width) normalised as by ``data_preprocessor``."""
        preprocessor = getattr(self.model, "data_preprocessor", None)
        if not self.normalize or preprocessor is None:
            return image
        if getattr(preprocessor, "_channel_conversion", False):
            image = image.flip(1)
        if getattr(preprocessor, "_enable_normalize", False):
            image = (image - preprocessor.mean) / preprocessor.std
        return image

    def _best(
        self, logits: Tensor, boxes: Tensor, image_hw: tuple[int, int]
    ) -> tuple[Tensor, Tensor, Tensor]:
        """The best pairs of query and class, see :meth:`forward`."""
        classes = logits.shape[-1]
        best = logits.float().sigmoid().flatten(1).topk(self.max_per_img, dim=1)
        query = best.indices // classes
        chosen = boxes.float().gather(1, query.unsqueeze(-1).expand(-1, -1, 4))
        limit = rows_of([image_hw[::-1] * 2], chosen)
        pixels = bbox_cxcywh_to_xyxy(chosen) * limit
        pixels = torch.minimum(pixels.clamp(min=0), limit)
        return pixels, best.values, best.indices - query * classes


@contextmanager
def attention_backend(model: nn.Module, backend: str) -> Iterator[None]:
    """Inside, all attention modules of ``model`` use another backend.

    Args:
        model: searched with all its children.
        backend: 'torch' for an exporter that knows PyTorch's own operators only.
    """
    kinds = (DeformableAttention, KeyAwareDeformableAttention)
    modules = [m for m in model.modules() if isinstance(m, kinds)]
    before = [module.backend for module in modules]
    for module in modules:
        module.backend = backend
    try:
        yield
    finally:
        for module, old in zip(modules, before, strict=True):
            module.backend = old
