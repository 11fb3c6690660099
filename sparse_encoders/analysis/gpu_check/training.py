"""The demo for a minute with mixed precision."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from sparse_encoders.analysis.gpu_check.processes import run, tail
from sparse_encoders.analysis.gpu_check.settings import Settings
from sparse_encoders.analysis.mim import cause, read_scalars
from sparse_encoders.datasets import ShapesSettings, make_shapes_dataset

MINUTE = 75.0  # seconds, with the start of the process
#: how each dtype is trained: options of the config
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


def plan(settings: Settings) -> dict[str, Callable[[], dict[str, Any]]]:
    """float16 (which MMEngine trains on a GPU only) and bfloat16."""
    dtypes = WRAPPERS if settings.on_gpu else ("bfloat16",)
    return {f"demo, {dtype}": partial(_train, dtype, settings) for dtype in dtypes}


def command_of(dtype: str, settings: Settings) -> list[str]:
    """The demo's command; it is ended after a minute, so its test is not waited for."""
    folder = settings.work / "train" / dtype
    data = _few_images(settings) if settings.tiny else []
    return [
        *(sys.executable, str(settings.root / "tools" / "demo.py"), "--work-dir", str(folder)),
        *("--gpus", str(int(settings.on_gpu)), "--pictures", "0", *data),
        *("--cfg-options", *WRAPPERS[dtype], *(_TINY if settings.tiny else [])),
    ]


def _few_images(settings: Settings) -> list[str]:
    """Draw six pictures, and the demo's options for training its model on them."""
    folder = settings.work / "train" / "shapes"
    make_shapes_dataset(folder, ShapesSettings(train=4, val=2, size=64))
    config = settings.root / "mmdet_configs" / "dino" / "dino_lite0_focus_shapes.py"
    return [
        *("--config", str(config), "--images", str(folder / "images")),
        *("--train-json", str(folder / "train.json"), "--val-json", str(folder / "val.json")),
    ]


def _train(dtype: str, settings: Settings) -> dict[str, Any]:
    """Train; what the losses were.

    Raises:
        ValueError: it failed, or a loss is no number.
    """
    log = settings.work / "logs" / f"train_{dtype}.log"
    enough = MINUTE if settings.on_gpu else None
    status, output = run(command_of(dtype, settings), log, settings, enough=enough)
    if status:
        raise ValueError(f"the demo ended with status {status}: {cause(tail(output, 40))}")
    return losses_of(settings.work / "train" / dtype)


def losses_of(folder: Path) -> dict[str, Any]:
    """First and last loss, iterations and seconds of one, and AP50 where the test was reached.

    Raises:
        ValueError: no iteration, or a loss that is no number.
    """
    rows = [row for row in read_scalars(folder) if "loss" in row]
    wrong = [row["iter"] for row in rows if not math.isfinite(row["loss"])]
    if wrong or not rows:
        raise ValueError(f"no loss was written in {folder}" if not rows else f"no number: {wrong}")
    result = {
        "iterations": rows[-1]["step"],
        "first_loss": rows[0]["loss"],
        "last_loss": rows[-1]["loss"],
        "seconds_an_iteration": rows[-1]["time"],
        "memory_mib": rows[-1].get("memory"),
    }
    tested = folder / "result.json"
    if tested.is_file():
        result["AP50"] = json.loads(tested.read_text())["metrics"]["coco/bbox_mAP_50"]
    return result


def line(result: dict[str, Any]) -> str:
    """A result in words."""
    ap = f", AP50 {result['AP50']:.3f}" if "AP50" in result else ""
    return (
        f"{result['iterations']} iterations of {result['seconds_an_iteration'] * 1e3:.0f} ms, "
        f"loss {result['first_loss']:.2f} to {result['last_loss']:.2f}{ap}"
    )
