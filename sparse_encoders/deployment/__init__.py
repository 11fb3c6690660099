"""Detectors without MMDetection: as one function of an image, and as ONNX files."""

from sparse_encoders.deployment.module import ImageToDetections, attention_backend
from sparse_encoders.deployment.onnx_file import (
    EXPORTERS,
    OnnxDifference,
    compare_with_onnx,
    export_onnx,
    run_onnx,
)
from sparse_encoders.deployment.runtimes import RUNTIMES, open_onnx

__all__ = [
    "EXPORTERS",
    "RUNTIMES",
    "ImageToDetections",
    "OnnxDifference",
    "attention_backend",
    "compare_with_onnx",
    "export_onnx",
    "open_onnx",
    "run_onnx",
]
