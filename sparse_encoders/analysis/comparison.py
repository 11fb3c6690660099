"""Train and test selection strategies side by side, through MMDetection's own commands.

Every strategy trains on the same detector, data, schedule and seed by ``mim
train mmdet`` and is measured by ``mim test mmdet``: AP, Corr and foreground
recall. What differs is ``model.encoder`` alone.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import isfinite, nan
from pathlib import Path
from typing import Any

from mmengine.config import Config

from sparse_encoders.analysis.demo import run_mim

# names to configs and fragments below mmdet_configs
DETECTORS = {
    "one-stage": "deformable_detr/deformable_lite0_sparse_shapes.py",
    "two-stage": "deformable_detr/deformable_lite0_twostage_sparse_shapes.py",
    "dino": "dino/dino_lite0_sparse_shapes.py",
}
ENCODERS = {
    "dense": "dense",
    "sparse": "sparse",
    "dual-sparse": "dual_sparse",
    "focus": "focus_small",
    "random": "random",
    "oracle": "oracle_small",
}
REPORTED = {
    "AP": "coco/bbox_mAP",
    "Corr": "tokens/corr_all",
    "Corr top 10%": "tokens/corr_top10",
    "recall": "tokens/recall",
    "recall small": "tokens/recall_layer0_small",
    "recall medium": "tokens/recall_layer0_medium",
}


@dataclass(frozen=True)
class Comparison:
    """What is compared.

    Attributes:
        configs: the folder ``mmdet_configs``.
        data: folder of the shapes set (see ``tools/make_shapes_dataset.py``).
        work_dir: where runs, checkpoints and logs go.
        detectors: names of :data:`DETECTORS`.
        encoders: names of :data:`ENCODERS`.
        epochs: of each run, at least 1.
        seed: of each run.
        keep_ratio: of every selector, in (0, 1].

    Raises:
        ValueError: an unknown name, no data, fewer than one epoch.
    """

    configs: Path
    data: Path
    work_dir: Path
    detectors: Sequence[str] = tuple(DETECTORS)
    encoders: Sequence[str] = tuple(ENCODERS)
    epochs: int = 1
    seed: int = 0
    keep_ratio: float = 0.3

    def __post_init__(self) -> None:
        for name, given, known in (
            ("detectors", self.detectors, DETECTORS),
            ("encoders", self.encoders, ENCODERS),
        ):
            unknown = sorted(set(given) - set(known))
            if unknown or not given:
                raise ValueError(f"{name} must be some of {list(known)}, got {list(given)}")
        if self.epochs < 1:
            raise ValueError(f"epochs must be at least 1, got {self.epochs}")
        if not 0 < self.keep_ratio <= 1:
            raise ValueError(f"keep_ratio must lie in (0, 1], got {self.keep_ratio}")
        if not (self.data / "train.json").is_file():
            raise ValueError(f"data: there is no {self.data / 'train.json'}")


@dataclass(frozen=True)
class Row:
    """One run's outcome.

    Attributes:
        detector, encoder: names.
        first_loss, last_loss: mean total loss of the first and the last tenth.
        finite: whether every logged loss was.
        metrics: what the test run reported.
    """

    detector: str
    encoder: str
    first_loss: float
    last_loss: float
    finite: bool
    metrics: dict[str, float]


def describe(settings: Comparison, detector: str, encoder: str) -> Config:
    """The config of one run."""
    config = Config.fromfile(settings.configs / DETECTORS[detector])
    fragment = Config.fromfile(
        settings.configs / "_base_" / "encoders" / f"{ENCODERS[encoder]}.py"
    ).encoder.to_dict()
    if fragment["type"] == "DualAttentionEncoder":
        fragment["num_object_tokens"] = 60  # as focus_small.py
    if "selector" in fragment:
        fragment["selector"]["keep_ratio"] = settings.keep_ratio
    kept = {key: config.model.encoder[key] for key in ("num_layers", "layer_cfg")}
    config.model.encoder = {**kept, **fragment}
    config.coco_folder.root = str(settings.data.resolve())
    config.train_cfg.update(max_epochs=settings.epochs, val_interval=settings.epochs + 1)
    for scheduler in config.param_scheduler:
        if scheduler.get("by_epoch", True):
            scheduler.end = settings.epochs
    config.default_hooks.logger.interval = 1
    config.randomness = dict(seed=settings.seed)
    return config


def compare(settings: Comparison) -> Iterator[Row]:
    """Run each detector with each encoder; yields as they finish."""
    for detector in settings.detectors:
        for encoder in settings.encoders:
            yield run(settings, detector, encoder)


def run(settings: Comparison, detector: str, encoder: str) -> Row:
    """Train and test one combination; a finished run with the same config is not repeated."""
    folder = settings.work_dir / f"{detector}_{encoder}"
    folder.mkdir(parents=True, exist_ok=True)
    config, wanted = folder / "config.py", describe(settings, detector, encoder)
    done = list((folder / "test").glob("*/*.json"))
    if done and config.is_file() and _alike(Config.fromfile(config), wanted):
        return outcome(folder, detector, encoder)
    wanted.dump(config)
    train = ["train", "mmdet", str(config), "--work-dir", str(folder / "train"), "--gpus", "0"]
    run_mim(train, folder / "train.log")
    checkpoint = (folder / "train" / "last_checkpoint").read_text().strip()
    test = ["test", "mmdet", str(config), "--checkpoint", checkpoint]
    test += ["--work-dir", str(folder / "test"), "--gpus", "0"]
    run_mim(test, folder / "test.log")
    return outcome(folder, detector, encoder)


def _alike(one: Config, other: Config) -> bool:
    same = ("model", "coco_folder", "train_cfg", "randomness")
    return all(one.get(key) == other.get(key) for key in same)


def outcome(folder: Path, detector: str, encoder: str) -> Row:
    """What a finished run in ``folder`` logged and reported."""
    losses = logged_losses(folder / "train")
    tenth = max(len(losses) // 10, 1)
    return Row(
        detector,
        encoder,
        sum(losses[:tenth]) / tenth,
        sum(losses[-tenth:]) / tenth,
        all(isfinite(loss) for loss in losses),
        reported_metrics(folder / "test"),
    )


def logged_losses(work_dir: Path) -> list[float]:
    """Total loss of every logged step of the newest run below ``work_dir``.

    Raises:
        ValueError: nothing was logged.
    """
    logs = sorted(work_dir.glob("*/vis_data/scalars.json"))
    lines: list[dict[str, Any]] = (
        [json.loads(line) for line in logs[-1].read_text().splitlines()] if logs else []
    )
    losses = [float(line["loss"]) for line in lines if "loss" in line]
    if not losses:
        raise ValueError(f"{work_dir} holds no logged losses")
    return losses


def reported_metrics(work_dir: Path) -> dict[str, float]:
    """All numbers that the newest test run below ``work_dir`` wrote.

    Raises:
        ValueError: there are none.
    """
    files = sorted(work_dir.glob("*/*.json"), key=lambda path: path.stat().st_mtime)
    if not files:
        raise ValueError(f"{work_dir} holds no metrics")
    found: dict[str, Any] = json.loads(files[-1].read_text().splitlines()[-1])
    return {name: float(value) for name, value in found.items()}


def as_table(rows: Sequence[Row]) -> str:
    """Markdown, one line a run."""
    head = ["detector", "encoder", "loss, first tenth", "last tenth", "finite", *REPORTED]
    lines = ["| " + " | ".join(head) + " |", "|" + " --- |" * len(head)]
    for row in rows:
        values = [row.metrics.get(key, nan) for key in REPORTED.values()]
        cells = [row.detector, row.encoder, f"{row.first_loss:.2f}", f"{row.last_loss:.2f}"]
        cells += ["yes" if row.finite else "NO"]
        cells += [f"{value:.3f}" if isfinite(value) else "-" for value in values]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"
