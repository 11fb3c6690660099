"""Trained weights of each encoder: from a checkpoint, or by MMDetection's own training."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from math import isfinite
from typing import Any

import torch
from mmengine.config import Config

from sparse_encoders.analysis.compare.configs import for_training
from sparse_encoders.analysis.compare.plan import Plan
from sparse_encoders.analysis.compare.store import digest, file_digest
from sparse_encoders.analysis.mim import check_command, last_checkpoint, read_scalars, run_mim
from sparse_encoders.analysis.quiet import quiet
from sparse_encoders.loading import load_detector


@dataclass(frozen=True)
class Weights:
    """Where a detector's weights are from.

    Attributes:
        source: 'trained' here, a 'checkpoint', or 'none' (random).
        file: the checkpoint; None for random weights.
        digest: stands for its content.
        epochs: trained here.
        seconds: that the training took.
        losses: mean total loss of the first and the last tenth of what was logged.
        finite: whether every logged loss was.
    """

    source: str
    file: str | None = None
    digest: str = ""
    epochs: int | None = None
    seconds: float | None = None
    losses: tuple[float, float] | None = None
    finite: bool = True


def get_weights(plan: Plan, name: str, say: Callable[[str], None]) -> Weights:
    """Take an encoder's checkpoint, or train it where the settings ask for that.

    An interrupted training is resumed; a finished one is not repeated.

    Raises:
        ValueError: the training failed.
    """
    settings = plan.settings
    if name in settings.checkpoints:
        path = settings.checkpoints[name]
        return Weights("checkpoint", str(path), file_digest(path))
    if settings.epochs is None:
        return Weights("none", digest=f"seed {settings.seed}")
    return train(plan, name, settings.epochs, say)


def train(plan: Plan, name: str, epochs: int, say: Callable[[str], None]) -> Weights:
    """Train the detector with one encoder by ``mim train mmdet``."""
    check_command()
    settings = plan.settings
    config = for_training(plan.configs[name], epochs, settings.seed)
    assert plan.data is not None
    folder = settings.out / "runs" / f"{name}_{digest([config.to_dict(), plan.data.digest])[:8]}"
    folder.mkdir(parents=True, exist_ok=True)
    done = folder / "done.json"
    if done.is_file():
        say("kept from before")
    else:
        config.dump(folder / "config.py")
        command = ["train", "mmdet", str(folder / "config.py"), "--work-dir", str(folder)]
        command += ["--gpus", "0" if settings.device == "cpu" else "1"]
        if (folder / "last_checkpoint").is_file():
            command.append("--resume")
            say("goes on after an interruption")
        start = time.perf_counter()
        run_mim(command, folder / "train.log")
        done.write_text(json.dumps({"seconds": time.perf_counter() - start}) + "\n")
    checkpoint = last_checkpoint(folder)
    losses = [float(record["loss"]) for record in read_scalars(folder) if "loss" in record]
    tenth = max(len(losses) // 10, 1)
    return Weights(
        source="trained",
        file=str(checkpoint),
        digest=file_digest(checkpoint),
        epochs=epochs,
        seconds=json.loads(done.read_text())["seconds"],
        losses=(sum(losses[:tenth]) / tenth, sum(losses[-tenth:]) / tenth) if losses else None,
        finite=all(isfinite(loss) for loss in losses),
    )


def load(config: Config, weights: Weights, device: str, seed: int) -> Any:
    """The detector with its weights, in evaluation mode."""
    with quiet():
        if weights.file is not None:
            return load_detector(config, weights.file, device)
        from mmdet.registry import MODELS

        model = config.model.copy()
        for key, value in (("init_cfg", None), ("weights", None)):  # nothing is downloaded
            if key in model.backbone:
                model.backbone[key] = value
        torch.manual_seed(seed)
        built = MODELS.build(model)
        built.init_weights()
        return built.eval().to(device)


def trained_ratio(model: Any) -> float | None:
    """Average keep ratio that a detector was trained at; None where it has none or does not say."""
    selector = getattr(model.encoder, "selector", None)
    ratios = None if selector is None else selector.trained_keep_ratio
    return None if ratios is None else sum(ratios) / len(ratios)
