"""A resumed run is the uninterrupted one: weights, their average, optimiser and metadata."""

from __future__ import annotations

import random
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from mmengine.hooks import Hook
from mmengine.runner import Runner

from sparse_encoders.compat import load_weights
from sparse_encoders.hooks import SeedByStepHook
from tiny_runs import make_runner

STEPS, EPOCHS = 4, 2
RATIO, DRAWN = 0.3, (0.2, 0.9)
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


class Interruption(Exception):
    """What stops a run."""


class Watch(Hook):
    """Notes losses and loaded pixels; stops in the first iteration after an epoch."""

    def __init__(self, stop_after: int | None = None) -> None:
        self.stop_after = stop_after
        self.losses: list[float] = []
        self.pixels: list[float] = []

    def after_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: Any = None
    ) -> None:
        self.losses.append(float(outputs["loss"].detach()))
        self.pixels += [float(image.float().mean()) for image in data_batch["inputs"]]
        if runner.epoch == self.stop_after:
            raise Interruption


def run(folder: Path, name: str, watch: Watch, **settings: Any) -> Runner:
    """A runner with EMA and a schedule, as a config makes it."""
    return make_runner(
        folder,
        ENCODERS[name],
        [dict(type="EMAHook", momentum=0.1), watch, SeedByStepHook()],
        loader=dict(num_workers=int("worker" in name)),
        param_scheduler=[dict(type="MultiStepLR", milestones=[1])],
        **settings,
    )


@pytest.mark.slow
@pytest.mark.parametrize("name", ENCODERS)
def test_a_resumed_run_is_the_uninterrupted_one(name: str, tmp_path: Path) -> None:
    through, before, after = Watch(), Watch(stop_after=1), Watch()
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    run(whole, name, through).train()
    with pytest.raises(Interruption):
        run(parts, name, before).train()
    np.random.rand(5), torch.rand(5)  # whatever another process has drawn
    resumed = run(parts, name, after, resume=True)
    resumed.train()

    assert len(through.losses) == STEPS
    assert through.losses == before.losses[:2] + after.losses
    first, last = (load_weights(folder / f"epoch_{EPOCHS}.pth") for folder in (whole, parts))
    for key in ("state_dict", "ema_state_dict", "optimizer"):
        torch.testing.assert_close(first[key], last[key], rtol=0, atol=0)
    assert first["param_schedulers"] == last["param_schedulers"]
    weights, averaged = first["ema_state_dict"], first["state_dict"]  # they stand exchanged
    norm = "encoder.layers.0.norms.0.weight"
    assert not torch.equal(weights[f"module.{norm}"], averaged[norm])
    selector, drawn = resumed.model.encoder.selector, "drawn" in name
    for saved in (first, last):
        metadata = saved["state_dict"]._metadata["encoder.selector"]
        if drawn:
            assert metadata["drawn_keep_ratio"] == [*DRAWN, STEPS]
        else:
            ratios = metadata["keep_ratio"]
            assert sum(ratios) / len(ratios) == pytest.approx(RATIO)
            assert selector.trained_keep_ratio == tuple(ratios)
    assert selector.trained_keep_range == (DRAWN if drawn else None)


@pytest.mark.parametrize("workers", [0, pytest.param(1, marks=pytest.mark.slow)])
def test_loading_draws_the_same_whatever_the_encoder_draws(workers: int, tmp_path: Path) -> None:
    seen = []
    for number, encoder in enumerate([ENCODERS["random tokens"], dict(type="DenseEncoder")]):
        watch = Watch()
        hooks, loader = [watch, SeedByStepHook()], dict(num_workers=workers)
        make_runner(tmp_path / str(number), encoder, hooks, loader).train()
        seen.append(watch.pixels)
    assert seen[0] == seen[1] and len(set(seen[0])) == 4 * EPOCHS


@pytest.mark.parametrize(
    ("loader", "message"),
    [
        (dict(persistent_workers=True), "persistent_workers=True keeps"),
        (dict(persistent_workers=False, sampler=SimpleNamespace(seed=8)), r"dict\(seed=7\)"),
    ],
)
def test_what_cannot_resume_exactly_is_refused(loader: dict[str, Any], message: str) -> None:
    runner: Any = SimpleNamespace(
        train_dataloader=SimpleNamespace(**loader), seed=7, rank=0, _randomness_cfg={}
    )
    with pytest.raises(ValueError, match=message):
        SeedByStepHook().before_train(runner)


def test_every_process_epoch_and_iteration_draws_its_own() -> None:
    drawn, hook = set(), SeedByStepHook()
    for rank in (0, 1):
        for step in range(3):
            runner: Any = SimpleNamespace(seed=7, rank=rank, epoch=step, iter=step)
            for seed in (hook.before_train_epoch, lambda r: hook.before_train_iter(r, 0)):
                seed(runner)
                drawn.add((random.random(), np.random.rand(), float(torch.rand(()))))
    assert all(len({values[i] for values in drawn}) == 12 for i in range(3))
