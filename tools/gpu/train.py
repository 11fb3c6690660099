"""Run the demo for a minute with mixed precision."""

from __future__ import annotations

import json
import math
import sys
from functools import partial
from pathlib import Path
from typing import Any

from gpu import ROOT
from gpu.processes import LIMIT, run, tail
from gpu.settings import Cases, Settings
from sparse_encoders.analysis.mim import cause, read_scalars
from sparse_encoders.datasets import ShapesSettings, make_shapes_dataset

TRAINING_SECONDS = 75.0  # a minute of training and the start of the process
#: config options that train with each dtype
WRAPPERS = {
    "float16": ["optim_wrapper.type=AmpOptimWrapper", "optim_wrapper.loss_scale=dynamic"],
    "bfloat16": ["optim_wrapper.type=BFloat16OptimWrapper"],
}
_TINY = [
    "train_cfg.max_epochs=1",
    "train_dataloader.batch_size=2",
    "train_dataloader.num_workers=0",
    "train_dataloader.persistent_workers=False",
    "default_hooks.logger.interval=1",
    "model.num_queries=20",
    "model.test_cfg.max_per_img=20",
    "model.backbone.weights=None",
]


def plan(settings: Settings) -> Cases:
    """The demo in bfloat16 and, on a GPU, float16, which MMEngine does not train on a CPU."""
    dtypes = WRAPPERS if settings.on_gpu else ("bfloat16",)
    return {f"demo, {dtype}": partial(_train, dtype, settings) for dtype in dtypes}


def command_of(dtype: str, settings: Settings) -> list[str]:
    """Command line of the demo."""
    folder = settings.work / "train" / dtype
    data = _few_images(settings.work / "train" / "shapes") if settings.tiny else []
    return [
        *(sys.executable, str(ROOT / "tools" / "demo.py"), "--work-dir", str(folder)),
        *("--gpus", str(int(settings.on_gpu)), "--pictures", "0", *data),
        *("--cfg-options", *WRAPPERS[dtype], *(_TINY if settings.tiny else [])),
    ]


def _few_images(folder: Path) -> list[str]:
    """Draw six images; options of the demo that train on them."""
    make_shapes_dataset(folder, ShapesSettings(train=4, val=2, size=64))
    config = ROOT / "mmdet_configs" / "dino" / "dino_lite0_focus_shapes.py"
    return [
        *("--config", str(config), "--images", str(folder / "images")),
        *("--train-json", str(folder / "train.json"), "--val-json", str(folder / "val.json")),
    ]


def _train(dtype: str, settings: Settings) -> dict[str, Any]:
    """Train, on a GPU for a minute, and read the losses.

    Raises:
        ValueError: the demo failed, or a loss is NaN or infinite.
    """
    log = settings.work / "logs" / f"train_{dtype}.log"
    limit = TRAINING_SECONDS if settings.on_gpu else LIMIT
    status, output = 0, ""
    try:
        status, output = run(command_of(dtype, settings), log, seconds=limit)
    except TimeoutError:
        if not settings.on_gpu:
            raise
    if status:
        raise ValueError(f"the demo ended with status {status}: {cause(tail(output, 40))}")
    return losses_of(settings.work / "train" / dtype)


def losses_of(folder: Path) -> dict[str, Any]:
    """Read first and last loss, iterations, seconds an iteration, and AP50 if it was evaluated.

    Raises:
        ValueError: no loss was logged, or one is NaN or infinite.
    """
    rows = [row for row in read_scalars(folder) if "loss" in row]
    if not rows:
        raise ValueError(f"no loss was written in {folder}")
    if bad := [row["iter"] for row in rows if not math.isfinite(row["loss"])]:
        raise ValueError(f"the loss is NaN or infinite in iterations {bad}")
    result = {
        "iterations": rows[-1]["step"],
        "first_loss": rows[0]["loss"],
        "last_loss": rows[-1]["loss"],
        "seconds_an_iteration": rows[-1]["time"],
        "memory_mib": rows[-1].get("memory"),
    }
    evaluation = folder / "result.json"
    if evaluation.is_file():
        result["AP50"] = json.loads(evaluation.read_text())["metrics"]["coco/bbox_mAP_50"]
    return result


def line(result: dict[str, Any]) -> str:
    """Iterations, their time and the losses."""
    ap = f", AP50 {result['AP50']:.3f}" if "AP50" in result else ""
    return (
        f"{result['iterations']} iterations of {result['seconds_an_iteration'] * 1e3:.0f} ms, "
        f"loss {result['first_loss']:.2f} to {result['last_loss']:.2f}{ap}"
    )
