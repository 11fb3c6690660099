"""Sizes of the check: those that are reported, and tiny ones that rehearse it."""

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
    """How large everything is, and where it runs.

    Attributes:
        root: the checkout.
        work: folder of everything that is written.
        device: 'cpu' or a CUDA device.
        tiny: small images, few layers and one round: shows that it runs, measures nothing.
        minutes: no case begins later than that many minutes after ``started``.
        started: of ``time.monotonic``.
        keep_failed: cases that failed before are not run again.
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
        """Of the time in which cases begin; negative once it is over."""
        return self.minutes * 60 - (time.monotonic() - self.started)

    @property
    def encoders(self) -> tuple[str, ...]:
        """Short names, the dense one first."""
        return ENCODERS[:2] if self.tiny else ENCODERS

    @property
    def image_hw(self) -> tuple[int, int]:
        """(height, width) in pixels of the detectors' images."""
        return (64, 96) if self.tiny else (800, 1333)

    @property
    def batches(self) -> tuple[int, ...]:
        """Images of a pass."""
        return (1,) if self.tiny else (1, 8)

    @property
    def half(self) -> str:
        """The half precision of inference: float16 where there is a GPU."""
        return "float16" if self.on_gpu else "bfloat16"

    @property
    def rounds(self) -> tuple[int, int]:
        """Timed rounds, and rounds before them."""
        if self.tiny:
            return 1, 0
        return (20, 5) if self.on_gpu else (5, 1)

    @property
    def detector(self) -> dict[str, Any]:
        """Size of the detectors' encoders, for :func:`.encoder_benchmark.detector_with`."""
        return dict(layers=2, ffn=64) if self.tiny else {}

    def synchronize(self) -> None:
        """Wait for the GPU, so that an error shows in the case that made it."""
        if self.on_gpu:
            torch.cuda.synchronize(self.device)
