"""Settings of the GPU check: full sizes for measuring, tiny ones for trying it out."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

ENCODERS = ("dense", "focus", "sparse", "salience", "lite", "hybrid")
KEEP_RATIO = 0.3


@dataclass(frozen=True)
class Settings:
    """Sizes, device, folders and time limit of a call.

    Attributes:
        root: the checkout.
        work: folder of all files that are written.
        device: 'cpu' or a CUDA device.
        tiny: small images, few layers and one round: tries the steps out, measures nothing useful.
        minutes: time limit: no case starts more than this many minutes after ``started``.
        started: start of the call, from ``time.monotonic``.
        keep_failed: do not run cases again that failed before.
    """

    root: Path
    work: Path
    device: str = "cpu"
    tiny: bool = False
    minutes: float = 8.0
    started: float = field(default_factory=time.monotonic)
    keep_failed: bool = False

    @property
    def on_gpu(self) -> bool:
        """Whether it runs on a GPU."""
        return torch.device(self.device).type == "cuda"

    @property
    def seconds_left(self) -> float:
        """Seconds until the time limit; negative after it."""
        return self.minutes * 60 - (time.monotonic() - self.started)

    @property
    def encoders(self) -> tuple[str, ...]:
        """Short names of the encoders, the dense one first."""
        return ENCODERS[:2] if self.tiny else ENCODERS

    @property
    def image_hw(self) -> tuple[int, int]:
        """(height, width) of the images in pixels."""
        return (64, 96) if self.tiny else (800, 1333)

    @property
    def batches(self) -> tuple[int, ...]:
        """Batch sizes of the forward passes."""
        return (1,) if self.tiny else (1, 8)

    @property
    def half(self) -> str:
        """The half-precision dtype of inference: float16 on a GPU, else bfloat16."""
        return "float16" if self.on_gpu else "bfloat16"

    @property
    def rounds(self) -> tuple[int, int]:
        """Numbers of timed rounds and of warm-up rounds."""
        if self.tiny:
            return 1, 0
        return (20, 5) if self.on_gpu else (5, 1)

    @property
    def detector(self) -> dict[str, Any]:
        """Encoder sizes of the detectors, arguments of :func:`.encoder_benchmark.detector_with`."""
        return dict(layers=2, ffn=64) if self.tiny else {}

    def synchronize(self) -> None:
        """Wait for the GPU, so that an error is raised in the case that caused it."""
        if self.on_gpu:
            torch.cuda.synchronize(self.device)
