"""Runs of MMEngine's ``Runner`` with a tiny DINO and pictures of noise, for the tests of hooks."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from mmengine.evaluator import BaseMetric
from mmengine.runner import Runner
from torch.utils.data import Dataset

from tiny import build, samples
from tiny_detectors import detector_config

SIZE = (64, 96)


class Pictures(Dataset):
    """Four pictures, brightened by a number drawn when one is loaded; from ``bad`` on all NaN."""

    metainfo: ClassVar = dict(classes=tuple("abcde"))

    def __init__(self, bad: int = 4, brightness: int = 50) -> None:
        self.bad, self.brightness = bad, brightness

    def __len__(self) -> int:
        return 4

    def __getitem__(self, index: int) -> dict[str, Any]:
        generator = torch.Generator().manual_seed(index)
        pixels = torch.randint(0, 200, (3, *SIZE), generator=generator, dtype=torch.uint8)
        if self.brightness:
            pixels += np.random.randint(self.brightness)
        (sample,) = samples([SIZE], SIZE, boxes=(2 + index % 2,), seed=index)
        broken = index >= self.bad
        return dict(inputs=pixels * torch.nan if broken else pixels, data_samples=sample)


class Nothing(BaseMetric):
    """No metric: validation is there for what it draws and swaps."""

    def process(self, data_batch: Any, data_samples: Any) -> None:
        self.results.append(0)

    def compute_metrics(self, results: list[Any]) -> dict[str, float]:
        return {"images": float(len(results))}


def make_runner(
    folder: Path,
    encoder: dict[str, Any] | None = None,
    hooks: Sequence[Any] = (),
    loader: dict[str, Any] | None = None,
    **settings: Any,
) -> Runner:
    """Two epochs of two batches, each with a validation; ``settings`` are the runner's."""
    data = dict(
        batch_size=2,
        num_workers=0,
        dataset=Pictures(),
        sampler=dict(type="DefaultSampler", shuffle=True),
    )
    data.update(loader or {})
    made: dict[str, Any] = dict(
        work_dir=str(folder),
        train_dataloader=data,
        val_dataloader=data,
        val_evaluator=[Nothing()],
        train_cfg=dict(by_epoch=True, max_epochs=2),
        val_cfg={},
        optim_wrapper=dict(
            optimizer=dict(type="AdamW", lr=1e-3), clip_grad=dict(max_norm=0.1, norm_type=2)
        ),
        custom_hooks=list(hooks),
        default_scope="mmdet",
        # MMEngine tells runs of one second apart by it
        experiment_name=f"{folder} {len(list(folder.glob('*')))}",
        randomness=dict(seed=7),
        log_level="ERROR",
    )
    if "model" not in settings:
        made["model"] = build(detector_config("DINO", encoder))
    return Runner(**{**made, **settings})
