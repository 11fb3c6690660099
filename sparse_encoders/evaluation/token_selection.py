"""Metrics of token selection: decoder attention (Corr) and foreground on the kept tokens."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any

import torch
from mmdet.registry import METRICS
from mmdet.structures.bbox import get_box_tensor
from mmengine.evaluator import BaseMetric
from torch import Tensor

from sparse_encoders.supervision.decoder_attention import attention_share, best_share
from sparse_encoders.supervision.foreground import ForegroundLabels, Intervals
from sparse_encoders.tokens import TokenGrid

# Object sizes as COCO counts them: area in pixels of the original image, largest excluded.
SIZES: dict[str, tuple[float, float]] = {
    "small": (0, 32**2),
    "medium": (32**2, 96**2),
    "large": (96**2, float("inf")),
}


class TokenMetric(BaseMetric):
    """Base of the metrics that read ``token_selection`` from the data samples."""

    default_prefix = "tokens"

    def process(self, data_batch: Any, data_samples: Sequence[dict[str, Any]]) -> None:
        """Measure each image of a batch.

        Raises:
            ValueError: the model did not report its tokens.
        """
        for sample in data_samples:
            report = sample.get("token_selection")
            if report is None:
                raise ValueError(
                    f"{type(self).__name__} needs the encoder's kept tokens: set "
                    "model.test_cfg.report_tokens=True on a detector of sparse_encoders"
                )
            self.results.append(self.measure(sample, report))

    @abstractmethod
    def measure(self, sample: dict[str, Any], report: dict[str, Any]) -> dict[str, Any]:
        """The metric's values for one image."""


@METRICS.register_module()
class DecoderCorrelation(TokenMetric):
    """Corr: the share of the decoder attention map's sum that lies on the kept tokens.

    Sparse DETR, section 3.4. Mean over images of ``corr_all`` (all levels),
    ``corr_level{i}`` (finest first) and, for encoders with a selector,
    ``corr_top{n}`` of the n% of valid tokens with the highest scores, independent of
    the keep ratio (Focus-DETR's Table 3). The kept tokens are those of the first layer.

    Args:
        top: share of the tokens in ``corr_top``, 0.1 in Table 3.
    """

    def __init__(self, top: float = 0.1, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if not 0 < top <= 1:
            raise ValueError(f"top must lie in (0, 1], got {top}")
        self.top = top

    def measure(self, sample: dict[str, Any], report: dict[str, Any]) -> dict[str, Any]:
        """Corr of one image."""
        shapes, attention = report["shapes"], report["attention"][None].cpu()
        kept, valid = report["kept"][:1].cpu(), report["valid"][None].cpu()
        share = attention_share(attention, kept, shapes)[0].tolist()
        values = {"corr_all": share[0]}
        values.update({f"corr_level{i}": value for i, value in enumerate(share[1:])})
        if "scores" in report:
            best = best_share(report["scores"][None].cpu(), self.top, valid)
            values[f"corr_top{self.top * 100:g}"] = float(
                attention_share(attention, best, shapes)[0, 0]
            )
        return values

    def compute_metrics(self, results: list[dict[str, float]]) -> dict[str, float]:
        """Means over the images whose attention map is not zero on the level."""
        names = list(dict.fromkeys(name for result in results for name in result))
        values = {name: torch.tensor([r[name] for r in results if name in r]) for name in names}
        return {name: float(value.nanmean()) for name, value in values.items()}


@METRICS.register_module()
class ForegroundRecall(TokenMetric):
    """The share of foreground tokens that each encoder layer keeps, all and by object size.

    Counted over all images: ``recall_layer{i}``, ``recall_layer{i}_small``,
    ``_medium`` and ``_large`` (COCO's areas, in pixels of the original image),
    and ``recall``, the mean over layers. Foreground is Focus-DETR's rule
    (section 3.2, equation 1) on the annotations that the test pipeline loads,
    which MMDetection's do in pixels of the original image.

    Args:
        intervals, strides: see :class:`ForegroundLabels`.
    """

    def __init__(
        self,
        intervals: str | Intervals = "non_overlapping",
        strides: Sequence[int] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.intervals, self.strides = intervals, strides

    def measure(self, sample: dict[str, Any], report: dict[str, Any]) -> dict[str, Any]:
        """(layers, 1 + sizes) foreground tokens kept, and (1 + sizes,) foreground tokens."""
        boxes = _original_boxes(sample)
        shapes, kept, valid = report["shapes"], report["kept"].cpu(), report["valid"].cpu()
        labels = ForegroundLabels(len(shapes), self.intervals, self.strides)
        blank = torch.zeros(1, kept.shape[-1], 1)
        tokens = TokenGrid(blank, blank, None, shapes, torch.ones(1, len(shapes), 2))
        x, y = sample.get("scale_factor", (1.0, 1.0))[:2]
        scale = boxes.new_tensor([x, y, x, y])
        area = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
        groups = [boxes, *(boxes[(area >= low) & (area < high)] for low, high in SIZES.values())]
        foreground = torch.cat([labels(tokens, [group * scale]) for group in groups]) & valid
        held = (kept[:, None] & foreground).sum(-1)
        return {"kept": held.tolist(), "foreground": foreground.sum(-1).tolist()}

    def compute_metrics(self, results: list[dict[str, Any]]) -> dict[str, float]:
        """Shares over all images; NaN for a size without objects."""
        kept = torch.tensor([result["kept"] for result in results]).sum(0).double()
        foreground = torch.tensor([result["foreground"] for result in results]).sum(0)
        share = kept / foreground
        metrics = {"recall": float(share[:, 0].mean())}
        for layer, values in enumerate(share.tolist()):
            metrics[f"recall_layer{layer}"] = values[0]
            for size, value in zip(SIZES, values[1:], strict=True):
                metrics[f"recall_layer{layer}_{size}"] = value
        return metrics


def _original_boxes(sample: dict[str, Any]) -> Tensor:
    """(n, 4) boxes (x1, y1, x2, y2) of a sample's annotations."""
    annotated = sample.get("gt_instances")
    if annotated is None:
        raise ValueError(
            "ForegroundRecall needs annotations in the data samples: keep LoadAnnotations in "
            "the test pipeline"
        )
    boxes: Tensor = get_box_tensor(annotated["bboxes"])
    return boxes.reshape(-1, 4).float().cpu()
