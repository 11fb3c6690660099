"""A resumed run is the uninterrupted one: weights, their average, optimiser and metadata."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from mmengine.evaluator import BaseMetric
from mmengine.hooks import Hook
from mmengine.runner import Runner
from torch import Tensor
from torch.utils.data import Dataset

from sparse_encoders.compat import load_weights
from sparse_encoders.hooks import SeedByStepHook
from tiny import build, samples
from tiny_detectors import detector_config

SIZE = (64, 96)
EPOCHS = 2
RATIO, DRAWN = 0.3, (0.2, 0.9)


class Pictures(Dataset):
    """Four pictures of noise; loading one draws, as augmentation does."""

    metainfo: ClassVar = dict(classes=tuple("abcde"))

    def __len__(self) -> int:
        return 4

    def __getitem__(self, index: int) -> dict[str, Any]:
        generator = torch.Generator().manual_seed(index)
        pixels = torch.randint(0, 200, (3, *SIZE), generator=generator, dtype=torch.uint8)
        (sample,) = samples([SIZE], SIZE, boxes=(2 + index % 2,), seed=index)
        return dict(inputs=pixels + np.random.randint(0, 50), data_samples=sample)


class Nothing(BaseMetric):
    """No metric: validation is there for what it draws and swaps."""

    def process(self, data_batch: Any, data_samples: Any) -> None:
        self.results.append(0)

    def compute_metrics(self, results: list[Any]) -> dict[str, float]:
        return {"images": float(len(results))}


class Losses(Hook):
    """Every iteration's total loss."""

    def __init__(self) -> None:
        self.seen: list[float] = []

    def after_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: Any = None
    ) -> None:
        self.seen.append(float(outputs["loss"].detach()))


class Batches(Hook):
    """The pixels of every batch, flipped and brightened as they were loaded."""

    def __init__(self) -> None:
        self.seen: list[float] = []

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None) -> None:
        self.seen += [float(image.float().mean()) for image in data_batch["inputs"]]


class Interruption(Exception):
    """What stops a run."""


class Stop(Hook):
    """Stops in the first iteration after an epoch."""

    def __init__(self, after: int) -> None:
        self.after = after

    def after_train_iter(self, runner: Runner, *args: Any, **kwargs: Any) -> None:
        if runner.epoch == self.after:
            raise Interruption


def runner_of(
    folder: Path, encoder: dict[str, Any], hooks: list[Any], workers: int = 0, **settings: Any
) -> Runner:
    """A runner as a config makes it: validation, EMA, clipped gradients, a schedule."""
    loader = dict(
        batch_size=2,
        num_workers=workers,
        dataset=Pictures(),
        sampler=dict(type="DefaultSampler", shuffle=True),
    )
    return Runner(
        build(detector_config("DINO", encoder)),
        work_dir=str(folder),
        train_dataloader=loader,
        val_dataloader=loader,
        val_evaluator=[Nothing()],
        train_cfg=dict(by_epoch=True, max_epochs=EPOCHS),
        val_cfg={},
        optim_wrapper=dict(
            optimizer=dict(type="AdamW", lr=1e-3), clip_grad=dict(max_norm=0.1, norm_type=2)
        ),
        param_scheduler=[dict(type="MultiStepLR", milestones=[1])],
        custom_hooks=[dict(type="EMAHook", momentum=0.1), *hooks],
        default_scope="mmdet",
        experiment_name=f"{folder.name}_{len(list(folder.glob('*')))}",
        log_level="ERROR",
        **{"randomness": dict(seed=7), **settings},
    )


def same(one: Any, other: Any, where: str = "") -> Iterator[str]:
    """Where two checkpoints differ."""
    if isinstance(one, dict) and isinstance(other, dict):
        if one.keys() != other.keys():
            yield f"{where}: {one.keys() ^ other.keys()}"
        for key in one.keys() & other.keys():
            yield from same(one[key], other[key], f"{where}.{key}")
    elif isinstance(one, list | tuple) and isinstance(other, list | tuple):
        if len(one) != len(other):
            yield f"{where}: {len(one)} and {len(other)}"
        for index, parts in enumerate(zip(one, other, strict=False)):
            yield from same(*parts, f"{where}.{index}")
    elif isinstance(one, Tensor):
        if not torch.equal(one, other):
            yield where
    elif one != other:
        yield f"{where}: {one} and {other}"


ENCODERS = {
    "random tokens": dict(
        type="SparseDETREncoder", selector=dict(type="RandomSelector", keep_ratio=RATIO)
    ),
    "Focus-DETR, loaded by a worker": dict(
        type="DualAttentionEncoder", selector=dict(type="FocusTokenSelector", keep_ratio=RATIO)
    ),
    "keep ratios drawn": dict(
        type="DualAttentionEncoder",
        selector=dict(type="SalienceTokenSelector", train_keep_ratio=DRAWN),
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", ENCODERS)
def test_a_resumed_run_is_the_uninterrupted_one(name: str, tmp_path: Path) -> None:
    encoder, workers, drawn = ENCODERS[name], int("worker" in name), "drawn" in name
    through, before, after = Losses(), Losses(), Losses()
    runner_of(tmp_path / "whole", encoder, [through, SeedByStepHook()], workers).train()
    parts = tmp_path / "parts"
    stopped = runner_of(parts, encoder, [before, Stop(after=1), SeedByStepHook()], workers)
    with pytest.raises(Interruption):
        stopped.train()
    np.random.rand(5), torch.rand(5)  # whatever another process has drawn
    resumed = runner_of(parts, encoder, [after, SeedByStepHook()], workers, resume=True)
    resumed.train()

    assert len(through.seen) == 2 * EPOCHS
    assert through.seen == before.seen[:2] + after.seen
    first, last = (
        load_weights(folder / f"epoch_{EPOCHS}.pth") for folder in (tmp_path / "whole", parts)
    )
    for key in ("state_dict", "ema_state_dict", "optimizer", "param_schedulers"):
        assert list(same(first[key], last[key])) == []
    weights, averaged = first["ema_state_dict"], first["state_dict"]  # they stand exchanged
    name = "encoder.layers.0.norms.0.weight"
    assert not torch.equal(weights[f"module.{name}"], averaged[name])
    selector = resumed.model.encoder.selector
    for saved in (first, last):
        metadata = saved["state_dict"]._metadata["encoder.selector"]
        if drawn:
            assert metadata["drawn_keep_ratio"] == [*DRAWN, 2 * EPOCHS]
            continue
        ratios = metadata["keep_ratio"]
        assert sum(ratios) / len(ratios) == pytest.approx(RATIO)
        assert selector.trained_keep_ratio == tuple(ratios)
    assert selector.trained_keep_range == (DRAWN if drawn else None)


@pytest.mark.parametrize("workers", [0, pytest.param(1, marks=pytest.mark.slow)])
def test_loading_draws_the_same_whatever_the_encoder_draws(workers: int, tmp_path: Path) -> None:
    seen = []
    for number, encoder in enumerate([ENCODERS["random tokens"], dict(type="DenseEncoder")]):
        batches = Batches()
        hooks = [batches, SeedByStepHook()]
        runner_of(tmp_path / str(number), encoder, hooks, workers).train()
        seen.append(batches.seen)
    assert seen[0] == seen[1] and len(set(seen[0])) == 4 * EPOCHS


@pytest.mark.parametrize(
    ("loader", "message"),
    [
        (dict(persistent_workers=True), "persistent_workers=True keeps"),
        (dict(persistent_workers=False, sampler=SimpleNamespace(seed=8)), r"dict\(seed=7\)"),
    ],
)
def test_what_cannot_resume_exactly_is_refused(loader: dict[str, Any], message: str) -> None:
    runner = SimpleNamespace(
        train_dataloader=SimpleNamespace(**loader), seed=7, rank=0, _randomness_cfg={}
    )
    with pytest.raises(ValueError, match=message):
        SeedByStepHook().before_train(runner)  # type: ignore[arg-type]


def test_every_process_epoch_and_iteration_draws_its_own() -> None:
    drawn = set()
    for rank in (0, 1):
        for step in range(3):
            runner: Any = SimpleNamespace(seed=7, rank=rank, epoch=step, iter=step)
            for seed in (SeedByStepHook().before_train_epoch, SeedByStepHook().before_train_iter):
                seed(runner, *[0] * ("iter" in seed.__name__))
                drawn.add((random.random(), np.random.rand(), float(torch.rand(()))))
    assert len(drawn) == 12
    assert all(len({values[i] for values in drawn}) == 12 for i in range(3))
