"""Settings of the GPU check: full sizes for measuring, tiny ones for trying it out."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

#: functions of a step's cases by name; each returns a result for JSON. An entry ``errors`` of a
#: result, messages by name, is of parts of the case that failed
Cases = dict[str, Callable[[], dict[str, Any]]]
ENCODERS = ("dense", "focus", "sparse", "salience", "lite", "hybrid")
KEEP_RATIO = 0.3
#: arguments of :class:`Settings` that try the steps out and measure nothing useful
TINY: dict[str, Any] = dict(
    tiny=True, encoders=ENCODERS[:2], image_hw=(64, 96), batches=(1,), rounds=(1, 0)
)


@dataclass(frozen=True)
class Settings:
    """Folder, device, time limit and sizes of a call.

    Attributes:
        work: folder of all files that are written.
        device: 'cpu' or a CUDA device.
        deadline: no case starts later than this value of ``time.monotonic``.
        keep_failed: do not run cases again that failed before.
        tiny: few layers, queries and images, where nothing below says so.
        encoders: short names, the dense one first.
        image_hw: (height, width) of the images in pixels.
        batches: batch sizes of the forward passes.
        rounds: numbers of timed rounds and of warm-up rounds.
    """

    work: Path
    device: str = "cpu"
    deadline: float = math.inf
    keep_failed: bool = False
    tiny: bool = False
    encoders: tuple[str, ...] = ENCODERS
    image_hw: tuple[int, int] = (800, 1333)
    batches: tuple[int, ...] = (1, 8)
    rounds: tuple[int, int] = (20, 5)

    @property
    def on_gpu(self) -> bool:
        """Whether it runs on a GPU."""
        return torch.device(self.device).type == "cuda"

    def synchronize(self) -> None:
        """Wait for the GPU, so that an error is raised in the case that caused it."""
        if self.on_gpu:
            torch.cuda.synchronize(self.device)
