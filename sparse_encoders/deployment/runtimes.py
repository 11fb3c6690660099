"""The runtimes that run an exported file on a CPU: onnxruntime and OpenVINO."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

OUTPUTS = ("boxes", "scores", "labels")
RUNTIMES = ("onnxruntime", "openvino")

Detect = Callable[[Tensor], list[NDArray[Any]]]


def open_onnx(path: str | Path, runtime: str = "onnxruntime") -> Detect:
    """Load an exported file into a runtime, on as many threads as torch has now.

    Args:
        path: of the file.
        runtime: 'onnxruntime' or 'openvino'. OpenVINO is set to float32, like the others;
            its default is bfloat16 on CPUs that have it.

    Returns:
        A function of images (B, 3, height, width), float32 pixel values, that gives boxes
        (B, K, 4), scores (B, K) and labels (B, K). Batch and size are the file's, where they
        are not dynamic (:func:`export_onnx`).

    Raises:
        ImportError: the runtime is not installed.
        ValueError: an unknown runtime.
    """
    if runtime not in RUNTIMES:
        raise ValueError(f"runtime must be one of {RUNTIMES}, got {runtime!r}")
    return _OPEN[runtime](str(path))


def _onnxruntime(path: str) -> Detect:
    onnxruntime = importlib.import_module("onnxruntime")  # has no types
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])

    def detect(image: Tensor) -> list[NDArray[Any]]:
        found = session.run(list(OUTPUTS), {"image": image.cpu().float().numpy()})
        return [np.asarray(output) for output in found]

    return detect


def _openvino(path: str) -> Detect:
    openvino = importlib.import_module("openvino")
    settings = {
        "INFERENCE_NUM_THREADS": torch.get_num_threads(),
        "INFERENCE_PRECISION_HINT": "f32",
    }
    compiled = openvino.compile_model(path, "CPU", settings)

    def detect(image: Tensor) -> list[NDArray[Any]]:
        found = compiled({"image": image.cpu().float().numpy()})
        return [np.array(found[name]) for name in OUTPUTS]

    return detect


_OPEN: dict[str, Callable[[str], Detect]] = {"onnxruntime": _onnxruntime, "openvino": _openvino}
