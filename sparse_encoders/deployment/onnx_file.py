"""A detector as an ONNX file that plain onnxruntime runs, and how near it is to torch."""

from __future__ import annotations

import importlib.util
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from inspect import signature
from pathlib import Path
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor

from sparse_encoders.compat import no_attention_fastpath
from sparse_encoders.deployment.module import ImageToDetections, attention_backend
from sparse_encoders.deployment.runtimes import OUTPUTS, Detect, open_onnx
from sparse_encoders.deployment.traced_features import check_backbone
from sparse_encoders.detectors import DDQDETR
from sparse_encoders.selectors import RandomSelector

_NEEDS = {"torchscript": ("onnx",), "dynamo": ("onnx", "onnxscript")}
EXPORTERS = tuple(_NEEDS)


def export_onnx(
    model: Any,
    image_hw: tuple[int, int],
    path: str | Path,
    *,
    exporter: str = "torchscript",
    normalize: bool = True,
    dynamic_batch: bool = False,
    dynamic_size: bool = False,
) -> None:
    """Write a detector as an ONNX file.

    The file has one input ``image`` (B, 3, height, width) float32 and the outputs of
    :class:`ImageToDetections`. B is 1 and the size is ``image_hw``, unless they are dynamic.
    Attention is written in ONNX's own operators (GridSample), whatever computes it here. Opset
    18; 17 from a torch whose exporter does not write all of 18.

    Args:
        model: a detector of this package, in eval mode, on any device.
        image_hw: (height, width) of the images in pixels; with ``dynamic_size`` of the example
            that is traced.
        path: of the file.
        exporter: 'torchscript' (seconds, one file) or 'dynamo' (torch's newer one, which
            takes about ten times as long).
        normalize: see :class:`ImageToDetections`.
        dynamic_batch: the file takes any number of images at once. Each gets the detections
            that it gets alone.
        dynamic_size: the file takes images of any size that has as many tokens as the detector
            has queries; a runtime stops at smaller ones.

    Raises:
        ImportError: what the exporter needs is not installed.
        TypeError: not a detector of this package.
        ValueError: what :class:`ImageToDetections` refuses, an unknown exporter, a dynamic
            batch or size with 'dynamo', which writes the example's, a detector or a selector that
            no file can hold, a backbone that computes with the example's batch or size where they
            are dynamic, an image of no more pixels than one token of the coarsest level has,
            a dynamic size whose example has fewer tokens than the detector queries.
    """
    exporter_arguments = _exporter_arguments(exporter, dynamic_batch, dynamic_size)
    detector = ImageToDetections(model, image_hw, normalize).eval()
    detector.image_hw = None if dynamic_size else detector.image_hw
    if isinstance(model.encoder.selector, RandomSelector):
        raise ValueError("RandomSelector draws its tokens: a file of it would keep one draw")
    if isinstance(model, DDQDETR):
        raise ValueError(
            "DDQDETR chooses queries by non-maximum suppression, image by image, which torch's "
            "exporters do not write: run it in torch (ImageToDetections), or export a DINO"
        )
    # a dynamic batch is traced with two images: with one, broadcasting would be written that is
    # right for one image only
    batch = 2 if dynamic_batch else 1
    image = torch.zeros(batch, 3, *image_hw, device=next(model.parameters()).device)
    axes = {name: {0: "batch"} if dynamic_batch else {} for name in ("image", *OUTPUTS)}
    if dynamic_size:
        axes["image"] |= {2: "height", 3: "width"}
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    with (
        torch.no_grad(),
        attention_backend(model, "torch"),
        no_attention_fastpath(),  # a fused operator that ONNX does not know
        _autocast_cache_as_it_was(),
        warnings.catch_warnings(),
    ):
        # the tracer warns of sizes that are Python numbers, which is intended here, and the older
        # exporter warns that it is deprecated
        warnings.simplefilter("ignore")
        if dynamic_batch or dynamic_size:
            check_backbone(model, image, dynamic_batch, dynamic_size)
        torch.onnx.export(
            detector,
            (image,),
            str(path),
            input_names=["image"],
            output_names=list(OUTPUTS),
            dynamic_axes=axes if dynamic_batch or dynamic_size else None,
            verbose=False,
            **exporter_arguments,
        )


@contextmanager
def _autocast_cache_as_it_was() -> Iterator[None]:
    """The tracing exporter switches the cache off, and leaves it so when tracing fails."""
    before = torch.is_autocast_cache_enabled()
    try:
        yield
    finally:
        torch.set_autocast_cache_enabled(before)


def _exporter_arguments(exporter: str, dynamic_batch: bool, dynamic_size: bool) -> dict[str, Any]:
    """The arguments of ``torch.onnx.export`` that choose the exporter and the opset.

    A torch before 2.5, whose ``torch.onnx.export`` has the TorchScript exporter only, gets opset
    17: for opset 18 it writes maxima in the form of opset 17.
    """
    if exporter not in EXPORTERS:
        raise ValueError(f"exporter must be one of {EXPORTERS}, got {exporter!r}")
    for name, dynamic in (("dynamic_batch", dynamic_batch), ("dynamic_size", dynamic_size)):
        if dynamic and exporter != "torchscript":
            raise ValueError(
                f"{name}=True needs exporter='torchscript', got {exporter!r}, which writes files "
                "of a fixed batch and size"
            )
    missing = [name for name in _NEEDS[exporter] if importlib.util.find_spec(name) is None]
    if missing:
        raise ImportError(f"the {exporter} exporter needs {', '.join(missing)}: pip install it")
    if {"dynamo", "external_data"} <= signature(torch.onnx.export).parameters.keys():
        newer = exporter == "dynamo"
        return {"dynamo": newer, "external_data": False, "opset_version": 18}
    if exporter == "dynamo":
        raise ImportError(
            "exporter='dynamo' needs torch 2.5 or newer, whose torch.onnx.export has dynamo=True; "
            f"this is torch {torch.__version__}: use exporter='torchscript'"
        )
    return {"opset_version": 17}


@dataclass(frozen=True)
class OnnxDifference:
    """How the detections of an ONNX file differ from torch's.

    Attributes:
        boxes: largest distance in pixels of a box of torch's to the file's nearest one of
            the same image and label.
        scores: largest difference of the k-th best scores.
        labels: ranks at which the labels differ (detections of equal scores may swap).
        detections: compared detections.
        runtime: what ran the file.
        torch_seconds: one pass in torch, with the detector's own attention backend.
        runtime_seconds: one pass of the file.
    """

    boxes: float
    scores: float
    labels: int
    detections: int
    runtime: str
    torch_seconds: float
    runtime_seconds: float

    def __str__(self) -> str:
        return (
            f"{self.detections} detections: boxes differ by at most {self.boxes:.1e} pixels, "
            f"scores by {self.scores:.1e}, {self.labels} labels by rank; one pass takes "
            f"{self.torch_seconds:.3f} s in torch, {self.runtime_seconds:.3f} s in {self.runtime}"
        )


def run_onnx(
    path: str | Path | Detect, image: Tensor, runtime: str = "onnxruntime"
) -> tuple[list[NDArray[Any]], float]:
    """The file's outputs of an image and the seconds of the faster of two passes.

    Args:
        path: of the file, or the function that :func:`open_onnx` gave for it.
        image: (B, 3, height, width).
        runtime: see :func:`open_onnx`, also for errors.
    """
    return _timed(path if callable(path) else open_onnx(path, runtime), image)


def _timed(call: Callable[[Tensor], Any], image: Tensor) -> tuple[Any, float]:
    """Call twice; returns the outputs of the second call and the seconds of the faster one."""
    seconds = []
    for _ in range(2):
        start = time.perf_counter()
        outputs = call(image)
        seconds.append(time.perf_counter() - start)
    return outputs, min(seconds)


def compare_with_onnx(
    model: Any,
    path: str | Path | Detect,
    image: Tensor,
    normalize: bool = True,
    runtime: str = "onnxruntime",
) -> OnnxDifference:
    """Run a detector and its ONNX file on images.

    Args:
        model: what was exported.
        path: of the file, or the function that :func:`open_onnx` gave for it, which saves opening
            it (about a second) for each of many images.
        image: (B, 3, height, width), as the file takes them.
        normalize: as it was exported.
        runtime: see :func:`open_onnx`, also for errors.
    """
    detector = ImageToDetections(model, (image.shape[2], image.shape[3]), normalize).eval()
    with torch.no_grad():
        detections, torch_seconds = _timed(detector, image)
    boxes, scores, labels = (output.cpu() for output in detections)
    outputs, seconds = run_onnx(path, image, runtime)
    their_boxes, their_scores, their_labels = map(torch.from_numpy, outputs)
    apart = (boxes[:, :, None] - their_boxes[:, None]).abs().amax(-1)
    apart = apart.masked_fill(labels[:, :, None] != their_labels[:, None], torch.inf)
    return OnnxDifference(
        boxes=float(apart.amin(2).max()),
        scores=float((scores - their_scores).abs().max()),
        labels=int((labels != their_labels).sum()),
        detections=scores.numel(),
        runtime=runtime,
        torch_seconds=torch_seconds,
        runtime_seconds=seconds,
    )
