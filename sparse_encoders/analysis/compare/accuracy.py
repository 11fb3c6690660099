"""AP, Corr and foreground recall of a loaded detector, and how sure AP is."""

from __future__ import annotations

import contextlib
import json
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from math import isfinite
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmengine.evaluator import Evaluator
from mmengine.runner import Runner

from sparse_encoders.analysis.compare.configs import with_token_metrics
from sparse_encoders.analysis.compare.plan import Plan
from sparse_encoders.analysis.quiet import quiet

#: resampled sets of validation images
RESAMPLES = 100
#: more images times classes than this would take minutes to resample
RESAMPLED_UP_TO = 20_000


class Judge:
    """Measures detectors on one data set, which is read once."""

    def __init__(self, plan: Plan) -> None:
        assert plan.data is not None
        self.data = plan.data
        with quiet():
            self.loader = Runner.build_dataloader(plan.base.test_dataloader)
        self.metrics = with_token_metrics(plan.base)

    def measure(
        self, model: Any, progress: Callable[[int, int], None] = lambda done, of: None
    ) -> dict[str, Any]:
        """Run the detector over the validation images.

        Args:
            model: a detector of this package, in evaluation mode.
            progress: called as (batches done, batches in all).

        Returns:
            ``metrics`` as the evaluators name them (None where there is nothing to
            measure), ``resamples`` (AP of each resampled set of images, empty for large
            sets), ``images`` and ``seconds``.
        """
        start = time.perf_counter()
        with tempfile.TemporaryDirectory() as folder, _reporting_tokens(model):
            found = self._evaluate(model, Path(folder), progress)
            file = Path(folder) / "found.bbox.json"
            few = self.data.validated * len(self.data.classes) <= RESAMPLED_UP_TO
            samples = resampled_ap(self.data.annotations, file, self.data.classes) if few else []
        return {
            "metrics": {name: _plain(value) for name, value in found.items()},
            "resamples": samples,
            "images": self.data.validated,
            "seconds": time.perf_counter() - start,
        }

    @torch.no_grad()
    def _evaluate(
        self, model: Any, folder: Path, progress: Callable[[int, int], None]
    ) -> dict[str, float]:
        metrics = [dict(m) for m in self.metrics]
        for metric in metrics:
            if metric["type"] == "CocoMetric":
                metric["outfile_prefix"] = str(folder / "found")
        with quiet():
            evaluator = Evaluator(metrics)
        evaluator.dataset_meta = self.loader.dataset.metainfo
        with quiet():
            for number, batch in enumerate(self.loader, 1):
                evaluator.process(data_samples=model.test_step(batch), data_batch=batch)
                progress(number, len(self.loader))
            found: dict[str, float] = evaluator.evaluate(len(self.loader.dataset))
        return found


@contextlib.contextmanager
def _reporting_tokens(model: Any) -> Iterator[None]:
    """The detector tells what it kept, for the length of a ``with`` block."""
    before = model.test_cfg
    model.test_cfg = {**(before or {}), "report_tokens": True}
    try:
        yield
    finally:
        model.test_cfg = before


def _plain(value: float) -> float | None:
    # pycocotools gives -1 where no object is of the size
    return float(value) if isfinite(value) and value >= 0 else None


def resampled_ap(
    annotations: Path, detections: Path, classes: Sequence[str], count: int = RESAMPLES
) -> list[float]:
    """AP of sets of images drawn with replacement from the validation images.

    Set i is the same for all detectors on the same data, so that differences can
    be taken set by set.

    Args:
        annotations: COCO annotation file.
        detections: COCO result file of the boxes found.
        classes: names of the classes that count.
        count: sets.

    Returns:
        ``count`` times box AP in [0, 1], the mean over IoU thresholds 0.50 to 0.95.
    """
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    with quiet():
        truth = COCO(str(annotations))
        if not json.loads(detections.read_text()):
            return [0.0] * count
        judged = COCOeval(truth, truth.loadRes(str(detections)), "bbox")
        judged.params.catIds = truth.getCatIds(catNms=list(classes))
        judged.params.areaRng, judged.params.areaRngLbl = judged.params.areaRng[:1], ["all"]
        judged.params.maxDets = [100]
        judged.evaluate()
        images = len(judged.params.imgIds)
        # one row a class; matching within an image does not depend on the others
        table = np.array(judged.evalImgs, dtype=object).reshape(-1, images)
        places = list(range(images))
        judged.params.imgIds = judged._paramsEval.imgIds = places
        rng = np.random.default_rng(0)
        samples = []
        for _ in range(count):
            judged.evalImgs = table[:, rng.integers(0, images, images)].ravel().tolist()
            judged.accumulate()
            precision = judged.eval["precision"]
            known = precision[precision > -1]
            samples.append(round(float(known.mean()), 5) if known.size else 0.0)
    return samples
