"""AP with its spread, Corr and foreground recall of a loaded detector."""

from __future__ import annotations

from math import isfinite
from typing import Any

import torch
from mmengine.evaluator import Evaluator
from mmengine.runner import Runner

import sparse_encoders.evaluation  # noqa: F401  (registers the metrics)
from sparse_encoders.analysis.compare.configs import listed_metrics
from sparse_encoders.analysis.compare.plan import Data, Plan
from sparse_encoders.analysis.quiet import quiet
from sparse_encoders.datasets.coco_folder import innermost

#: resampled sets of validation images
RESAMPLES = 100
#: largest number of images times classes for which images are resampled
RESAMPLED_UP_TO = 20_000


class Judge:
    """Measures detectors on one data set, which is read once."""

    def __init__(self, plan: Plan) -> None:
        assert plan.data is not None
        self.data = plan.data
        with quiet():
            self.loader = Runner.build_dataloader(plan.base.test_dataloader)
        self.metrics = metrics_of(plan.base, plan.data)

    @torch.no_grad()
    def measure(self, model: Any) -> dict[str, Any]:
        """Run the detector over the validation images.

        Args:
            model: a detector of this package, in evaluation mode; is told to report its tokens.

        Returns:
            ``metrics`` as the evaluators name them (None where there is nothing to
            measure), ``resamples`` (AP of each resampled set of images, empty for large
            sets) and ``images``.
        """
        model.test_cfg = {**(model.test_cfg or {}), "report_tokens": True}
        with quiet():
            evaluator = Evaluator([dict(metric) for metric in self.metrics])
            evaluator.dataset_meta = self.loader.dataset.metainfo
            for batch in self.loader:
                evaluator.process(data_samples=model.test_step(batch), data_batch=batch)
            metrics = evaluator.evaluate(len(self.loader.dataset))
        resamples = [sets for m in evaluator.metrics if (sets := getattr(m, "resamples", None))]
        return {
            # pycocotools gives -1 where no object is of the size
            "metrics": {
                k: float(v) if isfinite(v) and v >= 0 else None for k, v in metrics.items()
            },
            "resamples": resamples[0] if resamples else [],
            "images": self.data.validated,
        }


def metrics_of(config: Any, data: Data) -> list[dict[str, Any]]:
    """The config's metrics: COCO's with resampled images, Corr and, with annotations, recall."""
    metrics = listed_metrics(config)
    for metric in metrics:
        if metric["type"] == "CocoMetric":
            few = data.validated * len(data.classes) <= RESAMPLED_UP_TO
            metric.update(type="ResampledCocoMetric", resamples=RESAMPLES if few else 0)
            metric.setdefault("ann_file", str(data.annotations))
    named = {metric["type"] for metric in metrics}
    if "DecoderCorrelation" not in named:
        metrics.append(dict(type="DecoderCorrelation", top=0.1))
    steps = innermost(config.test_dataloader.dataset).pipeline
    annotated = any(step.get("type") == "LoadAnnotations" for step in steps)
    if "ForegroundRecall" not in named and annotated:
        selector = (config.model.get("encoder") or {}).get("selector") or {}
        rule = {k: selector[k] for k in ("intervals", "strides") if selector.get(k) is not None}
        metrics.append(dict(dict(type="ForegroundRecall", intervals="non_overlapping"), **rule))
    return metrics
